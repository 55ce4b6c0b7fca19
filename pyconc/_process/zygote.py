"""The zygote: a small process with one thread, of which an executor's workers are clones.

To fork a process that has threads is how programs deadlock.  So an executor forks once, while the program has one
thread, or else has a fresh interpreter do so (see nursery.py); that process waits for requests and forks workers, in a
millisecond each, now or hours later, also to replace one that died.  (A program that still has one thread when it first
submits forks its first worker itself, and the zygote right after it.)

    parent                                    zygote                              worker
      |--- ("start", number, name, changes) --->|--- fork ------------------------->|
      |<-- ("started", pid) --------------------|                                   | runs tasks
      |<-- ("exited", pid, status) -------------|<-- its pidfd: reaped -------------|

The zygote ends when its connection does, or its parent.  Workers end with the zygote, by PR_SET_PDEATHSIG: that
fires when the thread that forked them ends, and the zygote has one.  The zygote ignores Ctrl-C.
"""

import atexit
import contextlib
import gc
import os
import pickle
import select
import signal
import sys
import threading
import traceback
from multiprocessing import connection, process, util

from pyconc import _core
from pyconc._process import process_state, signals, worker_main
from pyconc._process.main_module import MainOfFork
from pyconc._process.process_state import ProcessState


class ZygoteDied(Exception):
    """The zygote is gone; its workers with it."""


class Zygote:
    """The parent's end.  `lock` guards the connection and what was read from it."""

    def __init__(self, pid, conn, state, by_value):
        self.pid = pid
        self.state = state  # the program's, when what the zygote has was made
        self.by_value = by_value  # whether what mentions `__main__` travels by value to its workers
        self.lock = threading.Lock()
        self._connection = conn
        self._statuses = {}  # pid: wait status, of workers that have ended
        self._dead = False

    def fileno(self):
        return self._connection.fileno()

    def may_serve(self):
        """Whether its workers can have the rights that the program has now, and no others."""
        wanted = process_state.current_rights()
        return wanted == self.state.rights or process_state.may_become(self.state.rights, wanted)

    def start_worker(self, number, name):
        """Fork a worker; return its pid.  Raises ZygoteDied, or OSError with the reason."""
        changes = process_state.pack(ProcessState().changes_since(self.state))
        with self.lock:
            self._send(("start", number, name, changes))
            while True:
                message = self._receive()
                if message[0] == "started":
                    return message[1]
                if message[0] == "failed":
                    raise OSError(*message[1])

    def status_of(self, pid, block):
        """Return the wait status of a worker that has ended; None if it has not, unless `block`."""
        with self.lock:
            try:
                while pid not in self._statuses and (block or self._has_events()):
                    self._receive()
            except ZygoteDied:
                # It could not tell; but they all ended as the kernel ended this one.
                self._statuses.setdefault(pid, signal.SIGKILL)
            return self._statuses.get(pid)

    def read_events(self):
        """Read what has come.  Raises ZygoteDied when that is its end."""
        with self.lock:
            while self._has_events():
                self._receive()

    def kill(self):
        """End it, and whatever workers it still has."""
        with self.lock:
            self._dead = True
            self._connection.close()
        self._kill()

    def _kill(self):
        if self.pid is not None:
            try:
                os.kill(self.pid, signal.SIGKILL)  # it has nothing to tidy up, and may be busy starting
            except OSError:
                # Somebody else has waited for it; or it has rights that we gave up, and ends as its connection has.
                pass

    def join(self):
        """Wait until it has ended."""
        if self.pid is not None:
            pid, self.pid = self.pid, None
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass  # as above

    def forget(self):
        """In the child of a fork: it is the parent's."""
        self.lock = threading.Lock()
        self.pid = None
        self._dead = True
        self._connection.close()

    def _send(self, message):
        try:
            self._connection.send(message)
        except OSError:
            raise ZygoteDied from None

    def _has_events(self):
        return self._dead or self._connection.poll(0)  # the news of the dead is that they are

    def _receive(self):
        if self._dead:
            raise ZygoteDied
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            self._dead = True
            raise ZygoteDied from None
        if message[0] == "exited":
            self._statuses[message[1]] = message[2]
        return message


# ---- making one ----


def fork():
    """Fork a process that uses our resource tracker, as multiprocessing's own do.

    Since 3.14 a child that is not known to be one of those lets go of it, and starts one of its own: that would destroy
    the shared memory that a worker has made as soon as the worker ends.
    """
    intent = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_fork_intent", None)
    if intent is not None:
        intent.preserve_fd = True
    try:
        pid = _core.fork()
    finally:
        if intent is not None:
            intent.preserve_fd = False
    if pid == 0:
        signals.end_in_child()
    return pid


def fork_zygote(job):
    """Fork a zygote from this process; `job` as for serve()."""
    ours, theirs = connection.Pipe()
    util._flush_std_streams()
    parent = os.getpid()
    # Before the fork: what is written after it, if but a reference count, costs a copy of its page.
    state, by_value = ProcessState(), MainOfFork()
    pid = fork()
    if pid == 0:
        code = 1
        try:
            ours.close()
            serve(theirs, parent, job)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    theirs.close()
    return Zygote(pid, ours, state, by_value)


