"""pyconc.shared.Dict: a dict's behaviour and its keys, also beside others who change it."""

import datetime
import enum
import gc
import itertools
import math
import os
import pickle
import textwrap
import threading
import uuid
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from support import CHARACTERS, SANITIZED, run_script

import pyconc
from pyconc import shared

try:
    import numpy  # here, as it starts threads
except ImportError:
    numpy = None
try:
    from hypothesis import settings, strategies
    from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
except ImportError:
    settings = None

# Each is another key, and has no equal but itself.
KEYS = [
    *[None, 0, 1, -1, 2**61 - 1, 2**61, -(2**61), 2**64, 10**40, 1.5, -1.5, 5e-324, float("inf"), 1j, 1 + 2j, ...],
    *["", "a", "\xe9\u20ac", "\ud800", "x" * 126, "x" * 127, "\xe9" * 999, b"", b"a", b"\x80", b"x" * 999],
    *[(), (1,), ((1,),), (1, "a", None), ("\xe9",), ((((((1,),),),),),), tuple(range(99)), ("S", b"S"), (1.5,)],
    *[frozenset(), frozenset([1]), frozenset([1, "a", 1.5]), frozenset([frozenset()]), (frozenset(),), ("a", 1, None)],
]

WINTER = datetime.datetime(2026, 1, 1)
UTC, BERLIN = datetime.timezone.utc, datetime.timezone(datetime.timedelta(hours=1))

# The same, of classes of libraries.
KEYS += [
    *[WINTER, WINTER.date(), WINTER.time(), WINTER.replace(tzinfo=BERLIN), WINTER.replace(tzinfo=UTC)],
    *[datetime.timedelta(0), datetime.timedelta(-1, 5, 7), range(0), range(1), range(3), range(0, 4, 2)],
    *[PurePosixPath("/a"), PurePosixPath("/A"), PureWindowsPath("/a"), Decimal("0.1"), Decimal("-Infinity")],
    *[Fraction(1, 3), Fraction(10**400, 3), uuid.UUID(int=1), int, str, shared.Dict, os.path.join],
]

# Each line is one key.
EQUALS = [
    [2, Decimal(2), Fraction(4, 2), 2.0],
    [0.5, Decimal("0.50"), Fraction(1, 2)],
    [Decimal("0.1"), Fraction(1, 10)],
    [float("inf"), Decimal("inf")],
    [(Decimal(1), WINTER), (1, WINTER.replace(fold=1))],
    [WINTER.replace(tzinfo=UTC), WINTER.replace(tzinfo=BERLIN, hour=1)],
    [datetime.timedelta(1), datetime.timedelta(hours=24)],
    [Path("/a"), PurePosixPath("/a")],
    [PureWindowsPath("/a"), PureWindowsPath(r"\A")],
    [range(0), range(5, 5)],
    [range(2, 3), range(2, 9, 7)],
    [range(0, 4, 2), range(0, 3, 2)],
    [1, True, 1.0, 1 + 0j],
    [0, False, 0.0, -0.0, 0j, complex(0, -0.0)],
    [2**62, 2.0**62],
    [int(1e300), 1e300],
    [complex(0.0, 1), complex(-0.0, 1)],
    [(1, (2, "a")), (True, (2.0, "a")), (1.0, (2 + 0j, "a"))],
    [(0.0, "\xe9" * 99), (0, "\xe9" * 99)],
    [frozenset([1, 2, "a"]), frozenset(["a", 2.0, True])],
    [float("nan"), -float("nan")],
]


class Text(str):
    pass


