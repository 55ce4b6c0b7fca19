"""What does it cost to share a lock, a number, a list, a dict, a queue or an array between processes?

Each row does the same with an object of multiprocessing, of the server that its Manager starts, or of asyncio, and with
one of pyconc.shared, in one process that has it to itself: what a program pays each time. 100 MB are sent to workers.
The last one kills the process that holds a lock, and asks when another, which waits for it, goes on; with the others
that is never.
"""

import asyncio
import concurrent.futures
import functools
import multiprocessing
import os
import signal
import threading
from time import perf_counter

from pyconc._bench import harness
from pyconc._bench.harness import US, Row, at_most, times_less, under, within

__all__ = ["ROUNDS", "facts", "make_contests", "make_rows"]

ROUNDS = 9
MS = "ms"

SHARED_BYTES = 100_000_000
TASKS = 8

OPERATIONS = 50_000
OPERATIONS_OF_SERVER = 1_000


def each(size, work):
    """Microseconds per call of work()."""
    started = perf_counter()
    for _ in range(size):
        work()
    return (perf_counter() - started) / size * 1e6


def pairs(lock, size):
    started = perf_counter()
    for _ in range(size):
        with lock:
            pass
    return (perf_counter() - started) / size * 1e6


def pairs_of_calls(lock, size):
    started = perf_counter()
    for _ in range(size):
        lock.acquire()
        lock.release()
    return (perf_counter() - started) / size * 1e6


def pairs_of_a_task(lock, size):
    async def main():
        started = perf_counter()
        for _ in range(size):
            async with lock:
                pass
        return (perf_counter() - started) / size * 1e6

    return asyncio.run(main())


def increments(value, size):
    started = perf_counter()
    for _ in range(size):
        with value.get_lock():
            value.value += 1
    return (perf_counter() - started) / size * 1e6


def reads(value, size):
    started = perf_counter()
    for _ in range(size):
        value.value  # noqa: B018
    return (perf_counter() - started) / size * 1e6


def additions(counter, size):
    return each(size, functools.partial(counter.add, 1))


def appends(items, size):
    return each(size, functools.partial(items.append, 5))


def gets(items, size):
    return each(size, functools.partial(items.__getitem__, 7))


def sets(table, size):
    return each(size, functools.partial(table.__setitem__, "key 7", 5))


def gets_by_key(table, size):
    return each(size, functools.partial(table.__getitem__, "key 7"))


