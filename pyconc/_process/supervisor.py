"""The workers of one process executor: started, watched, reaped, replaced; and the thread that collects from them."""

import contextlib
import itertools
import select
import signal
import sys
import threading
import weakref
from concurrent.futures import process
from concurrent.futures.process import BrokenProcessPool, _RemoteTraceback
from multiprocessing import reduction, util

from pyconc import _core
from pyconc._process import chunks, worker_main
from pyconc._process.launcher import Launcher, quiet_threads, worker_fds
from pyconc._process.pickling import WorkerDied
from pyconc._process.signals import DeferSignals

# The threads that collect, of all executors.
_handlers: "weakref.WeakSet[_ResultHandler]" = weakref.WeakSet()

# So many workers may die in a row while nothing gets done, and then the executor is broken.
_FALSE_STARTS = 3

_BROKEN = "A child process terminated abruptly, the process pool is not usable anymore"
_ABRUPTLY = "A process in the process pool was terminated abruptly while the future was running or pending."
_FORCED = "A worker process exited while the pool was being forcefully shut down; what was queued is not run."
_INITIALIZER_FAILED = "A process initializer failed, the process pool is not usable anymore"


class Supervisor:
    """The workers of one executor and the thread that collects from them; they may outlive the executor.

    `lock` guards what is below it in __init__, and is held while workers are started.  It is re-entrant because a
    signal handler may submit or shut down while its own thread is at it: what the handler cannot do then, start another
    worker or wait for the result handler, which needs the lock, its thread does for it afterwards.
    """

    thread = None
    ended = True  # until __init__ is done

    def __init__(self, max_workers, context, setup, limits, on_worker_death, name):
        """setup, limits: as for worker_main.main()."""
        concurrency = limits[1]
        if concurrency is None:
            # More of them serve long bursts better, but a short-lived pool waits for their memory.
            self.queue = _core.ProcessQueue(max_workers, _records_for(min(32 * max_workers, 512)))
        else:
            self.queue = _core.ProcessQueue(max_workers, _records_for(max(max_workers * concurrency, 512)), True)
        self.max_workers = max_workers
        self.context = context  # None: workers come from a zygote
        self.setup = setup
        self.limits = limits
        self.on_worker_death = on_worker_death
        self.prespawns = context is not None and context.get_start_method() == "fork"
        self.name = name
        self.call_ns = chunks.CallTimes()
        self.events = select.epoll()
        self.lock = threading.RLock()
        self.starting = False  # a worker is being started
        self.wait_owed = None  # the thread whose signal handler shut down meanwhile, and could not wait
        self.processes = {}  # pid: process
        self.numbers = {}  # sentinel: (number, process)
        self.free_numbers = list(range(max_workers - 1, -1, -1))
        self.launcher = Launcher(self.queue, setup, limits, self.events, self.prespawns)
        self.streams = weakref.WeakSet()  # of a CoroutinePool: those that are open, and hold the queue
        self.count = itertools.count(1)
        self.false_starts = 0
        self.broken = None  # why no task is accepted any more
        self.replaces = True  # no, once the workers are being killed
        self.forced = False  # the executor's user has told it to end them
        self.ended = False
        if context is None:
            with DeferSignals():
                self.launcher.prepare()

    @contextlib.contextmanager
    def locked(self):
        # A signal handler that raises is kept away from the lock: it could be left taken.
        with DeferSignals(), self.lock:
            yield
        if self.wait_owed == threading.get_ident() and not self.lock._is_owned():
            self.wait_owed = None
            self.wait()

    def wait(self):
        """Wait for the result handler to end."""
        if self.lock._is_owned():
            self.wait_owed = threading.get_ident()
        elif self.thread is not None:
            self.thread.join()

    # ---- workers ----

    def start_workers(self):
        """Start workers until there are as many as tasks, and the thread that collects from them."""
        if self.ended or (self.thread is not None and not self.free_numbers):
            return
        with self.locked():
            if self.ended or self.starting:
                return
            self.starting = True
            try:
                self._start_missing()
            except OSError:
                if not self.processes:
                    raise
                # Those there are will do, and the next submit tries again.
            finally:
                self.starting = False
            if self.thread is None:
                thread = _ResultHandler(self)
                thread.start()
                self.thread = thread

    def start_all(self):
        """Start as many workers as there may be, before there is anything to do."""
        with self.locked():
            while self.free_numbers:
                self.queue.add_worker(1)
                self._start_reserved()
        self.start_workers()

    def _start_missing(self):
        if self.prespawns and not self.processes and self.thread is None:
            while len(self.processes) < self.max_workers:
                self.queue.add_worker(1)
                self._start_reserved()
        while self.replaces and self.queue.reserve_worker() and self._start_reserved():
            pass

    def _start_reserved(self):
        """Start a worker that the queue has counted; False if there is no number for it."""
        if not self.free_numbers:
            # The dead are being buried; whoever does that starts others.
            self.queue.add_worker(-1)
            return False
        number = self.free_numbers.pop()
        try:
            worker = self._start(number)
        except BaseException:
            self.free_numbers.append(number)
            self.queue.add_worker(-1)
            raise
        self.processes[worker.pid] = worker
        self.numbers[worker.sentinel] = (number, worker)
        self.events.register(worker.sentinel, select.EPOLLIN)
        return True

    def _start(self, number):
        name = f"{self.name}_{next(self.count) - 1}"
        if self.context is not None and not self.prespawns:
            fds = [_LateFd(fd) for fd in worker_fds(self.queue)]
            args = (fds, number, self.setup, self.limits)
            worker = self.context.Process(target=worker_main.spawned_main, args=args, name=name)
            worker.start()
            return worker
        return self.launcher.start(number, name, first=not self.processes)

    # ---- in the result handler ----

    def handle_events(self):
        for fd, _ in self.events.poll(0):
            with self.locked():
                if self.launcher.handle_event(fd):
                    continue
                number, worker = self.numbers.pop(fd, (None, None))
                if worker is None:
                    continue
                self.events.unregister(fd)
            self._reap(number, worker)

    def _reap(self, number, worker):
        worker.join()
        code = worker.exitcode
        left_task, progress = self.queue.reap(number, lambda task: self._death_of(worker, task))
        with self.locked():
            self.processes.pop(worker.pid, None)
            self.free_numbers.append(number)
        if code == worker_main.INITIALIZER_FAILED and not left_task:
            self.break_down(_INITIALIZER_FAILED, _ABRUPTLY)
        elif self.replaces and (left_task or not self._may_leave(code)):
            if self.on_worker_death == "break":
                self.break_down(_BROKEN, _ABRUPTLY, _quote(worker))
                return
            self.false_starts = 0 if left_task or progress else self.false_starts + 1
            if self.false_starts > _FALSE_STARTS:
                self.break_down(_BROKEN, "workers die before they run anything", _quote(worker))
                return
        self._replace(left_task)

    def _may_leave(self, code):
        """Whether a worker that leaves no task behind has done so properly."""
        return code == 0 and (self.limits[0] is not None or self.queue.is_done())

    def _replace(self, left_task):
        if not self.replaces:
            return
        try:
            self.start_workers()
        except Exception as error:
            if not self.processes:
                self.break_down(_BROKEN, f"no worker could be started: {error}")

    def _death_of(self, worker, task):
        code = worker.exitcode
        how, name = _manner(code)
        message = f"worker process {worker.pid} {how} while it ran {_describe(task)}"
        error = WorkerDied(message, worker.pid, code, name, task)
        error.__cause__ = _RemoteTraceback(_quote(worker))
        return error

    def break_down(self, reason, message, quoted=None):
        """Refuse tasks from now on, fail all there are, and end the workers."""
        self.broken = reason
        self.replaces = False
        self.queue.close(BrokenProcessPool, reason)
        with self.locked():
            workers = list(self.processes.values())
        self.queue.fail_all(lambda task: _broken(message, quoted))
        for worker in workers:
            worker.terminate()

    def kill(self, operation="kill"):
        """End the workers whatever they do; what they ran, or was queued, fails."""
        self.replaces = False
        with self.locked():
            workers = list(self.processes.values())
        for worker in workers:
            getattr(worker, operation)()
        self.queue.wake()

    def __del__(self):
        if self.thread is None and not self.ended:
            self.finish()

    def finish(self):
        """Wait for the workers to leave, and let go of everything."""
        self.queue.close_workers()
        with self.locked():
            self.ended = True
            self.queue.decide_by_value(None)
            workers = list(self.processes.values())
            self.launcher.drop_if_unused(workers)  # so that it ends while they do
        for worker in workers:
            worker.join()
        with self.locked():
            self.launcher.close()
            self.events.close()
            # Each of them has a file open.
            self.processes = {}
            self.numbers.clear()


