"""ThreadPoolExecutor: the standard class's names and rules over the queue and the workers in C."""

import math
import os
import threading
import time
import weakref
from collections import deque
from concurrent.futures import _base, thread
from concurrent.futures.thread import BrokenThreadPool
from itertools import islice

from pyconc import _core
from pyconc._async_with import AsyncWith
from pyconc.patching import ExecutorType

# Every queue of this process, for the child of a fork.
_queues: "weakref.WeakSet[_WorkQueue]" = weakref.WeakSet()


class _Started(threading.Event):
    """By this event a Thread's start() waits until the thread runs.  That would cost an executor two wakeups.

    So start() does not wait, and whoever wants to know afterwards waits instead: join() and is_alive() ask is_set().
    """

    launched = False

    def wait(self, timeout=None):
        self.launched = True
        return True

    def is_set(self):
        return super().wait() if self.launched else super().is_set()


class _WorkQueue(_core.ThreadQueue):
    """The tasks of one executor, and the threads that run them, which may outlive the executor."""

    def __init__(self, max_workers):
        self.threads = set()
        self.closed = False
        self.starting = False  # a thread is being started; guarded by lock
        self.wait_owed = False  # a signal handler shut down during that, and could not wait; guarded by lock
        # Held while a thread is started, so that shutdown() sees all there are.  Re-entrant, because a signal handler
        # may submit or shut down while its own thread is at it.
        self.lock = threading.RLock()
        _queues.add(self)

    def close(self, error, message):
        self.closed = True
        super().close(error, message)

    def put(self, item):
        """Wake the workers to look whether the interpreter exits: the standard library's exit handler puts None."""
        if thread._shutdown and not self.closed:
            self.close(RuntimeError, "cannot schedule new futures after interpreter shutdown")

    def start_worker(self, name, reservation, *args):
        """Start a thread for a worker that was reserved.

        A signal handler's exception may strike anywhere in here. The reservation ends with its last reference, or is
        given back, as the threading module may keep a thread that it was about to start; a thread that runs all the
        same registers itself.
        """
        worker = threading.Thread(name=name, target=_work, args=(self, reservation, *args))
        worker._started.__class__ = _Started
        if thread._shutdown:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        try:
            worker.start()
        except BaseException:
            self.release_worker(reservation)
            raise
        self.register(worker)

    def register(self, worker):
        """Let shutdown() and the interpreter's exit know of a thread."""
        self.threads.add(worker)
        # At exit the standard library wakes and joins whatever stands here.
        thread._threads_queues[worker] = _ExitBell(self)
        self.put(None)


class _ExitBell:
    """A queue as the standard exit handler knows it, without keeping the tasks and their threads alive."""

    __slots__ = ("_tasks",)

    def __init__(self, tasks):
        self._tasks = weakref.ref(tasks)

    def put(self, item):
        tasks = self._tasks()
        if tasks is not None:
            tasks.put(item)


def _work(tasks, reservation, executor_reference, initializer, initargs):
    """Live a worker's life."""
    tasks.register(threading.current_thread())
    if initializer is not None:
        try:
            initializer(*initargs)
        except BaseException:
            _base.LOGGER.critical("Exception in initializer:", exc_info=True)
            executor = executor_reference()
            if executor is not None:
                executor._initializer_failed()
            else:
                _break(tasks)
            return
        del initializer, initargs
    tasks.work(reservation)


_INITIALIZER_FAILED = "A thread initializer failed, the thread pool is not usable anymore"


def _break(tasks):
    tasks.close(BrokenThreadPool, _INITIALIZER_FAILED)
    tasks.fail_queued(BrokenThreadPool, _INITIALIZER_FAILED)


def _after_fork_in_child():
    lost = BrokenThreadPool("the process was forked while the call was pending; only the parent runs it")
    _core.after_fork()
    for tasks in list(_queues):
        for worker in tasks.threads:
            thread._threads_queues.pop(worker, None)
            worker._started.set()  # or it never will be, if it was about to
        tasks.threads.clear()
        tasks.lock = threading.RLock()
        tasks.after_fork(lost)


os.register_at_fork(after_in_child=_after_fork_in_child)


