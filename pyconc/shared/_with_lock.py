"""The lock that goes with a value or an array, for changes in several steps."""

import functools
import types

from pyconc.shared import _memory
from pyconc.shared._locks import AnyLock, RLock

__all__ = ["WithLock"]


class OnlyWithLock:
    """A method that an object which was made without a lock does not have, as hasattr() is to tell."""

    def __init__(self, method):
        functools.update_wrapper(self, method)

    def __get__(self, owner, cls=None):
        if owner is None:
            return self.__wrapped__
        if owner._lock is False:
            raise AttributeError(f"the {type(owner).__name__} was made without a lock")
        return types.MethodType(self.__wrapped__, owner)


class WithLock:
    """The methods of values and arrays for changes in several steps.

    `_lock` is the lock, True for that of its own cell that nobody has asked for yet, or False.
    """

    __slots__ = ()

    @staticmethod
    def _check_lock(lock):
        if not isinstance(lock, bool) and lock is not None and not hasattr(lock, "acquire"):
            raise AttributeError(f"{lock!r} has no method 'acquire'")
        return lock is None or lock

    def _lock_state(self):
        lock = self._lock
        is_own = isinstance(lock, AnyLock) and (lock._identity, lock._index) == (self._identity, self._index)
        return is_own or lock

    @OnlyWithLock
    def get_lock(self):
        """Return the lock that goes with it, for changes in several steps. AttributeError if it was made without.

        >>> value = pyconc.shared.Value("i", 1)
        >>> with value.get_lock():
        ...     value.value *= 2
        >>> value.value
        2
        """
        if self._lock is True:
            self._lock = RLock._at(_memory.heap_of(self), self._index, 0, RLock._kind)
        return self._lock

    @OnlyWithLock
    def acquire(self, *args, **kwargs):
        """Take its lock: get_lock().acquire(). AttributeError if it was made without.

        args, kwargs: what acquire() of that lock takes. Raises what that does.

            >>> value = pyconc.shared.Value("i")
            >>> value.acquire(timeout=1)
            True
            >>> value.release()
        """
        return self.get_lock().acquire(*args, **kwargs)

    @OnlyWithLock
    def release(self):
        """Release its lock: get_lock().release(). Raises what that does, AttributeError if it was made without.

        >>> value = pyconc.shared.Value("i")
        >>> value.acquire()
        True
        >>> value.release()
        """
        self.get_lock().release()

    def __enter__(self):
        return self.get_lock().__enter__()

    def __exit__(self, *error):
        return self.get_lock().__exit__(*error)
