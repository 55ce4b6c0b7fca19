"""pyconc.shared in asyncio programs: tasks that wait for what threads and processes share."""

import asyncio
import contextlib
import gc
import os
import signal
import threading

import pytest
from loops import LOOP_FACTORIES, on_every_loop, on_loop
from support import HANG_LIMIT, await_line, finish, run_script, start_script, threads, wait_until, wait_until_asleep

import pyconc
from pyconc import shared

LOCKS = [shared.Lock, shared.RLock, shared.Condition]
MAKERS = {
    "Lock": shared.Lock,
    "RLock": shared.RLock,
    "Condition": shared.Condition,
    "Semaphore": shared.Semaphore,
}

each_lock = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


async def turn():
    """Lets every task run until it waits."""
    for _ in range(3):
        await asyncio.sleep(0)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def watches():
    return [name for name in threads().values() if name == "pyconc-watch"]


async def hold(lock, held, go):
    async with lock:
        held.set()
        await go.wait()


@contextlib.asynccontextmanager
async def held_by_another_task(lock):
    held, go = asyncio.Event(), asyncio.Event()
    task = asyncio.ensure_future(hold(lock, held, go))
    await held.wait()
    yield go
    go.set()
    await task


@contextlib.contextmanager
def held_by_a_thread(lock):
    """Yields what releases it."""
    held, go = threading.Event(), threading.Event()

    def work():
        with lock:
            held.set()
            go.wait(HANG_LIMIT)

    thread = threading.Thread(target=work)
    thread.start()
    held.wait(HANG_LIMIT)
    try:
        yield go
    finally:
        go.set()
        thread.join()


# ---- who has it ----


@each_lock
@on_every_loop
@on_loop
async def test_tasks_of_a_loop_have_it_one_after_the_other_as_they_came(new_loop, make):
    lock, inside, order = make(), [], []

    async def work(number):
        for _ in range(3):
            async with lock as taken:
                assert taken is True
                inside.append(number)
                order.append(number)
                await asyncio.sleep(0)
                assert inside.pop() == number
                assert not inside

    await asyncio.gather(*map(work, range(20)))
    assert order == [*range(20)] * 3
    await until(lambda: not watches())


@each_lock
@on_every_loop
@on_loop
async def test_what_is_free_costs_no_thread_and_no_turn_of_the_loop(new_loop, make):
    lock, passed = make(), []
    asyncio.get_running_loop().call_soon(passed.append, 1)
    before = threads()
    for _ in range(10):
        async with lock:
            pass
        assert await lock.async_acquire() is True
        lock.release()
    assert threads().keys() <= before.keys()
    assert not passed


@each_lock
@on_every_loop
@on_loop
async def test_a_task_waits_for_a_thread(new_loop, make):
    lock = make()
    with held_by_a_thread(lock) as go:
        assert await lock.async_acquire(timeout=0) is False
        assert await lock.async_acquire(timeout=0.001) is False
        waiting = asyncio.ensure_future(use(lock))
        await turn()
        assert not waiting.done()
        go.set()
        assert await waiting == "used"


@each_lock
@on_every_loop
@on_loop
async def test_a_thread_waits_for_a_task(new_loop, make):
    lock, taken = make(), []

    def work():
        with lock:
            taken.append(1)

    async with lock:
        thread = threading.Thread(target=work)
        thread.start()
        await turn()
        assert not taken
    await asyncio.to_thread(thread.join)
    assert taken


@on_every_loop
@on_loop
async def test_a_timeout_is_none_or_not_negative(new_loop):
    for lock in (shared.Lock(), shared.Semaphore()):
        with pytest.raises(ValueError, match="non-negative"):
            await lock.async_acquire(-1)
        with pytest.raises(TypeError):
            await lock.async_acquire("1")
        assert await lock.async_acquire(None)