class ThreadPoolExecutor(_core.Executor, AsyncWith, thread.ThreadPoolExecutor, metaclass=ExecutorType):
    """A concurrent.futures.ThreadPoolExecutor whose queue, futures and workers' loop are in C.

    max_workers: the most threads to run at once; default min(32, CPUs + 4). Threads start when a task finds none idle.
    thread_name_prefix: threads are named prefix_0, prefix_1, ...
    initializer, initargs: called in each thread before its first task. If it raises, the executor is broken: pending
    tasks and later submits get BrokenThreadPool.

    Use it with `with`, with `async with` (leaving waits without blocking the loop), as asyncio's default executor, or
    in loop.run_in_executor, whose completions reach the loop in batches. All methods may be called from any thread, and
    from signal handlers.

    At interpreter exit, queued tasks are finished first. After os.fork() the child finds the executor empty and usable;
    futures that were pending are finished with BrokenThreadPool there, without calling their callbacks.
    """

    def __init__(self, max_workers=None, thread_name_prefix="", initializer=None, initargs=()):
        # Checks the arguments, and sets the private attributes of this Python version that others read.
        super(AsyncWith, self).__init__(max_workers, thread_name_prefix, initializer, initargs)
        self._initializer = initializer
        self._initargs = initargs
        self._tasks = _WorkQueue(min(math.ceil(self._max_workers), 2**31))
        self._threads = self._tasks.threads

    @property
    def _work_queue(self):
        """The tasks that wait, for those who look: qsize() and empty()."""
        return self._tasks

    @_work_queue.setter
    def _work_queue(self, queue):
        if hasattr(self, "_tasks"):  # else the standard __init__ makes a queue that we have no use for
            raise TypeError("the queue of pyconc's executor is in C and cannot be replaced")

    def _start_workers(self):
        """Start workers; submit() calls this when tasks outnumber idle workers."""
        self._adjust_thread_count()  # the standard class's name for it, which others override

    def _adjust_thread_count(self):
        """Start workers until there are enough."""
        tasks = self._tasks
        with tasks.lock:
            nested = tasks.starting  # called by a signal handler, which has interrupted this very function
            while (reservation := tasks.reserve_worker()) is not None:
                name = f"{self._thread_name_prefix or self}_{len(self._threads)}"
                tasks.starting = True
                try:
                    tasks.start_worker(name, reservation, weakref.ref(self), self._initializer, self._initargs)
                except RuntimeError as error:
                    # Out of threads: those that run will do, and the next submit tries again.
                    if "can't start new thread" in str(error) and any(t.is_alive() for t in self._threads):
                        break
                    raise
                finally:
                    tasks.starting = nested
            owed = tasks.wait_owed and not nested
            tasks.wait_owed = tasks.wait_owed and nested
        if owed:
            self.shutdown(wait=True)

    def _initializer_failed(self):
        self._broken = _INITIALIZER_FAILED
        _break(self._tasks)

    def map(self, fn, *iterables, timeout=None, chunksize=1, buffersize=None):
        """Return an iterator over fn's results, in the order of the iterables' items.

        Tasks are submitted at once; with buffersize, an int of 1 or more, only so many ahead of the results taken.
        timeout: seconds from this call until the last result; TimeoutError after that. chunksize is ignored: it matters
        to processes only. Closing the iterator, or an exception from it, cancels the tasks that have not started.
        """
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        arguments = zip(*iterables)
        pending = deque(self.submit(fn, *args) for args in islice(arguments, buffersize))
        return _results(weakref.ref(self), fn, arguments, pending, deadline)

    def shutdown(self, wait=True, *, cancel_futures=False):
        """Refuse tasks from now on, and let the threads end when what is queued is done.

        wait: return only when all threads have ended; in a signal handler that has interrupted a submit() in the midst
        of starting a thread, the submit() waits instead. cancel_futures: cancel what has not started. May be called
        several times, from any thread, and from a signal handler.
        """
        tasks = self._tasks
        with tasks.lock:
            self._shutdown = True
            if not self._broken:
                tasks.close(RuntimeError, "cannot schedule new futures after shutdown")
            # A signal handler must not wait for what its own thread is at; nor for threads that end, which need a
            # lock that Thread.start() may hold. Whoever it has interrupted waits instead.
            may_wait = not tasks.starting
            tasks.wait_owed |= wait and not may_wait
        if cancel_futures:
            # Tasks for which threads were started have started, even if the threads are on their way still.
            for worker in list(self._threads) if may_wait else ():
                worker.is_alive()
            tasks.cancel_queued()
        if wait and may_wait:
            tasks.await_threads()
            for worker in list(self._threads):
                worker.join()


def _results(executor_reference, fn, arguments, pending, deadline):
    """Yield results in order; whenever one is taken, submit a task for the next arguments, if any are left."""
    try:
        while pending:
            executor = executor_reference()
            if executor is not None:
                pending.extend(executor.submit(fn, *args) for args in islice(arguments, 1))
            del executor
            yield _result_or_cancel(pending.popleft(), deadline)
    finally:
        for future in pending:
            future.cancel()


def _result_or_cancel(future, deadline):
    try:
        try:
            return future.result(None if deadline is None else deadline - time.monotonic())
        finally:
            future.cancel()
    finally:
        del future  # An exception's traceback must not keep the future that holds the exception.
