"""The calls that process executors need of the system: if it refuses one, the error names it and the reason."""

import contextlib
import errno
import os
import select
import signal
import socket
from multiprocessing import connection

from pyconc import _core
from pyconc._process.interruption import is_from_handler
from pyconc._process.signals import STOP

__all__ = [
    "Children",
    "Explained",
    "hang_up",
    "has_pidfds",
    "is_refusal",
    "open_connection",
    "open_epoll",
    "open_pidfd",
    "read_rss",
    "reap",
    "require_calls",
    "require_footprint",
    "send_signal",
    "supervise",
]

_REFUSED = (errno.ENOSYS, errno.EPERM, errno.EACCES)


class Explained:
    """Have an OSError by which the system refuses a call say what that is needed for, in so many words."""

    def __init__(self, need):
        self._need = need

    def __enter__(self):
        pass

    def __exit__(self, kind, error, traceback):
        if isinstance(error, OSError) and is_refusal(error):
            message = f"{self._need}, which the system does not have or this sandbox does not allow"
            raise OSError(error.errno, message) from None


def is_refusal(error):
    return error.errno in _REFUSED


def has_pidfds():
    """Whether pidfd_open() is there and allowed."""
    try:
        os.close(_core.open_pidfd(os.getpid()))
    except OSError as error:
        return error.errno not in _REFUSED
    return True


def open_pidfd(pid):
    """Return a file descriptor that is readable when a process has ended; None if the system refuses that.

    Raises ProcessLookupError: it was reaped.
    """
    try:
        return _core.open_pidfd(pid)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return None


def open_connection():
    """Return the two ends of a connection, as multiprocessing's Pipe() does, with fewer questions to the system."""
    with Explained("worker processes are asked for by socketpair()"):
        return [connection.Connection(fd) for fd in _core.open_stream()]


def hang_up(conn):
    """Have the other end of a connection see its end, also while other processes have this one open, too.

    Zygotes that sleep may have it: they have closed nothing yet that this process had as it forked them.
    """
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(conn.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)  # or there is no other end any more


def reap(pid, options=0):
    """Wait for a child; return (pid, (wait status, how many bytes it has had in memory at most)); 0 if it lives.

    Raises ChildProcessError: nobody can tell, as it was waited for, or a sandbox has come to refuse that.
    """
    try:
        pid, *end = _core.reap(pid, options)
    except OSError as error:
        if not is_refusal(error):
            raise
        raise ChildProcessError(errno.ECHILD, "wait4() is refused") from None
    return pid, tuple(end)


