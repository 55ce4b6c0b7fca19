"""What process executors need of the system: if it is refused, the error says in one sentence what and why."""

import contextlib
import errno
import os
import select
from multiprocessing import connection

from pyconc import _core

_REFUSED = (errno.ENOSYS, errno.EPERM, errno.EACCES)


@contextlib.contextmanager
def _explained(need):
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        message = f"{need}, which the system does not have or this sandbox does not allow"
        raise OSError(error.errno, message) from None


def check_pidfds():
    """Raise OSError if processes cannot be watched: without that, the end of no worker could be seen."""
    os.close(open_pidfd(os.getpid()))


def open_pidfd(pid):
    """Return a file descriptor that is readable when a process has ended.  Raises ProcessLookupError: it was reaped."""
    with _explained("worker processes are watched by pidfd_open()"):
        return _core.open_pidfd(pid)


def send_signal(pidfd, pid, number):
    """Send a signal to a process if it has not ended, and this process may; pidfd: what open_end() has returned."""
    try:
        _core.signal_pidfd(pidfd, number)
    except ProcessLookupError:
        pass
    except OSError:  # a sandbox refuses that call, or this is the end of a pipe
        with contextlib.suppress(OSError):
            if not connection.wait([pidfd], 0):
                os.kill(pid, number)


def supervise(queue):
    """Return what queue.supervise() does."""
    with _explained("worker processes are looked after by eventfd() and timerfd_create()"):
        return queue.supervise()


def open_epoll():
    with _explained("worker processes are waited for by epoll_create1()"):
        return select.epoll()
