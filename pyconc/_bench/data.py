"""How much cheaper does large data travel to processes and back with pyconc than with the standard library?

One array, or string, at a time goes to a worker that looks at its first byte, or comes from a worker that keeps it.
Each process makes it once, and each row says how large it is.
"""

import functools

from pyconc._bench import arrays, harness
from pyconc._bench.arrays import MB, array_of, first_byte
from pyconc._bench.harness import times_less
from pyconc._bench.started import start, start_pool

__all__ = ["ROUNDS", "facts", "make_contests", "make_rows"]

ROUNDS = 5

if arrays.numpy is None:
    harness.SKIPPED.append(arrays.WITHOUT_NUMPY)


def as_argument(array, pool, size):
    for _ in range(size):
        pool.submit(first_byte, array_of(*array)).result()


def as_result(array, pool, size):
    for _ in range(size):
        first_byte(pool.submit(array_of, *array).result())


def pool_argument(array, pool, size):
    for _ in range(size):
        pool.apply(first_byte, (array_of(*array),))


def pool_result(array, pool, size):
    for _ in range(size):
        first_byte(pool.apply(array_of, array))


def transfers(start, work, array, futures, size):
    """Milliseconds for each array, one at a time, in a pool of that start; array: what array_of() makes it of."""
    measure = harness.on_pool(functools.partial(start, array=array), functools.partial(work, array))
    return measure(futures, size) / 1000


# --- The table --------------------------------------------------------------------------------------------------------


def make_rows(options):
    quick = options.quick
    row = harness.row_maker(options.candidate, quick)
    rows = []
    for megabytes, goal in [(1, times_less(1)), (10, times_less(1)), (100, times_less(12))]:
        for work, name in [(as_argument, "argument"), (as_result, "result")]:
            send = functools.partial(transfers, start, work, (harness.scaled(megabytes * MB, quick), "array"))
            rows.append(row(f"an array of {megabytes} MB as {name}", "ms/task", max(2, 100 // megabytes), send, goal))
    for kind in ("bytes", "bytearray", "str"):
        for work, name in [(as_argument, "argument"), (as_result, "result")]:
            send = functools.partial(transfers, start, work, (harness.scaled(10 * MB, quick), kind))
            rows.append(row(f"10 MB of {kind} as {name}", "ms/task", 10, send, times_less(2)))
    for work, name in [(pool_argument, "argument"), (pool_result, "result")]:
        send = functools.partial(transfers, start_pool, work, (harness.scaled(10 * MB, quick), "array"))
        rows.append(row(f"multiprocessing.Pool: an array of 10 MB as {name}", "ms/task", 10, send, times_less(10)))
    return rows


def facts():
    return {"numpy": arrays.numpy and arrays.numpy.__version__}


def make_contests(_options):
    return []
