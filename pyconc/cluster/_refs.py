"""Objects that calls share: ClusterExecutor.share() makes a Ref, which travels as an argument and weighs nothing.

A Ref's pickle is its number, and whoever packs a call learns which Refs it mentions. A node gets what these stand for
before the first such call, and is told when the program has dropped the Ref. It lays the object, which it does not
unpickle, into memory that its workers share: a pyconc.shared.Ref. With a call it gives a worker those that the call
mentions, and they take the numbers' places there.
"""

import pickle
import threading
import types

from pyconc._process import pickling
from pyconc.cluster import _calls as calls
from pyconc.shared import _refs as shared_refs

__all__ = ["Ref", "lay", "make", "pack_call"]

# In the program. `packing`: (the owner of Refs that a call may mention, those that it does by number), or None.
_thread = threading.local()


class Ref:
    """An object that does not change, once on each node for all calls; ClusterExecutor.share() returns it.

    It travels as an argument of that executor's calls, or within one, and raises TypeError for other pickles. A node
    gets the object before the first call there that has it, and keeps it until the Ref and the calls that have it are
    gone. In the call it is a pyconc.shared.Ref, whose get() returns the object. `nbytes` is the size of its pickle.

    Any thread may use it. In the child of a fork get() works, and no executor takes it.

        >>> with ClusterExecutor(workers_per_node=1) as executor:
        ...     ref = executor.share({"weights": [0.5, 1.5]})
        ...     print(ref.get(), executor.submit(lambda ref: sum(ref.get()["weights"]), ref).result())
        {'weights': [0.5, 1.5]} 2.0
    """

    __module__ = __package__
    __slots__ = ("__weakref__", "_number", "_object", "_owner", "_packed")

    def __new__(cls):
        raise TypeError("a Ref is made by share() of a ClusterExecutor")

    __class_getitem__ = classmethod(types.GenericAlias)

    def __reduce_ex__(self, protocol):
        owner, mentioned = getattr(_thread, "packing", None) or (None, None)
        if owner is not self._owner:
            raise TypeError("a cluster's Ref travels as an argument of its executor's calls, and in no other pickle")
        mentioned[self._number] = self
        return calls.take_ref, (self._number,)

    def __repr__(self):
        return f"<pyconc.cluster.Ref of {self.nbytes} bytes>"

    @property
    def nbytes(self):
        """How many bytes are sent to each node."""
        return calls.size_of(self._packed)

    def get(self):
        """Return an object like the one that was shared, the same in each call. Raises what unpickling it does.

        >>> with ClusterExecutor(workers_per_node=1) as executor:
        ...     executor.share([1, 2]).get()
        [1, 2]
        """
        if not hasattr(self, "_object"):
            blob, buffers = self._packed
            self._object = pickle.loads(blob, buffers=buffers)
        return self._object

    def __del__(self):
        owner = getattr(self, "_owner", None)
        if owner is not None:
            owner.forget(self._number)


# --- In the program ---------------------------------------------------------------------------------------------------


def make(owner, number, obj):
    """Return a Ref to an object: the number says which to the owner, whose forget(number) is called at its end."""
    if type(obj) in (bytes, bytearray, memoryview):
        obj = pickle.PickleBuffer(obj)
    buffers = []
    try:
        blob = pickle.dumps(obj, 5, buffer_callback=buffers.append)
    except Exception as error:
        blob, buffers = pickling.dumps(obj, error)
    else:
        if b"__main__" in blob:
            blob, buffers = pickling.dumps_by_value(obj)
    packed = (bytes(blob), [bytes(buffer.raw()) for buffer in buffers or ()])
    calls.check_size(packed)
    ref = object.__new__(Ref)
    ref._packed, ref._number = packed, number
    ref._owner = owner
    return ref


def pack_call(owner, function, args, kwargs):
    """Return a packed call, and the owner's Refs in it by number."""
    mentioned = {}
    _thread.packing = owner, mentioned
    try:
        return calls.pack_call(function, args, kwargs), mentioned
    finally:
        _thread.packing = None


# --- On a node --------------------------------------------------------------------------------------------------------


def lay(packed):
    """Return a pyconc.shared.Ref of what make() has packed; raises MemoryError if there is no room."""
    blob, buffers = packed
    return shared_refs.lay([memoryview(blob), *map(memoryview, buffers)])
