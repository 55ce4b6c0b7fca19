"""multiprocessing.pool, with pyconc's workers: Pool on those of ProcessPoolExecutor, ThreadPool on its threads.

A pool's calls are futures of an executor.  Whatever a map still has to submit outlives the pool, and so do callbacks:

    Pool --> _Jobs --> the executor: its workers
     |          '----> the callbacks' thread, which is started by the first one
     '--> MapResult, IMapIterator: their calls --> the executor, at once if they are few, else from a thread

Such a thread reads what a map iterates over, as in the standard library: the iterable may wait for what the consumer of
the results does.  It is no further ahead of the workers than the pool allows.
"""

import functools
import itertools
import multiprocessing
import operator
import os
import queue
import threading
import warnings
import weakref
from concurrent.futures import CancelledError, _base
from concurrent.futures.process import _RemoteTraceback
from multiprocessing import TimeoutError, util
from multiprocessing import pool as _standard
from multiprocessing.pool import CLOSE, INIT, RUN, TERMINATE, MaybeEncodingError, RemoteTraceback, mapstar, starmapstar

from pyconc import _core
from pyconc._process import pickling
from pyconc._process.launcher import is_single_threaded
from pyconc._process.worker_main import Limits
from pyconc._standard_names import names_of
from pyconc.process_pool import ProcessExecutor, _chosen_context, default_workers
from pyconc.thread_pool import ThreadPoolExecutor

__all__ = ["Pool", "ThreadPool"]

# A map's thread goes on submitting when so many calls have ended, and is at most twice as many ahead.
_STRIDE = 64

# Iterables that are read without running code of the program.
_AT_HAND = frozenset([list, tuple, range, str, bytes, bytearray, dict, set, frozenset])

_END = None  # in the queue of an iterator, after its last future


# ---- workers ----


def _call_with_all(func, args):
    return next(itertools.starmap(func, (args,)))  # as starmapstar() refuses other arguments


class _Shown:
    """Has the repr of an object, and object's if that raises."""

    def __init__(self, shown):
        self._shown = shown

    def __repr__(self):
        try:
            return repr(self._shown)
        except Exception:
            return object.__repr__(self._shown)


def _refuse(error, value):
    """Return what a call raises whose result or exception cannot be pickled."""
    return MaybeEncodingError(_Shown(error), _Shown(value))


def _begin_worker(initializer, initargs):
    """Begin a worker process."""
    pickling.on_refusal = _refuse
    if initializer is not None:
        initializer(*initargs)


def _choose_context(context):
    """Return the context that starts a pool's processes, or None: as those of ProcessPoolExecutor are started.

    Programs share globals with a pool's processes by forking them, and so they do here, also if they have threads, on
    versions whose default that is.
    """
    if context is None:
        context = _chosen_context()
    if context is None and multiprocessing.get_start_method() == "fork" and not is_single_threaded():
        return multiprocessing.get_context("fork")
    return context


class _Processes(_core.Executor, ProcessExecutor):
    """The executor of a Pool, whose processes are all started at once."""

    _waits_at_exit = False

    def __init__(self, count, context, initializer, initargs, max_tasks):
        setup = (_begin_worker, (initializer, initargs), None)
        self._max_workers = count
        self._begin("PoolWorker", count, _choose_context(context), setup, Limits(tasks=max_tasks), "replace", False)
        self.start_all()

    def start_all(self):
        self._supervisor.start_all()

    def handles(self):
        return list((self._processes or {}).values())

    def terminate(self):
        self.terminate_workers()
        self.shutdown()


class _Threads(ThreadPoolExecutor):
    """The executor of a ThreadPool, and the one that calls callbacks."""

    _waits_at_exit = False

    def start_all(self):
        gate = threading.Event()
        try:
            for _ in range(self._max_workers):
                self.submit(gate.wait)  # which keeps the thread from taking the next one
        finally:
            gate.set()

    def handles(self):
        return list(self._threads)

    def terminate(self):
        self.shutdown(wait=False, cancel_futures=True)


# Those of every pool of this process, for the child of a fork.
_all_jobs: "weakref.WeakSet[_Jobs]" = weakref.WeakSet()


def _after_fork_in_child():
    for jobs in list(_all_jobs):
        jobs.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)