def test_without_a_loop_there_is_nothing_to_wait_with():
    for call in (shared.Lock().async_acquire(), shared.Event().async_wait(), shared.Barrier(2).async_wait()):
        with pytest.raises(RuntimeError, match="no running event loop"):
            call.send(None)


# ---- an RLock is a task's ----


@on_every_loop
@on_loop
async def test_a_task_enters_its_rlock_again_and_no_other_does(new_loop):
    lock = shared.RLock()
    async with lock, lock:
        assert await lock.async_acquire()
        other = asyncio.ensure_future(lock.async_acquire())
        await turn()
        assert not other.done()  # they are of one thread
        assert await lock.async_acquire()  # also while others wait
        lock.release()
        lock.release()
        with pytest.raises(RuntimeError, match="un-acquired"):
            await asyncio.ensure_future(release(lock))
        other.cancel()
    assert not lock.locked()


async def release(lock):
    lock.release()


@on_every_loop
@on_loop
async def test_a_task_enters_what_it_has_also_by_acquire(new_loop):
    lock = shared.RLock()
    async with lock:
        assert lock.acquire()
        lock.release()
        assert await asyncio.ensure_future(try_to_acquire(lock)) is False
    assert not lock.locked()


async def try_to_acquire(lock):
    return lock.acquire(False)


@on_every_loop
@on_loop
async def test_what_a_thread_has_is_no_tasks(new_loop):
    lock = shared.RLock()
    with lock:
        assert await lock.async_acquire(timeout=0) is False
        waiting = asyncio.ensure_future(lock.async_acquire())
        await turn()
        assert not waiting.done()
    await waiting
    with pytest.raises(RuntimeError, match="un-acquired"):
        lock.release()  # a task had it that has ended


@on_every_loop
@on_loop
async def test_any_code_of_the_thread_releases_a_lock(new_loop):
    lock = shared.Lock()
    await asyncio.ensure_future(lock.async_acquire())
    waiting = asyncio.ensure_future(lock.async_acquire())
    await turn()
    lock.release()
    assert await waiting
    with pytest.raises(RuntimeError, match="only the thread"):
        await asyncio.to_thread(lock.release)
    lock.release()


# ---- who does not wait any more ----


@each_lock
@on_every_loop
@on_loop
async def test_who_is_cancelled_in_its_turn_passes_that_on(new_loop, make):
    lock = make()
    async with lock:
        first, second = (asyncio.ensure_future(use(lock)) for _ in range(2))
        await turn()
    assert has_a_turn(lock)  # it is the first one's from here on
    first.cancel()
    assert await second == "used"
    assert first.cancelled()


async def use(lock):
    async with lock:
        return "used"


def has_a_turn(lock):
    from pyconc.shared import _async

    cell = getattr(lock, "_lock", lock)
    lines = [_async._find(asyncio.get_running_loop(), cell, what) for what in (0, 1)]
    return any(line is not None and line._turn is not None for line in lines)


@each_lock
@on_every_loop
@on_loop
async def test_the_last_that_is_cancelled_lets_a_thread_have_it(new_loop, make):
    lock, taken = make(), threading.Event()

    def work():
        with lock:
            taken.set()

    async with held_by_another_task(lock) as go:
        task = asyncio.ensure_future(use(lock))
        await turn()
        thread = threading.Thread(target=work)  # it waits behind the task, or comes later
        thread.start()
        go.set()
        await turn()
        task.cancel()
        assert await asyncio.to_thread(taken.wait, HANG_LIMIT)
        thread.join()


@each_lock
@on_every_loop
@on_loop
async def test_a_loop_that_stands_still_holds_up_nobody(new_loop, make):
    lock = make()
    with held_by_a_thread(lock) as go:
        task = asyncio.ensure_future(use(lock))
        await turn()
        got = threading.Event()
        other = threading.Thread(target=lambda: lock.acquire() and (got.set(), lock.release()))
        other.start()
        go.set()
        assert got.wait(HANG_LIMIT)  # this thread runs no loop meanwhile
        other.join()
    assert await task == "used"


