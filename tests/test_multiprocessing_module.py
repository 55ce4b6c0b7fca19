"""pyconc.multiprocessing: the standard module with pyconc's pools, and what these do where the standard ones hang."""

import concurrent.futures
import gc
import itertools
import multiprocessing
import multiprocessing.dummy
import multiprocessing.pool
import os
import queue
import signal
import threading
import warnings
from concurrent.futures import BrokenExecutor, CancelledError
from concurrent.futures.process import BrokenProcessPool

import jobs
import pytest
from gates import Gate, ProcessGate
from support import await_line, finish, run_script, start_script, wait_until, wait_until_asleep

import pyconc
from pyconc import multiprocessing as ours

# pytest's hang guard is a thread, and where fork is the platform's start method these pools fork all the same.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")

both = pytest.mark.parametrize("make", [ours.Pool, ours.pool.ThreadPool], ids=["processes", "threads"])


@pytest.fixture
def end():
    """Terminates the pools that are made by it, and waits for their ends."""
    pools = []

    def keep(pool):
        pools.append(pool)
        return pool

    yield keep
    while pools:
        pools[-1].terminate()
        pools.pop().join()


# --- The module -------------------------------------------------------------------------------------------------------


def test_every_name_is_the_standard_one_but_for_five():
    changed = {name for name in multiprocessing.__all__ if getattr(ours, name) != getattr(multiprocessing, name)}
    assert changed == {"Array", "Manager", "Pool", "Value", "get_context"}
    assert ours.__all__ == multiprocessing.__all__
    assert set(dir(multiprocessing)) <= set(dir(ours))


def test_star_import():
    namespace = {}
    exec("from pyconc.multiprocessing import *", namespace)
    assert namespace.keys() - {"__builtins__"} == set(multiprocessing.__all__)
    assert namespace["Pool"] is ours.Pool


def test_submodules():
    for name in ("queues", "shared_memory", "connection"):
        assert getattr(ours, name) is getattr(multiprocessing, name)
    assert ours.managers.BaseManager is multiprocessing.managers.BaseManager
    names = [name for name in dir(multiprocessing.pool) if name != "__all__" and not name.startswith("__")]
    changed = {name for name in names if getattr(ours.pool, name) is not getattr(multiprocessing.pool, name)}
    results = {"ApplyResult", "AsyncResult", "IMapIterator", "IMapUnorderedIterator", "MapResult"}
    assert changed - {"wait", "get_context"} == {"Pool", "ThreadPool", *results}
    names = set(dir(multiprocessing.dummy)) - {"Pool"}
    assert {name for name in names if name[:2] != "__" and getattr(ours.dummy, name, None) is None} == set()


@pytest.mark.parametrize("module", [ours, ours.pool, ours.dummy])
def test_an_unknown_name_is_an_error_of_this_module(module):
    with pytest.raises(AttributeError, match=rf"module '{module.__name__}' has no attribute 'nonsense'"):
        module.nonsense  # noqa: B018


def test_importing_it_loads_no_pool():
    run_script(
        """
        import sys
        from pyconc import multiprocessing
        assert "multiprocessing.pool" not in sys.modules and "pyconc.process_pool" not in sys.modules
        from pyconc.multiprocessing.pool import Pool, ThreadPool
        from pyconc.multiprocessing.dummy import Pool as OfThreads
        import pyconc.multiprocessing.dummy
        assert pyconc.multiprocessing is multiprocessing
        """
    )


