"""The interpreter's own tests of multiprocessing's locks, semaphores, conditions, events, barriers, values, arrays,
lists, dicts and queues, run with those of pyconc.shared, and processes of each start method; what any dict is to do;
those of values and arrays with pyconc.multiprocessing; and those of containers with pyconc.Manager().
"""

import functools
import multiprocessing
import unittest
from unittest import mock

from test import _test_multiprocessing as upstream
from test import mapping_tests

import pyconc
import pyconc.multiprocessing
from pyconc import shared

KINDS = ["Lock", "Semaphore", "Condition", "Event", "Barrier", "Value", "Array", "SharedCTypes", "Containers", "Queue"]

SKIPS = {
    # A name, and why.
    "test_timeout of _TestSemaphore": "a time-out for a call that does not block is a ValueError, as threading's",
    "test_dict_iter of _TestContainers": "an iterator goes over what was there when it began",
    "test_dict_isinstance of _TestContainers": "asks for the class of a proxy; tests/test_shared_dict.py has the rest",
    **dict.fromkeys(
        (f"test_{name} of TestHashMappingProtocol" for name in ("getitem", "pop", "mutatingiteration", "eq")),
        "a key whose class has a hash of its own is refused, and an iterator goes over what was there when it began",
    ),
    "test_setdefault of TestHashMappingProtocol": "changes a value it was given; tests/test_shared_dict.py has more",
    "test_fromkeys of TestHashMappingProtocol": "it is one step, and does not call a subclass's __setitem__()",
    "test_repr_deep of TestHashMappingProtocol": "nests more dicts, since 3.15, than there can be shared objects",
    "test_repr of TestHashMappingProtocol": "its repr() says what it is",
    "test_copy of TestHashMappingProtocol": "a copy is a plain dict",
    "test_namespace of _TestContainers": "there is no namespace",
    "test_getobj_getlock_obj of _TestArray": "an array without a lock has get_obj(), too; tests/test_shared_array.py",
    "test_getobj_getlock of _TestValue": "a value without a lock has get_obj(), too; tests/test_shared.py",
}


class CountedList:
    """A list that processes append to, of which the tests ask only the length."""

    def __init__(self) -> None:
        self.length = shared.Counter()

    def append(self, item: object) -> None:
        self.length += 1

    def __len__(self) -> int:
        return int(self.length)


class Skipping:
    without: tuple[str, ...] = ()  # of what SKIPS has

    def setUp(self) -> None:
        for name, reason in SKIPS.items():
            method, _, kind = name.partition(" of ")
            if self._testMethodName == method not in self.without and any(
                base.__name__ == kind for base in type(self).__mro__
            ):
                self.skipTest(reason)
        super().setUp()


class SharedMixin(Skipping):
    """What the tests ask for by name."""

    TYPE = "shared"
    Lock = shared.Lock
    RLock = shared.RLock
    Semaphore = shared.Semaphore
    BoundedSemaphore = shared.BoundedSemaphore
    Condition = shared.Condition
    Event = shared.Event
    Barrier = shared.Barrier
    Value = shared.Value
    Array = shared.Array
    RawValue = staticmethod(functools.partial(shared.Value, lock=False))
    RawArray = staticmethod(functools.partial(shared.Array, lock=False))
    list = shared.List
    dict = shared.Dict
    JoinableQueue = shared.Queue
    Pipe = staticmethod(multiprocessing.Pipe)
    DummyList = staticmethod(CountedList)

    def setUp(self) -> None:
        super().setUp()
        # Which those of ctypes do not ask for by `self`.
        patch = mock.patch.object(upstream, "Value", shared.Value)
        patch.start()
        self.addCleanup(patch.stop)


class ManagerContainersTest(Skipping, upstream._TestContainers, unittest.TestCase):
    """What is asked of a manager's list, dict and namespace; the rest of what it has is asked below."""

    TYPE = "manager"
    without = ("test_namespace",)
    manager = pyconc.Manager()
    list = manager.list
    dict = manager.dict
    Namespace = manager.Namespace
    Queue = manager.Queue


class SharedDictTest(Skipping, mapping_tests.TestHashMappingProtocol):
    """What dict's own tests, and those of its kin, ask of any mapping."""

    type2test = shared.Dict


for method in ("fork", "spawn"):
    context = multiprocessing.get_context(method)
    for kind in KINDS:
        name = f"Shared{kind}In{method.capitalize()}Test"
        members = {"Process": context.Process, "__module__": __name__}
        # Other tests put in their queues what they test, which ours refuse.
        members["Queue"] = shared.Queue if kind in ("Queue", "Containers") else staticmethod(context.Queue)
        base = getattr(upstream, f"_Test{kind}")
        globals()[name] = type(name, (SharedMixin, base, unittest.TestCase), members)


class OfContextMixin(SharedMixin):
    """The values and arrays of a context of pyconc.multiprocessing, which are standard ones without a lock."""

    without = ("test_getobj_getlock", "test_getobj_getlock_obj")


for kind in ("Value", "Array", "SharedCTypes"):
    context = pyconc.multiprocessing.get_context("fork")
    name = f"OfContext{kind}Test"
    members = {"Process": context.Process, "Queue": staticmethod(context.Queue), "__module__": __name__}
    members |= {made: getattr(context, made) for made in ("Value", "Array", "RawValue", "RawArray")}
    globals()[name] = type(name, (OfContextMixin, getattr(upstream, f"_Test{kind}"), unittest.TestCase), members)
