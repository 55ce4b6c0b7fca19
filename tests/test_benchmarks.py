"""`python -m pyconc bench` runs and says what it promises to say.  Its figures are nobody's business here."""

import ast
import importlib.util
import json
import math
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from loops import LOOP_FACTORIES
from support import DEBUG_BUILD, HANG_LIMIT, SANITIZED, run_script, wait_until

import pyconc
from pyconc._bench import command, harness, table
from pyconc._bench.programs import meter

FOLDER = Path(harness.__file__).parent
FIRST_PAGE = Path(__file__).resolve().parents[1] / "docs/index.md"
GROUPS = [*command.GROUPS, *command.MORE_GROUPS]
RIVALS = ["pebble", "loky", "mpire", "joblib", "anyio"]
# Modules that a group does without, aloud.
OPTIONAL = {
    "coroutines": ["aiomultiprocess"],
    "data": ["numpy"],
    "deadlines": ["pebble", "anyio"],
    "processes": ["numpy", *RIVALS],
    "threads": ["aiofiles", "pebble", "joblib", "anyio"],
    "workloads": ["aiofiles", "uvicorn", "PIL", "black", "pebble", "loky", "mpire"],
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
    "data": {
        *(f"an array of {size} MB as {role}" for size in (1, 10, 100) for role in ("argument", "result")),
        *(f"multiprocessing.Pool: an array of 10 MB as {role}" for role in ("argument", "result")),
    },
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
        *(
            f"multiprocessing.Pool: {work}"
            for work in ("apply one at a time", "apply_async, take all results", "map in chunks of 1", "imap")
        ),
        "a program's first pool, one result, shut down",
        "a program's next pool, one result, shut down",
        *WITHOUT_BASELINE["processes"],
    },
    "shared": {
        "a lock, taken and released",
        "the same without with: acquire(), release()",
        "async with a lock, beside asyncio's",
        "a Value, read",
        "a key of a Manager's dict, set",
        "an item of a Queue, from process to process",
        *WITHOUT_BASELINE["shared"],
    },
    "workloads": {
        *(
            f"1,000 calls a second in {kind}, {figure}"
            for kind in ("threads", "processes")
            for figure in ("p50", "p99", "CPU")
        ),
        *(f"a server with blocking endpoints{figure}" for figure in ("", ", p99", ", CPU")),
        "sqlite through to_thread",
        "a crawl in threads",
        "a crawl in threads, CPU",
    },
}
CONTESTS = {
    "deadlines": ["stopped so late", "the next call then", "under load, late: p50", "under load, late: p99"],
    "processes": [f"rivals: {work}" for work in ("burst", "round trip", "map in chunks of 100", "map, automatic")],
    "threads": [f"rivals: {work}" for work in ("burst", "round trip", "map, automatic")],
    "workloads": [f"1,000 calls a second in {kind}, p50" for kind in ("threads", "processes")],
}
CONTESTANTS = {
    "deadlines": ["pebble", "anyio", "pyconc"],
    "processes": ["concurrent.futures", "multiprocessing", *RIVALS, "pyconc"],
    "threads": ["concurrent.futures", "multiprocessing", *RIVALS, "pyconc"],
    "workloads": ["concurrent.futures", "multiprocessing", "pebble", "loky", "mpire", "pyconc"],
}


