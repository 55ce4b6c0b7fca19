"""Values and arrays of ctypes' structures, and of what else is no plain number, as multiprocessing has them."""

import ctypes
import gc
import multiprocessing

import pytest
from support import wait_until

import pyconc
from pyconc import shared

try:
    import numpy  # here, as it starts threads
except ImportError:
    numpy = None


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]


class Either(ctypes.Union):
    _fields_ = [("number", ctypes.c_uint32), ("bytes", ctypes.c_ubyte * 4)]


def double(point, points, text):
    point.x *= 2
    with points.get_lock():
        for each in points:
            each.y *= 2
    points[0] = Point(7, 7)
    text[:] = text[::-1]
    return point, points, text


def check_doubled(point, points, text):
    assert (point.x, point.y) == (6, 2)
    assert [(each.x, each.y) for each in points] == [(7, 7), (2, 6)]
    assert text[:] == "\U0001f600éa"


def make_three():
    point, points = shared.Value(Point, 3, y=2), shared.Array(Point, [(0, 1), (2, 3)])
    return point, points, shared.Array("u", "aé\U0001f600")


def test_a_worker_s_changes_are_seen():
    mine = make_three()
    with pyconc.ProcessPoolExecutor(1) as pool:
        returned = pool.submit(double, *mine).result()
    check_doubled(*mine)
    check_doubled(*returned)
    mine[0].x = 5
    assert returned[0].x == 5


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_of_multiprocessing_has_them(method):
    mine = make_three()
    process = multiprocessing.get_context(method).Process(target=double, args=mine)
    process.start()
    process.join()
    check_doubled(*mine)


def test_they_may_be_in_items_of_others():
    point = shared.Value(Point, 1)
    shared.List([point])[0].x = 4
    assert point.x == 4


def test_values_have_what_those_of_multiprocessing_have():
    Value, lock = shared.Value, multiprocessing.Lock()
    assert (Value("u", "x").value, Value(ctypes.c_longdouble, 0.5).value, Value(ctypes.c_wchar).value) == (
        "x",
        0.5,
        "\0",
    )
    either = Value(Either, 0x01020304, lock=lock)
    assert sorted(either.bytes) == [1, 2, 3, 4]
    assert either.get_lock() is lock
    with either.get_lock():
        assert either.get_obj().number == 0x01020304
    point = Value(Point)
    with point:
        assert point.acquire(False)
        point.y = 1.5
        point.release()
    assert (point.x, point.get_obj().y) == (0, 1.5)
    assert not hasattr(Value(Point, lock=False), "get_lock")
    for wrong in (lambda: point.z, lambda: Value(Point, lock="no lock")):
        with pytest.raises(AttributeError):
            wrong()
    for wrong in (lambda: Value(Point, "x"), lambda: Value(Point, 1, 2, 3), lambda: Value(ctypes.Structure)):
        with pytest.raises(TypeError):
            wrong()


def test_arrays_have_what_those_of_multiprocessing_have():
    Array = shared.Array
    rows = Array(ctypes.c_int * 2, 3)
    rows[1][0] = 5
    assert [list(row) for row in rows] == [[0, 0], [5, 0], [0, 0]]
    assert (len(rows), len(Array(Point, 0)), [each.x for each in Array(Point, [(1,), (2,)])[1:]]) == (3, 0, [2])
    assert rows.get_obj()[1][0] == 5
    text = Array("u", 3)
    text[0] = "a"
    assert text[:] == "a\0\0"
    with pytest.raises(IndexError):
        rows[3]
    with pytest.raises(TypeError):
        text[0] = b"a"
    with pytest.raises(ValueError, match="length must be >= 0"):
        Array(Point, -1)


def test_what_means_nothing_to_others_is_refused():
    for kind in (
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.py_object,
        ctypes.POINTER(Point),
        ctypes.CFUNCTYPE(None),
        3,
    ):
        with pytest.raises(TypeError, match="bad type"):
            shared.Value(kind)
        with pytest.raises(TypeError, match="bad type"):
            shared.Array(kind, 1)
    with pytest.raises(AttributeError, match="no field 'z'"):
        shared.Value(Point).z = 1


@pytest.mark.skipif(numpy is None, reason="needs numpy")
def test_numpy_sees_the_memory():
    points = shared.Array(Point, 2)
    points.numpy()["y"] = [1, 2]
    assert points[1].y == 2
    assert points.numpy().dtype.names == ("x", "y")
    assert isinstance(points.numpy(), numpy.ndarray)


def test_nothing_is_left_of_them():
    gc.collect()
    used = shared._memory.heap().used()
    point = shared.Value(Point)
    inner = point.get_obj()
    del point
    inner.x = 1  # the memory stays as long as something shows it
    assert inner.x == 1
    del inner
    wait_until(lambda: shared._memory.heap().used() <= used, "the memory to be given back")
