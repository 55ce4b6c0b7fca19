"""Small values that travel between processes without a pickle."""

import math
import random
import sys

import pytest

from pyconc import _core

PLAIN = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    0.0,
    -0.0,
    math.pi,
    math.inf,
    "",
    "text",
    "\0",
    b"",
    bytes(range(100)),
    (),
    (1,),
    (None, (True, ("x", (2.5, b"y")))),
    ("x" * 10,) * 10,
]


class Number(int):
    pass


class Pair(tuple):
    pass


OTHERS = [2**63, -(2**63) - 1, "\xe9", "\ud800", "x" * 200, bytes(200), (1,) * 100, [], {}, {1}, 1j, bytearray(), int]
OTHERS += [Number(1), Pair((1,)), (1, []), ((((((),),),),),), ...]


def is_same(value, other):
    if type(value) is not type(other):
        return False
    if type(value) is tuple:
        return len(value) == len(other) and all(map(is_same, value, other))
    return value == other and repr(value) == repr(other)


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_a_plain_value_comes_back_the_same(value):
    stream = _core.scalars_dumps(value)
    assert is_same(_core.scalars_loads(stream), value)


def test_nan_comes_back():
    assert math.isnan(_core.scalars_loads(_core.scalars_dumps(math.nan)))


@pytest.mark.parametrize("value", OTHERS, ids=lambda value: repr(value)[:20])
def test_everything_else_is_pickled(value):
    assert _core.scalars_dumps(value) is None


def test_values_do_not_gain_references():
    value = (str(123456), 123456789, 1.5)
    before = [sys.getrefcount(item) for item in value]
    for _ in range(100):
        _core.scalars_loads(_core.scalars_dumps(value))
    assert [sys.getrefcount(item) for item in value] == before


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_a_stream_that_is_cut_or_too_long_is_refused(value):
    stream = _core.scalars_dumps(value)
    for size in range(len(stream)):
        with pytest.raises(ValueError):
            _core.scalars_loads(stream[:size])
    with pytest.raises(ValueError):
        _core.scalars_loads(stream + b"n")


def test_a_stream_of_tuples_in_tuples_without_end_is_refused():
    with pytest.raises(ValueError, match="damaged"):
        _core.scalars_loads(b"(\x01" * 100_000 + b"n")


def test_damaged_streams_give_a_plain_value_or_are_refused():
    rng = random.Random(5)
    streams = [_core.scalars_dumps(value) for value in PLAIN]
    refused = 0
    for _ in range(20_000):
        stream = bytearray(rng.choice(streams))
        for _ in range(rng.randint(1, 4)):
            stream[rng.randrange(len(stream))] = rng.choice([rng.randrange(256), *b"ntfidsb("])
        try:
            value = _core.scalars_loads(bytes(stream))
        except ValueError:
            refused += 1
        else:
            assert _core.scalars_dumps(value) == bytes(stream) or value != value
    assert 0 < refused < 20_000