def bench(*arguments, limit=HANG_LIMIT):
    command = [sys.executable, "-m", "pyconc", "bench", *map(str, arguments)]
    # Elsewhere, as the sources may be here, and pyconc installed from them.
    return subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd="/")


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_says_which_question_it_answers(group):
    docstring = ast.get_docstring(ast.parse((FOLDER / f"{group}.py").read_text()))
    assert docstring.splitlines()[0].endswith("?")


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="each process that starts takes a sanitizer seconds")
@pytest.mark.parametrize("group", GROUPS)
def test_the_report_is_well_formed(group, tmp_path):
    file = tmp_path / "report.json"
    # The floods through the standard library take a debug build half a minute, and rivals take what they take.
    rounds = 1 if group == "workloads" else 2  # whole programs, each in processes of their own
    options = ("--quick", "--rounds", rounds, "--idle-seconds", 1, "--rivals", "--json", file)
    finished = bench(group, *options, limit=HANG_LIMIT * 4)
    if group == "coroutines" and not importlib.util.find_spec("aiomultiprocess"):
        assert "left out: coroutines beside aiomultiprocess" in finished.stderr
        assert finished.returncode == 1
        return
    if group == "joblib" and not importlib.util.find_spec("joblib"):
        assert "left out: joblib's backends: joblib is not installed" in finished.stderr
        assert finished.returncode == 1
        return
    if group == "cluster" and not importlib.util.find_spec("distributed"):
        assert "left out: a cluster: distributed is not installed" in finished.stderr
        assert finished.returncode == 1
        return
    assert finished.returncode == 0, finished.stderr
    report = json.loads(file.read_text())
    assert report["environment"]["pyconc"] == pyconc.__version__
    assert report["environment"]["cpus"] >= 1
    assert [(each["group"], each["rounds"]) for each in report["groups"]] == [(group, rounds)]
    assert report["quick"]
    assert not report["control"]
    assert report["rows"]
    without_baseline = WITHOUT_BASELINE.get(group, set())
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
    assert ROWS.get(group, set()) <= rows
    # What is measured on one loop is measured on every loop.
    for name in rows:
        loop, _, work = name.partition(": ")
        if loop in LOOP_FACTORIES:
            assert {f"{loop}: {work}" for loop in LOOP_FACTORIES} <= rows
    importable = [name for name in CONTESTANTS.get(group, []) if importlib.util.find_spec(name)]
    contests = CONTESTS.get(group, []) if len(importable) > 1 else []
    assert [contest["contest"] for contest in report["contests"]] == contests
    assert ("ahead of every rival: " in finished.stdout) == bool(contests)
    for contest in report["contests"]:
        assert contest["contest"] in finished.stdout
        assert set(contest["figures"]) <= set(importable)
        assert list(contest["figures"])[-1] == "pyconc"
        assert len(contest["figures"]) > 1
        assert all(figure > 0 for figure in contest["figures"].values())
        assert {len(rounds) for rounds in contest["rounds"].values()} <= {1, 2}
        assert contest["ratio"] > 0
        assert isinstance(contest["reached"], bool)
    # What cannot be measured here is said to be missing.
    missing = [name for name in ["uvloop", *OPTIONAL.get(group, [])] if not importlib.util.find_spec(name)]
    for name in missing:
        assert any(name in skipped for skipped in report["skipped"])
    for skipped in report["skipped"]:
        assert skipped in finished.stdout


def bench_threads(*arguments):
    return bench("threads", "--quick", "--rounds", 1, "--row", "burst", *arguments)


def test_json_on_standard_output_is_nothing_but_json():
    finished = bench_threads("--row", "wait for", "--json", "-")
    report = json.loads(finished.stdout)
    assert [row["row"] for row in report["rows"]] == ["submit a burst, take all results", "wait for many"]
    assert "\n[2/2] threads: wait for many" in finished.stderr
    assert "\nthreads: How much cheaper" in finished.stderr


def test_check_fails_when_a_row_falls_short():
    """The standard library is not 25 times as fast as itself; but what else the machine does may hold up a round."""
    finished = bench_threads("--control", "--check", "--rounds", "5")
    assert finished.returncode == 1
    assert "SHORT" in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "there is no group 'nonsense'; there are threads, processes"),
        (["--json", "/no/such/folder/file"], "there is no folder '/no/such/folder'"),
        (["--plot", "chart.gif"], "'chart.gif' does not end in .svg or .png"),
        (["--html", "/proc"], "'/proc' cannot be written"),
        (["--rounds", "0"], "it must be at least 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(arguments, words, capsys):
    try:
        status = command.main(arguments)
    except SystemExit as exit:
        status = exit.code
    assert status in (1, 2)
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_without_matplotlib_there_is_a_sentence_and_no_chart(capsys, monkeypatch):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        command.main(["threads", "--plot", "/tmp/chart.svg"])
    assert "--plot and --html need matplotlib: pip install 'pyconc[plot]'" in capsys.readouterr().err


@pytest.mark.skipif(DEBUG_BUILD, reason="matplotlib is built for release builds")
def test_charts_and_the_page_are_for_light_and_dark(tmp_path):
    if importlib.util.find_spec("matplotlib") is None:  # an import would leave numpy's threads behind
        pytest.skip("without matplotlib")
    finished = bench_threads("--html", tmp_path / "page.html", "--plot", tmp_path / "chart.png")
    assert finished.returncode == 0, finished.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "chart.png", "chart-dark.png"}
    light, dark = ((tmp_path / f"chart{which}.png").read_bytes() for which in ("", "-dark"))
    assert light != dark
    assert light.startswith(b"\x89PNG")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "prefers-color-scheme: dark" in page
    assert "<td>submit a burst, take all results</td>" in page


