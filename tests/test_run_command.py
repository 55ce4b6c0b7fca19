"""`python -m pyconc run` runs a program as `python` does, on pyconc's executors."""

import os
import py_compile
import signal
import subprocess
import sys
import textwrap
import zipfile

import pytest
from support import SANITIZED, await_line, chessboard, finish, start_script, wait_until_asleep

import pyconc
from pyconc import __main__

# Of the C, programs here run what those of other files run; a sanitizer takes each of them a second to start.
pytestmark = pytest.mark.skipif(SANITIZED, reason="how a program is found and started is Python's part alone")

RUN = ("-m", "pyconc", "run")
LIMIT = 120  # seconds; only a hang takes so long


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to write programs to, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def python(*arguments, **options):
    command = [sys.executable, *map(str, arguments)]
    if "input" not in options:
        options["stdin"] = subprocess.DEVNULL
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, **options)


def assert_same(*arguments, flags=(), **options):
    """Runs a program with plain `python` and with ours, wants all that can be seen to be equal, and returns it."""
    plain = python(*flags, *arguments, **options)
    ours = python(*flags, *RUN, *arguments, **options)
    assert ours.stdout == plain.stdout
    assert ours.stderr == plain.stderr
    assert ours.returncode == plain.returncode
    return ours


SHOW = """
    import os, sys
    import __main__
    print("argv", sys.argv)
    print("path", sys.path)
    print("name", __name__, "file", __file__, "doc", __doc__, "package", repr(__package__))
    print("main", __main__.__dict__ is globals(), sys.modules["__main__"] is __main__)
    print("spec", __spec__ and __spec__.name, "loader", type(__loader__).__name__, "builtins", type(__builtins__))
    print("more", sorted(set(globals()) - {"__annotations__", "__cached__", "__conditional_annotations__"}))
"""


@pytest.fixture
def show(folder):
    return write(folder / "inner" / "show.py", '"""Shows itself."""' + textwrap.dedent(SHOW))


# --- What a program sees of itself ----------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["one", "two"], ["-m", "x", "-h", "--", "run", "--version", ""]])
def test_a_script(show, arguments):
    assert "argv" in assert_same("inner/show.py" if arguments else show, *arguments).stdout


def test_a_script_that_is_a_link(show, folder):
    (folder / "link.py").symlink_to(show)
    assert f"path ['{show.parent}'" in assert_same("link.py").stdout


def test_a_compiled_script(show, folder):
    compiled = py_compile.compile(str(show), cfile=str(folder / "compiled.pyc"), dfile="show.py")
    assert_same(compiled, "x")


@pytest.mark.parametrize("arguments", [[], ["one", "-m", "-h"]])
def test_a_module(show, folder, arguments):
    write(folder / "package" / "__init__.py", "print('package')")
    (folder / "package" / "module.py").write_text(show.read_text())
    assert_same("-m", "package.module", *arguments)


def test_a_package(show, folder):
    write(folder / "package" / "__init__.py", "")
    (folder / "package" / "__main__.py").write_text(show.read_text())
    assert_same("-m", "package", "x")


SHOW_WITHOUT_FILE = textwrap.dedent(SHOW).replace("__file__", "globals().get('__file__')")


@chessboard("flags, arguments", [[], ["-I"]], [[], ["one", "-c", "-m", "-h", "-"]])
def test_a_command(folder, flags, arguments):
    words = ["-c", SHOW_WITHOUT_FILE] if arguments else ["-c" + SHOW_WITHOUT_FILE]
    assert "argv ['-c'" in assert_same(*words, *arguments, flags=flags).stdout


@chessboard("flags, arguments", [[], ["-I"]], [[], ["one", "-c", "-m", "-h", "-"]])
def test_standard_input(folder, flags, arguments):
    program = SHOW_WITHOUT_FILE + "print('rest', sys.stdin.read())\n"
    assert "argv ['-'" in assert_same("-", *arguments, flags=flags, input=program).stdout


