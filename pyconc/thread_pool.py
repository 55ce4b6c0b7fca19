"""ThreadPoolExecutor: the standard class's names and rules over the queue and the workers in C."""

import atexit
import math
import os
import sys
import threading
import time
import weakref
from concurrent.futures import _base, thread
from concurrent.futures.thread import BrokenThreadPool
from functools import partial

from pyconc import _context, _core, _names, _options, _progress, _stats
from pyconc._async_with import AsyncWith
from pyconc._shutdown import SPARE, deadline_after
from pyconc._started import Started
from pyconc.patching import ExecutorType, find_originals, make_standard, threads_are_greenlets, watch_standard
from pyconc.waiting import submit_in_order

__all__ = ["ThreadPoolExecutor"]

# Since Python 3.14 workers have contexts, which run the work items.
_CONTEXTS = sys.version_info >= (3, 14)

# References to every queue of this process, for the child of a fork. A WeakSet would call functions in Python.
_queues: "set[weakref.ref[_WorkQueue]]" = set()


class _WorkQueue(_core.ThreadQueue):
    """The tasks of one executor, and the threads that run them, which may outlive the executor.

    It is the executor's `_work_queue` too: programs look into it, drain it, and put work items there.
    """

    # Slots, as attributes in the dictionary of a class that derives from one in C cost the interpreter far more.
    __slots__ = (
        *("executor_reference", "limit", "most", "is_shut_down", "reason", "name", "shown", "waits_at_exit"),
        *("exit_bell", "threads", "closed", "starting", "wait_owed", "owed_until", "lock"),
        *("idle_timeout", "retired", "leaving"),
    )

    def __init__(self, max_workers, timed, executor, name, idle_timeout):
        self.executor_reference = weakref.ref(executor)
        self.limit = executor._max_workers  # as the program has given it
        self.most = max_workers  # the same as a number of threads
        self.is_shut_down = False  # whether shutdown() was called; the program may set it, too
        self.reason = False  # why the executor is broken
        # What the program has given the executor; may be empty. A prefix of threads' names may be of any type.
        self.name = name if isinstance(name, str) else None
        self.shown = executor._name  # in a trace
        self.waits_at_exit = executor._waits_at_exit
        self.exit_bell = _ExitBell(self)
        self.threads = set()
        self.idle_timeout = idle_timeout  # in seconds; 0: threads wait for tasks for ever
        self.retired = 0  # how many threads have had nothing to do for so long; guarded by lock
        self.leaving = set()  # those of them that may not have ended; guarded by lock
        self.closed = False
        self.starting = False  # a thread is being started; guarded by lock
        self.wait_owed = False  # a signal handler shut down during a start, and could not wait; guarded by lock
        self.owed_until = None  # how long it would have waited at most, by time.monotonic(); guarded by lock
        # Held while a thread is started, so that shutdown() sees every thread.  Re-entrant, because a signal handler
        # may submit or shut down while its own thread starts another.
        self.lock = threading.RLock()
        _queues.add(weakref.ref(self, _queues.discard))

    def close(self, error, message):
        self.closed = True
        super().close(error, message)

    def put(self, item, block=True, timeout=None):
        """Queue a work item, which a worker will run; None has the workers look whether they are to end.

        The standard library's submit() puts items; its exit handler and its shutdown() put None.
        """
        if item is not None:
            self.push(_RunItem(item))
        elif not self.closed:
            executor = self.executor_reference()
            if thread._shutdown:
                self.close(RuntimeError, "cannot schedule new futures after interpreter shutdown")
            elif executor is None or executor._shutdown:
                self.close(RuntimeError, "cannot schedule new futures after shutdown")

    put_nowait = put

    def get(self, block=True, timeout=None):
        """Take the next task out of the queue, as the work item of this Python version.

        From then on the caller completes its future. Without block, raise queue.Empty if there is no task; with it,
        wait for one, at most `timeout` seconds, and return None if the executor is shut down, so that none will come.
        """
        taken = self.take(bool(block), timeout)
        if taken is False:
            return None
        if taken is None:
            raise _empty_error()
        future, fn, args, kwargs = taken
        if type(fn) is _RunItem:
            return fn.item
        if not isinstance(future, _core.Future):
            future = _in_front_of(future)
        return thread._WorkItem(future, (fn, args, kwargs)) if _CONTEXTS else thread._WorkItem(future, fn, args, kwargs)

    def get_nowait(self):
        """Take the next task out of the queue; raise queue.Empty if there is no task."""
        return self.get(block=False)

    def start_worker(self, name, seat):
        """Start a thread for a worker whose place was reserved.

        A signal handler's exception may strike anywhere in here. The reservation ends with its last reference; this
        function gives it back, too, because the threading module may keep a thread that it failed to start. A thread
        that runs in spite of the exception registers itself.
        """
        if threads_are_greenlets():
            raise RuntimeError("threading was monkey-patched after this executor was made, and starts no threads")
        # Other libraries know a pool's thread by its target.
        daemon = None if self.waits_at_exit else True
        worker = threading.Thread(name=name, target=thread._worker, args=seat.arguments(), daemon=daemon)
        worker._started.__class__ = Started
        if thread._shutdown:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        reservation = seat.reservation
        try:
            worker.start()
        except BaseException:
            self.release_worker(reservation)
            raise
        self.register(worker)

    def register(self, worker):
        """Let shutdown() and the interpreter's exit know of a thread."""
        if worker not in self.threads:
            if self.waits_at_exit:
                # At exit the standard library wakes and joins the threads in this dictionary.
                thread._threads_queues[worker] = self.exit_bell
            self.threads.add(worker)  # at last: what is in there needs nothing more
        if thread._shutdown:
            self.put(None)

    def retire(self, worker):
        """Have a thread that is about to end, as it had nothing to do, be no worker any more."""
        with self.lock:
            self.leaving = {other for other in self.leaving if other.is_alive()} | {worker}
            self.threads.discard(worker)
            self.retired += 1

    def all_threads(self):
        """Return every thread that shutdown() waits for."""
        return [*self.threads, *self.leaving]

    def await_starts(self):
        """Wait until each thread that was started runs, and has its idents.

        A signal handler that has interrupted a start does not wait: Thread.start() may hold a lock that new threads
        need.
        """
        with self.lock:
            for worker in () if self.starting else list(self.threads):
                worker.is_alive()  # see Started


