"""What of the program's world its workers have: settings, globals, functions, whatever threads the program has."""

import importlib.util

import pytest
from support import run_script

# A program that configures its world at its top, and defines there what it has workers do.
PROGRAM = """
import decimal, logging, os, sys, threading
import pyconc
decimal.getcontext().prec = 50
sys.setrecursionlimit(20000)
logging.basicConfig(level=logging.INFO)
state = "as imported"
def look():
    logger = logging.getLogger()
    third = str(decimal.Decimal(1) / 3)
    return len(third), sys.getrecursionlimit(), logger.getEffectiveLevel(), len(logger.handlers), state
"""

SEES_ITS_WORLD = (52, 20000, 20, 1)


@pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="numpy is not installed")
def test_native_threads_of_a_library_are_no_reason_not_to_fork():
    # Threads that Python does not know, as numpy's BLAS keeps them.
    finished = run_script(
        """
import sys
sys.modules["cloudpickle"] = None  # what is in the workers goes there by name
import numpy
"""
        + PROGRAM
        + """
numpy.seterr(all="raise")
def divide():
    try:
        numpy.array([1.0]) / numpy.array([0.0])
    except FloatingPointError:
        return "raises"
if __name__ == "__main__":
    state = "changed by the program"
    with pyconc.ProcessPoolExecutor(2) as pool:
        print(pool.submit(look).result(), pool.submit(divide).result())
""",
        env={"OPENBLAS_NUM_THREADS": "4"},
    )
    assert finished.stdout == f"{(*SEES_ITS_WORLD, 'changed by the program')} raises\n"


@pytest.mark.parametrize("kind", ["_thread", "threading", "ended", "an executor that was shut down", "none"])
def test_threads_that_run_the_program_are(kind):
    finished = run_script(
        """
        import _thread, sys, threading
        import pyconc
        from pyconc._process.launcher import is_single_threaded
        kind = sys.argv[1]
        if kind == "_thread":
            begun, end = _thread.allocate_lock(), _thread.allocate_lock()
            begun.acquire()
            end.acquire()
            _thread.start_new_thread(lambda: (begun.release(), end.acquire()), ())
            begun.acquire()
        elif kind == "threading":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        elif kind == "ended":
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
        elif kind != "none":
            with pyconc.ThreadPoolExecutor(2) as threads, pyconc.ProcessPoolExecutor(1) as processes:
                threads.submit(int).result(), processes.submit(int).result()
        idle = pyconc.ProcessPoolExecutor(1)
        idle.submit(int).result()  # its threads hold nothing
        print(is_single_threaded())
        """,
        kind,
    )
    assert finished.stdout == f"{kind not in ('_thread', 'threading')}\n"
