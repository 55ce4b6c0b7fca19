"""Large bytes, bytearrays and strs: beside the pickle, each of its own type on the other side, one object as one."""

import os
import resource
import struct
import sys

import jobs
import pytest
from gates import ProcessGate, block_workers
from support import HANG_LIMIT, SANITIZED, check_flat_memory, run_script, wait_until

import pyconc

LARGE = 300_001


@pytest.fixture(scope="module")
def pool():
    """Whoever uses it leaves its two workers as they are."""
    with pyconc.ProcessPoolExecutor(2) as pool, ProcessGate() as gate:
        futures = block_workers(pool, gate, 2)
        gate.open()
        pyconc.wait(futures)
        yield pool


def send(pool, value):
    return pool.submit(jobs.identity, value).result(HANG_LIMIT)


STRINGS = {
    "bytes": lambda: b"b" * LARGE,
    "bytearray": lambda: bytearray(b"a" * LARGE),
    "ASCII": lambda: "t" * LARGE,
    "Latin-1": lambda: "\xe9t" * LARGE,
    "two bytes a character": lambda: "\u20act" * LARGE,
    "four bytes a character": lambda: "\U0010ffff\u20act" * LARGE,
    "surrogates": lambda: "\udc80\ud800" * LARGE,
}

CONTAINERS = {
    "among others": lambda each: {"a": [1, each, "t"], "b": (None, 2.5, bytearray(10), bytes(10), each)},
    "deep": lambda each: [[[[[[[[each]]]]]]]],
    "far back": lambda each: [*range(100), each],
    "many": lambda each: [each + each[:i] for i in range(40)],
    "as a key": lambda each: {bytes(each, "utf-16", "surrogatepass") if type(each) is str else bytes(each): 1},
}


@pytest.mark.parametrize("what", STRINGS)
def test_each_arrives_as_it_was(pool, what):
    value = STRINGS[what]()
    by_keyword = pool.submit(jobs.keywords, value=value).result(HANG_LIMIT)["value"]
    for received in (send(pool, value), by_keyword, *pool.map(jobs.identity, [value, 1, value], chunksize=3)):
        assert received == 1 or (type(received) is type(value) and received == value)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("what", ["bytes", "bytearray", "two bytes a character"])
def test_each_arrives_within_others(pool, what, container):
    value = CONTAINERS[container](STRINGS[what]())
    assert send(pool, value) == value


@pytest.mark.parametrize("size", [(64 << 10) - 1, 64 << 10, (64 << 10) + 1])
def test_sizes_around_the_limit(pool, size):
    for value in (bytes(size), bytearray(size), "t" * size, "\xe9" * size, "\u20ac" * size):
        assert send(pool, [value, value]) == [value, value]


class Holder:
    def __init__(self, *held):
        self.held = held


@pytest.mark.parametrize("what", STRINGS)
def test_one_object_arrives_as_one(pool, what):
    value = STRINGS[what]()
    equal = value[:1] + value[1:]
    first, (second,), others, [holder] = send(pool, [value, (value,), {"k": value, "e": equal}, [Holder(value)]])
    assert first is second is others["k"] is holder.held[0]
    assert first == others["e"]
    assert first is not others["e"]


def test_one_object_arrives_as_one_by_cloudpickle(pool):
    pytest.importorskip("cloudpickle")
    value = b"b" * LARGE
    first, function, other = send(pool, [value, lambda: value, bytearray(LARGE)])
    assert function() is first
    assert other == bytearray(LARGE)


def test_what_cannot_be_pickled_beside_a_large_string_fails_alone(pool):
    with pytest.raises(TypeError, match="pickle"):
        send(pool, (b"b" * LARGE, (item for item in ())))
    assert send(pool, b"b" * LARGE) == b"b" * LARGE


def test_a_large_string_that_mentions_main_goes_as_it_is(pool):
    value = [b"__main__ multiprocessing.connection" * LARGE]
    assert send(pool, value) == value


class Tagged(bytes):
    def __new__(cls, *args, tag=None):
        made = super().__new__(cls, *args)
        made.tag = tag
        return made


class Reduced(bytearray):
    def __reduce_ex__(self, protocol):
        return bytes, (b"reduced",)


class Chosen:
    """Pickles a part of what it has."""

    def __init__(self, whole):
        self.whole = whole

    def __getstate__(self):
        return {"whole": self.whole[:3]}


def test_subclasses_and_instances_keep_their_pickle(pool):
    tagged, reduced, chosen, plain = send(
        pool, [Tagged(b"b" * LARGE, tag=5), Reduced(LARGE), Chosen(b"b" * LARGE), b"b" * LARGE]
    )
    assert type(tagged) is Tagged
    assert tagged.tag == 5
    assert tagged == plain == b"b" * LARGE
    assert reduced == b"reduced"
    assert vars(chosen) == {"whole": b"bbb"}


def test_containers_that_hold_themselves(pool):
    value = [b"b" * LARGE]
    value += [value] * 1000
    received = send(pool, value)
    assert len(received) == 1001
    assert received[0] == value[0]
    assert all(each is received for each in received[1:])


def test_the_caller_may_change_a_bytearray_once_it_is_submitted(pool):
    with ProcessGate() as gate:
        block_workers(pool, gate, 2)
        value = bytearray(b"a" * LARGE)
        future = pool.submit(jobs.identity, value)
        value[:] = b"changed"
        gate.open()
        assert future.result(HANG_LIMIT) == b"a" * LARGE


class Resizing:
    """Changes a bytearray while what it is in is pickled."""

    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        self.value += b"!"
        return int, ()