@each_lock
@on_every_loop
@on_loop
async def test_random_cancels_lose_nothing(new_loop, make):
    lock, inside = make(), []

    async def work(number):
        for turns in range(30):
            task = asyncio.ensure_future(once())
            for _ in range((number * 7 + turns) % 11):
                await asyncio.sleep(0)
            if (number + turns) % 3:
                task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() or task.exception() is None

    async def once():
        async with lock:
            inside.append(1)
            try:
                await asyncio.sleep(0)
                assert len(inside) == 1
            finally:
                inside.pop()

    await asyncio.gather(*map(work, range(8)))
    assert await lock.async_acquire(timeout=0)


@each_lock
@on_every_loop
@on_loop
async def test_a_task_that_nobody_refers_to_is_not_collected(new_loop, make):
    lock, done = make(), []

    async def work():
        async with lock:
            done.append(1)

    async with held_by_another_task(lock):
        asyncio.ensure_future(work())  # noqa: RUF006
        await turn()
        gc.collect()
    await until(lambda: done)


@pytest.mark.parametrize("keeps_task", [True, False])
@each_lock
@on_every_loop
def test_a_loop_that_is_closed_drops_those_that_wait(new_loop, make, keeps_task):
    lock = make()
    loop = new_loop()
    tasks = []
    with held_by_a_thread(lock):

        async def main():
            tasks.extend(asyncio.ensure_future(use(lock)) for _ in range(3))
            await turn()
            await until(watches)
            for task in tasks:
                task._log_destroy_pending = False

        loop.run_until_complete(main())
        loop.close()
        if not keeps_task:
            tasks.clear()
            gc.collect()
        wait_until(lambda: not watches(), "its thread to end")  # though the lock is still held
    assert lock.acquire(timeout=HANG_LIMIT)
    lock.release()
    tasks.clear()
    del loop
    gc.collect()


@on_every_loop
@on_loop
async def test_there_is_a_thread_for_each_object_and_none_afterwards(new_loop):
    event, locks = shared.Event(), [shared.Semaphore(0) for _ in range(5)]
    waiting = [asyncio.ensure_future(lock.async_acquire()) for lock in locks for _ in range(20)]
    waiting += [asyncio.ensure_future(event.async_wait()) for _ in range(20)]
    await turn()
    await until(lambda: len(watches()) == 6)
    event.set()
    for lock in locks:
        lock.release(20)
    assert all(await asyncio.gather(*waiting))
    await until(lambda: not watches())


# ---- death ----


@pytest.fixture(scope="module")
def pool():
    with pyconc.ProcessPoolExecutor(max_workers=2) as pool:
        pool.submit(int).result()
        yield pool


@pytest.mark.parametrize("kind", LOCKS)
@on_every_loop
@on_loop
async def test_a_dead_process_releases_its_lock_and_the_task_is_told(new_loop, kind):
    lock = kind()

    async def get():
        async with lock:
            return lock.abandoned

    async with held_by_a_process(lock) as pid:
        waiting = [asyncio.ensure_future(get()) for _ in range(3)]
        await turn()
        os.kill(pid, signal.SIGKILL)
        assert await asyncio.gather(*waiting) == [pid, None, None]


@contextlib.asynccontextmanager
async def held_by_a_process(lock):
    """Yields its number; it has to be killed."""
    held, pid = shared.Event(), shared.Value("i")
    async with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        pool.submit(note_and_pause, lock, held, pid)
        assert await held.async_wait(HANG_LIMIT)
        yield pid.value


def note_and_pause(lock, held, pid):
    pid.value = os.getpid()
    lock.acquire()
    held.set()
    signal.pause()


