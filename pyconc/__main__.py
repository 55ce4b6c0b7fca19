"""The command line.

python -m pyconc run script.py [argument ...]       or -m module, -c command, - in its place; -O, -W and -X before it
python -m pyconc run --trace FILE script.py         and write a timeline of what its executors do
python -m pyconc enable                             PYCONC=1 in the environment does the same for every program
python -m pyconc disable                            takes that back
python -m pyconc dump PID [--json] [--stacks]       what a program's executors do
python -m pyconc bench [group ...] [--rivals]       a comparison with the standard library, and with others
python -m pyconc top [PID]                          the same, in a terminal, each second anew
"""

from __future__ import annotations

import argparse
import builtins
import functools
import linecache
import os
import pkgutil
import runpy
import shutil
import sys
import textwrap
from importlib import import_module
from importlib.machinery import BuiltinImporter, PathFinder, SourceFileLoader, SourcelessFileLoader
from types import ModuleType

import pyconc

TYPE_CHECKING = False  # typing takes longer to import than this package
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, NoReturn

__all__: list[str] = []

_PROG = "python -m pyconc"

# The interpreter's own options that `run` hands on: those that stand alone, and those with a value.
_FLAGS = frozenset("bBdEiIOPqRsSuv")
_FLAGS_WITH_VALUE = frozenset("WX")


