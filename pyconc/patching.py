"""What ties pyconc's classes to the standard ones.

install() gives pyconc's executors to programs that ask for the standard ones; and what others patch on the standard
classes is called by pyconc's.
"""

from __future__ import annotations

import _thread
import builtins
import concurrent.futures
import sys
import threading
import types
from abc import ABCMeta
from collections import Counter
from concurrent.futures import _base
from importlib import import_module
from types import BuiltinFunctionType, CodeType, FunctionType, NoneType

from pyconc import _core

TYPE_CHECKING = False  # typing takes longer to import than this package
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["install", "uninstall"]

_lock = threading.Lock()  # Held while the fields below and the names in concurrent.futures change together.
_installed = False  # Read without the lock.
_standard_getattr: Any = None  # what concurrent.futures has for a __getattr__; nothing since 3.15

# --- Threads that are none --------------------------------------------------------------------------------------------


def threads_are_greenlets() -> bool:
    """Whether the threading module has been made to start greenlets, as gevent and eventlet do it, now or earlier.

    A worker in C would stop them all, so the standard classes are made then, which are built on that module.
    """
    return type(threading.get_ident) is not BuiltinFunctionType


def make_standard(cls: type, args: Any, kwargs: Any) -> Any:
    """Makes an executor of the standard class for which one of pyconc's stands, where threads are greenlets."""
    for substitution in _SUBSTITUTIONS:
        if cls is substitution.ours:
            executor = object.__new__(substitution.load_standard())
            executor.__init__(*args, **kwargs)
            return executor
    raise RuntimeError(
        f"threading was monkey-patched after {cls.__name__} was defined: patch first, or derive from the standard class"
    )


# --- Patches on the standard classes ----------------------------------------------------------------------------------


def find_originals(cls: Any, names: Iterable[str]) -> dict[str, Any]:
    """Finds what a standard class had for these methods, though somebody may have replaced them already.

    An original is known by the file that it was compiled from, and is looked for behind what wraps it; where there is
    none to be found, None stands for it.
    """
    files = Counter(
        function.__code__.co_filename
        for holder in (vars(sys.modules[cls.__module__]), vars(cls))
        for function in list(holder.values())
        if isinstance(function, FunctionType) and function.__module__ == cls.__module__
    )
    file = files.most_common(1)[0][0]
    originals = {}
    for name in names:
        found = vars(cls).get(name)
        while found is not None and not (isinstance(found, FunctionType) and found.__code__.co_filename == file):
            found = getattr(found, "__wrapped__", None)
        originals[name] = found
    return originals


def watch_standard(which: str, cls: Any, names: Iterable[str]) -> None:
    """Has ours call what a standard class has for these methods, where somebody has replaced the original one."""
    _core.watch_standard(which, cls, find_originals(cls, names))


_core.watch_standard(
    "lock", type(threading.Lock()), {"acquire": None if threads_are_greenlets() else _thread.LockType.acquire}
)
watch_standard(
    "future",
    _base.Future,
    (
        "add_done_callback",
        "cancel",
        "cancelled",
        "done",
        "exception",
        "result",
        "running",
        "set_exception",
        "set_result",
        "set_running_or_notify_cancel",
    ),
)

# --- install() --------------------------------------------------------------------------------------------------------

_ABSENT = object()
_LazyImport: Any = getattr(types, "LazyImportType", ())  # what stands, since 3.15, for what nobody has asked for


