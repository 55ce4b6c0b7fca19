"""What process executors need of the system: if it is refused, the error says in one sentence what and why."""

import contextlib
import errno
import os
import select

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
    with _explained("worker processes are watched by pidfd_open()"):
        os.close(os.pidfd_open(os.getpid()))


def open_epoll():
    with _explained("worker processes are waited for by epoll_create1()"):
        return select.epoll()
