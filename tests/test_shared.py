"""pyconc.shared: objects that processes share, how they travel, and what the death of a process does to them."""

import asyncio
import ctypes
import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time
import types
import warnings
from multiprocessing import sharedctypes

import pytest
from support import (
    HANG_LIMIT,
    PROC,
    SANITIZED,
    THOUSAND,
    await_line,
    finish,
    more_rounds,
    run_script,
    start_script,
    wait_until,
    wait_until_asleep,
)

import pyconc
from pyconc import shared

METHODS = ["fork", pytest.param("forkserver", marks=pytest.mark.slow), "spawn"]

LOCKS = [shared.Lock, shared.RLock]

MAKERS = {
    "Lock": shared.Lock,
    "RLock": lambda: shared.RLock(on_abandoned="raise"),
    "Semaphore": lambda: shared.Semaphore(3),
    "BoundedSemaphore": lambda: shared.BoundedSemaphore(3),
    "Event": shared.Event,
    "Condition": shared.Condition,
    "Condition of a lock": lambda: shared.Condition(shared.Lock()),
    "Barrier": lambda: shared.Barrier(3, timeout=5),
    "Value": lambda: shared.Value("d", 1.5),
    "Counter": lambda: shared.Counter(3),
    "List": lambda: shared.List([3]),
    "Dict": lambda: shared.Dict(a=3),
    "Array": lambda: shared.Array("i", [3, 4]),
    "Queue": lambda: shared.Queue(3),
}


def change(thing):
    """Does something to an object that the other side can see."""
    match thing:
        case shared.Lock() | shared.RLock():
            thing.acquire()
        case shared.Semaphore():
            thing.acquire()
        case shared.Event():
            thing.set()
        case shared.Condition():
            thing.acquire()
        case shared.Barrier():
            thing.abort()
        case shared.Value() | shared.Counter():
            thing.add(7)
        case shared.List():
            thing.append("x" * 1000)
        case shared.Dict():
            thing["b"] = "x" * 1000
        case shared.Array():
            thing[1] = 7
        case shared.Queue():
            thing.put("x" * 1000)
    return os.getpid()


def look(thing):
    match thing:
        case shared.Lock() | shared.RLock() | shared.Condition():
            return thing.acquire(False) if isinstance(thing, shared.Lock) else thing.locked()
        case shared.Semaphore():
            return thing.get_value()
        case shared.Event():
            return thing.is_set()
        case shared.Barrier():
            return thing.broken
        case shared.Value() | shared.Counter():
            return thing.value
        case shared.List() | shared.Dict():
            return thing.copy()
        case shared.Array():
            return thing[:]
        case shared.Queue():
            return thing.qsize(), thing.maxsize


def change_and_wait(things, done, go):
    for thing in things:
        change(thing)
    done.set()
    go.wait()


CHANGED = {
    "Semaphore": 2,
    "BoundedSemaphore": 2,
    "Lock": False,
    "Value": 8.5,
    "Counter": 10,
    "List": [3, "x" * 1000],
    "Array": [3, 7],
    "Dict": {"a": 3, "b": "x" * 1000},
    "Queue": (1, 3),
}


# ---- how they travel ----