def _empty_error():
    import queue

    return queue.Empty()


def _in_front_of(loop_future):
    """Return a Future that completes run_in_executor()'s asyncio future in the way that asyncio does."""
    from asyncio import futures

    future = _core.Future()
    futures._chain_future(future, loop_future)
    return future


class _RunItem:
    """A task that runs a work item."""

    __slots__ = ("item",)

    def __init__(self, item):
        self.item = item

    def __call__(self):
        try:
            self.item.run(thread.WorkerContext(None, ())) if _CONTEXTS else self.item.run()
        except BaseException:
            _base.LOGGER.critical("Exception in worker", exc_info=True)


class _IdleThreads:
    """An executor's `_idle_semaphore`: its value is the number of threads that wait for a task."""

    def __init__(self, tasks):
        self._tasks = tasks

    @property
    def _value(self):
        return max(0, self._tasks.idle_workers() - self._tasks.qsize())

    def acquire(self, blocking=True, timeout=None):
        """Return whether a thread is idle for each task that is queued; the queue itself counts them."""
        if blocking and timeout != 0:
            raise NotImplementedError("the idle threads of pyconc's executor cannot be waited for")
        return self._tasks.idle_workers() >= self._tasks.qsize()

    def release(self, n=1):
        """Do nothing: the queue itself counts the threads that are idle."""


class _ExitBell:
    """A queue for the standard exit handler, which keeps neither the tasks nor their threads alive."""

    __slots__ = ("_tasks",)

    def __init__(self, tasks):
        self._tasks = weakref.ref(tasks)

    def put(self, item):
        tasks = self._tasks()
        if tasks is not None:
            tasks.put(item)


