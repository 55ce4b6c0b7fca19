"""memory_limit: the task that asks for more memory than it may have is the one that is refused it."""

import ctypes
import faulthandler
import importlib.util
import mmap
import multiprocessing
import os
import resource
import signal

import jobs
import pytest
from support import DEBUG_BUILD, SANITIZED, another_thread

import pyconc

pytestmark = pytest.mark.skipif(SANITIZED, reason="the sanitizer's own memory counts, and it dies if it is refused any")

MIB = 1 << 20
LIMIT = 128 * MIB
_kept = []


def bytes_at_once(count):
    return len(bytearray(count))


def bytes_bit_by_bit(count):
    grown = bytearray()
    while len(grown) < count:
        grown += bytes(MIB)
    return len(grown)


def many_objects(count):
    made = []
    while len(made) * 500 < count:
        made.append(f"{len(made):0450}")  # the largest that the interpreter's own allocator makes, or nearly
    return count


def zeros(count):
    import numpy

    return numpy.zeros(count, dtype="u1").nbytes


def private_pages(count):
    try:
        mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError(str(error)) from None
    return count


def in_c(count):
    """malloc() of a library: refused, it returns NULL, and here that is written to."""
    faulthandler.disable()  # pytest's, which writes to its stderr
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    block = libc.malloc(ctypes.c_size_t(count))
    ctypes.memset(block or 0, 1, 16)
    libc.free(ctypes.c_void_p(block))
    return count


def keep(count):
    _kept.append(bytearray(count))
    return os.getpid()


def catch(count):
    try:
        return bytes_at_once(count)
    except MemoryError:
        return "caught"


def large_result(count):
    return bytes(count)


def soft_limit():
    return resource.getrlimit(resource.RLIMIT_DATA)[0]


