"""multiprocessing.managers, with a SyncManager that needs no server: its objects are those of pyconc.shared.

Everything here is the standard module's, except SyncManager, and the proxies that it makes: those of a list, a dict,
an array, a value and a namespace, in _proxies.py, have the methods of the standard ones, and are the shared memory
themselves. Locks, queues and the like are pyconc.shared's as they are.

What cannot be in shared memory still comes from a server process, which is started when a program first asks for it:
a type that is registered, a Pool, a set, an Array of characters.
"""

# Type checkers read managers.pyi instead.

import array
import multiprocessing.managers as _standard
import threading
from multiprocessing import ProcessError

from pyconc import shared
from pyconc._standard_names import names_of
from pyconc.multiprocessing import _proxies

__all__ = _standard.__all__


__getattr__ = names_of(_standard, __name__)


def __dir__():
    return sorted({*globals(), *dir(_standard)})


# ---- proxies ----


class _Proxies(type):
    """The class of a standard proxy of which those of the same name in shared memory are instances, too."""

    def __instancecheck__(cls, instance):
        return super().__instancecheck__(instance) or isinstance(instance, cls.__dict__.get("_shared", ()))


class ListProxy(_standard.ListProxy, metaclass=_Proxies):
    """The standard class, to register or derive from; what SyncManager.list() returns is an instance, too."""

    _shared = _proxies.ListProxy


class DictProxy(_standard.DictProxy, metaclass=_Proxies):
    """The standard class, to register or derive from; what SyncManager.dict() returns is an instance, too."""

    _shared = _proxies.DictProxy


class ArrayProxy(_standard.ArrayProxy, metaclass=_Proxies):
    """The standard class, to register or derive from; what SyncManager.Array() returns is an instance, too."""

    _shared = _proxies.ArrayProxy


class ValueProxy(_standard.ValueProxy, metaclass=_Proxies):
    """The standard class, to register or derive from; what SyncManager.Value() returns is an instance, too."""

    _shared = _proxies.ValueProxy


class NamespaceProxy(_standard.NamespaceProxy, metaclass=_Proxies):
    """The standard class, to register or derive from; what SyncManager.Namespace() returns is an instance, too."""

    _shared = _proxies.NamespaceProxy


# ---- the manager ----

# Of the standard manager: its process makes what cannot be in shared memory.
_OF_THE_SERVER = "the manager has no server that others could reach; multiprocessing.managers.SyncManager has one"


