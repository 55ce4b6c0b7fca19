"""ProcessPoolExecutor.map: many calls in a message, as many as their time warrants.

The calls go out in *chunks*.  Their size follows the time that calls have taken so far, so that a chunk keeps a worker
busy for about TARGET_NS: hundreds of short calls, or one long one.  A few chunks are under way for each worker; when
one ends, the result handler sends the next.  Towards the end chunks shrink, so that all workers end together.

Calls may turn out longer than those before.  A chunk that has taken long comes back with what it has done, and the rest
is sent anew.  When nothing is left to send and a worker is idle, the second half of what another has yet to do is taken
from it: a call that takes very long holds nobody up behind it.
"""

import time
import weakref
from collections import deque
from concurrent.futures import _base, process
from functools import partial
from itertools import islice
from threading import RLock

from pyconc import _core
from pyconc._process.pickling import rebuild_exception

# What a chunk should take: the cost of sending it, some 20 us, is then a small part.
TARGET_NS = 1_000_000
# What it should take at least, so that little is lost on the way, however few calls are left.
LEAST_NS = 100_000
# How many chunks for each worker what is left makes at least: sending, running and receiving overlap.
SHARES = 4
# How many chunks are under way for each worker, so that none waits for the next.
AHEAD = 3
# How many calls are too few to outweigh what is known.
FEW_CALLS = 4
# How much larger than the largest so far the next chunk may be: one quick call does not mean that all are.
GROWTH = 256


def map_chunks(executor, fn, iterables, timeout, chunksize, buffersize):
    """See ProcessPoolExecutor.map()."""
    if chunksize is not None and chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")
    deadline = None if timeout is None else time.monotonic() + timeout
    if type(executor).submit is not _core.Executor.submit:
        return _map_by_submit(executor, fn, iterables, deadline, chunksize or 1, buffersize)
    if executor._tasks.is_inherited():
        executor._renew()
    return _core.Chain(_Map(executor._supervisor, fn, iterables, deadline, chunksize, buffersize).results())


class CallTimes:
    """What calls of a function have taken lately, in nanoseconds; of functions that can be looked up."""

    def __init__(self):
        self._known = weakref.WeakKeyDictionary()

    def get(self, fn):
        try:
            return self._known.get(fn)
        except TypeError:
            return None

    def learn(self, fn, call_ns):
        try:
            self._known[fn] = call_ns
        except TypeError:
            pass


class _Chunk:
    __slots__ = ("count", "future", "items")

    def __init__(self, items):
        self.items = items
        self.count = len(items)  # fewer once the rest was taken back
        self.future = None


