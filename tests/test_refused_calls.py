"""Old kernels and sandboxes that refuse a system call: process executors do without, or say which it is."""

from pathlib import Path

import pytest
from support import run_script

SCRIPT = Path(__file__).parent / "scripts/refused_calls.py"

ERRORS = ["EPERM", "ENOSYS"]


@pytest.fixture(scope="module", autouse=True)
def _filters():
    finished = run_script(
        f"""
        import errno, os, sys
        sys.path.insert(0, {str(SCRIPT.parent)!r})
        import refused_calls
        try:
            refused_calls.refuse(refused_calls.NUMBERS["eventfd2"], errno.EPERM)
        except (KeyError, SystemExit) as reason:
            print("not here:", reason)
        """
    )
    if finished.stdout:
        pytest.skip(f"system calls cannot be refused {finished.stdout}")


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", ["pidfd_send_signal", "fallocate"])
def test_executors_do_without(call, error):
    assert run_script(SCRIPT, error, call).stdout.splitlines() == [
        "3 2 1 WorkerDied 4 WorkerDied",
        "nothing left",
    ]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", ["pidfd_open", "memfd_create", "eventfd2", "epoll_create1"])
def test_or_the_error_names_the_call_and_nothing_is_left(call, error):
    told, left = run_script(SCRIPT, error, call).stdout.splitlines()
    name = {"eventfd2": "eventfd"}.get(call, call)
    assert told.startswith(f"{error}: ")
    assert told.endswith(f"by {name}(), which the system does not have or this sandbox does not allow")
    assert left == "nothing left"


@pytest.mark.parametrize("error", ERRORS)
def test_threads_need_none_of_them(error):
    finished = run_script(
        f"""
        import errno, sys
        sys.path.insert(0, {str(SCRIPT.parent)!r})
        import refused_calls
        for number in refused_calls.NUMBERS.values():
            refused_calls.refuse(number, errno.{error})
        import pyconc
        with pyconc.ThreadPoolExecutor(2) as pool:
            print(*pool.map(abs, range(-3, 0)))
        """
    )
    assert finished.stdout == "3 2 1\n"


def test_without_proc():
    """Where nothing that looks for a file in /proc finds one."""
    finished = run_script(
        """
import builtins, os, pyconc
def without_proc(function):
    def call(path, *args, **kwargs):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *args, **kwargs)
    return call
for module, names in ((os, ("stat", "listdir", "open", "readlink", "scandir")), (builtins, ("open",))):
    for name in names:
        setattr(module, name, without_proc(getattr(module, name)))
with pyconc.ProcessPoolExecutor(2) as pool:
    print(*pool.map(abs, range(-3, 0)), type(pool.submit(os._exit, 3).exception()).__name__)
    print(pool.submit(abs, -4).result())
"""
    )
    assert finished.stdout == "3 2 1 WorkerDied\n4\n"
