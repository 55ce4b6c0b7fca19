"""The ties between pyconc's classes and the standard ones.

install() gives pyconc's executors to programs that ask for the standard ones.  Methods that other libraries replace on
the standard classes are called by pyconc's.
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
_standard_getattr: Any = None  # the __getattr__ of concurrent.futures, which has none since Python 3.15

# --- Greenlets in place of threads ------------------------------------------------------------------------------------


def threads_are_greenlets() -> bool:
    """Tell whether gevent, eventlet or the like have made the threading module start greenlets.

    A worker in C would stop all greenlets, so the standard classes, which are built on that module, are made then.
    """
    return type(threading.get_ident) is not BuiltinFunctionType


def make_standard(cls: type, args: Any, kwargs: Any) -> Any:
    """Make an executor of the standard class that one of pyconc's stands for, where threads are greenlets."""
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
    """Find a standard class's original methods of these names, which other libraries may have replaced.

    An original is known by the file that it was compiled from; it may stand behind wrappers.  For a method whose
    original is not found, the dictionary has None.
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
    """Have pyconc's classes call a standard class's methods of these names when they are not the originals."""
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
        *(["_get_snapshot"] if hasattr(_base.Future, "_get_snapshot") else []),  # by which a newer asyncio asks
    ),
)

# --- Futures ----------------------------------------------------------------------------------------------------------


class FutureType(ABCMeta):
    """The metaclass of pyconc.Future, of which each standard future is an instance, as ours are of the standard class.

    A program whose import line was changed meets standard futures too, those of asyncio.run_coroutine_threadsafe()
    among them.  It derives from ABCMeta so that a subclass may derive from ABCs too.
    """

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _base.Future) if cls is _core.Future else super().__instancecheck__(instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _base.Future) if cls is _core.Future else super().__subclasscheck__(subclass)


_core.set_future_type(FutureType)

# --- install() --------------------------------------------------------------------------------------------------------

_ABSENT = object()
_LazyImport: Any = getattr(types, "LazyImportType", ())  # since 3.15, stands for a module that is not loaded yet


class _Redirection:
    """A standard class whose calls make objects of pyconc's class while installed.

    Both are loaded only when the program asks for them.
    """

    is_active = False  # only while installed

    def __init__(self, name: str, standard_module: str, module: str) -> None:
        self.name = name  # of both classes
        self.standard_module = standard_module
        self.module = module
        self.standard: Any = None  # the standard class, once its calls are redirected

    @property
    def ours(self) -> Any:
        """Pyconc's class, or None if it is not loaded."""
        return getattr(sys.modules.get(self.module), self.name, None)

    def load(self) -> Any:
        return getattr(import_module(self.module), self.name)

    def load_standard(self) -> Any:
        return getattr(import_module(self.standard_module), self.name)

    # Under the lock:

    def redirect(self) -> None:
        """Have calls of the standard class, if it is loaded, make objects of pyconc's while this is active."""
        standard: Any = getattr(sys.modules.get(self.standard_module), self.name, None)
        if standard is None or self.standard is not None:
            return

        def make(cls: Any, /, *args: Any, **kwargs: Any) -> Any:
            # The interpreter calls the __init__ of the object that this returns, so pyconc's object is initialised
            # once, by its own.  Subclasses of the standard class are made as they are without this.
            if cls is standard and self.is_active and not threads_are_greenlets():
                ours = self.load()
                return ours.__new__(ours, *args, **kwargs)
            inherited = super(standard, cls).__new__
            # object.__new__ refuses arguments from a class that has a __new__ in between.
            return inherited(cls) if inherited is object.__new__ else inherited(cls, *args, **kwargs)

        make.__wrapped__ = standard.__init__  # type: ignore[attr-defined]  # for inspect.signature()
        standard.__new__ = staticmethod(make)
        self.standard = standard


class _Substitution(_Redirection):
    """A class of concurrent.futures, and pyconc's class that takes its place there too while installed."""

    def __init__(self, name: str, standard_module: str, module: str, internals: set[str]) -> None:
        super().__init__(name, standard_module, module)
        self.internals = internals  # private names; a subclass that mentions one needs the standard class
        self.hidden: Any = _ABSENT  # the value of the name in concurrent.futures before install()

    # Under the lock:

    def hide(self) -> None:
        """Take the standard class's name out of concurrent.futures, so that _give() is asked for it."""
        names = vars(concurrent.futures)
        found = names.get(self.name, _ABSENT)
        self.hidden = _ABSENT
        # A name that another library has replaced stays; its class calls the standard one in the end.
        if found is not _ABSENT and (found is self.standard or isinstance(found, _LazyImport)):
            self.hidden = names.pop(self.name)

    def show(self) -> None:
        """Undo hide(), and remove the class that _give() has put there."""
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