def test_a_command_finds_modules_where_it_is(folder):
    write(folder / "elsewhere" / "helper.py", "print('the right one')")
    program = "import os; os.chdir('elsewhere'); import helper"
    assert assert_same("-c", program).stdout == assert_same("-", input=program).stdout == "the right one\n"


@pytest.mark.parametrize("program", ["  x = 1\n  print(x)\n", "\n    if 1:\n        print('''\n        x\n''')\n\n"])
def test_an_indented_command(folder, program):
    assert_same("-c", program)


def test_standard_input_that_is_a_terminal(folder):
    ours, theirs = os.openpty()
    with os.fdopen(ours, "w") as terminal:
        with os.fdopen(theirs) as stdin:
            options = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
            started = subprocess.Popen([sys.executable, *RUN, "-", "x"], **options)
        terminal.write("import sys\nprint(sys.argv, 6 * 7)\nexit()\n")
        terminal.flush()
        output, _ = started.communicate(timeout=LIMIT)
    assert "['-', 'x'] 42" in output


def test_no_standard_input(folder):
    for flags in ((), RUN):
        subprocess.run(["sh", "-c", '"$0" "$@" <&-', sys.executable, *flags, "-"], check=True, timeout=LIMIT)


def test_a_folder(show, folder):
    (folder / "program").mkdir()
    (folder / "program" / "__main__.py").write_text(show.read_text())
    assert_same("program", "x")


def test_a_zip_file(show, folder):
    with zipfile.ZipFile(folder / "program.pyz", "w") as file:
        file.write(show, "__main__.py")
    assert_same("program.pyz", "x")


@pytest.mark.parametrize("flags", [["-I"], ["-E", "-s", "-X", "dev"], ["-W", "error", "-O"], ["-P"]])
def test_options_of_the_interpreter(show, flags):
    if flags == ["-P"] and sys.version_info < (3, 11):
        pytest.skip("-P came with Python 3.11")
    assert_same("inner/show.py", flags=flags)


def test_the_scripts_folder_comes_first(folder):
    write(folder / "inner" / "helper.py", "print('the right one')")
    write(folder / "helper.py", "print('the wrong one')")
    write(folder / "inner" / "script.py", "import helper")
    assert assert_same("inner/script.py").stdout == "the right one\n"


# --- How a program ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("pass", 0),
        pytest.param("sys.exit()", 0, marks=pytest.mark.slow),
        ("sys.exit(3)", 3),
        ("sys.exit('a last word')", 1),
        pytest.param("raise SystemExit(4)", 4, marks=pytest.mark.slow),
        ("os._exit(5)", 5),
        pytest.param("1 / 0", 1, marks=pytest.mark.slow),
        ("def f():\n    raise LookupError('lost')\nf()", 1),
        ("try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise LookupError('lost') from error", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("os.kill(os.getpid(), 15)", -signal.SIGTERM),
        pytest.param("import nonsense", 1, marks=pytest.mark.slow),
        ("import pyconc_test_broken", 1),
        ("exec('(')", 1),
        ("sys.excepthook = lambda *x: print(x[0], x[1].__traceback__ is x[2])\n1 / 0", 1),
        ("import atexit; atexit.register(print, 'at exit')\n1 / 0", 1),
        ("del sys.modules['__main__']", 0),
        ("import threading; threading.Thread(target=lambda: 1 / 0, name='x').start()", 0),
    ],
)
def test_endings(folder, end, code):
    write(folder / "pyconc_test_broken.py", "1 +")
    (folder / "script.py").write_text(f"import os, sys\n{end}\n")
    assert assert_same("script.py").returncode == code