def _split_interpreter_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Take the interpreter's options out of the arguments of `run`; they stand before the program, as for `python`.

    Raises ValueError for one that lacks its value.
    """
    options: list[str] = []
    rest: list[str] = []
    ahead = list(arguments)
    while ahead:
        word = ahead.pop(0)
        if word in ("--no-multiprocessing", "--trace") or word.startswith("--trace="):  # ours
            rest.append(word)
            if word == "--trace" and ahead:
                rest.append(ahead.pop(0))
            continue
        letters = word[1:] if word[:1] == "-" and word[1:2] != "-" else ""
        flags = ""
        while letters and letters[0] in _FLAGS:  # one word may hold several: -OB, -Om
            flags, letters = flags + letters[0], letters[1:]
        if flags:
            options.append(f"-{flags}")
        if letters and letters[0] in _FLAGS_WITH_VALUE:
            if letters[1:]:
                options.append(f"-{letters}")
            elif ahead:
                options += [f"-{letters}", ahead.pop(0)]
            else:
                raise ValueError(f"argument expected for the -{letters} option")
        elif letters[:1] in ("c", "m"):  # argparse would look for options behind an attached value
            attached = [letters[1:]] if letters[1:] else []
            return options, [*rest, f"-{letters[0]}", *attached, *ahead]
        elif letters or not flags:
            return options, [*rest, f"-{letters}" if flags else word, *ahead]
    return options, rest


def _start_again(options: list[str], arguments: list[str]) -> NoReturn:
    """Let this process begin once more, as an interpreter with these options more, which only hold from its start."""
    own = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]  # up to "-m pyconc"
    try:
        os.execv(sys.executable, [sys.executable, *options, *own, "run", *arguments])
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{_PROG}: cannot start {sys.executable!r} with {' '.join(options)}: {error}\n")
        sys.exit(2)


def _hint(path: str) -> str:
    """Return what a script that is not there may have been meant to be: a module, or a command."""
    if os.sep in path:
        return ""
    if not path.endswith(".py") and "." not in path and PathFinder.find_spec(path) is not None:
        return f" (there is a module of that name: {_PROG} run -m {path})"
    command = shutil.which(path)
    if command is None or not _is_python_script(command):
        return ""
    return f" (there is a command of that name: {_PROG} run {command})"


def _is_python_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            first_line = file.readline(1000)
    except OSError:
        return False
    return first_line.startswith(b"#!") and b"python" in first_line


def _run_module(name: str, arguments: list[str]) -> None:
    """Do as `python -m name arguments...` does."""
    _new_main()
    sys.argv[:] = [name, *arguments]
    runpy._run_module_as_main(name)  # type: ignore[attr-defined]


def _run_path(path: str, arguments: list[str]) -> None:
    """Do as `python path arguments...` does, for a script and for a folder or zip file with a __main__.py."""
    main = _new_main()
    sys.argv[:] = [path, *arguments]
    in_front = _path_begins_with_a_folder()
    name = os.path.abspath(path)
    if pkgutil.get_importer(name) is not None:
        sys.path[: int(in_front)] = [name]
        runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
        return
    if in_front:
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    make_loader = SourcelessFileLoader if path.endswith(".pyc") else SourceFileLoader
    loader = make_loader("__main__", name)
    main.__dict__.update(__file__=name, __loader__=loader)
    try:
        data = loader.get_data(name)
    except OSError as error:
        sys.stderr.write(f"{_PROG}: can't open file {name!r}: {error.strerror}{_hint(path)}\n")
        sys.exit(2)
    if isinstance(loader, SourcelessFileLoader):
        code = loader.get_code("__main__")
    else:
        code = compile(data, name, "exec", dont_inherit=True)
    exec(code, main.__dict__)  # type: ignore[arg-type]


def _run_command(command: str, arguments: list[str]) -> None:
    """Do as `python -c command arguments...` does."""
    main = _new_main_without_file("-c", arguments)
    if sys.version_info >= (3, 14):
        command = textwrap.dedent(command)
    code = compile(command, "<string>", "exec", dont_inherit=True)
    if hasattr(linecache, "_register_code"):  # tracebacks show its lines
        linecache._register_code(code, command, "<string>")
    exec(code, main.__dict__)


def _run_stdin(name: str, arguments: list[str]) -> None:
    """Do as `python - arguments...` does."""
    main = _new_main_without_file(name, arguments)
    if sys.stdin is not None and sys.stdin.isatty():
        import_module("code").interact(local=main.__dict__)
        return
    main.__dict__.update(__file__="<stdin>", __cached__=None)
    data = sys.stdin.buffer.read() if sys.stdin is not None else b""
    exec(compile(data, "<stdin>", "exec", dont_inherit=True), main.__dict__)


def _new_main_without_file(name: str, arguments: list[str]) -> ModuleType:
    main = _new_main()
    main.__dict__["__loader__"] = BuiltinImporter
    sys.argv[:] = [name, *arguments]
    if _path_begins_with_a_folder():
        sys.path[0] = ""
    return main


def _path_begins_with_a_folder() -> bool:
    """Tell whether sys.path[0] is the folder of the program, so far the current one."""
    return not (sys.flags.isolated or getattr(sys.flags, "safe_path", False))


def _new_main() -> ModuleType:
    """Make an empty `__main__`.

    runpy's public functions would put the old one back after the program's last line, but its threads may go on and
    pickle objects of `__main__`.
    """
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    return main


def _show_from_program_on(
    show: Callable[[type[BaseException], BaseException, TracebackType | None], Any],
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
) -> None:
    """Call an excepthook with a traceback that begins in the program, after this module's frames and runpy's."""
    ours = {code.co_filename for code in (main.__code__, runpy.run_module.__code__)}
    while traceback is not None and traceback.tb_frame.f_code.co_filename in ours:
        traceback = traceback.tb_next
    show(kind, error.with_traceback(traceback), traceback)


def _read_pid(text: str) -> int:
    pid = int(text)
    if pid <= 0:
        raise ValueError
    return pid


_read_pid.__name__ = "PID"  # "invalid PID value"


def main() -> None:
    parser = argparse.ArgumentParser(_PROG, description="Native executors for asyncio and concurrent.futures.")
    parser.add_argument("--version", action="version", version=f"pyconc {pyconc.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    run = commands.add_parser(
        "run",
        usage=f"{_PROG} run [-h] [--no-multiprocessing] [--trace FILE] [-O] [-W arg] [-X opt]\n"
        "       [other options of python] (script | - | -m module | -c command) [argument ...]",
        help="run a program with pyconc's executors in place of the standard ones",
        description="Run a program as `python` does, after pyconc.install(): wherever it, or a library that it uses, "
        "asks for concurrent.futures.ThreadPoolExecutor or ProcessPoolExecutor, for a loop's default executor, or for "
        "multiprocessing.Pool, it gets pyconc's.",
    )
    run.add_argument("--no-multiprocessing", action="store_true", help="leave multiprocessing.Pool alone")
    run.add_argument("--trace", metavar="FILE", help="write a timeline of what executors do, to look at in Perfetto")
    run.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help="a module to run, and its arguments")
    run.add_argument("-c", dest="program", nargs=argparse.REMAINDER, help="a program text, and its arguments")
    run.add_argument(
        "script", nargs=argparse.REMAINDER, help="a script to run, or - for standard input, and its arguments"
    )
    commands.add_parser(
        "enable",
        help="let PYCONC=1 in the environment do what `run` does",
        description="Write a .pth file into site-packages.  From then on each program that this interpreter starts "
        "with PYCONC=1 in its environment runs on pyconc's executors, as with `run`; PYCONC=no-multiprocessing leaves "
        "multiprocessing.Pool alone.",
    )
    commands.add_parser("disable", help="take `enable` back", description="Remove what `enable` has written.")
    dump = commands.add_parser(
        "dump",
        help="show what the executors of a program do",
        description="Show what the executors of a running program do, and their workers, from outside: the program "
        "is not disturbed.",
    )
    dump.add_argument("pid", type=_read_pid, metavar="PID", help="the program's process")
    dump.add_argument("--json", action="store_true", help="print it as JSON")
    dump.add_argument("--stacks", action="store_true", help="ask the workers by a signal where they are, too")
    top = commands.add_parser(
        "top",
        help="watch what the executors of a program do",
        description="Show in a terminal what `dump` shows, and look again each second. Keys: arrows select a worker, "
        "s asks it by a signal where it is, q leaves.",
    )
    top.add_argument(
        "pid", type=_read_pid, metavar="PID", nargs="?", help="the program's process, if there are several"
    )
    commands.add_parser("bench", help="compare with the standard library, and with others", add_help=False)
    arguments = sys.argv[1:]
    if arguments[:1] == ["bench"]:
        from pyconc._bench import command

        sys.exit(command.main(arguments[1:]))
    if arguments[:1] == ["run"]:
        try:
            interpreter_options, arguments[1:] = _split_interpreter_options(arguments[1:])
        except ValueError as error:
            run.error(str(error))
        if interpreter_options:
            _start_again(interpreter_options, arguments[1:])
    options = parser.parse_args(arguments)
    if options.command in ("enable", "disable"):
        from pyconc import _startup

        sys.exit(_startup.enable() if options.command == "enable" else _startup.disable())
    if options.command == "top":
        from pyconc import _top

        sys.exit(_top.main(options.pid))
    if options.command == "dump":
        from pyconc import _dump

        sys.exit(_dump.main(options.pid, as_json=options.json, stacks=options.stacks))
    target = [*(options.module or options.program or []), *options.script]
    if not target:
        run.error("a script, -, -m module or -c command is required")
    start: Callable[[str, list[str]], None]
    if options.module:
        start = _run_module
    elif options.program:
        start = _run_command
    else:
        start = _run_stdin if target[0] == "-" else _run_path

    pyconc.uninstall()  # PYCONC in the environment may have asked for something else
    if options.trace is not None:
        try:
            pyconc.trace(options.trace).start()  # its end is the program's
        except OSError as error:
            run.error(f"can't write {options.trace!r}: {error.strerror}")
    pyconc.install(multiprocessing=not options.no_multiprocessing)
    try:
        start(target[0], target[1:])
    except SystemExit:
        raise
    except BaseException:
        # Set only now, so that the program never sees a hook that is not its own.
        sys.excepthook = functools.partial(_show_from_program_on, sys.excepthook)
        raise


if __name__ == "__main__":
    main()
