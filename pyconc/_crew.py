"""The workers of one process executor: started, watched, buried, replaced; and the thread that collects from them."""

import collections
import contextlib
import functools
import importlib.util
import itertools
import os
import select
import signal
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import process
from concurrent.futures.process import BrokenProcessPool, _RemoteTraceback
from multiprocessing import get_start_method, reduction, util

from pyconc import _core, _map, _template, _worker
from pyconc._deferral import Deferral
from pyconc._pickling import WorkerDied
from pyconc._template import TemplateDied

# The threads that collect, of all executors.
_collectors: "weakref.WeakSet[_Collector]" = weakref.WeakSet()

# The native ids, as text, of the latest such threads that are over: the kernel may still list them.  GIL.
_ended: "collections.deque[str]" = collections.deque(maxlen=20)

# How often to look whether a thread that Python knows no more has ended; where other libraries have threads, in vain.
_ENDING_LOOKS = 20
# And how long, in seconds, if it is one that has collected: such a thread is about to go, but on a busy machine may be
# there for long.
_ENDING_SECONDS = 1.0

# So many workers may die in a row while nothing gets done, and then the executor is broken.
_FALSE_STARTS = 3

_BROKEN = "A child process terminated abruptly, the process pool is not usable anymore"
_ABRUPTLY = "A process in the process pool was terminated abruptly while the future was running or pending."
_FORCED = "A worker process exited while the pool was being forcefully shut down; what was queued is not run."
_INITIALIZER_FAILED = "A process initializer failed, the process pool is not usable anymore"