_POOLS = (
    _Redirection("Pool", "multiprocessing.pool", "pyconc.multiprocessing.pool"),
    _Redirection("ThreadPool", "multiprocessing.pool", "pyconc.multiprocessing.pool"),
)


def _redirections() -> list[_Redirection]:
    """Return those that are active."""
    return [redirection for redirection in (*_SUBSTITUTIONS, *_POOLS) if redirection.is_active]


class ExecutorType(ABCMeta):
    """The metaclass of pyconc's executors, which take the place of the standard classes while installed.

    It derives from ABCMeta so that a subclass may derive from ABCs too.
    """

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], /, **kwargs: Any) -> Any:
        # A program that works with the standard class must not fail because of install().
        greenlets = threads_are_greenlets()
        replaces = mcls is ExecutorType and (_installed or greenlets)
        for substitution in _SUBSTITUTIONS if replaces else ():
            if substitution.ours in bases and (greenlets or _mentions(namespace, substitution.internals)):
                return type(name, _standard_bases(bases), namespace, **kwargs)
        try:
            return super().__new__(mcls, name, bases, namespace, **kwargs)
        except TypeError as error:
            if not replaces or "lay-out conflict" not in str(error):  # with dict or the like, as objects in C have
                raise
        return type(name, _standard_bases(bases), namespace, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        standard = _standard_of(cls)
        return super().__instancecheck__(instance) if standard is None else isinstance(instance, standard)

    def __subclasscheck__(cls, subclass: type) -> bool:
        standard = _standard_of(cls)
        return super().__subclasscheck__(subclass) if standard is None else issubclass(subclass, standard)


def _standard_of(cls: type) -> Any:
    """Return the standard class whose place a class of pyconc's takes now, or None."""
    if not _installed and not threads_are_greenlets():
        return None
    return next((s.load_standard() for s in _SUBSTITUTIONS if cls is s.ours), None)


def _choose_bases(bases: tuple[Any, ...], metaclass: Any) -> tuple[Any, ...]:
    """Return the bases for a class statement while installed: the standard ones if the metaclass forbids pyconc's."""
    if not _installed or not isinstance(metaclass, (type, NoneType)):
        return bases
    metaclasses = [type(base) for base in bases] if metaclass is None else [metaclass, *map(type, bases)]
    if any(all(issubclass(winner, other) for other in metaclasses) for winner in metaclasses):
        return bases
    return _standard_bases(bases)


def _standard_bases(bases: tuple[Any, ...]) -> tuple[Any, ...]:
    standard = {s.ours: s.load_standard() for s in _SUBSTITUTIONS if s.ours in bases}
    return tuple(standard.get(base, base) for base in bases)


_standard_build_class: Any = builtins.__build_class__
_build_class = _core.make_class_builder(_standard_build_class, ExecutorType, _choose_bases)


def _mentions(namespace: dict[str, Any], internals: set[str]) -> bool:
    """Tell whether the body of a class defines one of these names, or has a function that uses one."""
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


_functions: dict[Any, Any] = {}  # standard functions, and pyconc's for them


def substitute_functions(functions: dict[Any, Any]) -> None:
    """Have install() put functions, by the standard ones of the same name, into concurrent.futures."""
    with _lock:
        _functions.update(functions)
        if _installed:  # from the hook of PYCONC=1, while the program's import of pyconc goes on
            _exchange(vars(concurrent.futures), functions)


def _exchange(names: dict[str, Any], functions: dict[Any, Any]) -> None:
    """Put functions of concurrent.futures in the place of others; a name that another library has replaced stays."""
    for found, put in functions.items():
        if names.get(put.__name__) is found:
            names[put.__name__] = put


def _give(name: str) -> Any:
    """Stand for concurrent.futures.__getattr__ while installed: load the class of this name, as the standard does."""
    for substitution in _SUBSTITUTIONS:
        if name == substitution.name:
            if not _installed:  # Another thread has just called uninstall().
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
    """The first finder of sys.meta_path while installed, until the modules of the standard classes are loaded."""

    def rest(self) -> None:
        """Leave sys.meta_path if all of those modules are loaded, or nothing is installed."""
        done = all(redirection.standard is not None for redirection in _redirections())
        if done and self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        loaded = [r for r in (*_SUBSTITUTIONS, *_POOLS) if r.standard_module == name and r.standard is None]
        for finder in list(sys.meta_path) if loaded else ():
            spec = finder.find_spec(name, path, target) if finder is not self else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, loaded)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """A module's loader, which redirects calls of its standard classes as soon as they are defined."""

    def __init__(self, loader: Any, redirections: list[_Redirection]) -> None:
        self._loader = loader
        self._redirections = redirections

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        with _lock:
            for redirection in self._redirections:
                redirection.redirect()
            _finder.rest()


