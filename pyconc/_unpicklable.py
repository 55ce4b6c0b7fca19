"""The exception of a value in shared memory that cannot be unpickled."""

import pickle
import reprlib

__all__ = ["raise_from"]


def raise_from(error, what, place, process):
    """Raise an UnpicklingError that says what it was, with `place` for {}, and who wrote it, because of an error.

    What is no fault of the pickle is raised as it is.
    """
    if not isinstance(error, Exception) or isinstance(error, MemoryError):
        raise error
    raise pickle.UnpicklingError(
        f"{what.format(reprlib.repr(place))}, which process {process} wrote, cannot be unpickled: "
        f"{type(error).__name__}: {error}"
    ) from error
