"""The article that pyconc started from: its listings run, with their import lines changed and nothing else.

Most of them sleep for seconds, so all of them run at the same time.
"""

import contextlib
import os
import re
from pathlib import Path

import pytest
from support import SANITIZED, finish, start_script

README = Path(__file__).resolve().parents[1] / "README.md"
ARTICLE = Path(os.environ.get("PYCONC_ARTICLE") or Path(__file__).resolve().parents[2] / "shared" / "article.md")

# The table of README.md, as a program.
IMPORTS = {
    "import asyncio": "from pyconc import asyncio",
    "from concurrent.futures import": "from pyconc.concurrent.futures import",
    "import concurrent.futures": "from pyconc import concurrent",
}

# The listings were written for Python 3.9.  The only warning that they may cause is theirs: they call
# threading.currentThread().  Every other one is an error.
FLAGS = ("-W", "error", "-W", "ignore:currentThread:DeprecationWarning")
UTF_8 = {"PYTHONIOENCODING": "utf-8"}

MAIN = r"<_MainThread\(MainThread, started \d+\)>"
SECONDS = r"运行时间是: \d+\.\d+"


@pytest.fixture(scope="module")
def listings():
    if not ARTICLE.is_file():
        pytest.skip(f"the article is not here: no {ARTICLE}; PYCONC_ARTICLE names another place")
    listings = re.findall(r"^```python\n(.*?)^```$", ARTICLE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(listings) == 6
    return listings


def with_pyconc(listing):
    """Changes import lines, and no other."""
    changed = []
    for line in listing.splitlines():
        for standard, ours in IMPORTS.items():
            if line.startswith(standard):
                line = ours + line.removeprefix(standard)
        changed.append(line)
    before = listing.splitlines()
    assert all("import" in line for line, new in zip(before, changed, strict=True) if line != new)
    assert changed != before
    return "\n".join(changed) + "\n"


def without_guard(listing):
    return listing.replace('if __name__ == "__main__":', "if True:")


def with_guard(listing):
    """Puts everything after the definitions under a guard."""
    definitions, line, program = listing.partition('print("main thread is')
    assert line
    body = "".join(f"    {text}\n" for text in (line + program).splitlines())
    return f'{definitions}if __name__ == "__main__":\n{body}'


def with_a_shared_list(listing):
    assert "my_list = []" in listing
    return "import pyconc\n" + listing.replace("my_list = []", "my_list = pyconc.shared.List()")


def as_it_is(listing):
    return listing


# By name, which listing each program is, and what becomes of it.
PROGRAMS = {
    "coroutines": (0, as_it_is),
    "threads": (1, as_it_is),
    "asyncio and threads": (2, as_it_is),
    "asyncio and an executor per coroutine": (3, as_it_is),
    "processes": (4, as_it_is),
    "processes without a guard": (4, without_guard),
    "processes and asyncio": (5, as_it_is),
    "processes and asyncio with a guard": (5, with_guard),
    "processes and asyncio with a shared list": (5, with_a_shared_list),
}


@pytest.fixture(scope="module")
def started(request, listings):
    """The programs that were asked for."""
    items = [item for item in request.session.items if item.path == request.path and "output" in item.fixturenames]
    with contextlib.ExitStack() as stack:
        found = {}
        for name in {item.callspec.params["output"]: None for item in items}:
            number, change = PROGRAMS[name]
            program = with_pyconc(change(listings[number]))
            found[name] = stack.enter_context(start_script(program, flags=FLAGS, env=UTF_8))
        yield found


@pytest.fixture
def output(request, started):
    return Output(started[request.param])


def of(*names):
    return pytest.mark.parametrize("output", names, indirect=True)


class Output:
    """What a listing printed.  print() writes a line and its end apart, so those of two threads may get mixed up."""

    def __init__(self, program):
        finished = finish(program)
        assert (finished.returncode, finished.stderr) == (0, ""), finished
        self.text = finished.stdout

    def position(self, pattern):
        match = re.search(pattern, self.text)
        assert match, f"{pattern} in {self.text}"
        return match.start()

    def take(self, pattern, times=1):
        """Removes what matches, which must be there so many times, and returns the last group of the first one."""
        matches = list(re.finditer(pattern, self.text))
        assert len(matches) == times, f"{pattern} {times} times in {self.text}"
        self.text = re.sub(pattern, "\n", self.text)
        return matches[0][matches[0].lastindex or 0]

    def is_empty(self):
        return self.text.strip("\n") == ""


def worker(executor, number=0):
    return rf"<Thread\(ThreadPoolExecutor-{executor}_{number}, started(?: daemon)? \d+\)>"


@pytest.mark.skipif(not README.is_file(), reason="the tests were taken away from the sources")
def test_the_table_of_imports_is_the_readmes():
    readme = README.read_text(encoding="utf-8")
    for standard, ours in IMPORTS.items():
        assert re.search(rf"\| `{standard}[^`]*` +\| .*`{ours}", readme), standard


@of("coroutines")
def test_coroutines(output):
    # One thread, so the order is certain until both sleep.
    order = [f"main thread is {MAIN}", "foo start", f"foo thread is {MAIN}", "bar start", f"bar thread is {MAIN}"]
    assert re.match("\n".join(order) + "\n", output.text)
    for pattern in [*order, "foo finish", "bar finish", SECONDS]:
        output.take(pattern)
    assert output.is_empty()


@of("threads")
def test_threads(output):
    # The main thread does not wait for the others, so their lines may come anywhere among its own.
    mine = [r"start time is [\d.]+", f"main thread {MAIN}", r"init list is \[\]", r"finally list is \[\]", SECONDS]
    positions = [output.position(pattern) for pattern in mine]
    assert positions == sorted(positions)
    for pattern in mine:
        output.take(pattern)
    # The article makes two executors and uses the second.  Exit waits for its threads.
    numbers = set()
    for name in ("foo", "bar"):
        output.take(f"{name} start")
        numbers.add(output.take(f"{name} thread {worker(1, '([01])')}"))
        output.take(rf"{name} end time is [\d.]+")
    assert numbers == {"0", "1"}
    assert output.is_empty()


@of("asyncio and threads")
def test_asyncio_and_threads(output):
    assert re.match(f"main thread is {MAIN}\ninit list is \\[\\]\nfoo start\n", output.text)
    output.take(f"main thread is {MAIN}")
    output.take(r"init list is \[\]")
    for name in ("foo", "bar"):
        assert output.position(f"{name} start") < output.position(f"{name} finish")
        output.take(f"{name} start")
        output.take(f"{name} thread is {MAIN}")
        output.take(f"{name} finish")
    for number in range(2):
        output.take(f"my_func thread is {worker(0, number)}")
    shared = output.take(r"finally list is \[(.*)\]")
    assert sorted(shared.split(", ")) == ["'bar'", "'foo'"]
    output.take(SECONDS)
    assert output.is_empty()


@of("asyncio and an executor per coroutine")
def test_asyncio_and_an_executor_per_coroutine(output):
    assert re.match(f"main thread is {MAIN}\ninit list is \\[\\]\nfoo start\n", output.text)
    output.take(f"main thread is {MAIN}")
    output.take(r"init list is \[\]")
    output.take("foo start", 10)
    output.take(f"foo thread is {MAIN}", 10)
    output.take("foo finish", 10)
    for number in range(10):
        output.take(f"my_func thread is {worker(number)}")
    shared = output.take(r"finally list is \[(.*)\]")
    assert sorted(map(int, shared.split(", "))) == list(range(10))
    output.take(SECONDS)
    assert output.is_empty()


@pytest.mark.skipif(SANITIZED, reason="it computes for long, and little of that is pyconc's")
@of("processes", pytest.param("processes without a guard", marks=pytest.mark.slow))
def test_processes(listings, output):
    numbers = re.findall(r"\b\d{15,}\b", listings[4])
    assert len(numbers) == 6
    assert re.findall(r"(\d+) is prime: (\w+)", output.text) == [(n, str(n != numbers[-1])) for n in numbers]
    for number in set(numbers):
        output.take(f"{number}-None", numbers.count(number))
        output.take(f"{number} is prime: (True|False)", numbers.count(number))
    output.take(r"耗时\d+\.\d+")
    assert output.is_empty()


@of("processes and asyncio", "processes and asyncio with a guard")
def test_processes_and_asyncio(output):
    output.take(f"my_func thread is {MAIN}", 10)
    output.take(f"(main|foo) thread is {MAIN}", 2)
    for line in ("foo start", "foo finish", r"init my list is \[\]", r"finally my list is \[\]"):
        output.take(line)
    results = output.take(r"results: \[(.*)\]")
    assert output.take(r"result list is \[(.*)\]") == results
    assert sorted(map(int, results.split(", "))) == list(range(10))
    output.take(SECONDS)
    assert output.is_empty()


@of("processes and asyncio with a shared list")
def test_processes_and_asyncio_with_a_shared_list(output):
    """What the article wanted of its last listing: the list that processes append to has all items."""
    output.take(r"init my list is \[\]")
    shared = output.take(r"finally my list is \[(.*)\]")
    assert sorted(map(int, shared.split(", "))) == list(range(10))