def limit_itself(count):
    resource.setrlimit(resource.RLIMIT_DATA, (count, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def pool_of(workers=1, context=None, limit=LIMIT, **more):
    return pyconc.ProcessPoolExecutor(workers, context, memory_limit=limit, **more)


def check_named(error, limit=LIMIT):
    assert type(error) is MemoryError
    assert f"{limit} bytes" in str(error)
    assert "memory_limit" in str(error)


has_numpy = pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="numpy is not here")
# The interpreter itself is refused memory anywhere, and in 3.15 asserts then, now and then, that a frame is complete.
asserts = pytest.mark.skipif(DEBUG_BUILD, reason="a debug build's interpreter does not bear to be refused memory")
a_task = pytest.mark.parametrize(
    "task",
    [
        bytes_at_once,
        bytes_bit_by_bit,
        pytest.param(many_objects, marks=asserts),
        pytest.param(zeros, marks=has_numpy),
        private_pages,
    ],
)


@a_task
def test_a_task_that_asks_for_more_gets_an_error_that_names_the_limit(task):
    with pool_of() as pool:
        worker = pool.submit(os.getpid).result()
        check_named(pool.submit(task, 2 * LIMIT).exception())
        assert pool.submit(task, LIMIT // 4).result() >= LIMIT // 4
        assert pool.submit(os.getpid).result() == worker


def test_the_error_says_where_it_was():
    with pool_of() as pool:
        assert "in bytes_at_once" in str(pool.submit(bytes_at_once, 2 * LIMIT).exception().__cause__)


@has_numpy
def test_the_error_has_the_words_of_the_one_that_was_raised():
    with pool_of() as pool:
        assert "Unable to allocate" in str(pool.submit(zeros, 2 * LIMIT).exception())


def test_code_in_c_that_dies_of_it_is_told_from_other_deaths():
    with pool_of() as pool:
        error = pool.submit(in_c, 2 * LIMIT).exception()
        assert isinstance(error, pyconc.WorkerDied)
        assert error.signal == "SIGSEGV"
        assert f"memory_limit, here {LIMIT} bytes" in str(error)
        assert pool.submit(in_c, MIB).result() == MIB
        assert "memory_limit" not in str(pool.submit(jobs.die, signal.SIGKILL).exception())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_it_holds_with_every_start_method(method):
    with pool_of(1, multiprocessing.get_context(method)) as pool:
        check_named(pool.submit(bytes_at_once, 2 * LIMIT).exception())
        assert pool.submit(abs, -1).result() == 1


def test_it_holds_from_a_program_with_threads():
    with another_thread(), pool_of() as pool:
        check_named(pool.submit(bytes_at_once, 2 * LIMIT).exception())


def test_what_was_kept_before_counts_for_no_other_task():
    with pool_of() as pool:
        assert len({pool.submit(keep, 3 * LIMIT // 4).result() for _ in range(4)}) == 1
        check_named(pool.submit(keep, 2 * LIMIT).exception())


def test_a_task_may_go_on_without():
    with pool_of() as pool:
        assert pool.submit(catch, 2 * LIMIT).result() == "caught"


def test_the_result_may_be_as_large_as_the_task_could_make_it():
    with pool_of() as pool:
        assert len(pool.submit(large_result, 3 * LIMIT // 4).result()) == 3 * LIMIT // 4


def test_arguments_count_for_no_task():
    with pool_of(limit=LIMIT // 4) as pool:
        assert pool.submit(len, bytes(LIMIT // 2)).result() == LIMIT // 2


@pytest.mark.parametrize("chunksize", [None, 1, 4])
def test_of_a_map_the_call_that_exceeds_it_fails(chunksize):
    with pool_of() as pool:
        results = pool.map(bytes_at_once, [1, 2, 3 * LIMIT // 4, 3 * LIMIT // 4, 2 * LIMIT, 6], chunksize=chunksize)
        assert [next(results) for _ in range(4)] == [1, 2, 3 * LIMIT // 4, 3 * LIMIT // 4]
        with pytest.raises(MemoryError, match="memory_limit"):
            next(results)


def test_a_memory_error_of_the_tasks_own_stays_one():
    with pool_of() as pool:
        error = pool.submit(jobs.fail, MemoryError("mine")).exception()
        assert str(error).startswith("mine: ")
        check_named(error)
        assert isinstance(pool.submit(jobs.fail, KeyError("mine")).exception(), KeyError)


def test_between_tasks_workers_have_the_limit_that_the_program_has():
    with pool_of() as pool:
        within = pool.submit(soft_limit).result()
        pool.submit(bytes_at_once, 2 * LIMIT).exception()
        (pid,) = pool._processes
        between = resource.prlimit(pid, resource.RLIMIT_DATA)[0]
        assert between == soft_limit() != within


def test_a_lower_limit_of_an_initializer_stays():
    with pool_of(limit=1 << 45, initializer=limit_itself, initargs=(1 << 40,)) as pool:
        assert pool.submit(soft_limit).result() == 1 << 40
        pool.submit(limit_itself, 1 << 39).result()
        assert pool.submit(soft_limit).result() == 1 << 39


def test_a_limit_that_a_task_sets_itself_stays():
    with pool_of() as pool:
        pool.submit(limit_itself, 1 << 40).result()
        assert pool.submit(soft_limit).result() < 1 << 40
        pool.submit(limit_itself, 1 << 39).result()
        assert pool.submit(limit_itself, 1 << 39).exception() is None


def test_of_two_workers_one_is_refused_and_the_other_is_not():
    with pool_of(2) as pool:
        futures = [pool.submit(bytes_at_once, size) for size in [2 * LIMIT, LIMIT // 2] * 4]
        for future in futures[::2]:
            check_named(future.exception())
        assert {future.result() for future in futures[1::2]} == {LIMIT // 2}


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_limit_that_cannot_be_is_refused(size, error):
    with pytest.raises(error, match="memory_limit must be "):
        pyconc.ProcessPoolExecutor(1, memory_limit=size)


@pytest.mark.parametrize("size", [f"{LIMIT // MIB}MiB", f"{LIMIT // 1024} kib", str(LIMIT), f"{LIMIT / 1e9!r} GB"])
def test_a_limit_may_be_a_string(size):
    with pool_of(limit=size) as pool:
        with pytest.raises(MemoryError, match=f" {LIMIT} bytes more "):
            pool.submit(bytes_at_once, 2 * LIMIT).result()


@pytest.mark.parametrize("size", ["", "GiB", "2G", "2EiB", "1 2MB", "infB", "nan", "1e999", "0", "-1GB", "1_0x"])
def test_a_string_that_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match="memory_limit must be "):
        pyconc.ProcessPoolExecutor(1, memory_limit=size)


def test_a_limit_may_have_any_size():
    with pool_of(limit=1 << 100) as pool:
        assert pool.submit(bytes_at_once, MIB).result() == MIB


def test_where_a_process_cannot_see_what_it_has_there_is_no_limit(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OSError, match="memory_limit needs /proc/self/statm, which this system does not have"):
        pool_of()
