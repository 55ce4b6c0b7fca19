"""How shared objects travel: as arguments and results of a pool or of multiprocessing, and in items of each other.

A pickle says which heap the object lies in, its place there, and a serial number, so that nobody takes another object
that has come to the same place for it; and what the object has beside its memory, see _own_state().
"""

import copyreg
from multiprocessing import reduction

from pyconc import _core
from pyconc._process import pickling
from pyconc.shared import _memory

__all__ = ["Sent", "register", "send"]

pickling.modules_of_known_reducers.add(__name__)


def register(cls, reduce):
    """Have objects of this class, whatever else is pickled with them, travel as reduce(object) says."""
    reduction.register(cls, reduce)
    pickling.shared_types.add(cls)


class Sent:
    """The base of all: how they travel."""

    __slots__ = ()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        register(cls, cls._pack)

    def __reduce_ex__(self, protocol):
        return _pack_in_item(self, *self._own_state())

    def _pack(self):
        return _unpack, (type(self), *send(self), *self._own_state())

    def _own_state(self):
        return ()

    @classmethod
    def _at(cls, heap, index, serial, how="", *state):
        return super().__new__(cls, heap, index, serial, how)


def send(cell):
    """Return (heap, index, serial), for a pickle that is going to another process, unless it fails."""
    place = cell._send()
    pickling.on_failure(cell._received)
    return (_memory.heap_of(cell), *place)


def _unpack(cls, heap, index, serial, *state):
    self = getattr(cls, "_at", cls)(heap, index, serial, *state)
    self._received()
    return self


# An object in an item of a container: whoever reads that has their memory, mostly, which is the same. The container
# holds it, and in between the process that pickles or unpickles the item.


def _pack_in_item(cell, *state):
    sent = cell._send_in_item()
    if sent is None:
        kind = type(cell).__name__.lstrip("_")
        raise TypeError(
            f"a shared {kind} travels as an argument or result of an executor of pyconc, or of a "
            "multiprocessing.Process, or in an item of another shared object, and in no other pickle"
        )
    return _unpack_from_item, (type(cell), cell._identity, *sent, *state)


def _unpack_from_item(cls, identity, index, serial, *state):
    heap = _memory.known_heap(identity)
    if heap is None:
        raise RuntimeError(f"the memory of a shared {cls.__name__} that is in an item is another program's")
    return getattr(cls, "_at", cls)(heap, index, serial, *state)


def _pack_door(door):
    return _unpack, (_core.SharedCell, *send(door))


reduction.register(_core.SharedCell, _pack_door)
copyreg.pickle(_core.SharedCell, _pack_in_item)
