"""How much sooner do joblib's workers have done it, with pyconc's backend in the place of loky's?

Each row is a call of `Parallel(n_jobs=2)`. Both backends keep their workers between calls, so these are there before
a measurement, but for the first call of a program.
"""

import concurrent.futures
import functools
import importlib.util
import subprocess
import sys
import time
from time import perf_counter

from pyconc._bench import arrays, harness
from pyconc._bench.arrays import MB, array_of, first_byte
from pyconc._bench.harness import Row, at_most, identity, times_less

__all__ = ["BASELINE", "ROUNDS", "facts", "make_contests", "make_rows"]

BASELINE = "loky"
ROUNDS = 3

FIRST_CALL = """
import time
import joblib
if {backend!r} == "pyconc":
    import pyconc.joblib
start = time.perf_counter()
joblib.Parallel(n_jobs=2, backend={backend!r})(joblib.delayed(abs)(number) for number in range(4))
print(time.perf_counter() - start)
"""


def parallel(backend, calls):
    """Call functions in two workers; calls: pairs of a function and its argument."""
    import joblib

    import pyconc.joblib  # noqa: F401  # makes the backend known

    return joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(function)(each) for function, each in calls)


def seconds_of(make_calls, size, backend):
    """For how long a call of Parallel takes; make_calls(size): what is called."""
    parallel(backend, [(identity, number) for number in range(4)])
    calls = make_calls(size)
    started = perf_counter()
    parallel(backend, calls)
    return perf_counter() - started


def an_array(size):
    return [(first_byte, array_of(size))] * 4


def an_array_in_many(size):
    return [(first_byte, array_of(size))] * 40


def small_calls(size):
    return [(identity, number) for number in range(size)]


def short_and_long(size):
    """So many calls of nothing, and then 64 of which every eighth takes 0.2 s: ideally 0.8 s with two workers."""
    return [*small_calls(size), *((time.sleep, 0 if number % 8 else 0.2) for number in range(64))]


def first_call(backend):
    """Milliseconds that the first call of a program takes."""
    command = [sys.executable, "-c", FIRST_CALL.format(backend=backend)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(finished.stdout) * 1e3


def make_rows(options):
    if importlib.util.find_spec("joblib") is None:
        harness.SKIPPED.append("joblib's backends: joblib is not installed")
        return []
    ours = "loky" if options.candidate is concurrent.futures else "pyconc"

    def row(name, unit, make_calls, size, factor, goal):
        def measure(backend):
            return factor * seconds_of(make_calls, size, backend)

        return Row(name, unit, functools.partial(measure, "loky"), functools.partial(measure, ours), goal)

    large = harness.scaled(100 * MB, options.quick)
    many, short = harness.scaled(20_000, options.quick), harness.scaled(2000, options.quick)
    return [
        row("an array of 100 MB to 4 calls", "ms", an_array, large, 1e3, at_most(30)),
        row("an array of 100 MB to 40 calls", "ms", an_array_in_many, large, 1e3, times_less(2)),
        row("calls of nothing", "µs/call", small_calls, many, 1e6 / many, at_most(4)),
        row("2,000 short calls, then some of 0.2 s (ideal: 0.8)", "s", short_and_long, short, 1, at_most(0.88)),
        Row(
            "the first call of a program",
            "ms",
            functools.partial(first_call, "loky"),
            functools.partial(first_call, ours),
            times_less(3),
        ),
    ]


def facts():
    if importlib.util.find_spec("joblib") is None:
        return {}
    import joblib

    return {"joblib": joblib.__version__, "numpy": arrays.numpy and arrays.numpy.__version__}


def make_contests(_options):
    return []