def test_a_bytearray_that_changes_while_it_is_pickled(pool):
    value = bytearray(LARGE)
    received, _ = send(pool, [value, Resizing(value)])
    assert received in (bytearray(LARGE), bytearray(LARGE) + b"!")


def test_what_arrives_is_the_receivers_own(pool):
    data, text, array = send(pool, [b"b" * LARGE, "\u20ac" * LARGE, bytearray(LARGE)])
    wait_until(lambda: pool._tasks.region.count()[1] == 0, "the block to come back")
    assert hash(data) == hash(b"b" * LARGE)
    assert hash(text) == hash("\u20ac" * LARGE)
    array += b"longer"
    assert send(pool, array) == array


def test_references_and_memory_stay_as_they_were():
    kept = [make() for make in STRINGS.values()]
    before = [sys.getrefcount(each) for each in kept]
    with pyconc.ProcessPoolExecutor(1) as pool:

        def send_some():
            for _ in range(10):
                send(pool, [kept, Holder(kept), *kept])

        check_flat_memory(send_some, limit_bytes=8 << 20)  # one string of each call would be 15 MB
    assert [sys.getrefcount(each) for each in kept] == before


# --- Where it is in memory --------------------------------------------------------------------------------------------


@pytest.mark.skipif(SANITIZED, reason="the sanitizer keeps what was freed")
@pytest.mark.parametrize(
    "made",
    [
        'b"x" * SIZE',
        pytest.param("bytearray(b'x') * SIZE", marks=pytest.mark.slow),
        '"\\u20ac" * (SIZE // 2)',
    ],
)
def test_a_large_string_is_in_memory_as_often_as_it_must_be(made):
    finished = run_script(
        f"""
        import os, pyconc
        SIZE = 128 << 20
        def peak():
            with open("/proc/self/status") as file:
                return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) << 10
        def region():
            files = [f"/proc/self/fd/{{name}}" for name in os.listdir("/proc/self/fd")]
            files = [file for file in files if os.path.lexists(file) and "memfd:pyconc " in os.readlink(file)]
            return sum(os.stat(file).st_blocks * 512 for file in files)
        def give():
            before = peak()
            return before, {made}
        if __name__ == "__main__":
            with pyconc.ProcessPoolExecutor(1) as pool:
                worker_before = pool.submit(peak).result()
                sent, before = {made}, peak()
                assert pool.submit(len, sent).result() == len(sent)
                print((peak() - before) / SIZE, (pool.submit(peak).result() - worker_before) / SIZE)
                del sent
                before = peak()
                worker_before, received = pool.submit(give).result()
                print((peak() - before) / SIZE, (pool.submit(peak).result() - worker_before) / SIZE)
                del received
                assert pool.submit(abs, -1).result() == 1
                while region() > SIZE / 10:
                    assert pool.submit(abs, -1).result() == 1
        """
    )
    assert finished.returncode == 0, finished
    (argument, in_worker), (result, in_giver) = (map(float, line.split()) for line in finished.stdout.splitlines())
    assert argument < 1.2  # of the block, beside the string
    assert in_worker < 2.2  # the block and the string
    assert result < 1.2  # the two, where the first string was
    assert in_giver < 1.2


def limit_address_space(more):
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))


@pytest.mark.skipif(SANITIZED, reason="the sanitizer's own memory counts")
@pytest.mark.parametrize("make", [bytes, bytearray, lambda size: "\u20ac" * (size // 2)])
def test_one_for_which_the_worker_has_no_memory_fails_alone(make):
    size = 96 << 20
    with pyconc.ProcessPoolExecutor(1, initializer=limit_address_space, initargs=(size * 3 // 2,)) as pool:
        worker = pool.submit(os.getpid).result(HANG_LIMIT)
        with pytest.raises(MemoryError):
            pool.submit(len, make(size)).result(HANG_LIMIT)
        assert pool.submit(len, make(1 << 20)).result(HANG_LIMIT) == len(make(1 << 20))
        assert pool.submit(os.getpid).result(HANG_LIMIT) == worker


# --- What another process wrote ---------------------------------------------------------------------------------------


def find_word(fd, word):
    """Where a number of eight bytes stands in the executor's memory."""
    at = 0
    while True:
        at = os.lseek(fd, at, os.SEEK_DATA)
        end = os.lseek(fd, at, os.SEEK_HOLE)
        while at < end:
            data = os.pread(fd, min(end - at, 1 << 20), at)
            found = data.find(struct.pack("<Q", word))
            if found >= 0:
                return at + found
            at += len(data)


BYTES = 2  # FORM_BYTES in wire.h


@pytest.mark.parametrize(("form", "size"), [*((form, LARGE + 3) for form in range(8)), (BYTES, 0), (BYTES, 1 << 60)])
def test_a_stray_write_over_what_a_string_is(form, size):
    with pyconc.ProcessPoolExecutor(1) as pool, ProcessGate() as gate:
        pool.submit(gate)
        [worker] = gate.wait_started()
        value = os.urandom(LARGE + 3)  # so many are whole characters of any kind, but none that there are
        future = pool.submit(jobs.identity, value)
        fd = pool._tasks.region.fileno()
        os.pwrite(fd, struct.pack("<Q", size | form << 61), find_word(fd, len(value) | BYTES << 61))
        gate.open()
        error = future.exception(HANG_LIMIT)
        assert error is None or isinstance(error, pyconc.TaskUnpicklable)
        assert pool.submit(os.getpid).result(HANG_LIMIT) == worker
