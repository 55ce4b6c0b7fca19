"""What libraries rely on in workers: numbers, a parent to watch, registered reducers, counts."""

import multiprocessing
import sys

import pytest
from support import HANG_LIMIT, another_thread, run_script

import pyconc

PROGRAM = """
import multiprocessing, os, sys, threading, warnings
from multiprocessing.reduction import ForkingPickler
import pyconc
warnings.simplefilter("ignore")
class Handle:
    def __init__(self, how):
        self.how = how
def rebuild():
    return Handle("by the registered reducer")
ForkingPickler.register(Handle, lambda handle: (rebuild, ()))
def ask(handle):
    return handle.how
"""

WORLDS = pytest.mark.parametrize("world", ["one thread", "threads", "fork", "spawn"])

BEGIN = """
if __name__ == "__main__":
    if sys.argv[1] == "threads":
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    context = multiprocessing.get_context(sys.argv[1]) if sys.argv[1] in ("fork", "spawn") else None
"""


@WORLDS
def test_types_registered_with_multiprocessing_travel_their_way(world):
    finished = run_script(
        PROGRAM
        + BEGIN
        + """
    with pyconc.ProcessPoolExecutor(1, context) as pool:
        print(pool.submit(ask, Handle("plainly")).result(), list(pool.map(ask, [Handle("plainly")])))
        print(pool.submit(Handle, "plainly").result().how)
""",
        world,
    )
    reduced = "by the registered reducer"
    assert finished.stdout == f"{reduced} {[reduced]}\n{reduced}\n"


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python counts so since 3.13")
def test_python_cpu_count_is_what_a_program_may_count_on():
    script = "import pyconc; print(pyconc.ProcessPoolExecutor()._max_workers, pyconc.CoroutinePool()._max_workers)"
    assert run_script(script, env={"PYTHON_CPU_COUNT": "37"}).stdout == "37 37\n"
    assert run_script(script, flags=("-X", "cpu_count=31")).stdout == "31 31\n"


@pytest.mark.parametrize("size", [2**31, 2**63, 10**40])
def test_max_tasks_per_child_of_any_size(size):
    with another_thread(), pyconc.ProcessPoolExecutor(1, max_tasks_per_child=size) as pool:
        assert pool.submit(abs, -1).result(HANG_LIMIT) == 1
        assert multiprocessing.active_children()