class _Seat:
    """The executor, the context and the queue in one, as the standard library's worker function takes them.

    That function's first get() runs tasks until the queue is closed and empty; afterwards it sees no executor, and
    returns.
    """

    __slots__ = ("context", "executor_reference", "initargs", "initializer", "number", "reservation", "tasks")

    def __init__(self, tasks, reservation, executor, number):
        self.tasks = tasks
        self.number = number
        self.reservation = reservation
        self.executor_reference = tasks.executor_reference
        self.context = executor._create_worker_context() if _CONTEXTS else None
        self.initializer = executor._initializer
        self.initargs = executor._initargs

    def arguments(self):
        """Return what thread._worker() takes on this Python version."""
        return (self, self, self) if _CONTEXTS else (self, self, self.initialize, ())

    def __call__(self):
        return None if self.reservation is None else self.executor_reference()

    def initialize(self):
        self.tasks.register(threading.current_thread())
        _core.name_thread(_names.short_name(self.tasks.name, f"-t{self.number}"))
        initializer, self.initializer = self.initializer, None
        initargs, self.initargs = self.initargs, None
        try:
            if self.context is not None:
                self.context.initialize()
            elif initializer is not None:
                initializer(*initargs)
        except BaseException:
            # The standard function tells the executor; without an executor, the tasks still have to fail.
            if self.executor_reference() is None:
                _break(self.tasks)
            raise

    def finalize(self):
        self.context.finalize()

    def get(self, block=True):
        reservation, self.reservation = self.reservation, None
        if self.tasks.work(reservation, self.tasks.idle_timeout):
            self.tasks.retire(threading.current_thread())

    get_nowait = get  # Newer versions try it first.

    def put(self, item):
        pass


_INITIALIZER_FAILED = "A thread initializer failed, the thread pool is not usable anymore"


def _break(tasks):
    tasks.close(BrokenThreadPool, _INITIALIZER_FAILED)
    tasks.fail_queued(BrokenThreadPool, _INITIALIZER_FAILED)


def _after_fork_in_child():
    _core.after_fork()
    if not _queues:
        return
    lost = BrokenThreadPool("the process was forked while the call was pending; only the parent runs it")
    for tasks in [tasks for reference in list(_queues) if (tasks := reference()) is not None]:
        for worker in tasks.threads:
            thread._threads_queues.pop(worker, None)
            worker._started.set()  # Nobody else sets it for a thread that was about to start.
        tasks.threads.clear()
        tasks.leaving.clear()
        tasks.lock = threading.RLock()
        tasks.after_fork(lost)


os.register_at_fork(after_in_child=_after_fork_in_child)
# When that is called, the threads have ended.
atexit.register(_core.end_limits)


watch_standard("threads", thread.ThreadPoolExecutor, ["submit"])
# map() and shutdown(), which are in Python, see for themselves whether the standard method was replaced.
_standard_map = find_originals(_base.Executor, ["map"])["map"]
_standard_shutdown = find_originals(thread.ThreadPoolExecutor, ["shutdown"])["shutdown"]


def _join_all(threads, deadline):
    """Wait for threads until an instant of time.monotonic(); return how many have not ended."""
    for worker in threads:
        worker.join(max(0.0, deadline - time.monotonic()))
    return sum(worker.is_alive() for worker in threads)


def _as_limit(max_workers):
    return max(0, min(math.ceil(max_workers), 2**31))