class _Substitution:
    """A standard class, and the one of pyconc's that stands in for it while installed.

    Both are loaded only when somebody asks for them.
    """

    def __init__(self, name: str, standard_module: str, module: str, internals: set[str]) -> None:
        self.name = name  # of both classes
        self.standard_module = standard_module
        self.module = module
        self.internals = internals  # what a subclass mentions when it builds upon how the standard class is made
        self.standard: Any = None  # once its calls are redirected
        self.hidden: Any = _ABSENT  # what concurrent.futures had under the name before install()

    @property
    def ours(self) -> Any:
        """Pyconc's class, or None while nobody has loaded it."""
        return getattr(sys.modules.get(self.module), self.name, None)

    def load(self) -> Any:
        return getattr(import_module(self.module), self.name)

    def load_standard(self) -> Any:
        return getattr(import_module(self.standard_module), self.name)

    # Under the lock:

    def redirect(self) -> None:
        """Makes calls of the standard class make pyconc's while installed, if it has been loaded."""
        standard: Any = getattr(sys.modules.get(self.standard_module), self.name, None)
        if standard is None or self.standard is not None:
            return

        def make(cls: Any, /, *args: Any, **kwargs: Any) -> Any:
            # The interpreter calls the __init__ of whatever this returns, so pyconc's executor is initialised once, by
            # its own.  Subclasses of the standard class get what they would have got without this.
            if cls is standard and _installed and not threads_are_greenlets():
                ours = self.load()
                return ours.__new__(ours, *args, **kwargs)
            inherited = super(standard, cls).__new__
            # object.__new__ refuses arguments from a class that has a __new__ in between.
            return inherited(cls) if inherited is object.__new__ else inherited(cls, *args, **kwargs)

        make.__wrapped__ = standard.__init__  # type: ignore[attr-defined]  # for inspect.signature()
        standard.__new__ = staticmethod(make)
        self.standard = standard

    def hide(self) -> None:
        """Takes the standard class's name out of concurrent.futures, so that _give() is asked for it."""
        names = vars(concurrent.futures)
        found = names.get(self.name, _ABSENT)
        self.hidden = _ABSENT
        # A name that somebody else has replaced is theirs; what they call in the end is the standard class.
        if found is not _ABSENT and (found is self.standard or isinstance(found, _LazyImport)):
            self.hidden = names.pop(self.name)

    def show(self) -> None:
        """Undoes hide(), and what _give() has put there."""
        names = vars(concurrent.futures)
        found = names.get(self.name, _ABSENT)
        if found is not _ABSENT and found is not self.ours:
            return
        if self.hidden is not _ABSENT:
            names[self.name] = self.hidden
        else:
            names.pop(self.name, None)


_SUBSTITUTIONS = (
    _Substitution(
        "ThreadPoolExecutor",
        "concurrent.futures.thread",
        "pyconc.thread_pool",
        {
            "_WorkItem",
            "_adjust_thread_count",
            "_create_worker_context",
            "_global_shutdown_lock",
            "_idle_semaphore",
            "_initializer_failed",
            "_resolve_work_item_task",
            "_shutdown_lock",
            "_threads_queues",
            "_work_queue",
            "_worker",
            "prepare_context",
        },
    ),
    _Substitution(
        "ProcessPoolExecutor",
        "concurrent.futures.process",
        "pyconc.process_pool",
        {
            "_CallItem",
            "_ExecutorManagerThread",
            "_ResultItem",
            "_SafeQueue",
            "_ThreadWakeup",
            "_WorkItem",
            "_adjust_process_count",
            "_broken",
            "_call_queue",
            "_cancel_pending_futures",
            "_executor_manager_thread",
            "_executor_manager_thread_wakeup",
            "_global_shutdown",
            "_idle_worker_semaphore",
            "_launch_processes",
            "_pending_work_items",
            "_process_worker",
            "_queue_count",
            "_result_queue",
            "_safe_to_dynamically_spawn_children",
            "_shutdown_lock",
            "_shutdown_thread",
            "_spawn_process",
            "_spawn_worker",
            "_start_executor_manager_thread",
            "_threads_wakeups",
            "_work_ids",
        },
    ),
)


