"""What programs expect of processes that multiprocessing starts, and find in workers that a zygote forks too."""

import sys
from multiprocessing import get_context

import pytest
from support import run_script

import pyconc

# What other tests have imported may keep threads of its own, such as numpy's, and a context that forks warns of them.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

METHODS = [None, "fork", "forkserver", "spawn"]


def executor_of(method, **options):
    return pyconc.ProcessPoolExecutor(1, mp_context=method and get_context(method), **options)


def _initialize_queue(queue):
    global _queue
    _queue = queue


def _put(value):
    _queue.put(value)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_worker_has_put_into_a_queue_arrives_though_it_ends_at_once(method):
    queue = get_context(method or "spawn").Queue()
    with executor_of(method, initializer=_initialize_queue, initargs=(queue,)) as executor:
        executor.submit(_put, "x" * 1_000_000).add_done_callback(lambda future: future.result())
        executor.shutdown(wait=False)
        assert len(queue.get()) == 1_000_000
    queue.close()
    queue.join_thread()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="multiprocessing's own children do so since Python 3.13")
@pytest.mark.parametrize("method", METHODS)
def test_a_worker_calls_what_it_has_registered_for_its_end(method):
    finished = run_script(
        f"""
        import atexit, multiprocessing, multiprocessing.util, pyconc

        def register():
            atexit.register(print, "the worker ends", flush=True)
            multiprocessing.util.Finalize(None, print, ("finalized",), {{"flush": True}}, exitpriority=1)

        if __name__ == "__main__":
            atexit.register(print, "the program ends", flush=True)
            method = {method!r}
            context = method and multiprocessing.get_context(method)
            with pyconc.ProcessPoolExecutor(1, context) as executor:
                executor.submit(register)
        """
    )
    # A worker does not do what the program has left for itself to do.
    *worker, program = finished.stdout.splitlines()
    assert (sorted(worker), program) == (["finalized", "the worker ends"], "the program ends")


@pytest.mark.parametrize("method", METHODS)
def test_shared_memory_outlives_the_worker_that_has_made_it(method):
    finished = run_script(
        f"""
        import multiprocessing, pyconc
        from multiprocessing import resource_tracker
        from multiprocessing.shared_memory import SharedMemory

        def make():
            memory = SharedMemory(create=True, size=1)
            memory.buf[0] = 42
            memory.close()
            return memory.name

        if __name__ == "__main__":
            resource_tracker.ensure_running()
            method = {method!r}
            context = method and multiprocessing.get_context(method)
            with pyconc.ProcessPoolExecutor(1, context) as executor:
                name = executor.submit(make).result()
            memory = SharedMemory(name)
            print(memory.buf[0])
            memory.close()
            memory.unlink()
        """,
    )
    assert finished.stdout == "42\n"
    assert finished.stderr == ""