class ThreadPoolExecutor(_core.Executor, _stats.Observed, AsyncWith, thread.ThreadPoolExecutor, metaclass=ExecutorType):
    """A concurrent.futures.ThreadPoolExecutor whose queue, futures and workers' loop are in C.

    max_workers: the most threads to run at once; default min(32, CPUs + 4). Threads start when a task finds none idle.
    thread_name_prefix: threads are named prefix_0, prefix_1, ...
    initializer, initargs: each thread calls initializer(*initargs) before its first task. If it raises, the executor is
    broken: pending tasks and later submits get BrokenThreadPool.
    task_timeout, on_cancel, grace: for how many seconds a call may run, and how it is stopped; see options(), whose
    timeout, on_cancel and grace have these as their defaults.
    name: what it is called, by its repr() and stats(); default: thread_name_prefix, for which it stands in as well. ps
    and top show as much of it as fits: name-t0, name-t1, ...; without a name pyconc-t0.
    context: whether each call runs in a copy of its submitter's context, as with asyncio.to_thread(): context
    variables have the values there that they had in submit(); what the call sets is its own.
    timed: whether stats() tells for how long calls wait and run. A call costs some 25 nanoseconds more then, an empty
    one an eighth.
    idle_timeout: for how many seconds a thread waits for a task before it ends; default: for ever. The next task that
    finds no thread idle has one started, which calls the initializer again.

    Use it with `with`, with `async with` (leaving waits without blocking the loop), as asyncio's default executor, or
    in loop.run_in_executor, whose completions reach the loop in batches. All methods may be called from any thread, and
    from signal handlers. A task may submit to its own executor and wait for that: if no thread is free, it runs the
    call in its own thread, where up to 64 tasks may wait for the next one.

    At interpreter exit, queued tasks are finished first. After os.fork() the child finds the executor empty and usable;
    there, futures that were pending are finished with BrokenThreadPool, and their callbacks are not called.

    Raises ValueError if max_workers or idle_timeout is not above 0, and for what options() refuses; TypeError if
    initializer cannot be called, the name is no str, idle_timeout no number, or context or timed no bool.

        >>> with pyconc.ThreadPoolExecutor(max_workers=4, thread_name_prefix="loader") as pool:
        ...     future = pool.submit(pow, 2, 5)
        ...     print(future.result(), list(pool.map(abs, [-1, 2, -3])))
        32 [1, 2, 3]
    """

    def __new__(cls, *args, **kwargs):
        return make_standard(cls, args, kwargs) if threads_are_greenlets() else super().__new__(cls)

    _waits_at_exit = True  # whether the interpreter's exit waits for what was submitted

    # What the standard class's __init__() and ours set. An executor has a dictionary only for what others add, because
    # since Python 3.13 the interpreter finds submit() in 250 instructions less where there is none. What can change
    # when the executor is made is the queue's, which views share; they have copies of these.
    __slots__ = (
        *("_limit", "_name", "_thread_name_prefix", "_shutdown_lock", "_initializer", "_initargs"),
        *(("_create_worker_context", "_resolve_work_item_task") if _CONTEXTS else ()),
    )

    def __init__(
        self,
        max_workers=None,
        thread_name_prefix="",
        initializer=None,
        initargs=(),
        *,
        task_timeout=None,
        on_cancel=None,
        grace=None,
        name=None,
        context=False,
        timed=False,
        idle_timeout=None,
    ):
        carry = options = None
        # To find that all is as by default would take a twentieth of the life of an executor that makes one call.
        if not (task_timeout is on_cancel is grace is name is idle_timeout is None and context is timed is False):
            _names.check_name(name)
            carry = _context.carrier_to_threads(context)
            _stats.check_timed(timed)
            _options.check_idle_timeout(idle_timeout)
            options = self._change_options(timeout=task_timeout, on_cancel=on_cancel, grace=grace)
        made, self._made = self._made, False
        try:
            # Checks the arguments, and sets the private attributes of this Python version that others read.
            super(AsyncWith, self).__init__(max_workers, thread_name_prefix or name or "", initializer, initargs)
        except BaseException:
            self._made = made
            raise
        self._initializer = initializer
        self._initargs = initargs
        if made:  # A singleton is initialised again: the threads finish the queued tasks, and end.
            self._tasks.close(RuntimeError, "cannot schedule new futures after shutdown")
        self._name = name or self._thread_name_prefix
        idle = min(idle_timeout or 0, threading.TIMEOUT_MAX)
        self._tasks = _WorkQueue(_as_limit(self._max_workers), timed, self, name or thread_name_prefix, idle)
        if options is not None:
            self._options = options
        self._carry = carry
        self._made = True
        if not made:
            self._observe()

    __new__.__wrapped__ = __init__  # for inspect.signature()

    # Private attributes that other libraries read and write:

    @property
    def _max_workers(self):
        """The most threads to run at once; a larger number counts from the next submit() on."""
        return self._tasks.limit if self._made else self._limit

    @_max_workers.setter
    def _max_workers(self, number):
        if self._made:
            most = _as_limit(number)
            self._tasks.set_max_workers(most)
            self._tasks.limit, self._tasks.most = number, most
        else:
            self._limit = number

    @property
    def _work_queue(self):
        """The queue of tasks; other libraries look into it, drain it, or put items there."""
        return self._tasks

    @_work_queue.setter
    def _work_queue(self, queue):
        if self._made:
            raise TypeError("the queue of pyconc's executor is in C and cannot be replaced")

    @property
    def _idle_semaphore(self):
        """The number of threads that wait for a task, as its `_value`."""
        return _IdleThreads(self._tasks)

    @_idle_semaphore.setter
    def _idle_semaphore(self, semaphore):
        if self._made:
            raise TypeError("the queue of pyconc's executor counts its idle threads, and this cannot be replaced")

    @property
    def _threads(self):
        """The set of the threads, each with its ident."""
        self._tasks.await_starts()
        return self._tasks.threads

    @_threads.setter
    def _threads(self, threads):
        if self._made:
            self._tasks.threads = threads

    @property
    def _shutdown(self):
        """Whether tasks are refused since shutdown(); setting it has them refused."""
        return self._tasks.is_shut_down

    @_shutdown.setter
    def _shutdown(self, shut_down):
        if not self._made:
            return
        if shut_down:
            self._refuse_tasks()
        elif self._tasks.is_shut_down:
            raise RuntimeError("pyconc's executor cannot be opened again once it was shut down")

    def _refuse_tasks(self):
        """Refuse tasks from now on."""
        tasks = self._tasks
        tasks.is_shut_down = True
        if not tasks.reason:
            tasks.close(RuntimeError, "cannot schedule new futures after shutdown")

    @property
    def _broken(self):
        """False, or why tasks are refused with BrokenThreadPool; setting it has them refused."""
        return self._tasks.reason

    @_broken.setter
    def _broken(self, reason):
        if not self._made:
            return
        tasks = self._tasks
        if tasks.reason and not reason:
            raise RuntimeError("pyconc's executor cannot be opened again once it is broken")
        tasks.reason = reason
        if reason:
            tasks.close(BrokenThreadPool, str(reason))

    def _start_workers(self):
        """Start workers; submit() calls this when tasks outnumber idle workers."""
        self._adjust_thread_count()  # the standard class's name, which subclasses override

    def _adjust_thread_count(self):
        """Start workers until there are enough."""
        tasks = self._tasks
        with tasks.lock:
            nested = tasks.starting  # A signal handler that has interrupted this function calls it.
            while (reservation := tasks.reserve_worker()) is not None:
                number = tasks.retired + len(tasks.threads)
                name = f"{self._thread_name_prefix or self}_{number}"
                tasks.starting = True
                try:
                    tasks.start_worker(name, _Seat(tasks, reservation, self, number))
                except RuntimeError as error:
                    # The system has no more threads: the running ones go on, and the next submit tries again.
                    if "can't start new thread" in str(error) and any(t.is_alive() for t in tasks.threads):
                        break
                    raise
                finally:
                    tasks.starting = nested
            owed = tasks.wait_owed and not nested
            tasks.wait_owed = tasks.wait_owed and nested
        if owed and tasks.owed_until is None:
            self.shutdown(wait=True)
        elif owed:
            self.shutdown(wait=True, timeout=tasks.owed_until - time.monotonic())

    def _initializer_failed(self):
        self._broken = _INITIALIZER_FAILED
        self._tasks.fail_queued(BrokenThreadPool, _INITIALIZER_FAILED)

    def options(self, *, timeout=None, deadline=None, on_cancel=None, grace=None, name=None):
        """Return this executor with other options: an executor of the same class, on the same threads.

        What is submitted there, by submit(), map() or loop.run_in_executor(), has these options; None: as here. It is
        no second pool: to shut it down, or to leave it by `with`, shuts down this one.

        timeout: for how many seconds a call may run, from when a thread begins it; math.inf: for ever.
        deadline: when a call must have ended, by time.monotonic(); one that waits for a thread until then never begins.
        When its time is over, the call is interrupted, as below. Its future gets TaskTimeout when the call has ended,
        whatever that has returned or raised.

        on_cancel: what becomes of a call that runs when its future is cancelled.

        "abandon": it goes on, as with the standard library, and future.cancel() returns False. The default.
        "interrupt": pyconc.current_task().cancelled() is true in it from then on, TaskCancelled is raised in it, mostly
        within a millisecond, and its thread goes on with other calls when it has ended.

        No thread is ever killed. If a call has not ended `grace` seconds after it was to end (1 by default; math.inf:
        for ever), it is abandoned: its future is cancelled, or gets TaskTimeout, its thread goes on, no other takes its
        place, and what it returns is dropped. That is logged for the first such call of an executor. shutdown() and the
        interpreter's exit wait for the thread, as with the standard library.

        With "interrupt" future.cancel() returns True; the callbacks of a concurrent.futures.Future are called then, and
        wait() returns when the call has ended. A future of run_in_executor() stays pending until the call has ended,
        and is then cancelled: asyncio.timeout(), wait_for(), a TaskGroup and task.cancel() wait for that, and the
        second Ctrl-C under asyncio.run() ends the call's grace. (Under uvloop they do not wait for the first call on a
        loop that did not run when options() was called.) What the call returns or raises meanwhile is dropped.
        shutdown(cancel_futures=True) and closing a map() stop such calls, too.

        TaskCancelled is raised when the call runs Python code again, so not before a function in C returns. Since
        Python 3.15 a sleep, a select() and a socket's recv() return for that, because the thread gets a signal,
        SIGRTMIN+4, unless the program has a handler for it; the acquire() of a lock, and what waits with one, does not.
        A call that runs another one while it waits for it is interrupted when that has ended.

        name: what its tasks are called, by pyconc.current_task() and by TaskTimeout; default: as the function.

        Any thread may call this. Raises ValueError for another on_cancel, for a timeout or a grace that is nan or below
        0, and for a deadline that is nan or -inf; TypeError for any of these that is no number, and for a name that is
        no str. The callbacks of a call that has reached a limit may be called in a thread of their own.

            >>> import threading
            >>> began = threading.Event()
            >>> def count():
            ...     began.set()
            ...     while True:
            ...         pass
            >>> with pyconc.ThreadPoolExecutor(max_workers=1) as pool:
            ...     future = pool.options(on_cancel="interrupt").submit(count)
            ...     began.wait(), future.cancel(), pool.submit(abs, -1).result()  # the same thread, free again
            (True, True, 1)
        """
        changed = {"timeout": timeout, "deadline": deadline, "on_cancel": on_cancel, "grace": grace, "name": name}
        view = _options.make_view(self, self._change_options(**changed))
        for attribute in ThreadPoolExecutor.__slots__:
            setattr(view, attribute, getattr(self, attribute))
        return view

    def _change_options(self, **changed):
        return _options.change(self._options, **changed, ways=_options.ON_CANCEL[:2])

    def stats(self):
        """Return a pyconc.PoolStats: what this executor is doing, and what it has done since it was made.

        It takes a microsecond, and holds up nobody. In the child of a fork everything begins at 0. Any thread may call
        this, a signal handler too. Raises nothing.

            >>> with pyconc.ThreadPoolExecutor(max_workers=2) as pool:
            ...     future = pool.submit(int, "ff", base=16)
            ...     print(future.result(), pool.stats().completed, pool.stats().failed)
            255 1 0
        """
        tasks = self._tasks
        return _stats.build(self._name, tasks.most, tasks.stats())

    def workers(self):
        """Return a list with a pyconc.WorkerStats for each thread that has begun: what it runs, and what it has done.

        Any thread may call this, a signal handler too. Raises nothing.

            >>> with pyconc.ThreadPoolExecutor(max_workers=1, name="loader") as pool:
            ...     future = pool.submit(lambda: pool.workers())
            ...     [(worker.name, worker.running) for worker in future.result()]
            [('loader_0', 1)]
        """
        names = {worker.native_id: worker.name for worker in list(self._tasks.threads)}
        return [
            _stats.WorkerStats(
                id=number,
                name=names.get(number),
                state="idle" if function is None else "running",
                calls=calls,
                task=_stats.name_of(function, name),
                running_for=seconds,
                running=int(function is not None),
                is_abandoned=is_abandoned,
                cpu=_stats.cpu_of_thread(number),
                progress=progress,
            )
            for number, function, name, seconds, calls, is_abandoned, progress in self._tasks.workers()
        ]

    def _describe(self):
        end = ", broken" if self._broken else ", shut down" if self._shutdown else ""
        return super()._describe() + end

    def map(self, fn, *iterables, timeout=None, chunksize=1, buffersize=None, progress=False):
        """Return an iterator over fn's results, in the order of the iterables' items.

        buffersize: how many tasks may be ahead of the results taken, 1 or more; by default all tasks are submitted at
        once. timeout: seconds from this call until the last result; TimeoutError after that. chunksize is ignored: it
        matters to processes only. Closing the iterator, or an exception from it, cancels the tasks that have not
        started, and those that run if options() say so.

        progress: True shows on a terminal how many calls have ended, as they end: by tqdm or else rich if one is
        installed, on a plain line otherwise; where stderr is no terminal, it shows nothing. A function is called with
        (done, total) for that, in a thread of its own, one call at a time and at most twenty times a second, at first
        with 0. total is what len() says of the shortest iterable, or None if none has a length and the end was not
        reached. The iterator ends after the last of these calls; an exception from one is logged, and ends them.

        Raises TypeError or ValueError for another buffersize or progress, and RuntimeError after shutdown(). What a
        call or an iterable raises comes out of the iterator.

            >>> with pyconc.ThreadPoolExecutor() as pool:
            ...     list(pool.map(pow, [2, 3, 4], [5, 5, 5], timeout=10))
            [32, 243, 1024]
        """
        show = _progress.choose(progress)
        if thread.ThreadPoolExecutor.map is not _standard_map and show is None:
            more = {} if buffersize is None else {"buffersize": buffersize}
            return super(AsyncWith, self).map(fn, *iterables, timeout=timeout, chunksize=chunksize, **more)
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else timeout + time.monotonic()
        # Nobody else keeps a view.
        is_view = self._tasks.executor_reference() is not self
        if show is not None:
            submit = partial(submit_in_order, deadline=deadline, buffersize=buffersize, keep=True)
            return _progress.follow(self, fn, iterables, show, submit)
        return submit_in_order(self, fn, zip(*iterables), deadline, buffersize, keep=is_view)

    def shutdown(self, wait=True, *, cancel_futures=False, timeout=None):
        """Refuse tasks from now on, and let the threads end when the queued tasks are done.

        wait: return only when all threads have ended; if a signal handler calls this while the submit() that it has
        interrupted starts a thread, that submit() waits instead. cancel_futures: cancel the tasks that have not
        started, and stop those that run and whose options() say how.

        timeout: for how many seconds tasks may begin and go on; default: as long as they take. What has not begun then
        never does: it is cancelled, with wait at once, and without as soon as a thread comes to it. What runs is
        stopped as its options() say. With wait it has a second for that, and shutdown() returns a tenth of a second
        later at the latest. No thread can be ended: if some still run, the log of concurrent.futures says how many,
        and the interpreter waits for them at its exit.

        May be called several times, from any thread, and from a signal handler. Raises ValueError or TypeError for a
        timeout that is nan or no number, and nothing else; submit() raises RuntimeError from now on.

            >>> pool = pyconc.ThreadPoolExecutor()
            >>> future = pool.submit(len, "abc")
            >>> pool.shutdown()
            >>> future.done()
            True
        """
        deadline = None if timeout is None else deadline_after(timeout)
        if thread.ThreadPoolExecutor.shutdown is not _standard_shutdown and timeout is None:  # which it does not know
            return super(AsyncWith, self).shutdown(wait=wait, cancel_futures=cancel_futures)
        tasks = self._tasks
        with tasks.lock:
            self._refuse_tasks()
            # A signal handler must not wait for a thread that its own thread is starting; nor for threads that end,
            # which need a lock that Thread.start() may hold. The submit() that it has interrupted waits instead.
            may_wait = not tasks.starting
            if wait and not may_wait:
                tasks.wait_owed, tasks.owed_until = True, deadline
            if deadline is not None:
                tasks.cancel_at(deadline)
        if cancel_futures:
            # A task for which a thread was started counts as started, even if the thread does not run yet.
            for worker in list(tasks.threads) if may_wait else ():
                worker.is_alive()
            tasks.cancel_queued()
            tasks.stop_running()
        if wait and may_wait and deadline is None:
            tasks.await_threads()
            for worker in tasks.all_threads():
                worker.join()
        elif wait and may_wait:
            self._await_threads(tasks, deadline)

    def _await_threads(self, tasks, deadline):
        """Wait for the threads, but no longer; what is queued then is cancelled, and what a thread runs goes on."""
        tasks.await_threads()
        if _join_all(tasks.all_threads(), deadline):
            tasks.cancel_queued()
            # Those that have nothing to do any more end now.
            grace = self._options[1] if tasks.stop_running() else 0.0
            if left := _join_all(tasks.all_threads(), max(deadline, time.monotonic()) + grace + SPARE):
                name = self._thread_name_prefix or type(self).__name__
                message = "%s: shutdown() returns because its time is over; threads that still run calls: %d"
                _base.LOGGER.warning(message, name, left)

    def __exit__(self, exc_type, exc_val, exc_tb):
        """Shut down, and wait for the threads; after an exception, stop first what options() allow to stop."""
        if exc_val is not None:
            self._tasks.stop_running()
        return super().__exit__(exc_type, exc_val, exc_tb)

    async def __aexit__(self, *exc_info):
        """Do what leaving `with` does, while the event loop goes on."""
        if exc_info[1] is not None:
            self._tasks.stop_running()
        await super().__aexit__(*exc_info)

    async def _wait_closed(self):
        # A system that has started no thread for the tasks may refuse the thread that would wait, too.
        if any(worker.is_alive() for worker in self._tasks.all_threads()):
            await super()._wait_closed()
