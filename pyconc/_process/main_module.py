"""The program's `__main__`: whether a fresh interpreter may run it again, and what of it that interpreter has.

A script may be run a second time, as multiprocessing's spawn does, if it keeps its main part behind a guard:

    if __name__ == "__main__":
        main()

Then its settings hold in the workers, and what it defines is found there by name.  One without a guard is never run
twice; what it defines travels to such workers by value.
"""

import sys
import weakref
from types import FunctionType

from pyconc._process import pickling

__all__ = ["MainOfFork", "MainOfInterpreter", "always", "begin_worker", "fingerprints", "is_guarded"]


def definitions():
    """Return the functions and classes in `__main__`, by name: what pickles refer to there."""
    main = vars(sys.modules["__main__"]) if "__main__" in sys.modules else {}
    return {name: value for name, value in main.items() if isinstance(value, (type, FunctionType))}


def fingerprints():
    """Return, by name, what tells a definition in `__main__` from another one of that name in another process."""
    return {name: _fingerprint(value) for name, value in definitions().items()}


def _fingerprint(value):
    if isinstance(value, type):
        return "class", value.__qualname__, getattr(value, "__firstlineno__", None)
    return "function", value.__qualname__, value.__code__.co_filename, value.__code__.co_firstlineno


class MainOfFork:
    """Whether something that mentions `__main__` must travel by value to the clones of a process forked just now.

    Called with a definition, or with something else and its pickle by name.
    """

    def __init__(self):
        # Weak, as functions lead to the program's globals, and these to the executor.
        self._then = {name: weakref.ref(value) for name, value in definitions().items()}

    def __call__(self, value, stream=b""):
        now = definitions()
        name = getattr(value, "__qualname__", "").partition(".")[0]
        if getattr(value, "__module__", None) == "__main__" and name in now:
            return not self._has(name, now[name])
        return any(not self._has(name, found) and _mentions(stream, name) for name, found in now.items())

    def _has(self, name, value):
        then = self._then.get(name)
        return then is not None and then() is value


class MainOfInterpreter(MainOfFork):
    """The same for a fresh interpreter that has run the script up to its guard, and reported its fingerprints."""

    def __init__(self, prints):
        self._then = prints

    def _has(self, name, value):
        return self._then.get(name) == _fingerprint(value)


def _mentions(stream, name):
    """Whether a pickle has this name or one within what it names; where it cannot tell, it has."""
    raw = name.encode()
    # As a short string of protocol 4; in a dotted name; in a line of an inner pickle of protocol 0 to 3.
    forms = (b"\x8c%c%b" % (len(raw), raw), raw + b".", raw + b"\n")
    return len(raw) > 255 or any(form in stream for form in forms)


def begin_worker(main=None):
    """Have this process, which is going to run tasks for another, unpickle what comes by value as its own.

    main: a MainOfFork made just before this process was forked, or None.
    """
    pickling.worker_globals = vars(sys.modules["__main__"])
    if "__mp_main__" in sys.modules:
        functions = [value for value in definitions().values() if type(value) is FunctionType]
        # Where a script was run up to its guard, the module has a copy of its functions' globals.
        every = (function.__globals__ for function in functions)
        copied = (each for each in every if each.get("__name__") == "__mp_main__")
        pickling.worker_globals = next(copied, pickling.worker_globals)
    pickling.main_of_worker = main or MainOfFork()
    pickling.on_refusal = None  # that of a worker which this one was forked from


def always(value, stream=b""):
    return True


def is_guarded():
    """Whether the source of `__main__` can be read, and has a guard."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if path is None:
        return False
    import tokenize

    try:
        with tokenize.open(path) as file:
            return has_guard(file.read())
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
        return False


def has_guard(source):
    """Whether a module's source has an `if __name__ == "__main__":` at its top level."""
    if "__main__" not in source:
        return False
    import ast  # takes as long to import as an executor takes to begin

    def asks(test):
        for node in ast.walk(test):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                names = {side.id for side in sides if isinstance(side, ast.Name)}
                constants = {side.value for side in sides if isinstance(side, ast.Constant)}
                if "__name__" in names and "__main__" in constants:
                    return True
        return False

    return any(isinstance(statement, ast.If) and asks(statement.test) for statement in ast.parse(source).body)
