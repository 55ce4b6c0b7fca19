"""Two processes write and two read what they share, and are killed one after the other: kill_storm.py ROUNDS [SEED]

In each round a process is killed at a random instant and another takes its place; the other three must go on, and so
must the new one.  Each value carries its checksum, which every reader and the program itself compare.  After each
storm of at most 500 rounds all are killed, the contents are looked through and thrown away, and the memory has to be
back at what it was.  The program prints what it did, and ends with an error at the first fault.
"""

import faulthandler
import os
import random
import signal
import sys
import time
import zlib

from pyconc import shared

ROUNDS = int(sys.argv[1])
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns() % 1_000_000

ROUNDS_OF_A_STORM = 500
WRITERS, READERS = 2, 2
# Forks that the heap waits for before it takes the memory of a child that was killed before it ran.
RESERVATIONS = 16
# Of what says who owns the memory.
SLACK_BYTES = 65536
# Far more than a round takes on a busy machine; a process that does not go on for so long hangs.
LIMIT = 120

# ---- values with their checksums ----


def sealed(dice, key=None):
    data = dice.randbytes(dice.choice([5, 50, 500, 20_000]))
    return data, zlib.crc32(data + repr(key).encode())


def check(value, key=None):
    data, seal = value
    assert zlib.crc32(data + repr(key).encode()) == seal, "a torn value"


def sealed_number(dice):
    number = dice.getrandbits(32)
    return number << 32 | zlib.crc32(number.to_bytes(4, "little"))


def check_number(sealed):
    assert sealed == 0 or zlib.crc32((sealed >> 32).to_bytes(4, "little")) == sealed & 0xFFFFFFFF, "a torn number"


# ---- what is shared: how a writer changes it in one turn, how a reader looks, and what is left at the end ----


class OfDict:
    def __init__(self):
        self.table = shared.Dict()

    def some_key(self, dice):
        number = dice.randrange(60)
        return number if number % 3 else f"key {number}" * (number + 1)

    def write(self, dice):
        table, keys = self.table, [self.some_key(dice) for _ in range(4)]
        for key in keys:
            table[key] = sealed(dice, key)
        match dice.randrange(8):
            case 0 | 1:
                table.pop(keys[0], None)
            case 2 | 3:
                table.update({key: sealed(dice, key) for key in keys})
            case 4:
                table.setdefault(keys[1], sealed(dice, keys[1]))
            case 5:
                table.pop(next(iter(table), None), None)
            case 6 if dice.randrange(9) == 0:
                table.clear()
        try:
            key, value = table.popitem()
            check(value, key)
        except KeyError:
            pass

    def read(self, dice):
        pairs = list(self.table.copy().items())
        for key, value in pairs:
            check(value, key)
        key = self.some_key(dice)
        value = self.table.get(key)
        if value is not None:
            check(value, key)

    def finish(self):
        table = self.table
        for key, value in table.items():
            check(value, key)
            assert table[key] == value
        assert len(table) == len(list(table))
        table.clear()
        table["a"] = None
        assert table.nbytes <= 128 + 65536, table.nbytes


class OfList:
    def __init__(self):
        self.items = shared.List()

    def write(self, dice):
        items = self.items
        match dice.randrange(8):
            case 0 | 1:
                items.append(sealed(dice))
            case 2:
                items.insert(dice.randrange(20), sealed(dice))
            case 3:
                items[1:3] = [sealed(dice), sealed(dice)]
            case 4:
                del items[2::3]
            case 5:
                items.reverse()
            case 6:
                items.extend([sealed(dice)] * 3)
            case 7 if len(items) > 60:
                items.clear()
        for change in (items.pop, lambda: items.pop(0), lambda: items.__setitem__(0, sealed(dice))):
            try:
                change()
            except IndexError:
                pass

    def read(self, dice):
        for value in self.items[:]:
            check(value)
        for value in self.items:
            check(value)

    def finish(self):
        for value in self.items:
            check(value)
        self.items.clear()
        self.items.append(None)
        assert self.items.nbytes <= 128 + 65536, self.items.nbytes


class OfQueue:
    def __init__(self):
        self.queue, self.put, self.got = shared.Queue(20), shared.Counter(), shared.Counter()

    def write(self, dice):
        self.queue.put(sealed(dice))
        self.put += 1

    def read(self, dice):
        check(self.queue.get())
        self.got += 1

    def finish(self):
        while not self.queue.empty():
            check(self.queue.get())
            self.got += 1
        # Each that died may have put an item that it has not counted, or taken one.
        assert abs(self.put.value - self.got.value) <= ROUNDS_OF_A_STORM + WRITERS + READERS, (self.put, self.got)
        self.queue.put("goes on")
        assert self.queue.get() == "goes on"
        assert self.queue.nbytes < 1 << 23, self.queue.nbytes