class Colour(str, enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Plain(enum.Enum):
    ONE = 1
    TWO = 2


class Odd(str):
    __hash__ = str.__hash__

    def __eq__(self, other):
        return True


class Twice(datetime.tzinfo):
    """A zone in which each time is there twice."""

    at = datetime.datetime(2026, 1, 1)

    def utcoffset(self, when):
        return datetime.timedelta(hours=when.fold)


Twice.at = Twice.at.replace(tzinfo=Twice())


def shown(key):
    """Like repr(), which says the items of a set in an order that is its own business."""
    return sorted(map(repr, key)) if isinstance(key, frozenset) else repr(key)


def is_same(ours, standard):
    copies = [[(shown(key), repr(value)) for key, value in table.items()] for table in (ours.copy(), standard)]
    return copies[0] == copies[1] and len(ours) == len(standard)


# ---- keys ----


def test_keys_that_differ_are_different_and_come_back_the_same():
    table = shared.Dict()
    for place, key in enumerate(KEYS):
        assert key not in table
        table[key] = place
    assert list(map(shown, table)) == list(map(shown, KEYS))
    assert [table[key] for key in KEYS] == list(table.values()) == list(range(len(KEYS)))
    for key in KEYS:
        del table[key]
    assert table == {}


@pytest.mark.parametrize("keys", EQUALS, ids=lambda keys: str(shown(keys[0]))[:20])
def test_keys_that_are_equal_are_one_and_show_the_first(keys):
    for first, second in itertools.product(keys, repeat=2):
        table = shared.Dict({first: "a"})
        table[second] = "b"
        table.update({first: "b"})
        assert [shown(key) for key in table] == [shown(first)]
        assert table[first] == table.get(second) == table.setdefault(second, "c") == "b"
        assert second in table
        assert table.popitem()[1] == "b"
        assert table.pop(first, None) is None


@pytest.mark.skipif(numpy is None, reason="needs numpy")
def test_scalars_of_numpy_are_the_numbers_and_strings_that_they_equal():
    table = shared.Dict({1: "int", 0.1: "float", "a": "str", b"a": "bytes", 1j: "complex"})
    whole = [numpy.int64(1), numpy.uint8(1), numpy.bool_(True), numpy.float32(1)]
    for scalar in (*whole, numpy.float64(0.1), numpy.str_("a")):
        assert table[scalar] == table[scalar.item()]
        assert (scalar, 2) not in table
        table[(scalar, 2)] = "pair"
        assert table.pop((scalar.item(), 2)) == "pair"
    assert numpy.float32(0.1) not in table
    assert (table[numpy.bytes_(b"a")], table[numpy.complex128(1j)]) == ("bytes", "complex")
    table[numpy.float64("nan")] = "nan"
    assert table[math.nan] == "nan"
    with pytest.raises(TypeError, match="and no datetime64"):
        table[numpy.datetime64("2026-01-01")]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_the_main_program_has_is_the_same_key_where_it_is_run_again(method, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import enum, multiprocessing, sys
            import pyconc

            class Colour(enum.Enum):
                RED = 1

            def paint(table):
                assert Colour.__module__ == "__mp_main__"
                for key in list(table):
                    table[key] += 1

            if __name__ == "__main__":
                table = pyconc.shared.Dict({Colour.RED: 1, Colour: 2, paint: 3})
                process = multiprocessing.get_context(sys.argv[1]).Process(target=paint, args=(table,))
                process.start()
                process.join()
                print(process.exitcode, table == {Colour.RED: 2, Colour: 3, paint: 4}, len(table))
            """
        )
    )
    assert run_script(program, method).stdout == "0 True 3\n"


class Real(float):
    pass


def test_floats_are_the_keys_that_they_are_in_a_dict():
    edges = [0.0, 0.5, 1.0, 2.0**52 + 0.5, 2.0**53, 2.0**62, 2.0**63, 2.0**64, 1.7e308, math.inf, 5e-324, 2.2e-308]
    floats = [way * each for each in edges for way in (1, -1)]
    floats += [math.nextafter(each, to) for each in edges for to in (-math.inf, math.inf)]
    whole = [int(each) + more for each in floats if abs(each) < math.inf for more in (-1, 0, 1)]
    ours, standard = shared.Dict(), {}
    for number in [*floats, *whole, True, False]:
        for key in (number, (number, "a")):
            assert (key in ours) is (key in standard), key
            ours[key] = standard[key] = repr(key)
    assert is_same(ours, standard)
    # A class of its own goes another way, to the same place.
    assert [ours[Real(each)] for each in floats] == [standard[each] for each in floats]
    ours[math.nan] = "nan"
    assert ours[-math.nan] == ours[Real("nan")] == "nan"
    assert len(ours) == len(standard) + 1


def test_a_class_of_its_own_that_leaves_hash_and_equality_alone_is_what_it_derives_from():
    table = shared.Dict({Text("a"): 1, Colour.RED: 2, Number.ONE: 3, Plain.ONE: 4, (Text("b"), Number.ONE): 5})
    assert (table["a"], table["red"], table[1], table[Plain.ONE], table[("b", True)]) == (1, 2, 3, 4, 5)
    assert list(map(type, table)) == [Text, Colour, Number, Plain, tuple]
    assert Plain.TWO not in table
    assert type(list(table)[4][0]) is Text


@pytest.mark.parametrize("key", [[], {}, (1, []), {1: 2}.keys()], ids=str)
def test_what_has_no_hash_is_refused_as_dict_does(key):
    with pytest.raises(TypeError, match="unhashable"):
        shared.Dict(a=1)[key]


@pytest.mark.parametrize(
    "key",
    [object(), Odd("a"), (1, object()), shared, print, Twice.at, WINTER.timetz().replace(tzinfo=BERLIN)],
    ids=lambda key: str(type(key)),
)
def test_what_has_no_form_for_all_processes_is_refused(key):
    table = shared.Dict(a=1)
    for use in (
        lambda: table[key],
        lambda: table.__setitem__(key, 1),
        lambda: key in table,
        lambda: table.get(key),
        lambda: table.pop(key, None),
        lambda: table.setdefault(key),
        lambda: table.update({"b": 1, key: 1}),
    ):
        with pytest.raises(TypeError, match="a key of a shared Dict is"):
            use()
    assert table == {"a": 1}


def look_up(table, keys):
    return [table[key] for key in keys]


def test_keys_are_the_same_in_a_process_whose_hashes_differ():
    keys = [*KEYS, Plain.ONE, Colour.RED, frozenset("abcdefgh")]
    table = shared.Dict(zip(keys, range(len(keys))))
    script = run_script(
        """
        import multiprocessing, os, sys
        from pyconc import shared

        def look(table, keys, hashes):
            hashes.append(hash("a"))
            assert [table[key] for key in keys] == list(range(len(keys)))
            table[frozenset("hgfedcba")] = "seen"

        if __name__ == "__main__":
            keys = ["a", b"a", (1, "a"), frozenset("abcdefgh"), 1.5, "\\xe9", 2**70]
            table, hashes = shared.Dict(zip(keys, range(len(keys)))), shared.List()
            for i in "12":
                os.environ["PYTHONHASHSEED"] = i
                process = multiprocessing.get_context("spawn").Process(target=look, args=(table, keys, hashes))
                process.start()
                process.join()
                assert process.exitcode == 0
                assert table[frozenset("abcdefgh")] == "seen"
                table[frozenset("abcdefgh")] = 3
            print(len(set(hashes)))
    """
    )
    assert script.stdout == "2\n", script
    with pyconc.ProcessPoolExecutor(1) as pool:
        assert pool.submit(look_up, table, keys).result() == list(range(len(keys)))


# ---- as dict has it ----


def outcome(function, *args):
    try:
        return function(*args)
    except Exception as error:
        return type(error), error.args if isinstance(error, KeyError) else None


def do(change):
    """Does it to a dict of each kind, and compares what comes of it and what the dicts are then."""
    content = {"a": 1, 2: "b", (3, 4): None}
    ours, standard = shared.Dict(content), dict(content)
    assert outcome(change, ours) == outcome(change, standard)
    assert is_same(ours, standard)


def test_methods_do_what_those_of_dict_do():
    for key in ("a", 2.0, (3, 4), (9, 9), "z"):
        do(lambda table, key=key: table[key])
        do(lambda table, key=key: table.__delitem__(key))
        do(lambda table, key=key: (table.get(key), table.get(key, 5), key in table))
        do(lambda table, key=key: table.pop(key))
        do(lambda table, key=key: table.pop(key, [5]))
        do(lambda table, key=key: table.__setitem__(key, [1]))
        do(lambda table, key=key: table.setdefault(key, [1]))
        do(lambda table, key=key: table.setdefault(key))
    do(lambda table: table.popitem())
    do(lambda table: [table.popitem() for _ in range(4)])
    do(lambda table: table.clear())
    do(lambda table: table.update({"a": 2}, z=3))
    do(lambda table: table.update([("a", 2), ("z", 3), ("a", 4)]))
    do(lambda table: table.update(self=3, mapping=4))
    do(lambda table: table.update())
    do(lambda table: table.update(3))
    do(lambda table: table.update(table))
    do(lambda table: (table | {"a": 2}, {"a": 2} | table, table.copy()))
    do(lambda table: table | [("a", 2)])
    do(lambda table: table.__ior__([("a", 2)]).copy())
    do(lambda table: (list(table), list(reversed(table)), len(table), bool(table), str(table)))
    do(lambda table: (list(table.keys()), list(table.values()), list(table.items())))
    do(lambda table: [list(reversed(view())) for view in (table.keys, table.values, table.items)])
    do(lambda table: [repr(view()) for view in (table.keys, table.values, table.items)])
    do(lambda table: ("b" in table.values(), (2.0, "b") in table.items(), ("a", 2) in table.items()))
    do(lambda table: (table.keys() | {5}, table.keys() & {2, 5}, table.items() - {("a", 1)}, table.keys() == {"a", 2}))
    do(lambda table: ({**table}, dict(table), table.keys().mapping == table, table.keys().isdisjoint([5])))
    do(lambda table: hash(table))
    do(lambda table: table.get())
    do(lambda table: table.pop())
    do(lambda table: type(table).fromkeys("ab", 1) == {"a": 1, "b": 1})
    do(lambda table: type(table)([("a", 1)], b=2) == {"a": 1, "b": 2})
    do(lambda table: type(table)(3))


def test_dicts_are_compared_by_value():
    table = shared.Dict(a=1, b=2)
    assert table == shared.Dict(b=2, a=1) == {"b": 2, "a": 1} == table
    assert table != {"a": 1}
    assert table != [("a", 1), ("b", 2)]
    assert isinstance(table, MutableMapping)
    assert repr(table) == "<pyconc.shared.Dict {'a': 1, 'b': 2}>"
    assert table | table == {"a": 1, "b": 2}
    assert type(table | table) is dict
    assert not shared.Dict()


def test_a_subclass_may_have_missing_and_its_own_arguments():
    class Own(shared.Dict):
        def __new__(cls):
            return super().__new__(cls, a=1)

        def __missing__(self, key):
            return f"no {key}"

    table = Own()
    assert (table["a"], table["b"], table.get("b"), "b" in table) == (1, "no b", None, False)
    assert Own.fromkeys("b", 2) == {"a": 1, "b": 2}


def test_an_iterator_goes_over_what_was_there():
    table = shared.Dict.fromkeys(range(3))
    keys, pairs, view = iter(table), iter(table.items()), table.values()
    table.clear()
    table["new"] = 5
    assert list(keys) == [0, 1, 2]
    assert list(pairs) == [(0, None), (1, None), (2, None)]
    assert list(view) == [5]


def test_values_come_back_the_same():
    values = [None, True, 1, 2**61, -(2**70), 1.5, "", "\xe9", b"\x80" * 300, (1, ("a",)), [1, [2]], {"a": {1}}, int]
    table = shared.Dict()
    for value in values:
        table["new"] = table["old"] = value
        assert repr(table["old"]) == repr(table.pop("new")) == repr(value)


def test_a_plain_value_is_a_copy_and_a_shared_one_is_itself():
    table = shared.Dict(plain=[1], shared=shared.List([1]))
    table["plain"].append(2)
    table["shared"].append(2)
    assert (table["plain"], table["shared"][:]) == ([1], [1, 2])


class Refused:
    def __reduce__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize("make", [Refused, lambda: lambda: 0, threading.Lock])
def test_what_cannot_be_pickled_changes_nothing(make):
    value = make()
    table = shared.Dict(a=1)
    for change in (
        lambda: table.__setitem__("a", value),
        lambda: table.__setitem__("b", value),
        lambda: table.setdefault("b", value),
        lambda: table.update({"a": 2, "b": value}),
    ):
        with pytest.raises((ZeroDivisionError, TypeError, AttributeError, pickle.PicklingError)):
            change()
        assert table == {"a": 1}
    assert table.setdefault("a", value) == 1  # which needs no pickle of it


def refuse():
    raise ZeroDivisionError


class Bomb:
    def __reduce__(self):
        return refuse, ()


def set_bomb(table, key):
    table[key] = Bomb()
    return os.getpid()


def test_what_cannot_be_unpickled_harms_nothing_else():
    table = shared.Dict(a=1, b=0, c=3)
    with pyconc.ProcessPoolExecutor(1) as pool:
        writer = pool.submit(set_bomb, table, "b").result()
    of_key = f"^the value of 'b' in a shared Dict, which process {writer} wrote, cannot be unpickled: ZeroDivisionError"
    for look, message in (
        (lambda: table["b"], of_key),
        (lambda: table.get("b"), of_key),
        (lambda: table.setdefault("b"), of_key),
        (lambda: table.add("b"), of_key),
        (lambda: table.copy(), of_key),
        (lambda: list(table.values()), f"^value number 1 of a shared Dict, which process {writer} wrote"),
    ):
        with pytest.raises(pickle.UnpicklingError, match=message) as caught:
            look()
        assert type(caught.value.__cause__) is ZeroDivisionError
    assert (table["a"], table["c"], list(table), "b" in table) == (1, 3, ["a", "b", "c"], True)
    with pytest.raises(pickle.UnpicklingError, match=of_key):
        table.pop("b")
    assert table == {"a": 1, "c": 3}


class Interruption(BaseException):
    pass


def interrupt(kind):
    raise kind


class Interrupting:
    def __init__(self, kind):
        self.kind = kind

    def __reduce__(self):
        return interrupt, (self.kind,)


@pytest.mark.parametrize("kind", [Interruption, KeyboardInterrupt, MemoryError])
def test_what_is_no_fault_of_a_value_is_raised_as_it_is(kind):
    with pytest.raises(kind):
        _ = shared.Dict(a=Interrupting(kind))["a"]


if settings is not None:

    class Machine(RuleBasedStateMachine):
        keys = strategies.one_of(
            strategies.integers(-3, 20),
            strategies.floats(-3, 3).map(round).map(float),
            strategies.booleans(),
            strategies.text("a\xe9", max_size=2),
            strategies.tuples(strategies.sampled_from([0, 1.0, True, "a"])),
            strategies.frozensets(strategies.sampled_from([0, 1.0, "a"])),
        )
        values = strategies.one_of(
            strategies.integers(),
            strategies.text(CHARACTERS, max_size=20),
            strategies.none(),
            strategies.lists(strategies.integers(), max_size=3),
            strategies.integers(3000, 6000).map(bytes),
        )
        many = strategies.lists(strategies.tuples(keys, values), max_size=6)

        def __init__(self):
            super().__init__()
            self.ours, self.standard = shared.Dict(), {}

        def both(self, change):
            assert outcome(change, self.ours) == outcome(change, self.standard)

        @rule(key=keys, value=values)
        def set(self, key, value):
            self.both(lambda table: table.__setitem__(key, value))

        @rule(key=keys, value=values)
        def set_default(self, key, value):
            self.both(lambda table: table.setdefault(key, value))

        @rule(key=keys)
        def delete(self, key):
            self.both(lambda table: table.__delitem__(key))

        @rule(key=keys)
        def pop(self, key):
            self.both(lambda table: table.pop(key, "none"))

        @rule()
        def pop_the_last(self):
            self.both(lambda table: table.popitem())

        @rule()
        def pop_the_first(self):
            self.both(lambda table: table.pop(next(iter(table), None), None))

        @rule(pairs=many)
        def update(self, pairs):
            self.both(lambda table: table.update(pairs))

        @rule(key=keys)
        def look(self, key):
            self.both(lambda table: (table.get(key), key in table))

        @rule()
        def clear(self):
            self.both(lambda table: table.clear())

        @invariant()
        def is_same(self):
            assert is_same(self.ours, self.standard)

    TestMachine = Machine.TestCase
    TestMachine.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)


# ---- beside others ----


def set_many(table, name, count):
    for i in range(count):
        table[name, i] = i
        if i % 4 == 3:
            del table[name, i - 1]


def check_set(table, names, count):
    assert table == {(name, i): i for name in names for i in range(count) if i % 4 != 2}
    for name in names:
        assert [i for other, i in table if other == name] == [i for i in range(count) if i % 4 != 2]


def test_no_key_is_lost_among_processes():
    table = shared.Dict()
    with pyconc.ProcessPoolExecutor(2) as pool:
        running = [pool.submit(set_many, table, name, 2000) for name in ("a", "b")]
        set_many(table, "c", 2000)
        for future in running:
            future.result()
    check_set(table, "abc", 2000)


def test_no_key_is_lost_among_threads():
    table = shared.Dict()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(set_many, [table] * 3, "abc", [400] * 3))
    check_set(table, "abc", 400)


def add_many(table, n, count):
    for _ in range(count):
        table.add("sum", n)
        table.add(2.0)


def test_add_loses_nothing_among_processes():
    table = shared.Dict(sum=0)
    with pyconc.ProcessPoolExecutor(2) as pool:
        running = [pool.submit(add_many, table, n, 300) for n in (1, 2**61)]
        add_many(table, -7, 300)
        for future in running:
            future.result()
    assert table == {"sum": 300 * (2**61 - 6), 2: 900}


def test_add_takes_what_plus_takes():
    table = shared.Dict(word=2**61 - 2, real=1.5, text="a", bool=True, none=None)
    assert (table.add("word"), table.add("word"), table.add("word", -5)) == (2**61 - 2, 2**61 - 1, 2**61)
    assert (table.add("real", 2), table.add("text", "b"), table.add("bool"), table.add("new", 1.5)) == (
        1.5,
        "a",
        True,
        0,
    )
    for n in (1, "a"):
        with pytest.raises(TypeError):
            table.add("none", n)
    assert table == {"word": 2**61 - 5, "real": 3.5, "text": "ab", "bool": 2, "none": None, "new": 1.5}


def claim(table, name, count):
    claimed = sum(table.setdefault(i, name) == name for i in range(count))
    taken = [table.pop(("take", i), None) for i in range(count)]
    return claimed, [i for i in taken if i is not None]


def test_each_key_is_set_by_default_and_taken_once():
    table = shared.Dict({("take", i): i for i in range(1000)})
    with pyconc.ProcessPoolExecutor(2) as pool:
        running = [pool.submit(claim, table, name, 1000) for name in ("a", "b")]
        results = [claim(table, "c", 1000), *[future.result() for future in running]]
    assert sum(claimed for claimed, _ in results) == len(table) == 1000
    assert sorted(i for _, taken in results for i in taken) == list(range(1000))


def test_signal_handlers_and_finalizers_may_use_it():
    run_script("""
        import signal
        from pyconc import shared

        table, ended = shared.Dict(), []
        def handle(*_):
            table["handler"] = [1]
            ended.append(1)
            if len(ended) < 20:  # not by an interval: where this takes longer, handlers would interrupt one another
                signal.setitimer(signal.ITIMER_REAL, 0.001)
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        class Cycle:
            def __init__(self):
                self.me = self
            def __del__(self):
                table["finalizer"] = None
        while len(ended) < 20:
            table["main"] = [Cycle().me is None]
            table.pop("handler", None)
        assert {"main"} <= set(table) <= {"handler", "main", "finalizer"}
    """)


# ---- memory ----


def memory():
    shared._memory.heap().used()
    return os.fstat(shared._memory.heap().fileno()).st_blocks * 512


def test_memory_comes_with_values_and_goes_with_them():
    gc.collect()  # what other tests have left
    table = shared.Dict()
    before = memory()
    table.update(dict.fromkeys(range(100), b"x" * 100_000))
    assert 10_000_000 < table.nbytes <= memory() + 4096
    for _ in range(500):
        table[7] = b"y" * 100_000
    assert table.nbytes < 4 * 10_000_000
    for i in range(99):
        table.pop(i)
    assert table.nbytes < 2_000_000
    table.clear()
    assert table.nbytes <= 65536 + 128
    table["a"] = b"x" * 10_000_000
    del table
    assert memory() <= before + 32768  # of the table that says whose memory it is


@pytest.mark.skipif(SANITIZED, reason="the sanitizer ends a process that has no memory")
def test_a_shortage_is_a_memory_error_and_changes_nothing():
    run_script("""
        import resource
        import pytest
        from pyconc import shared

        def fill(table, value):
            count = 0
            with pytest.raises(MemoryError):
                while True:
                    table[count] = value
                    count += 1
            assert len(table) == count and table[0] == table[count - 1] == value and count not in table

        table = shared.Dict()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
        fill(table, b"x" * 100_000)
        table.popitem()
        table.clear()
        fill(table, b"y" * 100_000)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    """)
