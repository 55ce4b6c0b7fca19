"""pyconc.shared's Value and Array of those ctypes types that are more than one plain number.

Those are structures, unions, arrays, wide characters and long doubles. The object lies in the memory of a shared array
of bytes, and each access takes the lock that goes with that, as multiprocessing's do. Such a type is not read or
written in one step: a process that is killed in the middle may leave half of it.
"""

import contextlib
import ctypes
from _ctypes import CFuncPtr
from typing import Any

__all__ = ["SharedObject", "SharedObjects", "bytes_of"]

# By which no other process can find anything.
_POINTERS = (ctypes.c_char_p, ctypes.c_wchar_p, ctypes.c_void_p, ctypes.py_object, ctypes._Pointer, CFuncPtr)


def bytes_of(kind: Any, count: int = 1) -> int:
    """Return how many bytes so many have. Raises TypeError if it is no type of ctypes, or one of pointers."""
    is_type = isinstance(kind, type)
    if not is_type or issubclass(kind, _POINTERS):
        raise TypeError(f"bad type {kind!r}: it must be a type of ctypes that is no pointer, or a typecode")
    return ctypes.sizeof(kind) * count


class SharedObject:
    """An object of ctypes in shared memory, whose fields are its attributes, and whose `value` is its, if it has one.

    kind: its type. memory: a pyconc.shared.Array of bytes. Any thread of any process may use it, and a fork's child has
    the same memory. Pointers in it mean nothing to other processes.
    """

    __slots__ = ("__weakref__", "_guard", "_kind", "_memory", "_object")

    def __init__(self, kind: Any, memory: Any) -> None:
        self._hold(kind, memory, kind)

    def _hold(self, kind: Any, memory: Any, whole: Any) -> None:
        hold = super().__setattr__
        hold("_kind", kind)
        hold("_memory", memory)
        hold("_object", whole.from_buffer(memory))
        hold("_guard", memory if hasattr(memory, "get_lock") else contextlib.nullcontext())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._kind, self._memory)

    def __repr__(self) -> str:
        return f"<pyconc.shared {self._kind.__name__}>"

    def get_obj(self) -> Any:
        """Return the object of ctypes, which takes no lock."""
        return self._object

    def __getattr__(self, name: str) -> Any:
        if name in SharedObject.__slots__:
            raise AttributeError(name)  # it is not there yet
        if name in ("get_lock", "acquire", "release"):
            return getattr(self._memory, name)
        with self._guard:
            return getattr(self._object, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not hasattr(type(self._object), name):
            raise AttributeError(f"{self._kind.__name__} has no field {name!r}")
        with self._guard:
            setattr(self._object, name, value)

    def __enter__(self) -> Any:
        return self._memory.__enter__()

    def __exit__(self, *error: object) -> None:
        self._memory.__exit__(*error)


class SharedObjects(SharedObject):
    """An array of objects of ctypes in shared memory; what it gives of a structure is in that memory, too."""

    __slots__ = ()

    def __init__(self, kind: Any, memory: Any) -> None:
        self._hold(kind, memory, kind * (len(memory) // (ctypes.sizeof(kind) or 1)))

    def __repr__(self) -> str:
        return f"<pyconc.shared.Array {self._kind.__name__} of {len(self)}>"

    def __len__(self) -> int:
        return len(self._object)

    def __getitem__(self, key: Any) -> Any:
        with self._guard:
            return self._object[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        with self._guard:
            self._object[key] = value

    def numpy(self) -> Any:
        """Return it as an array of numpy, without a copy. Raises ImportError if there is no numpy."""
        import numpy

        return numpy.asarray(self._memory).view(self._kind)