class OfNumbers:
    """A value, the items of an array, and a counter of what was written."""

    def __init__(self):
        self.value, self.array = shared.Value("Q"), shared.Array("Q", 8)
        self.before, self.after = shared.Counter(), shared.Counter()

    def write(self, dice):
        self.before += 1
        self.value.value = sealed_number(dice)
        check_number(self.value.exchange(sealed_number(dice)))
        self.array[dice.randrange(8)] = sealed_number(dice)
        self.after += 1

    def read(self, dice):
        check_number(self.value.value)
        for number in self.array:
            check_number(number)

    def finish(self):
        self.read(None)
        assert 0 <= self.before.value - self.after.value <= ROUNDS_OF_A_STORM + WRITERS, (self.before, self.after)


class OfLock:
    """Two numbers that are equal whenever the lock is free, but for who has it from the dead."""

    def __init__(self):
        self.lock, self.one, self.two = shared.Lock(), shared.Value("q"), shared.Value("q")

    def write(self, dice):
        with self.lock:
            if self.lock.abandoned is None:
                assert self.one.value == self.two.value, "the lock was another's, too"
            self.one.value = self.two.value = self.one.value + 1

    def read(self, dice):
        with self.lock:
            if self.lock.abandoned is None:
                assert self.one.value == self.two.value, "the lock was another's, too"
            self.two.value = self.one.value

    def finish(self):
        assert self.lock.acquire(timeout=LIMIT), "nobody releases the lock"
        self.lock.release()


KINDS = [OfDict, OfList, OfQueue, OfNumbers, OfLock]

# ---- processes ----


class Mortal:
    """A process that writes or reads, and whoever takes its place."""

    def __init__(self, act):
        self.act = act
        self.turns = shared.Counter()
        self.start(0)

    def start(self, seed):
        self.pid = os.fork()
        if self.pid == 0:
            dice = random.Random(seed)
            try:
                while True:
                    self.act(dice)
                    self.turns += 1
            except BaseException as error:
                print(repr(error)[:500], flush=True)
            finally:
                os._exit(1)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        status = os.waitpid(self.pid, 0)[1]
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, status


def all_acts(shared_things, name):
    def act(dice):
        for thing in shared_things:
            getattr(thing, name)(dice)

    return act


def wait_until_all_go_on(mortals):
    before = [mortal.turns.value for mortal in mortals]
    deadline = time.monotonic() + LIMIT
    while any(mortal.turns.value == turns for mortal, turns in zip(mortals, before, strict=True)):
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert ended is None, f"a process found a fault: {ended}"
        if time.monotonic() > deadline:
            for mortal, turns in zip(mortals, before, strict=True):
                if mortal.turns.value == turns:
                    os.kill(mortal.pid, signal.SIGUSR1)  # it says where it is
                    os.waitid(os.P_PID, mortal.pid, os.WEXITED | os.WNOWAIT)
            sys.exit("a process hangs")
        time.sleep(0.0001)


def storm(dice, rounds):
    """Kill so many, and return how many turns the processes took, and the most memory that they used."""
    things = [kind() for kind in KINDS]
    writers = [Mortal(all_acts(things, "write")) for _ in range(WRITERS)]
    mortals = writers + [Mortal(all_acts(things, "read")) for _ in range(READERS)]
    most = 0
    for _ in range(rounds):
        wait_until_all_go_on(mortals)
        time.sleep(dice.random() * 0.001)
        victim = dice.choice(mortals)
        victim.kill()
        victim.start(dice.random())
        most = max(most, file_bytes())
    turns = sum(mortal.turns.value for mortal in mortals)
    for mortal in mortals:  # those that live must not wait for an item, or for space, that the dead would bring
        mortal.kill()
    for thing in things:
        thing.finish()
    return turns, most


# ---- memory ----


def file_bytes():
    return os.fstat(shared._memory.heap().fileno()).st_blocks * 512


def used():
    """How many cells are in use, and bytes; the dead have nothing any more."""
    for _ in range(RESERVATIONS):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return shared._memory.heap().used(), file_bytes()


def main():
    faulthandler.register(signal.SIGUSR1, chain=True)
    dice = random.Random(SEED)
    print("seed", SEED, flush=True)
    for kind in KINDS:  # as many cells of the heap as are needed
        kind().finish()
    began = time.monotonic()
    cells, size = used()
    done = turns = most = 0
    while done < ROUNDS:
        rounds = min(ROUNDS_OF_A_STORM, ROUNDS - done)
        more_turns, peak = storm(dice, rounds)
        done, turns, most = done + rounds, turns + more_turns, max(most, peak)
        cells_now, size_now = used()
        print(done, "killed:", cells_now, "cells and", size_now, "bytes in use", flush=True)
        assert (cells_now, cells) == (0, 0), "shared objects are left of the dead"
        assert size_now <= size + SLACK_BYTES, f"{size} bytes were in use before"
    seconds = time.monotonic() - began
    print(f"{done} killed in {seconds:.0f} s, {turns} turns, {most / 1e6:.1f} MB at most")


main()
