"""Numbers that processes share."""

from pyconc import _core
from pyconc.shared import _memory
from pyconc.shared._arrays import Array
from pyconc.shared._sent import Sent
from pyconc.shared._typecodes import typecode_or_type_of
from pyconc.shared._with_lock import WithLock

__all__ = ["Counter", "Value"]


class _Number(Sent, _core.SharedNumber):
    __slots__ = ()

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} {self.value!r}>"


class Value(WithLock, _Number):
    """A multiprocessing.Value of one number: read, written and changed in single steps, so that it needs no lock.

    typecode_or_type: one of "bBhHiIlLqQ" (integers, which go round at their size), "fd" (floats), "?" (bool) and "c" (a
    byte, as bytes), or ctypes' name of it, as c_double. args: the value that it begins with. lock: what get_lock()
    returns: True makes an RLock; with False there is no get_lock(). Raises TypeError if there is no such type, or the
    value is of another, AttributeError if the lock is none, and MemoryError if there is no room.

    `value` is the value; `value.value += 1` is two steps, for which there are add(), or get_lock(), which `with value:`
    takes, too.

        >>> best = pyconc.shared.Value("d", 1.5)
        >>> with best.get_lock():
        ...     best.value = max(best.value, 2.5)
        >>> best.value
        2.5

    Of another type of ctypes, or "u", a wide character, it is an object with that one's fields as attributes, made of
    the args and fields that the type takes; a pointer is a TypeError. Each access takes the lock, if there is one;
    get_obj() is the object of ctypes, without it. Nothing of that is one step: a process that is killed may leave half.

        >>> import ctypes
        >>> class Point(ctypes.Structure):
        ...     _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_double)]
        >>> point = pyconc.shared.Value(Point, 1, y=2)
        >>> with point.get_lock():
        ...     point.x += 1
        >>> point.x, point.y
        (2.0, 2.0)
    """

    __module__ = __package__
    __slots__ = ("__weakref__", "_lock", "_typecode")

    def __new__(cls, typecode_or_type, *args, lock=True, **fields):
        code = typecode_or_type_of(typecode_or_type)
        lock = cls._check_lock(lock)
        if not isinstance(code, str):
            return _make_object(code, args, fields, lock)
        self = cls._at(_memory.heap(), -1, 0, code, lock)
        self._begin(*args, **fields)
        return self

    def _begin(self, value=0):
        if not (type(value) is int and value == 0):
            self.value = value

    @classmethod
    def _at(cls, heap, index, serial, typecode, lock):
        self = super()._at(heap, index, serial, typecode)
        self._typecode, self._lock = typecode, lock
        return self

    def _own_state(self):
        return self._typecode, self._lock_state()

    def get_obj(self):
        """Return what has the `value` that the lock is for: itself, which needs none. Raises nothing.

        >>> pyconc.shared.Value("i", 5).get_obj().value
        5
        """
        return self


def _make_object(kind, args, fields, lock):
    from pyconc.shared import _ctypes_objects

    made = _ctypes_objects.SharedObject(kind, Array("B", _ctypes_objects.bytes_of(kind), lock=lock))
    made.get_obj().__init__(*args, **fields)
    return made


class Counter(_Number):
    """An integer of 64 bits that processes count with: `counter += 1` is one step that no other comes between.

    value: what it begins with. Raises TypeError if that is no integer, MemoryError if there is no room.

        >>> counter = pyconc.shared.Counter()
        >>> with pyconc.ProcessPoolExecutor(max_workers=2) as pool:
        ...     _ = list(pool.map(counter.add, [1, 2, 3, 4]))
        >>> counter -= 3
        >>> int(counter)
        7
    """

    __module__ = __package__
    __slots__ = ("__weakref__",)

    def __new__(cls, value=0):
        self = cls._at(_memory.heap(), -1, 0, "q")
        self.value = value
        return self

    def _own_state(self):
        return ("q",)

    def __int__(self):
        return self.value

    def __iadd__(self, n):
        self.add(n)
        return self

    def __isub__(self, n):
        self.add(-n)
        return self
