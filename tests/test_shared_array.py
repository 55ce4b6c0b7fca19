"""pyconc.shared.Array: multiprocessing.Array's behaviour, views of its memory, and where that goes."""

import array
import ctypes
import gc
import multiprocessing
import os
import pickle
import signal
from functools import partial
from multiprocessing import sharedctypes

import pytest
from support import SANITIZED, run_script, wait_until

import pyconc
from pyconc import shared

try:
    import numpy  # here, as it starts threads
except ImportError:
    numpy = None

needs_numpy = pytest.mark.skipif(numpy is None, reason="needs numpy")

CODES = "bBhHiIlLqQfd?"


def outcome(function, *args):
    try:
        return function(*args)
    except (IndexError, TypeError, ValueError) as error:
        return type(error)


# ---- as multiprocessing.Array has it ----


@pytest.mark.parametrize("code", CODES)
def test_items_of_each_type_come_back_as_from_an_array_of_ctypes(code):
    kind = ctypes.c_bool if code == "?" else sharedctypes.typecode_to_type[code]
    ours, standard = shared.Array(code, 4), (kind * 4)()
    assert ours[:] == standard[:]
    values = [0.1, -1.5e300 if code == "d" else 2.5, 0, 1] if code in "fd" else [0, 1, -1, 2**70 + 3]
    for items in (ours, standard):
        items[:] = values
        items[1] = values[2]
        items[-4] = values[1]
    assert repr(ours[:]) == repr(standard[:])
    assert (ours.typecode, ours.itemsize, ours.nbytes) == (code, ctypes.sizeof(kind), ctypes.sizeof(standard))
    assert repr(shared.Array(kind, values)[:]) == repr(kind.__mul__(4)(*values)[:])


def assigned(items, key, values):
    """What a list of numbers is after an assignment that may not change its length."""
    changed = items[:]
    outcome(changed.__setitem__, key, values)
    is_good = len(changed) == len(items) and all(isinstance(item, int) for item in changed)
    return changed if is_good else items


KEYS = [0, 3, -1, -5, 5, -6, 2**70, 1.0, "0", None]
KEYS += [slice(first, last, step) for first in (None, 1, -2, 9) for last in (None, 0, 4) for step in (None, 2, -1, -2)]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_keys_are_taken_as_an_array_of_ctypes_takes_them(key):
    ours, standard = shared.Array("i", range(5)), (ctypes.c_int * 5)(*range(5))
    if key != 2**70:  # ctypes: ValueError
        assert outcome(lambda: ours[key]) == outcome(lambda: standard[key])
    with pytest.raises(TypeError):
        del ours[key]
    for values in ([], [7], [7, 8, 9], [9, 8, 7, 6, 5], array.array("i", [4, 3, 2]), array.array("b", [4, 3]), 3, "ab"):
        expected = assigned(ours[:], key, values)
        outcome(ours.__setitem__, key, values)
        assert ours[:] == expected


def test_what_does_not_fit_changes_nothing():
    items = shared.Array("d", [1, 2, 3])
    for key, value, error in (
        (0, "x", TypeError),
        (3, 1, IndexError),
        (slice(2), [5, "x"], TypeError),
        (slice(2), [5], ValueError),
        (slice(2), array.array("d", [5]), ValueError),
        (slice(2), memoryview(b"abcdefgh").cast("d", [1, 1]), NotImplementedError),
        (slice(2), 5, TypeError),
    ):
        with pytest.raises(error):
            items[key] = value
        assert items[:] == [1, 2, 3]


def test_a_typecode_that_there_is_not_is_refused():
    with pytest.raises(TypeError, match="bad typecode"):
        shared.Array("x", [])


@pytest.mark.parametrize("kind", [partial(array.array, "q"), partial(shared.Array, "l"), list, iter])
def test_slices_are_set_from_buffers_and_from_other_values(kind):
    items = shared.Array("q", kind(range(6)))
    assert items[:] == [0, 1, 2, 3, 4, 5]
    items[::2] = memoryview(array.array("l", [7, 8, 9, 10, 11, 12]))[::-2]
    assert items[:] == [12, 1, 10, 3, 8, 5]
    items[1:] = memoryview(items)[:-1]  # of itself
    assert items[:] == [12, 12, 1, 10, 3, 8]
    items[::-1] = items
    assert items[:] == [8, 3, 10, 1, 12, 12]


