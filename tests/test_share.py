"""pyconc.shared.share(): objects laid into memory once, how they come back, and where the memory goes."""

import gc
import multiprocessing
import os
import pickle
import signal
import threading

import pytest
from support import SANITIZED, run_script, wait_until

import pyconc
from pyconc import shared

try:
    import numpy  # here, as it starts threads
except ImportError:
    numpy = None

needs_numpy = pytest.mark.skipif(numpy is None, reason="needs numpy")

METHODS = ["fork", pytest.param("forkserver", marks=pytest.mark.slow), "spawn"]


class Holder:
    """Pickles what it holds as a buffer beside the pickle."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Holder, (pickle.PickleBuffer(self.data),)


# ---- values ----

VALUES = [
    None,
    0,
    10**40,
    1.5,
    "text",
    "x" * 100_000,
    (1, [2, {"a": {3}}]),
    {"key": b"x" * 100_000},
    int,
    bytearray,
    [],
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_a_value_comes_back_equal(value):
    ref = shared.share(value)
    assert ref.get() == value
    assert type(ref.get()) is type(value)
    assert ref.get() is ref.get()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("data", [b"", b"some", b"x" * 100_000], ids=len)
def test_bytes_come_back_as_a_view_that_nobody_can_write(kind, data):
    view = shared.share(kind(data)).get()
    assert (type(view), view.readonly, view.format, view.nbytes) == (memoryview, True, "B", len(data))
    assert view == data


def test_buffers_beside_the_pickle_are_views_at_places_that_suit_any_type():
    whole = {i: Holder(bytes([i]) * (i * 1000 + 1)) for i in range(5)}
    again = shared.share(whole).get()
    for i, holder in again.items():
        assert holder.data == whole[i].data
        assert holder.data.readonly
        with pytest.raises(TypeError):
            holder.data[0] = 1


@needs_numpy
def test_numpy_s_arrays_are_views_that_nobody_can_write():
    values = {
        "plain": numpy.arange(10_000.0),
        "fortran": numpy.asfortranarray(numpy.arange(600.0).reshape(20, 30)),
        "a part": numpy.arange(600.0).reshape(20, 30)[:, ::2],
        "empty": numpy.zeros((0, 5)),
        "strings": numpy.array(["one", "two"] * 500),
    }
    again = shared.share(values).get()
    for name, value in values.items():
        numpy.testing.assert_array_equal(again[name], value)
        assert again[name].dtype == value.dtype
    assert not again["plain"].flags.writeable
    assert not again["plain"].flags.owndata
    assert again["plain"].ctypes.data % 64 == 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        again["plain"].setflags(write=True)


def test_what_cannot_be_pickled_is_refused_and_takes_nothing():
    gc.collect()
    used = shared._memory.heap().used()
    for value, error in (
        (lambda: 0, (AttributeError, pickle.PicklingError)),
        ([shared.Lock()], TypeError),
        (memoryview(bytes(10))[::2], pickle.PicklingError),
        (Holder(memoryview(bytes(10))[::2]), pickle.PicklingError),
    ):
        with pytest.raises(error):
            shared.share(value)
    gc.collect()
    assert shared._memory.heap().used() == used


def fail():
    raise ZeroDivisionError


class Bomb:
    def __reduce__(self):
        return fail, ()


def test_what_cannot_be_unpickled_raises_in_each_get():
    ref = shared.share([Bomb()])
    message = f"^what a shared Ref is of, which process {os.getpid()} wrote, cannot be unpickled: ZeroDivisionError"
    for _ in range(2):
        with pytest.raises(pickle.UnpicklingError, match=message):
            ref.get()


def test_a_ref_says_what_it_has():
    ref = shared.share(b"x" * 1000)
    assert 1000 < ref.nbytes < 2000
    assert repr(ref) == f"<pyconc.shared.Ref of {ref.nbytes} bytes>"
    assert shared.Ref[int]
    with pytest.raises(TypeError, match="share"):
        shared.Ref()
    with pytest.raises(TypeError, match="a shared Ref travels"):
        pickle.dumps(ref)


# ---- how it travels ----


def look(ref):
    return bytes(ref.get()[-2:]), ref.get() is ref.get()


@pytest.fixture(scope="module")
def pool():
    """A worker that was started before any object was shared."""
    with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        pool.submit(int).result()
        yield pool


def test_workers_and_threads_have_it(pool):
    ref = shared.share(b"x" * 100_000 + b"yz")
    assert list(pool.map(look, [ref] * 3)) == [(b"yz", True)] * 3
    with pyconc.ThreadPoolExecutor(1) as threads:
        assert threads.submit(look, ref).result() == (b"yz", True)


def give_back(ref):
    return ref


def test_a_ref_that_comes_back_is_the_same_and_then_goes(pool):
    gc.collect()
    used = shared._memory.heap().used()
    ref = shared.share([1, 2])
    assert pool.submit(give_back, ref).result() is ref
    assert pool.submit(give_back, [ref, ref]).result() == [ref, ref]
    del ref
    wait_until(lambda: shared._memory.heap().used() <= used, "the worker to drop it")


def test_a_call_that_cannot_be_pickled_takes_nothing_along_and_says_why(pool):
    gc.collect()
    used = shared._memory.heap().used()
    ref = shared.share(b"x" * 100_000)
    for call in ((give_back, [ref, threading.Lock()]), (make_what_cannot_be_pickled, ref)):
        with pytest.raises(TypeError, match=r"cannot pickle '_thread\.lock' object"):
            pool.submit(*call).result()
    del ref, call
    gc.collect()
    pool.submit(gc.collect).result()  # before Python 3.13 the frames of an error may refer to it
    wait_until(lambda: shared._memory.heap().used() <= used, "the worker to drop it")


def make_what_cannot_be_pickled(ref):
    return ref, threading.Lock()


def test_what_a_worker_shares_is_a_result(pool):
    ref = pool.submit(shared.share, [b"made there", 5]).result()
    assert ref.get() == [b"made there", 5]


_initial = None


def initialize(ref):
    global _initial
    _initial = ref


def look_at_initial():
    return look(_initial)


def test_an_initializer_has_it():
    ref = shared.share(b"xyz")
    with pyconc.ProcessPoolExecutor(1, initializer=initialize, initargs=(ref,)) as pool:
        assert pool.submit(look_at_initial).result() == (b"yz", True)


def look_and_wait(ref, done):
    if look(ref) == (b"yz", True):
        done.set()
    signal.pause()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_a_process_of_multiprocessing_has_it_and_leaves_nothing_when_it_is_killed(method):
    gc.collect()
    done = shared.Event()
    before = memory()
    ref = shared.share(b"x" * 4_000_000 + b"yz")
    process = multiprocessing.get_context(method).Process(target=look_and_wait, args=(ref, done))
    process.start()
    try:
        assert done.wait(60)
        del ref
        gc.collect()
        assert memory() >= 4_000_000
    finally:
        process.kill()
        process.join()
    assert memory() <= before + TABLE


# ---- memory ----


def memory():
    shared._memory.heap().used()
    return os.fstat(shared._memory.heap().fileno()).st_blocks * 512


# What others had before may be given back at any time, so nothing is measured from that upwards.
TABLE = 32768  # bytes that the table which says whose memory it is may take meanwhile


def test_there_is_one_copy_however_many_look(pool):
    gc.collect()
    before = memory()
    ref = shared.share(b"x" * 2_000_000)
    for _ in range(5):
        pool.submit(look, ref).result()
        ref.get()
    assert 2_000_000 <= memory() <= before + 2_100_000
    del ref
    gc.collect()
    wait_until(lambda: memory() <= before + TABLE, "the worker to drop it")


def test_what_looks_at_the_memory_keeps_it():
    gc.collect()
    before = memory()
    view = shared.share(b"x" * 2_000_000).get()
    part = view[-5:]
    del view
    gc.collect()
    assert part == b"xxxxx"
    assert memory() >= 2_000_000
    del part
    assert memory() <= before + TABLE


def test_nobody_can_write_to_it_not_even_by_a_stray_pointer():
    finished = run_script(
        """
        import ctypes, resource, signal
        from pyconc import shared

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        ref = shared.share(b"x" * 100)
        view = ref.get()

        class Py_buffer(ctypes.Structure):
            _fields_ = [("start", ctypes.c_void_p), ("rest", ctypes.c_char * 200)]

        raw = Py_buffer()
        ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(raw), 0)
        print(ctypes.string_at(raw.start, 100) == bytes(view), flush=True)
        ctypes.memset(raw.start, 0, 1)
    """,
        flags=("-X", "faulthandler=0"),
        check=False,
    )
    assert finished.stdout == "True\n"
    assert finished.returncode == -signal.SIGSEGV


@pytest.mark.skipif(SANITIZED, reason="the sanitizer ends a process that has no memory")
def test_a_shortage_is_a_memory_error_at_the_call():
    run_script("""
        import resource
        import pytest
        from pyconc import shared

        kept = shared.share(b"x" * 100)
        value = bytes(100 << 20)
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
        with pytest.raises(MemoryError):
            shared.share(value)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        assert kept.get() == b"x" * 100 and shared.share([1]).get() == [1]
    """)


def test_a_fork_inherits_it():
    run_script("""
        import os
        from pyconc import shared

        ref, late = shared.share(b"x" * 100_000), shared.share(b"y" * 100_000)
        view = ref.get()
        pid = os.fork()
        if pid == 0:
            del ref
            assert view[-1:] == b"x" and late.get()[-1:] == b"y"
            assert shared.share([5]).get() == [5]
            os._exit(0)
        del view, ref, late
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print(shared._memory.heap().used())
    """)
