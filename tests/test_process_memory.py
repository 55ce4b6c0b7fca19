"""What a process receives is its own, also across forks; memory, address space and descriptors are taken as needed."""

import gc
import os
import pickle

import pytest
from support import HANG_LIMIT, PROC, SANITIZED, run_script, wait_until

import pyconc
from pyconc import _core

LARGE = 1 << 20

# A large buffer arrives as a view of shared memory, whatever it is part of; numpy's arrays are no others.
PROLOGUE = """
import ctypes, gc, os, pickle, resource, signal, warnings
import pyconc
warnings.simplefilter("ignore", DeprecationWarning)
LARGE = 1 << 20
HANG_LIMIT = 120

def make(byte, size=LARGE):
    return pickle.PickleBuffer(bytearray(bytes([byte])) * size)

def is_all(data, byte):
    return bytes(data) == bytes([byte]) * len(data)

def fill(data, byte):
    memoryview(data)[:] = bytes([byte]) * len(data)

def in_child(check, fork=os.fork):
    "Returns a function that lets the child end, and says whether what it checked was so."
    told, tell = os.pipe()
    heard, say = os.pipe()
    pid = fork()
    if pid == 0:
        code = 1
        try:
            os.close(tell)
            os.close(heard)
            check(lambda: (os.write(say, b"!"), os.read(told, 1)))
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(told)
    os.close(say)
    assert os.read(heard, 1) == b"!", "the child failed"
    def end():
        os.close(tell)
        os.close(heard)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return end

def memory(pool):
    return os.fstat(pool._tasks.region.fileno()).st_blocks * 512

def address_space():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
"""

limits_address_space = pytest.mark.skipif(SANITIZED, reason="a sanitizer takes terabytes of address space")


# --- Across forks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
@pytest.mark.parametrize("open_pool", [True, False])
def test_parent_and_child_do_not_see_what_the_other_writes(fork, open_pool):
    run_script(
        PROLOGUE
        + f"""
if __name__ == "__main__":
    pool = pyconc.ProcessPoolExecutor(1)
    data = pool.submit(make, 1).result()
    if not {open_pool}:
        pool.shutdown()
        del pool
        gc.collect()

    def check(pause):
        assert is_all(data, 1)
        fill(data, 2)
        pause()
        assert is_all(data, 2)

    end = in_child(check, {fork})
    assert is_all(data, 1)
    fill(data, 3)
    end()
    assert is_all(data, 3)
"""
    )


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
def test_a_child_keeps_what_it_sees_while_the_parent_goes_on(fork):
    run_script(
        PROLOGUE
        + f"""
if __name__ == "__main__":
    with pyconc.ProcessPoolExecutor(1) as pool:
        data = pool.submit(make, 1).result()

        def check(pause):
            pause()
            assert is_all(data, 1)

        end = in_child(check, {fork})
        del data
        for byte in range(2, 12):
            assert is_all(pool.submit(make, byte).result(), byte)
        end()
"""
    )


def test_memory_that_children_have_seen_is_used_again_when_they_have_ended():
    run_script(
        PROLOGUE
        + """
if __name__ == "__main__":
    with pyconc.ProcessPoolExecutor(1) as pool:
        for byte in range(50):
            data = pool.submit(make, byte).result()
            end = in_child(lambda pause: pause())
            del data
            # The child lives, so the next one has another block.
            assert is_all(pool.submit(make, byte).result(), byte)
            end()
        assert memory(pool) < 12 << 20, memory(pool)
"""
    )


def fork_and_fill(data):
    """In a worker: its child writes to the argument, and keeps it while the worker goes on."""
    heard, say = os.pipe()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(tell)
        memoryview(data)[:] = b"\2" * len(data)
        os.write(say, b"!")
        os.read(told, 1)
        os._exit(bytes(data) != b"\2" * len(data))
    os.close(say)
    os.close(told)
    os.read(heard, 1)
    before = bytes(data)
    memoryview(data)[:] = b"\3" * len(data)
    os.close(heard)
    os.close(tell)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), before == b"\1" * len(before)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_arguments_are_private_to_a_worker_and_its_children():
    with pyconc.ProcessPoolExecutor(1) as pool:
        for _ in range(5):
            data = bytearray(b"\1") * LARGE
            assert pool.submit(fork_and_fill, pickle.PickleBuffer(data)).result(HANG_LIMIT) == (0, True)
            assert data == b"\1" * LARGE
        # The last child is gone: its worker gives the block back as soon as it has reason to look.
        pool.submit(len, pickle.PickleBuffer(bytearray(LARGE))).result(HANG_LIMIT)
        wait_until(lambda: pool._tasks.region.count()[1] == 0, "the blocks to come back")


