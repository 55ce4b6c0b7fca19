"""ProcessPoolExecutor: the standard class's names and rules over the queue in C and workers that a zygote forks."""

import contextlib
import itertools
import math
import multiprocessing
import operator
import os
import signal
import sys
import threading
import weakref
from collections import namedtuple
from concurrent.futures import process
from concurrent.futures.process import BrokenProcessPool

from pyconc import _context, _core, _names, _options, _progress, _stats
from pyconc._async_with import AsyncWith
from pyconc._process import chunks, kernel, launcher, rights
from pyconc._process.pickling import TaskUnpicklable, WorkerDied
from pyconc._process.standard_settings import Setting
from pyconc._process.standard_submit import StandardSubmit
from pyconc._process.supervisor import State, Supervisor
from pyconc._process.worker_main import Limits
from pyconc._shutdown import deadline_after
from pyconc.patching import ExecutorType, make_standard, threads_are_greenlets, watch_standard

__all__ = ["ProcessPoolExecutor", "TaskUnpicklable", "WorkerDied"]

# Every executor of this process, for the child of a fork.
_executors: "weakref.WeakSet[ProcessPoolExecutor]" = weakref.WeakSet()


def default_workers():
    """Return the number of CPUs that this process may use: by affinity, and by its cgroup's quota.

    What the program was told to count on, by PYTHON_CPU_COUNT or -X cpu_count, goes before both.
    """
    cpus = len(os.sched_getaffinity(0))
    count = getattr(os, "process_cpu_count", lambda: None)()  # since Python 3.13
    if count is not None and count != cpus:
        return count
    quota = _cgroup_cpus()
    return max(1, cpus if quota is None else min(cpus, math.ceil(quota)))


def _chosen_context():
    """Return multiprocessing's context if the program has set a start method that is not the platform's default."""
    default = multiprocessing.get_context.__self__
    actual = default._actual_context
    return None if actual is None or actual is default._default_context else actual


def _cgroup_cpus(root="/sys/fs/cgroup", own="/proc/self/cgroup"):
    """Return how many CPUs' time the process's cgroup grants, or None."""
    try:
        with open(own) as file:
            groups = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return None
    limits = []
    for _, controllers, path in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path may be the host's, of which only the end is mounted here: then the root counts.
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts) + 1):
            folder = os.path.join(root, *(["cpu"] if controllers else []), *parts[:depth])
            limits.append(_read_quota(folder, version=1 if controllers else 2))
    return min((limit for limit in limits if limit is not None), default=None)


def _read_quota(folder, version):
    try:
        if version == 2:
            with open(os.path.join(folder, "cpu.max")) as file:
                quota, period = file.read().split()
        else:
            with open(os.path.join(folder, "cpu.cfs_quota_us")) as file:
                quota = file.read()
            with open(os.path.join(folder, "cpu.cfs_period_us")) as file:
                period = file.read()
        quota, period = int(quota), int(period)
    except (OSError, ValueError):  # not there, or "max"
        return None
    return quota / period if quota > 0 and period > 0 else None


class _NoQueue:
    """In place of the standard executor's queues, for programs that look at them."""

    def close(self):
        pass

    def join_thread(self):
        pass


# Stand for the queues of all executors to which nothing was submitted: those of the timed ones, and of the others.
_no_tasks = {timed: _core.ProcessQueue(0, timed=timed) for timed in (False, True)}


