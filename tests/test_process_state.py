"""What the kernel says of this process, as pyconc._core reads it for each worker that starts."""

import os

import pytest
from support import run_script

from pyconc import _core

NAMES = ("Uid", "Gid", "Groups", "CapEff", "Umask", "SigBlk", "Nothing")


def status_in_python():
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        lines = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    return {name: lines[name].rstrip(" ") for name in NAMES if name in lines}


def test_lines_of_the_status_are_found_by_their_names():
    assert _core.read_status(NAMES) == status_in_python()
    assert _core.read_status(("Uid",)) == {"Uid": "\t".join(map(str, (*os.getresuid(), os.geteuid())))}
    assert _core.read_status(("Ui", "Nothing", "")) == {}
    for wrong, what in [(["Uid"], "tuple"), ((1,), "argument"), (("\ud800",), "surrogates")]:
        with pytest.raises((TypeError, UnicodeError), match=what):
            _core.read_status(wrong)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be in as many groups as it likes")
@pytest.mark.parametrize("count", [1, 1000, 3000, 20_000])
def test_a_status_of_any_length_is_read_to_its_end(count):
    run_script(
        f"""
        import os
        from pyconc import _core
        os.setgroups(range(10_000, 10_000 + {count}))
        status = _core.read_status(("Groups", "SigBlk"))
        assert [int(group) for group in status["Groups"].split()] == os.getgroups()
        assert len(os.getgroups()) == {count} and int(status["SigBlk"], 16) == 0
        """
    )


def test_limits_are_set_as_far_as_they_may_be():
    run_script(
        """
        import resource
        from pyconc import _core
        before = _core.read_limits()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))
        lowered = _core.read_limits()
        assert lowered != before
        resource.setrlimit(resource.RLIMIT_NOFILE, (70, hard))
        _core.set_limits(lowered)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (60, hard) and _core.read_limits() == lowered
        """
    )
    for wrong in (b"", bytes(1000), "limits"):
        with pytest.raises(TypeError):
            _core.set_limits(wrong)


def test_a_child_is_reaped_with_its_status_and_its_memory():
    run_script(
        """
        import os, resource
        from pyconc import _core
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        ended, status, rss = _core.reap(pid, 0)
        assert (ended, os.waitstatus_to_exitcode(status)) == (pid, 7)
        assert 0 < rss <= resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        try:
            _core.reap(pid, 0)
        except ChildProcessError:
            pass
        else:
            raise AssertionError
        """
    )