def test_another_executors_workers_have_the_programs_data_as_it_was():
    run_script(
        PROLOGUE
        + """
def scribble(byte):
    seen = data[0]
    fill(data, byte)
    return seen

if __name__ == "__main__":
    with pyconc.ProcessPoolExecutor(1) as pool:
        data = pool.submit(make, 1).result()
        import multiprocessing
        with pyconc.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as other:
            assert other.submit(scribble, 5).result() == 1
            assert is_all(data, 1)
            fill(data, 9)
            assert other.submit(scribble, 6).result() == 5
            assert is_all(data, 9)
"""
    )


def test_what_a_child_inherits_of_an_executor_does_no_harm():
    run_script(
        PROLOGUE
        + """
if __name__ == "__main__":
    pool = pyconc.ProcessPoolExecutor(2)
    data = pool.submit(make, 1).result()
    kept = [data]

    def check(pause):
        # It lets go of everything, and makes an executor of its own.
        region = pool._tasks.region
        assert region.count() == (0, 0)
        kept.clear()
        globals().pop("data")
        gc.collect()
        with pyconc.ProcessPoolExecutor(1) as own:
            assert is_all(own.submit(make, 4).result(), 4)
        pause()

    end = in_child(check)
    assert is_all(pool.submit(make, 3).result(), 3)
    end()
    assert is_all(data, 1)
    pool.shutdown()
"""
    )


# --- What is kept -----------------------------------------------------------------------------------------------------


def test_what_is_kept_of_an_executor_is_no_descriptor_and_little_address_space():
    run_script(
        PROLOGUE
        + """
def round():
    with pyconc.ProcessPoolExecutor(1) as pool:
        pool.submit(make, 1, 8 << 20).result()  # is not kept
        return pool.submit(make, 2).result(), pool.submit(make, 3, 100).result()

if __name__ == "__main__":
    kept = [round()]
    gc.collect()
    fds, space = len(os.listdir("/proc/self/fd")), address_space()
    for _ in range(8):
        kept.append(round())
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == fds
    assert address_space() - space < 100 << 20, address_space() - space
    assert all(is_all(large, 2) and is_all(small, 3) for large, small in kept)
""",
        env={"MALLOC_ARENA_MAX": "1"},  # or threads that begin before those of the round before are gone take more
    )


def make_two(large, small):
    return pickle.PickleBuffer(bytearray(large)), pickle.PickleBuffer(bytearray(small))


def memory_of(pool):
    return os.fstat(pool._tasks.region.fileno()).st_blocks * 512


@pytest.mark.parametrize("small", [1, 1000, 5000, 60_000])
def test_a_small_part_of_a_result_keeps_nothing_else(small):
    with pyconc.ProcessPoolExecutor(1) as pool:
        kept = [pool.submit(make_two, 4 << 20, small).result(HANG_LIMIT)[1] for _ in range(20)]
        assert memory_of(pool) < 20 << 20
        assert [bytes(part) for part in kept] == [bytes(small)] * 20


def make_several(count, byte):
    return [pickle.PickleBuffer(bytearray([byte]) * LARGE) for _ in range(count)]


def test_a_large_part_of_a_result_does_not_keep_the_others_for_long():
    with pyconc.ProcessPoolExecutor(1) as pool:
        kept = [pool.submit(make_several, 10, number).result(HANG_LIMIT)[3] for number in range(10)]
        # The last one has the rest of its block until another comes.
        pool.submit(make_several, 1, 99).result(HANG_LIMIT)
        assert memory_of(pool) < 50 << 20
        assert [bytes(data) for data in kept] == [bytes([number]) * LARGE for number in range(10)]
        # All of it is used again.
        del kept
        for number in range(20):
            assert {bytes(data) for data in pool.submit(make_several, 10, number).result(HANG_LIMIT)} == {
                bytes([number]) * LARGE
            }
        assert memory_of(pool) < 60 << 20


def make_tiny(number):
    return pickle.PickleBuffer(bytearray(number.to_bytes(4, "little")))


