"""The names and present numbers under which monitoring systems see executors.

The names and units are those of micrometer's ExecutorServiceMetrics, which dashboards know, so the workers of any
executor are "threads" there.  Nothing is counted here: a reader gets what stats() says just then, and an executor that
nobody asks about does nothing for it.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from pyconc._stats import Histogram, Observed, PoolStats, executors

__all__ = ["METRICS", "TIMERS", "Metric", "Timer", "read"]

# One set of labels beyond the executor's name, and the number that belongs to it.
Value = tuple[dict[str, str], float]

_OUTCOMES = ("completed", "failed", "cancelled", "timed_out", "died")


class Metric(NamedTuple):
    """A number that each executor has, or some numbers, told apart by labels.

    is_counter: it only grows.
    values: what there is of it in an executor's stats().
    """

    name: str
    unit: str
    text: str
    is_counter: bool
    labels: tuple[str, ...]
    values: Callable[[PoolStats], list[Value]]


def _number(name: str, unit: str, text: str, value: Callable[[PoolStats], int], is_counter: bool = False) -> Metric:
    return Metric(name, unit, text, is_counter, (), lambda counts: [({}, value(counts))])


def _by_outcome(counts: PoolStats) -> list[Value]:
    return [({"outcome": outcome}, getattr(counts, outcome)) for outcome in _OUTCOMES]


METRICS = (
    _number("executor.pool.size", "threads", "Workers that there are, those that start included.", lambda c: c.workers),
    _number("executor.pool.max", "threads", "The most workers to run at once.", lambda c: c.max_workers),
    _number("executor.active", "threads", "Calls that run now.", lambda c: c.running),
    _number("executor.queued", "tasks", "Calls that wait for a worker.", lambda c: c.queued),
    _number("executor.abandoned", "threads", "Calls that go on after their futures ended.", lambda c: c.abandoned),
    _number("executor.submitted", "tasks", "Calls that the executor has accepted.", lambda c: c.submitted, True),
    Metric("executor.completed", "tasks", "Calls that have ended, by their outcome.", True, ("outcome",), _by_outcome),
)


class Timer(NamedTuple):
    """One of micrometer's timers, which each system has in a form of its own.

    times: what there is of it in an executor's stats(); None: nobody has timed that.
    """

    name: str
    text: str
    times: "Callable[[PoolStats], Histogram | None]"

    def metrics(self) -> tuple[Metric, Metric, Metric]:
        """Return how many calls were timed, how long all of that was, and the longest of it."""
        return (
            self._metric("count", "tasks", f"{self.text} How many they were.", "calls"),
            self._metric("sum", "s", f"{self.text} All of them together.", "total"),
            self._metric("max", "s", f"{self.text} The longest of them.", "max"),
        )

    def _metric(self, suffix: str, unit: str, text: str, field: str) -> Metric:
        def values(counts: PoolStats) -> list[Value]:
            times = self.times(counts)
            return [] if times is None else [({}, getattr(times, field))]

        return Metric(f"{self.name}.{suffix}", unit, text, field != "max", (), values)


TIMERS = (
    Timer("executor", "For how long calls ran.", lambda counts: counts.run),
    Timer("executor.idle", "For how long calls waited for a worker.", lambda counts: counts.wait),
)

# The name of an executor for as long as it lives, and the executor of a name.  Each step is atomic, as a reader may ask
# in any thread, in a signal handler, or in the child of a fork.
_names: dict[int, str] = {}
_owners: dict[str, int] = {}


def read() -> Iterator[tuple[str, PoolStats]]:
    """Yield the name and the stats() of every executor in this process.

    Names are those of the executors and differ: of several with one name, each but the first to be seen has a number
    behind it, and keeps it.
    """
    living = executors()
    _forget_all_but(living)
    for number, executor in living.items():
        counts = executor.stats()
        yield _name(number, counts.name), counts


def _name(number: int, wanted: str) -> str:
    wanted = wanted.encode(errors="replace").decode()  # a lone surrogate would cost the whole page
    name, count = _names.get(number), 1
    while name is None:
        free = wanted if count == 1 else f"{wanted} ({count})"
        if _owners.setdefault(free, number) == number:
            name = _names[number] = free
        count += 1
    return name


def _forget_all_but(living: "dict[int, Observed]") -> None:
    for number in set(_names) - living.keys():
        name = _names.pop(number, None)
        if name is not None:
            _owners.pop(name, None)