class Children:
    """The children of a process with one thread, which learns of their ends by pidfds, or without those by SIGCHLD.

    poll: where it learns of them; what is readable there, reap() is to be told.  with_pidfds: the system has those.
    """

    def __init__(self, poll, with_pidfds):
        self._poll = poll
        self._pids = {}  # pid: pidfd, or None
        self._told = {}  # without pidfds: pid: the other end of what open_end() returned
        # Nobody else may wait for them.  They get the program's handler back.
        self._handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._bell = None
        if not with_pidfds:
            # No pipe: a sandbox that refuses pidfd_open() may refuse pipe2(), which nothing else here needs.
            self._bell, self._ringer = _core.open_stream()
            os.set_blocking(self._bell, False)
            os.set_blocking(self._ringer, False)
            self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            signal.set_wakeup_fd(self._ringer, warn_on_full_buffer=False)
            signal.signal(signal.SIGCHLD, _nothing)
            poll.register(self._bell, select.POLLIN)

    def __contains__(self, pid):
        return pid in self._pids

    def add(self, pid):
        """Know a child that was forked.  Raises OSError: its end would not be seen, so it has been killed."""
        pidfd = None
        if self._bell is None:
            try:
                pidfd = _core.open_pidfd(pid)
            except OSError:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
            self._poll.register(pidfd, select.POLLIN)
        self._pids[pid] = pidfd

    def open_end(self, pid):
        """Return a file descriptor, also for others, that is readable when a child has ended."""
        if self._bell is None:
            return os.dup(self._pids[pid])
        # Until the child is reaped, this process alone has the other end.
        end, self._told[pid] = _core.open_stream()
        return end

    def reap(self, fd):
        """Reap the children of whose end a readable file descriptor tells; None if it is not about that.

        Return what reap() returns of each.
        """
        if self._bell is None:
            ready = [pid for pid, pidfd in self._pids.items() if pidfd == fd]
        elif fd == self._bell:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._bell, 4096):
                    pass
            ready = list(self._pids)
        else:
            ready = []
        ended = [reap(pid, os.WNOHANG) for pid in ready]
        for pid, _ in ended:
            self._forget(pid)
        return [each for each in ended if each[0]] if ready or fd == self._bell else None

    def join(self):
        """Wait until all have ended."""
        for pid in list(self._pids):
            os.waitpid(pid, 0)
            self._forget(pid)

    def _forget(self, pid):
        pidfd = self._pids.pop(pid, None)
        if pidfd is not None:
            self._poll.unregister(pidfd)
            os.close(pidfd)
        if pid in self._told:
            os.close(self._told.pop(pid))

    def leave(self):
        """In a new child: its siblings are none of its business."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if self._handler is None else self._handler)
        fds = [*self._pids.values(), *self._told.values()]
        if self._bell is not None:
            signal.set_wakeup_fd(-1)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            fds += [self._bell, self._ringer]
        for fd in fds:
            if fd is not None:
                os.close(fd)


def _nothing(number, frame):
    pass


def send_signal(pidfd, pid, number):
    """Send a signal to a process if it has not ended; pidfd: what tells of its end.

    Return False if this process may not do so.  Raises what a signal handler raises meanwhile.
    """
    try:
        _core.signal_pidfd(pidfd, number)
    except ProcessLookupError:
        pass
    except OSError as refusal:  # a sandbox refuses that call, or this is no pidfd; or this process may not
        if is_from_handler(refusal):
            raise
        try:
            if not connection.wait([pidfd], 0):
                os.kill(pid, number)
        except PermissionError:
            return False
        except OSError as error:
            if is_from_handler(error):
                raise
    return True


def read_rss(pid):
    """Return how many bytes a process has in memory; None: it has ended, or there is no /proc."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def require_footprint():
    """Raise OSError if a process cannot see how much memory it has."""
    if not os.access("/proc/self/statm", os.R_OK):
        raise OSError(errno.ENOENT, "memory_limit needs /proc/self/statm, which this system does not have")


def require_calls(events, clones):
    """Raise OSError, which names it, if the system refuses a call that threads or workers would make only later.

    events: an epoll object.  clones: workers are cloned from this process, or from a zygote.
    """
    with Explained("worker processes are waited for by epoll_ctl()"):
        try:
            events.unregister(events)
        except OSError as error:
            if error.errno in _REFUSED:
                raise  # otherwise it was made, and nothing was there to be unregistered
    with Explained("worker processes are waited for by epoll_wait()"):
        events.poll(0)
    with Explained("outcomes are waited for by poll()"):
        _core.try_poll()
    with Explained("worker processes are waited for by poll(), or ppoll() from Python 3.15 on"):
        select.poll().poll(0)
    with Explained("worker processes are waited for by wait4()"), contextlib.suppress(ChildProcessError):
        os.wait4(os.getpid(), os.WNOHANG)  # nobody is its own child
    if clones:
        with Explained("worker processes end with the program by prctl(PR_SET_PDEATHSIG)"):
            _core.keep_death_signal()


def supervise(queue):
    """Return what queue.supervise() does."""
    with Explained("worker processes are looked after by eventfd() and timerfd_create()"):
        return queue.supervise(STOP)


def open_epoll():
    with Explained("worker processes are waited for by epoll_create1()"):
        return select.epoll()
