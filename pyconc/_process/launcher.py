"""The source of one executor's workers: its zygote, made when it is first needed, and replaced when it is gone.

An executor has none before something is submitted to it.

A process that has threads is not forked, because another thread may hold a lock at that instant, and in the child
nobody would ever release it.  What counts is what Python knows: its threads run the program, and hold the program's
locks.  Threads that only a library knows, such as those of numpy's BLAS, are the library's affair: it stops them before
a fork or makes them anew after it.

    the program has one thread         this thread forks the zygote
    it has others, and had none        the zygote is a clone of the reserve, a fork of the program that all executors
      as the executor was made           share which were made so
    it has others                      the zygote is a clone of the nursery, a fresh interpreter
    it is frozen, embeds Python, or    this thread forks all the same, with the standard warning
      sees no interpreter, in a chroot

A launcher is used by one thread at a time: its supervisor, or before there is one, a thread that submits.
"""

import _thread
import contextlib
import os
import select
import sys
import threading
import warnings
import weakref
from multiprocessing import get_start_method, process

from pyconc._process import kernel
from pyconc._process.interruption import is_from_handler
from pyconc._process.nursery import CannotFork, CannotPickle, the_nursery, the_reserve
from pyconc._process.process_state import ProcessState
from pyconc._process.signals import DeferSignals
from pyconc._process.zygote import (
    ThisProcess,
    WorkerProcess,
    ZygoteDied,
    ZygoteFork,
    ZygoteStopped,
    start_process,
)

__all__ = [
    "Launcher",
    "begin",
    "has_interpreter",
    "is_single_threaded",
    "leave_reserve",
    "prepare",
    "quiet_threads",
    "reap_reserve",
    "worker_fds",
]

# Threads of pyconc's own that hold no lock while another thread forks.  GIL.
quiet_threads: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()


def _after_fork_in_child():
    for thread in list(quiet_threads):
        thread._started.set()  # or it never will be, if it was about to


os.register_at_fork(after_in_child=_after_fork_in_child)

# How often to look whether a thread that has returned is gone: the interpreter counts it a moment longer.
_ENDING_LOOKS = 20