def test_many_tiny_results_take_no_shared_memory():
    with pyconc.ProcessPoolExecutor(1) as pool:
        pool.submit(abs, -1).result(HANG_LIMIT)
        before = memory_of(pool)
        kept = list(pool.map(make_tiny, range(5000), chunksize=1))
        assert [int.from_bytes(data, "little") for data in kept] == list(range(5000))
        assert memory_of(pool) - before < 4 << 20


# --- Limits -----------------------------------------------------------------------------------------------------------


@limits_address_space
def test_executors_work_in_little_address_space():
    run_script(
        PROLOGUE
        + """
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    with pyconc.ProcessPoolExecutor(2) as pool, pyconc.ProcessPoolExecutor(2) as other:
        assert pool.submit(len, b"abc").result() == 3
        assert is_all(other.submit(make, 7).result(), 7)
        assert len(bytearray(500 << 20)) == 500 << 20
"""
    )


@limits_address_space
def test_a_program_may_limit_its_address_space_later():
    run_script(
        PROLOGUE
        + """
if __name__ == "__main__":
    pool = pyconc.ProcessPoolExecutor(1)
    data = pool.submit(make, 1).result()
    limit = address_space() + (300 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    assert len(bytearray(100 << 20)) == 100 << 20
    assert is_all(pool.submit(make, 2).result(), 2)
    pool.shutdown()
"""
    )


@limits_address_space
@pytest.mark.parametrize("which", ["AS", pytest.param("DATA", marks=pytest.mark.slow)])
def test_workers_may_limit_their_memory(which):
    run_script(
        PROLOGUE
        + f"""
def limit():
    most = address_space() + (300 << 20)
    resource.setrlimit(resource.RLIMIT_{which}, (most, most))

def need(megabytes):
    return len(bytearray(megabytes << 20)) >> 20

if __name__ == "__main__":
    with pyconc.ProcessPoolExecutor(1, initializer=limit) as pool:
        assert pool.submit(need, 1).result() == 1
        assert pool.submit(need, 200).result() == 200
        assert isinstance(pool.submit(need, 4000).exception(), MemoryError)
        # What went and came keeps no address space.
        for _ in range(2):
            data = make(5, 60 << 20)
            assert pool.submit(len, data).result() == 60 << 20
            assert len(pool.submit(make, 6, 60 << 20).result()) == 60 << 20
            assert pool.submit(need, 200).result() == 200
"""
    )


@limits_address_space
def test_an_argument_that_does_not_fit_is_a_memory_error_of_its_task():
    run_script(
        PROLOGUE
        + """
def limit():
    most = address_space() + (50 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))

if __name__ == "__main__":
    with pyconc.ProcessPoolExecutor(1, initializer=limit) as pool:
        for _ in range(2):
            error = pool.submit(len, make(1, 80 << 20)).exception()
            assert isinstance(error, MemoryError), error
            assert pool.submit(len, make(1)).result() == LARGE
        # The block that it had came back.
        assert pool._tasks.region.count()[1] == 0, pool._tasks.region.count()
"""
    )


def test_a_result_may_be_larger_than_the_files_that_its_worker_may_write():
    run_script(
        PROLOGUE
        + """
def limit():
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE, LARGE))

if __name__ == "__main__":
    with pyconc.ProcessPoolExecutor(1, initializer=limit) as pool:
        assert len(pool.submit(bytes, 8 * LARGE).result()) == 8 * LARGE
        assert is_all(pool.submit(make, 1, 8 * LARGE).result(), 1)
"""
    )


# --- What a worker writes by mistake ----------------------------------------------------------------------------------


def start_to_scribble(seed):
    """A thread of the worker writes over what it has mapped of all blocks, from here on, a little at a time."""
    import ctypes
    import random
    import threading

    chance = random.Random(seed)

    def scribble():
        while True:
            with open(f"{PROC}/self/maps") as file:
                blocks = [line.split() for line in file if "memfd:pyconc " in line]
            # All but the head, which lies at the front of the file.
            blocks = [[int(end, 16) for end in line[0].split("-")] for line in blocks if int(line[2], 16) > 0]
            for start, _ in chance.choices(blocks, k=20) if blocks else ():
                ctypes.memset(start + 4 * chance.randrange(64), chance.randrange(256), chance.choice([1, 4, 64]))

    threading.Thread(target=scribble, daemon=True).start()