class _Map:
    """One call of map(); `lock` guards everything that changes."""

    def __init__(self, supervisor, fn, iterables, deadline, chunksize, buffersize):
        self.supervisor = supervisor
        self.fn = fn
        self.star = len(iterables) != 1
        self.deadline = deadline
        self.chunksize = chunksize
        self.lock = RLock()
        self.source = zip(*iterables) if self.star else iter(iterables[0])
        self.count = None  # items not yet sent; None if nobody knows
        self.buffered = buffersize  # how many more items may be sent; None is any number
        if buffersize is None:
            self.source = list(self.source)
            self.count = len(self.source)
        elif chunksize is not None:
            self.buffered = buffersize * chunksize
        self.most = None if buffersize is None else max(1, self.buffered // (2 * supervisor.max_workers))
        self.chunks = deque()  # in order; those that the consumer has not taken
        self.under_way = 0
        self.largest = 0  # chunk so far; 0 if there is no reason to be careful
        self.call_ns = supervisor.call_ns.get(fn)  # what a call takes, and took in earlier maps
        self.calls = 0 if self.call_ns is None else 1  # that it is known from; what earlier maps knew is not worth more
        self.exhausted = False
        self.closed = False  # the consumer wants no more
        self.begun = False  # what is refused before is refused to the caller of map()
        # The queue is held, and so can be shut down but takes more, while there are items that were taken from the
        # iterables; with buffersize that depends on the consumer, who may never come.  Chunks under way hold it too.
        self.holds = self.count is not None and self.count > 0
        if self.holds:
            supervisor.queue.keep_open(1)
        self.feed()
        self.begun = True

    # ---- sending ----

    def feed(self):
        with self.lock:
            limit = AHEAD * self.supervisor.max_workers
            try:
                while not self.exhausted and (self.under_way < limit or self.chunksize is not None):
                    size = self.next_size()
                    if size == 0:
                        break
                    items = self.take(size)
                    if self.buffered is not None:
                        self.buffered -= len(items)
                    if items:
                        self.send(_Chunk(items), len(self.chunks))
                    if len(items) < size or self.count == 0:
                        self.end_source()
            except BaseException:
                self.end_source()
                raise

    def take(self, size):
        if self.count is None:
            return list(islice(self.source, size))
        start = len(self.source) - self.count
        items = self.source[start : start + size]
        self.count -= len(items)
        return items

    def next_size(self):
        if self.chunksize is not None:
            size = self.chunksize
        elif self.call_ns is None:
            size = 1
        else:
            size = int(TARGET_NS / max(self.call_ns, 1))
            if self.largest:
                size = min(size, GROWTH * self.largest)
            if self.count is not None:
                least = int(LEAST_NS / max(self.call_ns, 1))
                size = min(size, max(least, -(-self.count // (SHARES * self.supervisor.max_workers))))
            if self.most is not None:
                size = min(size, self.most)
            size = max(size, 1)
        return size if self.buffered is None else min(size, self.buffered)

    def send(self, chunk, position):
        try:
            chunk.future = self.submit(chunk)
        except Exception as error:
            self.end_source()
            if not self.begun:
                raise
            chunk.items = None
            chunk.future = _core.Future()
            chunk.future.set_exception(error)
            self.chunks.insert(position, chunk)
            return
        if chunk.future is None:
            # One of them cannot be pickled, and fails alone.
            half = len(chunk.items) // 2
            before = len(self.chunks)
            self.send(_Chunk(chunk.items[:half]), position)
            self.send(_Chunk(chunk.items[half:]), position + len(self.chunks) - before)
            return
        if self.largest or self.call_ns is None:
            self.largest = max(self.largest, chunk.count)
        self.chunks.insert(position, chunk)
        self.under_way += 1
        chunk.future.add_done_callback(lambda future: self.settle(chunk))
        self.supervisor.start_workers()

    def submit(self, chunk):
        """Return the future of a chunk's calls, and hold the queue until it is settled; None if they cannot be sent."""
        queue = self.supervisor.queue
        queue.keep_open(1)
        try:
            if not self.begun:
                queue.check_open()
            if not self.supervisor.cancels:
                future = queue.submit_chunk(self.fn, chunk.items, self.star, self.chunksize is None)
                if future is None:
                    queue.keep_open(-1)
                return future
            future = _core.Future()
            future.cancel()
            return future
        except BaseException:
            queue.keep_open(-1)
            raise

    def end_source(self):
        if not self.exhausted:
            self.exhausted = True
            self.source = ()
            if self.holds:
                self.supervisor.queue.keep_open(-1)

    # ---- when one ends ----

    def settle(self, chunk):
        """Draw the consequences of a chunk's end, once: its consumer may be quicker than the result handler."""
        with self.lock:
            if chunk.items is None:
                return
            self.under_way -= 1
            items, chunk.items = chunk.items, None
            # This call is in there, and leads back to the future: a cycle, which would keep the supervisor alive.
            chunk.future._done_callbacks = []
            try:
                self.go_on_after(chunk, items, chunk.future)
            finally:
                self.supervisor.queue.keep_open(-1)

    def go_on_after(self, chunk, items, future):
        if self.closed:
            return
        if future.cancelled():
            self.end_source()
            return
        if future.exception() is None:
            (values, error), elapsed_ns = future.result()
            self.learn(len(values), elapsed_ns)
            if error is None and len(values) < chunk.count:
                # It has taken long, and came back before its end.
                self.send(_Chunk(items[len(values) : chunk.count]), self.chunks.index(chunk) + 1)
        self.feed()
        if self.exhausted or self.buffered == 0:
            self.share()

    def learn(self, calls, elapsed_ns):
        if calls > 0:
            # What a call takes changes: the latest chunk counts as much as all before it, or more if it has more calls,
            # but not one or two calls alone.
            before = min(self.calls, max(calls, FEW_CALLS))
            self.call_ns = (before * (self.call_ns or 0) + elapsed_ns) / (before + calls)
            self.calls += calls
            self.supervisor.call_ns.learn(self.fn, self.call_ns)

    def share(self):
        """Give idle workers the second halves of what others have still to do."""
        queue = self.supervisor.queue
        idle = queue.idle_workers() if self.chunksize is None else 0
        for chunk in list(self.chunks):
            if idle == 0:
                break
            if chunk.items is None or chunk.count < 2:
                continue
            kept = queue.split(chunk.future)
            if kept < chunk.count:
                rest = _Chunk(chunk.items[kept : chunk.count])
                chunk.count = kept
                self.send(rest, self.chunks.index(chunk) + 1)
                idle -= 1

    # ---- receiving ----

    def results(self):
        """Yield lists of results."""
        try:
            while True:
                with self.lock:
                    if not self.chunks:
                        return
                    chunk = self.chunks[0]
                (values, error), _ = self.outcome_of(chunk.future)
                with self.lock:
                    self.settle(chunk)
                    self.chunks.popleft()
                del chunk
                if self.buffered is None:
                    yield values
                else:
                    values.reverse()
                    while values:
                        self.refill(1)
                        yield [values.pop()]
                del values
                if error is not None:
                    raise rebuild_exception(error)
        finally:
            with self.lock:
                self.closed = True
                self.end_source()
                chunks = list(self.chunks)
                self.chunks.clear()
            for chunk in chunks:
                chunk.future.cancel()
            del chunks

    def refill(self, taken):
        with self.lock:
            self.buffered += taken
            if not self.exhausted and (self.chunksize is None or self.buffered >= self.chunksize):
                self.feed()

    def outcome_of(self, future):
        try:
            return future.result(None if self.deadline is None else self.deadline - time.monotonic())
        finally:
            del future


def _map_by_submit(executor, fn, iterables, deadline, chunksize, buffersize):
    """For executors whose class has a submit() of its own, which every call is to go through."""
    chunks = _batches(zip(*iterables), chunksize)
    run = partial(process._process_chunk, fn)
    pending = deque(executor.submit(run, chunk) for chunk in islice(chunks, buffersize))

    def results():
        try:
            while pending:
                pending.extend(executor.submit(run, chunk) for chunk in islice(chunks, 1))
                values = _base._result_or_cancel(
                    pending.popleft(), *(() if deadline is None else (deadline - time.monotonic(),))
                )
                yield values
                del values
        finally:
            for future in pending:
                future.cancel()

    return _core.Chain(results())


def _batches(iterable, size):
    iterator = iter(iterable)
    while batch := tuple(islice(iterator, size)):
        yield batch