@on_every_loop
@on_loop
async def test_a_task_can_have_it_raised(new_loop):
    lock = shared.Lock(on_abandoned="raise")
    async with held_by_a_process(lock) as pid:
        waiting = [asyncio.ensure_future(use(lock)) for _ in range(2)]
        await turn()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(pyconc.LockAbandoned):
            await waiting[0]
        assert await waiting[1] == "used"


@pytest.mark.parametrize("make", [shared.Lock, shared.Semaphore])
def test_a_process_that_dies_while_its_tasks_wait_holds_up_nobody(make):
    lock, waits, pid, taken = make(), shared.Event(), shared.Value("i"), []
    lock.acquire()
    with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        pool.submit(wait_in_a_task, lock, waits, pid)
        assert waits.wait(HANG_LIMIT)
        thread = threading.Thread(target=lambda: taken.append(lock.acquire(timeout=HANG_LIMIT)))
        thread.start()
        os.kill(pid.value, signal.SIGKILL)
        lock.release()
        thread.join()
    assert taken == [True]


def wait_in_a_task(lock, waits, pid):
    pid.value = os.getpid()

    async def main():
        asyncio.get_running_loop().call_soon(waits.set)
        await lock.async_acquire()
        await asyncio.Event().wait()

    asyncio.run(main())


# ---- events, conditions, barriers ----


@on_every_loop
@on_loop
async def test_an_event_wakes_all_that_waited_when_it_was_set_and_no_others(new_loop):
    event = shared.Event()
    waiting = [asyncio.ensure_future(event.async_wait()) for _ in range(50)]
    await turn()
    event.set()
    event.clear()
    late = asyncio.ensure_future(event.async_wait(timeout=0.02))
    assert await asyncio.gather(*waiting) == [True] * 50
    assert await late is False
    event.set()
    assert await event.async_wait(0) is True


@on_every_loop
@on_loop
async def test_an_event_is_set_by_a_process(new_loop, pool):
    event, back = shared.Event(), shared.Event()
    answered = pool.submit(answer, event, back)
    for _ in range(20):
        event.set()
        assert await back.async_wait(HANG_LIMIT)
        back.clear()
    await asyncio.to_thread(answered.result)


def answer(event, back):
    for _ in range(20):
        event.wait(60)
        event.clear()
        back.set()


async def wait_for_notification(condition, woken=None, timeout=None):
    async with condition:
        notified = await condition.async_wait(timeout)
        if woken is not None:
            woken.append(asyncio.current_task())
        return notified


@pytest.mark.parametrize("kind", [shared.RLock, shared.Lock])
@on_every_loop
@on_loop
async def test_a_condition_lets_as_many_go_on_as_it_is_told(new_loop, kind):
    condition, woken = shared.Condition(kind()), []
    waiting = [asyncio.ensure_future(wait_for_notification(condition, woken)) for _ in range(6)]
    await turn()
    for count in (2, 1):
        before = len(woken)
        async with condition:
            condition.notify(count)
        await until(lambda: len(woken) == before + count)  # noqa: B023
    await turn()
    assert len(woken) == 3
    async with condition:
        condition.notify_all()
    assert await asyncio.gather(*waiting) == [True] * 6
    assert await wait_for_notification(condition, timeout=0.001) is False


@on_every_loop
@on_loop
async def test_a_condition_is_the_tasks_that_holds_its_lock(new_loop):
    condition = shared.Condition()
    with pytest.raises(RuntimeError, match="un-acquired"):
        await condition.async_wait()
    async with condition:
        with pytest.raises(RuntimeError, match="un-acquired"):
            await asyncio.ensure_future(condition.async_wait())
        with pytest.raises(RuntimeError, match="un-acquired"):
            await asyncio.ensure_future(notify(condition))


async def notify(condition):
    condition.notify()


@on_every_loop
@on_loop
async def test_a_condition_that_is_entered_twice_is_so_after_a_wait(new_loop):
    condition = shared.Condition()

    async def work():
        async with condition, condition:
            assert await condition.async_wait()
        assert not condition._lock._is_owned()

    waiting = asyncio.ensure_future(work())
    await turn()
    async with condition:
        condition.notify()
    await waiting


