"""What an interpreter executes as it starts with PYCONC in its environment: install() waits until it changes something.

`python -m pyconc enable` writes the text of this file into a .pth file (pyconc._startup says why there), so it stands
alone: who imported it from pyconc would import the whole package, and modules of the standard library with it, into
each interpreter and each child that multiprocessing starts, which takes longer than many of them live.  All that
install() changes is in the two modules below; when the first of them has been executed, install() is called, before its
import ends; who imports the other one at the same instant, in another thread, may see the standard one for that long.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_VALUE = os.environ["PYCONC"]  # now, as for all that an interpreter takes from its environment
_MODULES = ("concurrent.futures", "multiprocessing.pool")


class _Finder:
    """The first finder of sys.meta_path until one of the modules is loaded."""

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        for finder in list(sys.meta_path) if name in _MODULES else ():
            spec: Any = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader:
    """A module's loader, which goes on to install() from the module's last line."""

    def __init__(self, loader: "Any") -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._loader, name)

    def exec_module(self, module: "Any") -> None:
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        # As the import does next, and too late for pyconc, which goes by way of the package; nor need another thread
        # that imports pyconc wait for this one: the two would wait for each other.
        package, _, name = module.__name__.rpartition(".")
        setattr(sys.modules[package], name, module)
        module.__spec__._initializing = False
        try:
            if package == "concurrent":
                _start()
            else:
                import concurrent.futures  # noqa: F401 - starts it; one road, so that no two threads import pyconc
        except RuntimeError as error:
            # Another thread began to wait for this module before it was executed.  Who comes second is told so.
            if type(error).__name__ != "_DeadlockError":
                raise
            if package == "concurrent":  # the other one imports pyconc: afterwards it can be started
                import _thread

                _thread.start_new_thread(_start, ())


def _start() -> None:
    try:
        from pyconc import _startup
    except ImportError as error:
        # A sub-interpreter with a GIL of its own, as of an InterpreterPoolExecutor, never has it.
        if sys.stderr is not None and "subinterpreters" not in str(error):
            print("PYCONC is set, but this interpreter has no pyconc that it can load:", error, file=sys.stderr)
    else:
        _startup.start(_VALUE)
    # Not before: until now another thread may come to the other module, and waits there for this one.
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder) is not _Finder]


if any(name in sys.modules for name in _MODULES):  # by another .pth file
    _start()
elif all(type(finder).__module__ != __name__ for finder in sys.meta_path):  # a virtual environment reads the file twice
    sys.meta_path.insert(0, _Finder())
