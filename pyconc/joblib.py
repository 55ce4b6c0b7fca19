"""A backend for joblib: to import this module makes `joblib.parallel_config(backend="pyconc")` known.

scikit-learn and all else that is built on joblib then run on pyconc's worker processes.
"""

import copy
import importlib.util
import itertools
import os
import sys
import weakref
from math import ceil
from operator import is_

try:
    from joblib import ParallelBackendBase, register_parallel_backend
    from joblib._memmapping_reducer import _get_backing_memmap, _reduce_memmap_backed
    from joblib._parallel_backends import AutoBatchingMixin, FallbackToBackend, SequentialBackend
except ModuleNotFoundError:
    # Without its name, or Python 3.15 asks whether another module is meant.
    raise ModuleNotFoundError("pyconc.joblib needs joblib: pip install pyconc[joblib]") from None

from pyconc.loky import Shared
from pyconc.process_pool import default_workers
from pyconc.shared import share

__all__ = ["PyconcBackend", "install"]

_shared = Shared()
os.register_at_fork(after_in_child=_shared.after_fork)


class _SetUp:
    """The initializer of the workers: limits the threads of native libraries, then calls the program's own."""

    def __init__(self, threads, initializer, initargs):
        self._settings = threads, initializer, initargs

    def __eq__(self, other):
        return isinstance(other, _SetUp) and self._settings == other._settings

    __hash__ = None

    def __call__(self):
        threads, initializer, initargs = self._settings
        # Libraries that a task loads read their number from the environment. Those that the worker has from the
        # program, as it is forked, have to be told.
        if importlib.util.find_spec("threadpoolctl") is not None:
            importlib.import_module("threadpoolctl").threadpool_limits(threads)
        if initializer is not None:
            initializer(*initargs)


class _Batch:
    """A batch whose pieces run apart, and that has ended when they have, or one has failed.

    joblib makes a batch of what took little time before. If some of its calls take long after all, they are not all one
    worker's.
    """

    def __init__(self, futures, callback):
        self._futures = futures
        self._callback = callback
        self._failed = None
        self._ended = itertools.count(1)
        self._told = itertools.count()
        for future in futures:
            future.add_done_callback(self._note)

    def _note(self, future):
        # In the thread that brings outcomes, and in one that cancels: to count is one step, and so one of them tells.
        is_last = next(self._ended) == len(self._futures)
        if future.cancelled() or future.exception() is not None:
            self._failed = future
        elif not is_last:
            return
        if self._callback is not None and next(self._told) == 0:
            self._callback(self)

    def result(self):
        """Return the list of what all calls have returned, or raise what one has raised."""
        futures = self._futures if self._failed is None else [self._failed]
        return [result for future in futures for result in future.result()]


# Most arguments are of these types: no array is in them.
_PLAIN = frozenset([int, float, complex, bool, str, bytes, type(None)])


class _Reduced:
    """In the place of an array in a batch: what the worker is to make of it."""

    def __init__(self, make, *about):
        self._reduced = make, about

    def __reduce__(self):
        return self._reduced


def _take(ref):
    return ref.get()


def _may_have_arrays(items):
    are_plain = _PLAIN.issuperset
    return any(kwargs or not are_plain(map(type, args)) for _, args, kwargs in items)


class _Arrays:
    """The large arrays in the batches of a call of Parallel: they lie in shared memory, once for all its calls.

    One that is in a file already, as a memmap, is found there by the worker, however small it is: calls may write to
    it. joblib's lock is held where this is used.
    """

    # Containers of more items are not looked into: that would take longer than to find nothing there is worth.
    _MOST_ITEMS = 100

    def __init__(self, least):
        self._least = least  # how many bytes a large one has
        self._laid = {}  # by id(), as long as the array is there: a reference to it, and a pyconc.shared.Ref

    def replace_in(self, call):
        """Return a call of a batch with what stands for its arrays."""
        function, args, kwargs = call
        return function, self.replace(args), self.replace(kwargs)

    def replace(self, value, depth=2):
        """Return a value with what stands for its arrays, or itself if there are none."""
        kind = type(value)
        if kind is tuple or kind is list:
            if depth == 0 or len(value) > self._MOST_ITEMS:
                return value
            items = [self.replace(item, depth - 1) for item in value]
            return value if all(map(is_, items, value)) else kind(items)
        if kind is dict:
            if depth == 0 or len(value) > self._MOST_ITEMS:
                return value
            items = {key: self.replace(item, depth - 1) for key, item in value.items()}
            return value if all(map(is_, items.values(), value.values())) else items
        numpy = sys.modules["numpy"]
        if kind is not numpy.ndarray and kind is not numpy.memmap:
            return value
        if value.base is not None and isinstance(mapped := _get_backing_memmap(value), numpy.memmap):
            make, about = _reduce_memmap_backed(value, mapped)
            return _Reduced(make, *about)
        if self._least is None or value.nbytes < self._least or value.dtype.hasobject or not value.flags.forc:
            return value
        return self._lay(value)

    def _lay(self, array):
        key, laid = id(array), self._laid
        known, ref = laid.get(key, (None, None))
        if known is None or known() is not array:
            try:
                ref = share(array)
            except MemoryError:
                return array  # which goes as a copy, if there is room for one
            laid[key] = weakref.ref(array, lambda _: laid.pop(key, None)), ref
        return _Reduced(_take, ref)