REPORT = {
    "environment": {"pyconc": "1"},
    "control": False,
    "quick": True,
    "groups": [{"group": "threads", "question": "Why?", "baseline": "standard", "rounds": 3}],
    "rows": [
        {
            "group": "threads",
            "row": "a <row>",
            "unit": "s",
            "baseline": 12.0,
            "candidate": 3.0,
            "ratio": 4.0,
            "target": "5x",
            "reached": False,
            "baseline_rounds": [12.0, 11.0, 14.0],
            "candidate_rounds": [3.0, 3.0, 1234.5],
        }
    ],
    "contests": [],
    "skipped": ["a thing"],
    "all_rounds": 3,
    "disturbed_rounds": 1,
}


def test_a_table_shows_medians_and_what_they_lie_between():
    lines = table.text(REPORT, targets=True).splitlines()
    (row,) = [line for line in lines if "<row>" in line]
    assert re.split("  +", row)[:4] == ["a <row>", "12.00 (11.00 to 14.00)", "3.00 (3.00 to 1234)", "s"]
    assert re.split("  +", row)[4:] == ["4x", "5x", "SHORT"]
    assert "left out: a thing" in lines
    assert lines[-1].endswith("1 of 3")
    assert table.number(None) == "-"


@pytest.fixture
def group(monkeypatch):
    """Makes these rows all that there is in the group "threads"; to import that one is to import other libraries."""

    def make(*rows):
        group = ModuleType("threads", "How much?")
        group.ROUNDS = 1
        group.facts = dict
        group.make_rows = lambda _options: rows
        group.make_contests = lambda _options: []
        monkeypatch.setitem(sys.modules, "pyconc._bench.threads", group)

    return make


def test_ctrl_c_shows_what_was_measured(capsys, group, way):
    def interrupted():
        raise KeyboardInterrupt

    rows = [("first", way("b", [1, 1])), ("second", interrupted), ("third", way("b", []))]
    group(*[harness.Row(name, "s", None, candidate, harness.under(5)) for name, candidate in rows])
    with pytest.raises(KeyboardInterrupt):
        command.main(["threads"])
    output = capsys.readouterr().out
    assert "first" in output
    assert "second" not in output
    assert "third" not in output


def test_a_program_that_fails_costs_its_own_row(capsys, group, way, monkeypatch):
    monkeypatch.setattr(harness, "SKIPPED", [])

    def failing():
        return harness.in_a_fresh_process("-c", "raise SystemExit(3)")

    rows = [("first", failing), ("second", way("b", [1, 1]))]
    group(*[harness.Row(name, "s", None, candidate, harness.under(5)) for name, candidate in rows])
    assert command.main(["threads"]) == 1
    output = capsys.readouterr().out
    assert re.search(r"^second +- +1\.00", output, re.MULTILINE)
    assert "left out: first: its program ended with status 3" in output


def test_words_that_no_row_has_are_told(capsys, group, way):
    group(harness.Row("first", "s", None, way("b", []), harness.under(5)))
    assert command.main(["threads", "--row", "no such thing"]) == 1
    assert "no row has 'no such thing' in its name" in capsys.readouterr().err