def _is_interrupt(error):
    """Whether a `with` block is left because of Ctrl-C, which reaches the tasks of asyncio.run() as a cancellation."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and isinstance(error, asyncio.CancelledError):
        # While a loop runs, its runner handles the signal and counts; afterwards it cancels what is left.
        runner = getattr(getattr(signal.getsignal(signal.SIGINT), "func", None), "__self__", None)
        if getattr(runner, "_interrupt_count", 0):
            return True
        while error is not None and not isinstance(error, KeyboardInterrupt):
            error = error.__context__
    return isinstance(error, KeyboardInterrupt)


_numbers = itertools.count()


# What a Supervisor is made with.  A NamedTuple would cost the program the import of typing.
_Plan = namedtuple("_Plan", "max_workers context setup limits on_worker_death kill_tree key name timed")


class ProcessExecutor(_stats.Observed, AsyncWith):
    """The base of executors with worker processes: it keeps a supervisor of them, until it is shut down.

    Its __init__ calls _begin().  Until something is submitted it has no supervisor, and no file descriptor.
    """

    _opened = None  # the supervisor
    _waits_at_exit = True  # whether the interpreter's exit waits for what was submitted
    _stops_calls = False  # whether shutdown(cancel_futures=True) stops what workers have taken, if it may be stopped
    _follows_start_method = True  # whether workers are started as the program has told multiprocessing to
    _former: "list[_FormerWorkers]" = []  # noqa: RUF012  # replaced, never changed

    def _begin(self, prefix, max_workers, context, setup, limits, on_worker_death, kill_tree, timed=False):
        """Begin; setup, limits: as for worker_main.main()."""
        _names.check_name(limits.name)
        _stats.check_timed(timed)
        if on_worker_death not in ("replace", "break"):
            raise ValueError(f"on_worker_death must be 'replace' or 'break', not {on_worker_death!r}")
        if kill_tree:
            from pyconc._process import process_tree

            process_tree.require()
        if context is None and limits.tasks is None and self._follows_start_method:
            context = _chosen_context()
        self._key = f"{prefix}-{next(_numbers)}"  # no other executor has it
        self._name = limits.name or self._key
        self._plan = _Plan(
            max_workers, context, setup, limits, on_worker_death, kill_tree, self._key, self._name, timed
        )
        self._on_worker_death = on_worker_death
        self._is_shut_down = False
        self._await_submit()
        _executors.add(self)
        self._observe()
        rights.watch(_leave_workers)

    def _await_submit(self):
        """Begin with no workers and no tasks."""
        vars(self).pop("_opened", None)
        self._tasks = _no_tasks[self._plan.timed]
        self._processes = {}
        if self._plan.context is None:
            launcher.prepare(self._key, self)

    def _adopt(self, plan):
        """Change how workers will be made; before the first submit only."""
        self._plan = plan
        if plan.context is None:
            launcher.leave_reserve(self._key)  # What may have been forked for it has the former plan.
            launcher.prepare(self._key, self)

    def _renew(self):
        """Have a supervisor and a queue; submit() calls this if there are none, or they are the parent's."""
        if self._opened is None:
            if self._shutdown_thread:
                raise RuntimeError("cannot schedule new futures after shutdown")
            launcher.begin(self._key)
            # Of several threads, or a signal handler and whom it interrupts, the first one makes it.
            vars(self).setdefault("_opened", Supervisor(*self._plan, self._waits_at_exit))
        self._tasks = self._opened.queue
        self._processes = self._opened.processes
        if self._shutdown_thread:
            self._tasks.close(RuntimeError, "cannot schedule new futures after shutdown")
        elif self._opened.forks:
            # Now, and not when the call is pickled: to pickle a socket, multiprocessing starts a thread.
            self._start_workers()

    @property
    def _supervisor(self):
        if self._tasks.is_inherited():
            self._renew()
        return self._opened

    def _inherit(self, lost):
        """In the child of a fork: workers and tasks are the parent's; lost: the exception of the tasks."""
        supervisor = vars(self).pop("_opened", None)
        if supervisor is not None:
            supervisor.inherit(lost)
        self._processes = {}

    def _leave_workers(self):
        """Have what is submitted from now on run by new workers; those there are finish what was submitted before."""
        supervisor = self._opened
        if (
            supervisor is not None
            and supervisor.thread is not None
            and not self._shutdown_thread
            and not supervisor.broken
        ):
            former = _FormerWorkers(self, supervisor)
            self._await_submit()
            self._former = [*self._former, former]
            if former._tasks.outstanding() == 0:
                former.shutdown(wait=False)

    def _start_workers(self):
        if process._global_shutdown:
            self._tasks.close(RuntimeError, "cannot schedule new futures after interpreter shutdown")
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        self._supervisor.start_workers()

    @property
    def _shutdown_thread(self):
        """Whether tasks are refused since shutdown(); setting it has them refused."""
        return self._is_shut_down

    @_shutdown_thread.setter
    def _shutdown_thread(self, shut_down):
        if self._is_shut_down and not shut_down:
            raise RuntimeError("pyconc's executor cannot be opened again once it was shut down")
        self._is_shut_down = bool(shut_down)
        supervisor = self._opened
        if shut_down and supervisor is not None and not supervisor.broken:
            supervisor.queue.close(RuntimeError, "cannot schedule new futures after shutdown")

    @property
    def _executor_manager_thread(self):
        """The thread that collects results, until shutdown()."""
        return None if self._processes is None or self._opened is None else self._opened.handler

    @property
    def _broken(self):
        return (self._opened and self._opened.broken) or False

    @property
    def _force_shutting_down(self):
        """Whether workers that end are not replaced any more, because they are being ended."""
        return self._opened is not None and self._opened.forced

    @_force_shutting_down.setter
    def _force_shutting_down(self, forced):
        if self._opened is not None:
            self._opened.forced = forced
            self._opened.queue.poke()

    @property
    def _work_queue(self):
        """The tasks that wait, for programs that look: qsize() and empty()."""
        return self._tasks

    def stats(self):
        """Return a pyconc.PoolStats: what this executor is doing, and what it has done since it was made.

        A call of map() counts when it is sent, and calls that are sent together have run for their average each. It
        takes a microsecond, and holds up nobody. In the child of a fork everything begins at 0, as it does for those
        of the program's calls that follow when the program gives up rights. Any thread may call this, a signal handler
        too. Raises nothing.

            >>> with pyconc.ProcessPoolExecutor(max_workers=2) as pool:
            ...     print(list(pool.map(abs, [-1, 2, -3])), pool.stats().completed, pool.stats().run.calls)
            [1, 2, 3] 3 3
        """
        return _stats.build(self._name, self._plan.max_workers, self._tasks.stats())

    def workers(self):
        """Return a list with a pyconc.WorkerStats for each worker process: what it runs, and what it has done.

        What map() sends together counts as one call here. Any thread may call this, a signal handler too. Raises
        nothing.

            >>> import time
            >>> with pyconc.ProcessPoolExecutor(max_workers=1, name="resize") as pool:
            ...     future = pool.submit(time.sleep, 0)
            ...     print(future.result(), [(worker.name, worker.calls) for worker in pool.workers()])
            None [('resize_0', 1)]
        """
        loads = {number: load for number, *load in self._tasks.workers()}
        found = []
        for worker in self._opened.list_workers() if self._opened is not None else ():
            load = loads.get(worker.number, (None, None, None, None, 0, 0, 0))
            function, name, began, seconds, calls, running, phase = load
            found.append(
                _stats.WorkerStats(
                    id=worker.process.pid,
                    name=worker.process.name,
                    state=_stats.PHASES[phase],
                    calls=calls,
                    task=_stats.name_of(function, name),
                    running_for=seconds,
                    running=running,
                    rss=kernel.read_rss(worker.process.pid),
                    cpu=_stats.cpu_of_process(worker.process.pid),
                    progress=self._opened.read_progress(worker.number, began) if running else None,
                )
            )
        return found

    def _describe(self):
        end = ", broken" if self._broken else ", shut down" if self._shutdown_thread else ""
        return super()._describe() + end

    def shutdown(self, wait=True, *, cancel_futures=False, timeout=None):
        """Refuse tasks from now on, and let the workers end when the queued tasks are done.

        wait: return only when all workers have ended. cancel_futures: cancel the tasks that no worker has taken, and
        stop those that run and may be stopped, see options().

        timeout: for how many seconds tasks may go on; default: as long as they take. Then those that no worker has
        taken, and those that may be stopped, are cancelled. What runs even after the longest `grace` of these, and of
        this executor (1 second), is killed: a future that was not cancelled gets WorkerDied. With wait, shutdown()
        returns a tenth of a second after that at the latest; without, the same happens later. The shortest timeout of
        several calls counts.

        May be called several times, from any thread, and from a signal handler. Raises ValueError or TypeError for a
        timeout that is nan or no number, and nothing else; submit() raises RuntimeError from now on.

            >>> pool = pyconc.ProcessPoolExecutor()
            >>> future = pool.submit(len, "abc")
            >>> pool.shutdown()
            >>> future.done()
            True
        """
        deadline = deadline_after(timeout)
        self._shutdown_thread = True
        supervisor = self._opened
        if supervisor is None:
            # Former workers do so at their end; until then what has made them waits for them.
            if all(former._opened.state is State.ENDED for former in self._former):
                launcher.leave_reserve(self._key)
        else:
            if not supervisor.broken:  # another thread may have made it since
                supervisor.queue.close(RuntimeError, "cannot schedule new futures after shutdown")
            if cancel_futures:
                supervisor.queue.cancel_queued()
                if self._stops_calls:
                    supervisor.queue.cancel_taken()
            supervisor.close()
            if deadline is not None:
                supervisor.end_by(deadline, self._options[1])
        # All of them have to end by then, whichever is waited for first.
        for former in self._former:
            former.shutdown(wait=False, cancel_futures=cancel_futures, timeout=timeout)
        if wait:
            self._join(deadline)
        self._processes = None

    def _join(self, deadline):
        supervisor = self._opened
        if supervisor is not None and deadline is None:
            supervisor.join()
        elif supervisor is not None:
            supervisor.join_by(deadline, self._options[1])
        for former in self._former:
            former._join(deadline)

    def __exit__(self, exc_type, exc_val, exc_tb):
        """Shut down, and wait for the workers.

        After an exception, calls that options() allow to stop are cancelled first, whether they run or not. Ctrl-C
        before or meanwhile kills the workers.
        """
        with self._leaving(exc_val):
            self.shutdown(wait=True)
        return False

    async def __aexit__(self, *exc_info):
        """Do what leaving `with` does, while the event loop goes on."""
        with self._leaving(exc_info[1]):
            await super().__aexit__(*exc_info)

    @contextlib.contextmanager
    def _leaving(self, error):
        if _is_interrupt(error):
            self.kill_workers()
        elif error is not None:
            for executor in (self, *self._former):
                if executor._opened is not None:
                    executor._opened.queue.cancel_later(True)
        try:
            yield
        except BaseException as raised:
            if _is_interrupt(raised):
                self.kill_workers()
            raise

    def terminate_workers(self):
        """Send SIGTERM to the workers, and shut down without waiting.

        Calls that no worker has taken are cancelled; calls that run fail, with BrokenProcessPool, unless they end
        first. May be called several times, from any thread, and from a signal handler. Raises nothing; submit() raises
        RuntimeError from now on.

            >>> import time
            >>> pool = pyconc.ProcessPoolExecutor(max_workers=1)
            >>> future = pool.submit(time.sleep, 3600)
            >>> pool.terminate_workers()
            >>> pyconc.wait([future]).not_done
            set()
        """
        return self._force_shutdown(operation="terminate")

    def kill_workers(self):
        """Send SIGKILL to the workers, and shut down without waiting, as terminate_workers() does.

        For workers that SIGTERM does not end. Raises nothing.

            >>> import signal
            >>> pool = pyconc.ProcessPoolExecutor(max_workers=1, initializer=signal.signal,
            ...                                   initargs=(signal.SIGTERM, signal.SIG_IGN))
            >>> future = pool.submit(signal.pause)
            >>> pool.kill_workers()
            >>> pyconc.wait([future]).not_done
            set()
        """
        return self._force_shutdown(operation="kill")

    def _force_shutdown(self, operation):
        if operation not in ("terminate", "kill"):
            raise ValueError(f"Unsupported operation: {operation!r}")
        self._force_shutting_down = True
        self.shutdown(wait=False, cancel_futures=True)
        if self._opened is not None:
            self._opened.kill(operation)
        for former in self._former:
            former._force_shutdown(operation)