class Launcher:
    """The zygote of one executor.

    queue: the executor's ProcessQueue.  setup, limits: as for worker_main.main().  events: an epoll object, in which
    the zygote's connection is registered.  forks: fork even a program that has threads, with the standard warning.
    key: as for prepare().  box, lender, logs: as for worker_fds().
    """

    def __init__(self, queue, setup, limits, events, forks, key, box, lender, logs):
        self.zygote = None
        self._queue = queue
        self._setup = setup
        self._limits = limits
        self._events = events
        self._forks = forks
        self._key = key
        self._box = box
        self._lender = lender
        self._logs = logs
        self._outdated = []  # zygotes whose rights the program has given up, and whose workers are at work
        self._dropped = []  # zygotes that nobody has waited for yet

    def predict(self, value, stream=b""):
        """Whether something that mentions `__main__` must travel by value, while there is no zygote.  Any thread."""
        if self._forks or is_single_threaded():
            return False  # what there is will be in the workers
        if the_reserve.serves(self._key):
            return the_reserve.by_value(value, stream)
        if not has_interpreter():
            return False
        try:
            return the_nursery.must_go_by_value(value, stream)
        except OSError as error:
            if is_from_handler(error):
                raise
            return False  # nor will there be workers

    def start(self, number, name, workers):
        """Start a worker and return its WorkerProcess.  workers: the executor's others, as far as they may live.

        Raises OSError, or ZygoteStopped: then call when_answered().

        The first one is forked from this thread if the program has no other thread, and then a zygote that has what
        this worker has, while the worker begins.  With a context that forks, all are as long as that is so: they are
        the program's own children then, as the standard library's.
        """
        if _is_preparing():
            from multiprocessing import spawn

            spawn.get_preparation_data(name)  # which says what is wrong
        first = not workers
        if (first or self._forks) and is_single_threaded() and kernel.has_pidfds():
            if first:
                self.drop()  # what the program has defined or imported since is to be there
                the_reserve.leave(self._key)  # if begin() has seen threads that have ended since
            with self.job() as job:
                zygote_fork = None
                if first:
                    with contextlib.suppress(OSError):  # If there is no room for it now, another will be made.
                        zygote_fork = ZygoteFork(job)
                maker = ThisProcess(job, zygote_fork)
                worker = WorkerProcess(maker, number, name)
                try:
                    start_process(worker)
                finally:
                    if maker.zygote is not None:
                        with contextlib.suppress(OSError):  # likewise
                            self._use(maker.zygote)
            return worker
        for _ in range(2):
            state = None if self.zygote is None else ProcessState()
            if state is not None and not self.zygote.may_serve(state.rights):
                # Its workers, which may be at work, end in their time.
                self._outdated.append(self.zygote)
                self.zygote = state = None
            if self.zygote is None:
                self._make_zygote()
            worker = WorkerProcess(self.zygote, number, name, state)
            try:
                start_process(worker)
                return worker
            except ZygoteStopped:
                if self._is_used(workers):
                    raise  # they would end with it
                self.drop()
            except ZygoteDied:
                self.drop()
        raise OSError("the process that starts the workers has died")

    def handle_event(self, fd):
        """Read what the zygote has said if the file descriptor is that of its connection; otherwise return False."""
        for zygote in (self.zygote, *self._outdated):
            if zygote is not None and fd == zygote.fileno():
                try:
                    zygote.read_events()
                except ZygoteDied:
                    self._end(zygote)
                return True
        return False

    def drop_if_unused(self, workers):
        """End the zygote now if none of these workers depends on it."""
        if self.zygote is not None and not self._is_used(workers):
            self.drop()

    def _is_used(self, workers):
        return any(isinstance(worker, WorkerProcess) and worker.is_cloned_from(self.zygote) for worker in workers)

    def wake(self):
        """A worker is being killed, and another is going to take its place: the zygote can begin meanwhile."""
        if self.zygote is not None:
            self.zygote.wake()

    def when_answered(self, function):
        """After ZygoteStopped: call a function when it is certain that there is no such worker, and will be none."""
        self.zygote.when_answered(function)

    def drop_silent(self, in_doubt):
        """End a zygote that would not tell of the end of workers which were killed: it is stopped, or may be."""
        if self.zygote is not None and self.zygote.is_silent(in_doubt):
            self.drop()

    def drop(self):
        """End the zygote, and whatever workers it still has."""
        if self.zygote is not None:
            self._end(self.zygote)

    def _end(self, zygote):
        if zygote is self.zygote:
            self.zygote = None
        else:
            self._outdated.remove(zygote)
        try:
            self._events.unregister(zygote.fileno())
        except (OSError, ValueError):
            pass
        zygote.kill()
        self._dropped.append(zygote)

    def close(self):
        """End the zygote, and wait for all there were."""
        self.drop()
        while self._outdated:
            self._end(self._outdated[-1])
        self.reap_dropped()

    def leave_reserve(self):
        """The executor needs no worker any more."""
        leave_reserve(self._key)

    def reap_dropped(self):
        """Wait for the zygotes that were ended: none of them stays a zombie."""
        while self._dropped:
            self._dropped.pop().join()
        the_reserve.reap()

    def forget(self):
        """In the child of a fork: the zygote is the parent's."""
        if self.zygote is not None:
            self.zygote.forget()
            self.zygote = None
        for zygote in self._outdated:
            zygote.forget()
        self._outdated.clear()
        self._dropped.clear()

    @contextlib.contextmanager
    def job(self):
        """What whoever runs a worker has to know; the file descriptors in it are for a child that is made meanwhile."""
        fds = []
        try:
            for fd in worker_fds(self._queue, self._box, self._lender, self._logs):
                fds.append(os.dup(fd))
            yield (fds, self._setup, self._limits)
        finally:
            for fd in fds:
                os.close(fd)

    def _make_zygote(self):
        with self.job() as job:
            if is_single_threaded():
                self._fork_zygote(job)
                return
            if the_reserve.serves(self._key):
                try:
                    self._use(the_reserve.clone(self._key, *job))
                    return
                except CannotFork:
                    raise  # the nursery's clone would not have what the program has, and nobody would say so
                except OSError as error:
                    if is_from_handler(error):
                        raise
                    # It has ended.
            if not self._forks and has_interpreter():
                try:
                    self._use(the_nursery.clone(*job))
                    return
                except CannotPickle as error:
                    # Only a fork can hand it on, and that is what the standard library's executor would do.
                    if get_start_method() != "fork":
                        raise error.__cause__ from None
            _warn_of_fork()
            self._fork_zygote(job)

    def _fork_zygote(self, job):
        self._use(ZygoteFork(job).fork())
        the_reserve.leave(self._key)

    def _use(self, zygote):
        self.zygote = zygote
        self._queue.decide_by_value(zygote.by_value)
        try:
            self._events.register(zygote.fileno(), select.EPOLLIN)
        except OSError:
            self.drop()  # nobody would see its end
            raise