def test_a_report_is_shown_and_chosen_from_without_measuring(capsys, tmp_path):
    other = REPORT["rows"][0] | {"group": "data", "row": "another"}
    report = REPORT | {"groups": [*REPORT["groups"], REPORT["groups"][0] | {"group": "data"}]}
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report | {"rows": [*report["rows"], other]}))

    def shown(*arguments):
        status = command.main([*arguments, "--from", str(path), "--json", "-"])
        text = capsys.readouterr().out
        return status, [row["row"] for row in json.loads(text)["rows"]] if text else []

    assert shown() == (0, ["a <row>", "another"])
    assert shown("data") == (0, ["another"])
    assert shown("--row", "<row>") == (0, ["a <row>"])
    assert shown("--check") == (1, ["a <row>", "another"])
    assert shown("--row", "no such thing") == (1, [])


@pytest.mark.parametrize(
    ("text", "words"), [(None, "cannot be read"), ("[]", "is not what"), ("{", "is not what"), ("{}", "is not what")]
)
def test_what_is_no_report_is_told(text, words, capsys, tmp_path):
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit):
        command.main(["--from", str(path), "--json", str(tmp_path / "copy.json")])
    assert words in capsys.readouterr().err
    assert not (tmp_path / "copy.json").exists()


@pytest.mark.skipif(not FIRST_PAGE.is_file(), reason="the tests were taken away from the sources")
def test_the_first_pages_chart_is_drawn_from_figures_that_are_there(capsys):
    text = FIRST_PAGE.read_text()
    pictures = re.findall(r'(?:src|srcset)="([^"]+)"', text)
    assert [path.rpartition("/")[2] for path in pictures] == ["bench-dark.svg", "bench.svg"]
    for path in pictures:
        assert (FIRST_PAGE.parent / path).read_text().startswith("<?xml")
    assert command.main(["--from", str(FIRST_PAGE.parent / "_static/bench.json")]) == 0
    assert "QUICK" not in capsys.readouterr().out


def test_goals():
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


def test_a_row_alternates_and_compares_medians(way):
    row = harness.Row("row", "s", way("a", [9, 1, 50, 3]), way("b", [9, 1, 2, 1]), harness.times_less(2))
    row.measure(3, calm=False)
    assert "".join(way.calls) == "ab" + "ab" + "ba" + "ab"
    assert row.figures == (3, 1)
    assert row.ratio == 3
    assert row.reached


def test_rows_that_look_at_one_measurement_ask_for_it_once(way):
    measure = way("m", [{"p50": 1, "p99": 2}, {"p50": 3, "p99": 4}, {"p50": 5, "p99": 6}])
    ways = harness.together(measure, ("p50", "p99"))
    assert [ways["p50"](), ways["p50"](), ways["p99"](), ways["p99"]()] == [1, 3, 2, 4]
    assert ways["p99"]() == 6  # asked for alone
    assert way.calls == ["m"] * 3


@pytest.mark.parametrize("path", sorted((FOLDER / "programs").glob("*.py")), ids=lambda path: path.stem)
def test_a_program_of_the_workloads_knows_nothing_of_pyconc(path):
    imported = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    names = {getattr(node, "module", None) or alias.name for node in imported for alias in node.names}
    assert not {name for name in names if name.partition(".")[0] == "pyconc"}


def test_the_processor_time_of_a_program_has_that_of_its_workers():
    """A worker computes for ever; of its parent's own time there is hardly any."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as worker:
        try:
            before = meter.cpu_seconds() - time.process_time()
            wait_until(lambda: meter.cpu_seconds() - time.process_time() > before + 0.01, "the worker's time")
        finally:
            worker.kill()


def test_a_row_without_a_baseline_speaks_of_the_candidate_alone(way):
    row = harness.Row("row", "s", None, way("b", [0]), harness.at_most(0), warm_up=0, most_rounds=1)
    row.measure(3, calm=False)
    assert row.figures == (None, 0)
    assert row.ratio is None
    assert row.reached


def test_a_contest_is_won_against_the_best_of_the_others(way):
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
    finished = run_script(FOLDER / "threads.py", "pyconc", 50_000)
    assert 100 < float(finished.stdout) < 350