@pytest.mark.parametrize(
    ("end", "code", "frames"),
    [
        ("sys.exit(3)", 3, 0),
        ("def f():\n    raise LookupError('lost')\nf()", 1, 2),
        ("raise KeyboardInterrupt", -signal.SIGINT, 1),
    ],
)
def test_endings_of_a_module(folder, end, code, frames):
    (folder / "script.py").write_text(f"import os, sys\n{end}\n")
    plain, ours = python("-m", "script"), python(*RUN, "-m", "script")
    assert ours.stdout == plain.stdout
    assert ours.returncode == plain.returncode == code
    # `python -m` shows frames of runpy; ours shows the rest, and nothing of its own.
    shown = plain.stderr.splitlines()
    assert [line for line in ours.stderr.splitlines() if line not in shown] == []
    assert ours.stderr.count("  File ") == ours.stderr.count('script.py", line ') == frames


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("import sys; sys.exit(3)", marks=pytest.mark.slow),
        pytest.param("def f():\n    raise LookupError('lost')\nf()\n", marks=pytest.mark.slow),
        "def f(n):\n    exec('1 / n')\nf(0)\n",
        "raise KeyboardInterrupt",
        "import os; os.kill(os.getpid(), 15)",
        "1 +",
        pytest.param("x = '", marks=pytest.mark.slow),
        "",
    ],
)
def test_endings_of_a_command_and_of_standard_input(folder, program):
    if (3, 13) <= sys.version_info < (3, 13, 1):  # which shows the lines of a command by a way of its own
        assert python("-c", program).returncode == python(*RUN, "-c", program).returncode
    else:
        assert_same("-c", program)
    assert_same("-", input=program)


@pytest.mark.parametrize("text", ["1 +", "x = '", "# coding: nonsense", "\tx\n y"])
def test_a_script_that_cannot_be_compiled(folder, text):
    (folder / "script.py").write_text(text)
    ours, plain = python(*RUN, "script.py"), python("script.py")
    assert ours.returncode == plain.returncode == 1
    # Where the interpreter reads the file itself it words one or the other error differently.
    assert ours.stderr.splitlines()[-1].partition(":")[0] == plain.stderr.splitlines()[-1].partition(":")[0]
    assert "Traceback" not in ours.stderr


def test_ctrl_c(folder):
    script = write(
        folder / "script.py",
        """
        import threading
        print("ready", flush=True)
        threading.Event().wait()
        """,
    )
    for flags in ((), RUN):
        with start_script(script, flags=flags) as process:
            await_line(process, process.stdout, "ready")
            wait_until_asleep(process)
            process.send_signal(signal.SIGINT)
            finished = finish(process)
        assert finished.returncode == -signal.SIGINT
        first, second, *_, last = finished.stderr.splitlines()
        assert first == "Traceback (most recent call last):"
        assert f'{folder}/script.py"' in second
        assert last == "KeyboardInterrupt"


def test_an_exit_code_survives_threads_that_still_work(folder):
    write(
        folder / "script.py",
        """
        import concurrent.futures, sys, threading
        gate = threading.Event()
        executor = concurrent.futures.ThreadPoolExecutor(1)
        executor.submit(gate.wait)
        executor.submit(print, "done")
        threading._register_atexit(gate.set)  # runs before the executor's own
        sys.exit(7)
        """,
    )
    finished = assert_same("script.py")
    assert finished.stdout == "done\n"
    assert finished.returncode == 7


# --- The interpreter's own options --------------------------------------------------------------------------------


SHOW_FLAGS = """
import sys
print(sys.argv, sys.flags, sys.warnoptions, sorted(sys._xoptions.items()))
if __debug__:
    print("assertions")
"""


@pytest.mark.parametrize(
    "options",
    [["-O"], ["-OBW", "error", "-Xdev", "-X", "a=b", "-u"], ["-bOOWignore::ImportWarning", "-E"]],
    ids=" ".join,
)
def test_options_of_the_interpreter_may_follow(folder, options):
    write(folder / "script.py", SHOW_FLAGS)
    assert_same_options(*options, "script.py", "-O", "-X")


