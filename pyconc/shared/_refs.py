"""Objects that do not change, laid once into memory that processes share.

A Ref's memory, which is sealed:

    who made it | how many parts there are | the size of each, all in 8 bytes | the pickle | the buffers beside it, in
    their order

Each part begins at a multiple of _ALIGNED, which suits every type and every instruction.
"""

import os
import pickle
import sys
import types
import weakref

from pyconc import _core, _unpicklable
from pyconc._process import pickling
from pyconc.shared import _memory
from pyconc.shared._sent import Sent, register, send

__all__ = ["Ref", "lay", "share"]

pickling.modules_of_known_reducers.add(__name__)

_ALIGNED = 64

_refs = weakref.WeakValueDictionary()  # by heap and cell: one Ref of each in a process; guarded by the GIL


def _places(sizes):
    """Return where parts of these sizes begin and end."""
    places, end = [], 8 * (2 + len(sizes))
    for size in sizes:
        start = -(-end // _ALIGNED) * _ALIGNED
        end = start + size
        places.append((start, end))
    return places


class _Ref(Sent, _core.SharedArray):
    """The memory that a Ref and all that it has given look at."""

    __slots__ = ()


class Ref:
    """An object that does not change, once in memory for all processes; share() returns it.

    It travels as the other shared objects do, at the same small cost whatever it is of, and raises TypeError for other
    pickles. `nbytes` is how much memory it has. The memory is given back when no process has the Ref or something that
    get() has returned there, also when that process is killed.

        >>> ref = pyconc.shared.share({"weights": [0.5, 1.5]})
        >>> ref.get()
        {'weights': [0.5, 1.5]}
    """

    __module__ = __package__
    __slots__ = ("__weakref__", "_memory", "_object")

    def __new__(cls):
        raise TypeError("a Ref is made by pyconc.shared.share()")

    __class_getitem__ = classmethod(types.GenericAlias)

    def __reduce_ex__(self, protocol):
        return _ref_of, (self._memory,)  # which refuses, or not

    def _pack(self):
        return _ref_at, send(self._memory)

    def __repr__(self):
        return f"<pyconc.shared.Ref of {self.nbytes} bytes>"

    @property
    def nbytes(self):
        """How many bytes of shared memory it has."""
        return self._memory.nbytes

    def get(self):
        """Return the object, the same in each call by this process. Raises UnpicklingError if it cannot be.

        What is large in it is not copied: arrays of numpy, and what was bytes, look at the memory and cannot be
        written, by anybody. The rest, as dicts and lists, is this process's own, and not to be changed: others that
        call get() here would see it.

            >>> ref = pyconc.shared.share(b"some bytes")
            >>> bytes(ref.get()[:4])
            b'some'
        """
        if not hasattr(self, "_object"):
            view = memoryview(self._memory)
            process, count = view[:16].cast("Q")
            data, *buffers = (view[start:end] for start, end in _places(view[16 : 16 + 8 * count].cast("Q").tolist()))
            try:
                self._object = pickle.loads(data, buffers=buffers)
            except Exception as error:
                _unpicklable.raise_from(error, "what a shared Ref is of", None, process)
        return self._object


def _ref_of(memory):
    key = memory._identity, memory._index
    ref = _refs.get(key)
    if ref is None:
        ref = object.__new__(Ref)
        ref._memory = memory
        ref = _refs.setdefault(key, ref)
    return ref


def _ref_at(heap, index, serial):
    # One that is here has the cell: no other can have come to its place.
    ref = _refs.get((heap.identity, index)) or _ref_of(_Ref._at(heap, index, serial))
    ref._memory._received()
    return ref


register(Ref, Ref._pack)


def share(obj):
    """Lay an object that does not change into memory, once for all processes, and return a Ref to it.

    obj: what pickle takes. Of bytes, a bytearray or a memoryview get() returns a memoryview of bytes that cannot be
    written, of anything else an equal object, in which arrays of numpy, and all that pickle's protocol 5 puts beside a
    pickle, look at the memory: bytes in it do that if they are wrapped in a pickle.PickleBuffer. Raises what pickle
    does, and MemoryError if there is no room or it is larger than 32 GB.

        >>> ref = pyconc.shared.share(bytes(1_000_000))
        >>> def count(ref):
        ...     return len(ref.get())
        >>> with pyconc.ProcessPoolExecutor(max_workers=2) as pool:
        ...     list(pool.map(count, [ref] * 3))
        [1000000, 1000000, 1000000]
    """
    if type(obj) in (bytes, bytearray, memoryview):
        obj = pickle.PickleBuffer(obj)
    buffers = []
    data = pickle.dumps(obj, 5, buffer_callback=buffers.append)
    return lay([memoryview(data), *(buffer.raw() for buffer in buffers)])


share.__module__ = __package__


def lay(parts):
    """Lay a pickle and the buffers beside it, as memoryviews of bytes, into memory; return a Ref to the object."""
    sizes = [part.nbytes for part in parts]
    places = _places(sizes)
    memory = _Ref._at(_memory.heap(), -1, 0)
    memory._reserve(places[-1][1])
    head = b"".join(number.to_bytes(8, sys.byteorder) for number in (os.getpid(), len(sizes), *sizes))
    memory._write(0, head)
    for (start, _), part in zip(places, parts, strict=True):
        memory._write(start, part)
    memory._seal()
    return _ref_of(memory)
