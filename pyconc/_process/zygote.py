"""The zygote: a small process with one thread, of which an executor's workers are clones.

To fork a process that has threads is how programs deadlock.  So an executor forks once, while the program has one
thread, or else has a fresh interpreter do so (see nursery.py); that process waits for requests and forks workers, in a
millisecond each, now or hours later, also to replace one that died.  (A program that still has one thread when it first
submits forks its first worker itself, and the zygote right after it.)

    parent                                    zygote                              worker
      |--- ("wake",) -------------------------->| begins, as a worker is being killed
      |--- ("start", number, name, changes) --->|--- fork ------------------------->|
      |<-- ("started", pid) --------------------|                                   | is admitted, runs tasks
      |--- ("signal", pid, number) ------------>|--- number ----------------------->|   or cannot be watched
      |<-- ("exited", pid, status, rss) --------|<-- its end is seen: reaped -------|

A worker takes nothing before the parent has admitted it, see job_ring.h.  What cannot be started or watched is killed
and reaped before anybody is told.

The parent sees a worker's end by a pidfd of its own.  Where the system refuses that, it believes the zygote, which as
the workers' parent needs none, and learns of the end later if the zygote is stopped.  A zygote cannot tell of its own
death: then the parent kills its workers.

A zygote that is a fork of the program sleeps, in C, until it is woken or asked for a worker, which those of short-lived
pools never are.  Until then neither handlers of forks nor of signals run in it, and it has hardly a page of its own.

The zygote ends when its connection does, or its parent.  Workers end with the zygote, by PR_SET_PDEATHSIG: that
fires when the thread that forked them ends, and the zygote has one.  The zygote ignores Ctrl-C.

Workers are not made the program's own children by clone(CLONE_PARENT), though getppid() and ends would be simpler: the
program's wait for any child would take them, its SIGCHLD handler hear of them, and where it ignores SIGCHLD nobody know
how they ended; they would outlive the zygote and die with the program's thread that forked it; no fork handlers would
run in them, neither Python's nor the C library's; and where the zygote is process 1 of a namespace it is refused.
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
from multiprocessing import connection, get_start_method, process, util

from pyconc import _core, _names
from pyconc._process import kernel, process_state, signals, tracker, worker_main
from pyconc._process.main_module import MainOfFork
from pyconc._process.process_state import ProcessState

__all__ = [
    "ThisProcess",
    "WorkerProcess",
    "Zygote",
    "ZygoteDied",
    "ZygoteFork",
    "ZygoteStopped",
    "fork",
    "is_stopped",
    "kill",
    "leaves_servers",
    "open_end",
    "reason_of",
    "serve",
    "start_process",
    "will_tell",
]


class ZygoteDied(Exception):
    """The zygote is gone; its workers with it."""


class ZygoteStopped(Exception):
    """The zygote does not answer, because it is stopped: it may start the worker yet, or not."""


# How long, in seconds, a zygote may take to answer before the parent looks whether it is stopped.
_LOOK_SECONDS = 0.2

# Where there is no /proc to look in, it is taken to be stopped after so many of these.
_LOOKS_MAX = 10


class Zygote:
    """The parent's end.  One thread at a time uses it: a supervisor, or before there is one, a thread that submits."""

    def __init__(self, pid, conn, state, by_value):
        self.pid = pid
        self.state = state  # the program's, when what the zygote has was made
        self.by_value = by_value  # whether what mentions `__main__` travels by value to its workers
        self._connection = conn
        self._statuses = {}  # pid: (wait status, peak RSS), of workers that have ended
        self._ends = {}  # pid: eventfd to raise at its end, of workers that have no pidfd
        self._dead = False
        self._was_asked = False
        self._late = None  # called when the worker that a stopped zygote was asked for has gone, or never will exist
        self._discarded = None  # that worker's pid, once it was started all the same, and is being killed

    def fileno(self):
        return -1 if self._connection.closed else self._connection.fileno()

    def may_serve(self, wanted):
        """Whether its workers can have the rights that the program has now, which are these, and no others."""
        return wanted == self.state.rights or process_state.may_become(self.state.rights, wanted)

    def start_worker(self, number, name, state=None):
        """Fork a worker; return its pid.  Raises ZygoteDied, ZygoteStopped, or OSError with the reason.

        state: the program's, if the caller has just read it.
        """
        if self._late is not None:
            raise ZygoteStopped
        changes = (state or ProcessState()).changes_since(self.state)
        self._send(("start", number, name, process_state.pack(changes)))
        while True:
            looks = 0
            while not self._has_events(_LOOK_SECONDS):
                looks += 1
                if is_stopped(self.pid, looks):
                    self._late = _nothing
                    raise ZygoteStopped
            message = self._receive()
            if message[0] == "started":
                return message[1]
            if message[0] == "failed":
                raise OSError(*message[1])

    def when_answered(self, function):
        """After ZygoteStopped: have a function called when the worker that was asked for is certain not to be there."""
        late, self._late = self._late, function
        if late is not _nothing:
            late()

    def open_end(self, pid):
        """Return a file descriptor that is readable when a worker has ended: without pidfds when that is known here."""
        end = open_end(pid)
        if end is None:
            end = os.eventfd(0)
            try:
                self._ends[pid] = os.dup(end)
            except OSError:
                os.close(end)
                raise
            if self._dead:
                self._end_all()
            elif pid in self._statuses:
                self._tell(pid)
        return end

    def await_end(self, pid, end):
        """Wait until a worker that was killed has ended; end: what open_end() has returned."""
        looks = 0
        while pid in self._ends:
            if self._has_events(_LOOK_SECONDS):
                with contextlib.suppress(ZygoteDied):
                    self._take_event()
                continue
            looks += 1
            if is_stopped(self.pid, looks):
                self.kill()
        connection.wait([end])

    def is_silent(self, in_doubt):
        """Whether it is stopped while a worker's end can be learned from it alone; in_doubt: if nobody can tell."""
        return bool(self._ends) and is_stopped(self.pid, _LOOKS_MAX if in_doubt else 0)

    def _tell(self, pid):
        end = self._ends.pop(pid, None)
        if end is not None:
            os.eventfd_write(end, 1)
            os.close(end)

    def _end_all(self):
        """Say that all without a pidfd have ended: the kernel kills them, except one that has changed its rights."""
        for pid in list(self._ends):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            self._tell(pid)

    def discard(self, pid):
        """Kill a worker that was started, and wait until it has ended.  Raises ZygoteDied: it has ended with that."""
        self._send(("signal", pid, signal.SIGKILL))
        looks = 0
        while pid not in self._statuses:
            if self._has_events(_LOOK_SECONDS):
                self._receive()
                continue
            looks += 1
            if is_stopped(self.pid, looks):
                self.kill()
        del self._statuses[pid]

    def wake(self):
        """Have it begin now, if it was never asked anything: it is going to be asked for a worker."""
        if not self._was_asked:
            with contextlib.suppress(ZygoteDied):
                self._send(("wake",))

    def signal(self, pid, number):
        """Send a signal to a worker, for a program that has given up the right to; the zygote has it still."""
        with contextlib.suppress(ZygoteDied):
            self._send(("signal", pid, number))

    def status_of(self, pid, timeout):
        """Return the wait status, and the peak RSS or None, of a worker that has ended.

        None if it has not reported that in so many seconds.
        """
        try:
            while pid not in self._statuses and self._has_events(timeout):
                self._take_event()
        except ZygoteDied:
            # It could not tell; but they all ended as the kernel ended this one.
            self._statuses.setdefault(pid, (signal.SIGKILL, None))
        return self._statuses.pop(pid, None)

    def will_tell(self):
        """Whether it is alive and not stopped, so that it tells of every worker's end, however late it gets to run."""
        return will_tell(self.pid)

    def read_events(self):
        """Read what has come.  Raises ZygoteDied when that is its end."""
        while self._has_events(0):
            self._take_event()

    def kill(self):
        """End it, and whatever workers it still has."""
        self._dead = True
        if not self._kill():  # It has rights that we gave up, or somebody else has waited for it.
            kernel.hang_up(self._connection)
        self._connection.close()
        self._end_all()

    def _kill(self):
        """Kill it, which has nothing to tidy up, and may be busy starting; return False if that cannot be done."""
        return self.pid is None or kill(self.pid)

    def join(self):
        """Wait until it has ended."""
        if self.pid is not None:
            pid, self.pid = self.pid, None
            try:
                kernel.reap(pid)
            except ChildProcessError:
                pass  # as above
        self._answer_late()

    def forget(self):
        """In the child of a fork: it is the parent's."""
        self.pid = None
        self._late = None
        self._dead = True
        self._connection.close()
        while self._ends:
            os.close(self._ends.popitem()[1])

    def _send(self, message):
        self._was_asked = True
        try:
            self._connection.send_bytes(pickle.dumps(message))  # frames of send() cannot be collected
        except OSError:
            raise ZygoteDied from None

    def _has_events(self, timeout):
        return self._dead or self._connection.poll(timeout)  # that it has ended is an event, too

    def _receive(self):
        if self._dead:
            raise ZygoteDied
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            self._dead = True
            self._end_all()
            raise ZygoteDied from None
        if message[0] == "exited":
            self._statuses[message[1]] = message[2:]
            self._tell(message[1])
        return message

    def _take_event(self):
        """Read a message that nobody waits for."""
        message = self._receive()
        if message[0] == "started":
            self._discarded = message[1]
            self._send(("signal", message[1], signal.SIGKILL))
        elif message[0] == "failed":
            self._answer_late()
        elif message[1] == self._discarded:
            self._statuses.pop(message[1])
            self._answer_late()

    def _answer_late(self):
        late, self._late, self._discarded = self._late, None, None
        if late is not None:
            late()


