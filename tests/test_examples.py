"""The examples run anywhere, say what they did, and are ordinary programs but for their imports."""

import functools
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import DEBUG_BUILD, ELSEWHERE, HANG_LIMIT, SANITIZED, await_line, run_script, start_script, wait_until

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the tests were taken away from the sources")
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "demo")

STANDARD = {
    "from pyconc import asyncio": "import asyncio",
    "from pyconc.concurrent.futures import": "from concurrent.futures import",
    "from pyconc.aiomultiprocess import": "from aiomultiprocess import",
}


LIMIT = 4 * HANG_LIMIT  # A crawl has three processes beside its own, and a sanitizer may slow them all.
NEEDS = {"cluster": "distributed", "crawl": "aiohttp", "many_files": "aiofiles"}
# Less of what takes long and shows nothing more; `make demo` runs them as they are.
SMALLER = {
    "blocking_beside_coroutines": {"200_000": "20_000"},
    "crawl": {
        "PAGES = 1000\n": "PAGES = 100\n",
        "range(200)": "range(20)",
        "* 100)": "* 10)",
        'importlib.util.find_spec("aiomultiprocess")': "False",
    },
    "primes": {"LIMIT = 20_000\n": "LIMIT = 2_000\n", "primes == 2262\n": "primes == 303\n"},
}
# The standard library has nothing like what they show.
OURS_ALONE = ["cluster", "deadlines", "watch"]


def needs(name):
    if name == "crawl" and DEBUG_BUILD:
        pytest.skip("multidict, which aiohttp needs, crashes in debug builds")
    # Not imported to see that: what it starts would be left behind.
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")


def program(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    for whole, part in SMALLER.get(name, {}).items():
        assert whole in text
        text = text.replace(whole, part)
    return text


@functools.cache
def run_example(name):
    return run_script(program(name), flags=("-W", "error"), limit=LIMIT)


def test_there_are_examples():
    assert len(NAMES) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_and_says_what_it_did(name):
    needs(name)
    finished = run_example(name)
    assert re.search(r"\d m?s\b", finished.stdout), "it says how long it took"
    assert finished.stderr == ""


@pytest.mark.skipif(SANITIZED, reason="nothing of pyconc runs here")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in OURS_ALONE])
def test_an_example_is_an_ordinary_program_but_for_its_imports(name):
    needs(name)
    if name == "crawl" and sys.version_info >= (3, 14):
        pytest.skip("aiomultiprocess uses what Python 3.14 deprecates")
    text = program(name)
    for ours, standard in STANDARD.items():
        text = re.sub(f"^{ours}", standard, text, flags=re.MULTILINE)
    assert not re.search(r"^(import|from) pyconc", text, re.MULTILINE)
    finished = run_script(text, flags=("-W", "error"), limit=LIMIT)
    assert finished.stderr == ""


def test_work_that_never_ends_is_stopped_and_shown():
    stdout = run_example("deadlines").stdout
    told = dict(re.findall(r"^(\w+) .*: after [\d.]+ s, TaskTimeout, it(?:s worker)? was (\w+)$", stdout, re.MULTILINE))
    assert sorted(told) == ["Catches", "Computes", "Loops", "Matches", "Sleeps"]
    assert told["Catches"] == told["Computes"] == "killed"
    assert "Answers in time: " in stdout
    # On a machine that is busy a worker may answer too late for its stack to be known.
    shown = re.findall(r'^    File ".*", line \d+ in (\w+)$', stdout, re.MULTILINE)
    assert set(shown) <= {"search", "match", "prefixmatch", "spin", "sleep", "add_up", "cling"}
    assert len(shown) == sum(line.startswith(" ") for line in stdout.splitlines())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="programs are seen in /proc")
def test_the_busy_program_is_seen_from_outside():
    text = program("watch")
    # On a busy machine computing takes a round's time, and what waits for a moment is hardly ever seen: one stays.
    for whole, part in {
        "        while True:\n": "        web.submit(fetch, 50)\n        while True:\n",
        "asyncio.sleep(": "asyncio.sleep(3600 if number == 50 else ",
    }.items():
        assert text.count(whole) == 1
        text = text.replace(whole, part)
    with start_script(text, 2 * LIMIT) as busy:
        await_line(busy, busy.stdout, f"process {busy.pid} is busy")

        command = [sys.executable, "-m", "pyconc", "dump", str(busy.pid), "--stacks"]
        awaited = {"render (processes)", "web (coroutines)", "fetch", " in resize", "disk (threads)"}

        def has_shown_all():
            text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ELSEWHERE).stdout
            awaited.difference_update([word for word in awaited if word in text])
            return not awaited

        wait_until(has_shown_all, "all that the program does", LIMIT)


def test_the_examples_can_be_imported():
    """Also those that need a library that is not there: they say so when they are run."""
    names = [name for name in NAMES if not (name == "crawl" and DEBUG_BUILD)]  # see needs()
    finished = run_script(f"import {', '.join(names)}", env={"PYTHONPATH": str(EXAMPLES)})
    assert (finished.stdout, finished.stderr) == ("", "")


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="it shows no more than the examples do, and takes a sanitizer minutes")
@pytest.mark.skipif(DEBUG_BUILD, reason="it runs the crawl, whose multidict crashes in debug builds")
def test_the_demo_runs_them_all_and_ends_with_a_table():
    finished = run_script(EXAMPLES / "demo.py", "--quick", limit=2 * LIMIT)
    assert all(re.match(r"\[\d+/\d+\] (threads|processes|workloads): ", line) for line in finished.stderr.splitlines())
    for name in NAMES:
        assert f"{name}.py" in finished.stdout
    for group in ("threads", "processes", "workloads"):
        table = finished.stdout.partition(f"\n{group}: ")[2].partition("\n\n")[0].splitlines()[2:]
        assert table[0].split()[-4:] == ["standard", "pyconc", "unit", "less"]
        assert len(table) >= 6