def check_logs(forward_logs):
    """Return what worker_main.Limits has of it."""
    if not isinstance(forward_logs, bool):
        raise TypeError(f"forward_logs must be a bool, not {type(forward_logs).__name__}")
    return forward_logs or None


def _check_tasks(max_tasks_per_child, context):
    if not isinstance(max_tasks_per_child, int):
        raise TypeError("max_tasks_per_child must be an integer")
    if max_tasks_per_child <= 0:
        raise ValueError("max_tasks_per_child must be >= 1")
    if context is not None and context.get_start_method(allow_none=False) == "fork":
        raise ValueError(
            "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; supply a "
            "different mp_context."
        )


def _change_workers(plan, max_workers):
    if max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    return plan._replace(max_workers=operator.index(max_workers))


def _change_initializer(plan, initializer):
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    return plan._replace(setup=(initializer, *plan.setup[1:]))


def _change_initargs(plan, initargs):
    return plan._replace(setup=(plan.setup[0], initargs, *plan.setup[2:]))


def _change_tasks(plan, max_tasks_per_child):
    if max_tasks_per_child is not None:
        _check_tasks(max_tasks_per_child, plan.context)
    return plan._replace(limits=plan.limits._replace(tasks=max_tasks_per_child))


class _FormerWorkers(ProcessExecutor):
    """The workers that an executor had before the program gave up rights, with what was submitted to them."""

    def __init__(self, executor, supervisor):
        self._is_shut_down = False
        self._options = executor._options
        self._stops_calls = executor._stops_calls
        self._opened = supervisor
        self._tasks = supervisor.queue
        self._processes = supervisor.processes
        _executors.add(self)

    def _leave_workers(self):
        pass  # They have been left.

    def __del__(self):
        self.shutdown(wait=False)