@on_every_loop
@on_loop
async def test_who_is_cancelled_has_the_conditions_lock_and_takes_no_notification(new_loop):
    condition, seen = shared.Condition(), []

    async def work():
        async with condition:
            try:
                await condition.async_wait()
            except asyncio.CancelledError:
                seen.append(condition._lock._is_owned())
                raise

    first = asyncio.ensure_future(work())
    await turn()
    second = asyncio.ensure_future(wait_for_notification(condition))
    await turn()
    async with condition:
        condition.notify()
        first.cancel()
        await turn()
        assert not first.done()  # it has to have the lock first
        first.cancel()
    assert await second is True
    await asyncio.wait([first])
    assert first.cancelled()
    assert seen == [True]


@on_every_loop
@on_loop
async def test_a_condition_passes_turns_between_a_task_and_a_process(new_loop, pool):
    condition, ball = shared.Condition(), shared.Value("i")
    other = pool.submit(pass_ball, condition, ball, 100)
    for _ in range(100):
        async with condition:
            assert await condition.async_wait_for(lambda: ball.value == 0, HANG_LIMIT)
            ball.value = 1
            condition.notify()
    await asyncio.to_thread(other.result)


def pass_ball(condition, ball, times):
    for _ in range(times):
        with condition:
            assert condition.wait_for(lambda: ball.value == 1, 60)
            ball.value = 0
            condition.notify()


@on_every_loop
@on_loop
async def test_a_barrier_is_passed_by_tasks_and_a_process(new_loop, pool):
    ran = shared.Counter()
    barrier = shared.Barrier(4, action=ran.add)
    for number in range(1, 11):
        other = pool.submit(barrier.wait, 60)
        places = await asyncio.gather(*[barrier.async_wait() for _ in range(3)])
        assert sorted([*places, await asyncio.to_thread(other.result)]) == [0, 1, 2, 3]
        assert ran.value == number


@on_every_loop
@on_loop
async def test_a_barrier_breaks_for_all_when_one_has_waited_too_long(new_loop):
    barrier = shared.Barrier(3)
    patient = asyncio.ensure_future(barrier.async_wait())
    for wait in (barrier.async_wait(timeout=0.001), patient, barrier.async_wait()):
        with pytest.raises(threading.BrokenBarrierError):
            await wait
    barrier.reset()
    assert not barrier.broken
    waiting = asyncio.ensure_future(barrier.async_wait())
    await turn()
    barrier.abort()
    with pytest.raises(threading.BrokenBarrierError):
        await waiting


@on_every_loop
@on_loop
async def test_who_is_cancelled_was_never_at_the_barrier(new_loop):
    barrier = shared.Barrier(2)
    gone = asyncio.ensure_future(barrier.async_wait())
    await turn()
    assert barrier.n_waiting == 1
    gone.cancel()
    await asyncio.wait([gone])
    assert barrier.n_waiting == 0
    assert sorted(await asyncio.gather(barrier.async_wait(), barrier.async_wait())) == [0, 1]


# ---- many of them ----


def add_under(lock, value, times):
    for _ in range(times):
        with lock:
            value.value += 1


async def add_in_tasks(lock, value, tasks, times):
    async def work():
        for _ in range(times):
            async with lock:
                now = value.value
                await asyncio.sleep(0)
                value.value = now + 1

    await asyncio.gather(*[work() for _ in range(tasks)])


def add_in_a_loop(lock, value, tasks, times, kind):
    loop = LOOP_FACTORIES[kind]()
    try:
        loop.run_until_complete(add_in_tasks(lock, value, tasks, times))
    finally:
        loop.close()


