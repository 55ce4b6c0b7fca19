"""The benchmarks run and say what they promise to say.  Their figures are nobody's business here."""

import ast
import importlib.util
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from loops import LOOP_FACTORIES
from support import DEBUG_BUILD, HANG_LIMIT, SANITIZED, run_script

import pyconc

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.glob("*.py") if path.stem not in ("harness", "arrays"))
RIVALS = ["pebble", "loky", "mpire"]
# Modules that a benchmark does without, aloud.
OPTIONAL = {
    "coroutines": ["uvloop"],
    "deadlines": ["uvloop", "pebble", "anyio"],
    "processes": ["uvloop", "numpy", *RIVALS],
}
# Rows that speak of a figure of pyconc's own, which may be nothing at all.
WITHOUT_BASELINE = {
    "deadlines": {
        "stopped so late, after 0.3 s",
        "the same by timeout=, with the stack",
        "the same by a kill, with the stack",
        "the next call then, by the same worker",
        "the next call then, if the worker was killed",
    },
    "processes": {
        "held after arrays of 1 MB, 10,000 there and back",
        "idle for 5 s: wakeups in all processes",
        "idle for 5 s: CPU used by all processes",
    },
    "shared": {"a dead process's lock: the next has it after"},
}
# What must be among the rows, so that none is lost on the way.
ROWS = {
    "coroutines": {
        "coroutine workers: one `apply`",
        "coroutine workers: `map`, per task",
        "coroutine workers: one CoroutinePool.run",
        "coroutine workers: CoroutinePool.map, per task",
    },
    "deadlines": {
        *(f"{work}, with {option}=" for work in ("a burst", "asyncio: gather") for option in ("on_cancel", "timeout")),
        *(
            f"1,000 time-outs under load, late{how}: {figure}"
            for how in ("", " by timeout=")
            for figure in ("p50", "p99")
        ),
        *WITHOUT_BASELINE["deadlines"],
    },
    "processes": {
        "submit a burst, take all results",
        "submit().result() one at a time",
        "map of small calls, in chunks of 100",
        "map of small calls, in the best chunks",
        "asyncio: gather of run_in_executor",
        "asyncio: await run_in_executor one at a time",
        *(f"an array of {size} MB as {role}" for size in (1, 10, 100) for role in ("argument", "result")),
        *(
            f"multiprocessing.Pool: {work}"
            for work in ("apply one at a time", "apply_async, take all results", "map in chunks of 1", "imap")
        ),
        *(f"multiprocessing.Pool: an array of 10 MB as {role}" for role in ("argument", "result")),
        "a program's first pool, one result, shut down",
        "a program's next pool, one result, shut down",
        *WITHOUT_BASELINE["processes"],
    },
    "shared": {
        "a lock, taken and released",
        "async with a lock, beside asyncio's",
        "a Value, read",
        *WITHOUT_BASELINE["shared"],
    },
}
CONTESTS = {
    "deadlines": ["stopped so late", "the next call then", "under load, late: p50", "under load, late: p99"],
    "processes": [f"rivals: {work}" for work in ("burst", "round trip", "map in chunks of 100", "map, automatic")],
}
CONTESTANTS = {
    "deadlines": ["pebble", "anyio", "pyconc"],
    "processes": ["concurrent.futures", "multiprocessing", *RIVALS, "pyconc"],
}

each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


@each_script
def test_a_script_says_which_question_it_answers(script):
    docstring = ast.get_docstring(ast.parse(script.read_text()))
    assert docstring.splitlines()[0].endswith("?")


# The standard library's processes take their time.
others = [pytest.mark.slow, pytest.mark.skipif(SANITIZED, reason="each process that starts takes a sanitizer seconds")]


@pytest.mark.parametrize(
    "script",
    [script if script.stem == "threads" else pytest.param(script, marks=others) for script in SCRIPTS],
    ids=lambda path: path.stem,
)
def test_the_report_is_well_formed(script, tmp_path):
    file = tmp_path / "report.json"
    # The floods through the standard library take a debug build half a minute, and rivals take what they take.
    limit = HANG_LIMIT * 4
    finished = run_script(script, "--quick", "--rounds", 2, "--json", file, limit=limit)
    report = json.loads(file.read_text())
    assert report["environment"]["pyconc"] == pyconc.__version__
    assert report["environment"]["cpus"] >= 1
    assert report["environment"]["rounds"] == 2
    assert report["quick"]
    assert not report["control"]
    assert report["rows"]
    without_baseline = WITHOUT_BASELINE.get(script.stem, set())
    for row in report["rows"]:
        assert row["row"] in finished.stdout
        assert row["unit"] in finished.stdout
        assert row["target"]
        assert isinstance(row["reached"], bool)
        if row["row"] in without_baseline:
            assert row["baseline"] is row["ratio"] is None
            assert row["baseline_rounds"] == []
            assert statistics.median(row["candidate_rounds"]) == row["candidate"]
            assert math.isfinite(row["candidate"])
        elif "idle" in row["row"]:
            assert row["baseline"] >= 0  # in so short a time, perhaps not a tick of the clock
            assert row["candidate"] >= 0
        else:
            for way in "baseline", "candidate":
                assert row[way] > 0
            assert len(row["baseline_rounds"]) == len(row["candidate_rounds"]) in (1, 2)
    rows = {row["row"] for row in report["rows"]}
    assert ROWS.get(script.stem, set()) <= rows
    # What is measured on one loop is measured on every loop.
    for name in rows:
        loop, _, work = name.partition(": ")
        if loop in LOOP_FACTORIES:
            assert {f"{loop}: {work}" for loop in LOOP_FACTORIES} <= rows
    importable = [name for name in CONTESTANTS.get(script.stem, []) if importlib.util.find_spec(name)]
    contests = CONTESTS.get(script.stem, []) if len(importable) > 1 else []
    assert [contest["contest"] for contest in report["contests"]] == contests
    assert ("ahead of every rival: " in finished.stdout) == bool(contests)
    for contest in report["contests"]:
        assert contest["contest"] in finished.stdout
        assert list(contest["figures"]) == importable
        assert all(figure > 0 for figure in contest["figures"].values())
        assert {len(rounds) for rounds in contest["rounds"].values()} <= {1, 2}
        assert contest["ratio"] > 0
        assert isinstance(contest["reached"], bool)
    # What cannot be measured here is said to be missing.
    missing = [name for name in OPTIONAL.get(script.stem, ["uvloop"]) if not importlib.util.find_spec(name)]
    assert len(report["skipped"]) == len(missing)
    for name, skipped in zip(missing, report["skipped"], strict=True):
        assert name in skipped
        assert skipped in finished.stdout


