"""What tests have worker processes do: importable there without the test framework."""

import faulthandler
import os
import signal
import socket
import sys
from importlib.machinery import ModuleSpec


class AtGate:
    """A gates.ProcessGate as the worker sees it."""

    def __init__(self, address, limit):
        self.address = address
        self.limit = limit

    def __call__(self, *args):
        with socket.socket(socket.AF_UNIX) as gate:
            gate.settimeout(self.limit)
            gate.connect(self.address)
            gate.sendall(b"%d\n" % os.getpid())
            if gate.recv(1) != b"!":
                raise ConnectionError("nobody opened the gate")
        return args[0] if len(args) == 1 else args


def hold(gate, *args):
    """Waits at the gate; a plain function, which uvloop's run_in_executor() knows to be no coroutine."""
    return gate(*args)


def identity(*args):
    return args[0] if len(args) == 1 else args


def fail(error):
    raise error


def fail_at(gate, error):
    gate()
    raise error


def die(how):
    """Ends the process: by a signal's number, by exit() with a string's number, by os._exit()."""
    if how == "exit":
        os._exit(7)
    faulthandler.disable()  # pytest's own, by way of a fork: it writes to the terminal
    os.kill(os.getpid(), how)
    signal.pause()


def die_once(path):
    """Ends the first process that calls it."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    die("exit")


def evaluate(expression):
    return eval(expression, {"os": os, "signal": signal, "sys": sys})


# --- Objects that cannot travel ---------------------------------------------------------------------------------------


class Unpicklable:
    """Cannot be pickled."""

    def __reduce__(self):
        raise LookupError("refuses to be pickled")


class Rebuilt:
    """Calls a function when it is unpickled: Rebuilt(function, arguments...)."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        function, *args = self.call
        return function, tuple(args)


class DiesWhenPickled:
    """Ends the process that pickles it."""

    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        die(self.how)


class DyingError(Exception, DiesWhenPickled):
    __init__ = DiesWhenPickled.__init__
    __reduce__ = DiesWhenPickled.__reduce__


class UnpicklableError(Exception, Unpicklable):
    __reduce__ = Unpicklable.__reduce__


class RebuiltError(Exception):
    def __init__(self, *call):
        super().__init__(f"calls {call[0].__name__}()")
        self.call = call

    __reduce__ = Rebuilt.__reduce__


class FussyError(Exception):
    """Its arguments are not those of __init__(), which is how pickle rebuilds it."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class FrozenError(Exception):
    """As a frozen dataclass it lets no attribute be set, but its notes, which pickle adds from Python 3.14 on."""

    def __setattr__(self, name, value):
        if name != "__notes__":
            raise AttributeError(f"{name} cannot be set")
        super().__setattr__(name, value)


class FrozenWhenPickled:
    def __reduce__(self):
        raise FrozenError


class FrozenWhenUnpickled:
    def __reduce__(self):
        return raise_new, (FrozenError,)


def make(kind, *args):
    return kind(*args)


def raise_new(kind, *args):
    raise kind(*args)


def raise_where_source_cannot_be_read(error):
    """Raise it in code of which a traceback cannot be formatted, as where what that warns of is an error."""

    class Loader:
        def get_source(self, name):
            raise LookupError(name)

    loader = Loader()
    place = {"__name__": "nowhere", "__loader__": loader, "__spec__": ModuleSpec("nowhere", loader)}
    exec(compile("def far_away(error):\n    raise error", "nowhere.py", "exec"), place)
    place["far_away"](error)


# --- Calls that report ------------------------------------------------------------------------------------------------


class Reporter:
    """Adds its arguments to a file, a line for each, and returns them."""

    def __init__(self, path):
        self.path = path

    def __call__(self, number):
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(file, b"%d\n" % number)
        os.close(file)
        return number


class ReportOrWait:
    """Reports its argument and returns it, but waits at the gate instead with some of them."""

    def __init__(self, reports, gate, *gated):
        self.reports = reports
        self.gate = gate
        self.gated = gated

    def __call__(self, number):
        return self.gate(number) if number in self.gated else self.reports(number)


class PassOrWait:
    """Returns its argument, but waits at the gate first with some of them."""

    def __init__(self, gate, *gated):
        self.gate = gate
        self.gated = gated

    def __call__(self, number):
        return self.gate(number) if number in self.gated else number


# --- Arrays -----------------------------------------------------------------------------------------------------------

_kept = []


def make_array(size_bytes):
    import numpy

    return numpy.arange(size_bytes // 8, dtype=numpy.int64)


def describe_array(array):
    """What is behind it, whether it can be changed, and what it has in it."""
    base = array
    while (below := base.obj if isinstance(base, memoryview) else getattr(base, "base", None)) is not None:
        base = below
    kind = type(base)
    return f"{kind.__module__}.{kind.__qualname__}", array.flags.writeable, array.sum()


def fill_array(array, value):
    array.fill(value)
    return array.sum()


def add_arrays(one, other):
    return one + other


def keywords(**arguments):
    return arguments


def keep(value):
    _kept.append(value)


def keep_array(size_bytes):
    keep(make_array(size_bytes))
    return _kept[-1]


def sum_of_kept():
    return _kept[-1].sum() if _kept else None


# --- Processes --------------------------------------------------------------------------------------------------------


def run_process():
    """Starts a process and returns how it ended."""
    import multiprocessing

    process = multiprocessing.get_context("fork").Process(target=os._exit, args=(5,))
    process.start()
    process.join()
    return process.exitcode


def process_name():
    import multiprocessing

    return multiprocessing.current_process().name


def parent_pid():
    import multiprocessing

    return multiprocessing.parent_process().pid


def identify(_=None):
    return os.getpid()
