"""`python -m pyconc run`: a program as `python` runs it, with pyconc's executors in place of the standard ones."""

from __future__ import annotations

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

from pyconc import patching

TYPE_CHECKING = False  # typing takes longer to import than this package
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, NoReturn

__all__ = ["run", "split_interpreter_options", "start_again"]

_PROG = "python -m pyconc"

# The interpreter's own options that `run` hands on: those that stand alone, and those with a value.
_FLAGS = frozenset("bBdEiIOPqRsSuv")
_FLAGS_WITH_VALUE = frozenset("WX")


def split_interpreter_options(arguments: list[str]) -> tuple[list[str], list[str]]:
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


def start_again(options: list[str], arguments: list[str]) -> NoReturn:
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
    ours: set[str],
    show: Callable[[type[BaseException], BaseException, TracebackType | None], Any],
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
) -> None:
    """Call an excepthook with a traceback that begins in the program, after the frames of those files."""
    while traceback is not None and traceback.tb_frame.f_code.co_filename in ours:
        traceback = traceback.tb_next
    show(kind, error.with_traceback(traceback), traceback)


def run(kind: str, target: str, arguments: list[str], *, multiprocessing: bool) -> None:
    """Run a "module", a "command", or a "script", which "-" says is to be read, after install()."""
    start: Callable[[str, list[str]], None]
    if kind == "module":
        start = _run_module
    elif kind == "command":
        start = _run_command
    else:
        start = _run_stdin if target == "-" else _run_path
    patching.install(multiprocessing=multiprocessing)
    try:
        start(target, arguments)
    except SystemExit:
        raise
    except BaseException:
        # Set only now, so that the program never sees a hook that is not its own.
        ours = {code.co_filename for code in (sys._getframe(1).f_code, run.__code__, runpy.run_module.__code__)}
        sys.excepthook = functools.partial(_show_from_program_on, ours, sys.excepthook)
        raise