def test_characters_are_as_those_of_ctypes():
    ours, standard = shared.Array("c", b"hello"), ctypes.create_string_buffer(b"hello", 5)
    for value in (b"ab", b"abcde", b"", b"abcdef", b"x\0y"):
        for name in ("value", "raw"):
            assert outcome(setattr, ours, name, value) == outcome(setattr, standard, name, value)
            assert (ours.raw, ours.value, ours[1:3], ours[::-2]) == (
                (standard.raw, standard.value, standard[1:3], standard[::-2])
            )
    ours[0] = b"z"
    assert (ours[0], list(ours)[:1], bytes(shared.Array("c", 2))) == (b"z", [b"z"], b"\0\0")
    assert outcome(setattr, ours, "value", "text") is TypeError
    assert not hasattr(shared.Array("b", 1), "value")
    with pytest.raises(AttributeError):
        shared.Array("b", 1).raw = b"a"


def test_it_is_made_of_a_size_or_of_items():
    assert shared.Array("i", 0)[:] == shared.Array("i", [])[:] == []
    assert shared.Array(ctypes.c_short, (i for i in (1, 2))).typecode == "h"
    assert repr(shared.Array("d", 3)) == "<pyconc.shared.Array 'd' of 3>"
    for make, error in (
        (lambda: shared.Array("d", -1), ValueError),
        (lambda: shared.Array("d", 1.5), TypeError),
        (lambda: shared.Array("d", ["x"]), TypeError),
        (lambda: shared.Array("x", 1), TypeError),
        (lambda: shared.Array(ctypes.c_char_p, 1), TypeError),
        (lambda: shared.Array(ctypes.Structure, 1), TypeError),
        (lambda: shared.Array("d", 1, lock="no lock"), AttributeError),
        (lambda: shared.Array("d", 2**63), MemoryError),
        (lambda: shared.Array("d", 2**32 + 1), MemoryError),
    ):
        with pytest.raises(error):
            make()


def test_its_lock_is_its_own_or_another_or_none():
    items, lock = shared.Array("i", 1), shared.Lock()
    with items.get_lock(), items.get_lock():
        assert items.get_lock().locked()
    assert shared.Array("i", 1, lock=lock).get_lock() is lock
    assert isinstance(shared.Array("i", 1, lock=None).get_lock(), shared.RLock)
    with pytest.raises(AttributeError):
        shared.Array("i", 1, lock=False).get_lock()


def test_plain_pickles_are_refused():
    with pytest.raises(TypeError, match="a shared Array travels"):
        pickle.dumps(shared.Array("i", 1))


# ---- views ----


def test_a_view_is_the_memory_and_keeps_it():
    items = shared.Array("i", [1, 2, 3])
    view, plain = memoryview(items), items.get_obj()
    assert (view.format, view.shape, view.strides, view.readonly, view.nbytes) == ("i", (3,), (4,), False, 12)
    view[0], plain[2] = 5, 7
    assert items[:] == list(plain) == [5, 2, 7]
    del items
    gc.collect()
    others = [shared.Array("i", [9] * 3) for _ in range(5)]
    assert view.tolist() == list(plain) == [5, 2, 7]
    assert len(others) == 5


def test_an_empty_one_is_a_buffer_too():
    items = shared.Array("d", 0)
    assert (memoryview(items).tolist(), bytes(items), list(items), len(items.get_obj())) == ([], b"", [], 0)
    items[:] = b""
    items[:] = []


@needs_numpy
def test_numpy_sees_it_without_a_copy():
    for code in CODES + "c":
        assert shared.Array(code, 3).numpy().dtype.itemsize == shared.Array(code, 3).itemsize
    items = shared.Array("d", numpy.arange(1000.0)[::2])
    seen = items.numpy()
    seen *= 2
    assert items[:3] == [0, 4, 8]
    items[1] = 7
    assert seen[1] == 7
    assert seen.flags.writeable
    assert numpy.frombuffer(items.get_obj())[1] == 7
    del items
    gc.collect()
    assert seen.sum() == 2 * sum(range(0, 1000, 2)) + 3


@needs_numpy
def test_dlpack_shows_it_without_a_copy_and_keeps_it():
    items = shared.Array("i", 4)
    assert items.__dlpack_device__() == (1, 0)  # of the CPU
    seen = numpy.from_dlpack(items)
    items[2] = 7
    assert seen.dtype == numpy.int32
    del items
    gc.collect()
    assert seen.tolist() == [0, 0, 7, 0]


def double(items):
    view = items.numpy()
    view *= 2
    return os.getpid()


@needs_numpy
def test_a_worker_changes_it_by_numpy():
    items = shared.Array("d", [1, 2, 3])
    with pyconc.ProcessPoolExecutor(1) as pool:
        assert pool.submit(double, items).result() != os.getpid()
    assert items[:] == [2, 4, 6]


