"""What the benchmarks share: measuring ways of doing the same work, judging one of them, and the work itself.

A row measures a baseline and a candidate in alternation, so that whatever else the machine does meanwhile falls on
both, and compares a summary of all rounds.  A contest does so with any number of rivals.  The garbage collector stays
on, as in a normal program; only what one measurement left behind is collected before the next begins.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import glob
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

WORKERS = 2
US = "µs/task"

# Event loops by name, for rows that exist once per loop.
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
# What cannot be measured here, and why; said aloud beside the figures.
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


def descendants(pid: int | str = "self") -> list[int]:
    """The processes that this one has started, and those that they have, as long as they live."""
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            with open(path) as file:
                children = file.read().split()
        except OSError:
            continue  # it ended meanwhile
        for child in children:
            found += [int(child), *descendants(child)]
    return found


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
    """What a process's or thread's `status` says, by name; nothing when it has ended."""
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


def in_turns(ways: list[Callable[[], float]], rounds: int, calm: bool) -> tuple[list[list[float]], int]:
    """The figures of all rounds, a list for each way, and the number of rounds that were disturbed."""
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

    def measure(self, rounds: int, calm: bool) -> None:
        ways = [self.candidate] if self.baseline is None else [self.baseline, self.candidate]
        in_turns(ways, self.warm_up, calm=False)
        figures, self.disturbed = in_turns(ways, min(rounds, self.most_rounds or rounds), calm)
        self.candidate_rounds = figures.pop()
        self.baseline_rounds = figures.pop() if figures else []

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

    def __str__(self) -> str:
        baseline, candidate = self.figures
        return (
            f"{self.name:<52} {shown(baseline):>10} {shown(candidate):>10} {self.unit:<8}"
            f" {shown(self.ratio):>7} {self.goal.text:>12}  {verdict(self.reached)}{note(self.disturbed)}"
        )

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

    def measure(self, rounds: int, calm: bool) -> None:
        figures, self.disturbed = in_turns(list(self.ways.values()), min(rounds, self.most_rounds), calm)
        self.all_rounds = dict(zip(self.ways, figures, strict=True))

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

    @property
    def heading(self) -> str:
        names = " ".join(f"{name[:18]:>{max(9, len(name[:18]))}}" for name in self.ways)
        return f"{'':<26} {names} {'unit':<8} {'ahead':>7}"

    def __str__(self) -> str:
        figures = " ".join(f"{shown(figure):>{max(9, len(name[:18]))}}" for name, figure in self.figures.items())
        return (
            f"{self.name:<26} {figures} {self.unit:<8} {shown(self.ratio):>7}"
            f"  {verdict(self.reached)}{note(self.disturbed)}"
        )

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


def shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.2f}"


def verdict(reached: bool) -> str:
    return "reached" if reached else "SHORT"


def note(disturbed: int) -> str:
    return f" (disturbed: {disturbed})" if disturbed else ""


HEADING = f"{'':<52} {'standard':>10} {'pyconc':>10} {'unit':<8} {'ratio':>7} {'target':>12}"


def parse_arguments(description: str, rounds: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--rounds", type=int, default=rounds, help="measurements of each row (%(default)s)")
    option("--quick", action="store_true", help="hardly any work: a smoke test, not a figure")
    option("--row", action="append", metavar="WORDS", help="only rows with WORDS in their name; may be repeated")
    option("--json", metavar="FILE", help="write the figures as JSON too; - is standard output")
    option("--calm", action="store_true", help="measure disturbed rounds again, within reason (see the last line)")
    option("--check", action="store_true", help="exit with status 1 if a row falls short")
    option(
        "--control",
        action="store_true",
        help="the standard library on both sides: ratios other than 1 are errors of measurement",
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def load_candidate(arguments: argparse.Namespace):
    """The module whose executors are measured against `concurrent.futures`."""
    return concurrent.futures if arguments.control else importlib.import_module("pyconc")


def describe_environment(arguments: argparse.Namespace) -> dict[str, object]:
    """The facts without which no figure means anything."""
    return {
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        "cpus": len(os.sched_getaffinity(0)),
        "asyncio": platform.python_version(),
        "uvloop": uvloop.__version__ if uvloop is not None else None,
        "pyconc": None if arguments.control else load_candidate(arguments).__version__,
        "rounds": arguments.rounds,
    }


def run(
    rows: list[Row],
    arguments: argparse.Namespace,
    contests: list[Contest] | None = None,
    facts: dict[str, object] | None = None,
) -> int:
    """Measures the rows and contests asked for, prints and writes what came out, and returns the exit status.

    `facts` are what else must be known of the environment.
    """
    contests = contests or []
    if arguments.row:
        rows, contests = (
            [entry for entry in entries if any(words in entry.name for words in arguments.row)]
            for entries in (rows, contests)
        )
        if not rows and not contests:
            raise SystemExit(f"no row has {' or '.join(map(repr, arguments.row))} in its name")
    environment = describe_environment(arguments) | (facts or {})
    # JSON on standard output sends the table to standard error.
    with contextlib.redirect_stdout(sys.stderr if arguments.json == "-" else sys.stdout):
        print(", ".join(f"{name} {value}" for name, value in environment.items()))
        if arguments.control:
            print("CONTROL: the standard library on both sides")
        if arguments.quick:
            print("QUICK: too little work for the figures to mean anything")
        if rows:
            print(HEADING, "-" * len(HEADING), sep="\n")
        measure_and_print(rows, arguments)
        if contests:
            heading = contests[0].heading
            print("", heading, "-" * len(heading), sep="\n")
        measure_and_print(contests, arguments)
        if contests:
            behind = [contest.name for contest in contests if not contest.reached]
            print(f"ahead of every rival: {verdict(not behind)}{' in ' if behind else ''}{', '.join(behind)}")
        for skipped in SKIPPED:
            print(f"skipped {skipped}")
        disturbed = sum(entry.disturbed for entry in [*rows, *contests])
        total = sum(entry.rounds for entry in [*rows, *contests])
        print(f"disturbed rounds, in which other programs used over {CALM:.0%} of the CPUs: {disturbed} of {total}")
    if arguments.json:
        report = {
            "environment": environment,
            "control": arguments.control,
            "quick": arguments.quick,
            "rows": [row.as_json() for row in rows],
            "contests": [contest.as_json() for contest in contests],
            "skipped": SKIPPED,
        }
        text = json.dumps(report, indent=2) + "\n"
        if arguments.json == "-":
            sys.stdout.write(text)
        else:
            with open(arguments.json, "w") as file:
                file.write(text)
    return 1 if arguments.check and not all(entry.reached for entry in [*rows, *contests]) else 0


def measure_and_print(entries: list[Row] | list[Contest], arguments: argparse.Namespace) -> None:
    for entry in entries:
        entry.measure(arguments.rounds, arguments.calm)
        print(entry, flush=True)


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


def in_a_fresh_process(*command: object) -> float:
    """The one figure that Python prints when it is run with these arguments."""
    # In this folder, because Python finds modules in the current one, which may hold the sources of what is installed.
    folder = os.path.dirname(os.path.abspath(__file__))
    finished = subprocess.run([sys.executable, *map(str, command)], check=True, stdout=subprocess.PIPE, cwd=folder)
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
