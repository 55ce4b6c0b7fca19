"""What does a whole program gain when pyconc runs it?

The programs are in the folder beside this file, and know nothing of pyconc.  In each round each of them is started by
`python`, and by `python -m pyconc run`, and prints its figures; what it does before it is ready is not in them.  The
rows show how long an item of work takes, the p50 and p99 of calls and requests, and CPU time: that of the program's
process and, for calls in processes, that of the workers, too.  What the functions themselves do costs the same in both
columns, so a program gains by its calls alone.

The contests are calls a millisecond apart in pools of other libraries, with no event loop: a round trip each.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time

from pyconc._bench import harness, rivals
from pyconc._bench.harness import Contest, Row, identity, times_less, within
from pyconc._bench.programs import meter

__all__ = ["ROUNDS", "facts", "make_contests", "make_rows"]

ROUNDS = 5
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs")
# A program whose work is not in its calls gains nothing; it must not lose, either.  black's workers each import black,
# unless the standard library forks what has done so: of two seconds that is a tenth.
NO_SLOWER = within(1.1)
PACED_CALLS = 500


@dataclasses.dataclass(frozen=True)
class Workload:
    """One program."""

    name: str
    program: str
    # How much it does, in the unit that its figures are for.
    size: int
    item: str
    # By the name of each figure: what the row adds to the name of the workload, and what it is to reach.
    figures: dict[str, tuple[str, harness.Goal]]
    arguments: tuple[str, ...] = ()
    needs: str | None = None
    unit: str = "µs"

    def run(self, patched: bool, size: int) -> dict[str, float]:
        """The figures of the program, by name."""
        start = [sys.executable, *(["-m", "pyconc", "run"] if patched else [])]
        command = [*start, os.path.join(FOLDER, self.program), *self.arguments, str(size)]
        # `python -m pyconc enable` must not reach the standard library's column.
        environment = {name: value for name, value in os.environ.items() if name != "PYCONC"}
        finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd="/", env=environment)
        return json.loads(finished.stdout.splitlines()[-1])

    def rows(self, options) -> list[Row]:
        size = harness.scaled(self.size, options.quick)
        baseline, candidate = (
            harness.together(functools.partial(self.run, patched, size), self.figures)
            for patched in (False, not options.control)
        )
        return [
            Row(self.name + words, f"{self.unit}/{self.item}", baseline[figure], candidate[figure], goal, warm_up=0)
            for figure, (words, goal) in self.figures.items()
        ]


def calls(factor):
    return {"p50": (", p50", times_less(factor)), "p99": (", p99", within(1.2)), "cpu": (", CPU", times_less(factor))}


TIME = {"time": ("", NO_SLOWER)}
WORKLOADS = [
    Workload("1,000 calls a second in threads", "paced_calls.py", 700, "call", calls(1.5), ("ThreadPoolExecutor",)),
    Workload("1,000 calls a second in processes", "paced_calls.py", 700, "call", calls(2), ("ProcessPoolExecutor",)),
    Workload(
        "small files through aiofiles",
        "small_files.py",
        3_000,
        "file",
        {"time": ("", times_less(1.5))},
        needs="aiofiles",
    ),
    Workload("sqlite through to_thread", "database.py", 10_000, "query", {"time": ("", times_less(1.5))}),
    Workload(
        "a server with blocking endpoints",
        "web_server.py",
        2_000,
        "request",
        {"time": ("", NO_SLOWER), "p99": (", p99", within(1.2)), "cpu": (", CPU", times_less(1.2))},
    ),
    Workload("a crawl in threads", "crawl.py", 600, "page", TIME | {"cpu": (", CPU", NO_SLOWER)}),
    Workload("thumbnails of files", "pictures.py", 60, "picture", TIME, ("files",), "PIL", "ms"),
    Workload("thumbnails of pictures in memory", "pictures.py", 60, "picture", TIME, ("memory",), "PIL", "ms"),
    Workload(
        "black over many files", "black_files.py", 40, "file", {"time": ("", within(1.3))}, needs="black", unit="ms"
    ),
]
# What its program does without, aloud.
WITHOUT_UVICORN = "uvicorn, in whose place the blocking endpoints have a small server"


@functools.cache
def has(module):
    """Whether that can be imported; if not, it is said once."""
    if importlib.util.find_spec(module) is not None:
        return True
    names = " and ".join(workload.name for workload in WORKLOADS if workload.needs == module)
    harness.SKIPPED.append(f"{names or WITHOUT_UVICORN}: no module {module}, see pip install 'pyconc[workloads]'")
    return False


def make_rows(options):
    rows = []
    for workload in WORKLOADS:
        if workload.needs is None or has(workload.needs):
            rows += workload.rows(options)
    has("uvicorn")
    return rows


# --- Beside other libraries -------------------------------------------------------------------------------------------


def paced(kind, size):
    """Microseconds that the median call takes from submit to result, when the pool has had a millisecond of rest."""
    times = []
    with kind.started() as pool:
        for number in range(size):
            time.sleep(0.001)
            started = time.perf_counter()
            getattr(kind.submit(pool, identity, number), kind.result)()
            times.append((time.perf_counter() - started) * 1e6)
    return meter.percentile(times, 50)


def make_contests(options):
    size = harness.scaled(PACED_CALLS, options.quick)
    contests = []
    for group in () if options.control else ("threads", "processes"):
        kinds = {name: kind for name, kind in rivals.kinds(group).items() if isinstance(kind, rivals.Kind)}
        ways = {name: functools.partial(paced, kind, size) for name, kind in kinds.items()}
        contests.append(Contest(f"1,000 calls a second in {group}, p50", "µs/call", ways))
    return contests


def facts():
    packages = {"aiofiles": "aiofiles", "uvicorn": "uvicorn", "PIL": "pillow", "black": "black"}
    return {package: importlib.metadata.version(package) for module, package in packages.items() if has(module)}