class _Jobs:
    """The work that is under way in a pool; it lives until that is done, even if nobody has the pool any more."""

    _callbacks = None  # the executor that calls them, once there are some

    def __init__(self, executor):
        self.executor = executor
        self.is_terminated = False
        self._is_closed = False
        self._feeders = set()  # threads
        self.maps = set()  # the _Calls that have not ended; as `results`, changed by single operations of the set
        self.results = {}  # number: result; those that methods of the program's made
        # At exit, after the program's threads have ended, as the standard pool; None: there is nothing to end.
        self._finalizer = util.Finalize(None, self.terminate, exitpriority=15)
        _all_jobs.add(self)
        util.register_after_fork(self, _Jobs.after_fork)  # a new process of multiprocessing forgets its finalizers

    def after_fork(self):
        """In the child of a fork: the threads are the parent's, and so is the finalizer."""
        self._feeders, self.maps, self.results = set(), set(), {}
        if self._finalizer is not None:
            self._finalizer.cancel()
            self._finalizer = util.Finalize(None, self.terminate, exitpriority=15)

    def leave_exit(self):
        """The exit has nothing to end here."""
        finalizer, self._finalizer = self._finalizer, None
        if finalizer is not None:
            finalizer.cancel()

    def call_back(self, function, *args):
        """Call a function in the callbacks' thread; return False if there are no callbacks any more."""
        # Of several threads, the first one makes it.
        callbacks = self._callbacks or vars(self).setdefault("_callbacks", _Threads(1, "pool_callbacks"))
        try:
            callbacks.submit(function, *args)
        except RuntimeError:
            return False
        return True

    def feed(self, calls):
        """Have a thread submit calls, a _Calls."""
        feeder = threading.Thread(target=self._feed, args=(calls,), name="pool_feeder", daemon=True)
        self._feeders.add((feeder, calls))
        try:
            feeder.start()
        except BaseException:
            self._feeders.discard((feeder, calls))
            raise

    def _feed(self, calls):
        try:
            calls.submit_all()
        finally:
            self._feeders.discard((threading.current_thread(), calls))
            self._shut_down_if_done()

    def close(self):
        self._is_closed = True
        self._shut_down_if_done()

    def _shut_down_if_done(self):
        # Of a thread that closes and one that has submitted its last call, at least one sees what the other has done.
        if self._is_closed and not self._feeders:
            self.executor.shutdown(wait=False)

    def terminate(self):
        self.is_terminated = True
        feeders = list(self._feeders)
        self.executor.terminate()
        for _, calls in feeders:
            calls.cancel()
        # As the standard pool, leave no thread but those of calls; a callback may be the caller.
        if self._callbacks is not None:
            self._callbacks.shutdown(wait=threading.current_thread() not in self._callbacks.handles())
        self.leave_exit()

    def join(self):
        for feeder, _ in () if self.is_terminated else list(self._feeders):
            feeder.join()
        self.executor.shutdown()
        if self._callbacks is not None:
            self._callbacks.shutdown()
        self.leave_exit()


# ---- results ----


def _name_cause(error):
    """Give an exception from a worker the cause that the standard pool's have."""
    cause = error.__cause__
    if type(cause) is _RemoteTraceback:
        error.__cause__ = RemoteTraceback(cause.tb)
    return error


def _result_of(future):
    """Return the result of a future, or raise its exception."""
    try:
        return future.result()
    except BaseException as error:
        _name_cause(error)
        raise
    finally:
        del future  # which the traceback of its exception would keep


def _error_of(future):
    """Return the exception of a future that is done, or None."""
    if future.cancelled():
        return CancelledError()
    error = future.exception()
    return None if error is None else _name_cause(error)


