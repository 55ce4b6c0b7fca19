"""A hardened container, as it were: sandbox.py COMMAND... runs a command where /proc is empty and calls are refused.

To be started as root in a mount and a PID namespace of its own, see the Makefile.  The kernel's /proc is mounted where
PYCONC_TEST_PROC says, for what a test itself has to know.
"""

import errno
import os
import subprocess
import sys
import tempfile

import refused_calls

# What some kernels, gVisor, or a container's filter refuse, and how.
REFUSED = [
    ("pidfd_open", errno.ENOSYS),
    ("pidfd_send_signal", errno.ENOSYS),
    ("fallocate", errno.EOPNOTSUPP),
    ("clone3", errno.ENOSYS),
    ("setpriority", errno.EPERM),
    ("lseek", errno.EINVAL, os.SEEK_DATA),
]


def main():
    if os.getpid() != 1:
        sys.exit("sandbox.py takes /proc away: start it in a mount and a PID namespace of its own, see the Makefile")
    with tempfile.TemporaryDirectory(prefix="pyconc-proc-") as elsewhere:
        for kind, where in (("proc", elsewhere), ("tmpfs", "/proc")):
            subprocess.run(["mount", "-t", kind, "none", where], check=True)
        try:
            for name, *how in REFUSED:
                refused_calls.refuse(refused_calls.CALLS[name], *how)
            command = subprocess.Popen(sys.argv[1:], env={**os.environ, "PYCONC_TEST_PROC": elsewhere})
            status = None
            while status is None:  # the first process of a PID namespace has orphans to bury
                pid, ended = os.wait()
                status = os.waitstatus_to_exitcode(ended) if pid == command.pid else None
            return status
        finally:
            subprocess.run(["umount", elsewhere], check=True)


if __name__ == "__main__":
    sys.exit(main())