class Crew:
    """The workers of one executor and the thread that collects from them; they may outlive the executor.

    `lock` guards what is below it in __init__, and is held while workers are started.  It is re-entrant because a
    signal handler may submit or shut down while its own thread is at it: what the handler cannot do then, start another
    worker or wait for the collecting thread, which needs the lock, its thread does for it afterwards.
    """

    thread = None
    ended = True  # until __init__ is done

    def __init__(self, max_workers, context, setup, limits, on_worker_death, name):
        """setup, limits: as for _worker.main()."""
        concurrency = limits[1]
        if concurrency is None:
            # More of them serve long bursts better, but a short-lived pool waits for their memory.
            self.queue = _core.ProcessQueue(max_workers, _records_for(min(32 * max_workers, 512)))
        else:
            self.queue = _core.ProcessQueue(max_workers, _records_for(max(max_workers * concurrency, 512)), True)
        self.max_workers = max_workers
        self.context = context  # None: workers come from a template
        self.setup = setup
        self.limits = limits
        self.on_worker_death = on_worker_death
        self.prespawns = context is not None and context.get_start_method() == "fork"
        self.name = name
        self.call_ns = _map.CallTimes()
        self.events = select.epoll()
        self.lock = threading.RLock()
        self.starting = False  # a worker is being started
        self.wait_owed = None  # the thread whose signal handler shut down meanwhile, and could not wait
        self.processes = {}  # pid: process
        self.numbers = {}  # sentinel: (number, process)
        self.free_numbers = list(range(max_workers - 1, -1, -1))
        self.template = None
        self.dropped = []  # templates of ours that nobody has waited for yet
        self.streams = weakref.WeakSet()  # of a CoroutinePool: those that are open, and hold the queue
        self.count = itertools.count(1)
        self.false_starts = 0
        self.broken = None  # why no task is accepted any more
        self.replaces = True  # no, once the workers are being killed
        self.forced = False  # the executor's user has told it to end them
        self.cancels = False  # what is not under way is cancelled
        self.ended = False
        if context is None:
            self.queue.decide_by_value(_always)  # until it is known what the workers have
            if _is_single_threaded():
                # Now, because the program may have threads by the time it first submits.
                with Deferral(), contextlib.suppress(OSError), self._job() as job:
                    self._fork_template(job)

    @contextlib.contextmanager
    def locked(self):
        # A signal handler that raises is kept away from the lock: it could be left taken.
        with Deferral(), self.lock:
            yield
        if self.wait_owed == threading.get_ident() and not self.lock._is_owned():
            self.wait_owed = None
            self.wait()

    def wait(self):
        """Wait for the collecting thread to end."""
        if self.lock._is_owned():
            self.wait_owed = threading.get_ident()
        elif self.thread is not None:
            self.thread.join()

    # ---- the template ----

    def _fds(self):
        return [self.queue.region.fileno(), self.queue.wakeup_fd, *self.queue.doorbells]

    @contextlib.contextmanager
    def _job(self):
        """What whoever runs a worker has to know; the file descriptors in it are for a child that is made meanwhile."""
        fds = []
        try:
            for fd in self._fds():
                fds.append(os.dup(fd))
            yield (fds, self.setup, self.limits)
        finally:
            for fd in fds:
                os.close(fd)

    def _make_template(self):
        with self._job() as job:
            if _is_single_threaded():
                self._fork_template(job)
                return
            if not self.prespawns:
                try:
                    parcel = _template.pack_initializer(job)
                except Exception:
                    # Only a fork can hand it on, and that is what the standard library's executor would do.
                    if get_start_method() != "fork":
                        raise
                else:
                    self._use_template(_template.spawn_template(job, parcel), _always)
                    return
            _warn_of_fork()
            self._fork_template(job)

    def _fork_template(self, job):
        template = _template.fork_template(job)
        self._use_template(template, _MainOf(template))

    def _use_template(self, template, by_value):
        self.template = template
        self.queue.decide_by_value(by_value)
        self.events.register(template.fileno(), select.EPOLLIN)

    def _drop_template(self):
        template, self.template = self.template, None
        if template is not None:
            try:
                self.events.unregister(template.fileno())
            except (OSError, ValueError):
                pass
            template.kill()
            self.dropped.append(template)

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
                thread = _Collector(self)
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
            fds = [_LateFd(fd) for fd in self._fds()]
            args = (fds, number, self.setup, self.limits)
            worker = self.context.Process(target=_worker.spawned_main, args=args, name=name)
            worker.start()
            return worker
        if not self.processes and _is_single_threaded():
            return self._start_first(number, name)
        for attempt in range(2):
            if self.template is None:
                self._make_template()
            worker = _template.WorkerProcess(self.template, number, name)
            try:
                self.template.wait_ready()
                worker.start()
                return worker
            except TemplateDied:
                self._drop_template()
                if attempt:
                    raise OSError("the process that starts the workers has died") from None

    def _start_first(self, number, name):
        """Fork the first worker, and then a template that has what this worker has, while the worker begins."""
        self._drop_template()  # what the program has defined or imported since is to be there
        with self._job() as job:
            worker = _template.WorkerProcess(_template.ThisProcess(job), number, name)
            worker.start()
            with contextlib.suppress(OSError):  # If there is no room for it now, another will be made.
                self._fork_template(job)
        return worker

    # ---- in the collecting thread ----

    def handle_events(self):
        for fd, _ in self.events.poll(0):
            with self.locked():
                if self.template is not None and fd == self.template.fileno():
                    try:
                        self.template.read_news()
                    except TemplateDied:
                        self._drop_template()
                    continue
                number, worker = self.numbers.pop(fd, (None, None))
                if worker is None:
                    continue
                self.events.unregister(fd)
            self._bury(number, worker)

    def _bury(self, number, worker):
        worker.join()
        code = worker.exitcode
        left_task, progress = self.queue.bury(number, lambda task: self._death_of(worker, task))
        with self.locked():
            self.processes.pop(worker.pid, None)
            self.free_numbers.append(number)
        if code == _worker.INITIALIZER_FAILED and not left_task:
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
        self.queue.dismiss()
        with self.locked():
            self.ended = True
            self.queue.decide_by_value(None)
            workers = list(self.processes.values())
            if self.template is not None and not any(worker.is_cloned_from(self.template) for worker in workers):
                self._drop_template()  # so that it ends while they do
        for worker in workers:
            worker.join()
        with self.locked():
            self._drop_template()
            for template in self.dropped:
                template.join()
            self.events.close()
            # Each of them has a file open.
            self.processes = {}
            self.numbers.clear()