def _nothing():
    pass


def kill(pid):
    """Kill a child; return False if this process may not, or somebody else has waited for it."""
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return False
    return True


def is_stopped(pid, looks=0):
    state = _state_of(pid)
    return looks >= _LOOKS_MAX if state is None else state in ("t", "T")


def will_tell(pid):
    return _state_of(pid) in ("R", "S", "D")


def _state_of(pid):
    """Return a process's state as one letter of the kernel's; None if nobody can tell."""
    try:
        stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY)  # open() is gone at the interpreter's end
    except OSError:
        return None
    try:
        return os.read(stat, 1000).rpartition(b")")[2].split()[0].decode()
    except OSError:
        return None  # it has been reaped meanwhile
    finally:
        os.close(stat)


# ---- making one ----


def leaves_servers(initargs):
    """Whether a fork of the program lets go of its server's sockets: where the standard library's workers have none.

    From Python 3.14 on, those are no forks of the program, unless it says so.  What initializers get they have.
    """
    return sys.version_info >= (3, 14) and not initargs and get_start_method(allow_none=True) in (None, "forkserver")


def _leaves_servers(job):
    _, (_, initargs, _), limits = job
    return limits.method != "fork" and leaves_servers(initargs)


def fork(*asleep, leaves_servers=False):
    """Fork a process that ignores Ctrl-C.

    leaves_servers: it has nothing that a server has open for others, see server_sockets.h.
    asleep: (connection, the parent's end, name) of one that is not to begin before it is asked something.
    """
    with signals.BlockInterrupts():
        pid = _core.fork(leaves_servers, tracker.fd_to_leave(), *asleep)
        if pid == 0:
            signals.end_in_child()
            tracker.leave()
    return pid


