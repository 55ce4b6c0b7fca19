"""multiprocessing.managers, with a SyncManager that needs no server: its objects are those of pyconc.shared.

Everything here is the standard module's, except SyncManager, and the proxies that it makes: those of a list, a dict,
an array, a value and a namespace have the methods of the standard ones, and are the shared memory themselves. Locks,
queues and the like are pyconc.shared's as they are.

What cannot be in shared memory still comes from a server process, which is started when a program first asks for it:
a type that is registered, a Pool, a set, an Array of characters.
"""

# Type checkers read managers.pyi instead.

import array
import multiprocessing.managers as _standard
import threading
import types
from multiprocessing import ProcessError

from pyconc import shared
from pyconc._standard_names import names_of

__all__ = _standard.__all__


__getattr__ = names_of(_standard, __name__)


def __dir__():
    return sorted({*globals(), *dir(_standard)})


# ---- proxies ----


class _Proxy:
    """The methods that the standard proxies have in common."""

    __slots__ = ()

    def _callmethod(self, methodname, args=(), kwds=types.MappingProxyType({})):
        return getattr(self, methodname)(*args, **kwds)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self._getvalue()

    def __repr__(self):
        return f"<{type(self).__name__} object, typeid {self._typeid!r} at {id(self):#x}>"

    def __str__(self):
        return str(self._getvalue())


class ListProxy(_Proxy, shared.List):
    """What SyncManager.list() returns: a pyconc.shared.List with the methods of the standard proxy."""

    __slots__ = ()
    _typeid = "list"
    _getvalue = shared.List.copy


class DictProxy(_Proxy, shared.Dict):
    """What SyncManager.dict() returns: a pyconc.shared.Dict whose keys(), values() and items() are lists."""

    __slots__ = ()
    _typeid = "dict"
    _getvalue = shared.Dict.copy

    def keys(self):
        """Return a list of the keys, as they are at one moment. Raises nothing."""
        return self._list_keys()

    def values(self):
        """Return a list of the values, as they are at one moment. Raises what unpickling them does."""
        return self._list_values()

    def items(self):
        """Return a list of pairs of key and value, as they are at one moment. Raises what unpickling them does."""
        return self._list_pairs()


class ArrayProxy(_Proxy, shared.Array):
    """What SyncManager.Array() returns: a pyconc.shared.Array that takes and gives what an array.array does."""

    __slots__ = ()
    _typeid = "Array"

    def __getitem__(self, key):
        items = super().__getitem__(key)
        return array.array(self.typecode, items) if isinstance(key, slice) else items

    def __setitem__(self, key, value):
        # It says what is too large, or of another type, as shared arrays do not.
        if isinstance(key, slice):
            checked = value if isinstance(value, array.array) else array.array(self.typecode, value)
        else:
            (checked,) = array.array(self.typecode, (value,))
        super().__setitem__(key, checked)

    def _getvalue(self):
        return self[:]


class _Held(_Proxy):
    """One that has its values in a container; only that travels."""

    __slots__ = ("_held",)

    @classmethod
    def _of(cls, held):
        self = object.__new__(cls)
        object.__setattr__(self, "_held", held)
        return self

    def __reduce__(self):
        return type(self)._of, (self._held,)


class ValueProxy(_Held):
    """What SyncManager.Value() returns: any value, whatever the typecode, to be read and set in one step."""

    __slots__ = ()
    _typeid = "Value"

    __class_getitem__ = classmethod(types.GenericAlias)

    def get(self):
        """Return the value. Raises what unpickling it does."""
        return self._held[0]

    def set(self, value):
        """Set the value. Raises what pickling it does, and MemoryError if there is no room."""
        self._held[0] = value

    value = property(get, set)

    def _getvalue(self):
        value, typecode = self._held
        return _standard.Value(typecode, value)


class NamespaceProxy(_Held):
    """A namespace of SyncManager: its attributes are shared, except those that begin with an underscore."""

    __slots__ = ("__dict__",)
    _typeid = "Namespace"

    def __getattr__(self, name):
        # Only for what is not found otherwise.
        if name[0] != "_":
            try:
                return self._held[name]
            except KeyError:
                pass
        raise self._no_attribute(name)

    def _no_attribute(self, name):
        return AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def __setattr__(self, name, value):
        if name[0] == "_":
            object.__setattr__(self, name, value)
        else:
            self._held[name] = value

    def __delattr__(self, name):
        if name[0] == "_":
            object.__delattr__(self, name)
            return
        try:
            del self._held[name]
        except KeyError:
            raise self._no_attribute(name) from None

    def _getvalue(self):
        return _standard.Namespace(**self._held.copy())


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
        return ListProxy(sequence)

    def dict(self, mapping=(), /, **others):
        """Return a dict, as pyconc.shared.Dict, whose keys(), values() and items() are lists."""
        self._check()
        return DictProxy(mapping, **others)

    def Queue(self, maxsize=0):
        """Return a pyconc.shared.Queue, which has task_done() and join(), too."""
        self._check()
        return shared.Queue(maxsize)

    JoinableQueue = Queue

    def Value(self, typecode, value, lock=True):
        """Return what has get(), set() and `value`: any value, as the standard manager's."""
        self._check()
        return ValueProxy._of(shared.List((value, typecode)))

    def Array(self, typecode, sequence, lock=True):
        """Return what has the items of array.array(typecode, sequence), in shared memory."""
        self._check()
        if typecode in ("u", "w"):
            return self._make_in_server("Array", typecode, sequence)
        return ArrayProxy(typecode, array.array(typecode, sequence))

    def Namespace(self, /, **attributes):
        """Return an object with attributes, which are shared unless they begin with an underscore."""
        self._check()
        return NamespaceProxy._of(shared.Dict(attributes))

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
