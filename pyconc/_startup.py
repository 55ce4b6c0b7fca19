"""PYCONC=1 in the environment: pyconc in each interpreter that a command starts, without a word in the command.

`python -m pyconc enable` writes a .pth file into site-packages, which the interpreter reads whenever it starts, before
anything else of the program.  Its one line looks for PYCONC in the environment, and imports nothing if that is not
there, empty or 0.  Otherwise it executes the text of _startup_hook.py, which calls start() below as soon as the program
imports a module that install() changes.

The line is all that is left when pyconc is uninstalled, or cannot be loaded by this interpreter.  So it catches that
itself: a sentence goes to stderr then, and the program runs on the standard library.  An interpreter that is started
with -S or -I -S reads no .pth file.

From Python 3.15 on such lines are deprecated (PEP 829), which only `python -v` mentions; 3.18 is going to ignore them.
The .start files that take their place cannot look at the environment without importing a module, and `pkgutil` and
`importlib.util` for it, in each interpreter: so there is none before it is needed.  None may stand beside the .pth
file, either, for then the line is ignored from 3.15 on.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing takes longer to import than this package
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["VARIABLE", "disable", "enable", "start"]

VARIABLE = "PYCONC"
_WITHOUT_POOLS = "no-multiprocessing"

_started = False  # only ever becomes true, once install() has returned; read without a lock, as that has its own

_FILE = "pyconc.pth"
# The interpreter executes it as one line.
_TEXT = """\
# Written by `python -m pyconc enable`, removed by `python -m pyconc disable`.
import os; os.environ.get("{variable}", "0") in ("", "0") or exec({hook!r}, {{"__name__": "{file}"}})
"""


def start(value: str) -> None:
    """Do what the variable asked for when the interpreter started; once, however often and by whom it is called."""
    global _started
    if _started:
        return
    if value in ("1", _WITHOUT_POOLS):
        from pyconc import patching

        patching.install(multiprocessing=value != _WITHOUT_POOLS)
    elif sys.stderr is not None:
        print(f"{VARIABLE} can be 1, 0 or {_WITHOUT_POOLS}, and not {value!r}: ignored", file=sys.stderr)
    _started = True


def _site_folders() -> Iterator[str]:
    """Yield the folders that the file may be in: the environment's own, and the user's if the interpreter reads it."""
    import site
    import sysconfig

    yield sysconfig.get_path("purelib")
    if site.ENABLE_USER_SITE:
        yield site.getusersitepackages()


def enable() -> int:
    """Write the file beside pyconc if that is installed for the user alone, or else into the environment."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment, *user = _site_folders()
    path = os.path.join(home if home in user else environment, _FILE)
    try:
        text = _text()
        if _read(path) != text:
            _write(path, text)
    except OSError as error:
        return _fail("enable", path, error)
    print(f"{path} is there: with {VARIABLE}=1 in its environment, {sys.executable} runs programs on pyconc.")
    return 0


def _text() -> str:
    from importlib.resources import files

    hook = files("pyconc").joinpath("_startup_hook.py").read_text(encoding="utf-8")
    return _TEXT.format(variable=VARIABLE, hook=hook, file=_FILE)


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return None


def _write(path: str, text: str) -> None:
    """Write the whole file in one step, as other interpreters may start meanwhile."""
    scratch = f"{path}.{os.getpid()}"  # not read by them, because of its name
    try:
        with open(scratch, "w") as file:
            file.write(text)
        os.replace(scratch, path)
    except BaseException:
        if os.path.exists(scratch):
            os.unlink(scratch)
        raise


def disable() -> int:
    """Remove the file from wherever enable() may have written it."""
    removed = []
    for folder in _site_folders():
        path = os.path.join(folder, _FILE)
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            return _fail("disable", path, error)
        removed.append(path)
    if removed:
        print(f"{' and '.join(removed)} removed: {VARIABLE} in the environment does nothing from now on.")
    else:
        print(f"There is nothing to remove: {VARIABLE} in the environment does nothing for {sys.executable}.")
    return 0


def _fail(command: str, path: str, error: OSError) -> int:
    change = "written" if command == "enable" else "removed"
    print(f"python -m pyconc {command}: {path} cannot be {change}: {error.strerror}", file=sys.stderr)
    return 1
