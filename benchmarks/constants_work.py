"""The pieces of work that constants.py gives to each copy of pyconc: `python constants_work.py WORK COPY`.

Each function returns figures by name, all of them costs, and takes less than a second or two.
"""

import array
import asyncio
import concurrent.futures
import contextlib
import functools
import json
import os
import pickle
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter, process_time

import pyconc
from pyconc import shared
from pyconc._bench import cluster, harness, processes, threads
from pyconc._bench import shared as shared_rows
from pyconc._bench.harness import WORKERS, identity
from pyconc._bench.programs.meter import percentile
from pyconc._bench.started import start

Figures = dict[str, float]

KB = 1000


def spin(seconds):
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass


def milliseconds(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return (perf_counter() - started) * 1000


def each(work: Callable[[], object], seconds: float = 0.15) -> float:
    """Microseconds for a call of work(), in so many seconds of calls."""
    started, calls = perf_counter(), 0
    while (took := perf_counter() - started) < seconds:
        work()
        calls += 1
    return took / calls * 1e6


@contextlib.contextmanager
def ticker() -> Iterator[list[float]]:
    """How late, in milliseconds, a thread has got on that sleeps for a millisecond at a time."""
    late, is_over = [], threading.Event()

    def tick() -> None:
        while not is_over.is_set():
            started = perf_counter()
            time.sleep(0.001)
            late.append((perf_counter() - started) * 1000 - 1)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield late
    finally:
        is_over.set()
        thread.join()


# --- Calls in processes -----------------------------------------------------------------------------------------------


def calls() -> Figures:
    async def run_many(count: int) -> None:
        async with pyconc.CoroutinePool(WORKERS) as pool:
            await asyncio.gather(*[pool.run(itself, i) for i in range(count)])

    with start(pyconc) as pool:
        burst = harness.timed(harness.burst, pool, 30_000)
    figures = short_process_pools()
    return {"burst µs": burst, "coroutines ms": milliseconds(lambda: asyncio.run(run_many(20_000))), **figures}


def stopped_worker() -> Figures:
    with start(pyconc) as pool:
        burst = harness.timed(harness.burst, pool, 20_000)
        pid = next(iter(pool._processes))
        os.kill(pid, signal.SIGSTOP)
        try:
            late = milliseconds(lambda: harness.burst(pool, 4))
        finally:
            os.kill(pid, signal.SIGCONT)
    return {"burst µs": burst, "a worker stopped ms": late}


def time_outs() -> Figures:
    late = []
    with start(pyconc) as pool:
        patient = pool.options(timeout=3600)
        harness.burst(patient, 1000)
        burst = harness.timed(harness.burst, patient, 10_000)
        began = process_time()
        for _ in range(20):
            started = perf_counter()
            with contextlib.suppress(pyconc.TaskTimeout):
                pool.options(timeout=0.01).submit(time.sleep, 3600).result()
            late.append((perf_counter() - started - 0.01) * 1000)
        cpu = (process_time() - began) * 1000 / 20
    return {"burst µs": burst, "late ms": statistics.median(late), "late p90 ms": percentile(late, 90), "CPU ms": cpu}


def delivery() -> Figures:
    with start(pyconc) as pool:
        with ticker() as late:
            burst = harness.timed(harness.burst, pool, 30_000)
    return {"burst µs": burst, "others late ms": max(late)}


def measured_workers() -> Figures:
    with pyconc.ProcessPoolExecutor(WORKERS, max_rss_per_child=1 << 40) as pool:
        harness.burst(pool, 1000)
        return {"burst µs": harness.timed(harness.burst, pool, 20_000)}


def map_of(seconds: list[float]) -> float:
    """Milliseconds for a map of calls that take so long, by a pool that does not know them yet."""
    with start(pyconc) as pool:
        return milliseconds(lambda: list(pool.map(spin, seconds)))


def maps() -> Figures:
    with start(pyconc) as pool:
        short = milliseconds(lambda: [list(pool.map(spin, [2e-5] * 80)) for _ in range(50)])
    nothing = processes.map_automatic(pyconc, 100_000)
    return {"nothing µs": nothing, "4,000 of 20 µs": map_of([2e-5] * 4000), "50 maps of 80": short}


def uneven_maps() -> Figures:
    return {
        "nothing µs": processes.map_automatic(pyconc, 50_000),
        "one takes long ms": map_of([0.1] + [0.001] * 100),
        "the last take long ms": map_of([0.0] * 4000 + [0.005] * 40),
        "the first is quick ms": map_of([0.0] + [0.001] * 200),
    }


def long_map() -> Figures:
    with start(pyconc) as pool:
        list(pool.map(identity, range(20_000)))
        return {"µs": harness.timed(lambda pool, size: list(pool.map(identity, range(size))), pool, 300_000)}


# --- What is sent with them -------------------------------------------------------------------------------------------


def calls_with(**arguments: object) -> Figures:
    """Microseconds for a call with each argument, in bursts of twenty, and back."""
    figures = {}
    with start(pyconc) as pool:
        for name, argument in arguments.items():

            def calls(argument=argument) -> None:
                for future in [pool.submit(identity, argument) for _ in range(20)]:
                    future.result()

            calls()
            figures[f"{name} µs"] = each(calls) / 20
    return figures


def arguments() -> Figures:
    return calls_with(number=7, text="x" * 100, long_text="x" * 300, pair=(1, "two"), nested=(1, (2, (3, (4.0,)))))


def strings() -> Figures:
    return calls_with(of_30_KB="x" * 30 * KB, of_100_KB="x" * 100 * KB, of_200_KB="x" * 200 * KB)


def nested_arguments() -> Figures:
    text, number = "x" * 200 * KB, shared.Value("q")
    return calls_with(
        records=[{"name": "a", "values": [1, 2, 3]} for _ in range(30)],
        text_in_a_dict={"a": 1, "b": [2, {"c": text}]},
        text_at_the_end=[*range(30), text],
        value_in_a_dict={"a": 1, "b": [2, {"c": number}]},
    )


class Buffer:
    """What travels as a buffer out of band, as arrays do."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Buffer, (pickle.PickleBuffer(self.data),)


def buffers() -> Figures:
    return calls_with(**{f"of_{size}": Buffer(bytearray(size)) for size in (100, 800, 3000, 12_000)})


def transfers() -> Figures:
    sizes = {"50_KB": 50 * KB, "200_KB": 200 * KB, "2_MB": 2000 * KB}
    figures = calls_with(**{name: bytearray(size) for name, size in sizes.items()})
    with start(pyconc) as pool:
        before = processes.held_bytes()
        for size in range(100 * KB, 8000 * KB, 800 * KB):
            pool.submit(identity, bytearray(size)).result()
        time.sleep(0.1)
        figures["held MB"] = (processes.held_bytes() - before) / 1e6
    return figures


def calls_of(functions: list[Callable[[], object]]) -> float:
    with start(pyconc) as pool:

        def calls() -> None:
            for future in [pool.submit(function) for function in functions]:
                future.result()

        calls()
        return each(calls) / len(functions)


def function_of(size: int) -> Callable[[], int]:
    """A function that travels by value, with a pickle of more than so many bytes."""
    text = "x" * size
    return lambda: len(text)


def many_callables() -> Figures:
    return {f"{count} functions µs": calls_of([function_of(i) for i in range(count)]) for count in (50, 1000, 6000)}


def large_callables() -> Figures:
    return {f"of {size} µs": calls_of([function_of(size)]) for size in (2000, 10_000, 50_000)}


# --- Threads and loops ------------------------------------------------------------------------------------------------


def now_and_then(futures, seconds: float) -> float:
    """Microseconds from submit() to result() beyond so much work."""
    with futures(WORKERS) as pool:
        pool.submit(spin, seconds).result()
        return each(lambda: pool.submit(spin, seconds).result()) - seconds * 1e6


def waits() -> Figures:
    figures = {}
    for kind, futures in ("threads", pyconc.ThreadPoolExecutor), ("processes", pyconc.ProcessPoolExecutor):
        for seconds in 0, 3e-5, 3e-4:
            figures[f"{kind} {seconds * 1e6:g} µs"] = now_and_then(futures, seconds)
    began = process_time()
    now_and_then(pyconc.ThreadPoolExecutor, 3e-4)
    return figures | {"CPU ms": (process_time() - began) * 1000}


def calls_in_c() -> Figures:
    with pyconc.ThreadPoolExecutor(1) as pool, ticker() as late:
        burst = each(lambda: concurrent.futures.wait([pool.submit(abs, 1) for _ in range(10_000)])) / 10_000
    return {"burst µs": burst, "others late ms": max(late), "others late p50 ms": percentile(late, 50)}


def short_pools() -> Figures:
    return {f"{count} threads µs": threads.start_and_shut_down(count, pyconc, 300) for count in (1, 4)}


def time_outs_of_threads() -> Figures:
    if sys.version_info < (3, 15):
        raise NotImplementedError("system calls of threads are ended on Python 3.15 and later")
    late = []
    with pyconc.ThreadPoolExecutor(WORKERS) as pool:
        began = process_time()
        for _ in range(30):
            started = perf_counter()
            with contextlib.suppress(pyconc.TaskTimeout):
                pool.options(timeout=0.01).submit(time.sleep, 3600).result()
            late.append((perf_counter() - started - 0.01) * 1000)
        cpu = (process_time() - began) * 1000 / 30
    return {"late ms": statistics.median(late), "late p90 ms": percentile(late, 90), "CPU ms": cpu}


def loops() -> Figures:
    async def beside(pool) -> float:
        """The longest turn of the loop, in milliseconds, while many calls end."""
        calls = asyncio.ensure_future(harness.gather(asyncio.get_running_loop(), pool, 50_000))
        turns = [0.0]
        while not calls.done():
            started = perf_counter()
            await asyncio.sleep(0)
            turns.append((perf_counter() - started) * 1000)
        return max(turns[2:], default=0.0)  # the first submits

    with pyconc.ThreadPoolExecutor(WORKERS) as pool:
        longest = asyncio.run(beside(pool))
    gather = threads.gather(asyncio.new_event_loop, pyconc, 30_000)
    by_processes = processes.gather(asyncio.new_event_loop, pyconc, 10_000)
    return {"gather µs": gather, "by processes µs": by_processes, "longest turn ms": longest}


async def itself(x):
    return x


async def sleeps(seconds):
    """How late, in milliseconds, the worker's loop gets on."""
    started = perf_counter()
    await asyncio.sleep(seconds)
    return (perf_counter() - started - seconds) * 1000


def coroutines() -> Figures:
    async def main() -> Figures:
        async with pyconc.CoroutinePool(1) as pool:
            await pool.run(itself, 0)
            started = perf_counter()
            watch = asyncio.ensure_future(pool.run(sleeps, 0.02))
            await asyncio.gather(*[pool.run(itself, i) for i in range(20_000)])
            took = (perf_counter() - started) / 20_000 * 1e6
            started = perf_counter()
            await asyncio.gather(*[pool.run(sleeps, 0.01) for _ in range(2000)])
            asleep = (perf_counter() - started) * 1000
            return {"run µs": took, "its loop late ms": await watch, "2,000 that sleep ms": asleep}

    return asyncio.run(main())


async def numbers(count):
    for i in range(count):
        yield i


def streams() -> Figures:
    async def main() -> Figures:
        async with pyconc.CoroutinePool(1) as pool:
            await pool.run(itself, 0)
            started = perf_counter()
            async for _ in pool.stream(numbers, 20_000):
                pass
            return {"an item µs": (perf_counter() - started) / 20_000 * 1e6}

    return asyncio.run(main())


# --- Shared data ------------------------------------------------------------------------------------------------------


def write(table, is_over):
    i = 0
    while not is_over.is_set():
        table[f"key {i % 1000}"] = i
        i += 1


def looks() -> Figures:
    table = shared.Dict({f"key {i}": i for i in range(1000)})
    texts = shared.List(["x" * size for size in (20, 200, 2000)])
    figures = {
        "alone µs": shared_rows.gets_by_key(table, 100_000),
        "two together µs": shared_rows.reads_together(shared, table, 2, 50_000),
        **{f"of {len(texts[i])} µs": each(lambda i=i: texts[i], 0.05) for i in range(3)},
        "a new dict's µs": each(lambda: shared.Dict(a=1)["a"]),
    }
    is_over = shared.Event()
    with start(pyconc) as pool:
        writer = pool.submit(write, table, is_over)
        try:
            figures["beside a writer µs"] = shared_rows.gets_by_key(table, 50_000)
        finally:
            is_over.set()
        writer.result()
    return figures


def growing_containers() -> Figures:
    def fill_list() -> None:
        items = shared.List()
        for i in range(1000):
            items.append(i)

    def fill_dict() -> None:
        table = shared.Dict()
        for i in range(1000):
            table[i] = "x" * (i % 100)

    def grow_while_looked_at() -> None:
        table = shared.Dict({0: 0})
        for i in range(1000):
            table[i] = table[0]

    return {
        "1,000 appends µs": each(fill_list),
        "1,000 keys µs": each(fill_dict),
        "beside looks µs": each(grow_while_looked_at),
        "an empty dict µs": each(shared.Dict),
        "three items µs": each(lambda: shared.List([1, 2, 3])),
    }


def queues() -> Figures:
    items, text = shared.Queue(), "x" * 100 * KB

    def pass_text() -> None:
        items.put(text)
        items.get()

    def new_queue() -> None:
        new = shared.Queue()
        new.put(1)
        new.get()

    return {
        "put and get µs": shared_rows.passes(items, 50_000),
        "of 100 KB µs": each(pass_text),
        "from a process µs": shared_rows.stream(items, 50_000),
        "a new queue µs": each(new_queue),
    }


def shared_arguments() -> Figures:
    data = [shared.share(bytes(100 * KB)) for _ in range(10)]
    with start(pyconc) as pool:

        def send(count: int) -> None:
            for future in [pool.submit(len, data[:count]) for _ in range(20)]:
                future.result()

        send(10)
        return {f"{count} objects µs": each(functools.partial(send, count)) / 20 for count in (1, 3, 10)}


def containers_in_containers() -> Figures:
    inner = [shared.List() for _ in range(8)]
    items = shared.List()

    def keep(count: int) -> None:
        items.extend(inner[:count])
        items.clear()

    figures = {f"{count} objects µs": each(functools.partial(keep, count)) for count in (1, 3, 8)}
    pairs = {i: i for i in range(8)}
    table = shared.Dict()
    return figures | {"8 keys µs": each(lambda: table.update(pairs))}


def shared_slices() -> Figures:
    figures = {}
    numbers = shared.Array("d", 1_000_000)
    with ticker() as late:
        for count in 4000, 40_000, 400_000:
            values = array.array("d", bytes(8 * count))
            figures[f"{count * 8 // KB} KB µs"] = each(functools.partial(numbers.__setitem__, slice(count), values))
    made = each(lambda: shared.share(bytes(20_000 * KB)))
    return figures | {"others late ms": max(late), "20 MB shared µs": made}


# --- Observation ------------------------------------------------------------------------------------------------------


def traced_calls() -> Figures:
    functions = [functools.partial(identity, i) for i in range(100)]
    with tempfile.TemporaryDirectory() as folder, pyconc.ThreadPoolExecutor(WORKERS) as pool:
        path = Path(folder, "trace.json.gz")
        trace = pyconc.trace(path)
        trace.start()
        burst = harness.timed(harness.burst, pool, 3000)
        several = each(lambda: [future.result() for future in map(pool.submit, functions)]) / 100
        end = milliseconds(trace.stop)
        return {"burst µs": burst, "100 functions µs": several, "stop() ms": end, "KB": path.stat().st_size / KB}


def killed_trees() -> Figures:
    def kill() -> None:
        with pyconc.ProcessPoolExecutor(1, kill_tree=True) as pool:
            begun = shared.Event()
            pool.submit(start_and_sleep, begun)
            begun.wait()
            pool.kill_workers()

    return {"from start to end ms": statistics.median(milliseconds(kill) for _ in range(5))}


def start_and_sleep(begun):
    children = [os.posix_spawn("/bin/sleep", ["sleep", "60"], os.environ) for _ in range(5)]
    begun.set()
    for child in children:
        os.waitpid(child, 0)


# --- Other roads ------------------------------------------------------------------------------------------------------


def pool_maps() -> Figures:
    with pyconc.multiprocessing.Pool(WORKERS) as pool:
        list(pool.imap(identity, range(1000)))
        figures = {
            "imap µs": each(lambda: list(pool.imap(identity, range(2000)))) / 2000,
            "imap_unordered µs": each(lambda: list(pool.imap_unordered(identity, range(2000)))) / 2000,
            "the first ms": statistics.median(
                milliseconds(lambda: next(pool.imap(identity, range(5000)))) for _ in range(5)
            ),
        }
    return figures


def short_process_pools() -> Figures:
    def one() -> None:
        with pyconc.ProcessPoolExecutor(1) as pool:
            pool.submit(abs, -1).result()

    def after_a_thread() -> None:
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
        one()

    one()
    return {"a pool µs": each(one), "after a thread µs": each(after_a_thread)}


def clusters() -> Figures:
    return {
        "burst µs": cluster.on_executor(harness.burst, True, 20_000),
        "gather µs": cluster.on_executor(cluster.gather_all, True, 20_000),
        "one at a time µs": cluster.on_executor(harness.round_trips, True, 200),
        "of 1 ms ms": cluster.on_executor(spin_burst, True, 400) / 1000,
    }


def spin_burst(pool, size):
    return [future.result() for future in [pool.submit(spin, 0.001) for _ in range(size)]]


if __name__ == "__main__":
    name, copy = sys.argv[1:]
    assert Path(pyconc.__file__).is_relative_to(copy), f"{pyconc.__file__} is not in {copy}"
    print(json.dumps(globals()[name]()))