def reason_of(error):
    """Return the arguments of the OSError that tells why a fork failed: an audit hook raises what it likes."""
    return error.args if isinstance(error, OSError) else (repr(error),)


class ZygoteFork:
    """A zygote that is going to be forked from this process; `job` as for serve().

    It sleeps until it is asked for a worker, which short-lived pools never do.  What can be is made before: what is
    written after a fork, if but a reference count, costs a copy of its page.
    """

    def __init__(self, job):
        self._job = job
        self._ours, self._theirs = kernel.open_connection()
        self._parent = os.getpid()
        self._name = _names.short_name(job[2].name, "-zygote")
        util._flush_std_streams()

    def fork(self):
        """Return the zygote.  Raises OSError."""
        state, main = ProcessState(), MainOfFork()
        pid = fork(*self._asleep(), leaves_servers=_leaves_servers(self._job))
        if pid == 0:
            self._serve(main, state.rights)
        return self._make(pid, main, state)

    def fork_with_worker(self, main):
        """Fork a worker, and at once the zygote, from this thread, the program's only one.

        Return the worker's pid and pidfd, and the zygote; the latter two may be None.  In the worker the pid is 0.
        main: a MainOfFork made just before.  Raises OSError: there is no worker.
        """
        try:
            with signals.BlockInterrupts():
                pid, end, second = _core.fork_pair(_leaves_servers(self._job), tracker.fd_to_leave(), *self._asleep())
                if 0 in (pid, second):
                    signals.end_in_child()
                    tracker.leave()
        except BaseException:
            self.close()
            raise
        if second == 0:
            self._serve(main, None, (pid, end))
        made = None
        if second > 0:
            # What the program has is learned only now: that takes longer than 0.1 ms, and the worker is on its way
            # meanwhile.  Nobody else is there to change it.
            with contextlib.suppress(Exception):
                made = self._make(second, main)
        if made is None:
            self.close()
        return pid, None if end < 0 else end, made

    def _asleep(self):
        return self._theirs.fileno(), self._ours.fileno(), self._name

    def _serve(self, main, rights, sibling=None):
        """Be the zygote.  sibling: (pid, pidfd) of a worker that the parent has forked itself."""
        code = 1
        try:
            self._ours.close()
            signals.reset_in_child()
            serve(self._theirs, self._parent, rights, self._job, main, sibling)
            code = 0
        except BaseException:
            pass  # its parent finds it gone; nothing that the program did, and nothing for its output
        finally:
            os._exit(code)

    def _make(self, pid, main, state=None):
        self._theirs.close()
        try:
            return Zygote(pid, self._ours, state or ProcessState(), main)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # the program ignores SIGCHLD
                os.waitpid(pid, 0)
            raise

    def close(self):
        """Leave it: in another process that was forked, or after a fork that failed."""
        self._ours.close()
        self._theirs.close()