_finder = _Finder()


def install(*, multiprocessing: bool = True) -> None:
    """Make this process use pyconc's executors and pools wherever it asks for the standard library's.

    From now until uninstall():

    - ``concurrent.futures.ThreadPoolExecutor`` is ``pyconc.ThreadPoolExecutor``, and
      ``concurrent.futures.ProcessPoolExecutor`` is ``pyconc.ProcessPoolExecutor``.  As in the standard library, a class
      is loaded when it is first asked for: a program without processes does not import multiprocessing.
    - ``concurrent.futures.wait`` and ``as_completed`` are pyconc's, which take every future.  Who imported the standard
      functions before keeps them, and they go on working.
    - Calling a standard class makes one of pyconc's.  That reaches modules that imported the class before, or import it
      from ``concurrent.futures.process`` later, and the default executors that asyncio and uvloop make for their loops.
    - Calling ``multiprocessing.Pool``, the ``Pool`` of a context, or the classes ``Pool`` and ``ThreadPool`` of
      ``multiprocessing.pool`` makes a pool of ``pyconc.multiprocessing``, which is an instance of the standard class.
      multiprocessing: whether it does so.
    - ``isinstance(x, concurrent.futures.ThreadPoolExecutor)`` stays true for each object for which it was true; so does
      the same test with ``ProcessPoolExecutor``.

    These stay the standard library's:

    - executors and pools that exist already, among them loops' default executors;
    - subclasses that were defined before, subclasses whose body names private parts of the standard class
      (``_work_queue``, ``_adjust_thread_count``, ``_call_queue`` and the like), subclasses whose metaclass is not that
      of pyconc's classes, and ``InterpreterPoolExecutor``;
    - the names in ``concurrent.futures.thread`` and ``concurrent.futures.process``, so that the classes can be pickled
      by them; calling these classes makes pyconc's;
    - subclasses of multiprocessing's pools;
    - the executors and pools of processes that were not forked from this one.

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
    redirections = [*_SUBSTITUTIONS, *(_POOLS if multiprocessing else ())]
    # From here on the finder sees each import of a standard class.  If another thread imports one now, wait for it.
    for redirection in redirections:
        if redirection.standard_module in sys.modules:
            try:
                import_module(redirection.standard_module)
            except (ImportError, RuntimeError):
                # The other thread's import has failed, and raises there; or it waits for an import of this thread, as
                # only install() itself does there, from the hook of PYCONC=1, when the module has been executed.
                pass
    with _lock:
        if _installed:
            return
        _installed = True
        names = vars(concurrent.futures)
        _standard_getattr = names.get("__getattr__")
        names["__getattr__"] = _give
        if builtins.__build_class__ is _standard_build_class:  # otherwise it is another library's
            builtins.__build_class__ = _build_class
        for redirection in redirections:
            redirection.is_active = True
            redirection.redirect()
        for substitution in _SUBSTITUTIONS:
            substitution.hide()
        _exchange(names, _functions)
        _finder.rest()


def uninstall() -> None:
    """Undo install(): the standard names, and calls of the standard classes, give the standard ones again.

    Executors and pools that were made since install() go on working, and names that were imported since then keep
    pyconc's classes.  Raises nothing, even if nothing was installed.

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
        # The __new__ that redirect() has set stays, and does nothing: CPython cannot remove a class's __new__
        # (python/cpython#105888).
        _installed = False
        for redirection in _redirections():
            redirection.is_active = False
        if builtins.__build_class__ is _build_class:
            builtins.__build_class__ = _standard_build_class
        for substitution in _SUBSTITUTIONS:
            substitution.show()
        names = vars(concurrent.futures)
        _exchange(names, {ours: standard for standard, ours in _functions.items()})
        if names.get("__getattr__") is _give:
            if _standard_getattr is None:
                del names["__getattr__"]
            else:
                names["__getattr__"] = _standard_getattr
        _finder.rest()
