"""Shared by the groups of rows: measuring ways of doing the same work, judging one of them, and the work itself.

A row measures a baseline and a candidate in alternation, so that whatever else the machine does meanwhile falls on
both, and compares a summary of all rounds.  A contest does so with any number of rivals.  The garbage collector stays
on, as in a normal program; only what one measurement left behind is collected before the next begins.
"""

import asyncio
import concurrent.futures
import functools
import gc
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

from pyconc._bench.programs.meter import descendants

__all__ = [
    "LOOPS",
    "SKIPPED",
    "US",
    "WORKERS",
    "Contest",
    "Goal",
    "Row",
    "at_most",
    "await_one_at_a_time",
    "burst",
    "gather",
    "identity",
    "in_a_fresh_process",
    "on_loop",
    "on_pool",
    "round_trips",
    "row_maker",
    "scaled",
    "stat_fields",
    "status_fields",
    "timed",
    "times_less",
    "together",
    "under",
    "uvloop",
    "within",
]

WORKERS = 2
US = "µs/task"

# Event loops by name, for rows that exist once per loop.
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
# The rows that cannot be measured here, and why; said aloud beside the figures.
SKIPPED: list[str] = []
# A round in which other programs use more than this share of the CPUs counts as disturbed.
CALM = 0.1

try:
    import uvloop
except ImportError as error:
    uvloop = None
    SKIPPED.append(f"every row on uvloop: {error}")
else:
    LOOPS["uvloop"] = uvloop.new_event_loop


@dataclass(frozen=True)
class Goal:
    """What a candidate must reach; `ratio` is the figure that the goal speaks of."""

    text: str
    ratio: Callable[[float, float], float]
    is_reached: Callable[[float, float], bool]


def times_less(factor: float) -> Goal:
    """The candidate's figure fits at least `factor` times into the baseline's."""
    return Goal(
        f"{factor:g}x",
        lambda baseline, candidate: baseline / candidate,
        lambda baseline, candidate: baseline >= factor * candidate,
    )


def within(factor: float) -> Goal:
    """The candidate's figure is at most `factor` times the baseline's."""
    return Goal(
        f"within {factor:g}x",
        lambda baseline, candidate: candidate / baseline,
        lambda baseline, candidate: candidate <= factor * baseline,
    )


def under(limit: float) -> Goal:
    """The candidate's own figure is below `limit`, whatever the baseline's is."""
    return Goal(
        f"under {limit:g}",
        lambda baseline, candidate: baseline / candidate,
        lambda baseline, candidate: candidate < limit,
    )


def at_most(limit: float) -> Goal:
    """The candidate's own figure is `limit` or less; unlike `under`, it can ask for nothing at all."""
    return Goal(
        f"at most {limit:g}",
        lambda baseline, candidate: baseline / candidate,
        lambda baseline, candidate: candidate <= limit,
    )


def stat_fields(path: str) -> list[int]:
    """The numbers of a process's or thread's `stat`: user and system ticks are 11 and 12, its dead children's 13, 14.

    Nothing when it has ended.
    """
    try:
        with open(path) as file:
            # The name, which may hold anything, ends with the last parenthesis; the state is a letter.
            return [0, *map(int, file.read().rpartition(")")[2].split()[1:])]
    except OSError:
        return []


def status_fields(path: str) -> dict[str, str]:
    """Return the fields of a process's or thread's `status`, by name; nothing when it has ended."""
    try:
        with open(path) as file:
            return dict(line.split(":", 1) for line in file)
    except OSError:
        return {}