class ThisProcess:
    """In place of a zygote, a program with one thread: it may fork a worker itself, which then starts earlier.

    By this thread, which is the main one and ends with the process.  With `zygote_fork`, it forks that with the first
    worker, so that both have the same: see `zygote`, which is None if there was no room for one.
    It sees the worker's end by a pidfd.
    """

    def __init__(self, job, zygote_fork=None):
        self.zygote = None
        self._job = job
        self._zygote_fork = zygote_fork
        self._end = None  # of a worker that was started, until somebody wants it

    def start_worker(self, number, name, _state=None):
        util._flush_std_streams()
        parent = os.getpid()
        zygote_fork, self._zygote_fork = self._zygote_fork, None
        main = MainOfFork()  # here, and not in each of the children
        if zygote_fork is None:
            pid = fork(leaves_servers=_leaves_servers(self._job))
        else:
            pid, self._end, self.zygote = zygote_fork.fork_with_worker(main)
        if pid == 0:
            _be_worker(parent, parent, number, name, {}, self._job, main)
        return pid

    def open_end(self, pid):
        end, self._end = self._end, None
        return open_end(pid) if end is None else end

    def signal(self, pid, number):
        if self.zygote is not None:
            self.zygote.signal(pid, number)

    def await_end(self, pid, end):
        connection.wait([end])

    def discard(self, pid):
        """Kill a worker, and wait until it has ended."""
        os.kill(pid, signal.SIGKILL)
        self.status_of(pid, None)

    def status_of(self, pid, timeout):
        """Return the wait status, and the peak RSS, of a worker whose end was seen.  Raises ChildProcessError."""
        # If the program has waited for it, or ignores SIGCHLD, nobody can tell.
        return kernel.reap(pid)[1]