class ExecutorType(ABCMeta):
    """The type of pyconc's executors, which stand in for the standard classes while installed.

    It is an ABCMeta so that a subclass may derive from ABCs too.
    """

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], /, **kwargs: Any) -> Any:
        greenlets = threads_are_greenlets()
        for substitution in _SUBSTITUTIONS if mcls is ExecutorType and (_installed or greenlets) else ():
            if substitution.ours in bases and (greenlets or _mentions(namespace, substitution.internals)):
                # Nothing that a program does with the standard class may fail because of install().
                standard = substitution.load_standard()
                bases = tuple(standard if base is substitution.ours else base for base in bases)
                return type(name, bases, namespace, **kwargs)
        return super().__new__(mcls, name, bases, namespace, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        standard = _standard_of(cls)
        return super().__instancecheck__(instance) if standard is None else isinstance(instance, standard)

    def __subclasscheck__(cls, subclass: type) -> bool:
        standard = _standard_of(cls)
        return super().__subclasscheck__(subclass) if standard is None else issubclass(subclass, standard)


def _standard_of(cls: type) -> Any:
    """The standard class that a class of pyconc's stands in for at the moment, or None."""
    if not _installed and not threads_are_greenlets():
        return None
    return next((s.load_standard() for s in _SUBSTITUTIONS if cls is s.ours), None)


def _choose_bases(bases: tuple[Any, ...], metaclass: Any) -> tuple[Any, ...]:
    """The bases of a class statement while installed: the standard classes where the metaclass forbids ours."""
    if not _installed or not isinstance(metaclass, (type, NoneType)):
        return bases
    metaclasses = [type(base) for base in bases] if metaclass is None else [metaclass, *map(type, bases)]
    if any(all(issubclass(winner, other) for other in metaclasses) for winner in metaclasses):
        return bases
    standard = {s.ours: s.load_standard() for s in _SUBSTITUTIONS if s.ours in bases}
    return tuple(standard.get(base, base) for base in bases)


_standard_build_class: Any = builtins.__build_class__
_build_class = _core.make_class_builder(_standard_build_class, ExecutorType, _choose_bases)


def _mentions(namespace: dict[str, Any], internals: set[str]) -> bool:
    """Whether the body of a class defines one of these names, or has a function that uses one."""
    names = set(namespace)
    parts: list[Any] = list(namespace.values())
    while parts:
        part = parts.pop()
        if isinstance(part, CodeType):
            names.update(part.co_names)
            parts += part.co_consts
        elif isinstance(part, FunctionType):
            parts += [part.__code__, part.__dict__.get("__wrapped__")]
        elif isinstance(part, (classmethod, staticmethod)):
            parts.append(part.__func__)
        elif isinstance(part, property):
            parts += [part.fget, part.fset]
    return not names.isdisjoint(internals)


def _give(name: str) -> Any:
    """concurrent.futures.__getattr__ while installed: loads what is asked for, as the standard one does."""
    for substitution in _SUBSTITUTIONS:
        if name == substitution.name:
            if not _installed:  # another thread has uninstalled at this very moment
                return substitution.load_standard()
            cls = substitution.load()
            with _lock:
                if _installed:
                    vars(concurrent.futures).setdefault(name, cls)
            return cls
    if _standard_getattr is not None:
        return _standard_getattr(name)
    message = f"module 'concurrent.futures' has no attribute {name!r}"
    raise AttributeError(message, name=name, obj=concurrent.futures)


class _Finder:
    """Stands first in sys.meta_path while installed, until the modules of the standard classes have been loaded."""

    def rest(self) -> None:
        """Leaves sys.meta_path if there is nothing left to wait for."""
        done = not _installed or all(substitution.standard is not None for substitution in _SUBSTITUTIONS)
        if done and self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        for substitution in _SUBSTITUTIONS:
            if name == substitution.standard_module and substitution.standard is None:
                for finder in list(sys.meta_path):
                    spec = finder.find_spec(name, path, target) if finder is not self else None
                    if spec is not None:
                        if spec.loader is not None:
                            spec.loader = _Loader(spec.loader, substitution)  # type: ignore[assignment]
                        return spec
        return None


class _Loader:
    """A module's loader, which redirects calls of a standard class as soon as there is one."""

    def __init__(self, loader: Any, substitution: _Substitution) -> None:
        self._loader = loader
        self._substitution = substitution

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        with _lock:
            self._substitution.redirect()
            _finder.rest()


_finder = _Finder()


def install() -> None:
    """Makes this process use pyconc's executors wherever it asks for the standard library's.

    From now until uninstall():

    - ``concurrent.futures.ThreadPoolExecutor`` is ``pyconc.ThreadPoolExecutor``, and
      ``concurrent.futures.ProcessPoolExecutor`` is ``pyconc.ProcessPoolExecutor``.  As in the standard library, what
      nobody asks for is not loaded: a program without processes does not import multiprocessing.
    - Calling a standard class makes one of pyconc's.  That reaches modules that imported the class before, or import it
      from ``concurrent.futures.process`` later, and the default executors that asyncio and uvloop make for their loops.
    - ``isinstance(x, concurrent.futures.ThreadPoolExecutor)`` stays true for whatever it was true for; the same goes
      for processes.

    What stays the standard library's: executors that exist already (a loop's default executor among them), subclasses
    defined before, subclasses whose body names private parts of the standard class (``_work_queue``,
    ``_adjust_thread_count``, ``_call_queue`` and the like) or whose metaclass is not that of pyconc's classes,
    ``InterpreterPoolExecutor``, the functions
    ``concurrent.futures.wait`` and ``as_completed`` (which work with every future), what ``concurrent.futures.thread``
    and ``concurrent.futures.process`` call their executors (so that the classes can still be pickled by those names;
    calling them makes pyconc's), ``multiprocessing.Pool``, and other processes but forked ones: what a worker that was
    not forked from this process makes for itself is standard.

    Calling it again changes nothing, and one uninstall() undoes any number of calls.  Both may be called at any time
    from any thread, and raise nothing.  In a program that can be edited, importing from pyconc is the better way.

        >>> import concurrent.futures
        >>> pyconc.install()
        >>> concurrent.futures.ThreadPoolExecutor is pyconc.ThreadPoolExecutor
        True
        >>> pyconc.uninstall()
    """
    global _installed, _standard_getattr
    with _lock:
        if _installed:
            return
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)
    # From here on no standard class is made unseen.  One that is being made by another thread is waited for.
    for substitution in _SUBSTITUTIONS:
        if substitution.standard_module in sys.modules:
            try:
                import_module(substitution.standard_module)
            except ImportError:
                pass  # That thread's import has failed; it is for that thread to say so.
    with _lock:
        if _installed:
            return
        _installed = True
        names = vars(concurrent.futures)
        _standard_getattr = names.get("__getattr__")
        names["__getattr__"] = _give
        if builtins.__build_class__ is _standard_build_class:  # else it is another's
            builtins.__build_class__ = _build_class
        for substitution in _SUBSTITUTIONS:
            substitution.redirect()
            substitution.hide()
        _finder.rest()


def uninstall() -> None:
    """Undoes install(): the standard names, and calls of the standard classes, give the standard executors again.

    Executors made meanwhile go on working, and names imported meanwhile keep pyconc's classes.  Raises nothing, also
    where nothing was installed.

        >>> import concurrent.futures
        >>> pyconc.install()
        >>> pyconc.uninstall()
        >>> concurrent.futures.ThreadPoolExecutor is pyconc.ThreadPoolExecutor
        False
    """
    global _installed
    with _lock:
        if not _installed:
            return
        # What was made the standard classes' __new__ stays and does nothing: once a class has had one, CPython cannot
        # do without (python/cpython#105888).
        _installed = False
        if builtins.__build_class__ is _build_class:
            builtins.__build_class__ = _standard_build_class
        for substitution in _SUBSTITUTIONS:
            substitution.show()
        names = vars(concurrent.futures)
        if names.get("__getattr__") is _give:
            if _standard_getattr is None:
                del names["__getattr__"]
            else:
                names["__getattr__"] = _standard_getattr
        _finder.rest()