class _ResultHandler(threading.Thread):
    """The thread that delivers outcomes, and buries and replaces workers."""

    def __init__(self, supervisor):
        super().__init__(name=f"{supervisor.name}_result_handler", target=_collect, args=(supervisor,))
        self._supervisor = weakref.ref(supervisor)
        _handlers.add(self)
        quiet_threads.add(self)
        # At exit the standard library wakes and joins whatever stands here.
        process._threads_wakeups[self] = _ExitBell(supervisor)

    def join(self, timeout=None):
        try:
            super().join(timeout)
        except KeyboardInterrupt:
            supervisor = self._supervisor()
            if process._global_shutdown and supervisor is not None:
                # The program is over, and the user does not want to wait.
                supervisor.kill()
                super().join()
            raise


def _collect(supervisor):
    """Live the life of a result handler."""
    queue = supervisor.queue
    while True:
        queue.collect(supervisor.events.fileno())
        if supervisor.ended:
            return  # in the child of a fork
        supervisor.handle_events()
        if queue.is_done():
            break
        if not supervisor.replaces and not supervisor.processes:
            queue.fail_all(
                lambda task: BrokenProcessPool(supervisor.broken or (_FORCED if supervisor.forced else _ABRUPTLY))
            )
            break  # also if somebody holds the queue: it takes nothing any more
    supervisor.finish()