# ---- the zygote's own life ----


def serve(conn, parent_pid, rights, job, main=None, sibling=None):
    """Fork workers on request until the connection or the parent ends.

    rights: the program's, when what this process has was made, or None if its only thread has forked it; job: see
    worker_main.main(); main: as for main_module.begin_worker().  sibling: (pid, pidfd) of a worker that the parent has
    forked itself.  Nobody else but workers is signalled, whoever asks.
    """
    # Capabilities are a thread's own: that which has forked this process may have more than the program's main thread,
    # and a fresh interpreter of root's gets back what root gave up.
    if rights is not None:
        with contextlib.suppress(Exception):
            process_state.adopt_rights(rights)
    sibling, sibling_fd = sibling or (None, None)
    try:
        parent_fd = kernel.open_pidfd(parent_pid)
    except ProcessLookupError:
        return
    gc.freeze()  # what is here is here for good; collectors of the workers need not touch it
    poll = select.poll()
    poll.register(conn.fileno(), select.POLLIN)
    if parent_fd is not None:  # else the end of the connection tells
        poll.register(parent_fd, select.POLLIN)
    own_pid = os.getpid()
    children = kernel.Children(poll, with_pidfds=parent_fd is not None)
    privileged = set()  # those that need a zygote which may still signal them: they have what it had at first
    while True:
        for fd, _ in poll.poll():
            if fd == parent_fd:
                return
            ended = children.reap(fd)
            if ended is not None:
                for pid, how in ended:
                    privileged.discard(pid)
                    conn.send(("exited", pid, *how))
                continue
            try:
                what, *args = conn.recv()
            except (EOFError, OSError):
                return
            if what == "signal":
                if args[0] in children:  # or it has been reaped
                    with contextlib.suppress(OSError):
                        os.kill(*args)
                elif args[0] == sibling and sibling_fd is not None:
                    kernel.send_signal(sibling_fd, *args)
            if what != "start":
                continue
            number, name, changes = args
            has_sibling = sibling_fd is not None and not connection.wait([sibling_fd], 0)
            if "rights" in changes and not (privileged or has_sibling):
                # The program has given up rights.  What cannot follow here can perhaps in the worker, or that ends.
                with contextlib.suppress(OSError):
                    process_state.adopt_rights(pickle.loads(changes["rights"]))
            try:
                pid = fork()
                if pid:
                    children.add(pid)
            except Exception as error:
                conn.send(("failed", reason_of(error)))
                continue
            if pid == 0:
                children.leave()
                os.close(conn.fileno())
                for fd in (parent_fd, sibling_fd):
                    if fd is not None:
                        os.close(fd)
                _be_worker(parent_pid, own_pid, number, name, changes, job, main)
            if "rights" not in changes:
                privileged.add(pid)
            conn.send(("started", pid))


def _be_worker(parent_pid, forked_by, number, name, changes, job, main):
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
        _forget_fork_server()
        fds, setup, limits = job
        name, identity = name
        worker = process.BaseProcess(
            target=worker_main.main, args=(fds, number, setup, limits, main), name=name, daemon=False
        )
        worker._start_method = limits.method  # of what the worker may start itself; None: whatever is usual
        worker._identity = identity
        worker._parent_pid = parent_pid
        code = worker._bootstrap(_open_parent(parent_pid))
    except BaseException:
        traceback.print_exc()
    finally:
        if runs_atexit:
            atexit._run_exitfuncs()
        os._exit(code)


def _forget_fork_server():
    """Leave multiprocessing's fork server, if there is one, to the program: only a parent can ask how its server is."""
    module = sys.modules.get("multiprocessing.forkserver")
    if module is not None and module._forkserver._forkserver_pid is not None:
        server = module._forkserver
        with contextlib.suppress(OSError):
            os.close(server._forkserver_alive_fd)
        begun = vars(type(server)())
        vars(server).update({name: begun[name] for name in begun if not name.startswith("_preload")})


