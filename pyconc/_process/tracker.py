"""The program's resource tracker, for workers that make or open something that has a name.

multiprocessing has a process, the resource tracker, note what has a name, such as shared memory, and remove what is
left when the last process that can write to it has ended.  A worker that knew of none would start one of its own, and
that removes, when the worker ends, what is the program's and other workers', too.

To start a tracker takes an interpreter's start, and who can write to it keeps it: multiprocessing's own clean-up waits
for it.  So neither zygotes nor workers have it, until a worker has something to be noted:

    worker                                                program
      |--- one end of a new stream, by the line ------------>| the supervisor: starts the tracker if there is none
      |<-- what writes to the tracker, by that stream -------|
      | has it from then on

All workers of an executor share the line.  One that gets no answer starts a tracker of its own, as ever.
"""

import _socket
import contextlib
import os
import struct
import sys
import threading

from pyconc import _core
from pyconc._process.interruption import is_from_handler

__all__ = ["Lender", "borrow_by", "fd_to_leave", "leave"]

_MODULE = "multiprocessing.resource_tracker"

_FD = struct.Struct("i")


# ---- the program ----


class Lender:
    """The program's end of the line of one executor.  One thread at a time uses it, see launcher.py.

    can_start: whether the program may start an interpreter.
    """

    def __init__(self, can_start):
        self._can_start = can_start
        self._ours = self._line = None
        self._has_ended = False

    def line(self):
        """Return the workers' end, or None: there is no room for it, or it has ended."""
        if self._line is None and not self._has_ended:
            try:
                self._ours, self._line = _core.open_stream()
            except OSError:
                self._has_ended = True  # Nobody listens to one that is made after the supervisor has begun.
        return self._line

    def fileno(self):
        """Return what is readable when a worker asks; -1 if none can."""
        return -1 if self._ours is None else self._ours

    def answer(self):
        """Give the tracker to workers that ask; return False if they have ended the line.  Waits for none of them."""
        with _socket_of(self._ours) as line:
            while True:
                try:
                    reply = _receive_fd(line, _socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return True
                except (EOFError, OSError):
                    return False
                if reply is not None:
                    try:
                        self._lend(reply)
                    finally:
                        os.close(reply)

    def _lend(self, reply):
        with contextlib.suppress(Exception):  # Whatever it is, the worker starts one of its own.
            if not self._can_start():
                return
            from multiprocessing import resource_tracker

            fd = resource_tracker.getfd()
            with _socket_of(reply) as stream:
                _send_fd(stream, fd, _socket.MSG_DONTWAIT)

    def end(self):
        """The workers have ended; what they have left running is told so."""
        if self._ours is not None:
            with contextlib.suppress(OSError), _socket_of(self._ours) as line:
                line.shutdown(_socket.SHUT_RDWR)  # zygotes that sleep may have it, too
            self.answer()
        self.forget()

    def forget(self):
        """Close it, also in the child of a fork; there will be no other, which nobody would answer."""
        self._has_ended = True
        fds = self._ours, self._line
        self._ours = self._line = None
        for fd in fds:
            if fd is not None:
                os.close(fd)


def fd_to_leave():
    """Return what this process writes to its tracker by, which a child that it forks is to leave; -1: nothing."""
    module = sys.modules.get(_MODULE)
    fd = module and module._resource_tracker._fd
    return -1 if fd is None else fd


def leave():
    """In the child of a fork: let go of the tracker.  From Python 3.14 on it has done so itself."""
    fd = fd_to_leave()
    if fd >= 0:
        tracker = sys.modules[_MODULE]._resource_tracker
        tracker._fd = tracker._pid = None
        with contextlib.suppress(OSError):
            os.close(fd)
        tracker._lock._at_fork_reinit()


# ---- a worker ----


class _Borrower:
    """A worker's end of the line."""

    def __init__(self, line):
        self._line = line
        self._identity = _identify(line)
        self._lock = threading.RLock()  # re-entrant: a finalizer may have something to be noted meanwhile
        os.register_at_fork(after_in_child=self._lock._at_fork_reinit)

    def borrow(self, tracker):
        """Have a ResourceTracker that knows of no process use the program's, if that can be had."""
        with self._lock:
            if tracker._fd is not None:
                return
            try:
                fd = self._ask()
            except (EOFError, OSError) as error:
                if is_from_handler(error):
                    raise
                return
            if tracker._fd is None:
                tracker._fd = fd
            elif fd is not None:
                os.close(fd)

    def _ask(self):
        if _identify(self._line) != self._identity:
            return None  # a task has closed it, and that number is another file's
        ours, theirs = _core.open_stream()
        try:
            with _socket_of(self._line) as line:
                _send_fd(line, theirs)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        try:
            with _socket_of(ours) as stream:
                return _receive_fd(stream)
        finally:
            os.close(ours)


def _identify(fd):
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def borrow_by(line):
    """In a worker that begins: have it ask by the line, once it has something to be noted."""
    borrower = _Borrower(line)
    module = sys.modules.get(_MODULE)
    if module is None:
        sys.meta_path.insert(0, _Finder(borrower))
    else:
        _prepare(module, borrower)


def _prepare(module, borrower):
    class ResourceTracker(module.ResourceTracker):
        def ensure_running(self):
            borrower.borrow(self)
            return super().ensure_running()

        def _ensure_running_and_write(self, msg=None):  # what newer versions of Python call
            borrower.borrow(self)
            return super()._ensure_running_and_write(msg)

    tracker = module._resource_tracker
    tracker.__class__ = ResourceTracker
    module.ensure_running = tracker.ensure_running


class _Finder:
    """Prepares the module when it is imported: most workers never do so, and it takes a millisecond or two."""

    def __init__(self, borrower):
        self._borrower = borrower

    def find_spec(self, name, path=None, target=None):
        if name != _MODULE:
            return None
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)
        from importlib import util

        spec = util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            _prepare(module, self._borrower)

        with contextlib.suppress(AttributeError):
            spec.loader.exec_module = exec_module
        return spec


# ---- file descriptors, beside a byte each ----


@contextlib.contextmanager
def _socket_of(fd):
    sock = _socket.socket(fileno=fd)  # not the one of socket, of which some programs make another
    try:
        sock.settimeout(None)
        yield sock
    finally:
        sock.detach()


def _send_fd(sock, fd, flags=0):
    rights = _socket.SOL_SOCKET, _socket.SCM_RIGHTS, _FD.pack(fd)
    sock.sendmsg([b"t"], [rights], flags | _socket.MSG_NOSIGNAL)


def _receive_fd(sock, flags=0):
    """Return a file descriptor that has come, or None if something else has.  Raises EOFError."""
    data, rights, _, _ = sock.recvmsg(1, _socket.CMSG_SPACE(_FD.size), flags | _socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise EOFError
    for level, kind, content in rights:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS) and len(content) >= _FD.size:
            return _FD.unpack_from(content)[0]
    return None
