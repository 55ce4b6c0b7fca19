"""Executors whose calls tests stop, and what must hold afterwards."""

import contextlib
from collections.abc import Iterator
from typing import Any

from gates import ProcessGate
from support import PROC, wait_until

import pyconc

# Longer than any test takes: what would be killed after that was not killed at all.
FOREVER = 3600


class Stoppable:
    """Some workers, as `pool` and as `view`, whose calls can be stopped; and a gate that calls may wait at."""

    def __init__(self, pool: Any, view: Any, gate: ProcessGate) -> None:
        self.pool = pool
        self.view = view
        self.gate = gate


@contextlib.contextmanager
def stoppable(workers: int = 1, on_cancel: str = "interrupt", **options: Any) -> Iterator[Stoppable]:
    """Fails the test if a call goes on after it, or, unless workers are to be killed, if it has cost a worker."""
    with pyconc.ProcessPoolExecutor(workers, **options) as pool, ProcessGate() as gate:
        try:
            begun = [pool.submit(gate) for _ in range(workers)]
            gate.wait_started(workers)
            gate.open()
            pyconc.wait(begun)
            before = dict(pool._processes)
            yield Stoppable(pool, pool.options(on_cancel=on_cancel, grace=FOREVER), gate)
            wait_until(lambda: not pool._tasks.outstanding(), "all calls to end")
            if on_cancel == "interrupt":
                assert pool._processes == before
            assert pool.submit(abs, -1).result() == 1
        except BaseException:
            pool.kill_workers()
            raise


def timer_is_off(timer: int) -> bool:
    """Whether a timerfd is set to no time."""
    with open(f"{PROC}/self/fdinfo/{timer}") as file:
        return "it_value: (0, 0)" in file.read()