def _open_parent(pid):
    try:
        return kernel.open_pidfd(pid)
    except OSError:
        return None  # a worker can do without


# ---- a worker, as its parent sees it ----


def open_end(pid):
    """Return a file descriptor that is readable when a process has ended; None if the system refuses that."""
    try:
        return kernel.open_pidfd(pid)
    except ProcessLookupError:
        # It has ended and was reaped.
        reader, writer = os.pipe()
        os.close(writer)
        return reader


class _Popen:
    """Answers what multiprocessing.Process asks about a process that it started; the supervisor tells how it ended."""

    method = "fork"

    def __init__(self, worker):
        self.returncode = None
        self.has_unknown_end = False
        self.rss = None
        self._has_ended = threading.Lock()
        self._has_ended.acquire()
        self.pid = worker.maker.start_worker(worker.number, (worker.name, worker._identity), worker.state)
        del worker.state
        try:
            self.sentinel = worker.maker.open_end(self.pid)
        except BaseException:
            with contextlib.suppress(ZygoteDied, OSError):
                worker.maker.discard(self.pid)
            raise
        self.finalizer = util.Finalize(self, os.close, (self.sentinel,))

    def poll(self, flag=os.WNOHANG):
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None and self._has_ended.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            self._has_ended.release()
        return self.returncode

    def learn_end(self, maker, timeout):
        if self.returncode is None:
            try:
                end = maker.status_of(self.pid, timeout)
            except ChildProcessError:
                return self.give_up()
            if end is not None:
                status, self.rss = end
                self._end(os.waitstatus_to_exitcode(status))
        return self.returncode is not None

    def give_up(self):
        if self.returncode is None:
            self.has_unknown_end = True
            self._end(_UNKNOWN)
        return True

    def _end(self, code):
        self.returncode = code
        self._has_ended.release()

    def _send_signal(self, number):
        if self.returncode is None:
            kernel.send_signal(self.sentinel, self.pid, number)

    def interrupt(self):
        self._send_signal(signal.SIGINT)

    def terminate(self):
        self._send_signal(signal.SIGTERM)

    def kill(self):
        self._send_signal(signal.SIGKILL)

    def close(self):
        self.finalizer()


# The exit code of a process of which nobody could tell how it ended, as asyncio has it.
_UNKNOWN = 255


class WorkerProcess(process.BaseProcess):
    """A multiprocessing.Process that a zygote forks, or in its place this process."""

    _start_method = None

    def __init__(self, maker, number, name, state=None):
        super().__init__(name=name)
        self.maker = maker  # a Zygote or a ThisProcess
        self.state = state  # until it is started: the program's, for the maker
        self.number = number

    def is_cloned_from(self, zygote):
        return self.maker is zygote

    @property
    def has_unknown_end(self):
        return self._popen.has_unknown_end

    @property
    def rss(self):
        """How many bytes it has had in memory at most, once it has ended; None if nobody tells."""
        return self._popen.rss

    def learn_end(self, timeout):
        """Find out how it ended, now that its end was seen; return False if nobody tells within so many seconds."""
        return self._popen.learn_end(self.maker, timeout)

    def await_end(self):
        """Wait for its end, now that it was killed."""
        self.maker.await_end(self.pid, self.sentinel)

    def give_up(self):
        """Nobody tells."""
        return self._popen.give_up()

    @staticmethod
    def _Popen(worker):
        return _Popen(worker)


def start_process(worker):
    """Do what worker.start() does, in a daemonic process too.

    There multiprocessing refuses, as a daemonic process is killed and its children would be left: workers are not, as
    they end with their parent.
    """
    if not process.current_process().daemon:
        worker.start()
        return
    worker.daemon = False  # what tasks start may be what they like
    process._cleanup()
    worker._popen = worker._Popen(worker)
    worker._sentinel = worker._popen.sentinel
    del worker._target, worker._args, worker._kwargs
    process._children.add(worker)
