"""The article that pyconc started from: its listings run, with their import lines changed and nothing else."""

import os
import re
from pathlib import Path

import pytest
from support import run_script

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


class Output:
    """What a listing printed.  print() writes a line and its end apart, so those of two threads may get mixed up."""

    def __init__(self, listing):
        finished = run_script(with_pyconc(listing), flags=FLAGS, env=UTF_8)
        assert finished.stderr == ""
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


def test_the_table_of_imports_is_the_readmes():
    readme = Path(__file__).resolve().parents[1].joinpath("README.md").read_text(encoding="utf-8")
    for standard, ours in IMPORTS.items():
        assert re.search(rf"\| `{standard}[^`]*` +\| .*`{ours}", readme), standard


def test_coroutines(listings):
    output = Output(listings[0])
    # One thread, so the order is certain until both sleep.
    order = [f"main thread is {MAIN}", "foo start", f"foo thread is {MAIN}", "bar start", f"bar thread is {MAIN}"]
    assert re.match("\n".join(order) + "\n", output.text)
    for pattern in [*order, "foo finish", "bar finish", SECONDS]:
        output.take(pattern)
    assert output.is_empty()


def test_threads(listings):
    output = Output(listings[1])
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


def test_asyncio_and_threads(listings):
    output = Output(listings[2])
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


def test_asyncio_and_an_executor_per_coroutine(listings):
    output = Output(listings[3])
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


def without_guard(listing):
    return listing.replace('if __name__ == "__main__":', "if True:")


def with_guard(listing):
    """Puts everything after the definitions under a guard."""
    definitions, line, program = listing.partition('print("main thread is')
    assert line
    body = "".join(f"    {text}\n" for text in (line + program).splitlines())
    return f'{definitions}if __name__ == "__main__":\n{body}'


as_it_is = pytest.param(lambda listing: listing, id="as it is")


@pytest.mark.parametrize("guard", [as_it_is, pytest.param(without_guard, id="without a guard")])
def test_processes(listings, guard):
    output = Output(guard(listings[4]))
    numbers = re.findall(r"\b\d{15,}\b", listings[4])
    assert len(numbers) == 6
    assert re.findall(r"(\d+) is prime: (\w+)", output.text) == [(n, str(n != numbers[-1])) for n in numbers]
    for number in set(numbers):
        output.take(f"{number}-None", numbers.count(number))
        output.take(f"{number} is prime: (True|False)", numbers.count(number))
    output.take(r"耗时\d+\.\d+")
    assert output.is_empty()


@pytest.mark.parametrize("guard", [as_it_is, pytest.param(with_guard, id="with a guard")])
def test_processes_and_asyncio(listings, guard):
    output = Output(guard(listings[5]))
    output.take(f"my_func thread is {MAIN}", 10)
    output.take(f"(main|foo) thread is {MAIN}", 2)
    for line in ("foo start", "foo finish", r"init my list is \[\]", r"finally my list is \[\]"):
        output.take(line)
    results = output.take(r"results: \[(.*)\]")
    assert output.take(r"result list is \[(.*)\]") == results
    assert sorted(map(int, results.split(", "))) == list(range(10))
    output.take(SECONDS)
    assert output.is_empty()


def test_processes_and_asyncio_with_a_shared_list(listings):
    """What the article wanted of its last listing: the list that processes append to has all items."""
    assert "my_list = []" in listings[5]
    output = Output("import pyconc\n" + listings[5].replace("my_list = []", "my_list = pyconc.shared.List()"))
    output.take(r"init my list is \[\]")
    shared = output.take(r"finally my list is \[(.*)\]")
    assert sorted(map(int, shared.split(", "))) == list(range(10))
