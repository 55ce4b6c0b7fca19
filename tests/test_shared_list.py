"""pyconc.shared.List: a list's behaviour, also beside others who change it."""

import gc
import os
import pickle
import threading
from collections.abc import MutableSequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import CHARACTERS, SANITIZED, run_script

import pyconc
from pyconc import shared

try:
    from hypothesis import settings, strategies
    from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
except ImportError:
    settings = None

VALUES = [
    *[None, True, False, 0, -1, 2**61 - 1, -(2**61), 2**61, 2**63, -(2**63), 10**40, 1.5, float("inf"), -0.0],
    *["", "text", "\xe9\u20ac", "\ud800", "x" * 127, "x" * 1000, b"", b"\x80", b"\x80" * 300, (), (1, ("a", None))],
    *[[], [1, [2]], {"a": {1, 2}}, 1j, bytearray(b"ab"), int, ..., ((((((1,),),),),),)],
]


def is_same(ours, standard):
    return repr(ours[:]) == repr(standard) and list(map(type, ours)) == list(map(type, standard))


# ---- as list has it ----


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_a_value_comes_back_the_same(value):
    items = shared.List([value])
    items.append(value)
    items[0] = value
    assert is_same(items, [value, value])
    assert is_same([items.pop(0)], [value])


INDEXES = [0, 1, -1, 4, 5, -5, -6, 100, -100, 2**70, 1.0, "0", None]
SLICES = [
    slice(first, last, step)
    for first in (None, 0, 1, 3, -2, 9)
    for last in (None, 0, 2, -1, 9)
    for step in (None, 2, -1, -2)
]


def outcome(function, *args):
    try:
        return function(*args)
    except Exception as error:
        return type(error)


def do(change):
    """Does it to a list of each kind, and compares what comes of it and what the lists are then."""
    ours, standard = shared.List(range(5)), list(range(5))
    assert outcome(change, ours) == outcome(change, standard)
    assert is_same(ours, standard)


@pytest.mark.parametrize("key", [*INDEXES, *SLICES], ids=str)
def test_keys_are_taken_as_a_list_takes_them(key):
    do(lambda items: items[key])
    do(lambda items: items.__delitem__(key))
    for values in ([], [7], [7, 8], [7, 8, 9], "ab", 3):
        do(lambda items, values=values: items.__setitem__(key, values))


@pytest.mark.parametrize("index", INDEXES[:9])
def test_insert_and_pop_take_what_a_list_takes(index):
    do(lambda items: items.insert(index, "new"))
    do(lambda items: items.pop(index))


def test_methods_do_what_those_of_list_do():
    do(lambda items: items.extend(iter("abc")))
    do(lambda items: items.extend(items))
    do(lambda items: items.extend(3))
    do(lambda items: items.append([1]))
    do(lambda items: items.clear())
    do(lambda items: (items.clear(), items.pop()))
    do(lambda items: items.reverse())
    do(lambda items: items.remove(3))
    do(lambda items: items.remove(7))
    do(lambda items: (items.index(3), items.index(3, 1, 4), items.count(3), 3 in items, 9 in items))
    do(lambda items: items.index(3, 4))
    do(lambda items: items.sort(reverse=True))
    do(lambda items: items.sort(key=lambda item: -item % 3))
    do(lambda items: (items.append("a"), items.sort()))
    do(lambda items: (items + [1], [1] + items, items * 2, 2 * items, items.copy()))
    do(lambda items: items + (1,))
    do(lambda items: items.__imul__(3)[:])
    do(lambda items: items.__imul__(0)[:])
    do(lambda items: items.__imul__(-1)[:])
    do(lambda items: items.__iadd__("ab")[:])
    do(lambda items: (list(items), list(reversed(items)), len(items), bool(items), str(items)))
    do(lambda items: hash(items))


def test_lists_are_compared_by_value():
    items = shared.List([1, 2])
    assert items == shared.List([1, 2]) == [1, 2] == items
    assert items != [1]
    assert items != (1, 2)
    assert [1] < items <= [1, 2]
    assert shared.List([2]) > items >= [1]
    assert isinstance(items, MutableSequence)
    assert repr(items) == "<pyconc.shared.List [1, 2]>"
    assert shared.List() == []
    assert not shared.List()
    with pytest.raises(TypeError):
        shared.List(3)


def test_an_iterator_goes_on_by_index():
    items = shared.List(range(3))
    iterator = iter(items)
    assert next(iterator) == 0
    items[1] = "new"
    items.append("last")
    assert list(iterator) == ["new", 2, "last"]
    iterator = iter(items)
    next(iterator)
    items.clear()
    assert list(iterator) == []