class Neighbours:
    """How busy other programs keep the machine, which changes by a factor of seven what it costs to wake a thread."""

    def __init__(self) -> None:
        self._before = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Seconds: on the clock, busy over all CPUs, and busy for this program and the ones it ran."""
        with open("/proc/stat") as file:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
        busy = user + nice + system + irq + softirq + steal
        # Some processes outlive a round, such as multiprocessing's fork server, which then holds its workers' times.
        own = sum(sum(stat_fields(f"/proc/{pid}/stat")[11:15]) for pid in (os.getpid(), *descendants()))
        ticks = os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy / ticks, own / ticks

    def share(self) -> float:
        """The share of all CPU time since the start that went to others."""
        elapsed, busy, own = (after - before for before, after in zip(self._before, self._read(), strict=True))
        return max(0.0, busy - own) / (elapsed * os.cpu_count())


def in_turns(
    ways: list[Callable[[], float]], rounds: int, calm: bool, tell: Callable[[], None]
) -> tuple[list[list[float]], int]:
    """The figures of all rounds, a list for each way, and the number of rounds that were disturbed.

    Calls tell() after each round that counts.
    """
    figures: list[list[float]] = [[] for _ in ways]
    disturbed_rounds = 0
    patience = 10 * rounds
    for number in range(rounds):
        while True:
            neighbours = Neighbours()
            # None always comes first, for the next may gain from what the one before it warmed.
            order = [(number + turn) % len(ways) for turn in range(len(ways))]
            measured = {}
            for which in order:
                gc.collect()
                measured[which] = ways[which]()
            disturbed = neighbours.share() > CALM
            if not (calm and disturbed and patience > 0):
                break
            patience -= 1
        disturbed_rounds += disturbed
        tell()
        for which, figure in measured.items():
            figures[which].append(figure)
    return figures, disturbed_rounds


@dataclass
class Row:
    """One question: what two ways of doing the same work cost, in `unit`.

    Without a baseline the candidate is measured alone, for a goal that speaks of nothing but its own figure.
    """

    name: str
    unit: str
    baseline: Callable[[], float] | None
    candidate: Callable[[], float]
    goal: Goal
    # The median of the rounds, unless the goal says "never": then the worst of them.
    summary: Callable[[list[float]], float] = statistics.median
    # Rounds that fill caches and do not count.
    warm_up: int = 1
    # For work that takes long: no more rounds than these, however many are asked for.
    most_rounds: int | None = None
    baseline_rounds: list[float] = field(default_factory=list)
    candidate_rounds: list[float] = field(default_factory=list)
    disturbed: int = 0

    def steps(self, rounds: int) -> int:
        """How many times measure() calls tell()."""
        return self.warm_up + min(rounds, self.most_rounds or rounds)

    def measure(self, rounds: int, calm: bool, tell: Callable[[], None] = lambda: None) -> None:
        ways = [self.candidate] if self.baseline is None else [self.baseline, self.candidate]
        in_turns(ways, self.warm_up, False, tell)
        figures, self.disturbed = in_turns(ways, min(rounds, self.most_rounds or rounds), calm, tell)
        self.candidate_rounds = figures.pop()
        self.baseline_rounds = figures.pop() if figures else []

    @property
    def is_measured(self) -> bool:
        return bool(self.candidate_rounds)

    @property
    def rounds(self) -> int:
        return len(self.candidate_rounds)

    @property
    def figures(self) -> tuple[float | None, float]:
        baseline = self.summary(self.baseline_rounds) if self.baseline_rounds else None
        return baseline, self.summary(self.candidate_rounds)

    @property
    def ratio(self) -> float | None:
        """Nothing when there is no baseline, or when the candidate's figure is zero."""
        baseline, candidate = self.figures
        return None if baseline is None or candidate == 0 else self.goal.ratio(baseline, candidate)

    @property
    def reached(self) -> bool:
        return self.goal.is_reached(*self.figures)

    def as_json(self) -> dict[str, object]:
        baseline, candidate = self.figures
        return {
            "row": self.name,
            "unit": self.unit,
            "baseline": baseline,
            "candidate": candidate,
            "ratio": self.ratio,
            "target": self.goal.text,
            "reached": self.reached,
            "baseline_rounds": self.baseline_rounds,
            "candidate_rounds": self.candidate_rounds,
            "disturbed_rounds": self.disturbed,
        }


