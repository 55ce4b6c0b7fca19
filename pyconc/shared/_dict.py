"""Dictionaries that processes share."""

import types
from collections.abc import ItemsView, KeysView, MutableMapping, ValuesView

from pyconc import _core
from pyconc.shared import _memory
from pyconc.shared._keys import plain_key
from pyconc.shared._sent import Sent

__all__ = ["Dict"]


class _DictKeys(KeysView):
    __slots__ = ()

    def __iter__(self):
        return iter(self._mapping)

    def __reversed__(self):
        return reversed(self._mapping)

    def __repr__(self):
        return f"dict_keys({self._mapping._list_keys()!r})"

    mapping = property(lambda self: types.MappingProxyType(self._mapping))


class _DictValues(ValuesView):
    __slots__ = ()

    def __iter__(self):
        return iter(self._mapping._list_values())

    def __contains__(self, value):
        return value in self._mapping._list_values()

    def __reversed__(self):
        return reversed(self._mapping._list_values())

    def __repr__(self):
        return f"dict_values({self._mapping._list_values()!r})"

    mapping = property(lambda self: types.MappingProxyType(self._mapping))


class _DictItems(ItemsView):
    __slots__ = ()

    def __iter__(self):
        return iter(self._mapping._list_pairs())

    def __reversed__(self):
        return reversed(self._mapping._list_pairs())

    def __repr__(self):
        return f"dict_items({self._mapping._list_pairs()!r})"

    mapping = property(lambda self: types.MappingProxyType(self._mapping))


def _plain_dict(value):
    """Return what a dict is to be compared or joined with, as a dict; None if it is neither."""
    return value.copy() if isinstance(value, Dict) else value if isinstance(value, dict) else None


class Dict(Sent, _core.SharedDict, MutableMapping):
    """A dict that processes share.

    mapping, others: what it begins with, as for dict. Raises TypeError if that is no mapping and no iterable of pairs,
    or if a key can be none, MemoryError if there is no room, and what pickle does for a value that cannot be pickled.

    It has what dict has, in the same order, and gives values: copy() and `|` make plain dicts, and a value is a copy,
    so that `ages["ann"].append(1)` changes nothing here: assign it anew. None, bool, int, float, str, bytes and tuples
    of them are quick, as long as they are small. Any other value is a pickle of its own. A shared object, alone or
    within a value, is the same object for all who read it: `ages["cats"] = pyconc.shared.Dict()` puts a dict in a dict.

    A key is None, a str, bytes, number (bool, int, float, complex, Decimal, Fraction), date, time, datetime, timedelta,
    path, range, UUID, scalar of numpy, class, function or member of an Enum, or a tuple or frozenset of them, also of a
    class of its own that leaves hash and == alone. Keys that are equal are one key, as in a dict: 1, 1.0 and True. So
    are all nan. Of anything else no process can tell what it is to another: a TypeError. (Nor of a datetime that its
    zone has twice or not at all, or a time with a zone.) Those up to complex are quick.

    Each change is one step: setting and deleting, pop(), popitem(), setdefault(), update(), `|=`, clear(). A process
    that is killed in the middle leaves the dict as it was before or after. `ages["ann"] += 1` is two steps, for which
    there is add(). An iterator goes over what was there when it began, and is never an error, whatever others do; so do
    those of keys(), values() and items(), which are live otherwise.

    A value that cannot be unpickled where it is read raises pickle.UnpicklingError, with the key and who wrote it.

    update() copies 36 bytes or so for each key that is there, all others none. What was replaced or removed keeps its
    memory until the dict has grown by as much, or is short or empty; `nbytes` says how much that is in all.

        >>> ages = pyconc.shared.Dict({"ann": 30}, bob=40)
        >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...     pool.submit(ages.update, {"ann": 31, "eve": [5]}).result()
        >>> ages["ann"], "eve" in ages, len(ages)
        (31, True, 3)
        >>> print(ages)
        {'ann': 31, 'bob': 40, 'eve': [5]}
    """

    __module__ = __package__
    __slots__ = ("__weakref__",)

    def __new__(cls, mapping=(), /, **others):
        self = cls._at(_memory.heap(), -1, 0)
        self.update(mapping, **others)
        return self

    _plain_key = staticmethod(plain_key)  # for the type below

    def __str__(self):
        return str(self.copy())

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} {self.copy()!r}>"

    def __reversed__(self):
        return reversed(self._list_keys())

    def __eq__(self, other):
        other = _plain_dict(other)
        return NotImplemented if other is None else self.copy() == other

    __hash__ = None

    def __or__(self, other):
        other = _plain_dict(other)
        return NotImplemented if other is None else self.copy() | other

    def __ror__(self, other):
        other = _plain_dict(other)
        return NotImplemented if other is None else other | self.copy()

    def __ior__(self, other):
        self.update(other)
        return self

    def keys(self):
        """Return a view of the keys, as dict.keys() does. Raises nothing.

        >>> list(pyconc.shared.Dict(ann=30).keys())
        ['ann']
        """
        return _DictKeys(self)

    def values(self):
        """Return a view of the values, as dict.values() does. Raises nothing.

        >>> list(pyconc.shared.Dict(ann=30).values())
        [30]
        """
        return _DictValues(self)

    def items(self):
        """Return a view of the pairs of key and value, as dict.items() does. Raises nothing.

        >>> list(pyconc.shared.Dict(ann=30).items())
        [('ann', 30)]
        """
        return _DictItems(self)

    def copy(self):
        """Return it as a plain dict, as it is at one moment. Raises what unpickling does.

        >>> pyconc.shared.Dict(ann=30).copy()
        {'ann': 30}
        """
        return dict(self._list_pairs())

    def update(self, mapping=(), /, **others):
        """Set the values of keys, as dict.update() does, and all of it as one step, once the iterable has ended.

        mapping, others: a mapping or an iterable of pairs, and keys that are names. Raises what these and setting a
        value do; then nothing has changed.

            >>> ages = pyconc.shared.Dict(ann=30)
            >>> ages.update([("bob", 40)], ann=31)
            >>> ages.copy()
            {'ann': 31, 'bob': 40}
        """
        changes = mapping.copy() if isinstance(mapping, Dict) else dict(mapping)
        changes.update(others)
        self._set_many(list(changes.items()))

    @classmethod
    def fromkeys(cls, iterable, value=None, /):
        """Return a new one with the keys that an iterable has, and one value. Raises what update() does.

        >>> pyconc.shared.Dict.fromkeys("ab", 0).copy()
        {'a': 0, 'b': 0}
        """
        self = cls()
        self.update(dict.fromkeys(iterable, value))
        return self