class Refused:
    def __reduce__(self):
        raise ZeroDivisionError


UNPICKLABLE = {
    "an object": Refused,
    "a lambda": lambda: lambda: 0,
    "a lock": threading.Lock,
}


@pytest.mark.parametrize("name", UNPICKLABLE)
def test_what_cannot_be_pickled_changes_nothing(name):
    value = UNPICKLABLE[name]()
    items = shared.List([1, 2, 3])
    error = ZeroDivisionError if isinstance(value, Refused) else (TypeError, AttributeError, pickle.PicklingError)
    for change in (
        lambda: items.append(value),
        lambda: items.extend([4, value]),
        lambda: items.insert(0, value),
        lambda: items.__setitem__(0, value),
        lambda: items.__setitem__(slice(1), [4, value]),
    ):
        with pytest.raises(error):
            change()
        assert items == [1, 2, 3]


def refuse():
    raise ZeroDivisionError


class Bomb:
    def __reduce__(self):
        return refuse, ()


def test_what_cannot_be_unpickled_harms_nothing_else():
    items = shared.List([1, Bomb(), 3])
    message = f"^item 1 of a shared List, which process {os.getpid()} wrote, cannot be unpickled: ZeroDivisionError"
    for look in (
        lambda: items[1],
        lambda: items[-2],
        lambda: items[:],
        lambda: items[::-1],
        lambda: items[1:2],
        lambda: list(items),
        lambda: items.index(3),
        lambda: items.sort(),
    ):
        with pytest.raises(pickle.UnpicklingError, match=message) as caught:
            look()
        assert type(caught.value.__cause__) is ZeroDivisionError
    assert (items[0], items[2], len(items)) == (1, 3, 3)
    items.append(Bomb())
    with pytest.raises(pickle.UnpicklingError, match=r"^item 3 of"):
        items.pop()
    del items[1]
    assert items == [1, 3]


if settings is not None:

    class Machine(RuleBasedStateMachine):
        values = strategies.one_of(
            strategies.integers(),
            strategies.text(CHARACTERS, max_size=20),
            strategies.none(),
            strategies.floats(allow_nan=False),
            strategies.lists(strategies.integers(), max_size=3),
            strategies.integers(3000, 6000).map(bytes),
        )
        many = strategies.lists(values, max_size=6)
        indexes = strategies.integers(-30, 30)
        slices = strategies.slices(30)

        def __init__(self):
            super().__init__()
            self.ours, self.standard = shared.List(), []

        def both(self, change):
            assert outcome(change, self.ours) == outcome(change, self.standard)

        @rule(value=values)
        def append(self, value):
            self.both(lambda items: items.append(value))

        @rule(values=many)
        def extend(self, values):
            self.both(lambda items: items.extend(values))

        @rule(index=indexes, value=values)
        def insert(self, index, value):
            self.both(lambda items: items.insert(index, value))

        @rule(index=indexes, value=values)
        def replace(self, index, value):
            self.both(lambda items: items.__setitem__(index, value))

        @rule(index=indexes)
        def pop(self, index):
            self.both(lambda items: items.pop(index))

        @rule(key=slices)
        def look(self, key):
            self.both(lambda items: items[key])

        @rule(key=slices)
        def delete(self, key):
            self.both(lambda items: items.__delitem__(key))

        @rule(key=slices, values=many)
        def replace_many(self, key, values):
            self.both(lambda items: items.__setitem__(key, values))

        @rule(value=values)
        def remove(self, value):
            self.both(lambda items: items.remove(value))

        @rule()
        def sort_and_reverse(self):
            self.both(lambda items: items.sort(key=repr))
            self.both(lambda items: items.reverse())

        @rule()
        def clear(self):
            self.both(lambda items: items.clear())

        @invariant()
        def is_same(self):
            assert is_same(self.ours, self.standard)

    TestMachine = Machine.TestCase
    TestMachine.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)


# ---- beside others ----


def append_many(items, name, count):
    for i in range(count):
        items.append((name, i))


def check_appended(items, names, count):
    assert sorted(items) == sorted((name, i) for name in names for i in range(count))
    for name in names:
        assert [item for item in items if item[0] == name] == [(name, i) for i in range(count)]


