"""Arrays that processes share."""

import operator

from pyconc import _core
from pyconc.shared import _memory
from pyconc.shared._sent import Sent
from pyconc.shared._typecodes import NAMES_OF_CTYPES, TYPECODES, typecode_or_type_of
from pyconc.shared._with_lock import WithLock

__all__ = ["Array"]


class Array(WithLock, Sent, _core.SharedArray):
    """A multiprocessing.Array: numbers of one type, as many as it is made with, in memory that processes share.

    typecode_or_type: one of "bBhHiIlLqQ" (integers, which go round at their size), "fd" (floats), "?" (bool) and "c"
    (bytes), or ctypes' name of it, as c_double. size_or_initializer: how many items, which are zero, or what it begins
    with, in one dimension. lock: what get_lock() returns: True makes an RLock; with False there is no get_lock().
    Raises TypeError if there is no such type or an item is of another, AttributeError if the lock is none, ValueError
    if the size is negative, and MemoryError if there is no room for it, or it is larger than 32 GB.

    An item is read and written in one step; a slice, which gives a list, or bytes of "c", is not, nor is `+=`: for that
    there is get_lock(). A slice that is set keeps its size; it is copied at memory speed from arrays of the same type,
    numpy's and others. With typecode "c", `raw` is all of it as bytes, `value` those before the first zero.

    It is a buffer, which memoryview() and numpy() show without a copy, and anybody may write to: each process sees what
    the others do; torch.from_dlpack() and its like take it, too. It has one dimension, and numpy().reshape() more. The
    memory stays as long as any process has the array or something that shows it, and is given back then, also when that
    process is killed.

        >>> squares = pyconc.shared.Array("d", 4)
        >>> def compute(array, i):
        ...     array[i] = i * i
        >>> with pyconc.ProcessPoolExecutor(max_workers=2) as pool:
        ...     _ = list(pool.map(compute, [squares] * 4, range(4)))
        >>> squares[:], sum(memoryview(squares))
        ([0.0, 1.0, 4.0, 9.0], 14.0)

    Of another type of ctypes, as a structure, or "u", wide characters, it is an array of such objects, which has
    `len()`, items and slices, numpy(), get_lock() and get_obj(), as Value() has for one.
    """

    __module__ = __package__
    __slots__ = ("__weakref__", "_lock")

    def __new__(cls, typecode_or_type, size_or_initializer, *, lock=True):
        typecode = typecode_or_type_of(typecode_or_type)
        lock = cls._check_lock(lock)
        size = items = size_or_initializer
        if hasattr(items, "__len__"):
            size = len(items)
        elif hasattr(items, "__index__"):
            items = None
        else:
            items = list(items)
            size = len(items)
        if not isinstance(typecode, str):
            return _make_objects(typecode, size, items, lock)
        self = cls._at(_memory.heap(), -1, 0, typecode, lock)
        self._allocate(size)
        if items is not None:
            self[:] = items
        return self

    @classmethod
    def _at(cls, heap, index, serial, typecode, lock):
        self = super()._at(heap, index, serial, typecode)
        self._lock = lock
        return self

    def _own_state(self):
        return self.typecode, self._lock_state()

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} {self.typecode!r} of {len(self)}>"

    def get_obj(self):
        """Return it as an array of ctypes, without a copy. Raises ImportError if there is no ctypes.

        >>> array = pyconc.shared.Array("i", 3)
        >>> array.get_obj()[1] = 5
        >>> array[:]
        [0, 5, 0]
        """
        import ctypes

        names = dict(zip(TYPECODES, NAMES_OF_CTYPES.split(), strict=True))
        return (getattr(ctypes, f"c_{names[self.typecode]}") * len(self)).from_buffer(self)

    def numpy(self):
        """Return it as an array of numpy, without a copy. Raises ImportError if there is no numpy.

        >>> def double(array):
        ...     array.numpy()[:] *= 2
        """
        import numpy

        return numpy.asarray(self)

    def __dlpack__(self, **how):
        return self.numpy().__dlpack__(**how)

    def __dlpack_device__(self):
        return self.numpy().__dlpack_device__()

    @property
    def raw(self):
        """All bytes of an array of "c", which can be set, to no more than there is room for."""
        self._check_characters("raw")
        return bytes(self)

    @raw.setter
    def raw(self, value):
        self._check_characters("raw")
        if len(value) > len(self):
            raise ValueError("byte string too long")
        self[: len(value)] = value

    @property
    def value(self):
        """The bytes of an array of "c" up to the first that is zero, which can be set, as those of ctypes."""
        return self.raw.partition(b"\0")[0]

    @value.setter
    def value(self, value):
        self._check_characters("value")
        self.raw = value + b"\0" if len(value) < len(self) else value

    def _check_characters(self, name):
        if self.typecode != "c":
            raise AttributeError(f"an array of {self.typecode!r} has no {name}")


def _make_objects(kind, size, items, lock):
    from pyconc.shared import _ctypes_objects

    size = operator.index(size)
    if size < 0:
        raise ValueError("Array length must be >= 0")
    made = _ctypes_objects.SharedObjects(kind, Array("B", _ctypes_objects.bytes_of(kind, size), lock=lock))
    if items is not None:
        made.get_obj().__init__(*items)
    return made
