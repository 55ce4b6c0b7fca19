"""The supervisor: the thread of a process executor that alone starts, watches, reaps and replaces its workers.

    submit -----> start_workers() --poke--> supervisor --> launcher --> a worker: known, then admitted
       '--- waits until a worker is there, or none can be started <--'
    shutdown ---> the queue is closed ---> result handler: all is delivered --poke--> supervisor: the workers leave

The supervisor sleeps in one epoll: on its eventfd, the zygote's connection, the end of each worker, and a timer that
runs while tasks are ready.  The result handler fails what is lost (see result_handler.py), so a callback holds up no
worker.  A program's other threads wait for the supervisor in start_workers() and shutdown() only, where they may be
interrupted.  The supervisor holds no lock.

    NEW --------> SERVING --------> CLOSING --------> ENDED
     |  threads      |  all is done    ^   no worker     ^     inherited: in the child of a fork, any state ends
     |  started      | kill, breakdown |   is left       |
     |               '----> ENDING ----'                 |
     '-------------- shut down unused -------------------'

    NEW      no thread, no process
    SERVING  workers are started while tasks outnumber them, and replaced when they die
    ENDING   the workers are being ended, or the executor is broken: none is started, every task fails
    CLOSING  every task has been delivered: the workers leave, none is started
    ENDED    nothing is left

watched_worker.py draws a worker's life, call_stopper.py ends calls, worker_death.py says what a death is called, and
at_exit.py has the interpreter's exit end what is left.

With max_rss_per_child each worker has two numbers, for itself and for the one that is to replace it, in turn:
job_ring.h tells how they change places.  Of the two, one counts as a worker.
"""

import contextlib
import enum
import itertools
import os
import select
import signal
import threading
import time
import weakref
from collections import deque
from concurrent.futures import _base, process
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import context as contexts
from multiprocessing import reduction

from pyconc import _core
from pyconc._process import black_box, chunks, kernel, tracker, watched_worker, worker_death, worker_main
from pyconc._process.at_exit import end_at_exit
from pyconc._process.call_stopper import CallStopper
from pyconc._process.interruption import is_from_handler
from pyconc._process.launcher import (
    Launcher,
    has_interpreter,
    is_single_threaded,
    quiet_threads,
    reap_reserve,
    worker_fds,
)
from pyconc._process.result_handler import ResultHandler
from pyconc._process.signals import DeferSignals
from pyconc._process.watched_worker import SIGNALS, WatchedWorker, WorkerState, end_process
from pyconc._process.worker_death import ABRUPTLY, BROKEN, DAMAGED, FORCED, INITIALIZER_FAILED
from pyconc._process.zygote import ZygoteStopped, start_process
from pyconc._shutdown import SPARE
from pyconc._started import Started

__all__ = ["State", "Supervisor"]

# There are slots for so many tasks of each worker, and of all, at most; where workers run coroutines, of all at least.
# More of them serve long bursts better, but a short-lived pool waits for their memory.
_TASKS_A_WORKER = 32
_TASKS = 512

# So many workers may die while nothing gets done, each begun after the one before had died: what one dies of may have
# to do with the system, and be over.  With the next the executor is broken.
_FALSE_STARTS = 3

# The most seconds to wait at a time for a call's grace to be over: epoll refuses what is no int of milliseconds.
_LONGEST_WAIT = 86400.0

# How long, in seconds, to ask workers for their stacks that are killed as shutdown() wants.
_STACK_SECONDS = 0.02


class State(enum.Enum):
    """Of a supervisor; see the drawing above."""

    NEW = enum.auto()
    SERVING = enum.auto()
    ENDING = enum.auto()
    CLOSING = enum.auto()
    ENDED = enum.auto()


_NEXT = {
    State.NEW: {State.SERVING, State.ENDED},
    State.SERVING: {State.NEW, State.ENDING, State.CLOSING, State.ENDED},  # NEW: no thread could be started
    State.ENDING: {State.CLOSING, State.ENDED},
    State.CLOSING: {State.ENDED},
    State.ENDED: set(),
}