class _ExitBell:
    """What the standard exit handler rings."""

    def __init__(self, supervisor):
        self._supervisor = weakref.ref(supervisor)

    def wakeup(self):
        supervisor = self._supervisor()
        if supervisor is not None:
            supervisor.queue.close(RuntimeError, "cannot schedule new futures after interpreter shutdown")
            for stream in list(supervisor.streams):
                stream.end("the interpreter is shutting down")  # who holds it may never come back
            if isinstance(getattr(sys, "last_value", None), KeyboardInterrupt):
                supervisor.kill()  # one Ctrl-C is enough


def _records_for(tasks):
    """Return how many records a board needs that so many tasks occupy: as many again, so that none waits for one."""
    return 1 << (2 * tasks - 1).bit_length()


class _LateFd:
    """A file descriptor that is duplicated for a child when its arguments are pickled."""

    def __init__(self, fd):
        self._fd = fd

    def __reduce__(self):
        return _identity, (reduction.DupFd(self._fd),)


def _identity(value):
    return value


def _broken(message, quoted):
    error = BrokenProcessPool(message)
    if quoted is not None:
        error.__cause__ = _RemoteTraceback(quoted)
    return error


def _quote(worker):
    return f"\n'''\nProcess {worker.pid} terminated abruptly with exit code {worker.exitcode}'''"


def _manner(code):
    """Return how a process ended, in words, and the name of the signal if one ended it."""
    if code is None:
        return "ended in an unknown way", None
    if code >= 0:
        return f"ended with exit code {code}", None
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}", name


def _describe(task):
    name = getattr(task, "__qualname__", None)
    if name is None:
        return repr(task)
    module = getattr(task, "__module__", None)
    return name if module in (None, "builtins", "__main__") else f"{module}.{name}"


def _kill_the_rest():
    """At exit, after the standard exit handler: if Ctrl-C has kept that from waiting, nobody is to wait now."""
    for handler in list(_handlers):
        supervisor = handler._supervisor()
        if supervisor is not None and handler.is_alive():
            supervisor.kill()


# Before multiprocessing waits for the processes that are left.
util.Finalize(None, _kill_the_rest, exitpriority=100)