def _leave_workers():
    for executor in list(_executors):
        executor._leave_workers()


watch_standard("processes", process.ProcessPoolExecutor, ["submit"])


class ProcessPoolExecutor(
    _core.Executor, ProcessExecutor, StandardSubmit, process.ProcessPoolExecutor, metaclass=ExecutorType
):
    """A concurrent.futures.ProcessPoolExecutor whose tasks and data travel through shared memory.

    max_workers: the most processes to run at once; default: the CPUs this process may use (affinity, cgroup quota).
    mp_context: a context of multiprocessing, which starts the workers by fork, forkserver or spawn. Default: workers
    are forked from a small process with one thread. That process is forked from this one, or started anew if this one
    has threads.
    initializer, initargs: each worker calls initializer(*initargs) before its first task. If it raises, the executor is
    broken. An argument that cannot be pickled, such as a lock, reaches workers by a fork only: in a program with
    threads, submit() raises the pickling error, unless fork is multiprocessing's start method.
    max_tasks_per_child: the number of tasks after which a worker is replaced; not with a context that forks.
    max_rss_per_child: how many bytes a worker may have in memory between two tasks, with what it shares with the
    program that it was forked from: a number, or a string such as "2GiB" (2**31) or "2GB" (2 * 10**9). One that has
    more goes on until another worker is ready to take its place, and leaves then: no task waits for that, and no more
    run at a time than max_workers. With a limit below what a worker has from the beginning, each is replaced again and
    again. Where there is no /proc, what counts is the most that it has had.
    idle_timeout: for how many seconds a worker waits for a task before it ends; default: for ever. The next task that
    finds no worker free has one started, which takes some milliseconds, and calls the initializer again.
    memory_limit: how many bytes, written in the same way, a task may have beyond what its worker has as the task
    begins. One that asks for more gets a MemoryError, at once, and its future does if it lets that pass; the worker
    goes on. The limit is the kernel's (RLIMIT_DATA): nobody has to look at workers, no task can outrun it, and it takes
    some microseconds a task. It counts private memory that can be written, from the moment when it is asked for
    (numpy.empty(), the stacks of threads), and not what is shared, such as mmap.mmap(-1, size); each process that a
    task starts has it for itself. Code in C that cannot bear to be refused memory dies of that, and the future gets
    WorkerDied.
    on_worker_death: "replace" fails the task that a dead worker ran, with WorkerDied, and starts another worker;
    "break" does as the standard library: the executor is broken, and every task fails with BrokenProcessPool.
    kill_tree: when this executor kills or terminates a worker, for whatever reason, have the processes that its tasks
    have started, and what those have, get the same signal, before it. They are found whatever session or process group
    they are in; but one whose own parent has ended, as that of a daemon has, is left, and so is one that this process
    may not signal. A worker that ends by itself leaves them all, as every worker does without kill_tree.

    task_timeout, on_cancel, grace: for how many seconds a call may run, and how it is stopped; see options(), whose
    timeout, on_cancel and grace have these as their defaults.
    name: what it is called, by its repr(), stats() and its processes' names; ps and top show as much of it as fits:
    name-w0, name-w1, ... for workers, and name-zygote for the process that forks them. Default: ProcessPoolExecutor-0,
    and so on, and pyconc-w0 in ps.
    forward_logs: whether what workers log reaches this process: each record is handled here, by the logger of its name
    and with all handlers and filters, before the outcome of its call is delivered. Workers have no handler then but the
    one that sends. What they send is decided by the levels that loggers have here: when one changes, workers follow,
    also in the middle of a call; those that a worker sets for itself stay until then. Records of one worker come in
    order, and one that is killed loses at most the record that it is writing. Exceptions come as text, and so does what
    cannot be pickled. Handlers run in a thread of their own, and workers wait where that is slow; but outcomes wait no
    longer than a second for one record.

    context: ContextVars that have the values in each call that they have in submit() or map(). Each must be a global of
    a module, where workers find it, and its values are pickled with the calls. "opentelemetry" among them stands for
    what OpenTelemetry propagates: a span that a call makes is a child of its submitter's.
    timed: whether stats() tells for how long calls wait, too; how long they run it tells in any case. A call costs some
    25 nanoseconds more then.

    Arguments and results are pickled; large buffers (numpy arrays, bytearrays in pickle.PickleBuffer) are copied once,
    into memory that the receiver owns. Use it with `with`, with `async with`, and in loop.run_in_executor. All methods
    may be called from any thread, and from signal handlers.

    Workers ignore Ctrl-C, and end when this process ends in any way. At interpreter exit, queued tasks are finished
    first, unless a KeyboardInterrupt ends the program. After os.fork() the child finds the executor empty and usable;
    there, futures that were pending are finished with BrokenProcessPool.

    Raises ValueError for a number or a size that is not above 0, for another on_worker_death, for what options()
    refuses, and for max_tasks_per_child with a context that forks; TypeError if initializer cannot be called,
    idle_timeout is no number, another number no integer, a size neither that nor a str, the name no str, forward_logs
    or timed no bool, or context has what is no ContextVar; ValueError for a ContextVar that is no global of a module;
    ImportError if "opentelemetry" is not installed; and OSError if the system refuses what the executor needs
    (memfd_create, eventfd, epoll; /proc for memory_limit; /proc and pidfd_open for kill_tree).

        >>> with pyconc.ProcessPoolExecutor(max_workers=2) as pool:
        ...     future = pool.submit(pow, 2, 100)
        ...     print(future.result(), list(pool.map(abs, [-1, 2, -3])))
        1267650600228229401496703205376 [1, 2, 3]
    """

    _stops_calls = True
    _max_workers = Setting(_change_workers)
    _mp_context = Setting()
    _initializer = Setting(_change_initializer)
    _initargs = Setting(_change_initargs)
    _max_tasks_per_child = Setting(_change_tasks)

    def __new__(cls, *args, **kwargs):
        return make_standard(cls, args, kwargs) if threads_are_greenlets() else super().__new__(cls)

    def __init__(
        self,
        max_workers=None,
        mp_context=None,
        initializer=None,
        initargs=(),
        *,
        max_tasks_per_child=None,
        max_rss_per_child=None,
        memory_limit=None,
        idle_timeout=None,
        on_worker_death="replace",
        kill_tree=False,
        task_timeout=None,
        on_cancel=None,
        grace=None,
        name=None,
        forward_logs=False,
        context=(),
        timed=False,
    ):
        if max_workers is None:
            max_workers = default_workers()
        elif max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        workers = operator.index(max_workers)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            _check_tasks(max_tasks_per_child, mp_context)
        max_rss_per_child = _options.as_bytes("max_rss_per_child", max_rss_per_child)
        memory_limit = _options.as_bytes("memory_limit", memory_limit)
        if memory_limit is not None:
            kernel.require_footprint()
        _options.check_idle_timeout(idle_timeout)
        self._options = _options.change(self._options, timeout=task_timeout, on_cancel=on_cancel, grace=grace)
        context_of_standard = mp_context or multiprocessing.get_context("spawn" if max_tasks_per_child else None)
        self._safe_to_dynamically_spawn_children = context_of_standard.get_start_method(allow_none=False) != "fork"
        vars(self).update(
            _max_workers=max_workers,
            _mp_context=context_of_standard,
            _initializer=initializer,
            _initargs=initargs,
            _max_tasks_per_child=max_tasks_per_child,
        )
        self._shutdown_lock = threading.Lock()
        self._call_queue = self._result_queue = _NoQueue()
        setup = (initializer, initargs, None)
        self._carry, carried = _context.carrier_to_processes(context)
        logs = check_logs(forward_logs)
        limits = Limits(
            max_tasks_per_child,
            rss=max_rss_per_child,
            memory=memory_limit,
            name=name,
            logs=logs,
            context=carried,
            idle=idle_timeout and min(idle_timeout, threading.TIMEOUT_MAX),
        )
        self._begin("ProcessPoolExecutor", workers, mp_context, setup, limits, on_worker_death, kill_tree, timed)

    __new__.__wrapped__ = __init__  # for inspect.signature()

    def options(self, *, timeout=None, deadline=None, on_cancel=None, grace=None, name=None):
        """Return this executor with other options: an executor of the same class, on the same workers.

        What is submitted there, by submit(), map() or loop.run_in_executor(), has these options; None: as here. It is
        no second pool: to shut it down, or to leave it by `with`, shuts down this one.

        timeout: for how many seconds a call may run, from when a worker begins it, its arguments unpickled, until its
        result is pickled; math.inf: for ever. A call of map() has it for itself.
        deadline: when a call must have ended, by time.monotonic(); one that waits for a worker until then never begins.
        When its time is over, the call is interrupted, and killed if that does not help, as below: at once with
        on_cancel="kill". Its future gets TaskTimeout when the call has ended, whatever that has returned or raised.

        on_cancel: what becomes of a call that runs when its future is cancelled.

        "abandon": it goes on, as with the standard library, and future.cancel() returns False. The default.
        "interrupt": TaskCancelled is raised in it, mostly within a millisecond, and its worker goes on when it has
        ended. If it has not ended after `grace` seconds (1 by default), its worker is killed and another one started.
        "kill": its worker is killed at once.

        With the latter two future.cancel() returns True; the callbacks of a concurrent.futures.Future are called then,
        and wait() returns when the call has ended. A future of run_in_executor() stays pending until the call has
        ended, and is then cancelled: asyncio.timeout(), wait_for(), a TaskGroup and task.cancel() wait for that, and
        the second Ctrl-C under asyncio.run() ends the call's grace. (Under uvloop they do not wait for the first call
        on a loop that did not run when options() was called.) What the call returns or raises meanwhile is dropped.
        shutdown(cancel_futures=True) stops such calls, too.

        name: what its tasks are called, by pyconc.current_task() in the worker, by WorkerDied and by TaskTimeout;
        default: as the function.

        A call that has no Python code to go on with is interrupted when it has: a long computation in C is killed after
        `grace`. So is one that has blocked the signal SIGRTMIN+3 or replaced its handler, which workers use. A worker
        whose call was interrupted in the middle of an import is replaced: it may have half a module. map() sends calls
        with options one by one; to close its iterator, when a result was asked for before, stops those that run.

        Any thread may call this. Raises ValueError for another on_cancel, for a timeout or a grace that is nan or below
        0, and for a deadline that is nan or -inf; TypeError for any of these that is no number, and for a name that is
        no str.

            >>> import asyncio, time
            >>> async def main():
            ...     async with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
            ...         loop = asyncio.get_running_loop()
            ...         stoppable = pool.options(on_cancel="interrupt")
            ...         try:
            ...             await asyncio.wait_for(loop.run_in_executor(stoppable, time.sleep, 3600), 0.1)
            ...         except asyncio.TimeoutError:
            ...             return await loop.run_in_executor(pool, abs, -1)  # the same worker, free again
            >>> asyncio.run(main())
            1
        """
        changed = {"timeout": timeout, "deadline": deadline, "on_cancel": on_cancel, "grace": grace, "name": name}
        return _options.make_view(self, _options.change(self._options, **changed))

    def map(self, fn, *iterables, timeout=None, chunksize=None, buffersize=None, progress=False):
        """Return an iterator over fn's results, in the order of the iterables' items.

        chunksize: how many calls to send at a time; by default the executor chooses, from the time that calls take.
        buffersize: how many chunks, or without a chunksize how many calls, may be ahead of the results taken; by
        default, all of the iterables' items are read at once. timeout: seconds from this call until the last result;
        TimeoutError after that. Closing the iterator, or an exception from it, cancels the calls that have not started.

        progress: True shows on a terminal how many calls have ended, as they end: by tqdm or else rich if one is
        installed, on a plain line otherwise; where stderr is no terminal, it shows nothing. A function is called with
        (done, total) for that, in a thread of its own, one call at a time and at most twenty times a second, at first
        with 0. total is what len() says of the shortest iterable, or None if none has a length and the end was not
        reached. The iterator ends after the last of these calls; an exception from one is logged, and ends them. Calls
        are sent one by one then, whatever the chunksize, which takes some microseconds more for each.

        Raises TypeError or ValueError for another chunksize, buffersize or progress, and RuntimeError after shutdown().
        What a call or an iterable raises comes out of the iterator.

            >>> with pyconc.ProcessPoolExecutor() as pool:
            ...     list(pool.map(pow, [2, 3, 4], [5, 5, 5], timeout=60))
            [32, 243, 1024]
        """
        return chunks.map_chunks(self, fn, iterables, timeout, chunksize, buffersize, _progress.choose(progress))


def _after_fork_in_child():
    lost = BrokenProcessPool("the process was forked while the call was pending; only the parent runs it")
    for executor in list(_executors):
        executor._inherit(lost)


os.register_at_fork(after_in_child=_after_fork_in_child)