class PyconcBackend(AutoBatchingMixin, ParallelBackendBase):
    """What joblib calls to run batches of calls in worker processes of pyconc.

    The workers are kept between calls of Parallel, with the same number of them and the same settings; they work below
    a thread and in daemonic processes, too. An exception in a call, a timeout, or a generator that is closed stops what
    runs by the end of its worker; the other workers go on.

    An array of numpy of max_nbytes (1 MB) or more that is an argument, or stands in a tuple, a list or a dict that is
    one, lies in shared memory once for all calls of a Parallel(), and cannot be written there: as a memmap of joblib's,
    but it is none, and has no file. With max_nbytes=None, with another mmap_mode than "r", and elsewhere arrays are
    copies of a call's own. An array that is a memmap in the program is one in the workers, on the same file.
    temp_folder changes nothing.

    inner_max_num_threads: how many threads BLAS, OpenMP and the like may start in a worker; by default what the CPUs
    give each. initializer, initargs: called in each worker.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    uses_threads = False
    supports_sharedmem = False
    # Batches cost little here, and short ones leave no worker behind.
    MIN_IDEAL_BATCH_DURATION = 0.05
    MAX_IDEAL_BATCH_DURATION = 0.5

    # So many pieces of a batch, at most, may go to different workers.
    PIECES = 8

    _workers = None
    _least = None
    _arrays = None  # of the call of Parallel that runs

    def effective_n_jobs(self, n_jobs):
        """Return how many workers n_jobs stands for; a negative number counts from the number of CPUs."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return max(default_workers() + 1 + n_jobs, 1) if n_jobs < 0 else n_jobs

    def configure(
        self,
        n_jobs=1,
        parallel=None,
        prefer=None,
        require=None,
        initializer=None,
        initargs=(),
        max_nbytes=None,
        mmap_mode="r",
        **unused,
    ):
        """Have workers for a call of Parallel; return how many."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        kept = self.backend_kwargs
        initializer = kept.get("initializer") if initializer is None else initializer
        initargs = initargs or kept.get("initargs", ())
        env = self._prepare_worker_env(n_jobs=n_jobs)
        # It may be a list, with a number for each level of nested regions.
        threads = int(env["OMP_NUM_THREADS"].partition(",")[0])
        setup = _SetUp(threads, initializer, initargs)
        executor, _ = _shared.get(n_jobs, initializer=setup, env=env)
        self._workers = executor.options(on_cancel="kill")
        self._futures = set()
        self.parallel = parallel
        self._least = max_nbytes if mmap_mode == "r" else None
        return n_jobs

    def start_call(self):
        """Begin with a call of Parallel."""
        self._arrays = _Arrays(self._least)

    def stop_call(self):
        """End it: the arrays' memory is given back when the workers do not use it any more."""
        self._arrays = None

    def submit(self, func, callback=None):
        """Have workers call what func, a batch of joblib's, consists of; call callback(what is returned) at its end."""
        futures = [self._workers.submit(piece) for piece in self._cut(func)]
        self._futures.update(futures)
        for future in futures:
            future.add_done_callback(self._futures.discard)
        if len(futures) > 1:
            return _Batch(futures, callback)
        (future,) = futures
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def _cut(self, batch):
        items = batch.items
        if self._arrays is not None and "numpy" in sys.modules and _may_have_arrays(items):
            batch = copy.copy(batch)
            batch.items = items = [*map(self._arrays.replace_in, items)]
        size = ceil(len(items) / self.PIECES)
        if len(items) <= size:
            return [batch]
        pieces = []
        for start in range(0, len(items), size):
            piece = copy.copy(batch)
            piece.items = items[start : start + size]
            pieces.append(piece)
        return pieces

    def retrieve_result_callback(self, out):
        """Return what the call returned, or raise what it raised."""
        return out.result()

    def terminate(self):
        """Let go of the workers, which stay for the next call."""
        self._workers = None
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready=True):
        """Stop what runs and what is queued, of this call of Parallel only."""
        for future in [*self._futures]:
            future.cancel()
        if not ensure_ready:
            self._workers = None


def install(make_default=True):
    """Register the backend "pyconc" with joblib; with make_default=True, Parallel uses it where no other is named.

    Importing pyconc.joblib has registered it already, not as the default. May be called any number of times.

        >>> import joblib, pyconc.joblib
        >>> with joblib.parallel_config(backend="pyconc", n_jobs=2):
        ...     joblib.Parallel()(joblib.delayed(pow)(number, 2) for number in range(5))
        [0, 1, 4, 9, 16]
    """
    register_parallel_backend("pyconc", PyconcBackend, make_default=make_default)


install(make_default=False)