class _Starter:
    """A thread that waits in start_workers()."""

    def __init__(self):
        self.error = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self):
        self._lock.acquire()

    def answer(self, error):
        self.error = error
        self._lock.release()


class Supervisor:
    """The workers of one executor, and the thread that looks after them; they may outlive the executor.

    Until the thread runs, `_begin_lock` guards everything; then the thread alone changes what is below, except what is
    marked "any".  Everybody may read, with the GIL.
    """

    state = State.ENDED  # until __init__ is done

    def __init__(
        self, max_workers, context, setup, limits, on_worker_death, kills_trees, key, name, timed, waits_at_exit=True
    ):
        """setup, limits: as for worker_main.main(); key: the executor's, for launcher.prepare(); name: for people.

        timed: whether stats() tells for how long calls wait. waits_at_exit: whether the interpreter's exit waits for
        the tasks.
        """
        concurrency, has_successors = limits.concurrency, limits.rss is not None
        shown = name.encode(errors="replace")
        if concurrency is None:
            slots = _slots_for(min(_TASKS_A_WORKER * max_workers, _TASKS))
            self.queue = _core.ProcessQueue(max_workers, slots, False, has_successors, shown, timed)
        else:
            slots = _slots_for(max(max_workers * concurrency, _TASKS))
            self.queue = _core.ProcessQueue(max_workers, slots, True, False, shown, timed)
        self.max_workers = max_workers
        self.call_ns = chunks.CallTimes()
        self.streams = weakref.WeakSet()  # of a CoroutinePool: those that are open, and keep the queue open
        self.name = name
        self.thread = None
        self.handler = None  # the result handler
        self.broken = None  # why no task is accepted any more
        self.forced = False  # the executor's user has told it to end its workers; any
        self.processes = {}  # pid: multiprocessing.Process
        self._context = context
        self._setup = setup
        self.forks = context is not None and context.get_start_method() == "fork"
        # Whether workers are clones, of this process or of a zygote, and not the context's own processes.
        self._clones = context is None or (self.forks and context.Process in _FORKED)
        if self.forks:
            limits = limits._replace(method="fork")
        self._logs = None
        if limits.logs is not None:
            from pyconc import _logs  # more than others need, in each fork of the program too

            self._logs = _logs.Receiver()
            self.queue.call_before_delivery(self._logs.wait)
        self._limits = limits
        self._on_worker_death = on_worker_death
        self._kills_trees = kills_trees  # with a worker it ends what that worker's tasks have started
        self._events = kernel.open_epoll()
        self._workers = {}  # file descriptor that tells of its end: WatchedWorker
        self._watched = []  # workers that are not admitted yet
        self._condemned = set()  # numbers of workers that are ended because the memory that all share is damaged
        self._gone = []  # workers of which nobody has told how they ended
        self._free_numbers = list(range(max_workers - 1, -1, -1))
        self._has_successors = has_successors
        self._owes_successor = False  # one could not be started
        self._late_successors = set()  # numbers of those that a stopped zygote may start yet
        self._count = itertools.count()
        self._false_starts = 0
        self._generation = 0  # counts what was done, and false starts
        self._starters = {}  # any: of each thread that waits for a start, by its number
        self._refusal = None  # why no worker could be started when the last task failed for that
        self._orders = deque()  # "kill" or "terminate", the latest last; any
        self._passed_on = 0  # how many of them were, to workers that the program may not signal
        self._shutdowns = deque()  # (when what is left is to be stopped, its grace), of shutdown(timeout=); any
        self._stop_at = None  # the earliest of these
        self._grace = 0.0
        self.kill_at = None  # when what is left then is killed, once it was stopped
        self._has_killed = False
        self._starts_all = False  # as many workers as there may be are wanted; any
        self._replaces = 0  # so many workers were killed because of their calls: as many others are to begin
        self._waits_at_exit = waits_at_exit
        self._begin_lock = threading.RLock()  # re-entrant: what a destructor submits while it is held starts later
        self._begins = False
        self._box = black_box.BlackBox()
        self._lender = tracker.Lender(has_interpreter)
        self._call_stopper = CallStopper(self.queue, self._box, concurrency is not None)
        self._oom_kills = None
        shared = self._box, self._lender, self._logs
        self.launcher = Launcher(self.queue, setup, limits, self._events, self.forks, key, *shared)
        if context is None:
            self.queue.decide_by_value(self.launcher.predict)
        self.state = State.NEW

    def _enter(self, state):
        assert state in _NEXT[self.state], (self.state, state)
        self.state = state

    # ---- any thread ----

    def start_workers(self):
        """Have workers started until there are as many as tasks; return when that is done, or cannot be done now.

        Raises what kept the first worker, or a thread, from being started.
        """
        has_begun = self.state is State.NEW and self._begin()
        if has_begun and not self._starts_all and self.queue.outstanding() <= len(self._workers):
            return  # the supervisor admits the worker that this thread has forked
        if self.state is not State.SERVING or not (self._free_numbers or self._starters):
            return  # or the dead are being reaped, and the supervisor then starts others
        if threading.current_thread() is self.thread:
            return  # user's code that the supervisor calls, such as a __reduce__
        thread_id = threading.get_ident()
        if thread_id in self._starters:
            self.queue.poke()
            return  # a signal handler of a thread that waits already
        starter = _Starter()
        try:
            self._starters[thread_id] = starter
            if self.state is State.ENDED:
                return
            self.queue.poke()
            starter.wait()
        finally:
            self._starters.pop(thread_id, None)  # it is there yet if it was not answered
        if starter.error is not None:
            raise starter.error

    def list_workers(self):
        """Return those that are watched, in the order of their numbers."""
        return sorted(self._workers.values(), key=lambda worker: worker.number)

    def read_progress(self, number, began):
        """Return what the call of a worker that began then has told of its progress, or None."""
        return self._box.read_progress(number, began)

    def start_all(self):
        """Start as many workers as there may be, before there is anything to do."""
        self._starts_all = True
        self.start_workers()

    def kill(self, operation="kill"):
        """End the workers whatever they do; what they ran, or was queued, fails."""
        self._orders.append(operation)  # first: a worker that is being started sees it
        for worker in () if self._kills_trees else list(self.processes.values()):
            getattr(worker, operation)()
        self.queue.poke()

    def close(self):
        """The queue is closed: if nothing was ever submitted, let go of everything."""
        if self.state is not State.NEW:
            return
        with DeferSignals(), self._begin_lock:
            if self.state is not State.NEW or self._begins:
                return
            if self.queue.outstanding() == 0:
                self._enter(State.ENDED)
                self._let_go()
                return
        self.start_workers()  # another thread has submitted, but is not further than that

    def end_by(self, deadline, grace):
        """Stop at that time what may be stopped, and kill what is left after its grace, or after this one."""
        self._shutdowns.append((deadline, grace))
        self.queue.poke()

    def join(self):
        """Wait until everything has ended."""
        if self.handler is not None:
            self.handler.join()

    def join_by(self, deadline, grace):
        """Do the same after end_by(), but no longer than all that may take."""
        handler = self.handler
        while handler is not None and handler.is_alive():
            left = max(deadline + grace, self.kill_at or 0.0) + SPARE - time.monotonic()
            if left <= 0:
                _base.LOGGER.warning(
                    "%s: shutdown() returns because its time is over; processes, or callbacks, are still ending",
                    self.name,
                )
                return
            handler.join(left)

    def __del__(self, new=State.NEW, ended=State.ENDED):  # at the end of an interpreter this module is empty
        if self.state is new:
            self.state = ended
            # Another thread may have been quicker to make the executor's.  If the executor is gone, the reserve knows.
            self._let_go(leaves_reserve=False)

    def inherit(self, lost):
        """In the child of a fork: workers and tasks are the parent's; lost: the exception of the tasks."""
        self.state = State.ENDED
        self._begin_lock = threading.RLock()
        self.queue.after_fork(lost)
        self._events.close()
        self._box.close()
        self._lender.forget()
        if self._logs is not None:
            self._logs.close()
        self.launcher.forget()
        handler, self.handler, self.thread = self.handler, None, None
        if handler is not None:
            process._threads_wakeups.pop(handler, None)
        self._answer(None)  # a signal handler of a thread that waits may have forked

    # ---- the beginning: in a thread that submits ----

    def _begin(self):
        """Start the threads, and what this thread has to fork; return False if somebody else does."""
        with DeferSignals(), self._begin_lock:
            if self.state is not State.NEW or self._begins:
                return False
            self._begins = True
            try:
                kernel.require_calls(self._events, self._clones)
                if self._clones or self.forks:
                    self._start_here()
                self._start_threads()
                reap_reserve()  # here: it has had all that time to end
                return True
            except BaseException:
                self._abandon_workers()
                raise
            finally:
                self._begins = False

    def _start_here(self):
        """Start what this thread has to fork: while the program has no other, or because it wants that all the same."""
        if not (self.forks or is_single_threaded()):
            return
        while len(self._workers) < (self.max_workers if self.forks else 1):
            self.queue.add_worker(1)
            try:
                self._start_worker()
            except OSError as error:
                if not self._workers or is_from_handler(error):
                    raise
                return  # Those there are will do.

    def _start_threads(self):
        fds = kernel.supervise(self.queue)
        more_fds = [self.queue.relief_fd] if self._has_successors else []
        if self._lender.line() is not None:
            more_fds.append(self._lender.fileno())
        if self._logs is not None:
            quiet_threads.add(self._logs.start(f"{self.name}_logs", self._waits_at_exit))
        handler = ResultHandler(f"{self.name}_result_handler", self.queue, self.kill)
        thread = threading.Thread(name=f"{self.name}_supervisor", target=self._supervise, args=fds)
        thread.daemon = handler.daemon = not self._waits_at_exit
        thread._started.__class__ = handler._started.__class__ = Started
        quiet_threads.add(thread)
        handler.supervisor_thread = thread
        handler.start()
        try:
            for fd in (*fds, *more_fds):
                self._events.register(fd, select.EPOLLIN)
            self.handler, self.thread = handler, thread
            self._enter(State.SERVING)
            thread.start()
        except BaseException:
            if self.state is State.SERVING:
                self._enter(State.NEW)
            self.handler = self.thread = None
            for fd in (*fds, *more_fds):
                with contextlib.suppress(OSError):
                    self._events.unregister(fd)
            handler.close(self.queue)
            raise
        end_at_exit(handler, self, self._waits_at_exit)

    def _abandon_workers(self):
        """No thread would look after them."""
        self._watched.clear()
        for worker in list(self._workers.values()):
            end_process(worker.process)
            self._forget(worker)
            self._settle(worker)

    # ---- the thread ----

    def _supervise(self, poke_fd, timer_fd):
        """Live the life of the thread; the arguments are what ProcessQueue.supervise() returns."""
        _core.name_thread("pyconc-watch")
        self._oom_kills = black_box.OomKills()  # before a worker may run anything
        self._admit_watched()
        while True:
            # One at a time: what is done about one event may close a file whose number the next one has.
            fd = self.queue.await_event(self._events.fileno(), self._seconds_to_wait())
            if self.state is State.ENDED:
                return  # in the child of a fork that this thread made
            if fd is None:
                if not (self._call_stopper.is_due() or self._is_late()):
                    self._reap_gone(gives_up=True)
            elif fd in (poke_fd, self.queue.relief_fd):
                os.eventfd_read(fd)
            elif fd == timer_fd:
                pass  # calls are to be stopped
            elif fd == self._lender.fileno():
                self._lend_tracker()
            elif fd in self._workers:
                self._see_end(self._workers[fd])
            elif self.launcher.handle_event(fd):
                self._reap_gone(gives_up=False)
            self._go_on()
            if self.state is State.ENDED:
                return

    def _lend_tracker(self):
        """Let workers use the program's resource tracker.  A lock may be held meanwhile, so nobody is to fork."""
        quiet_threads.discard(self.thread)
        try:
            goes_on = self._lender.answer()
        finally:
            quiet_threads.add(self.thread)
        if not goes_on:
            self._events.unregister(self._lender.fileno())  # else it would be ready for ever: zygotes have it, too
            self._lender.forget()

    def _go_on(self):
        """Do what the state asks for, after any event."""
        is_deserted = self.forced and not self._workers and not self._gone  # and none is to be started
        if self.state is State.SERVING and (self._orders or is_deserted):
            self._enter(State.ENDING)
        if len(self._orders) > self._passed_on:
            self._passed_on = len(self._orders)
            if self._kills_trees:
                self.end_workers(self._workers.values(), self._orders[-1])
            for worker in self._workers.values():
                worker.pass_on(SIGNALS[self._orders[-1]])
        self._end_late()
        self._call_stopper.stop_calls(self)
        if self.queue.take_condemned():  # last: to stop a call may show that the ring is damaged
            self._condemn_workers()
        if self.state is State.SERVING:
            self._start_missing()
            self._start_successors()
        if self.state is State.ENDING and self._workers:
            self.launcher.drop_silent("kill" in self._orders)
        if self.state is State.ENDING and not self._workers and not self._gone:
            self.queue.fail_all(lambda *_: BrokenProcessPool(self.broken or (FORCED if self.forced else ABRUPTLY)))
        if self.state in (State.SERVING, State.ENDING) and self.handler.is_over:
            self._enter(State.CLOSING)
            self.queue.close_workers()
            self.queue.decide_by_value(None)
            # So that it ends while they do.
            self.launcher.drop_if_unused([worker.process for worker in self._workers.values()])
        if self.state is State.CLOSING and not self._workers and not self._gone:
            self._enter(State.ENDED)
            self._let_go()
        if self.state is not State.SERVING:
            self._answer(None)
        # After the waiting threads have been told: they run while the new workers begin.
        self._admit_watched()
        self.launcher.reap_dropped()

    # ---- calls that are to end ----

    def _seconds_to_wait(self):
        waits = [watched_worker.REPORT_SECONDS] if self._gone or self._owes_successor else []
        dues = [due for due in (self._call_stopper.due(), self._late_at()) if due is not None]
        if dues:
            waits.append(min(max(0.0, min(dues) - time.monotonic()), _LONGEST_WAIT))
        return min(waits, default=None)

    def worker_with(self, number):
        """Return the worker with a number if it is watched, or None."""
        return next((worker for worker in self._workers.values() if worker.number == number), None)

    # ---- shutdown(timeout=) ----

    def _late_at(self):
        """Return when _end_late() has something to do, or None."""
        if self._has_killed:
            return None
        return self._stop_at if self.kill_at is None else self.kill_at

    def _is_late(self):
        due = self._late_at()
        return due is not None and due <= time.monotonic()

    def _end_late(self):
        """When the time is over, stop what is left, as far as it may be stopped; after its grace, kill the rest."""
        while self._shutdowns:
            deadline, grace = self._shutdowns.popleft()
            if self._stop_at is None or deadline < self._stop_at:
                self._stop_at, self._grace = deadline, grace
        if not self._is_late():
            return
        if self.kill_at is None:
            for stream in list(self.streams):
                stream.end("the pool was shut down")
            self.queue.cancel_later(False)
            self.kill_at = time.monotonic() + max(self._grace, self.queue.longest_grace())
            return
        self._has_killed = True
        for worker in self._workers.values():
            worker.is_late = True
        for worker, stack in self._stacks_of(self._workers.values(), _STACK_SECONDS):
            worker.stack = stack
        self.forced = True
        self.kill()

    def _start_missing(self):
        """Start workers until there are as many as tasks, and tell the threads that wait for that."""
        error = None
        try:
            while self._starts_all and self._free_numbers and self._may_start():
                self.queue.add_worker(1)
                self._start_worker()
            self._starts_all = False
            while self._replaces and self._free_numbers and self._may_start() and not self.queue.is_done():
                self._replaces -= 1
                self.queue.add_worker(1)
                self._start_worker()
            self._replaces = 0
            while self._free_numbers and self._may_start() and self.queue.reserve_worker():
                self._start_worker()
        except Exception as caught:
            self._starts_all = False
            self._replaces = 0
            if not self._workers and not self._gone:
                error = self._refusal = caught
                # They would wait for ever; the next submit() has another try made.
                self.queue.fail_queued(lambda *_: worker_death.no_worker(error))
            # Otherwise those there are will do, and the next submit has another try made.
        if self._workers:
            self._refusal = None
        elif self._starters and error is None:
            # A thread that had submitted, and had not come to wait, when its task failed.
            error, self._refusal = self._refusal, None
        self._answer(error)

    def _start_successors(self):
        """Start a worker beside each that asks to be replaced; the queue has the two take turns, see job_ring.h."""
        self._owes_successor = False
        if not self._has_successors or self.queue.is_done():
            return
        for worker in list(self._workers.values()):
            number = self._twin(worker.number)
            if not self.queue.wants_relief(worker.number) or self._is_there(number) or not self._may_start():
                continue
            try:
                self._start(number)
            except ZygoteStopped:
                self._late_successors.add(number)
                self.launcher.when_answered(lambda number=number: self._late_successors.discard(number))
            except Exception:
                self._owes_successor = True  # the worker goes on meanwhile

    def _twin(self, number):
        """Return the number of the worker that replaces this one, and that this one replaces."""
        return (number + self.max_workers) % (2 * self.max_workers)

    def _is_there(self, number):
        workers = (*self._workers.values(), *self._gone)
        return number in self._late_successors or any(worker.number == number for worker in workers)

    def _may_start(self):
        return self.state is State.SERVING and not self._orders and not self.forced

    def _answer(self, error):
        while self._starters:
            try:
                _, starter = self._starters.popitem()
            except KeyError:
                return
            starter.answer(error)

    # ---- a worker's start ----

    def _start_worker(self):
        """Start a worker that the queue has counted; whatever fails, none is left that nobody knows."""
        number = self._free_numbers.pop()
        try:
            self._start(number)
        except ZygoteStopped:
            # It may start that worker yet: then the worker is known, or killed.  Until then its number is not free.
            self.queue.add_worker(-1)
            self.launcher.when_answered(lambda: self._free_numbers.append(number))
            raise OSError("the process that starts the workers is stopped") from None
        except BaseException:
            self.queue.add_worker(-1)
            self._free_numbers.append(number)
            raise

    def _start(self, number):
        launched = self._launch(number)
        self._watched.append(self._watch(number, launched))

    def _admit_watched(self):
        while self._watched:
            worker = self._watched.pop()
            self.queue.admit(worker.number, worker.process.pid, worker.end)
            if self._orders:  # they came while it was being started
                getattr(worker.process, self._orders[-1])()

    def _launch(self, number):
        """Return the multiprocessing.Process of a new worker.  If this raises, there is none."""
        name = f"{self.name}_{next(self._count)}"
        if self._clones:
            return self.launcher.start(number, name, list(self.processes.values()))
        if self.forks:
            with self.launcher.job() as (fds, *rest):
                args = (fds, number, *rest)
                launched = self._context.Process(target=worker_main.spawned_main, args=args, name=name)
                start_process(launched)
            return launched
        fds = [_LateFd(fd) for fd in worker_fds(self.queue, self._box, self._lender, self._logs)]
        args = (fds, number, self._setup, self._limits)
        launched = self._context.Process(target=worker_main.spawned_main, args=args, name=name)
        start_process(launched)
        return launched

    def _watch(self, number, launched):
        """Watch a process; if that cannot be done, end it."""
        worker = None
        try:
            worker = WatchedWorker(number, launched, self._generation)
            self._events.register(worker.end, select.EPOLLIN)
        except BaseException:
            end_process(launched)
            if worker is not None:
                worker.close()
            raise
        if self._logs is not None:
            worker.last_log = self._logs.keep_last(launched.pid)
        worker.enter(WorkerState.WATCHED)
        self._workers[worker.end] = worker
        self.processes[launched.pid] = launched
        return worker

    # ---- a worker's end ----

    def _see_end(self, worker):
        self._forget(worker)
        self._gone.append(worker)
        self._reap_gone(gives_up=False)

    def _forget(self, worker):
        worker.enter(WorkerState.GONE)
        del self._workers[worker.end]
        self._events.unregister(worker.end)
        self.queue.forget_pidfd(worker.number)
        worker.close()

    def _reap_gone(self, gives_up):
        """Reap the workers of which it is known how they ended; with gives_up, the others too."""
        for worker in list(self._gone):
            if worker.learn_end(self._context, gives_up):
                self._gone.remove(worker)
                self._reap(worker)

    def _reap(self, worker):
        left_task, progress = self._settle(worker)
        if left_task or progress:
            self._false_starts = 0
            self._generation += 1
        if not self._goes_on():
            return
        code = worker.exit_code()
        if worker.number in self._condemned:
            self._condemned.discard(worker.number)
        elif worker.is_stopped:
            self._false_starts = 0
            self._replaces += 1  # the next call is not to wait for its start
        elif code == worker_main.INITIALIZER_FAILED and not left_task:
            self._break_down(INITIALIZER_FAILED, ABRUPTLY)
        elif code == worker_main.IDLED and not left_task:
            pass  # The next task that finds too few workers has one started.
        elif left_task or not self._may_leave(code):
            if self._on_worker_death == "break":
                self._break_down(BROKEN, ABRUPTLY, worker_death.quote(worker))
                return
            if (
                worker.generation == self._generation
            ):  # else it had begun, and others have worked since, or have failed to begin
                self._false_starts += 1
                self._generation += 1
            if self._false_starts > _FALSE_STARTS:
                self._break_down(BROKEN, "workers die before they run anything", worker_death.quote(worker))
        else:
            self.queue.count_recycled()

    def _goes_on(self):
        """Whether nobody has told the executor to end, so that it has to go on after a death, or to break."""
        return self.state is State.SERVING and not self._orders and not self.forced

    def _settle(self, worker):
        """Free a worker's number; what it had taken is lost."""
        worker.enter(WorkerState.REAPED)
        worker.process.join(0)  # multiprocessing forgets it
        is_condemned = worker.number in self._condemned
        code = worker.exit_code()
        if code == worker_main.MEMORY_DAMAGED:
            self.queue.condemn()
        words = self._box.take(worker.number)
        if code == -signal.SIGKILL and None not in (words, worker.stack):
            worker.stack += words  # the rest of its answer, for which nobody has waited: it wrote nothing else
        else:
            worker.stack = words or worker.stack
        worker.stack = black_box.trim(worker.stack)
        if not (is_condemned or self._orders or self._oom_kills is None):
            worker.oom = self._oom_kills.explain(code)
        has_twin = self._has_successors and self._is_there(self._twin(worker.number))
        if has_twin:
            self.queue.add_worker(1)  # of the two one has counted, and the one that is left does
        breaks = self._on_worker_death == "break" and self._goes_on() and not (is_condemned or worker.is_stopped)

        def make_error(*task):
            if breaks:  # by a task that is lost: before its future tells that, submit() refuses others
                self._refuse(BROKEN)
            return worker_death.death_of(worker, *task, is_condemned, self._limits.memory)

        settled = self.queue.reap(worker.number, make_error)
        self.processes.pop(worker.process.pid, None)
        if not has_twin:
            self._free_numbers.append(worker.number)
        return settled

    def _may_leave(self, code):
        """Whether a worker that leaves no task behind has done so properly."""
        # None: the program has waited for it, or has the kernel do so, and nobody else was told.
        is_replaced = self._limits.tasks is not None or self._has_successors
        if code == worker_main.INTERRUPTED_IMPORT:
            return True
        return code in (0, None) and (is_replaced or self.queue.is_done())

    def _break_down(self, reason, message, quoted=None):
        """Refuse tasks from now on, fail all there are, and end the workers."""
        self._refuse(reason)
        self._enter(State.ENDING)
        self.queue.fail_all(lambda *_: worker_death.broken(message, quoted))
        self.end_workers(self._workers.values(), "terminate")

    def _refuse(self, reason):
        self.broken = reason
        self.queue.close(BrokenProcessPool, reason)

    def _condemn_workers(self):
        """End all workers, of which one has written over what all share: with the last the queue begins anew."""
        if self.state is State.SERVING and self._on_worker_death == "break":
            self._break_down(BROKEN, DAMAGED)
        self._condemned.update(worker.number for worker in self._workers.values())
        self.end_workers(self._workers.values())

    def end_workers(self, workers, operation="kill"):
        """Signal workers that are watched, and on request what their tasks have started; this thread alone does so."""
        workers = list(workers)
        with contextlib.ExitStack() as stack:
            if self._kills_trees and workers:
                from pyconc._process import process_tree

                tree = process_tree.StoppedTree((worker.process.pid, worker.end) for worker in workers)
                stack.enter_context(tree).signal_started(SIGNALS[operation])
            for worker in workers:
                worker.force(operation)

    def stack_of(self, worker):
        """Return the stack of each thread of a worker that is watched, as text, or None; the worker goes on.

        Takes a few milliseconds, at most 50.  For what is about to kill it; this thread alone may call it.
        """
        [(_, stack)] = self._stacks_of([worker])
        return stack

    def _stacks_of(self, workers, seconds=black_box.ANSWER_SECONDS):
        """Ask workers for their stacks, all at once; yield each with its stack as it answers, see BlackBox.ask()."""
        asked = {worker.number: worker for worker in workers}
        answers = self._box.ask([worker.identify() for worker in workers], seconds)
        return ((asked[number], stack) for number, stack in answers)

    def _let_go(self, leaves_reserve=True):
        self.queue.decide_by_value(None)
        self.queue.end_supervision()
        self.launcher.close()
        if leaves_reserve:
            self.launcher.leave_reserve()
        self._events.close()
        self._box.close()
        self._lender.end()
        if self._logs is not None:
            self._logs.end()
        self.processes = {}  # each of them has a file open


def _slots_for(tasks):
    """Return how many slots a job ring needs that so many tasks occupy: as many again, so that none waits for one."""
    return 1 << (2 * tasks - 1).bit_length()


# The processes of multiprocessing's own contexts that fork.
_FORKED = (contexts.Process, contexts.ForkProcess)


class _LateFd:
    """A file descriptor that is duplicated for a child when its arguments are pickled."""

    def __init__(self, fd):
        self._fd = fd

    def __reduce__(self):
        return _identity, (reduction.DupFd(self._fd),)


def _identity(value):
    return value