class ApplyResult(_standard.ApplyResult):
    """The result of one call, which Pool.apply_async() returns.

    Any thread may use it. Once the pool is terminated, get() raises CancelledError for a call that no worker had taken,
    and BrokenProcessPool for one that was ended; it raises WorkerDied if the worker died otherwise.

        >>> with pyconc.multiprocessing.Pool(1) as pool:
        ...     result = pool.apply_async(pow, (2, 5))
        ...     print(result.get(timeout=60), result.ready(), result.successful())
        32 True True
    """

    def __init__(self, jobs, future, callback, error_callback):
        self._jobs = jobs
        self._callback = callback
        self._error_callback = error_callback
        self._future = future
        if callback is not None or error_callback is not None:
            self._future = _core.Future()
            future.add_done_callback(self._settle)

    def _settle(self, future):
        error = _error_of(future)
        self._complete(None if error is not None else future.result(), error)

    def _complete(self, value, error):
        """Complete with a value or an exception, after the callback if there is one; in any thread."""
        callback = self._callback if error is None else self._error_callback
        is_called = callback is not None and not self._jobs.is_terminated
        if not (is_called and self._jobs.call_back(self._set, value, error, callback)):
            self._set(value, error)

    def _set(self, value, error, callback=None):
        future = self._future
        try:
            if callback is not None:
                callback(value if error is None else error)
        except BaseException:
            _base.LOGGER.exception("exception calling callback for %r", self)
        finally:
            self._callback = self._error_callback = self._jobs = None
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
                del error  # which this frame would keep

    def ready(self):
        """Return whether the call has ended, and its callback, too."""
        return self._future.done()

    def successful(self):
        """Return whether the call has returned; raise ValueError if it has not ended."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return _error_of(self._future) is None

    def __getattr__(self, name):
        # Programs read these of a call that has ended. Before, nobody finds them, as managers do that ask for all there
        # is in dir().
        if name in ("_success", "_value") and self.ready():
            success = self.successful()
            return success if name == "_success" else self._future.result() if success else _error_of(self._future)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def wait(self, timeout=None):
        """Wait until the call has ended, or so many seconds."""
        try:
            self._future.exception(None if timeout is None else max(0, timeout))
        except (_base.TimeoutError, CancelledError):
            pass

    def get(self, timeout=None):
        """Return the result, or raise what the call has raised; multiprocessing.TimeoutError after so many seconds."""
        try:
            if timeout is not None:
                self.wait(timeout)
                if not self.ready():
                    raise TimeoutError
            return _result_of(self._future)
        finally:
            del self  # which the traceback of an exception would keep


AsyncResult = ApplyResult


class _Calls:
    """Calls that are submitted one after the other, and what becomes of each; a mixin.

    _keep() gets each outcome and, once all are there, _end() the exception that has kept the rest from being submitted,
    or None; both under the lock.
    """

    def _begin_calls(self, jobs, fn, calls, are_few):
        self._jobs = jobs
        self._lock = threading.Lock()  # Held while the next fields change, and in _keep() and _end().
        self._submitted = 0
        self._ended = 0
        self._is_complete = False  # all were submitted that will be
        self._has_ended = False
        self._error = None
        self._strides = None if are_few else queue.SimpleQueue()  # an item: so many more may be submitted
        self._source = (fn, calls)
        jobs.maps.add(self)
        if are_few:
            self.submit_all()
        else:
            self._strides.put(None)
            jobs.feed(self)

    def submit_all(self):
        """Submit the calls; in the thread that asks for the map, or in one of its own."""
        jobs, strides, (fn, calls), error = self._jobs, self._strides, self._source, None
        self._source = None
        submit, take = jobs.executor.submit, self._take
        try:
            for number, args in enumerate(calls):
                if strides is not None and number and number % _STRIDE == 0:
                    strides.get()
                if jobs.is_terminated:
                    raise CancelledError
                future = submit(fn, *args)
                self._submitted = number + 1
                future.add_done_callback(functools.partial(take, number))
        except Exception as caught:
            # Of a pool that is terminated meanwhile, the executor refuses the call.
            error = CancelledError() if jobs.is_terminated else caught
        except BaseException as caught:
            if strides is None:
                jobs.maps.discard(self)
                raise  # it is the thread's, and not the source's
            error = caught
        self._complete_calls(error)

    def cancel(self):
        """Stop submitting: the pool is terminated."""
        self._strides.put(None)
        self._complete_calls(CancelledError())

    def _complete_calls(self, error):
        with self._lock:
            if not self._is_complete:
                self._is_complete = True
                self._error = error
                self._end_if_done()

    def _take(self, number, future):
        with self._lock:
            self._ended += 1
            if self._strides is not None and self._ended % _STRIDE == 0:
                self._strides.put(None)
            if not self._has_ended:
                self._keep(number, future)
                if self._is_complete:
                    self._end_if_done()

    def _end_if_done(self):
        if self._is_complete and self._ended >= self._submitted and not self._has_ended:
            self._has_ended = True
            self._jobs.maps.discard(self)
            error, self._error = self._error, None
            self._end(error)


class MapResult(_Calls, ApplyResult, _standard.MapResult):
    """The list of results that Pool.map_async() and starmap_async() return.

    As ApplyResult. All calls are made, also after one that has raised; get() raises what was raised first.

        >>> with pyconc.multiprocessing.Pool(1) as pool:
        ...     pool.map_async(abs, [-1, -2]).get()
        [1, 2]
    """

    def __init__(self, jobs, fn, calls, count, chunksize, callback, error_callback):
        self._chunksize = chunksize
        self._future = _core.Future()
        self._callback = callback
        self._error_callback = error_callback
        self._parts = [None] * count
        self._failure = None  # what was raised first
        self._count = count
        self._begin_calls(jobs, fn, calls, count <= 2 * _STRIDE)

    # Programs that show how far a map has come read this one.
    @property
    def _number_left(self):
        return 0 if self._has_ended else max(0, self._count - self._ended)

    def _keep(self, number, future):
        error = _error_of(future)
        if error is None:
            if number < len(self._parts):  # an iterable may have more items than its length says
                self._parts[number] = future.result()
        elif self._failure is None:
            self._failure = error

    def _end(self, error):
        parts, self._parts = self._parts, None
        error, self._failure = self._failure or error, None
        if error is None and not parts:
            self._callback = None  # the standard pool calls none for an empty list
        if error is None and self._chunksize > 1:
            parts = list(itertools.chain.from_iterable(parts))
        self._complete(None if error is not None else parts, error)


class IMapIterator(_Calls, _standard.IMapIterator):
    """The iterator over results that Pool.imap() returns.

    Any thread may use it, and several may. What a call or the iterable has raised comes out in its turn; when the pool
    is terminated, CancelledError or BrokenProcessPool comes out for what has not ended.

        >>> with pyconc.multiprocessing.Pool(1) as pool:
        ...     results = pool.imap(abs, [-1, -2])
        ...     print(results.next(timeout=60), next(results))
        1 2
    """

    def __init__(self, jobs, fn, calls, are_few):
        self._ready = queue.SimpleQueue()  # futures that are done, and at last the exception of the iterable, and _END
        self._early = {}  # number: future; those that are done before their turn has come
        self._index = 0  # whose turn it is; programs read how far it has come from this and _length
        self._begin_calls(jobs, fn, calls, are_few)

    def _keep(self, number, future):
        if number != self._index:
            self._early[number] = future
            return
        while future is not None:
            self._ready.put(future)
            self._index += 1
            future = self._early.pop(self._index, None)

    @property
    def _length(self):
        return self._submitted if self._is_complete else None

    def _end(self, error):
        if error is not None:
            future = _core.Future()
            future.set_exception(error)
            self._ready.put(future)
        self._ready.put(_END)

    def __iter__(self):
        return self

    def next(self, timeout=None):
        """Return the next result; raise multiprocessing.TimeoutError after so many seconds, StopIteration at the end.

        Raises what the call has raised.
        """
        try:
            future = self._ready.get() if timeout is None else self._ready.get(timeout=max(0, timeout))
        except queue.Empty:
            raise TimeoutError from None
        if future is _END:
            self._ready.put(_END)
            raise StopIteration
        try:
            return future.result()  # as _result_of(), which would be another call
        except BaseException as error:
            _name_cause(error)
            raise
        finally:
            del future  # which the traceback of an exception would keep

    __next__ = next


class IMapUnorderedIterator(IMapIterator, _standard.IMapUnorderedIterator):
    """The iterator that Pool.imap_unordered() returns: over results as calls end.

    As IMapIterator. What the iterable has raised comes last.

        >>> with pyconc.multiprocessing.Pool(1) as pool:
        ...     sorted(pool.imap_unordered(abs, [-1, -2]))
        [1, 2]
    """

    def _keep(self, number, future):
        self._index += 1
        self._ready.put(future)


# ---- methods of the program's own ----


class _Cache:
    """The results that have not ended: how many, and by number those that a method of the program's made.

    Programs wait until there are fewer of them, and classes of the standard module note themselves here.
    """

    def __init__(self, jobs):
        self._jobs = jobs

    def __len__(self):
        executor, maps = self._jobs.executor, list(self._jobs.maps)
        stats = executor.stats()
        calls = stats.queued + stats.running - sum(calls._submitted - calls._ended for calls in maps)
        own = sum(not isinstance(calls, _Tasks) for calls in maps)
        return max(0, calls) + own + len(self._jobs.results)

    def __getitem__(self, number):
        return self._jobs.results[number]

    def __setitem__(self, number, result):
        self._jobs.results[number] = result

    def __delitem__(self, number):
        del self._jobs.results[number]

    __iter__ = None  # those of the pool's own are not here


class _TaskQueue:
    """What a method of the program's gives its tasks to; qsize() counts all calls that no worker has taken yet."""

    def __init__(self, jobs):
        self._jobs = jobs

    def put(self, item):
        _Tasks(self._jobs, *item)

    def qsize(self):
        return self._jobs.executor.stats().queued

    def empty(self):
        return self.qsize() == 0


