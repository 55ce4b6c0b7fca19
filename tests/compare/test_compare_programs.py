"""Random programs do the same on both libraries, step by step; see programs.py for what they consist of.

The quick suite looks at a few; PYCONC_EXAMPLES=20000 looks longer than `make test-all` does.
"""

import os
from itertools import zip_longest
from typing import Any

import pytest
from libraries import FORKS, PYCONC, STANDARD
from support import SANITIZED, more_rounds

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from process_programs import Pools, process_programs, run_process_program
from programs import Step, configurations, programs, run_program

EXAMPLES = int(os.environ.get("PYCONC_EXAMPLES", "500"))
FEW_EXAMPLES = min(EXAMPLES, 50)

how_many = pytest.mark.parametrize(
    "examples", [FEW_EXAMPLES, pytest.param(EXAMPLES, marks=more_rounds)], ids=["few", "many"]
)


def compare(configuration: tuple[int, str | None], program: list[Step]) -> None:
    expected = run_program(STANDARD, configuration, program)
    found = run_program(PYCONC, configuration, program)
    compare_diaries(expected, found)


def compare_diaries(expected: list[Any], found: list[Any]) -> None:
    for number, (theirs, ours) in enumerate(zip_longest(expected, found)):
        if theirs != ours:
            # No pytest.fail(): of what is no Exception, Hypothesis does not show the text when it fails but once.
            raise AssertionError(f"step {number}\nstandard: {theirs}\npyconc:   {ours}")


@how_many
def test_random_programs(examples: int) -> None:
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(configurations, programs)
    def compare_both(configuration: tuple[int, str | None], program: list[Step]) -> None:
        compare(configuration, program)

    compare_both()


RETURN: Any = (False, (), ("return", 1))
GATE: Any = (True, (), ("return", 2))


@pytest.mark.parametrize(
    "program",
    [
        [("submit", RETURN)],
        [("submit", GATE), ("submit", RETURN), ("cancel", 1), ("shutdown", True), ("open", 0)],
        [("submit", GATE), ("map", (GATE, RETURN, GATE), None), ("open", 0), ("open", 0), ("next", 0), ("close", 0)],
        [("submit many", (GATE, GATE, RETURN)), ("forget the pool",), ("watch", (0, 1, 2)), ("open", 1), ("open", 0)],
        [("submit", (True, (("submit", GATE), ("cancel", 1), ("shutdown", True)), ("raise", 1))), ("open", 0)],
        [("submit", GATE), ("callback", 0, ("submit", RETURN)), ("callback", 0, ("fail",)), ("open", 0)],
    ],
    ids=lambda program: program[-1][0],
)
@pytest.mark.parametrize("configuration", [(1, None), (2, None), (1, "fails"), (1, "succeeds")], ids=str)
def test_chosen_programs(configuration: tuple[int, str | None], program: list[Step]) -> None:
    compare(configuration, program)


# --- Processes --------------------------------------------------------------------------------------------------------


def compare_in_processes(workers: int, program: list[Step], pools: Pools) -> None:
    found = run_process_program(PYCONC, workers, pools, program)
    if not SANITIZED:
        # A sanitizer's own locks may be held by a thread while the standard library forks, and stay so in the child:
        # that would hang.  What the sanitizer is to look at has run by now.
        compare_diaries(run_process_program(STANDARD, workers, pools, program), found)


@FORKS
@how_many
def test_random_programs_in_processes(examples: int) -> None:
    with Pools() as pools:
        # As it was found: what fails once in many runs is not there to be made smaller, and a hang takes a minute each.
        @settings(max_examples=examples // 5, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(st.sampled_from([1, 1, 2]), process_programs)
        def compare_both(workers: int, program: list[Step]) -> None:
            compare_in_processes(workers, program, pools)

        compare_both()


QUEUE: Any = ("submit many", (GATE, RETURN, RETURN, RETURN))


@pytest.mark.parametrize(
    "program",
    [
        [QUEUE, ("cancel", 1), ("open", 0), ("wait", (0, 1, 2, 3), "ALL_COMPLETED")],
        [QUEUE, ("callback", 2, ("note",)), ("watch", (0, 1, 2, 3)), ("shutdown", True), ("submit", RETURN)],
        [QUEUE, ("iterate", (0, 1, 2)), ("shutdown", False), ("cancel", 3), ("open", 0)],
        [QUEUE, ("callback", 3, ("submit", GATE)), ("open", 0), ("forget the pool",)],
        [QUEUE, ("callback", 0, ("shutdown", False)), ("open", 0), ("submit", RETURN)],
        [QUEUE, ("callback", 2, ("fail",)), ("die",), ("submit", RETURN)],
    ],
    ids=lambda program: program[-2][0],
)
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
@FORKS
def test_chosen_programs_in_processes(workers: int, program: list[Step]) -> None:
    with Pools() as pools:
        for _ in range(2):
            compare_in_processes(workers, program, pools)