def test_no_item_is_lost_among_processes():
    items = shared.List()
    with pyconc.ProcessPoolExecutor(2) as pool:
        running = [pool.submit(append_many, items, name, 2000) for name in ("a", "b")]
        append_many(items, "c", 2000)
        for future in running:
            future.result()
    check_appended(items, "abc", 2000)


def test_no_item_is_lost_among_threads():
    items = shared.List()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(append_many, [items] * 3, "abc", [500] * 3))
    check_appended(items, "abc", 500)


def take_all(items):
    taken = []
    try:
        while True:
            taken.append(items.pop(0))
    except IndexError:
        return taken


def test_each_item_is_taken_once():
    items = shared.List(range(3000))
    with pyconc.ProcessPoolExecutor(2) as pool:
        running = [pool.submit(take_all, items) for _ in range(2)]
        taken = [take_all(items), *[future.result() for future in running]]
    assert sorted(item for part in taken for item in part) == list(range(3000))
    assert all(part == sorted(part) for part in taken)


def test_sort_and_remove_begin_anew_when_others_change_the_list():
    items = shared.List([3, 1, 2])
    late = [5, 4]

    def key(item):
        if late:
            items.append(late.pop())
        return item

    items.sort(key=key)
    assert items == [1, 2, 3, 4, 5]

    class Equal:
        def __eq__(self, other):
            if not late:
                late.append(items.pop(0))
            return other == 3

    items.remove(Equal())
    assert items == [2, 4, 5]


def test_signal_handlers_and_finalizers_may_use_it():
    run_script("""
        import signal
        from pyconc import shared

        items, ended = shared.List(), []
        def handle(*_):
            items.append("handler")
            ended.append(1)
            if len(ended) < 20:  # not by an interval: where this takes longer, handlers would interrupt one another
                signal.setitimer(signal.ITIMER_REAL, 0.001)
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        class Cycle:
            def __init__(self):
                self.me = self
            def __del__(self):
                items.append(None)
        while len(ended) < 20:
            items.append([Cycle().me is None])
            items[0] = None
        assert items.count("handler") >= 19  # one may have been replaced
    """)


# ---- memory ----


def memory():
    shared._memory.heap().used()
    return os.fstat(shared._memory.heap().fileno()).st_blocks * 512


def test_memory_comes_with_items_and_goes_with_them():
    gc.collect()  # what other tests have left
    items = shared.List()
    before = memory()
    items.extend([b"x" * 100_000] * 100)
    assert 10_000_000 < items.nbytes <= memory() + 4096
    for _ in range(500):
        items[7] = b"y" * 100_000
    assert items.nbytes < 4 * 10_000_000
    for _ in range(99):
        items.pop(0)
    assert items.nbytes < 2_000_000
    items.clear()
    assert items.nbytes <= 65536 + 128
    items.extend(["x" * 10] * 100_000)
    del items[1:]
    assert items.nbytes <= 65536 + 128
    items.append(b"x" * 10_000_000)
    del items
    assert memory() <= before + 32768  # of the table that says whose memory it is


@pytest.mark.skipif(SANITIZED, reason="the sanitizer ends a process that has no memory")
def test_a_shortage_is_a_memory_error_and_changes_nothing():
    run_script("""
        import resource
        import pytest
        from pyconc import shared

        def fill(items, value):
            count = 0
            with pytest.raises(MemoryError):
                while True:
                    items.append(value)
                    count += 1
            assert len(items) == count and items[0] == items[-1] == value

        items = shared.List()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
        fill(items, b"x" * 100_000)
        items.pop()
        items.clear()
        fill(items, b"y" * 100_000)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    """)


def test_where_files_have_a_limit_so_have_lists():
    run_script("""
        import resource
        import pytest
        from pyconc import shared

        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        items = shared.List(["x" * 100_000] * 100)
        with pytest.raises(MemoryError):
            while True:
                items.append("y" * 100_000)
        assert items[0] == "x" * 100_000 and items[-1] == "y" * 100_000
    """)


def test_a_fork_inherits_it_while_threads_change_it():
    run_script(
        """
        import os, threading
        from pyconc import shared

        items, done = shared.List(), shared.Event()
        def change():
            while not done.is_set():
                items.append("x" * 3000)
                if len(items) > 200:
                    items.clear()
        threads = [threading.Thread(target=change) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                for _ in range(100):
                    items.append("y" * 3000)
                    items[-1:]
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        done.set()
        for thread in threads:
            thread.join()
        assert set(items) <= {"x" * 3000, "y" * 3000}
    """,
        flags=("-W", "ignore::DeprecationWarning"),
    )