def _call_task(func, args, kwds):
    return func(*args, **kwds)


class _Tasks(_Calls):
    """Tasks of a method of the program's: tuples of a result's number, an index, and what to call.

    Their outcomes go to that result by the callbacks' thread, as in the standard pool by one thread for all; at last
    it is told how many there are.
    """

    def __init__(self, jobs, tasks, set_length):
        self._set_length = set_length
        self._job = None  # the number of the result
        self._indexes = []
        self._begin_calls(jobs, _call_task, self._read(tasks), False)

    def _read(self, tasks):
        for self._job, index, func, args, kwds in tasks:
            self._indexes.append(index)
            yield func, args, kwds

    def _keep(self, number, future):
        error = _error_of(future)
        self._tell(self._indexes[number], future.result() if error is None else None, error)

    def _tell(self, index, value, error):
        result = self._jobs.results.get(self._job)
        if result is not None:
            self._jobs.call_back(result._set, index, (error is None, value if error is None else error))

    def _end(self, error):
        count = self._submitted
        if error is not None:
            self._tell(count, None, error)
            count += 1
        if self._set_length is not None:
            self._jobs.call_back(self._set_length, count)


# ---- pools ----


def _chunks(func, iterable, size):
    """Yield the arguments of mapstar() or starmapstar() for so many items at a time."""
    iterator = iter(iterable)
    while items := tuple(itertools.islice(iterator, size)):
        yield ((func, items),)