def swap_ends(data):
    data = bytearray(data)
    data[0], data[-1] = data[-1], data[0]
    return pickle.PickleBuffer(data)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_what_a_worker_writes_over_blocks_costs_tasks_and_no_more(seed):
    finished = run_script(
        PROLOGUE
        + f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_process_memory import start_to_scribble, swap_ends

if __name__ == "__main__":
    with pyconc.ProcessPoolExecutor(2) as pool:
        pool.submit(start_to_scribble, {seed})
        ends = {{"returned": 0, "raised": 0}}
        for number in range(60):
            calls = [pool.submit(swap_ends, make(number, size)) for size in (2000, 50_000, 200_000, 3000, LARGE)]
            done, pending = pyconc.wait(calls, HANG_LIMIT)
            assert not pending
            for call in done:
                ends["raised" if call.exception() else "returned"] += 1
    # Whoever has never been written over works on.
    with pyconc.ProcessPoolExecutor(1) as other:
        assert is_all(other.submit(make, 1).result(), 1)
    print(ends["returned"] + ends["raised"])
"""
    )
    assert finished.stdout.split()[-1] == "300"


# --- Descriptors ------------------------------------------------------------------------------------------------------


def test_a_file_that_a_task_opens_in_place_of_the_memory_is_left_alone(tmp_path):
    run_script(
        PROLOGUE
        + """
import sys

def swap(path):
    memory = [int(fd) for fd in os.listdir("/proc/self/fd") if "memfd:pyconc " in read_link(fd)]
    os.closerange(min(memory), max(memory) + 1)
    for fd in memory:
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        if file != fd:
            os.dup2(file, fd)
    os.write(memory[0], b"precious")

def read_link(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""

if __name__ == "__main__":
    path = sys.argv[1]
    pool = pyconc.ProcessPoolExecutor(1)
    pool.submit(swap, path).result(HANG_LIMIT)
    error = pool.submit(make, 1, 8 * LARGE).exception(HANG_LIMIT)
    assert isinstance(error, OSError) and "file descriptor" in str(error), error
    assert pool.submit(abs, -1).result(HANG_LIMIT) == 1
    pool.shutdown()
    with open(path, "rb") as file:
        assert file.read() == b"precious"
""",
        tmp_path / "file",
    )


# --- Buffers that are no arrays ---------------------------------------------------------------------------------------


class Frame:
    """Is pickled as PEP 574 shows."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Frame, (pickle.PickleBuffer(self.data),)

    def describe(self):
        return len(self.data), bytes(self.data[:4]), type(self.data[2:4])


def identity(value):
    return value


@pytest.mark.parametrize("size", [4, 4000, 40_000, 400_000])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_pickle_buffer_arrives_as_something_with_a_length_that_pickles_again(kind, size):
    data = kind(b"abcd" * (size // 4))
    with pyconc.ProcessPoolExecutor(1) as pool:
        assert pool.submit(Frame.describe, Frame(data)).result(HANG_LIMIT) == (size, b"abcd", kind)
        frame = pool.submit(identity, Frame(data)).result(HANG_LIMIT)
        assert frame.describe() == (size, b"abcd", kind)
        assert frame.data[1] == data[1]
        for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(frame.data, protocol))
            assert type(again) is kind
            assert again == data
        assert bytes(pool.submit(identity, frame.data).result(HANG_LIMIT)) == data
        assert memoryview(frame.data).readonly == (kind is bytes)


def test_a_large_buffer_can_be_changed_if_what_was_sent_could():
    with pyconc.ProcessPoolExecutor(1) as pool:
        data = pool.submit(pickle.PickleBuffer, bytearray(LARGE)).result(HANG_LIMIT)
        assert isinstance(data, _core.Block)
        data[0] = 7
        data[2:4] = b"xy"
        assert data[:5] == bytearray(b"\7\0xy\0")
        with pytest.raises(TypeError):
            del data[0]
        with pytest.raises(IndexError):
            data[LARGE]
        fixed = pool.submit(pickle.PickleBuffer, bytes(LARGE)).result(HANG_LIMIT)
        with pytest.raises(TypeError):
            fixed[0] = 7


def test_a_block_outlives_the_collection_of_its_region():
    with pyconc.ProcessPoolExecutor(1) as pool:
        data = pool.submit(pickle.PickleBuffer, bytearray(b"\5") * LARGE).result(HANG_LIMIT)
        view = memoryview(data)[10:20]
    del pool, data
    gc.collect()
    assert bytes(view) == b"\5" * 10
    view[:] = b"\6" * 10
