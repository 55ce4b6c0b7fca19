"""What a SyncManager's list(), dict(), Array(), Value() and Namespace() return.

They have the methods of the standard proxies of the same names, and are the shared memory themselves.
"""

import array
import types
from multiprocessing import managers as _standard

from pyconc import shared

__all__ = ["ArrayProxy", "DictProxy", "ListProxy", "NamespaceProxy", "ValueProxy"]


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
        return AttributeError(f"{self._typeid!r} object has no attribute {name!r}", name=name, obj=self)

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

    def _callmethod(self, methodname, args=(), kwds=types.MappingProxyType({})):
        if methodname == "__getattribute__":  # which is not all that reading an attribute does here
            return getattr(self, *args)
        return super()._callmethod(methodname, args, kwds)

    def _getvalue(self):
        return _standard.Namespace(**self._held.copy())