def test_such_options_before_each_kind_of_program(folder):
    write(folder / "script.py", SHOW_FLAGS)
    assert_same_options("-Om", "script", "-W")
    assert_same_options("-O", "-", "-m", input=SHOW_FLAGS)
    assert_same_options("-Oc" + SHOW_FLAGS, "-c", flags=("-B",))


def assert_same_options(*arguments, **options):
    assert "sys.flags(" in assert_same(*arguments, **options).stdout


def test_options_of_the_interpreter_and_of_run(folder):
    write(folder / "script.py", "import multiprocessing.dummy as d; print(type(d.Pool(1)).__module__, __debug__)")
    finished = python(*RUN, "-B", "--no-multiprocessing", "-O", "script.py")
    assert finished.stdout == "multiprocessing.pool False\n"


def test_an_option_without_its_value(folder):
    finished = python(*RUN, "-O", "-W")
    assert finished.returncode == 2
    assert finished.stderr.endswith("error: argument expected for the -W option\n")


def test_an_interpreter_that_is_no_longer_there(folder):
    program = "import sys; from pyconc import __main__; sys.executable += '.gone'; __main__.main()"
    finished = python("-c", program, "run", "-O", "x")
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1
    assert "with -O: [Errno 2] No such file or directory" in finished.stderr


# --- What a program runs on -----------------------------------------------------------------------------------------


def test_its_threads_are_pyconcs(folder):
    write(
        folder / "script.py",
        """
        from concurrent.futures import ThreadPoolExecutor
        import asyncio, pyconc

        async def main():
            await asyncio.to_thread(int)
            return type(asyncio.get_running_loop()._default_executor)

        print(ThreadPoolExecutor is pyconc.ThreadPoolExecutor, asyncio.run(main()) is pyconc.ThreadPoolExecutor)
        """,
    )
    for arguments in (["script.py"], ["-m", "script"]):
        finished = python("-W", "error", *RUN, *arguments)
        assert finished.stdout == "True True\n", finished.stderr


def test_its_processes_are_pyconcs(folder):
    write(
        folder / "script.py",
        """
        from concurrent.futures import ProcessPoolExecutor
        from concurrent.futures.process import ProcessPoolExecutor as standard
        import pyconc

        if __name__ == "__main__":
            with ProcessPoolExecutor(1) as one, standard(1) as other:
                print(type(one) is type(other) is pyconc.ProcessPoolExecutor is ProcessPoolExecutor)
        """,
    )
    text = (folder / "script.py").read_text()
    for arguments in (["script.py"], ["-m", "script"], ["-c", text], ["-"]):
        finished = python("-W", "error", *RUN, *arguments, input=text)
        assert finished.stdout == "True\n", finished.stderr


def test_its_pools_are_pyconcs_unless_it_says_not(folder):
    write(
        folder / "script.py",
        """
        import multiprocessing

        if __name__ == "__main__":
            with multiprocessing.Pool(1) as pool:
                print(type(pool).__module__, pool.map(abs, [-1]))
        """,
    )
    assert python(*RUN, "script.py").stdout == "pyconc.multiprocessing.pool [1]\n"
    assert python(*RUN, "--no-multiprocessing", "script.py").stdout == "multiprocessing.pool [1]\n"


def test_processes_are_not_loaded_for_a_program_without(folder):
    write(
        folder / "script.py",
        """
        import concurrent.futures, sys
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            executor.submit(int).result()
        print("multiprocessing" in sys.modules)
        """,
    )
    assert assert_same("script.py").stdout == "False\n"


