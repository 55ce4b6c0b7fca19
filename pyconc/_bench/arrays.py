"""Large arrays and strings for the workers of a pool, in a module that workers of every kind can import."""

import functools
import os
import time

__all__ = ["MB", "WITHOUT_NUMPY", "array_of", "first_byte", "numpy", "worker_with_array"]

try:
    import numpy
except ImportError as error:
    numpy = None
    WITHOUT_NUMPY = f"numpy's arrays, bytearrays are sent instead: {error}"

MB = 10**6


@functools.cache
def array_of(size_bytes, kind="array"):
    """An array, or a string of that type, which each process makes once: filling it is not what is measured."""
    if kind != "array":
        one, size = {"bytes": (b"x", 1), "bytearray": (bytearray(b"x"), 1), "str": ("\u20ac", 2)}[kind]
        return one * (size_bytes // size)
    return bytearray(size_bytes) if numpy is None else numpy.zeros(size_bytes, numpy.uint8) + 1


def first_byte(array):
    return array[0]


def worker_with_array(*array):
    """Which worker this is, once it has its array; it takes long enough for another to take the next such task."""
    array_of(*array)
    time.sleep(0.005)
    return os.getpid()