# ---- beside others ----


def increment(items, count):
    for i in range(count):
        with items.get_lock():
            items[i % len(items)] += 1


@pytest.mark.parametrize("has_lock", [True, False], ids=["its own lock", "another"])
def test_nothing_is_lost_under_its_lock(has_lock):
    items = shared.Array("i", 3, lock=has_lock or shared.Lock())
    with pyconc.ProcessPoolExecutor(2) as pool:
        running = [pool.submit(increment, items, 600) for _ in range(2)]
        increment(items, 600)
        for future in running:
            future.result()
    assert items[:] == [600] * 3


@pytest.mark.parametrize("code", "hq")
def test_no_item_is_torn(code):
    items, done = shared.Array(code, 1), shared.Event()
    with pyconc.ProcessPoolExecutor(1) as pool:
        writing = pool.submit(flip, items, done)
        try:
            seen = {items[0] for _ in range(50_000)}
        finally:
            done.set()
        writing.result()
    assert seen <= {0, -1}


def flip(items, done):
    while not done.is_set():
        for _ in range(1000):
            items[0] = -1
            items[0] = 0


# ---- memory ----


def memory():
    shared._memory.heap().used()
    return os.fstat(shared._memory.heap().fileno()).st_blocks * 512


TABLE = 32768  # bytes that the table which says whose memory it is may take, or give back meanwhile


def test_memory_comes_with_it_and_goes_with_the_last_view():
    gc.collect()  # what other tests have left
    before = memory()
    items = shared.Array("d", 1_000_000)
    assert memory() >= 8_000_000
    view = memoryview(items)
    del items
    gc.collect()
    assert memory() >= 8_000_000
    view.release()
    assert memory() <= before + TABLE


def test_memory_that_was_another_s_is_zero():
    for _ in range(3):
        items = shared.Array("B", 300_000)
        assert not any(bytes(items))
        items[:] = b"x" * 300_000
        del items


def fill_with(items, value, done):
    items[:] = [value] * len(items)
    done.set()
    signal.pause()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_memory_of_the_killed_is_given_back(method):
    gc.collect()
    done = shared.Event()
    before = memory()
    items = shared.Array("d", 500_000)
    process = multiprocessing.get_context(method).Process(target=fill_with, args=(items, 1.5, done))
    process.start()
    try:
        assert done.wait(60)
        assert (items[0], items[-1]) == (1.5, 1.5)
        del items
        gc.collect()
        assert memory() >= 4_000_000
    finally:
        process.kill()
        process.join()
    assert memory() <= before + TABLE


def make_and_die():
    items = shared.Array("d", 500_000)
    items[0] = 1
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_gives_its_back():
    gc.collect()
    before = memory()
    with pyconc.ProcessPoolExecutor(1) as pool:
        assert isinstance(pool.submit(make_and_die).exception(), pyconc.WorkerDied)
    wait_until(lambda: memory() <= before + TABLE, "the memory to be given back")


@pytest.mark.skipif(SANITIZED, reason="the sanitizer ends a process that has no memory")
def test_a_shortage_is_a_memory_error_at_the_call():
    run_script("""
        import resource
        import pytest
        from pyconc import shared

        first = shared.Array("B", [5] * 100)
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
        held = []
        with pytest.raises(MemoryError):
            while True:
                held.append(shared.Array("B", 10 << 20))
        assert 1 <= len(held) < 7 and first[:] == [5] * 100
        held.clear()
        held.append(shared.Array("B", 10 << 20))
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    """)


def test_where_files_have_a_limit_so_have_arrays():
    run_script("""
        import resource
        import pytest
        from pyconc import shared

        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        items = shared.Array("d", range(1000))
        with pytest.raises(MemoryError):
            shared.Array("d", 10_000_000)
        assert items[:] == list(range(1000)) and shared.Array("d", [7])[0] == 7
    """)


def test_a_fork_inherits_it_while_threads_make_others():
    run_script(
        """
        import os, threading
        from pyconc import shared

        done = shared.Event()
        def change():
            while not done.is_set():
                items = shared.Array("i", [3] * 30_000)
                assert items[-1] == 3
        thread = threading.Thread(target=change)
        thread.start()
        items = shared.Array("i", 20)
        for i in range(20):
            pid = os.fork()
            if pid == 0:
                items[i] = i
                view = memoryview(items)
                del items
                assert view[i] == i and shared.Array("i", 30_000)[5] == 0
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        done.set()
        thread.join()
        assert items[:] == list(range(20))
    """,
        flags=("-W", "ignore::DeprecationWarning"),
    )
