"""The README and the pages of docs/: their programs run and print what they say, their commands and links are there.

The blocks of a page that are Python are one program: a later one may use what an earlier one defines.  A block after
`<!-- needs PACKAGE -->` is a recipe, a program of its own that needs an optional package.  What a program prints stands
beside, as `print(...)  # what it prints`, with `...` for what is not always the same.
"""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import HANG_LIMIT, run_script

ROOT = Path(__file__).resolve().parents[1]
PAGE_FILES = [*ROOT.glob("README.md"), *ROOT.glob("docs/**/*.md")]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in PAGE_FILES}
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.skipif(not PAGES, reason="the tests were taken away from the sources")


def programs_of(text):
    """The program of a page, or None, and its recipes, each with the package that it needs."""
    blocks = re.findall(r"^(?:<!-- needs (\w+) -->\n)?```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    program = "\n".join(block for package, block in blocks if not package)
    return program or None, [(package, block) for package, block in blocks if package]


PROGRAMS = {page: programs_of(text)[0] for page, text in PAGES.items() if programs_of(text)[0]}
RECIPES = {(page, package): block for page, text in PAGES.items() for package, block in programs_of(text)[1]}
COMMANDS = {command for text in PAGES.values() for command in re.findall(r"^\$ (.+)$", text, re.MULTILINE)}

# Every program is a process of its own, that finds pyconc imported, in a folder of its own.
RUN = """
    import asyncio
    import gc
    import json
    import os
    import sys
    import warnings
    from types import ModuleType

    import pyconc
    # What most programs use is imported once, and not in each process.
    from pyconc import coroutine_pool, multiprocessing, process_pool, shared, thread_pool

    def run(path):
        main = sys.modules["__main__"] = ModuleType("__main__")
        main.__file__ = os.path.abspath(path)
        sys.argv[:] = [path]
        with open(path) as file:
            exec(compile(file.read(), main.__file__, "exec"), main.__dict__)

    if __name__ == "__main__":
        ends = []
        gc.freeze()
        with open(sys.argv[1]) as file:
            texts = json.load(file)
        for text, is_recipe in texts:
            os.mkdir(str(len(ends)))
            os.chdir(str(len(ends)))
            with open("program.py", "w") as file:
                file.write(text)
            with open("stdout", "w+") as stdout, open("stderr", "w+") as stderr:
                pid = os.fork()
                if pid == 0:
                    os.dup2(stdout.fileno(), 1)
                    os.dup2(stderr.fileno(), 2)
                    if is_recipe:
                        warnings.simplefilter("default")  # other packages have theirs
                    run("program.py")
                    sys.exit()
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                ends.append((status, *[(file.seek(0), file.read())[1] for file in (stdout, stderr)]))
            os.chdir("..")
        print(json.dumps(ends))
"""


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory):
    """How the programs and recipes that were asked for end, by their text."""
    items = [item for item in request.session.items if "outcomes" in getattr(item, "fixturenames", ())]
    wanted = {item.callspec.params["text"]: item.callspec.params.get("package") for item in items}
    texts = [text for text, package in wanted.items() if not package or importlib.util.find_spec(package)]
    path = tmp_path_factory.mktemp("pages") / "programs.json"
    path.write_text(json.dumps([(text, wanted[text] is not None) for text in texts]))
    finished = run_script(RUN, path, flags=("-W", "error"), limit=8 * HANG_LIMIT)
    return dict(zip(texts, json.loads(finished.stdout)))


def announced(text):
    """The lines that a program says it prints, as patterns."""
    lines = re.findall(r"^ *print\(.*\)  # (.+)$", text, re.MULTILINE)
    return [re.escape(line).replace(r"\.\.\.", ".*") for line in lines]


def check_end(text, end):
    status, stdout, stderr = end
    assert (status, "Traceback" in stderr) == (0, False), stderr
    lines = iter(stdout.splitlines())
    for pattern in announced(text):
        assert any(re.fullmatch(pattern, line) for line in lines), f"{pattern} in its turn in {stdout}"


@pytest.mark.parametrize("text", PROGRAMS.values(), ids=PROGRAMS)
def test_a_pages_program_prints_what_it_says(text, outcomes):
    check_end(text, outcomes[text])
    assert outcomes[text][2] == ""


@pytest.mark.parametrize(
    ("package", "text"), [(key[1], text) for key, text in RECIPES.items()], ids=map("-".join, RECIPES)
)
def test_a_recipe_prints_what_it_says(package, text, outcomes):
    if text not in outcomes:  # not imported to see that: what it starts would be left behind
        pytest.skip(f"{package} is not installed")
    check_end(text, outcomes[text])


@pytest.mark.parametrize("text", [*PROGRAMS.values(), *RECIPES.values()], ids=[*PROGRAMS, *map("-".join, RECIPES)])
def test_a_program_says_what_it_prints(text):
    assert announced(text)


def test_what_a_program_does_not_print_is_noticed():
    end = (0, "1\n2\n", "")
    check_end("print(1)  # 1\nprint(2)  # ...\n", end)
    with pytest.raises(AssertionError):
        check_end("print(2)  # 2\nprint(1)  # 1\n", end)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_kind_that_is_tested(page):
    """Drawings and what Sphinx expands apart."""
    text = PAGES[page]
    kinds = {block.partition("\n")[0].removeprefix("```") for block in FENCED.findall(text)}
    assert {kind.split()[0] if kind else "none" for kind in kinds} <= {
        "python", "console", "text", "{toctree}", "{eval-rst}", "{essay}"
    }  # fmt: skip
    assert "```" not in FENCED.sub("", text), "a block begins in the middle of a line"
    for block in FENCED.findall(text):
        if block.startswith("```console\n"):
            assert all(line.startswith("$ ") for line in block.splitlines()[1:-1])


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_is_understood(command, tmp_path):
    words = command.split()
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[0] == "pip":
        extras = re.fullmatch(r"pip install \.(?:\[(\w+)\])?", command)
        assert not extras[1] or re.search(rf"^{extras[1]} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    else:
        for name in ("script.py", "module.py"):
            (tmp_path / name).write_text("print('a program')\n")
        assert "python -m pyconc" in command
        # What looks at a program needs one, and a terminal: tests of their own have them.
        command = re.sub(r"PID", "--help", command) if re.search(r"pyconc (dump|top)\b", command) else command
        command = command + " --help" if command.endswith("top") else command
        command = re.sub(r"\bpython\b(?= -m)", sys.executable, command)
        finished = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert (finished.returncode, finished.stderr) == (0, "")
        assert finished.stdout
        assert all(word in finished.stdout for word in words if word in ("--json", "--stacks"))


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_a_link_leads_somewhere(page):
    text = FENCED.sub("", PAGES.get(page) or (ROOT / page).read_text())
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text)
    assert [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()] == []