@dataclass
class Contest:
    """One piece of work that more than two can do, each by its name: the last one is to be ahead of every other."""

    name: str
    unit: str
    ways: dict[str, Callable[[], float]]
    most_rounds: int = 3
    all_rounds: dict[str, list[float]] = field(default_factory=dict)
    disturbed: int = 0

    def steps(self, rounds: int) -> int:
        return min(rounds, self.most_rounds)

    def measure(self, rounds: int, calm: bool, tell: Callable[[], None] = lambda: None) -> None:
        ways = list(self.ways.values())
        figures, self.disturbed = in_turns(ways, min(rounds, self.most_rounds), calm, tell)
        self.all_rounds = dict(zip(self.ways, figures, strict=True))

    @property
    def is_measured(self) -> bool:
        return bool(self.all_rounds)

    @property
    def rounds(self) -> int:
        return max(map(len, self.all_rounds.values()))

    @property
    def figures(self) -> dict[str, float]:
        return {name: statistics.median(rounds) for name, rounds in self.all_rounds.items()}

    @property
    def ratio(self) -> float:
        """How many times the last one's figure fits into that of the best of the others."""
        *others, last = self.figures.values()
        return min(others) / last

    @property
    def reached(self) -> bool:
        return self.ratio > 1

    def as_json(self) -> dict[str, object]:
        return {
            "contest": self.name,
            "unit": self.unit,
            "figures": self.figures,
            "ratio": self.ratio,
            "reached": self.reached,
            "rounds": self.all_rounds,
            "disturbed_rounds": self.disturbed,
        }


# --- Making rows ------------------------------------------------------------------------------------------------------
# A row is a function of the module that holds the executor, and of how much work to do.


def scaled(size: int, quick: bool) -> int:
    return max(1, size // 20) if quick else size


def row_maker(candidate, quick: bool):
    """A function that makes a row of `work(futures, size)`, done with the standard library and with the candidate."""

    def row(name, unit, size, work, goal, baseline=None, alone=False, **options):
        size = scaled(size, quick)
        standard = None if alone else functools.partial(baseline or work, concurrent.futures, size)
        return Row(name, unit, standard, functools.partial(work, candidate, size), goal, **options)

    return row


def timed(work, pool, size: int) -> float:
    """Microseconds per task of `work(pool, size)`."""
    started = perf_counter()
    work(pool, size)
    return (perf_counter() - started) / size * 1e6


def on_pool(start, work):
    """Makes a row of `work(pool, size)`, timed once the pool that `start(futures)` gave has done some of it."""

    def measure(futures, size):
        with start(futures) as pool:
            work(pool, max(1, size // 10))
            return timed(work, pool, size)

    return measure


def on_loop(start, work):
    """Makes a row of `await work(loop, pool, size)`, as `on_pool` does; it also depends on the kind of loop."""

    def measure(new_loop, futures, size):
        async def main():
            await work(loop, pool, max(1, size // 10))
            started = perf_counter()
            await work(loop, pool, size)
            return (perf_counter() - started) / size * 1e6

        loop = new_loop()
        try:
            with start(futures) as pool:
                return loop.run_until_complete(main())
        finally:
            loop.close()

    return measure


def together(measure, names):
    """For rows that look at the same measurement, which gives a dictionary with these names: a way for each name.

    Whoever is asked first measures, and the others then look at what was found, each as often as that one measured.
    """
    kept = {name: deque() for name in names}

    def figure(name):
        if not kept[name]:
            figures = measure()
            for each in names:
                kept[each].append(figures[each])
        return kept[name].popleft()

    return {name: functools.partial(figure, name) for name in names}


def in_a_fresh_process(*command: object) -> float:
    """The one figure that Python prints when it is run with these arguments."""
    # Elsewhere, because Python finds modules in the current folder, which may hold the sources of what is installed.
    finished = subprocess.run([sys.executable, *map(str, command)], check=True, stdout=subprocess.PIPE, cwd="/")
    return float(finished.stdout)


# --- Work that every kind of executor does ----------------------------------------------------------------------------


def identity(x):
    return x


def burst(pool, size):
    pending = [pool.submit(identity, i) for i in range(size)]
    return [future.result() for future in pending]


def round_trips(pool, size):
    return [pool.submit(identity, i).result() for i in range(size)]


async def gather(loop, pool, size):
    await asyncio.gather(*[loop.run_in_executor(pool, identity, i) for i in range(size)])


async def await_one_at_a_time(loop, pool, size):
    for i in range(size):
        await loop.run_in_executor(pool, identity, i)