@pytest.mark.parametrize("method", ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_context_makes_pyconcs_pool_whose_workers_it_starts(method, end):
    context = ours.get_context(method)
    assert context is ours.get_context(method)
    assert isinstance(context, type(multiprocessing.get_context(method)))
    assert context.get_start_method() == method
    assert context.get_context() is context
    assert context.get_context("fork") is ours.get_context("fork")
    of_this_process.append(method)
    pool = end(context.Pool(2))
    of_this_process.clear()
    assert isinstance(pool, ours.pool.Pool)
    method_in_worker, inherited = pool.apply(look)
    assert inherited == ([method] if method == "fork" else [])
    assert method_in_worker == method
    with pytest.raises(ValueError, match="nonsense"):
        context.get_context("nonsense")


of_this_process = []  # what only a fork has


def look():
    return multiprocessing.get_start_method(), of_this_process


def test_the_start_method_that_is_set_is_the_pools():
    finished = run_script(
        """
        from pyconc import multiprocessing

        if __name__ == "__main__":
            multiprocessing.set_start_method("spawn")
            with multiprocessing.Pool(1, maxtasksperchild=1) as pool:
                print(multiprocessing.get_context().get_start_method(), pool.apply(multiprocessing.get_start_method))
        """
    )
    assert finished.stdout == "spawn spawn\n"


@both
def test_pools_and_results_are_instances_of_the_standard_classes(make, end):
    pool = end(make(1))
    assert isinstance(pool, multiprocessing.pool.Pool)
    assert isinstance(pool, multiprocessing.pool.ThreadPool) == (make is not ours.Pool)
    assert isinstance(pool.apply_async(int), multiprocessing.pool.AsyncResult)
    assert isinstance(pool.map_async(abs, []), multiprocessing.pool.MapResult)
    assert isinstance(pool.imap(abs, []), multiprocessing.pool.IMapIterator)
    assert isinstance(pool.imap_unordered(abs, []), multiprocessing.pool.IMapUnorderedIterator)


def test_dummy_makes_a_pool_of_threads(end):
    pool = end(ours.dummy.Pool(2))
    assert type(pool) is ours.pool.ThreadPool
    assert pool.apply(threading.get_ident) != threading.get_ident()


def test_the_number_of_workers_is_that_of_the_cpus_by_default(end):
    cpus = pyconc.ProcessPoolExecutor()._max_workers
    assert len(end(ours.pool.ThreadPool())._pool) == cpus
    assert len(end(ours.Pool())._pool) == cpus


def test_programs_share_globals_with_a_pool_by_a_fork_though_they_have_threads():
    if multiprocessing.get_context().get_start_method() != "fork":
        pytest.skip("fork is not the platform's start method on this version")
    finished = run_script(
        """
        import threading, warnings
        from pyconc import multiprocessing

        def read(_):
            return data

        if __name__ == "__main__":
            data, end = "what only a fork has", threading.Event()
            thread = threading.Thread(target=end.wait)
            thread.start()
            warnings.simplefilter("ignore")
            with multiprocessing.Pool(1) as pool:
                print(pool.map(read, [0]))
            end.set()
        """
    )
    assert finished.stdout == "['what only a fork has']\n"


# --- Values and arrays ------------------------------------------------------------------------------------------------


def test_values_and_arrays_are_shared_ones_if_they_have_a_lock_and_no_pointer():
    # In a program of its own: multiprocessing's memory stays open.
    run_script(
        """
        import ctypes
        from pyconc import multiprocessing, shared

        def error_of(make, *args, **options):
            try:
                make(*args, **options)
            except Exception as error:
                return type(error)

        for module in (multiprocessing, multiprocessing.get_context("spawn")):
            lock = module.Lock()
            value, array = module.Value("i", 5, lock=lock), module.Array(ctypes.c_double, (1, 2))
            assert (type(value), type(array)) == (shared.Value, shared.Array)
            assert (value.value, value.get_lock(), array[:]) == (5, lock, [1, 2])
            assert type(module.Value("i", lock=None).get_lock()) is shared.RLock
            assert type(module.Value("i", 5, lock=False)) is ctypes.c_int
            assert isinstance(module.Array("i", 3, lock=False), ctypes.Array)
            assert type(module.Value(ctypes.c_char_p).get_obj()) is ctypes.c_char_p
            assert error_of(module.Value, "nonsense") is error_of(module.Array, "i", ["a"]) is TypeError
            assert error_of(module.Value, "i", 1, 2) is TypeError
            assert error_of(module.Value, "i", lock=0) is AttributeError
        """
    )


def hold(array, holds):
    array.acquire()
    array[0] = 7
    holds.send(os.getpid())
    signal.pause()


def test_who_is_killed_with_the_lock_of_an_array_holds_nobody_up():
    array = ours.Array("i", 2)
    held, holds = ours.Pipe(duplex=False)
    with held, holds:
        process = ours.get_context("fork").Process(target=hold, args=(array, holds))
        process.start()
        try:
            pid = held.recv()
            lock = array.get_lock()
            assert not lock.acquire(block=False)
        finally:
            process.kill()
            process.join()
    assert lock.acquire(block=True, timeout=None)
    assert (lock.abandoned, array[:]) == (pid, [7, 0])
    lock.release()


def test_raw_values_go_to_workers_as_they_begin_and_no_other_way():
    # In a program of its own, as the one above.
    run_script(
        """
        from pyconc import multiprocessing

        if __name__ == "__main__":
            count, numbers = multiprocessing.RawValue("i"), multiprocessing.RawArray("d", [1, 2])
            begin = "count.value += 1; numbers[1] += 1", {"count": count, "numbers": numbers}
            for method in multiprocessing.get_all_start_methods():
                count.value, numbers[1] = 0, 0
                with multiprocessing.get_context(method).Pool(1, exec, begin, maxtasksperchild=1) as pool:
                    pool.apply(abs, (1,))
                    pool.apply(abs, (1,))  # by another worker
                    assert min(count.value, numbers[1]) >= 2, method
                    refused = pool.apply_async(abs, (count,))
                    refused.wait()
                    assert not refused.successful()
        """
    )


# --- Where the standard pool hangs ------------------------------------------------------------------------------------


class Understated(list):
    def __len__(self):
        return 3


@pytest.mark.parametrize("chunksize", [1, 2])
def test_an_iterable_that_has_more_items_than_its_length_says(end, chunksize):
    pool = end(ours.pool.ThreadPool(1))
    assert pool.map(abs, Understated(range(9)), chunksize)[:3] == [0, 1, 2]


def test_a_worker_that_dies_costs_its_call_an_exception(end):
    pool, errors = end(ours.Pool(2)), []
    with ProcessGate() as gate:
        other = pool.apply_async(jobs.hold, (gate, "other"))
        gate.wait_started()
        result = pool.apply_async(os._exit, (3,), error_callback=errors.append)
        with pytest.raises(pyconc.WorkerDied) as error:
            result.get()
        assert errors == [error.value]
        assert type(error.value.__cause__) is multiprocessing.pool.RemoteTraceback
        with pytest.raises(pyconc.WorkerDied):
            pool.map(os._exit, [0], 1)
        results = pool.imap(os._exit, [4])
        with pytest.raises(pyconc.WorkerDied):
            next(results)
        assert pool.apply(abs, (-1,)) == 1
        gate.open()
        assert other.get() == "other"


def fail():
    raise LookupError("initializer")


@both
def test_an_initializer_that_raises_fails_every_call(make, end, caplog):
    pool = end(make(1, fail))
    with pytest.raises(BrokenExecutor):
        pool.apply_async(abs, (1,)).get()
    for use in (lambda: pool.map(abs, [1]), lambda: list(pool.imap(abs, iter([1]))), lambda: pool.apply(abs, (1,))):
        with pytest.raises(BrokenExecutor, match="initializer failed"):
            use()
    pool.close()


def test_what_has_not_ended_when_the_pool_is_terminated_raises():
    pool, called = ours.Pool(1), []
    with ProcessGate() as gate:
        held = pool.apply_async(gate, error_callback=called.append)
        queued = pool.apply_async(abs, (1,), callback=called.append, error_callback=called.append)
        plain = pool.apply_async(abs, (1,))
        mapped = pool.map_async(abs, range(1000), 1, error_callback=called.append)
        results, endless = pool.imap(abs, [1, 2]), pool.imap(abs, iter(int, 1))
        gate.wait_started()
        pool.terminate()
        pool.join()
    for result in (held, queued, plain, mapped):
        with pytest.raises((CancelledError, BrokenProcessPool)):
            result.get()
        assert (result.ready(), result.successful()) == (True, False)
    for iterator in (results, endless):
        for _ in range(2):
            with pytest.raises((CancelledError, BrokenProcessPool)):
                next(iterator)
    with pytest.raises(StopIteration):
        next(results)
    assert called == []


def test_what_the_program_has_made_itself_raises_when_the_pool_is_terminated():
    pool = ours.Pool(1)
    with ProcessGate() as gate:
        single, results = multiprocessing.pool.ApplyResult(pool, None, None), multiprocessing.pool.IMapIterator(pool)
        pool._taskqueue.put(([(single._job, 0, gate, (), {})], None))
        gate.wait_started()
        endless = ((results._job, number, abs, (number,), {}) for number in itertools.count())
        pool._taskqueue.put((endless, results._set_length))
        wait_until(lambda: pool._taskqueue.qsize() == 128)  # the thread that reads is as far ahead as it may be
        pool.terminate()
        pool.join()
    with pytest.raises((CancelledError, BrokenProcessPool)):
        single.get()
    with pytest.raises((CancelledError, BrokenProcessPool)):
        list(results)


def test_a_pool_does_not_list_its_own_results(end):
    pool = end(ours.Pool(1))
    with pytest.raises(TypeError):
        list(pool._cache)
    with pytest.raises(KeyError):
        pool._cache[0]


class Ending:
    """Terminates a pool when it is pickled."""

    pool = None

    def __reduce__(self):
        Ending.pool.terminate()
        return int, ()


@pytest.mark.parametrize("count", [1, 200])
def test_a_pool_that_is_terminated_while_a_call_is_submitted(end, count):
    Ending.pool = pool = end(ours.Pool(1))
    with pytest.raises(CancelledError):
        pool.map(abs, [Ending()] * count, 1)
    Ending.pool = None


def test_a_pool_of_threads_that_is_terminated_leaves_running_calls_alone():
    pool, asks = ours.pool.ThreadPool(1), queue.SimpleQueue()
    with Gate() as gate:
        held = pool.apply_async(gate)
        gate.wait_started()
        queued = pool.apply_async(abs, (1,))
        waiting = pool.imap(abs, iter(asks.get, None))
        pool.terminate()
        with pytest.raises(CancelledError):
            queued.get()
        with pytest.raises(CancelledError):
            next(waiting)
        assert not held.ready()
        gate.open()
        assert held.get() == ()
    pool.join()
    asks.put(None)


@both
def test_an_exception_of_a_callback_is_logged(make, end, caplog):
    pool, seen = end(make(1)), []

    def stumble(value):
        raise LookupError(value)

    result = pool.apply_async(abs, (-1,), callback=stumble)
    assert result.get() == 1
    assert pool.map_async(abs, [-1], callback=seen.append).get() == [1] == seen[0]
    [record] = caplog.records
    assert record.getMessage().startswith("exception calling callback for <pyconc.multiprocessing.pool.ApplyResult")
    assert record.exc_info[0] is LookupError


@both
def test_a_pool_that_is_terminated_has_no_thread(make):
    before = threading.active_count()
    pool, seen = make(1), []
    result = pool.apply_async(abs, (-1,), callback=seen.append)
    assert result.get() == 1 == seen[0]
    assert threading.active_count() > before
    pool.terminate()
    if make is not ours.Pool:
        pool.join()
    assert threading.active_count() == before
    pool.join()


@both
def test_an_iterable_that_waits_holds_up_no_other_call(make, end):
    pool, asks = end(make(1)), queue.SimpleQueue()
    waiting = pool.imap(abs, iter(asks.get, None))
    assert pool.apply(abs, (-1,)) == 1
    assert list(pool.imap(abs, iter([-1]))) == [1]
    asks.put(-5)
    assert next(waiting) == 5
    asks.put(None)
    with pytest.raises(StopIteration):
        next(waiting)


@both
def test_several_threads_share_an_iterator(make, end):
    results, taken = end(make(2)).imap(abs, range(1000)), queue.SimpleQueue()
    threads = [threading.Thread(target=lambda: [taken.put(result) for result in results]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken.get() for _ in range(taken.qsize())) == list(range(1000))


@both
def test_an_iterable_is_read_no_further_than_the_workers_need(make, end):
    read = []

    def numbers():
        for number in range(10**6):
            read.append(number)
            yield number

    pool = make(1)
    with ProcessGate() if make is ours.Pool else Gate() as gate:
        held = pool.apply_async(gate)
        gate.wait_started()
        results = pool.imap(abs, numbers())
        wait_until(lambda: len(read) == 129, "the thread to wait for room")
        gate.open()
        held.get()
        for _ in range(64):
            next(results)
        pool.terminate()
        pool.join()


@both
def test_results_of_a_pool_that_is_gone(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        pool = make(1)
        results = pool.imap(abs, iter(range(300)))
        lists = [pool.map_async(abs, range(300), 1), pool.apply_async(list, (range(300),), callback=len)]
        del pool
        gc.collect()
    assert list(results) == list(range(300))
    assert [each.get() for each in lists] == [list(range(300))] * 2


def test_exceptions_do_not_keep_what_they_were_raised_for(end):
    class Kept:
        pass

    import weakref

    pool, kept = end(ours.pool.ThreadPool(1)), Kept()

    def refuse(kept):
        raise LookupError

    gone = weakref.ref(kept)
    gc.disable()
    try:
        with pytest.raises(LookupError):
            pool.apply_async(refuse, (kept,), error_callback=id).get()
        with pytest.raises(LookupError):
            pool.map(refuse, [kept])
        with pytest.raises(LookupError):
            next(pool.imap(refuse, [kept]))
        del kept
        wait_until(lambda: gone() is None, "the argument to go")
    finally:
        gc.enable()


# --- Processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [None, "fork", "spawn"])
def test_a_daemonic_worker_has_pools(method):
    finished = run_script(
        f"""
        import multiprocessing as standard
        from pyconc import multiprocessing

        def nest(depth):
            if depth == 0:
                return standard.current_process().daemon
            with multiprocessing.get_context({method!r}).Pool(1) as pool:
                return pool.map(nest, [depth - 1])

        if __name__ == "__main__":
            with standard.get_context("fork").Pool(1) as pool:
                print(pool.apply(nest, (2,)))
        """
    )
    assert finished.stdout == "[[False]]\n"


def test_the_child_of_a_fork_finds_a_pool_empty_and_usable():
    finished = run_script(
        """
        import multiprocessing as standard
        import os, sys
        from pyconc import multiprocessing

        def use():
            print(pool.map(abs, [-1, -2]), list(pool.imap(abs, iter([-3]))), flush=True)

        if __name__ == "__main__":
            pool = multiprocessing.get_context("fork").Pool(1)
            use()
            process = standard.get_context("fork").Process(target=use)
            process.start()
            process.join()
            pid = os.fork()
            if pid == 0:
                use()
                sys.exit()
            os.waitpid(pid, 0)
            pool.close()
            pool.join()
        """
    )
    assert finished.stdout == "[1, 2] [3]\n" * 3


HANGS = """
import os, signal, sys, threading
from pyconc import multiprocessing
from pyconc.multiprocessing.pool import ThreadPool

def hang(what):
    os.write(1, f"{what} hangs\\n".encode())
    threading.Event().wait()

def use(make, what):
    pool = make(1)
    pool.apply_async(hang, (what,))
    return pool
"""


@pytest.mark.parametrize("make", ["multiprocessing.Pool", "ThreadPool"])
@pytest.mark.parametrize("state", ["", ".close()"])
def test_the_end_of_the_program_does_not_wait_for_a_pool(make, state):
    with start_script(
        HANGS
        + f"""
if __name__ == "__main__":
    pool = use({make}, "it")
    pool{state}
    sys.stdin.readline()
    print("ends", flush=True)
""",
        stdin=-1,
        flags=("-W", "ignore::ResourceWarning"),  # which debug builds show
    ) as process:
        await_line(process, process.stdout, "it hangs")
        process.stdin.write("\n")
        process.stdin.flush()
        await_line(process, process.stdout, "ends")
        finished = finish(process)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_the_programs_threads_use_a_pool_after_its_last_line():
    finished = run_script(
        """
        import threading
        from pyconc import multiprocessing

        def use():
            threading.main_thread().join()
            print(pool.map(abs, [-1, -2]), pool.apply_async(abs, (-3,)).get())

        if __name__ == "__main__":
            pool = multiprocessing.Pool(1)
            threading.Thread(target=use).start()
        """,
        flags=("-W", "ignore::ResourceWarning"),  # which debug builds show
    )
    assert (finished.stdout, finished.stderr) == ("[1, 2] 3\n", "")


@pytest.mark.parametrize("call", ["map(hang, ['it'])", "apply(hang, ('it',))", "imap(hang, ['it']).next()"])
def test_ctrl_c_ends_a_program_that_waits(call):
    with start_script(
        HANGS
        + f"""
if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        pool.{call}
"""
    ) as process:
        await_line(process, process.stdout, "it hangs")
        wait_until_asleep(process)
        os.killpg(process.pid, signal.SIGINT)
        finished = finish(process)
    assert finished.returncode == -signal.SIGINT
    assert finished.stderr.count("KeyboardInterrupt") == 1


def test_a_result_that_cannot_be_pickled(end):
    pool = end(ours.Pool(1))
    with pytest.raises(multiprocessing.pool.MaybeEncodingError, match=r"Error sending result: .*generator object"):
        pool.apply(jobs_generator)
    with pytest.raises(multiprocessing.pool.MaybeEncodingError):
        pool.map(jobs_generator, [1])
    # Workers of its workers are as those of any executor.
    assert pool.apply(nested_refusal) == "TypeError"


class Unshown(Exception):
    """What has neither a pickle nor a repr."""

    def __reduce__(self):
        raise TypeError("no pickle")

    def __repr__(self):
        raise ValueError("no repr")


def raise_unshown(number):
    raise Unshown(number)


@pytest.mark.parametrize("call", [Unshown, raise_unshown])
def test_what_cannot_be_shown_either_is_named_by_its_class(end, call):
    pool = end(ours.Pool(1))
    for chunk in ([1], [1, 2]):
        result = pool.map_async(call, chunk, chunksize=2)
        with pytest.raises(multiprocessing.pool.MaybeEncodingError, match=r"no pickle") as caught:
            result.get()
        assert "Unshown object at" in caught.value.value or "list object at" in caught.value.value
    # Where the call raised it, the traceback still tells.
    assert ("raise_unshown" in str(caught.value.__cause__)) is (call is raise_unshown)


def jobs_generator(*args):
    return (number for number in args)


def nested_refusal():
    with concurrent.futures.ThreadPoolExecutor(1), pyconc.ProcessPoolExecutor(1) as executor:
        return type(executor.submit(jobs_generator).exception()).__name__