@each_lock
def test_loops_in_threads_and_processes_and_blocking_code_exclude_each_other(make):
    lock, value = make(), shared.Value("q", lock=False)
    kinds = [*LOOP_FACTORIES, "asyncio"]
    with pyconc.ProcessPoolExecutor(2) as pool, pyconc.ThreadPoolExecutor(4) as loops:
        others = [pool.submit(add_under, lock, value, 200), pool.submit(add_in_a_loop, lock, value, 10, 10, kinds[-2])]
        others += [loops.submit(add_in_a_loop, lock, value, 10, 10, kind) for kind in kinds]
        others += [loops.submit(add_under, lock, value, 200)]
        for other in others:
            other.result()
    assert value.value == 500 + 100 * len(kinds)


@pytest.mark.slow
@each_lock
def test_a_storm_of_cancels_and_kills_loses_nothing(make):
    """Loops in processes that are killed at random, and cancels and time-outs in all."""
    run_script(
        """
        import asyncio, os, random, signal, sys, time
        from pyconc import shared

        lock = getattr(shared, sys.argv[1])()
        mortal = not isinstance(lock, shared.Semaphore)  # permits die with those who have them
        inside = shared.Value("q", lock=False)

        def enter():
            before = inside.exchange(os.getpid())
            assert before == 0 or mortal and lock.abandoned is not None, before

        async def use():
            async with lock:
                enter()
                try:
                    await asyncio.sleep(0)
                finally:
                    inside.value = 0

        async def use_soon():
            if await lock.async_acquire(timeout=0.0005):
                enter()
                inside.value = 0
                lock.release()

        async def work(dice, rounds):
            for _ in range(rounds):
                task = asyncio.ensure_future(use() if dice.random() < 0.7 else use_soon())
                for _ in range(dice.randrange(8)):
                    await asyncio.sleep(0)
                if dice.random() < 0.3:
                    task.cancel()
                await asyncio.wait([task])
                assert task.cancelled() or task.exception() is None, task

        async def churn(rounds):
            await asyncio.gather(*[work(random.Random(os.getpid() + i), rounds) for i in range(6)])

        def start():
            pid = os.fork()
            if pid == 0:
                asyncio.run(churn(10**9 if mortal else 300))
                os._exit(0)
            return pid

        dice = random.Random(5)
        children = [start(), start()]
        for _ in range(60 if mortal else 0):
            time.sleep(dice.random() * 0.02)
            os.kill(children[0], signal.SIGKILL)
            assert os.waitstatus_to_exitcode(os.waitpid(children.pop(0), 0)[1]) == -signal.SIGKILL
            children.append(start())
        if mortal:
            os.kill(children.pop(), signal.SIGKILL)
        asyncio.run(churn(200))
        if mortal:
            os.kill(children[0], signal.SIGKILL)
        else:
            assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
        assert asyncio.run(lock.async_acquire(timeout=60))
        """,
        next(name for name, value in MAKERS.items() if value is make),
    )


# ---- forks, exits, systems ----


def test_the_child_of_a_fork_has_nobody_waiting_and_takes_nothing_from_its_parent():
    finished = run_script(
        """
        import asyncio, gc, os
        from pyconc import shared

        lock, event = shared.Lock(), shared.Event()

        async def child():
            task = asyncio.ensure_future(lock.async_acquire())
            await asyncio.sleep(0)
            assert not task.done()
            event.set()
            assert await task
            lock.release()

        async def main():
            await lock.async_acquire()
            tasks = [asyncio.ensure_future(use()) for _ in range(3)] + [asyncio.ensure_future(event.async_wait())]
            await asyncio.sleep(0.01)
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    asyncio.events._set_running_loop(None)
                    for task in tasks:
                        task._log_destroy_pending = False
                    del tasks, task
                    gc.collect()
                    asyncio.run(child())
                    status = 0
                finally:
                    os._exit(status)
            await tasks[3]
            lock.release()
            await asyncio.gather(*tasks)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

        async def use():
            async with lock:
                pass

        asyncio.run(main())
    """,
        flags=("-W", "ignore::DeprecationWarning"),
    )
    assert finished.stderr == ""  # nothing was raised where nobody sees it


