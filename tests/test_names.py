"""What ps and top call pyconc's processes and threads: who looks at a busy machine can tell them apart."""

import contextlib
import multiprocessing
import os
import threading
from multiprocessing import resource_tracker
from pathlib import Path

import coroutines
import jobs
import pytest
from gates import Gate, ProcessGate, block_workers
from support import PROC, another_thread, descendants, run_script, threads, wait_until

import pyconc

WAYS = ["dev", "tmp"]
POOLS = [pyconc.ProcessPoolExecutor, pyconc.CoroutinePool, pyconc.ThreadPoolExecutor]


def comm(pid):
    with open(f"{PROC}/{pid}/comm") as file:
        return file.read().strip()


def own_name():
    """What the kernel calls the calling thread."""
    return comm(f"self/task/{threading.get_native_id()}")


def names_below():
    """The names of this process's children, theirs, and so on; but of the standard library's resource tracker."""
    names = set()
    for pid in descendants() - {str(os.getpid()), str(resource_tracker._resource_tracker._pid)}:
        with contextlib.suppress(OSError):  # it ended meanwhile
            names.add(comm(pid))
    return names


def wait_for_names(*wanted):
    """Returns once there are processes of these names: each names itself when it gets the CPU."""
    wait_until(lambda: names_below().issuperset(wanted), f"processes with the names {wanted}")


def test_processes_are_called_by_what_they_do():
    with pyconc.ProcessPoolExecutor(3) as pool, ProcessGate() as gate:
        block_workers(pool, gate, 3)
        wait_for_names("pyconc-w0", "pyconc-w1", "pyconc-w2", "pyconc-zygote")
        # The reserve may have been ended before it had a name, and may still have to be reaped.
        wait_until(lambda: own_name() not in names_below(), "each process to have a name of its own")
        wait_until(lambda: {"pyconc-results", "pyconc-watch"} <= set(threads().values()), "the threads' names")


FORKS = f"""
    import sys

    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import pyconc
    from support import another_thread
    from test_names import own_name, wait_for_names

    if __name__ == "__main__":
        with pyconc.ProcessPoolExecutor(1) as early, another_thread():
            print(early.submit(own_name).result())
            with pyconc.ProcessPoolExecutor(1) as late:
                print(late.submit(own_name).result())
                wait_for_names("pyconc-reserve", "pyconc-nursery")
"""


def test_a_programs_fork_and_the_nursery_have_names():
    """In a program without threads at first; a test may have those of pytest-xdist."""
    assert run_script(FORKS).stdout == "pyconc-w0\npyconc-w0\n"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", [None, "fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_workers_are_called_as_their_executor(method):
    context = method and multiprocessing.get_context(method)
    with pyconc.ProcessPoolExecutor(1, context, name="resize") as pool:
        assert pool.submit(own_name).result() == "resize-w0"
        assert pool.submit(jobs.process_name).result() == "resize_0"
        if method is None:
            wait_for_names("resize-zygote")


def test_workers_of_coroutines_are_called_as_their_pool():
    with pyconc.CoroutinePool(1, name="crawl") as pool:
        assert comm(pool.submit(coroutines.pid).result()) == "crawl-w0"


def test_threads_are_called_as_their_executor():
    with pyconc.ThreadPoolExecutor(2, name="loader") as pool, Gate() as gate:
        block_workers(pool, gate, 2)
        assert {"loader-t0", "loader-t1"} <= set(threads().values())
        assert {thread.name for thread in pool._threads} == {"loader_0", "loader_1"}
    with pyconc.ThreadPoolExecutor(1) as pool:
        assert pool.submit(own_name).result() == "pyconc-t0"
    with pyconc.ThreadPoolExecutor(1, "prefix") as pool:
        assert pool.submit(own_name).result() == "prefix-t0"
    with pyconc.ThreadPoolExecutor(1, "prefix", name="name") as pool:
        assert pool.submit(threading.current_thread).result().name == "prefix_0"


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a name that is too long", "a name that -t0"), ("12345678901ö", "12345678901-t0"), ("\udc80 a\0b", "? a?b-t0")],
    ids=["long", "bytes", "surrogate"],
)
def test_of_a_long_name_as_much_is_shown_as_fits(name, shown):
    with pyconc.ThreadPoolExecutor(1, name=name) as pool:
        assert pool.submit(own_name).result() == shown


def test_executors_of_one_name_do_not_mix_up_what_they_begin_with():
    pools = [pyconc.ProcessPoolExecutor(1, name="same", initializer=os.chdir, initargs=(f"/{way}",)) for way in WAYS]
    with another_thread(), pools[0], pools[1]:
        pools[1].shutdown()
        assert pools[0].submit(os.getcwd).result() == f"/{WAYS[0]}"


@pytest.mark.parametrize("cls", POOLS)
def test_a_name_is_a_str(cls):
    with pytest.raises(TypeError, match="name must be a str, not int"):
        cls(1, name=3)


def test_a_prefix_of_threads_may_be_of_any_type():
    with pyconc.ThreadPoolExecutor(1, thread_name_prefix=7) as pool:
        assert pool.submit(lambda: threading.current_thread().name).result() == "7_0"
        assert pool.submit(own_name).result() == "pyconc-t0"
