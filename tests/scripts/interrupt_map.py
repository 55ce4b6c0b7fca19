"""Signals that strike while the main thread maps: interrupt_map.py HOW ERROR ROUNDS.

HOW: what map() is given: a list, a generator and a buffersize, or objects whose pickling, or whose results' unpickling,
runs Python code.  ERROR: what the signal's handler raises: KeyboardInterrupt, or an Exception as those that bound a
call's time raise.  A timer sends the signal at some moment of the map, in each round another.  What the handler raises
must come out of the map, always, and the pool must end afterwards.
"""

import gc
import random
import signal
import sys
import threading

import pyconc

# What a hang is: far beyond anything that a busy machine takes.
HANG_LIMIT = 60


class Alarm(Exception):
    pass


class Item:
    """Pickled and unpickled by Python code."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        for _ in range(100):
            pass
        return rebuild, (self.number,)


def rebuild(number):
    for _ in range(100):
        pass
    return Item(number)


def work(item):
    for _ in range(5000):
        pass
    return item


def make_list():
    return {}, list(range(200))


def make_generator():
    return {"buffersize": 20}, (number for number in range(200))


def make_chunks():
    return {"buffersize": 3, "chunksize": 2}, (number for number in range(200))


def make_objects():
    return {}, [Item(number) for number in range(200)]


def handle(signum, frame):
    global raised
    if armed:
        raised += 1
        raise error


def map_once(pool):
    global armed, caught
    kwargs, source = globals()[f"make_{how}"]()
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, choose.uniform(0.0005, 0.03))
        for _ in pool.map(work, source, **kwargs):
            pass
        armed = False
    except type(error) as came:
        armed = False
        caught += came is error


def main():
    global pool_number
    gc.disable()  # what is raised in a finalizer, wherever that is run, comes out nowhere
    for pool_number in range(rounds):
        pool = pyconc.ProcessPoolExecutor(2)
        pool.submit(abs, -1).result()
        map_once(pool)
        signal.setitimer(signal.ITIMER_REAL, 0)
        closing = threading.Thread(target=pool.shutdown, daemon=True)
        closing.start()
        closing.join(HANG_LIMIT)
        assert not closing.is_alive(), f"pool {pool_number} does not end"
    assert caught == raised, f"{caught} of {raised} came out"
    print(raised)


how, rounds = sys.argv[1], int(sys.argv[3])
error = {"KeyboardInterrupt": KeyboardInterrupt(), "Exception": Alarm()}[sys.argv[2]]
armed, raised, caught = False, 0, 0
choose = random.Random(how)

if __name__ == "__main__":
    signal.signal(signal.SIGALRM, handle)
    main()
