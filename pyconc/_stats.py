"""The objects that stats() and workers() of executors return."""

import itertools
import time
import weakref
from collections import namedtuple
from operator import itemgetter

from pyconc import _core

__all__ = [
    "PHASES",
    "Histogram",
    "Observed",
    "PoolStats",
    "WorkerStats",
    "build",
    "check_timed",
    "cpu_of_process",
    "cpu_of_thread",
    "executors",
    "name_of",
    "stats",
]

# Every executor of this process, in the order of their making, by its number; not their views.
_executors: "dict[int, _Reference]" = {}
_numbers = itertools.count()

# Types are in the stub: typing, and its NamedTuple, takes longer to import than this package.
_HISTOGRAM = {"calls": 0, "total": 0.0, "p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0}
_COUNTS = (
    *("name", "max_workers", "workers", "idle", "running", "queued", "submitted"),
    *("completed", "failed", "cancelled", "timed_out", "died", "abandoned", "recycled", "stolen", "run", "wait"),
)
_WORKER = (
    *("id", "name", "state", "calls", "task", "running_for", "running"),
    *("is_abandoned", "rss", "cpu", "progress", "node"),
)

# What a worker process does, as its queue numbers that.
PHASES = ("starting", "idle", "unpickling", "running", "pickling")


class Histogram(namedtuple("Histogram", _HISTOGRAM, defaults=_HISTOGRAM.values())):
    """For how long calls have run, or have waited, in seconds.

    calls: how many there were. total: of all of them together. max: of the longest one.
    p50, p90, p99: so long at most took 50, 90 and 99 of a hundred; an estimate, right to within a factor of two.

    Raises nothing.

        >>> pyconc.Histogram(calls=2, total=3.0, p50=1.0, p90=2.0, p99=2.0, max=2.0).max
        2.0
    """

    __module__ = __package__
    __slots__ = ()


class PoolStats(namedtuple("PoolStats", _COUNTS)):
    """An executor's present work, and all that it has done, as numbers; see the executor's stats().

    name: the executor's. max_workers: the most workers to run at once.
    workers: how many there are, those that are starting included. idle: of these, those without a call.
    running, queued: calls that run now, and that wait for a worker.

    submitted: calls that the executor has accepted, since it was made. Each ends in one of five ways:
    completed: it has returned something.
    failed: it has raised something, or could not be pickled or unpickled.
    cancelled: before it began, or while it ran.
    timed_out: it has got a TaskTimeout.
    died: it was lost, with its worker, or because the executor broke.

    abandoned: calls in threads that go on after their futures were told that they ended.
    recycled: worker processes that have left for others to take their places: they had run max_tasks_per_child calls,
    had more memory than max_rss_per_child, or a call of theirs was interrupted in the middle of an import.
    stolen: calls of map() that were taken from a worker which had them and was busy, for an idle one; each as often as
    that happened to it.
    run: for how long calls have run, of each that has ended in a worker and counts as completed or failed. None for
    threads, unless the executor was made with timed=True: to look at the clock costs a short call a tenth of its time.
    wait: for how long calls have waited for a worker: in threads of each that has begun, in processes of each that
    counts for run. None unless the executor was made with timed=True.

    When an executor has nothing to do, submitted is the sum of the five. How a call ended is counted before its future
    is told, unless the program has cancelled that. It is a tuple of numbers, and _asdict() makes a dictionary of it.
    Raises nothing.

        >>> with pyconc.ThreadPoolExecutor(max_workers=2, name="loader") as pool:
        ...     future = pool.submit(len, "abc")
        ...     print(future.result(), pool.stats()._asdict())  # doctest: +ELLIPSIS
        3 {'name': 'loader', 'max_workers': 2, 'workers': 1, ..., 'completed': 1, ...}
    """

    __module__ = __package__
    __slots__ = ()


class WorkerStats(namedtuple("WorkerStats", _WORKER, defaults=(None, None, 0, False, None, None, None, None))):
    """The present work of an executor's worker; see the executor's workers().

    id: the process's or the thread's number, as ps and top have it.
    name: what it is called, as multiprocessing.Process and threading.Thread have it.
    state: "idle" or "running"; of a process also "starting", until it is ready for calls; of one that makes one call at
    a time also "unpickling", while it reads the call, for which it may import modules, and "pickling", when the call
    has returned.
    calls: how many it has ended.
    task: the name of the call that it runs, by options(name=) or else as its function; None: it has none.
    running_for: for how many seconds; None also for one that a worker has taken and not begun. Of calls in threads
    without options() it is right to some milliseconds, unless the executor was made with timed=True.
    running: how many calls it runs at once, in a CoroutinePool; then task is the one that has begun first.
    is_abandoned: the call goes on in its thread after its future was told that it ended.
    rss: how many bytes the process has in memory; None for threads, and where there is no /proc.
    cpu: for how many seconds the process or the thread has computed so far; None: it has ended.
    progress: a pyconc.TaskProgress: what that call has told last by Task.progress(), in a CoroutinePool the call that
    has told something last; None: nothing.
    node: of an executor on a cluster the address of the worker's node, where id is its number; else None.

    Raises nothing.

        >>> with pyconc.ThreadPoolExecutor(max_workers=1, name="loader") as pool:
        ...     future = pool.submit(len, "abc")
        ...     print(future.result(), pool.workers()[0]._replace(id=None))
        3 WorkerStats(id=None, name='loader_0', state='idle', calls=1, task=None, running_for=None, running=0, ...)
    """

    __module__ = __package__
    __slots__ = ()


def check_timed(timed):
    """Raise TypeError for a `timed` that is neither True nor False."""
    if not isinstance(timed, bool):
        raise TypeError(f"timed must be True or False, not {timed!r}")


def build(name, max_workers, numbers):
    """Return a queue's stats() as a PoolStats; in the way that takes the least time."""
    *counts, run, wait = numbers
    run = run if run is None else tuple.__new__(Histogram, run)
    wait = wait if wait is None else tuple.__new__(Histogram, wait)
    return tuple.__new__(PoolStats, (name, max_workers, *counts, run, wait))


def name_of(function, name):
    """Return what a call is named: by its options, or else as its function; None: there is none."""
    return name if name is not None or function is None else _core.name_of(function)


def cpu_of_process(pid):
    """Return for how many seconds a process has computed; None: it has ended."""
    return _read_clock(pid, 2)


def cpu_of_thread(number):
    """Return the same of a thread of this process, by its native_id."""
    return _read_clock(number, 6)


def _read_clock(number, kind):
    # As clock_getcpuclockid() and pthread_getcpuclockid() make them; the latter must not be asked for an ended thread.
    try:
        return time.clock_gettime((~number << 3) | kind)
    except OSError:
        return None


class _Reference(weakref.ref):
    """To an executor, from its number on."""

    __slots__ = ("number",)


def _forget(reference, pop=_executors.pop):  # which is there to the interpreter's end
    pop(reference.number, None)


class Observed:
    """The base of executors that tell what they are doing."""

    def stats(self):
        raise NotImplementedError

    def _observe(self):
        """Have pyconc.stats() know of this executor."""
        reference = _Reference(self, _forget)
        reference.number = next(_numbers)
        _executors[reference.number] = reference

    def _describe(self):
        """Return what repr() says after the name of the class."""
        now = self.stats()
        busy = f"{now.running} running, {now.queued} queued, {now.workers} of {now.max_workers} workers"
        return f"{now.name!r}: {busy}"

    def __repr__(self):
        # Of an executor whose __init__() was not called, or has failed, there is nothing to tell.
        try:
            return f"<{type(self).__name__} {self._describe()}>"
        except AttributeError:
            return object.__repr__(self)


def executors():
    """Return every executor of this process by a number that no other has, in the order of their making."""
    # In one step, as other threads make executors meanwhile.
    found = [(number, reference()) for number, reference in list(_executors.items())]
    return {number: executor for number, executor in sorted(found, key=itemgetter(0)) if executor is not None}


def stats():
    """Return the stats() of every executor in this process, as a dictionary by name, in the order of their making.

    Those that are shut down count as long as the program keeps them. Of several with one name each but the first has a
    number: "resize", "resize (2)". Any thread may call this, a signal handler too. In the child of a fork everything
    begins at 0. Raises nothing.

        >>> with pyconc.ThreadPoolExecutor(max_workers=2, name="loader") as pool:
        ...     future = pool.submit(len, "abc")
        ...     print(future.result(), pyconc.stats()["loader"].completed)
        3 1
    """
    found = {}
    for executor in executors().values():
        counts = executor.stats()
        name = counts.name
        number = 2
        while name in found:
            name = f"{counts.name} ({number})"
            number += 1
        found[name] = counts
    return found


stats.__module__ = __package__