def run_threads(*args):
    command = [sys.executable, str(BENCHMARKS / "threads.py"), "--quick", "--rounds", "1", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_LIMIT)


def test_json_on_standard_output_is_nothing_but_json():
    finished = run_threads("--row", "burst", "--json", "-")
    assert [row["row"] for row in json.loads(finished.stdout)["rows"]] == ["submit a burst, take all results"]
    assert "submit a burst" in finished.stderr


def test_check_fails_when_a_row_falls_short():
    # The standard library is not 25 times as fast as itself; but what else the machine does may hold up a round.
    assert run_threads("--control", "--row", "burst").returncode == 0
    finished = run_threads("--control", "--row", "burst", "--check", "--rounds", "5")
    assert finished.returncode == 1
    assert "SHORT" in finished.stdout


def test_rows_are_chosen_by_words_of_their_names():
    finished = run_threads("--row", "burst", "--row", "wait for", "--json", "-")
    assert len(json.loads(finished.stdout)["rows"]) == 2
    finished = run_threads("--row", "no such thing")
    assert finished.returncode == 1
    assert "no row has 'no such thing' in its name" in finished.stderr


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import harness

    yield harness
    del sys.modules["harness"]


def test_goals(harness):
    faster = harness.times_less(5)
    assert faster.ratio(10, 2) == 5
    assert faster.is_reached(10, 2)
    assert not faster.is_reached(10, 2.1)
    close = harness.within(1.5)
    assert close.ratio(2, 3) == 1.5
    assert close.is_reached(2, 3)
    assert not close.is_reached(2, 3.1)
    small = harness.under(350)
    assert small.is_reached(1, 349)
    assert not small.is_reached(1000, 350)
    nothing = harness.at_most(0)
    assert nothing.is_reached(None, 0)
    assert not nothing.is_reached(None, 1)


@pytest.fixture
def way():
    """Makes ways that give one figure after the other; `way.calls` says whose turn it was."""

    def make(name, figures):
        def measure():
            make.calls.append(name)
            return figures.pop(0)

        return measure

    make.calls = []
    return make


def test_a_row_alternates_and_compares_medians(harness, way):
    row = harness.Row("row", "s", way("a", [9, 1, 50, 3]), way("b", [9, 1, 2, 1]), harness.times_less(2))
    row.measure(3, calm=False)
    assert "".join(way.calls) == "ab" + "ab" + "ba" + "ab"
    assert row.figures == (3, 1)
    assert row.ratio == 3
    assert row.reached


def test_a_row_without_a_baseline_speaks_of_the_candidate_alone(harness, way):
    row = harness.Row("row", "s", None, way("b", [0]), harness.at_most(0), warm_up=0, most_rounds=1)
    row.measure(3, calm=False)
    assert row.figures == (None, 0)
    assert row.ratio is None
    assert row.reached
    assert " 0.00 s " in str(row)


def test_a_contest_is_won_against_the_best_of_the_others(harness, way):
    ways = {"a": way("a", [8, 2, 4]), "b": way("b", [9, 9, 9]), "c": way("c", [2, 3, 1])}
    contest = harness.Contest("contest", "s", ways)
    contest.measure(5, calm=False)
    assert "".join(way.calls) == "abc" + "bca" + "cab"
    assert contest.figures == {"a": 4, "b": 9, "c": 2}
    assert contest.ratio == 2
    assert contest.reached
    contest.all_rounds["b"] = [1, 1, 1]
    assert not contest.reached


@pytest.mark.skipif(SANITIZED, reason="a sanitizer's allocations are padded")
@pytest.mark.skipif(DEBUG_BUILD, reason="a debug build's allocations are padded")
def test_a_pending_future_holds_less_than_350_bytes():
    finished = run_script(BENCHMARKS / "threads.py", "--growth", "pyconc", 50_000)
    assert 100 < float(finished.stdout) < 350