class SyncManager:
    """A multiprocessing.managers.SyncManager without a server process.

    address: None; else a ValueError, as nobody could connect to it. authkey, serializer, ctx, shutdown_timeout: those
    of the server for registered types, which does not start before one of them is asked for.

    Its objects are those of pyconc.shared, and live as long as any process has them, also when the manager is shut down
    or gone, and the process that made them. They may be used by any thread, travel to processes as those do, and are
    inherited by a fork. Before start() and after shutdown() it makes none: ProcessError. They raise MemoryError where
    there is no room for them.

        >>> with pyconc.Manager() as manager:
        ...     results = manager.dict()
        ...     with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...         pool.submit(results.update, answer=42).result()
        ...     print(results)
        {'answer': 42}
    """

    def __init__(self, address=None, authkey=None, serializer="pickle", ctx=None, **options):
        if address is not None:
            raise ValueError(_OF_THE_SERVER)
        self._server_options = {"authkey": authkey, "serializer": serializer, "ctx": ctx, **options}
        self._state = "initial"
        self._server = None  # set once; these two are guarded by the lock
        self._start = ()
        self._lock = threading.Lock()

    def start(self, initializer=None, initargs=()):
        """Begin. ProcessError if it has begun, or is shut down; TypeError if the initializer cannot be called.

        initializer, initargs: for the server process, if there is ever one.
        """
        with self._lock:
            if self._state != "initial":
                is_started = self._state == "started"
                raise ProcessError("Already started server" if is_started else "Manager has shut down")
            if initializer is not None and not callable(initializer):
                raise TypeError("initializer must be a callable")
            self._start = initializer, initargs
            self._state = "started"

    def shutdown(self):
        """End the server, if there is one, and refuse to make objects. Those there are stay. May be called again."""
        with self._lock:
            self._state = "shutdown"
            if self._server is not None:
                self._server.shutdown()

    def join(self, timeout=None):
        """Wait for the end of the server, if there is one, at most `timeout` seconds."""
        if self._server is not None:
            self._server.join(timeout)

    def __enter__(self):
        if self._state != "started":
            self.start()
        return self

    def __exit__(self, *error):
        self.shutdown()

    @property
    def address(self):
        """That of the server, if there is one; None."""
        return None if self._server is None else self._server.address

    def connect(self):
        """Raises ProcessError: there is no server to connect to."""
        raise ProcessError(_OF_THE_SERVER)

    get_server = connect

    @classmethod
    def register(cls, typeid, callable=None, proxytype=None, exposed=None, method_to_typeid=None, create_method=True):
        """Have instances make objects of another type, in a server process: as the standard register(), which it calls.

        Must be called before the first object of such a type is made.

            >>> class Manager(pyconc.multiprocessing.managers.SyncManager):
            ...     pass
            >>> Manager.register("set", set, exposed=["add", "__len__"])
        """
        if "_kinds" not in cls.__dict__:
            cls._kinds = type(cls.__name__, (cls._kinds,), {})
        cls._kinds.register(typeid, callable, proxytype, exposed, method_to_typeid, create_method)
        if create_method:
            setattr(cls, typeid, _of_server(typeid))

    _kinds = _standard.SyncManager  # what the server knows of

    def _make_in_server(self, typeid, /, *args, **kwargs):
        self._check()
        with self._lock:
            if self._server is None:
                # Of a class that a new process can import; only its registry is ours.
                server = _standard.BaseManager(**self._server_options)
                server._registry = self._kinds._registry
                server.start(*self._start)
                self._server = server
        return getattr(self._kinds, typeid)(self._server, *args, **kwargs)

    def _check(self):
        if self._state != "started":
            raise ProcessError("server not yet started" if self._state == "initial" else "Manager has shut down")

    # ---- what it makes ----

    def list(self, sequence=(), /):
        """Return a list, as pyconc.shared.List."""
        self._check()
        return _proxies.ListProxy(sequence)

    def dict(self, mapping=(), /, **others):
        """Return a dict, as pyconc.shared.Dict, whose keys(), values() and items() are lists."""
        self._check()
        return _proxies.DictProxy(mapping, **others)

    def Queue(self, maxsize=0):
        """Return a pyconc.shared.Queue, which has task_done() and join(), too."""
        self._check()
        return shared.Queue(maxsize)

    JoinableQueue = Queue

    def Value(self, typecode, value, lock=True):
        """Return what has get(), set() and `value`: any value, as the standard manager's."""
        self._check()
        return _proxies.ValueProxy._of(shared.List((value, typecode)))

    def Array(self, typecode, sequence, lock=True):
        """Return what has the items of array.array(typecode, sequence), in shared memory."""
        self._check()
        if typecode in ("u", "w"):
            return self._make_in_server("Array", typecode, sequence)
        return _proxies.ArrayProxy(typecode, array.array(typecode, sequence))

    def Namespace(self, /, **attributes):
        """Return an object with attributes, which are shared unless they begin with an underscore."""
        self._check()
        return _proxies.NamespaceProxy._of(shared.Dict(attributes))

    def Lock(self):
        """Return a pyconc.shared.Lock: the thread that took it has to release it."""
        self._check()
        return shared.Lock()

    def RLock(self):
        """Return a pyconc.shared.RLock."""
        self._check()
        return shared.RLock()

    def Semaphore(self, value=1):
        """Return a pyconc.shared.Semaphore."""
        self._check()
        return shared.Semaphore(value)

    def BoundedSemaphore(self, value=1):
        """Return a pyconc.shared.BoundedSemaphore."""
        self._check()
        return shared.BoundedSemaphore(value)

    def Condition(self, lock=None):
        """Return a pyconc.shared.Condition; `lock`: a Lock or RLock of this manager."""
        self._check()
        return shared.Condition(lock)

    def Event(self):
        """Return a pyconc.shared.Event."""
        self._check()
        return shared.Event()

    def Barrier(self, parties, action=None, timeout=None):
        """Return a pyconc.shared.Barrier; the last to come calls the action, in its own process."""
        self._check()
        return shared.Barrier(parties, action, timeout)


def _of_server(typeid):
    def make(self, /, *args, **kwargs):
        return self._make_in_server(typeid, *args, **kwargs)

    make.__name__ = typeid
    return make


# A Pool, and since Python 3.14 a set.
for _typeid in _standard.SyncManager._registry:
    if hasattr(_standard.SyncManager, _typeid) and not hasattr(SyncManager, _typeid):
        setattr(SyncManager, _typeid, _of_server(_typeid))