@pytest.mark.parametrize("method", [None, "fork", "spawn"])  # a fork server's workers look for it as spawned ones do
def test_processes_find_what_the_script_defines(folder, method):
    write(
        folder / "script.py",
        f"""
        import concurrent.futures, multiprocessing

        def double(x):
            return 2 * x

        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            executor = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
            futures = [executor.submit(double, i) for i in range(100)]
            futures[-1].add_done_callback(lambda future: print(future.result()))
            # The rest is pickled and run after the last line.
        """,
    )
    finished = python("-W", "ignore", *RUN, "script.py")
    assert (finished.stdout, finished.stderr) == ("198\n", "")


def test_a_program_may_replace_its_threads(folder):
    write(
        folder / "script.py",
        """
        import concurrent.futures, pyconc
        pyconc.uninstall()
        print(concurrent.futures.ThreadPoolExecutor.__module__)
        """,
    )
    assert python(*RUN, "script.py").stdout == "concurrent.futures.thread\n"


def test_the_program_cannot_tell_from_the_hook(folder):
    write(folder / "script.py", "import sys; print(sys.excepthook is sys.__excepthook__)")
    assert assert_same("script.py").stdout == "True\n"


def test_interactive_mode(folder):
    write(folder / "script.py", "x = 6\n1 / 0\n")
    commands = "print(x * 7); import sys; print(type(sys.last_value).__name__)\n"
    finished = subprocess.run(
        [sys.executable, "-i", *RUN, "script.py"], input=commands, capture_output=True, text=True, timeout=LIMIT
    )
    assert finished.stdout == "42\nZeroDivisionError\n"


# --- The command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["-h"], ["run", "-h"], ["run", "--help"]])
def test_help(folder, arguments):
    finished = python("-m", "pyconc", *arguments)
    assert finished.returncode == 0
    assert finished.stdout.startswith("usage: python -m pyconc")
    assert "run" in finished.stdout
    assert finished.stderr == ""


def test_version(folder):
    assert python("-m", "pyconc", "--version").stdout == f"pyconc {pyconc.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["run"], ["run", "-m"], ["run", "-c"], ["run", "--nonsense", "script.py"]]
)
def test_wrong_usage(folder, arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pyconc", *arguments])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert told.startswith("usage: python -m pyconc")
    assert "error:" in told


def test_wrong_usage_is_told_without_a_traceback(folder):
    finished = python(*RUN, "--nonsense", "script.py")
    assert finished.returncode == 2
    assert finished.stderr.startswith("usage: python -m pyconc")
    assert "Traceback" not in finished.stderr


def test_a_missing_script(folder):
    finished = python(*RUN, "missing.py")
    assert finished.returncode == 2
    assert finished.stderr == f"python -m pyconc: can't open file '{folder}/missing.py': No such file or directory\n"


def test_a_missing_script_that_is_meant_to_be_a_module_or_a_command(folder, monkeypatch):
    hint = "(there is a module of that name: python -m pyconc run -m this)\n"
    assert python(*RUN, "this").stderr.endswith(hint)
    command = write(folder / "bin" / "a-command", "#!/usr/bin/env python3\n")
    command.chmod(0o755)
    write(folder / "bin" / "no-python", "#!/bin/sh\n").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))
    hint = f"(there is a command of that name: python -m pyconc run {command})\n"
    assert python(*RUN, "a-command").stderr.endswith(hint)
    assert python(*RUN, "no-python").stderr.endswith("No such file or directory\n")


def test_a_script_that_may_not_be_read(folder):
    write(folder / "script.py", "").chmod(0)
    if os.access("script.py", os.R_OK):
        pytest.skip("this user may read everything")
    finished = python(*RUN, "script.py")
    assert finished.returncode == 2
    assert finished.stderr.endswith("Permission denied\n")


def test_a_missing_module(folder):
    finished = assert_same("-m", "missing_module")
    assert finished.returncode == 1
    assert finished.stderr.endswith("No module named missing_module\n")


def test_a_folder_without_a_main(folder):
    (folder / "empty").mkdir()
    finished = assert_same("empty")
    assert finished.returncode == 1
    assert "can't find '__main__' module in" in finished.stderr