class ThisProcess:
    """In place of a zygote, a program with one thread: it may fork a worker itself, which then starts earlier.

    By this thread, which is the main one and ends with the process.
    """

    def __init__(self, job):
        self._job = job

    def start_worker(self, number, name):
        util._flush_std_streams()
        parent = os.getpid()
        pid = fork()
        if pid == 0:
            _be_worker(parent, parent, number, name, {}, self._job)
        return pid

    def status_of(self, pid, block):
        try:
            found, status = os.waitpid(pid, 0 if block else os.WNOHANG)
        except ChildProcessError:
            return None  # somebody else has waited for it
        return status if found == pid else None


def running_tracker_fd():
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    return tracker and tracker._resource_tracker._fd


# ---- the zygote's own life ----


def serve(conn, parent_pid, job):
    """Fork workers on request until the connection or the parent ends; job: see worker_main.main()."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        parent_fd = os.pidfd_open(parent_pid)
    except ProcessLookupError:
        return
    gc.freeze()  # what is here is here for good; collectors of the workers need not touch it
    poll = select.poll()
    poll.register(conn.fileno(), select.POLLIN)
    poll.register(parent_fd, select.POLLIN)
    own_pid = os.getpid()
    workers = {}  # pidfd: pid
    privileged = set()  # those that need a zygote which may still signal them: they have what it had at first
    while True:
        for fd, _ in poll.poll():
            if fd == parent_fd:
                return
            if fd in workers:
                pid = workers.pop(fd)
                privileged.discard(fd)
                poll.unregister(fd)
                os.close(fd)
                status = os.waitpid(pid, 0)[1]
                conn.send(("exited", pid, status))
                continue
            try:
                _, number, name, changes = conn.recv()
            except (EOFError, OSError):
                return
            if "rights" in changes and privileged.isdisjoint(workers):
                # The program has given up rights.  What cannot follow here can perhaps in the worker, or that ends.
                with contextlib.suppress(OSError):
                    process_state.adopt_rights(pickle.loads(changes["rights"]))
            try:
                pid = fork()
                if pid == 0:
                    for other in (conn.fileno(), parent_fd, *workers):
                        os.close(other)
                    _be_worker(parent_pid, own_pid, number, name, changes, job)
                pidfd = os.pidfd_open(pid)
            except OSError as error:
                conn.send(("failed", error.args))
                continue
            workers[pidfd] = pid
            if "rights" not in changes:
                privileged.add(pidfd)
            poll.register(pidfd, select.POLLIN)
            conn.send(("started", pid))


class _Process(process.BaseProcess):
    _start_method = None  # of what the worker may start itself: whatever is usual


def _be_worker(parent_pid, forked_by, number, name, changes, job):
    code = 1
    # As multiprocessing does in the children that it forks: since 3.13 it is atexit that calls its own clean-up, which
    # waits for what queues have yet to send, and what the program registers in a worker is called too.
    runs_atexit = sys.version_info >= (3, 13)
    try:
        if runs_atexit:
            atexit._clear()
            atexit.register(util._exit_function)
        rights = changes.pop("rights", None)
        if rights is not None:
            process_state.adopt_rights(pickle.loads(rights))
        _core.die_with_parent(forked_by)  # after that: the kernel forgets it when rights change
        process_state.adopt(changes)
        fds, setup, limits = job
        name, identity = name
        worker = _Process(target=worker_main.main, args=(fds, number, setup, limits), name=name)
        worker._identity = identity
        worker._parent_pid = parent_pid
        code = worker._bootstrap(_open_pidfd(parent_pid))
    except BaseException:
        traceback.print_exc()
    finally:
        if runs_atexit:
            atexit._run_exitfuncs()
        os._exit(code)


def _open_pidfd(pid):
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None  # a sandbox refuses it


# ---- a worker, as its parent sees it ----


class _Popen:
    """What multiprocessing.Process asks about a process that it has started."""

    method = "fork"

    def __init__(self, worker):
        self._zygote = worker._zygote
        self.returncode = None
        self.pid = self._zygote.start_worker(worker.number, (worker.name, worker._identity))
        try:
            self.sentinel = os.pidfd_open(self.pid)
        except ProcessLookupError:
            # It has ended and was reaped: a file descriptor that says so.
            self.sentinel, writer = os.pipe()
            os.close(writer)
        self.finalizer = util.Finalize(self, os.close, (self.sentinel,))

    def poll(self, flag=os.WNOHANG):
        if self.returncode is None:
            status = self._zygote.status_of(self.pid, block=flag == 0)
            if status is not None:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            if not connection.wait([self.sentinel], timeout):
                return None
            self.poll(0)
        return self.returncode

    def _send_signal(self, number):
        if self.returncode is None:
            try:
                signal.pidfd_send_signal(self.sentinel, number)
            except ProcessLookupError:
                pass  # it has ended
            except OSError:  # A sandbox refuses that call, or this is the end of a pipe, see above.
                with contextlib.suppress(OSError):
                    if not connection.wait([self.sentinel], 0):
                        os.kill(self.pid, number)

    def interrupt(self):
        self._send_signal(signal.SIGINT)

    def terminate(self):
        self._send_signal(signal.SIGTERM)

    def kill(self):
        self._send_signal(signal.SIGKILL)

    def close(self):
        self.finalizer()


class WorkerProcess(process.BaseProcess):
    """A multiprocessing.Process that a zygote forks."""

    _start_method = None

    def __init__(self, zygote, number, name):
        super().__init__(name=name)
        self._zygote = zygote
        self.number = number

    def is_cloned_from(self, zygote):
        return self._zygote is zygote

    @staticmethod
    def _Popen(worker):
        return _Popen(worker)