@pytest.mark.parametrize("end", ["pass", "os._exit(0)"])
@on_every_loop
def test_an_interpreter_exits_though_tasks_wait(new_loop, end):
    finished = run_script(f"""
        import asyncio, os, threading
        from pyconc import shared

        loop = asyncio.new_event_loop()
        if {new_loop is not asyncio.new_event_loop}:
            import uvloop
            loop = uvloop.new_event_loop()
        lock, event = shared.Lock(), shared.Event()
        held = threading.Event()
        thread = threading.Thread(target=lambda: (lock.acquire(), held.set(), event.wait()), daemon=True)
        thread.start()
        held.wait()

        async def main():
            global tasks
            tasks = [asyncio.ensure_future(wait) for wait in (lock.async_acquire(), event.async_wait())]
            await asyncio.sleep(0.01)
            for task in tasks:
                task._log_destroy_pending = False

        loop.run_until_complete(main())
        print("waiting", flush=True)
        {end}
    """)
    assert finished.stdout == "waiting\n"


def test_ctrl_c_ends_a_program_that_waits():
    with start_script("""
        import asyncio
        from pyconc import shared

        async def main():
            asyncio.get_running_loop().call_soon(lambda: print("waiting", flush=True))
            await shared.Event().async_wait()

        asyncio.run(main())
    """) as process:
        await_line(process, process.stdout, "waiting")
        wait_until_asleep(process)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in finish(process).stderr


def test_where_the_kernel_cannot_wait_for_two_words_it_works_too():
    """As in a sandbox, or before Linux 5.16."""
    run_script("""
        import asyncio, ctypes, os, struct, threading
        from pyconc import shared

        FUTEX_WAITV, ENOSYS = 449, 38
        program = b"".join(struct.pack("HBBI", *each) for each in [
            (0x20, 0, 0, 0),  # the system call's number
            (0x15, 0, 1, FUTEX_WAITV),
            (0x06, 0, 0, 0x00050000 | ENOSYS),
            (0x06, 0, 0, 0x7FFF0000),
        ])
        buffer = ctypes.create_string_buffer(program)
        fprog = struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        if libc.prctl(22, 2, ctypes.c_char_p(fprog), 0, 0) != 0:
            raise SystemExit(0)  # no such filters here

        async def main():
            lock, semaphore, event = shared.Lock(), shared.Semaphore(0), shared.Event()
            await lock.async_acquire()
            waiting = [asyncio.ensure_future(wait.async_acquire()) for wait in (lock, semaphore)]
            waiting.append(asyncio.ensure_future(event.async_wait()))
            gone = asyncio.ensure_future(shared.Event().async_wait())
            await asyncio.sleep(0)
            assert len(os.listdir("/proc/self/task")) == 5
            gone.cancel()
            while len(os.listdir("/proc/self/task")) > 4:
                await asyncio.sleep(0.001)
            for release in (lock.release, semaphore.release, event.set):
                release()
            await asyncio.gather(*waiting)
            while len(os.listdir("/proc/self/task")) > 1:
                await asyncio.sleep(0.001)

        asyncio.run(main())
    """)


@pytest.mark.parametrize("what", ["lock", "event"])
@on_every_loop
@on_loop
async def test_no_thread_can_be_started(new_loop, what, monkeypatch):
    def refuse(*args):
        raise RuntimeError("can't start new thread")

    from pyconc import _core

    lock, event = shared.Lock(), shared.Event()
    await lock.async_acquire()
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="new thread"):
        patched.setattr(_core, "SharedWatch", refuse)
        await (lock.async_acquire() if what == "lock" else event.async_wait())
    waiting = asyncio.ensure_future(lock.async_acquire())
    await turn()
    lock.release()
    assert await waiting