def reads_together(shared, table, processes, size):
    """Microseconds for each of the reads of so many processes together, when each reads as often as one alone would."""
    start, times = shared.Barrier(processes), shared.List()
    context = multiprocessing.get_context("fork")
    readers = [context.Process(target=read_and_tell, args=(start, table, size, times)) for _ in range(processes)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    starts, ends = zip(*times, strict=True)
    return (max(ends) - min(starts)) / (processes * size) * 1e6


def read_and_tell(start, table, size, times):
    start.wait()
    started = perf_counter()
    gets_by_key(table, size)
    times.append((started, perf_counter()))


def puts(items, size):
    return each(size, functools.partial(items.__setitem__, 7, 5.0))


def passes(items, size):
    """Microseconds for an item that is put, and got."""
    started = perf_counter()
    for i in range(size):
        items.put(i)
        items.get()
    return (perf_counter() - started) / size * 1e6


def stream(items, size):
    """Microseconds for each of the items that another process puts, until all are got."""
    process = multiprocessing.get_context("fork").Process(target=fill, args=(items, size))
    process.start()
    items.get()  # it is there
    started = perf_counter()
    for _ in range(size):
        items.get()
    took = perf_counter() - started
    process.join()
    return took / size * 1e6


def fill(items, size):
    for i in range(size + 1):
        items.put(i)


def copy_of(data):
    """Milliseconds for a copy of it, in this process."""
    started = perf_counter()
    bytearray(data)
    return (perf_counter() - started) * 1e3


def one_copy(shared, data):
    """Milliseconds to share it."""
    started = perf_counter()
    shared.share(data)
    return (perf_counter() - started) * 1e3


def last_byte(data):
    return (data if isinstance(data, bytes) else data.get())[-1]


def sent(futures, data):
    """Milliseconds per task of those that are sent the same."""
    with futures.ProcessPoolExecutor(2) as pool:
        for future in [pool.submit(int) for _ in range(TASKS)]:
            future.result()  # the workers are there
        started = perf_counter()
        for future in [pool.submit(last_byte, data) for _ in range(TASKS)]:
            future.result()
        return (perf_counter() - started) / TASKS * 1e3


def until_next(shared):
    """Milliseconds from the death of a process with the lock until a thread that sleeps for it has it."""
    lock, held = shared.Lock(), shared.Event()
    pid = os.fork()
    if pid == 0:
        lock.acquire()
        held.set()
        signal.pause()
    held.wait()
    ends = []
    begun = threading.Event()

    def wait():
        begun.set()
        with lock:
            ends.append(perf_counter())

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()
    started = perf_counter()
    os.kill(pid, signal.SIGKILL)
    thread.join()
    os.waitpid(pid, 0)
    return (ends[0] - started) * 1e3


def make_rows(options):
    manager = multiprocessing.Manager()  # it ends when nothing refers to it
    size = harness.scaled(OPERATIONS, options.quick)
    few = harness.scaled(OPERATIONS_OF_SERVER, options.quick)
    lock, value, semaphore = multiprocessing.Lock(), multiprocessing.Value("q"), multiprocessing.Semaphore()
    served = manager.Lock()
    increment = functools.partial(increments, value, size)
    if options.control:
        same = functools.partial(pairs, lock, size)
        return [Row("a lock, taken and released", US, same, same, times_less(1))]
    shared = options.candidate.shared
    ours, number, counter = shared.Lock(), shared.Value("q"), shared.Counter()
    ours_pairs = functools.partial(pairs, ours, size)
    calls, our_calls = functools.partial(pairs_of_calls, lock, size), functools.partial(pairs_of_calls, ours, size)
    permits, our_permits = functools.partial(pairs, semaphore, size), functools.partial(pairs, shared.Semaphore(), size)
    add, our_increment = functools.partial(additions, counter, size), functools.partial(increments, number, size)
    read, our_read = functools.partial(reads, value, size), functools.partial(reads, number, size)
    served_list, our_list = manager.list(range(10)), shared.List(range(10))
    append, our_append = functools.partial(appends, served_list, few), functools.partial(appends, our_list, size)
    get, our_get = functools.partial(gets, served_list, few), functools.partial(gets, our_list, size)
    content = {f"key {i}": i for i in range(1000)}
    served_dict, our_dict = manager.dict(content), shared.Dict(content)
    put, our_put = functools.partial(sets, served_dict, few), functools.partial(sets, our_dict, size)
    find, our_find = functools.partial(gets_by_key, served_dict, few), functools.partial(gets_by_key, our_dict, size)
    alone, together = (functools.partial(reads_together, shared, our_dict, count, size) for count in (1, 2))
    our_managed = functools.partial(sets, options.candidate.Manager().dict(content), size)
    served_queue, our_queue = manager.Queue(), shared.Queue()
    pass_on, our_pass = functools.partial(passes, served_queue, few), functools.partial(passes, our_queue, size)
    flow, our_flow = (
        functools.partial(stream, multiprocessing.Queue(), size),
        functools.partial(stream, our_queue, size),
    )
    array, our_array = multiprocessing.Array("d", 100), shared.Array("d", 100)
    look, our_look = functools.partial(gets, array, few), functools.partial(gets, our_array, size)
    store, our_store = functools.partial(puts, array, few), functools.partial(puts, our_array, size)
    task, our_task = (functools.partial(pairs_of_a_task, each, size) for each in (asyncio.Lock(), shared.Lock()))
    data = bytes(harness.scaled(SHARED_BYTES, options.quick))
    send = functools.partial(sent, concurrent.futures, data)
    our_send = functools.partial(sent, options.candidate, shared.share(data))
    copy, our_copy = functools.partial(copy_of, data), functools.partial(one_copy, shared, data)
    death = functools.partial(until_next, shared)
    return [
        Row("a lock, taken and released", US, functools.partial(pairs, lock, size), ours_pairs, under(0.12)),
        Row("the same without with: acquire(), release()", US, calls, our_calls, under(0.12)),
        Row("the same beside the Manager's", US, functools.partial(pairs, served, few), ours_pairs, times_less(100)),
        Row("a semaphore, taken and released", US, permits, our_permits, times_less(1)),
        Row("async with a lock, beside asyncio's", US, task, our_task, times_less(1)),
        Row("Counter.add, beside += under a Value's lock", US, increment, add, under(0.09)),
        Row("+= under a Value's lock", US, increment, our_increment, times_less(1)),
        Row("a Value, read", US, read, our_read, times_less(1)),
        Row("List.append, beside the Manager's", US, append, our_append, under(0.25)),
        Row("an item of a List, beside the Manager's", US, get, our_get, under(0.2)),
        Row("a key of a Dict, set, beside the Manager's", US, put, our_put, under(0.45)),
        Row("the value of a key, beside the Manager's", US, find, our_find, under(0.3)),
        Row("the same by two processes at once, beside one", US, alone, together, times_less(1.8)),
        Row("a key of a Manager's dict, set", US, put, our_managed, under(0.45)),
        Row("an item of a Queue, put and got, beside the Manager's", US, pass_on, our_pass, times_less(20)),
        Row("an item of a Queue, from process to process", US, flow, our_flow, under(1)),
        Row("an item of an Array, read", US, look, our_look, times_less(1)),
        Row("an item of an Array, set", US, store, our_store, times_less(1)),
        Row("100 MB shared: one copy, beside a plain one", MS, copy, our_copy, within(8)),
        Row("100 MB to 8 tasks: each", MS, send, our_send, at_most(0.1)),
        Row("a dead process's lock: the next has it after", MS, None, death, at_most(5)),
    ]


def facts():
    return {}


def make_contests(_options):
    return []