def prepare(key, executor):
    """Have an executor's workers started from the program as it is now, should it have more threads as it submits."""
    # Not in a script that a nursery, or multiprocessing, runs up to its guard.
    if not _is_preparing() and is_single_threaded():
        try:
            the_reserve.renew(key, executor)
        except Exception as error:
            if is_from_handler(error):
                raise
            # An audit hook, for instance, that refuses: submit() will say so.


def begin(key):
    """Something is submitted to that executor: end the reserve if it is not needed.

    Now, not as the first worker starts: each page that the program shares with it is copied when it is written.
    """
    if the_reserve.has(key) and is_single_threaded():
        with DeferSignals():
            the_reserve.leave(key)


def reap_reserve():
    """Wait for the reserve that begin() has ended: the program's own wait for any child is not to find it."""
    the_reserve.reap()


def leave_reserve(key):
    """Nothing will be submitted to that executor."""
    the_reserve.leave(key)
    the_reserve.reap()


def worker_fds(queue, box, lender, logs):
    """Return the file descriptors that a worker of this queue needs, for worker_main.main().

    The region, the result handler's eventfd, that of `box`, a BlackBox, the line of `lender`, a tracker.Lender; the
    socket and the levels of loggers of `logs`, a Receiver or None; and the doorbells of workers that run event loops,
    or the eventfd by which workers ask for relief, if they do.
    """
    box_fd = box.fileno()
    relief_fds = [queue.relief_fd] if queue.relief_fd >= 0 else []
    line = lender.line()
    # An eventfd in its place: no process can open that anew, so there is no black box, nor is it a socket.
    box_fd = queue.wakeup_fd if box_fd is None else box_fd
    line = queue.wakeup_fd if line is None else line
    log_fds = [] if logs is None else logs.worker_fds()
    return [queue.region.fileno(), queue.wakeup_fd, box_fd, line, *log_fds, *queue.doorbells, *relief_fds]


def _is_preparing():
    return getattr(process.current_process(), "_inheriting", False)


def has_interpreter():
    """Whether there is a fresh interpreter, or one can be started: a frozen or embedding program is no such thing."""
    return the_nursery.is_ready() or _can_start_interpreter()


def _can_start_interpreter():
    if getattr(sys, "frozen", False):
        return False
    try:
        from multiprocessing import spawn
    except ImportError:
        return False  # nor would that interpreter find the library, in the program's new root, say
    executable = spawn.get_executable()
    is_python = executable and "python" in os.path.basename(os.fsdecode(executable)).lower()
    return bool(is_python) and os.access(executable, os.X_OK)


def is_single_threaded():
    """Whether a fork is safe: Python knows no thread that runs but this one, and quiet ones."""
    if _thread._count() == 0:
        return threading.active_count() == 1
    if threading.current_thread() in quiet_threads:
        return False  # there is a thread that has submitted
    for _ in range(_ENDING_LOOKS):
        quiet = sum(thread.is_alive() for thread in list(quiet_threads))
        if threading.active_count() > 1 + quiet:
            return False
        if _thread._count() <= quiet:
            return True
        os.sched_yield()  # A thread that was not made by threading, or one that is ending.
    return False


def _warn_of_fork():
    """As os.fork() does from Python 3.12 on, but before it is too late.

    Where warnings are errors (-W error), only os.fork() of Python 3.15 raises it: older ones have forked by then.
    """
    if sys.version_info >= (3, 12):
        text = f"This process (pid={os.getpid()}) is multi-threaded, use of fork() may lead to deadlocks in the child."
        try:
            warnings.warn(text, DeprecationWarning, stacklevel=2)
        except DeprecationWarning:
            if sys.version_info >= (3, 15):
                raise
