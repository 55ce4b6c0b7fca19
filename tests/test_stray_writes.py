"""A worker's code writes where it should not, as an extension with a wild pointer does: no call is lost in silence.

Each future gets its result or an exception, the executor goes on, and it ends.
"""

import ctypes
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from support import HANG_LIMIT, chessboard, more_rounds, run_script, wait_until

from pyconc import CoroutinePool, ProcessPoolExecutor, TaskTimeout, WorkerDied, current_task

LOST = object()

SCRIBBLE = Path(__file__).parent / "scripts" / "scribble.py"


def shared_mappings():
    """Return (start, bytes) of what this process shares with its parent, the first one with the job ring."""
    found = []
    with open("/proc/self/maps") as file:
        for line in file:
            where, mode, offset, _, _, *name = line.split(maxsplit=5)
            if name and "memfd:pyconc " in name[0] and "w" in mode:  # not that of pyconc.shared
                start, end = (int(part, 16) for part in where.split("-"))
                found.append((int(offset, 16), start, end - start))
    return [(start, size) for _, start, size in sorted(found)]


def scribble(seed, most):
    """Write over up to `most` bytes somewhere in the first half megabyte, where the job ring is."""
    dice = random.Random(seed)
    start, size = shared_mappings()[0]
    size = min(size, 1 << 19)
    length = dice.randrange(4, most)
    at = dice.randrange(4096, size - length) & ~3
    pattern = dice.choice([bytes(length), b"\xff" * length, dice.randbytes(length), (b"stray write" * length)[:length]])
    ctypes.memmove(start + at, pattern, length)


async def scribble_as_coroutine(seed, most):
    scribble(seed, most)


def echo(*numbers):
    return numbers


async def echo_as_coroutine(*numbers):
    return numbers


def call(pool, function, number):
    """Submit a call that shows whether its message or that of its outcome was hit."""
    return pool.submit(function, *[number] * 4)


def outcome_of(future):
    """Return a call's number, or LOST if it raised or was hit."""
    if future.exception(HANG_LIMIT) is not None:
        return LOST
    numbers = set(future.result())
    return numbers.pop() if len(numbers) == 1 else LOST


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 12), marks=more_rounds)], ids=["few", "many"])
@pytest.mark.parametrize("most", [8, 4096, 65536])
def test_each_call_ends_after_a_stray_write(most, seeds):
    for seed in seeds:
        with ProcessPoolExecutor(2) as pool:
            calls = [call(pool, echo, n) for n in range(20)]
            stray = pool.submit(scribble, seed, most)
            calls += [call(pool, echo, n) for n in range(20, 200)]
            stray.exception(HANG_LIMIT)
            outcomes = list(map(outcome_of, calls))
            assert all(outcome in (n, LOST) for n, outcome in enumerate(outcomes)), (seed, outcomes)


def hit_own_end(lower, upper):
    """Write over the word that says how this call ends, so that it looks like one of a call that cannot be stopped."""
    start, size = shared_mappings()[0]
    for at in range(start, start + min(size, 1 << 19), 8):
        word = ctypes.c_uint64.from_address(at)
        if word.value & 0xFFF0_0000_0000_0000 == 0xF7A0_0000_0000_0000 and word.value & 0xFFFF == 0x3BBB:
            word.value = upper << 32 | (word.value & 0xFFFF_FFFF if lower is None else lower)
    signal.pause()


@chessboard(
    "word, options",
    [(None, 0), (0, 0), (1, 2), (0xFFFF_FFFF, 0xFFFF_FFFF), (0x57A7_3DDD, 0xF7A7_3DDD)],
    [{"timeout": 0.05}, {"timeout": 0.05, "on_cancel": "kill"}],
)
def test_a_call_ends_in_time_whose_end_was_hit(word, options):
    with ProcessPoolExecutor(2) as pool:
        late = pool.options(grace=0.05, **options).submit(hit_own_end, *word)
        assert isinstance(late.exception(HANG_LIMIT), (WorkerDied, TaskTimeout))
        assert pool.submit(abs, -1).result(HANG_LIMIT) == 1