@pytest.mark.parametrize("method", METHODS)
def test_a_process_of_multiprocessing_has_them(method):
    things = {name: make() for name, make in MAKERS.items()}
    done, go = shared.Event(), shared.Event()
    process = multiprocessing.get_context(method).Process(
        target=change_and_wait, args=(list(things.values()), done, go)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork where there are threads
        process.start()
    try:
        assert done.wait(60)
        assert {name: look(thing) for name, thing in things.items()} == {
            name: CHANGED.get(name, True) for name in things
        }
    finally:
        go.set()
        process.join()
    assert process.exitcode == 0


_initial = None


def initialize(thing):
    global _initial
    _initial = thing


def change_initial():
    change(_initial)
    return _initial


def make(name):
    return MAKERS[name]()


@pytest.fixture(scope="module")
def pool():
    """A worker that was started before any object was made."""
    with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        pool.submit(int).result()
        yield pool


@pytest.mark.parametrize("name", MAKERS)
def test_a_worker_that_is_there_already_has_it(pool, name):
    thing = MAKERS[name]()
    pool.submit(change, thing).result()
    assert look(thing) == CHANGED.get(name, True)


@pytest.mark.parametrize("name", MAKERS)
def test_what_a_worker_makes_is_a_result(pool, name):
    thing = pool.submit(make, name).result()
    assert type(thing) is type(MAKERS[name]())
    pool.submit(change, thing).result()
    assert look(thing) == CHANGED.get(name, True)


@pytest.mark.parametrize("name", [*MAKERS, "Ref"])
def test_what_pickle_refuses_it_is_not_asked_for(pool, name, monkeypatch):
    thing, asked = MAKERS[name]() if name != "Ref" else shared.share([1]), []
    monkeypatch.setattr(type(thing), "__reduce_ex__", lambda *args: asked.append(args), raising=False)
    pool.submit(bool, thing).result()
    pool.submit(dict, a=[(thing,)]).result()
    if not isinstance(thing.__repr__, types.MethodWrapperType):  # as that of Python 3.10's Barrier, which is object's
        pool.submit(thing.__repr__).result()
    assert list(pool.map(bool, [thing, thing]))
    assert asked == []


def test_an_initializer_has_it():
    counter = shared.Counter(3)
    with pyconc.ProcessPoolExecutor(1, initializer=initialize, initargs=(counter,)) as pool:
        same = pool.submit(change_initial).result()
    assert counter.value == same.value == 10


def test_threads_have_the_object_itself():
    counter = shared.Counter()
    with pyconc.ThreadPoolExecutor(2) as pool:
        assert pool.submit(lambda thing: thing, counter).result() is counter


async def add(counter):
    return counter.add(1)


def test_coroutines_in_workers_have_it():
    counter = shared.Counter()

    async def main():
        async with pyconc.CoroutinePool(1) as pool:
            return await asyncio.gather(*[pool.run(add, counter) for _ in range(5)])

    assert sorted(asyncio.run(main())) == [0, 1, 2, 3, 4]
    assert counter.value == 5


def count(counter, times):
    for _ in range(times):
        counter.add(1)


def test_bound_methods_and_containers_of_them_travel(pool):
    counter = shared.Counter()
    assert pool.submit(counter.add, 5).result() == 0
    assert pool.submit(count, *[counter, 3]).result() is None
    both = pool.submit(tuple, [counter, counter]).result()
    assert both[0] is both[1]
    assert both[0].value == 8


def test_a_fork_inherits_it_and_keeps_it_when_the_parent_drops_it():
    run_script("""
        import os
        from pyconc import shared

        lock, go, counter = shared.Lock(), shared.Event(), shared.Counter(5)
        pid = os.fork()
        if pid == 0:
            go.wait()
            os._exit(counter.value)
        del counter
        shared.Counter(6)  # would have the same memory
        go.set()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    """)


@pytest.mark.parametrize("name", MAKERS)
def test_other_pickles_are_refused(name):
    if name == "Barrier":
        with pytest.raises(TypeError):
            pickle.dumps(MAKERS[name]())
        return
    with pytest.raises(TypeError, match="and in no other pickle"):
        pickle.dumps(MAKERS[name]())


class Named(shared.Lock):
    """A program's own."""


def test_a_subclass_travels_too(pool):
    lock = Named()
    lock.name = "mine"
    assert type(pool.submit(tuple, [lock]).result()[0]) is Named


def test_objects_give_their_memory_back(pool):
    def used():
        return shared._memory.heap().used()

    gc.collect()  # what other tests have left
    shared.Lock()
    before = used()
    for name in MAKERS:
        thing = MAKERS[name]()
        assert used() > before
        pool.submit(repr, thing).result()
        del thing
        pool.submit(int).result()  # the worker has dropped the arguments of the task before
        wait_until(lambda: used() == before, "the memory to be given back")


def touch(things):
    return sum(thing.value for thing in things)


@pytest.mark.parametrize(("objects", "pools"), [(20, 3), pytest.param(200, 50, marks=pytest.mark.slow)])
def test_many_objects_and_many_pools_leave_nothing(objects, pools):
    used = shared._memory.heap().used
    gc.collect()  # what other tests have left
    things = [shared.Counter(1) for _ in range(objects // 2)]
    lists = [shared.List([thing]) for thing in things]
    before = used()
    for _ in range(pools):
        with pyconc.ProcessPoolExecutor(2) as executor:
            assert list(executor.map(touch, [things, *lists])) == [len(things), *[1] * len(lists)]
    wait_until(lambda: used() <= before, "what the workers had to be given back")


@pytest.mark.skipif(SANITIZED, reason="the sanitizer needs all addresses")
def test_a_limit_of_addresses_is_no_hindrance_until_they_are_used_up():
    run_script("""
        import resource
        import pyconc
        import pytest
        from pyconc import shared

        def fill(items, table, q, count, n):
            items.append(n)
            table[n] = n
            q.put(n)
            return count.add(n)

        if __name__ == "__main__":
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (128 << 20),) * 2)
            things = items, table, q, count = shared.List(), shared.Dict(), shared.Queue(), shared.Counter()
            with pyconc.ProcessPoolExecutor(2) as pool:
                for done in [pool.submit(fill, *things, n) for n in range(100)]:
                    done.result()
            held = []
            with pytest.raises(MemoryError):
                while True:
                    held.append(shared.Array("B", 4 << 20))
            with pytest.raises(MemoryError):
                while True:
                    items.append(bytes(1 << 20))
            del held, items[100:]
            assert sum(items) == sum(table.values()) == sum(q.get() for _ in range(100)) == count.value == 4950
            items.append(bytes(1 << 20))
    """)


# ---- as threading has it ----


def outcome(function, *args):
    try:
        return function(*args)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("arguments", [(False,), (True, 0), (True, 0.001), (False, 1), (True, -2), (True, 1e100)])
def test_acquire_takes_what_threading_takes(arguments):
    for ours, standard in [(shared.Lock(), threading.Lock()), (shared.RLock(), threading.RLock())]:
        assert outcome(ours.acquire, *arguments) == outcome(standard.acquire, *arguments)
    lock, standard = shared.Lock(), threading.Lock()
    lock.acquire(), standard.acquire()
    assert outcome(lock.acquire, *arguments) == outcome(standard.acquire, *arguments)


@pytest.mark.parametrize("permits", [0, 1])
@pytest.mark.parametrize("arguments", [(False,), (True, 0), (True, 0.001), (False, -1), (True, -1), (True, -2.5)])
def test_a_semaphore_takes_what_threading_takes(arguments, permits):
    ours, standard = shared.Semaphore(permits), threading.Semaphore(permits)
    assert outcome(ours.acquire, *arguments) == outcome(standard.acquire, *arguments)
    assert ours.get_value() == standard._value


def test_as_many_are_notified_as_there_are():
    for condition in (shared.Condition(), threading.Condition()):
        with condition:
            for count in (-1, 0, 1, 2**31):
                assert condition.notify(count) is None


@pytest.mark.parametrize("make", [shared.Lock, shared.RLock, shared.Semaphore])
def test_acquire_refuses_other_arguments(make):
    lock = make()
    for args, keywords, why in [
        ((True, 1, 2), {}, r"acquire\(\) takes at most 2 arguments \(3 given\)"),
        ((), {"block": True, "blocking": True}, "unexpected keyword argument 'blocking'"),
        ((True,), {"block": True}, "multiple values for argument 'block'"),
        ((), {"wait": 1}, "unexpected keyword argument 'wait'"),
        ((True, "1"), {}, "must be real number, not str"),
    ]:
        with pytest.raises(TypeError, match=why):
            lock.acquire(*args, **keywords)
    assert lock.acquire(block=True, timeout=None)


def test_releasing_what_is_not_held():
    for ours, standard in [(shared.Lock(), threading.Lock()), (shared.RLock(), threading.RLock())]:
        assert outcome(ours.release) == outcome(standard.release)


def test_only_its_thread_releases_a_lock():
    for kind in LOCKS:
        with kind() as _:
            pass
        lock = kind()
        lock.acquire()
        with pyconc.ThreadPoolExecutor(1) as threads, pytest.raises(RuntimeError):
            threads.submit(lock.release).result()
        lock.release()


def test_a_wait_lets_other_threads_run():
    lock, event, semaphore = shared.Lock(), shared.Event(), shared.Semaphore(0)
    lock.acquire()
    with pyconc.ThreadPoolExecutor(3) as threads:
        waits = [threads.submit(wait) for wait in (event.wait, semaphore.acquire, lock.acquire)]
        event.set()
        semaphore.release()
        lock.release()
        assert [wait.result() for wait in waits] == [True, True, True]


@pytest.mark.parametrize("code", "cbBhHiIlLqQfd?")
def test_values_are_those_of_ctypes(code):
    standard = ctypes.c_bool() if code == "?" else sharedctypes.typecode_to_type[code]()
    value = shared.Value(code)
    assert value.value == standard.value
    tried = [b"x", bytearray(b"y"), 65, True] if code == "c" else [0, 1, -1, 200, 70_000, 2**40, -(2**63)]
    for number in tried:
        value.value = standard.value = number
        assert value.value == standard.value
        assert type(value.value) is type(standard.value)
        assert value.compare_exchange(standard.value, standard.value) or standard.value != standard.value
    for wrong in ["x", None, *([b"xy", bytearray(2), 256, -1, 2**70] if code == "c" else [])]:
        if code != "?":
            with pytest.raises(TypeError):
                standard.value = wrong
            with pytest.raises(TypeError):
                value.value = wrong


def test_integers_go_round_and_floats_add():
    value = shared.Value("h", 32767)
    assert (value.add(1), value.value) == (32767, -32768)
    value = shared.Value("d", 0.5)
    assert (value.add(), value.add(-2), value.value) == (0.5, 1.5, -0.5)
    with pytest.raises(TypeError):
        shared.Value("c").add(1)
    with pytest.raises(TypeError, match="bad typecode"):
        shared.Value("xy")


def test_a_value_s_lock_is_one_in_all_processes(pool):
    value = shared.Value("i", 0)
    assert value.get_lock() is value.get_lock()
    with pytest.raises(AttributeError):
        shared.Value("i", lock=False).get_lock()
    with value:
        assert not pool.submit(try_lock_of, value).result()
    assert pool.submit(try_lock_of, value).result()


def try_lock_of(value):
    lock = value.get_lock()
    got = lock.acquire(False)
    if got:
        lock.release()
    return got


def test_a_value_may_have_another_lock(pool):
    lock = shared.Lock()
    one, two = shared.Value(ctypes.c_int, 1, lock=lock), shared.Value(ctypes.c_bool, lock=lock)
    with one.get_lock():
        assert not pool.submit(try_lock_of, two).result()
        assert not two.acquire(False)
    assert (one.get_lock(), one.get_obj().value, two.get_obj().value) == (lock, 1, False)
    assert isinstance(shared.Value("i", lock=None).get_lock(), shared.RLock)
    assert not any(hasattr(shared.Value("i", lock=False), name) for name in ("get_lock", "acquire", "release"))
    with pytest.raises(AttributeError, match="acquire"):
        shared.Value("i", lock="no lock")


def increment_under(lock, value, times):
    for _ in range(times):
        with lock:
            value.value += 1


@pytest.mark.parametrize("make_lock", [*LOCKS, shared.Condition, lambda: shared.Semaphore(1)])
def test_processes_exclude_each_other(make_lock):
    lock, value = make_lock(), shared.Value("q")
    with pyconc.ProcessPoolExecutor(2) as two:
        done = [two.submit(increment_under, lock, value, 3000) for _ in range(2)]
        increment_under(lock, value, 3000)
        for each in done:
            each.result()
    assert value.value == 9000


def test_processes_count_without_a_lock():
    counter = shared.Counter()
    with pyconc.ProcessPoolExecutor(2) as two:
        done = [two.submit(count, counter, 20_000) for _ in range(2)]
        for each in done:
            each.result()
    assert counter.value == 40_000


def pass_ball(condition, turn, me, times):
    for _ in range(times):
        with condition:
            assert condition.wait_for(lambda: turn.value == me, 60)
            turn.value = 1 - me
            condition.notify()


def test_a_condition_passes_turns_between_processes(pool):
    condition, turn = shared.Condition(), shared.Value("i")
    other = pool.submit(pass_ball, condition, turn, 1, 300)
    pass_ball(condition, turn, 0, 300)
    other.result()
    for call in (condition.wait, condition.notify, condition.notify_all):
        with pytest.raises(RuntimeError, match="un-acquired"):
            call()


def test_a_barrier_goes_round(pool):
    barrier, ran = shared.Barrier(2), shared.Counter()
    barrier = shared.Barrier(2, action=ran.add)
    for _ in range(20):
        other = pool.submit(barrier.wait, 60)
        assert sorted([barrier.wait(60), other.result()]) == [0, 1]
    assert ran.value == 20


# ---- death ----


def hold_and_die(lock):
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def hold_until(lock, held, go):
    lock.acquire()
    held.set()
    go.wait()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("kind", LOCKS)
def test_a_dead_process_releases_its_lock_and_the_next_is_told(kind):
    lock = kind()
    with pyconc.ProcessPoolExecutor(1) as pool:
        died = pool.submit(hold_and_die, lock).exception()
    with lock:
        assert lock.abandoned == died.pid
    assert lock.abandoned is None
    with lock:
        assert lock.abandoned is None


@pytest.mark.parametrize("kind", LOCKS)
def test_who_sleeps_for_the_lock_gets_it(kind):
    lock, held, go = kind(), shared.Event(), shared.Event()
    with pyconc.ProcessPoolExecutor(1) as pool, pyconc.ThreadPoolExecutor(1) as threads:
        death = pool.submit(hold_until, lock, held, go)
        assert held.wait(60)

        def wait():
            with lock:
                return lock.abandoned

        waiting = threads.submit(wait)
        go.set()
        assert waiting.result() == death.exception().pid


@pytest.mark.parametrize("kind", LOCKS)
def test_a_lock_tells_who_holds_it(kind):
    lock, held, go = kind(), shared.Event(), shared.Event()
    assert lock.owner is None
    with pyconc.ProcessPoolExecutor(1) as pool:
        death = pool.submit(hold_until, lock, held, go)
        assert held.wait(60)
        owner = lock.owner
        go.set()
        assert death.exception().pid == owner
    assert lock.owner is None
    with lock:
        assert lock.owner == os.getpid()
    assert lock.owner is None


def test_a_lock_can_raise_instead():
    lock = shared.Lock(on_abandoned="raise")
    with pyconc.ProcessPoolExecutor(1) as pool:
        died = pool.submit(hold_and_die, lock).exception()
    with pytest.raises(pyconc.LockAbandoned, match=f"a thread of process {died.pid} ended") as caught, lock:
        pass
    assert caught.value.pid == died.pid
    assert not lock.locked()
    with lock:
        assert lock.abandoned is None
    with pytest.raises(ValueError, match="on_abandoned"):
        shared.Lock(on_abandoned="ignore")


def test_the_end_of_a_thread_releases_its_lock():
    lock = shared.Lock()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    with lock:
        assert lock.abandoned == os.getpid()


def test_the_exit_of_an_interpreter_releases_its_lock():
    lock = shared.Lock()
    process = multiprocessing.get_context("spawn").Process(target=lock.acquire)
    process.start()
    process.join()
    with lock:
        assert lock.abandoned == process.pid


def test_the_child_of_a_fork_does_not_hold_its_parent_s_lock():
    run_script("""
        import os
        from pyconc import shared

        lock, rlock = shared.Lock(), shared.RLock()
        with rlock:
            try:
                with lock:
                    pid = os.fork()
                    if pid:
                        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
                    else:
                        assert not lock.acquire(False) and not rlock.acquire(False) and lock.locked()
            except RuntimeError as error:
                assert pid == 0, error
                os._exit(3)
            assert lock.acquire(False)
    """)


def wait_on(condition, waits):
    with condition:
        waits.release()
        condition.wait()


def test_a_dead_waiter_keeps_no_notification(pool):
    condition, waits = shared.Condition(), shared.Semaphore(0)
    with pyconc.ProcessPoolExecutor(1) as doomed:
        lost = doomed.submit(wait_on, condition, waits)
        assert waits.acquire(timeout=60)
        living = pool.submit(wait_on, condition, waits)
        assert waits.acquire(timeout=60)
        with condition:  # both have released it, in order to wait
            for pid in list(doomed._processes):
                os.kill(pid, signal.SIGKILL)
        assert isinstance(lost.exception(), pyconc.WorkerDied)
        with condition:
            condition.notify()
        living.result()


WAITS = {
    "lock": ("lock = shared.Lock(); threading.Thread(target=hold, daemon=True).start(); held.wait()", "lock.acquire()"),
    "semaphore": ("semaphore = shared.Semaphore(0)", "semaphore.acquire()"),
    "event": ("event = shared.Event()", "event.wait()"),
    "condition": ("condition = shared.Condition(); condition.acquire()", "condition.wait()"),
    "barrier": ("barrier = shared.Barrier(2)", "barrier.wait()"),
}
# What has become of it then, if not True.
AFTER_CTRL_C = {"condition": "condition.locked()", "barrier": "(barrier.n_waiting, barrier.broken) == (0, False)"}


@pytest.mark.parametrize("name", WAITS)
def test_ctrl_c_ends_a_wait(name):
    before, wait = WAITS[name]
    script = f"""
        import threading
        from pyconc import shared

        held = threading.Event()
        def hold():
            lock.acquire()
            held.set()
            threading.Event().wait()

        {before}
        print("waiting", flush=True)
        try:
            {wait}
        except KeyboardInterrupt:
            print("interrupted", {AFTER_CTRL_C.get(name, True)})
    """
    with start_script(script) as process:
        await_line(process, process.stdout, "waiting")
        wait_until_asleep(process)
        process.send_signal(signal.SIGINT)
        assert "interrupted True" in finish(process).stdout


def test_nothing_is_left_of_a_program_that_is_killed():
    script = r"""
        import os, re, signal
        import pyconc
        from pyconc import shared

        def hold(lock):
            lock.acquire()
            return os.getpid()

        if __name__ == "__main__":
            pool = pyconc.ProcessPoolExecutor(1)
            lock, other = shared.Lock(), shared.Lock()
            pid = pool.submit(hold, lock).result()
            other.acquire()
            with open("/proc/self/maps") as ours, open(f"/proc/{pid}/maps") as theirs:
                print("mapped:", *re.findall(r"/dev/shm/\S+", ours.read() + theirs.read()), flush=True)
            os.kill(pid, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    with start_script(script) as process:
        assert await_line(process, process.stdout, "mapped:") == "mapped:\n"
        process.wait(HANG_LIMIT)
    assert not {name for name in os.listdir("/dev/shm") if "pyconc" in name}


# ---- a storm ----


STORM = """
    import os, random, signal, sys, time
    from pyconc import shared

    # Two words that are equal whenever the lock is free, but after a death with it; a semaphore of one; an event.
    lock, one, two = shared.Lock(), shared.Value("q"), shared.Value("q")
    permits, rounds, event = shared.Semaphore(1), shared.Counter(), shared.Event()
    condition, ready = shared.Condition(), shared.Counter()

    def work():
        while True:
            with lock:
                if lock.abandoned is None:
                    assert one.value == two.value
                one.value = two.value = one.value + 1
                rounds.add(1)
            event.set()
            with condition:
                condition.notify()
                condition.wait(0.001)
            event.wait()
            event.clear()
            event.set()

    def start():
        pid = os.fork()
        if pid == 0:
            try:
                work()
            finally:
                os._exit(1)
        return pid

    random.seed(int(sys.argv[2]))
    workers = [start() for _ in range(4)]
    for _ in range(int(sys.argv[1])):
        seen = rounds.value
        victim = random.randrange(4)
        for _ in range(random.randrange(30_000)):
            pass
        os.kill(workers[victim], signal.SIGKILL)
        status = os.waitpid(workers[victim], 0)[1]
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, status
        workers[victim] = start()
        # Those that live go on.
        assert lock.acquire(timeout=60), "nobody releases the lock"
        lock.release()
        assert event.wait(60)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with lock:
        pass
    with condition:
        condition.notify_all()
    assert rounds.value > 0
    # The memory of the dead is found free, that of one which was killed before it ran after 16 forks.
    for _ in range(16):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    del one, two, permits, event, condition, ready
    print("used", shared._memory.heap().used())
"""


@pytest.mark.parametrize("rounds", [30, pytest.param(THOUSAND, marks=more_rounds)])
def test_a_storm_of_deaths_stops_nobody(rounds):
    finished = run_script(STORM, rounds, int(time.time()) % 1000, limit=240)
    assert "used 2" in finished.stdout, finished  # the lock and the counter


def test_where_proc_is_there_for_a_late_worker():
    """What the tests above rely on, and what is said where it is not so."""
    if PROC != "/proc":
        pytest.skip("/proc is empty here")
    fd = shared._memory.heap().fileno()
    with pytest.raises(RuntimeError, match="cannot be had of process"):
        shared._memory._heap_of_process(1, os.getpid(), 100_000 + fd)
    assert shared._memory._heap_of_process(shared._memory.heap().identity, os.getpid(), fd) is shared._memory.heap()
