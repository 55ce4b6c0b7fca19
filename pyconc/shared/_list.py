"""Lists that processes share."""

import sys
from collections.abc import MutableSequence

from pyconc import _core
from pyconc.shared import _memory
from pyconc.shared._sent import Sent

__all__ = ["List"]


def _plain(value):
    """Return what a list is to be compared or joined with, as a list; None if it is neither."""
    return value[:] if isinstance(value, (list, List)) else None


class List(Sent, _core.SharedList, MutableSequence):
    """A list that processes share.

    iterable: what it begins with. Raises TypeError if that is none, MemoryError if there is no room, and what pickle
    does for a value that cannot be pickled.

    It has what list has, and gives values: a slice, copy(), `+` and `*` make plain lists, and an item is a copy, so
    that `items[0].append(1)` changes nothing here: assign it anew. None, bool, int, float, str, bytes and tuples of
    them are quick, as long as they are small. Anything else is a pickle of its own. A shared object, alone or within an
    item, is the same object for all who read it: after `items.append(pyconc.shared.List())` there is a list in a list.

    Each change is one step: append(), extend(), pop(), `+=`, an item or a slice that is set or deleted. A process that
    is killed in the middle leaves the list as it was before or after. remove(), sort() and `*=` work on a copy, and
    begin anew if the list has changed meanwhile; `items[0] += 1` is two steps. An iterator goes on by index, as list's
    does, and is never an error: where others insert or remove meanwhile it may see an item twice, or miss one.

    An item that cannot be unpickled where it is read raises pickle.UnpicklingError, with its index and who wrote it.

    A change in the middle copies 8 bytes an item, one at either end none. What was replaced or removed keeps its memory
    until the list has grown by as much, or is short or empty; `nbytes` says how much that is in all.

        >>> items = pyconc.shared.List(["a", 2])
        >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...     pool.submit(items.append, [3.5]).result()
        >>> items[-1], len(items)
        ([3.5], 3)
        >>> print(items)
        ['a', 2, [3.5]]
    """

    __module__ = __package__
    __slots__ = ("__weakref__",)

    def __new__(cls, iterable=()):
        self = cls._at(_memory.heap(), -1, 0)
        self.extend(iterable)
        return self

    def __str__(self):
        return str(self[:])

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} {self[:]!r}>"

    def __contains__(self, value):
        return value in self[:]

    def __reversed__(self):
        return reversed(self[:])

    def __eq__(self, other):
        other = _plain(other)
        return NotImplemented if other is None else self[:] == other

    __hash__ = None

    def __lt__(self, other):
        other = _plain(other)
        return NotImplemented if other is None else self[:] < other

    def __le__(self, other):
        other = _plain(other)
        return NotImplemented if other is None else self[:] <= other

    def __gt__(self, other):
        other = _plain(other)
        return NotImplemented if other is None else self[:] > other

    def __ge__(self, other):
        other = _plain(other)
        return NotImplemented if other is None else self[:] >= other

    def __add__(self, other):
        other = _plain(other)
        return NotImplemented if other is None else self[:] + other

    def __radd__(self, other):
        other = _plain(other)
        return NotImplemented if other is None else other + self[:]

    def __mul__(self, times):
        return self[:] * times

    __rmul__ = __mul__

    def __iadd__(self, iterable):
        self.extend(iterable)
        return self

    def __imul__(self, times):
        while True:
            version, items = self._items()
            if self._reorder(version, list(range(len(items))) * times):
                return self

    def copy(self):
        """Return its items as a plain list, as they are at one moment. Raises what unpickling them does.

        >>> pyconc.shared.List("ab").copy()
        ['a', 'b']
        """
        return self[:]

    def index(self, value, start=0, stop=sys.maxsize, /):
        """Return the first index of a value, between `start` and `stop`. Raises ValueError if there is none.

        >>> pyconc.shared.List("abc").index("b")
        1
        """
        return self[:].index(value, start, stop)

    def count(self, value, /):
        """Return how often a value is there. Raises what comparing does.

        >>> pyconc.shared.List("abcb").count("b")
        2
        """
        return self[:].count(value)

    def remove(self, value, /):
        """Remove the first item that equals a value. Raises ValueError if there is none.

        >>> letters = pyconc.shared.List("abcb")
        >>> letters.remove("b")
        >>> letters[:]
        ['a', 'c', 'b']
        """
        while True:
            version, items = self._items()
            try:
                place = items.index(value)
            except ValueError:
                raise ValueError("list.remove(x): x not in list") from None
            if self._delete(version, place):
                return

    def sort(self, *, key=None, reverse=False):
        """Sort the items by key(item), or by themselves, as list.sort() does, and all in one step.

        Raises what comparing and `key` do; then nothing has changed. If others change the list meanwhile it is sorted
        anew, so that may not end as long as they do all the time.

            >>> numbers = pyconc.shared.List([3, 1, 2])
            >>> numbers.sort(reverse=True)
            >>> numbers[:]
            [3, 2, 1]
        """
        while True:
            version, items = self._items()
            keys = items if key is None else list(map(key, items))
            if self._reorder(version, sorted(range(len(items)), key=keys.__getitem__, reverse=reverse)):
                return