class _Collector(threading.Thread):
    """The thread that delivers outcomes, and buries and replaces workers."""

    def __init__(self, crew):
        super().__init__(name=f"{crew.name}_collector", target=_collect, args=(crew,))
        self._crew = weakref.ref(crew)
        _collectors.add(self)
        # At exit the standard library wakes and joins whatever stands here.
        process._threads_wakeups[self] = _ExitBell(crew)

    def run(self):
        try:
            super().run()
        finally:
            _ended.append(str(self.native_id))

    def join(self, timeout=None):
        try:
            super().join(timeout)
        except KeyboardInterrupt:
            crew = self._crew()
            if process._global_shutdown and crew is not None:
                # The program is over, and the user does not want to wait.
                crew.kill()
                super().join()
            raise


def _collect(crew):
    """Live the life of a collecting thread."""
    queue = crew.queue
    while True:
        queue.collect(crew.events.fileno())
        if crew.ended:
            return  # in the child of a fork
        crew.handle_events()
        if queue.is_done():
            break
        if not crew.replaces and not crew.processes:
            queue.fail_all(lambda task: BrokenProcessPool(crew.broken or (_FORCED if crew.forced else _ABRUPTLY)))
            break  # also if somebody holds the queue: it takes nothing any more
    crew.finish()


class _ExitBell:
    """What the standard exit handler rings."""

    def __init__(self, crew):
        self._crew = weakref.ref(crew)

    def wakeup(self):
        crew = self._crew()
        if crew is not None:
            crew.queue.close(RuntimeError, "cannot schedule new futures after interpreter shutdown")
            for stream in list(crew.streams):
                stream.end("the interpreter is shutting down")  # who holds it may never come back
            if isinstance(getattr(sys, "last_value", None), KeyboardInterrupt):
                crew.kill()  # one Ctrl-C is enough


class _MainOf:
    """Whether something that mentions `__main__` must travel by value to workers of a forked template.

    They have what `__main__` defined when the template was forked.
    """

    def __init__(self, template):
        self._then = template.main

    def __call__(self, value):
        if not _has_cloudpickle():
            return False
        now = _template.definitions()
        name = getattr(value, "__qualname__", "").partition(".")[0]
        if getattr(value, "__module__", None) == "__main__" and name in now:
            return self._then.get(name) is not now[name]
        return any(self._then.get(name) is not found for name, found in now.items())


@functools.cache
def _has_cloudpickle():
    return importlib.util.find_spec("cloudpickle") is not None


def _records_for(tasks):
    """Return how many records a board needs that so many tasks occupy: as many again, so that none waits for one."""
    return 1 << (2 * tasks - 1).bit_length()


def _always(value):
    return True


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


def _is_single_threaded():
    """Whether a fork is safe: no threads but this one, and collecting threads, which hold no locks while this runs."""
    if os.stat("/proc/self/task").st_nlink == 3:
        return True  # "." and ".." and one thread: quicker than a list of them
    looks = 0
    deadline = time.monotonic() + _ENDING_SECONDS
    while True:
        # A thread that has been joined may be there a moment longer; before Python 3.13 it mostly is.
        others = set(os.listdir("/proc/self/task")) - {str(threading.get_native_id())}
        others.difference_update(str(thread.native_id) for thread in list(_collectors))
        if not others:
            return True
        if threading.active_count() > 1 + sum(thread.is_alive() for thread in list(_collectors)):
            return False
        if not others.issubset(_ended):
            looks += 1
            if looks == _ENDING_LOOKS:
                return False
        elif time.monotonic() > deadline:
            _ended.clear()  # who is there for so long is another thread, with the same number
            return False
        os.sched_yield()


def _warn_of_fork():
    """As os.fork() does from Python 3.12 on, but before it is too late."""
    if sys.version_info >= (3, 12):
        text = f"This process (pid={os.getpid()}) is multi-threaded, use of fork() may lead to deadlocks in the child."
        warnings.warn(text, DeprecationWarning, stacklevel=2)


def _kill_the_rest():
    """At exit, after the standard exit handler: if Ctrl-C has kept that from waiting, nobody is to wait now."""
    for collector in list(_collectors):
        crew = collector._crew()
        if crew is not None and collector.is_alive():
            crew.kill()


# Before multiprocessing waits for the processes that are left.
util.Finalize(None, _kill_the_rest, exitpriority=100)