def hit_own_begin(lower, upper):
    """Write over the word that says when this call has begun."""
    began = time.monotonic_ns()
    start, size = shared_mappings()[0]
    for at in range(start, start + min(size, 1 << 19), 8):
        word = ctypes.c_uint64.from_address(at)
        if 0 <= began - word.value < 10**9:
            word.value = upper << 32 | (word.value & 0xFFFF_FFFF if lower is None else lower)
    signal.pause()


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(None, 0xFFFF_FFFF), (0xFFFF_FFFF, 0xFFFF_FFFF), (None, 0x7FFF_FFFF), (None, 0), (1, 0), (0, 0)],
)
def test_a_call_ends_whose_begin_was_hit(lower, upper):
    with ProcessPoolExecutor(2) as pool:
        late = pool.options(timeout=0.05, grace=0.05).submit(hit_own_begin, lower, upper)
        assert isinstance(late.exception(HANG_LIMIT), (WorkerDied, TaskTimeout))
        assert pool.submit(abs, -1).result(HANG_LIMIT) == 1


def condemn_itself():
    start, size = shared_mappings()[0]
    for at in range(start, start + min(size, 1 << 19), 8):
        word = ctypes.c_uint64.from_address(at)
        if word.value == 0xF7A7_3BBB_57A7_3BBB:
            word.value = 0xF7A7_3DDD_57A7_3DDD
    return "an outcome"


def test_a_call_ends_that_a_stray_write_has_condemned():
    """Its worker waits to be killed, and nobody kills it."""
    with ProcessPoolExecutor(1) as pool:
        error = pool.options(timeout=HANG_LIMIT * 10).submit(condemn_itself).exception(HANG_LIMIT)
        assert isinstance(error, WorkerDied)
        assert error.signal == "SIGKILL"
        assert pool.submit(abs, -1).result(HANG_LIMIT) == 1


def hit_own_end_when_asked(upper):
    with current_task().shield():
        wait_until(current_task().cancelled)
        start, size = shared_mappings()[0]
        for at in range(start, start + min(size, 1 << 19), 8):
            word = ctypes.c_uint64.from_address(at)
            if word.value >> 32 in range(0xF7A7_3CCC, 0xF7A7_3CD0):
                word.value = upper << 32 | word.value & 0xFFFF_FFFF
        while True:
            signal.pause()


@pytest.mark.parametrize("upper", [0, 0xFFFF_FFFF])
def test_a_call_whose_end_was_hit_is_killed_after_its_grace(upper):
    """Nothing else tells the supervisor then that the ring is damaged."""
    with ProcessPoolExecutor(2) as pool:
        late = pool.options(timeout=0.05, grace=0.3).submit(hit_own_end_when_asked, upper)
        assert isinstance(late.exception(HANG_LIMIT), (WorkerDied, TaskTimeout))
        assert pool.submit(abs, -1).result(HANG_LIMIT) == 1


def test_the_executor_goes_on_after_a_stray_write():
    with ProcessPoolExecutor(2) as pool:
        for seed in range(10):
            pool.submit(scribble, seed, 65536).exception(HANG_LIMIT)
            # What is on its way when the damage is found may be lost with its worker; then all is new.
            for _ in range(100):
                if outcome_of(call(pool, echo, 7)) == 7:
                    break
            else:
                pytest.fail("the executor does not recover")


def test_coroutines_end_after_a_stray_write():
    for seed in range(6):
        with CoroutinePool(2) as pool:
            calls = [call(pool, echo_as_coroutine, n) for n in range(20)]
            stray = pool.submit(scribble_as_coroutine, seed, 65536)
            calls += [call(pool, echo_as_coroutine, n) for n in range(20, 100)]
            stray.exception(HANG_LIMIT)
            outcomes = list(map(outcome_of, calls))
            assert all(outcome in (n, LOST) for n, outcome in enumerate(outcomes)), (seed, outcomes)


def test_the_parent_survives_garbage_anywhere_in_the_shared_memory():
    run_script(SCRIBBLE, 1, 4, limit=4 * HANG_LIMIT)


@pytest.mark.slow
def test_the_parent_survives_garbage_for_a_while():
    """On each interpreter other garbage; together they take more than a minute."""
    run_script(SCRIBBLE, 10_000 * sys.version_info[1], 1000, 20, limit=6 * HANG_LIMIT)
