"""The memory that shared objects lie in.

A process makes a heap with its first object, unless objects of another process have brought theirs: so the processes
of a program have one, as a rule, and a few work as well.
"""

import os
from multiprocessing import context, reduction

from pyconc import _core
from pyconc._process import pickling

__all__ = ["heap", "heap_of", "known_heap"]

_heaps = {}  # by identity, for good: the kernel may know of locks in it


def heap():
    """Return the heap for new objects."""
    # Two threads may both make one: either is good.
    return next(iter(_heaps.values()), None) or _keep(_core.SharedHeap())


def heap_of(cell):
    """Return the heap that an object of this process lies in."""
    return _heaps[cell._identity]


def known_heap(identity):
    """Return the heap of this identity, or None if this process has had no object of it."""
    return _heaps.get(identity)


def _keep(heap):
    return _heaps.setdefault(heap.identity, heap)


def _before_fork():
    for heap in list(_heaps.values()):
        heap.before_fork()


def _after_fork():
    for heap in list(_heaps.values()):
        heap.after_fork()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def _reduce_heap(heap):
    if context.get_spawning_popen() is not None:
        return _heap_of_fd, (heap.identity, reduction.DupFd(heap.fileno()))
    return _heap_of_process, (heap.identity, os.getpid(), heap.fileno())


def _heap_of_fd(identity, passed):
    fd = passed.detach()
    try:
        return _heaps.get(identity) or _keep(_core.SharedHeap(fd))
    finally:
        os.close(fd)


def _heap_of_process(identity, pid, fd):
    heap = _heaps.get(identity)
    if heap is None:
        try:
            copy = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
            try:
                heap = _keep(_core.SharedHeap(copy))
            finally:
                os.close(copy)
        except OSError as error:
            raise RuntimeError(f"the memory of a shared object cannot be had of process {pid}: {error}") from error
        if heap.identity != identity:
            raise RuntimeError(f"the memory of a shared object is gone with process {pid}")
    return heap


pickling.modules_of_known_reducers.add(__name__)
reduction.register(_core.SharedHeap, _reduce_heap)