class Pool(_standard.Pool):
    """A multiprocessing.pool.Pool on the workers of ProcessPoolExecutor.

    processes: how many worker processes to start, at once; default: the CPUs this process may use (affinity, cgroup
    quota). initializer, initargs: each calls initializer(*initargs) before its first call. maxtasksperchild: the number
    of calls after which a worker is replaced; a chunk counts as one. context: a context of multiprocessing, which
    starts the workers; default: as for ProcessPoolExecutor, but a program with threads is forked if fork is the
    platform's start method.

    It does what the standard class does, with these differences. A worker that dies fails the call that it ran, with
    pyconc.WorkerDied, and another takes its place; an initializer that raises fails every call, with BrokenProcessPool;
    after terminate() whatever has not ended raises CancelledError or BrokenProcessPool: in the standard library one
    waits for ever. An exception of a callback is logged. Workers may have children, and a daemonic process may have a
    pool.

    Callbacks are called one after the other, in a thread that the pool keeps for them. An iterable that is no list,
    tuple, range, set, dict or string, or a long one, is read in a thread, too, as in the standard library; so it may
    wait for what is done with the results.

    Any thread may use a pool. close() lets the workers end when all is done; terminate(), the end of `with` and the
    interpreter's exit end them. A pool that is not closed warns with ResourceWarning when it is collected. A process
    that was forked finds it empty and usable. It cannot be pickled.

    Raises ValueError for a number of processes or a maxtasksperchild below 1, TypeError if the number is no integer or
    initializer cannot be called, and OSError if no worker can be started. Methods raise ValueError when the pool does
    not run.

        >>> with pyconc.multiprocessing.Pool(2) as pool:
        ...     print(pool.map(abs, [-1, -2]), pool.apply(pow, (2, 5)), list(pool.imap(abs, [-3])))
        [1, 2] 32 [3]
    """

    _state = INIT
    _jobs = None
    _context = _maxtasksperchild = None

    def __init__(self, processes=None, initializer=None, initargs=(), maxtasksperchild=None, context=None):
        count = _check_arguments(processes, initializer)
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        self._context = context
        self._maxtasksperchild = maxtasksperchild
        self._open(_Processes(count, context, initializer, initargs, maxtasksperchild), count, initializer, initargs)

    def _open(self, executor, count, initializer, initargs):
        # Methods of subclasses read these, and some of the above.
        self._processes = count
        self._initializer = initializer
        self._initargs = initargs
        self._jobs = _Jobs(executor)
        self._state = RUN

    # Work that depends on this is done all the same. Arguments: at the end of an interpreter this module is empty.
    def __del__(self, _warn=warnings.warn, RUN=RUN, CLOSE=CLOSE):
        if self._state == RUN:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)
        if self._jobs is not None:
            self._jobs.close()
            self._jobs.leave_exit()

    def __repr__(self):
        kind = type(self)
        return f"<{kind.__module__}.{kind.__qualname__} state={self._state} pool_size={len(self._pool)}>"

    # Private attributes that programs read:

    @property
    def _pool(self):
        """The workers: processes, or threads."""
        return [] if self._jobs is None else self._jobs.executor.handles()

    @functools.cached_property
    def _ctx(self):
        return self._context or multiprocessing.get_context()  # which keeps the start method from being set later

    @functools.cached_property
    def _cache(self):
        return _Cache(self._jobs)

    @functools.cached_property
    def _taskqueue(self):
        return _TaskQueue(self._jobs)

    def _repopulate_pool(self):
        """Start as many workers as there may be."""
        self._jobs.executor.start_all()

    # ----

    def _check_running(self):
        if self._state != RUN:
            raise ValueError("Pool not running")

    def apply(self, func, args=(), kwds={}):  # noqa: B006
        """Call func(*args, **kwds) in a worker; return its result, or raise its exception.

        >>> with pyconc.multiprocessing.Pool(1) as pool:
        ...     pool.apply(int, ("ff",), {"base": 16})
        255
        """
        return self.apply_async(func, args, kwds).get()

    def apply_async(self, func, args=(), kwds={}, callback=None, error_callback=None):  # noqa: B006
        """Have a worker call func(*args, **kwds); return an ApplyResult.

        callback is called with the result, or error_callback with the exception, before the ApplyResult is ready.

        >>> with pyconc.multiprocessing.Pool(1) as pool:
        ...     pool.apply_async(abs, (-1,), callback=print).wait()
        1
        """
        self._check_running()
        try:
            future = self._jobs.executor.submit(func, *args, **kwds)
        except TypeError as error:  # of what are no arguments, which is the call's
            future = _core.Future()
            future.set_exception(error)
        return ApplyResult(self._jobs, future, callback, error_callback)

    def map(self, func, iterable, chunksize=None):
        """Call func(item) for each item, in chunks of chunksize; return the list of results.

        Raises the first exception, when all calls have ended. default of chunksize: so that each worker gets four.

        >>> with pyconc.multiprocessing.Pool(2) as pool:
        ...     pool.map(abs, [-1, -2, -3])
        [1, 2, 3]
        """
        return self._map_async(func, iterable, mapstar, chunksize).get()

    def starmap(self, func, iterable, chunksize=None):
        """Do as map(), with func(*item).

        >>> with pyconc.multiprocessing.Pool(2) as pool:
        ...     pool.starmap(pow, [(2, 5), (3, 2)])
        [32, 9]
        """
        return self._map_async(func, iterable, starmapstar, chunksize).get()

    def map_async(self, func, iterable, chunksize=None, callback=None, error_callback=None):
        """Begin what map() does; return a MapResult.

        callback is called with the list of results, or error_callback with the first exception.

        >>> with pyconc.multiprocessing.Pool(2) as pool:
        ...     pool.map_async(abs, [-1, -2]).get(timeout=60)
        [1, 2]
        """
        return self._map_async(func, iterable, mapstar, chunksize, callback, error_callback)

    def starmap_async(self, func, iterable, chunksize=None, callback=None, error_callback=None):
        """Begin what starmap() does; return a MapResult, as map_async() does.

        >>> with pyconc.multiprocessing.Pool(2) as pool:
        ...     pool.starmap_async(pow, [(2, 5), (3, 2)]).get(timeout=60)
        [32, 9]
        """
        return self._map_async(func, iterable, starmapstar, chunksize, callback, error_callback)

    def _map_async(self, func, iterable, mapper, chunksize=None, callback=None, error_callback=None):
        self._check_running()
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        length = len(iterable)
        if chunksize is None:
            chunksize = -(-length // (self._processes * 4))
        if chunksize <= 0 and length:
            # As the standard pool has it: nothing is called, not even back.
            return MapResult(self._jobs, func, (), length, chunksize, None, None)
        count = -(-length // chunksize) if length else 0
        if count == 0:
            calls = ()
        elif chunksize > 1:
            func, calls = mapper, _chunks(func, iterable, chunksize)
        elif mapper is starmapstar:
            func, calls = _call_with_all, zip(itertools.repeat(func), iterable)
        else:
            calls = zip(iterable)
        return MapResult(self._jobs, func, calls, count, chunksize, callback, error_callback)

    def imap(self, func, iterable, chunksize=1):
        """Call func(item) for each item, in chunks of chunksize; return an iterator over the results, in order.

        It has next(timeout) if chunksize is 1. What iterable raises comes out of it after the results before that.

        >>> with pyconc.multiprocessing.Pool(2) as pool:
        ...     list(pool.imap(abs, [-1, -2]))
        [1, 2]
        """
        return self._imap(IMapIterator, func, iterable, chunksize)

    def imap_unordered(self, func, iterable, chunksize=1):
        """Do as imap(), and return an iterator over the results as they are there.

        >>> with pyconc.multiprocessing.Pool(2) as pool:
        ...     sorted(pool.imap_unordered(abs, [-1, -2]))
        [1, 2]
        """
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize)

    def _imap(self, make, func, iterable, chunksize):
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        are_few = type(iterable) in _AT_HAND and len(iterable) <= 2 * _STRIDE * chunksize
        if chunksize == 1:
            return make(self._jobs, func, zip(iterable), are_few)
        results = make(self._jobs, mapstar, _chunks(func, iterable, chunksize), are_few)
        return (item for chunk in results for item in chunk)  # which ends with the first exception

    def close(self):
        """Refuse calls from now on; the workers end when all is done.

        >>> pool = pyconc.multiprocessing.Pool(1)
        >>> result = pool.apply_async(abs, (-1,))
        >>> pool.close()
        >>> pool.join()
        >>> result.get()
        1
        """
        if self._state == RUN:
            self._state = CLOSE
            self._jobs.close()

    def terminate(self):
        """End the workers, whatever they do, by SIGTERM, and wait until they have ended.

        Threads of a ThreadPool go on with the call that they run, and are not waited for. No callback is called then.

        >>> import time
        >>> pool = pyconc.multiprocessing.Pool(1)
        >>> result = pool.apply_async(time.sleep, (3600,))
        >>> pool.terminate()
        >>> result.ready(), result.successful()
        (True, False)
        """
        self._state = TERMINATE
        self._jobs.terminate()

    def join(self):
        """Wait until the workers of a pool that was closed or terminated have ended, and callbacks were called.

        Raises ValueError if the pool runs.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        elif self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        self._jobs.join()


def _check_arguments(processes, initializer):
    """Return the number of workers."""
    count = default_workers() if processes is None else processes
    if count < 1:
        raise ValueError("Number of processes must be at least 1")
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    return operator.index(count)


class ThreadPool(Pool, _standard.ThreadPool):
    """A multiprocessing.pool.ThreadPool on the threads of pyconc's ThreadPoolExecutor.

    processes: how many threads to start, at once. initializer, initargs: each calls initializer(*initargs) before its
    first call; if that raises, every call fails, with BrokenThreadPool. Otherwise as Pool: but nothing is pickled, and
    terminate() and the interpreter's exit leave threads alone that run a call.

        >>> with pyconc.multiprocessing.pool.ThreadPool(4) as pool:
        ...     pool.map(abs, [-1, -2])
        [1, 2]
    """

    def __init__(self, processes=None, initializer=None, initargs=()):
        count = _check_arguments(processes, initializer)
        executor = _Threads(count, "ThreadPool", initializer, initargs)
        executor.start_all()
        self._open(executor, count, initializer, initargs)


__getattr__ = names_of(_standard, __name__)
