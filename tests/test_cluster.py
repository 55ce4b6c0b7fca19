"""pyconc.cluster: an executor on the nodes of a dask.distributed cluster."""

import ast
import asyncio
import concurrent.futures
import contextlib
import importlib
import inspect
import logging
import os
import pickle
import random
import signal
import sys
import threading
import time
import warnings
import weakref
from collections import Counter
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import jobs
import pytest
from gates import ProcessGate
from support import HANG_LIMIT, await_line, finish, run_script, start_script, wait_until

import pyconc
from pyconc import _dump

pytest.importorskip("distributed")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import dask
    from distributed import Client, LocalCluster, Scheduler, Security, Worker
    from distributed.comm import CommClosedError

from pyconc.cluster import ClusterExecutor, NodeDied, NodePlugin, _calls, _dispatcher, _node, _refs, _relay

# What dask leaves to the garbage collector, and says of nodes that are killed.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)


# --- Clusters ---------------------------------------------------------------------------------------------------------


def start_cluster(nodes, memory_limit=0, **options):
    anywhere = "127.0.0.1:0"
    return LocalCluster(
        n_workers=nodes,
        threads_per_worker=1,
        dashboard_address=anywhere,
        worker_dashboard_address=anywhere,
        memory_limit=memory_limit,
        silence_logs=False,
        **options,
    )


@pytest.fixture(scope="module")
def cluster():
    """Two nodes that are processes of their own; a test may kill one, and another comes."""
    # So many seconds after each death dask looks whether the node is there again, and gives it up for good if not:
    # because it starts slowly, or because another test has just killed it anew.
    with dask.config.set({"distributed.deploy.lost-worker-timeout": 3600}), start_cluster(2) as cluster:
        yield cluster


@pytest.fixture
def executor(cluster):
    with ClusterExecutor(cluster, workers_per_node=1) as executor:
        wait_for_nodes(executor, 2)
        yield executor


@pytest.fixture(autouse=True)
def _nothing_left():
    """In place of conftest.py's: dask keeps threads and files for as long as its process lives."""
    yield
    wait_until(
        lambda: not [thread for thread in threading.enumerate() if "ClusterExecutor" in thread.name], "the threads"
    )


def wait_for_nodes(executor, number):
    wait_until(lambda: len(executor.stats().nodes) == number, f"{number} nodes")


def counts(executor):
    now = executor.stats()
    return now.queued, now.running, now.submitted, now.completed, now.failed, now.cancelled, now.died, now.again


# --- Calls ------------------------------------------------------------------------------------------------------------


class Unpicklable:
    def __reduce__(self):
        raise ValueError("not this one")


class UnpicklableThere:
    def __reduce__(self):
        return explode, (os.getpid(),)


def explode(pid):
    if os.getpid() != pid:
        raise ModuleNotFoundError("no module of that name there")


class FailsHere:
    """Can be pickled, and unpickled anywhere but in the process that it was made for."""

    def __init__(self, pid):
        self.pid = pid

    def __reduce__(self):
        return fail_in, (self.pid,)


def fail_in(pid):
    if os.getpid() == pid:
        raise ValueError("not here")
    return FailsHere(pid)


class Awkward(Exception):
    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")


def raise_awkward():
    raise Awkward(1, "two")


def note_and_hold(folder, name, gate):
    note(folder, name)
    gate()


def note(folder, name):
    """Leaves a file for each time that it runs."""
    Path(folder, f"{name}.{os.getpid()}.{time.monotonic_ns()}").touch()


def note_and_die_once(folder, name):
    note(folder, name)
    if len(list(Path(folder).glob(f"{name}.*"))) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def test_calls_return_and_raise_as_with_any_executor(executor):
    assert isinstance(executor, concurrent.futures.Executor)
    assert executor.submit(divmod, 7, 2).result() == (3, 1)
    assert executor.submit(dict, self=1, fn=2).result() == {"self": 1, "fn": 2}
    assert executor.submit(lambda: 3).result() == 3
    assert type(executor.submit(abs, -1)) is pyconc.Future
    error = executor.submit(jobs.fail, KeyError("k")).exception()
    assert type(error) is KeyError
    assert "in fail" in str(error.__cause__)
    values = executor.submit(time.time), executor.submit(time.time)
    assert values[0].result() != values[1].result()


def test_each_call_runs_in_a_worker_of_a_node(executor):
    with ProcessGate() as gate:
        futures = [executor.submit(gate) for _ in range(3)]
        pids = gate.wait_started(2)
        assert len({*pids}) == 2
        assert os.getpid() not in pids
        assert [node.running for node in executor.stats().nodes] == [1, 1]
        assert executor.stats().queued == 1
        gate.open()
        gate.wait_started()
        gate.open()
        assert [future.result() for future in futures] == [()] * 3


def wait_seen(gate):
    gate()
    return pyconc.current_task().name


def test_what_a_worker_runs_is_seen_by_its_own_name(cluster, executor):
    """By whoever looks at the node from outside, and by the code of the call."""
    with ProcessGate() as gate:
        futures = [executor.submit(wait_seen, gate), executor.options(name="mine").submit(wait_seen, gate)]
        gate.wait_started(2)
        nodes = [nanny.pid for nanny in cluster.workers.values()]
        pools = [pool for node in nodes for pool in _dump.look(node)["pools"]]
        assert {member["task"] for pool in pools for member in pool["members"]} >= {"wait_seen", "mine"}
        gate.open()
    assert {future.result() for future in futures} == {"wait_seen", "mine"}


def test_coroutines_are_seen_by_their_own_names(cluster, coroutines, tmp_path):
    """From outside, by workers(), and by the code of the coroutine."""
    named = coroutines.submit(hold_and_name, tmp_path)
    wait_until(lambda: list(tmp_path.glob("began.*")), "the coroutine")
    nodes = [nanny.pid for nanny in cluster.workers.values()]
    pools = [pool for node in nodes for pool in _dump.look(node)["pools"]]
    assert "hold_and_name" in {member["task"] for pool in pools for member in pool["members"]}
    assert "hold_and_name" in {worker.task for worker in coroutines.workers(HANG_LIMIT)}
    (tmp_path / "open").touch()
    assert named.result() == "hold_and_name"


async def hold_and_name(folder):
    note(folder, "began")
    while not (folder / "open").exists():
        await asyncio.sleep(0.01)
    return pyconc.current_task().name


# --- Seen while it runs -----------------------------------------------------------------------------------------------


def test_it_is_among_the_executors_of_the_program(cluster):
    with ClusterExecutor(cluster, workers_per_node=1, name="far") as executor:
        wait_for_nodes(executor, 2)
        assert list(executor.map(abs, range(5))) == [*range(5)]
        assert executor.submit(divmod, 1, 0).exception() is not None
        late = executor.options(timeout=0.01).submit(time.sleep, HANG_LIMIT)
        assert isinstance(late.exception(), pyconc.TaskTimeout)
        dead = executor.submit(jobs.die, signal.SIGKILL)
        assert isinstance(dead.exception(), pyconc.WorkerDied)
        stats = pyconc.stats()["far"]
        assert stats == executor.stats() == executor.options(name="view").stats()
        assert stats[: len(pyconc.PoolStats._fields)] == pyconc.PoolStats(
            name="far",
            max_workers=2,
            workers=2,
            idle=2,
            running=0,
            queued=0,
            submitted=8,
            completed=5,
            failed=1,
            cancelled=0,
            timed_out=1,
            died=1,
            abandoned=0,
            recycled=0,
            stolen=0,
            run=None,
            wait=None,
        )
        assert repr(executor) == "<ClusterExecutor 'far': 0 running, 0 queued, 2 workers on 2 nodes>"
    assert pyconc.stats()["far"].submitted == 8
    del executor
    wait_until(lambda: "far" not in pyconc.stats(), "the end of the executor")


def test_its_numbers_are_metrics(cluster):
    from pyconc import _metrics

    with ClusterExecutor(cluster, workers_per_node=1, name="far") as executor:
        wait_for_nodes(executor, 2)
        assert executor.submit(abs, -1).result() == 1
        counts = dict(_metrics.read())["far"]
        found = {metric.name: [value for _, value in metric.values(counts)] for metric in _metrics.METRICS}
        assert found["executor.pool.size"] == [2]
        assert found["executor.completed"] == [1, 0, 0, 0, 0]
        assert not any(timer.times(counts) for timer in _metrics.TIMERS)


def test_nodes_tell_what_their_workers_do(cluster):
    with ClusterExecutor(cluster, workers_per_node=1, name="far") as executor, ProcessGate() as gate:
        wait_for_nodes(executor, 2)
        held = [executor.submit(wait_seen, gate), executor.options(name="mine").submit(tell_and_wait, gate)]
        gate.wait_started(2)
        workers = executor.workers(HANG_LIMIT)
        assert [worker.node for worker in workers] == sorted(node.address for node in executor.stats().nodes)
        assert {worker.task: (worker.progress, worker.state, worker.running) for worker in workers} == {
            "wait_seen": (None, "running", 1),
            "mine": (pyconc.TaskProgress(1, 2, "half"), "running", 1),
        }
        for worker in workers:
            assert worker.running_for > 0
            assert worker.rss > 1 << 20
            assert worker.cpu >= 0
            assert (worker.name, worker.calls) == ("far_0", 0)
            assert "pyconc" in Path(f"/proc/{worker.id}/maps").read_text()
        gate.open()
        assert [future.result() for future in held] == ["wait_seen", "mine"]
        wait_until(lambda: [worker.calls for worker in executor.workers()] == [1, 1], "the ends")
        assert {worker.task for worker in executor.workers(HANG_LIMIT)} == {None}
    assert executor.workers() == []


def tell_and_wait(gate):
    pyconc.current_task().progress(1, 2, "half")
    return wait_seen(gate)


def test_a_node_that_does_not_answer_is_left_out(cluster, executor):
    """One that hangs costs the others nothing, and one that dies nothing but itself."""
    executor.submit(abs, -1).result()
    nanny = next(iter(cluster.workers.values()))
    pid = nanny.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        addresses = {worker.node for worker in executor.workers(0.1)}
        assert nanny.worker_address not in addresses
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(executor.workers, HANG_LIMIT)
            os.kill(pid, signal.SIGKILL)
            assert nanny.worker_address not in {worker.node for worker in asked.result()}
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended, unless something above has failed
            os.kill(pid, signal.SIGCONT)


def test_who_gets_the_answers_cannot_wait_for_them(executor):
    told = concurrent.futures.Future()

    def ask(future):
        try:
            executor.workers()
        except RuntimeError as error:
            told.set_result(error)

    with ProcessGate() as gate:
        future = executor.submit(gate)
        future.add_done_callback(ask)
        gate.open()
    assert "callbacks" in str(told.result(HANG_LIMIT))


def test_dask_learns_how_much_memory_the_workers_have(cluster, executor):
    with Client(cluster) as client, ProcessGate() as gate:
        held = [executor.submit(gate) for _ in range(2)]
        gate.wait_started(2)
        least = {worker.node: worker.rss // 2 for worker in executor.workers(HANG_LIMIT)}

        def is_told():
            nodes = client.scheduler_info(n_workers=-1)["workers"]
            metrics = [nodes[address]["metrics"] for address in least]
            return all(told.get("pyconc_workers", 0) >= 1 for told in metrics) and all(
                told["pyconc_rss"] >= rss for told, rss in zip(metrics, least.values())
            )

        wait_until(is_told, "a heartbeat of each node")
        gate.open()
        concurrent.futures.wait(held)


def test_a_worker_with_too_much_memory_is_replaced(cluster):
    with ClusterExecutor(cluster, workers_per_node=1, max_rss_per_child=1) as executor:
        wait_for_nodes(executor, 2)
        first = executor.submit(os.getpid).result()
        wait_until(lambda: executor.submit(os.getpid).result() != first, "another worker")
        wait_until(lambda: executor.submit(abs, -1).result() and executor.stats().recycled, "that to be known")


def test_map_keeps_the_order(executor):
    assert list(executor.map(pow, range(100), [2] * 100)) == [number**2 for number in range(100)]
    assert list(executor.map(abs, range(-100, 0), chunksize=7)) == [*range(100, 0, -1)]
    assert list(executor.map(abs, [])) == []
    taken = []
    results = executor.map(abs, (taken.append(n) or n for n in range(1000)), buffersize=3)
    assert [next(results), next(results)] == [0, 1]
    assert len(taken) <= 6
    results.close()
    for wrong in ({"chunksize": 0}, {"buffersize": 0}):
        with pytest.raises(ValueError):
            executor.map(abs, [1], **wrong)
    with ProcessGate() as gate, pytest.raises(concurrent.futures.TimeoutError):
        next(executor.map(gate, [1], timeout=0))


def test_functions_of_all_kinds_travel(executor, monkeypatch):
    def replaced(number):
        return -number

    monkeypatch.setattr(jobs, "replaced", lambda number: 0, raising=False)
    replaced.__module__, replaced.__qualname__ = "jobs", "replaced"  # so its name leads to another
    kinds = (abs, int, jobs.identity, jobs.AtGate.mro, [4].index, {4: 4}.get, partial(pow, 2), lambda x: x, replaced)
    for function in kinds:
        arguments = () if function == jobs.AtGate.mro else (4,)
        assert executor.submit(function, *arguments).result() == function(*arguments)


def test_whatever_a_module_has_in_a_functions_place_that_one_runs(executor, monkeypatch):
    """As with a pool on this machine."""
    original = jobs.identity
    with pyconc.ProcessPoolExecutor(1) as pool:
        for submit in (pool.submit, executor.submit):
            assert submit(original, 4).result() == 4
            with monkeypatch.context() as patched:
                patched.setattr(jobs, "identity", lambda value: -value)
                assert submit(original, 4).result() == 4
                assert submit(jobs.identity, 4).result() == -4
            assert submit(jobs.identity, 4).result() == 4


def test_what_is_known_of_functions_does_not_grow(monkeypatch):
    monkeypatch.setattr(_calls, "_MOST_KNOWN", 2)
    for known in ("_heads", "_functions"):
        monkeypatch.setattr(_calls, known, {})
    for function in (abs, int, jobs.identity, float) * 2:
        assert _calls.unpack(_calls.run_call(_calls.pack_call(function, (4,), {}))) == 4
        assert len(_calls._heads) <= 2
        assert len(_calls._functions) <= 2
    assert _calls.pack_call(float, (4,), {}).startswith(_calls._heads[float])


def test_large_values_arrive_whole(executor):
    data = random.Random(0).randbytes(3 << 20)
    assert executor.submit(jobs.identity, [data] * 12).result() == [data] * 12
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1_000_000)
    back = executor.submit(jobs.identity, array).result()
    assert (back == array).all()
    back += 1  # it is ours
    # A buffer beside a pickle that pickle itself cannot make.
    assert (executor.submit(lambda: array).result() == array).all()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_coroutines_await_calls(cluster, loop):
    factory = asyncio.new_event_loop if loop == "asyncio" else pytest.importorskip("uvloop").new_event_loop

    async def main():
        async with ClusterExecutor(cluster, workers_per_node=1) as executor:
            loop = asyncio.get_running_loop()
            assert await asyncio.gather(*(loop.run_in_executor(executor, abs, -n) for n in range(100))) == [*range(100)]
            assert await executor.run(int, "ff", base=16) == 255
            with pytest.raises(ZeroDivisionError):
                await executor.run(divmod, 1, 0)
            with ProcessGate() as gate:
                for submit in (executor.run, partial(loop.run_in_executor, executor.options(on_cancel="interrupt"))):
                    call = submit(gate)
                    await asyncio.to_thread(gate.wait_started)
                    call.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await call
                # The second one was stopped, and its worker is free again.
                await asyncio.to_thread(wait_until, lambda: executor.stats().cancelled == 1, "the call to be stopped")
            executor.run(abs, -1)  # nobody waits for it

    with contextlib.closing(factory()) as running:
        running.run_until_complete(main())


async def meet(folder, name, number):
    """Returns when so many have come here."""
    note(folder, name)
    try:
        while len(list(Path(folder).iterdir())) < number:
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note(folder, "cancelled")
        raise
    return name


async def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def coroutines(cluster):
    with ClusterExecutor(cluster, workers_per_node=1, kind="coroutine", concurrency=4) as executor:
        yield executor
        executor.shutdown(wait=False, cancel_futures=True)  # or what a failed test has left runs for ever


def test_a_worker_runs_many_coroutines_at_a_time(coroutines, tmp_path):
    wait_for_nodes(coroutines, 2)
    assert [node.workers for node in coroutines.stats().nodes] == [1, 1]
    assert list(coroutines.map(meet, [tmp_path] * 5, range(5), [5] * 5)) == [*range(5)]
    assert list(coroutines.map(meet, [tmp_path] * 5, range(5), [5] * 5, chunksize=2)) == [*range(5)]

    async def own(number):
        return -number

    async def main():
        return await asyncio.gather(*(coroutines.run(own, -n) for n in range(50)))

    assert asyncio.run(main()) == [*range(50)]


def test_a_coroutine_that_runs_sees_that_it_was_cancelled(coroutines, tmp_path):
    assert coroutines.submit(asyncio.sleep, 0, "awake").result() == "awake"  # however long a worker takes to start
    future = coroutines.submit(meet, tmp_path, "begun", 1000)
    wait_until(lambda: list(tmp_path.glob("begun.*")), "the coroutine to begin")
    assert future.cancel()
    wait_until(lambda: list(tmp_path.glob("cancelled.*")), "the coroutine to be cancelled")
    error = coroutines.options(timeout=0.1, name="late").submit(asyncio.sleep, 3600).exception()
    assert (type(error), error.task_name) == (pyconc.TaskTimeout, "late")


def test_what_a_coroutine_raises_comes_out(coroutines):
    error = coroutines.submit(asyncio.wait_for, 7, "seven").exception()
    assert type(error) is TypeError
    assert type(coroutines.submit(abs, -1).exception()) is TypeError
    assert type(coroutines.submit(asyncio.sleep, UnpicklableThere()).exception()) is pyconc.TaskUnpicklable
    error = coroutines.submit(die).exception()
    assert (type(error), error.task_name) == (pyconc.WorkerDied, "die")
    assert "run_coroutine" not in str(error)
    assert coroutines.submit(asyncio.sleep, 0, "slept").result() == "slept"


def test_an_executor_may_have_a_cluster_of_its_own():
    with ClusterExecutor(workers_per_node=1) as executor:
        assert executor.submit(abs, -1).result() == 1
        assert [node.workers for node in executor.stats().nodes] == [1]


def test_it_is_made_of_what_a_program_has(cluster):
    with Client(cluster, set_as_default=False) as client:
        for target in (client, cluster.scheduler_address):
            with ClusterExecutor(target, workers_per_node=1) as executor:
                assert executor.submit(abs, -1).result() == 1


def test_calls_go_by_tls_where_the_cluster_does():
    pytest.importorskip("cryptography")
    with start_cluster(1, processes=False, protocol="tls", security=Security.temporary()) as cluster:
        with ClusterExecutor(cluster, workers_per_node=1) as executor:
            assert executor.submit(abs, -1).result() == 1
            assert executor.stats().nodes[0].address.startswith("tls://")
        with pytest.raises(BrokenExecutor, match="TLS"), ClusterExecutor(cluster.scheduler_address):
            pass


def test_dask_may_run_in_the_event_loop():
    async def main():
        async with Scheduler(dashboard_address="127.0.0.1:0", port=0, host="127.0.0.1") as scheduler:
            async with Worker(scheduler.address), Client(scheduler.address, asynchronous=True) as client:
                async with ClusterExecutor(client, workers_per_node=1) as executor:
                    assert await executor.run(abs, -1) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"workers_per_node": 0}, ValueError),
        ({"workers_per_node": 1.5}, TypeError),
        ({"retries": -1}, ValueError),
        ({"initializer": 1}, TypeError),
        ({"initializer": abs, "initargs": (Unpicklable(),)}, ValueError),
        ({"cluster": 7}, TypeError),
        ({"kind": "thread"}, ValueError),
        ({"transport": "pigeon"}, ValueError),
        ({"concurrency": 2}, ValueError),
        ({"kind": "coroutine", "concurrency": 0}, ValueError),
        ({"name": 1}, TypeError),
        ({"max_rss_per_child": 0}, ValueError),
        ({"max_rss_per_child": "much"}, ValueError),
        ({"kind": "coroutine", "max_rss_per_child": 1}, ValueError),
    ],
)
def test_what_cannot_be_is_refused(arguments, error):
    with pytest.raises(error):
        ClusterExecutor(**arguments)


def test_the_stub_has_the_signatures():
    tree = ast.parse(Path(pyconc.cluster.__file__).with_suffix(".pyi").read_text())
    (stub,) = [thing for thing in tree.body if isinstance(thing, ast.ClassDef) and thing.name == "ClusterExecutor"]
    methods = {
        thing.name: thing.args for thing in stub.body if isinstance(thing, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert {name for name in vars(ClusterExecutor) if not name.startswith("_")} <= {*methods}
    for name, args in methods.items():
        listed = [
            *args.posonlyargs,
            *args.args,
            *filter(None, [args.vararg]),
            *args.kwonlyargs,
            *filter(None, [args.kwarg]),
        ]
        assert [arg.arg for arg in listed] == [*inspect.signature(getattr(ClusterExecutor, name)).parameters], name


def test_what_is_public_says_so():
    for name in pyconc.cluster.__all__:
        thing = getattr(pyconc.cluster, name)
        assert thing.__module__ == "pyconc.cluster"
        assert pickle.loads(pickle.dumps(thing)) is thing


def test_the_examples_are_true():
    finished = run_script(
        """
        import doctest, logging
        import pyconc
        from pyconc.cluster import ClusterExecutor, NodePlugin, Ref
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        names = {"pyconc": pyconc, "ClusterExecutor": ClusterExecutor}
        methods = [method for name, method in vars(ClusterExecutor).items() if not name.startswith("_")]
        for thing in (ClusterExecutor, NodePlugin, Ref, Ref.get, *methods):
            test = doctest.DocTestParser().get_doctest(thing.__doc__, names, thing.__name__, None, None)
            results = doctest.DocTestRunner().run(test)
            assert results.attempted and not results.failed
        """
    )
    assert finished.stdout == ""


# --- Streams ----------------------------------------------------------------------------------------------------------


async def count(folder, end, last=None):
    try:
        for number in range(end):
            yield number
        if isinstance(last, BaseException):
            raise last
        if last is not None:
            yield last()
    finally:
        note(folder, "closed")


async def count_and_die():
    yield 1
    os.kill(os.getpid(), signal.SIGKILL)


async def collect(stream):
    """Returns the items, and what the stream raised."""
    items = []
    try:
        async for item in stream:
            items.append(item)
    except Exception as error:
        return items, type(error)
    return items, None


def test_what_a_generator_yields_arrives(coroutines, tmp_path):
    wait_for_nodes(coroutines, 2)
    stream = partial(coroutines.stream, count, tmp_path)

    async def main():
        assert await collect(stream(1000)) == ([*range(1000)], None)
        assert await collect(stream(10, buffersize=1)) == ([*range(10)], None)
        assert await collect(stream(3, KeyError("k"))) == ([0, 1, 2], KeyError)
        assert await collect(stream(3, threading.Lock)) == ([0, 1, 2], TypeError)
        assert await collect(stream(1, UnpicklableThere)) == ([0], pyconc.TaskUnpicklable)
        assert (await collect(coroutines.stream(count_and_die)))[1] is pyconc.WorkerDied
        together = await asyncio.gather(*(collect(stream(200)) for _ in range(5)))
        assert together == [([*range(200)], None)] * 5
        ended = stream(2)
        assert await collect(ended) == ([0, 1], None)
        assert await collect(ended) == ([], None)

    asyncio.run(main())


def test_a_stream_that_is_left_is_closed_in_its_worker(coroutines, tmp_path):
    async def main():
        stream = coroutines.stream(count, tmp_path, 10**9, buffersize=4)
        assert [await stream.__anext__() for _ in range(9)] == [*range(9)]
        await stream.aclose()
        assert len(list(tmp_path.glob("closed.*"))) == 1
        assert await collect(stream) == ([], None)
        stream = coroutines.stream(count, tmp_path, 10**9)
        assert await stream.__anext__() == 0
        del stream
        await asyncio.to_thread(wait_until, lambda: len(list(tmp_path.glob("closed.*"))) == 2, "the other to be closed")

    asyncio.run(main())


def test_a_stream_ends_with_the_executor(cluster, tmp_path):
    async def main():
        async with ClusterExecutor(cluster, workers_per_node=1, kind="coroutine") as executor:
            stream = executor.stream(count, tmp_path, 10**9)
            assert await stream.__anext__() == 0
            waiting = executor.stream(asyncio.sleep)  # no generator
            assert (await collect(waiting))[1] is TypeError
        assert (await collect(stream))[1] is RuntimeError
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.stream(count, tmp_path, 1)

    asyncio.run(main())


def test_a_stream_that_cannot_be_is_refused(executor, coroutines, tmp_path):
    async def main():
        for refused, wrong, error in (
            (executor, {}, ValueError),
            (coroutines.options(timeout=1), {}, ValueError),
            (coroutines, {"buffersize": 0}, ValueError),
            (coroutines, {"buffersize": 1.5}, TypeError),
        ):
            with pytest.raises(error):
                refused.stream(count, tmp_path, 1, **wrong)
        assert await collect(coroutines.stream(count, Unpicklable(), 1)) == ([], ValueError)

    asyncio.run(main())


# --- Objects that calls share -----------------------------------------------------------------------------------------


def read(refs):
    return [bytes(ref.get()) for ref in refs], os.getpid()


def read_and_die(ref):
    ref.get()
    os.kill(os.getpid(), signal.SIGKILL)


async def read_in_loop(ref):
    return read([ref])[0]


def test_calls_have_what_is_shared(executor):
    one, two = (executor.options(name="named").share(data) for data in (b"one", b"two"))
    assert (bytes(one.get()), one.nbytes > 3) == (b"one", True)
    with ProcessGate() as gate:
        blocking = executor.submit(gate)
        gate.wait_started()
        here = executor.submit(read, [one, two])
        assert here.result()[0] == [b"one", b"two"]
        gate.open()
        assert blocking.result() == ()
    assert [found for found, _ in executor.map(read, [[one]] * 20)] == [[b"one"]] * 20
    assert [found for found, _ in executor.map(read, [[two]] * 20, chunksize=7)] == [[b"two"]] * 20
    assert executor.submit(lambda: bytes(two.get())).result() == b"two"
    assert type(executor.submit(read_and_die, one).exception()) is pyconc.WorkerDied
    assert executor.submit(read, [one]).result()[0] == [b"one"]


def test_what_is_shared_lies_in_memory_once(executor):
    numpy = pytest.importorskip("numpy")
    ref = executor.share(numpy.arange(100_000))
    assert executor.submit(lambda ref: (int(ref.get().sum()), ref.get().flags.writeable), ref).result() == (
        4999950000,
        False,
    )


def test_what_is_shared_travels_with_calls_of_its_executor_only(executor, coroutines):
    ref = coroutines.share(b"one")
    assert coroutines.submit(read_in_loop, ref).result() == [b"one"]
    assert type(executor.submit(read, [ref]).exception()) is TypeError
    executor.share(b"two")  # it has one of its own now
    assert type(executor.submit(read, [ref]).exception()) is TypeError
    for refused in (partial(pickle.dumps, ref), type(ref), partial(executor.share, Unpicklable())):
        with pytest.raises((TypeError, ValueError)):
            refused()


def test_nodes_of_this_machine_have_what_processes_share(executor):
    items, lock = pyconc.shared.List(["here"]), pyconc.shared.Lock()
    with lock:
        assert executor.submit(lock.acquire, False).result() is False
    executor.submit(items.append, "there").result()
    assert items == ["here", "there"]
    assert executor.submit(list, items).result() == ["here", "there"]


def test_a_node_gets_what_is_shared_once_and_gives_it_back(monkeypatch):
    """The node is in this process."""
    laid = []
    lay = _refs.lay

    def lay_once(packed):
        if laid:
            raise MemoryError("no room")
        ref = lay(packed)
        laid.append(weakref.ref(ref))
        return ref

    monkeypatch.setattr(_refs, "lay", lay_once)
    with ClusterExecutor(workers_per_node=1) as executor:
        one, two = executor.share(b"one"), executor.share(b"two")
        assert [executor.submit(read, [one]).result()[0] for _ in range(3)] == [[b"one"]] * 3
        assert type(executor.submit(read, [one, two]).exception()) is MemoryError
        assert laid[0]() is not None
        del one
        wait_until(lambda: laid[0]() is None, "the memory to be given back")
        assert executor.submit(abs, -1).result() == 1


# --- What people know from dask's own executor ------------------------------------------------------------------------


def fail_and_note(folder, name):
    note(folder, name)
    raise ValueError(name)


def test_keyword_arguments_are_all_the_functions(executor):
    options = {"key": 1, "workers": 2, "retries": 3, "priority": 4, "resources": 5, "pure": 6, "loop": 7, "options": 8}
    assert executor.submit(dict, **options).result() == options


def test_a_call_that_raises_does_not_begin_again(cluster, tmp_path):
    with ClusterExecutor(cluster, workers_per_node=1, retries=3) as executor:
        assert type(executor.submit(fail_and_note, tmp_path, "raised").exception()) is ValueError
        assert executor.stats().again == 0
    assert len(list(tmp_path.iterdir())) == 1


def test_a_map_that_is_late_or_fails_withdraws_what_was_not_sent(executor, tmp_path):
    with ProcessGate() as gate:
        blocking = [executor.submit(gate) for _ in range(2)]
        gate.wait_started(2)
        with pytest.raises(concurrent.futures.TimeoutError):
            next(executor.map(note, [tmp_path] * 50, range(50), timeout=0.01))
        failing = executor.map(jobs.fail, [KeyError("k")] * 50)
        gate.open()
        with pytest.raises(KeyError):
            next(failing)
        assert [future.result() for future in blocking] == [()] * 2
    assert executor.submit(abs, -1).result() == 1
    wait_until(lambda: executor.stats().cancelled >= 50, "the queue to be looked at")
    assert not list(tmp_path.iterdir())


def test_calls_of_two_executors_and_of_dask_are_waited_for_together(cluster, executor):
    with ThreadPoolExecutor(1) as threads, Client(cluster, set_as_default=False) as client:
        with ProcessGate() as gate:
            held = executor.submit(gate)
            gate.wait_started()
            others = {
                executor.submit(abs, -1),
                threads.submit(abs, -1),
                client.get_executor(pure=False).submit(abs, -1),
            }
            first = concurrent.futures.wait({held, *others}, HANG_LIMIT, concurrent.futures.FIRST_COMPLETED)
            assert held in first.not_done
            assert {*concurrent.futures.as_completed(others, HANG_LIMIT)} == others
            gate.open()
            assert {*pyconc.as_completed({held, *others}, HANG_LIMIT)} == {held, *others}
    assert [future.result() for future in others] == [1] * 3


# --- Nodes that the program cannot connect to -------------------------------------------------------------------------


@pytest.fixture
def gateway(cluster, monkeypatch):
    """The program reaches the scheduler, and no node."""

    def connect(address, **options):
        if address != cluster.scheduler_address:
            raise OSError("no route")
        return connect_directly(address, **options)

    connect_directly = _dispatcher.connect
    monkeypatch.setattr(_dispatcher, "connect", connect)


@pytest.fixture
def complaints():
    """What servers of dask's in this process log of what they have not expected."""
    logger, records = logging.getLogger("distributed.core"), []
    handler = logging.Handler()
    handler.emit = records.append
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    yield records
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


def transports(executor):
    return [node.transport for node in executor.stats().nodes]


def test_calls_go_through_the_scheduler_where_nodes_cannot_be_reached(cluster, gateway, caplog):
    with ClusterExecutor(cluster, workers_per_node=1) as executor:
        wait_for_nodes(executor, 2)
        assert transports(executor) == ["scheduler"] * 2
        assert "cannot be reached (no route); its calls go through the scheduler" in caplog.text
        assert list(executor.map(abs, range(-500, 0))) == [*range(500, 0, -1)]
        data = random.Random(0).randbytes(3 << 20)
        assert executor.submit(jobs.identity, data).result() == data
        assert type(executor.submit(jobs.die, "exit").exception()) is pyconc.WorkerDied
        with ProcessGate() as gate:
            future = executor.options(on_cancel="kill").submit(gate)
            gate.wait_started()
            assert future.cancel()
            wait_until(lambda: executor.stats().cancelled == 1, "the call to be stopped")

        async def main():
            return await asyncio.gather(*(executor.run(abs, -n) for n in range(50)))

        assert asyncio.run(main()) == [*range(50)]


def test_a_node_that_cannot_be_reached_is_left_out_if_the_program_says_so(cluster, gateway, caplog):
    with ClusterExecutor(cluster, transport="direct") as executor:
        future = executor.submit(abs, -1)
        wait_until(lambda: caplog.text.count("cannot be reached: no route") >= 2, "both to be left out")
        assert executor.stats().nodes == ()
        assert future.cancel()


def test_a_question_to_a_node_that_is_gone_is_no_failure_of_the_schedulers(cluster, complaints):
    async def main():
        async with Client(cluster.scheduler_address, asynchronous=True, set_as_default=False) as client:
            await _relay.Relays(client).open("tcp://127.0.0.1:1").write("anybody there?")

    with dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}), pytest.raises(CommClosedError):
        asyncio.run(main())
    assert not complaints


@pytest.mark.parametrize("how", ["asks no more", "says so"])
def test_workers_behind_a_gateway_end_with_the_program(monkeypatch, how):
    """The node is in this process, too."""
    monkeypatch.setattr(_relay, "_LONGEST_READ", 0.05)
    if how == "says so":
        monkeypatch.setattr(_relay, "_LEASE", 1e6)
    ask, is_gone = _relay.Relay._ask, threading.Event()

    async def ask_until_gone(relay, what, message=None):
        if what == "read" and is_gone.is_set():
            await asyncio.wait([relay._ended])
        return await ask(relay, what, message)

    monkeypatch.setattr(_relay.Relay, "_ask", ask_until_gone)
    with ClusterExecutor(workers_per_node=1, transport="scheduler") as executor, ProcessGate() as gate:
        future = executor.submit(gate)
        (pid,) = gate.wait_started()
        if how == "says so":
            executor._dispatcher.abort()
        else:
            monkeypatch.setattr(_relay, "_LEASE", 0.05)  # from the next answer on
            is_gone.set()
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the worker to end")
        executor._dispatcher.abort()
        assert type(future.exception()) is NodeDied


@pytest.mark.parametrize("retries", [0, 1])
def test_a_node_behind_a_gateway_that_dies_costs_what_it_had(cluster, gateway, tmp_path, retries):
    with ClusterExecutor(cluster, workers_per_node=1, retries=retries) as executor, ProcessGate() as gate:
        wait_for_nodes(executor, 2)
        futures = [executor.submit(note_and_hold, tmp_path, n, gate) for n in range(6)]
        gate.wait_started(2)
        assert transports(executor) == ["scheduler"] * 2
        address = executor.stats().nodes[0].address
        kill_node(cluster, address)
        wait_until(lambda: executor.stats().died + executor.stats().again == 1, "the death to be known")
        for _ in range(4 + retries):  # those that were not sent, and what begins again
            gate.open()
            gate.wait_started()
        gate.open()
        done, pending = concurrent.futures.wait(futures, HANG_LIMIT)
        assert not pending
        errors = [future.exception() for future in done if future.exception() is not None]
        assert [(type(error), error.node) for error in errors] == [(NodeDied, address)] * (1 - retries)
        wait_for_nodes(executor, 2)  # dask starts another one
        assert transports(executor) == ["scheduler"] * 2
        assert counts(executor) == (0, 0, 6, 5 + retries, 0, 0, 1 - retries, retries)
    runs = Counter(path.name.partition(".")[0] for path in tmp_path.iterdir())
    assert sorted(runs.values()) == [1] * (6 - retries) + [2] * retries


# --- A way that is slow -----------------------------------------------------------------------------------------------


class SlowWay:
    """Passes on what comes to its port, each part so many seconds later, and each twentieth ten times as late.

    That is what packets look like which are lost now and then and sent again.
    """

    def __init__(self, seconds):
        self._seconds = seconds
        self._servers = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def lead_to(self, address):
        return asyncio.run_coroutine_threadsafe(self._listen(address), self._loop).result()

    async def _listen(self, address):
        host, port = address.removeprefix("tcp://").split(":")

        async def serve(reader, writer):
            there = await asyncio.open_connection(host, port)
            await asyncio.gather(self._pass_on(reader, there[1]), self._pass_on(there[0], writer))

        server = await asyncio.start_server(serve, "127.0.0.1")
        self._servers.append(server)
        return "tcp://{}:{}".format(*server.sockets[0].getsockname())

    async def _pass_on(self, reader, writer):
        parts = 0
        with contextlib.suppress(OSError):
            while part := await reader.read(1 << 16):
                parts += 1
                await asyncio.sleep(self._seconds * (10 if parts % 20 == 0 else 1))
                writer.write(part)
        writer.close()

    def close(self):
        async def cancel_all():
            for server in self._servers:
                server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def test_a_slow_way_to_the_nodes_costs_time_only(cluster, monkeypatch, tmp_path):
    connect_directly = _dispatcher.connect

    async def connect(address, **options):
        if address != cluster.scheduler_address:
            address = way.lead_to(address)
        return await connect_directly(address, **options)

    with contextlib.closing(SlowWay(0.02)) as way:
        monkeypatch.setattr(_dispatcher, "connect", connect)
        with ClusterExecutor(cluster, workers_per_node=1) as executor:
            wait_for_nodes(executor, 2)
            assert list(executor.map(abs, range(-500, 0))) == [*range(500, 0, -1)]
            data = random.Random(0).randbytes(1 << 17)
            assert executor.submit(jobs.identity, data).result() == data
            futures = [executor.submit(note, tmp_path, number) for number in range(20)]
            assert not concurrent.futures.wait(futures, HANG_LIMIT).not_done
            assert counts(executor) == (0, 0, 521, 521, 0, 0, 0, 0)
        monkeypatch.undo()
    assert Counter(path.name.partition(".")[0] for path in tmp_path.iterdir()) == Counter(map(str, range(20)))


# --- What goes wrong --------------------------------------------------------------------------------------------------


def test_what_cannot_be_pickled_costs_one_call(executor):
    assert type(executor.submit(jobs.identity, Unpicklable()).exception()) is ValueError
    error = executor.submit(jobs.identity, UnpicklableThere()).exception()
    assert type(error) is pyconc.TaskUnpicklable
    assert "no module of that name there" in str(error)
    assert any(node.address in str(error) for node in executor.stats().nodes)
    assert type(executor.submit(threading.Lock).exception()) is TypeError
    assert type(executor.submit(FailsHere, os.getpid()).exception()) is pyconc.TaskUnpicklable
    assert type(executor.submit(raise_awkward).exception()) is pyconc.TaskUnpicklable
    assert executor.submit(abs, -1).result() == 1


def test_a_module_that_a_node_lacks_is_named_and_can_be_brought(cluster, executor, tmp_path, monkeypatch):
    name = f"only_here_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text("def negate(number):\n    return -number\n")
    with monkeypatch.context() as patched:  # workers that begin later do not have this
        patched.syspath_prepend(tmp_path)
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
    negate = sys.modules[name].negate
    error = executor.submit(negate, 4).exception()
    assert type(error) is pyconc.TaskUnpicklable
    assert type(error.__cause__) is ModuleNotFoundError
    assert name in str(error)
    assert "upload_file()" in str(error)
    with Client(cluster, set_as_default=False) as client:
        client.upload_file(str(tmp_path / f"{name}.py"), load=False)
    assert [executor.submit(negate, number).result() for number in range(4)] == [0, -1, -2, -3]


def test_too_large_a_call_is_refused(executor, monkeypatch):
    monkeypatch.setattr(_calls, "MOST_BYTES", 1000)
    assert type(executor.submit(len, bytes(2000)).exception()) is ValueError
    assert executor.submit(len, bytes(10)).result() == 10


@pytest.mark.parametrize("how", ["exit", signal.SIGKILL])
def test_a_worker_that_dies_costs_one_call(executor, how):
    futures = [executor.submit(abs, -n) for n in range(50)]
    error = executor.submit(jobs.die, how).exception()
    futures += [executor.submit(abs, -n) for n in range(50)]
    assert type(error) is pyconc.WorkerDied
    assert (error.task, error.task_name) == (jobs.die, "die")
    assert any(node.address in str(error) for node in executor.stats().nodes)
    assert "while it ran die" in str(error)
    assert [future.result() for future in futures] == [*range(50)] * 2
    assert executor.stats().died == 1


def test_a_call_begins_again_if_it_may(cluster, tmp_path):
    with ClusterExecutor(cluster, workers_per_node=1, retries=1) as executor:
        assert executor.submit(note_and_die_once, tmp_path, "once").result() == "once"
        assert type(executor.submit(jobs.die, "exit").exception()) is pyconc.WorkerDied
        assert executor.stats().again == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_what_waits_on_a_node_goes_to_one_that_idles(executor):
    with ProcessGate() as long, ProcessGate() as short:
        futures = [executor.submit(long)]
        long.wait_started()
        futures.append(executor.submit(short))
        short.wait_started()
        for node in executor._dispatcher._nodes.values():
            node.limit = 4  # as if calls had been short
        timed = executor.options(deadline=time.monotonic() + HANG_LIMIT)
        waiting = [submit(abs, -n) for n in range(3) for submit in (executor.submit, timed.submit)]
        wait_until(lambda: [node.running for node in executor.stats().nodes] == [4, 4], "the calls to be sent")
        short.open()
        assert [future.result(HANG_LIMIT) for future in waiting] == [0, 0, 1, 1, 2, 2]
        assert not futures[0].done()
        long.open()
        assert [future.result() for future in futures] == [()] * 2
    assert counts(executor) == (0, 0, 8, 8, 0, 0, 0, 0)


def kill_node(cluster, address):
    nannies = {nanny.worker_address: nanny for nanny in cluster.workers.values()}
    os.kill(nannies[address].pid, signal.SIGKILL)


def test_a_node_that_dies_costs_what_it_had(cluster, executor, tmp_path):
    with ProcessGate() as gate:
        futures = [executor.submit(note_and_hold, tmp_path, n, gate) for n in range(4)]
        gate.wait_started(2)
        address = executor.stats().nodes[0].address
        kill_node(cluster, address)
        lost = next(concurrent.futures.as_completed(futures, HANG_LIMIT))
        error = lost.exception()
        assert type(error) is NodeDied
        assert (error.node, error.task) == (address, note_and_hold)
        assert pickle.loads(pickle.dumps(error)).node == address
        for _ in range(2):
            gate.open()
            gate.wait_started()
        gate.open()
        assert [future.exception() for future in futures if future is not lost] == [None] * 3
        wait_for_nodes(executor, 2)  # dask starts another one
    assert len(list(tmp_path.iterdir())) == 4


def test_what_a_dead_node_had_begins_again_if_it_may(cluster):
    with ClusterExecutor(cluster, workers_per_node=1, retries=1) as executor, ProcessGate() as gate:
        wait_for_nodes(executor, 2)
        futures = [executor.submit(gate) for _ in range(2)]
        gate.wait_started(2)
        kill_node(cluster, executor.stats().nodes[0].address)
        wait_until(lambda: executor.stats().again == 1, "the call to begin again")
        gate.open()
        gate.wait_started()
        gate.open()
        assert [future.result() for future in futures] == [()] * 2


def test_a_node_whose_comm_ends_is_found_again(executor):
    with ProcessGate() as gate:
        futures = [executor.submit(gate) for _ in range(2)]
        gate.wait_started(2)
        gate.open()
        concurrent.futures.wait(futures)
    dispatcher = executor._dispatcher
    dispatcher._loop.call_soon_threadsafe(next(iter(dispatcher._nodes.values())).comm.abort)
    wait_until(lambda: any(not node.ended for node in executor.stats().nodes), "the node to begin anew")
    wait_for_nodes(executor, 2)
    assert list(executor.map(abs, range(20))) == [*range(20)]


def test_calls_wait_for_a_node():
    with start_cluster(0, processes=False) as cluster, ClusterExecutor(cluster, workers_per_node=1) as executor:
        future = executor.submit(abs, -1)
        cancelled = executor.submit(abs, -2)
        assert cancelled.cancel()
        error = executor.options(deadline=time.monotonic()).submit(abs, -3).exception()
        assert (type(error), error.ran_for) == (pyconc.TaskTimeout, None)
        assert executor.stats().queued == 2
        with ClusterExecutor(cluster, workers_per_node=1) as other:
            doomed = other.submit(abs, -4)
            other.shutdown(cancel_futures=True)
            assert doomed.cancelled()
        cluster.scale(1)
        assert future.result() == 1
        wait_until(lambda: executor.stats().cancelled == 1, "the cancelled call to be seen")


def test_a_call_that_was_sent_cannot_be_cancelled(executor):
    with ProcessGate() as gate:
        futures = [executor.submit(gate) for _ in range(3)]
        gate.wait_started(2)
        assert [future.cancel() for future in futures] == [False, False, True]
        gate.open()
        assert [future.result() for future in futures[:2]] == [(), ()]


@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_a_call_that_runs_is_stopped_if_it_may(executor, how):
    stoppable = executor.options(on_cancel=how).options(name="stopped")
    with ProcessGate() as gate:
        futures = [stoppable.submit(gate) for _ in range(2)]
        gate.wait_started(2)
        assert futures[0].running()
        assert [future.cancel() for future in futures] == [True, True]
        assert not futures[0].running()
        # Each worker has ended its call, or a new one is there.
        again = [executor.submit(gate) for _ in range(2)]
        gate.wait_started(2)
        assert not concurrent.futures.wait(futures, HANG_LIMIT).not_done
        gate.open()
        assert [future.result() for future in again] == [(), ()]
    # A node's answer says first that they have ended, and a moment later how.
    wait_until(lambda: executor.stats().running == 0 and executor.stats().cancelled == 2, "all to end")
    assert executor.stats().died == 0


def test_what_a_node_has_not_begun_never_runs_when_it_is_cancelled(tmp_path):
    with ClusterExecutor(workers_per_node=1) as executor, ProcessGate() as gate:
        list(executor.map(abs, range(200)))  # short calls: the node gets some in advance
        held = executor.submit(gate)
        futures = [executor.options(on_cancel="interrupt").submit(note, tmp_path, n) for n in range(3)]
        gate.wait_started()
        wait_until(lambda: executor.stats().running == 4, "all to be sent")
        assert all(future.cancel() for future in futures)
        assert not concurrent.futures.wait(futures, HANG_LIMIT).not_done
        gate.open()
        assert held.result() == ()
    assert not list(tmp_path.iterdir())


def test_a_call_has_a_time_limit(executor):
    error = executor.options(timeout=0.1, grace=3600).submit(time.sleep, 3600).exception()
    assert type(error) is pyconc.TaskTimeout
    assert (error.task_name, error.timeout, error.stopped) == ("sleep", 0.1, "raised")
    deadline = time.monotonic() + 0.1
    error = executor.options(deadline=deadline, name="late").submit(time.sleep, 3600).exception()
    assert type(error) is pyconc.TaskTimeout
    assert (error.task_name, error.deadline) == ("late", deadline)
    assert executor.options(timeout=3600, name="named").submit(task_name).result() == "named"
    assert executor.submit(abs, -1).result() == 1


def task_name():
    return pyconc.current_task().name


def fail_to_begin():
    raise RuntimeError("not on this machine")


def set_variable(value):
    os.environ["PYCONC_TEST"] = value


def test_each_worker_calls_the_initializer(cluster):
    with ClusterExecutor(cluster, workers_per_node=1, initializer=set_variable, initargs=("set",)) as executor:
        assert executor.submit(os.getenv, "PYCONC_TEST").result() == "set"


@pytest.mark.filterwarnings("ignore")
def test_an_initializer_that_fails_breaks_the_executor(cluster):
    with ClusterExecutor(cluster, workers_per_node=1, initializer=fail_to_begin) as executor:
        assert isinstance(executor.submit(abs, -1).exception(), BrokenProcessPool)
        with pytest.raises(BrokenProcessPool):
            executor.submit(abs, -2)


def test_other_versions_are_named_and_refused(cluster, monkeypatch):
    monkeypatch.setattr(_dispatcher, "identify", lambda: {**_node.identify(), "pyconc": "0.0.7"})
    # It is the future that says so, or submit() if the nodes have answered by then.
    with pytest.raises(BrokenExecutor) as caught, ClusterExecutor(cluster, workers_per_node=1) as executor:
        executor.submit(abs, -1).result()
    assert type(caught.value) is BrokenExecutor
    assert "pyconc 0.0.7" in str(caught.value)
    assert f"pyconc {pyconc.__version__}" in str(caught.value)


def test_a_scheduler_that_is_not_there_fails_what_was_submitted(monkeypatch):
    with dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}):
        executor = ClusterExecutor("tcp://127.0.0.1:1", workers_per_node=1)
        with pytest.raises(BrokenExecutor):  # by the future; on a busy machine perhaps by submit()
            executor.submit(abs, -1).result()
        with pytest.raises(BrokenExecutor), executor:
            pass
        executor.shutdown()


# --- The end ----------------------------------------------------------------------------------------------------------


def test_shutdown_finishes_what_was_submitted(cluster):
    executor = ClusterExecutor(cluster, workers_per_node=1)
    futures = [executor.submit(abs, -n) for n in range(100)]
    executor.shutdown(wait=False)
    executor.shutdown()
    assert [future.result(0) for future in futures] == [*range(100)]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, -1)


def test_shutdown_cancels_if_asked(cluster):
    executor = ClusterExecutor(cluster, workers_per_node=1)
    wait_for_nodes(executor, 2)
    with ProcessGate() as gate:
        stoppable = executor.options(on_cancel="interrupt").submit(gate)
        futures = [executor.submit(gate) for _ in range(3)]
        gate.wait_started(2)
        executor.shutdown(wait=False, cancel_futures=True)
        assert [future.cancelled() for future in (stoppable, *futures)] == [True, False, True, True]
        gate.open()
        executor.shutdown()
        assert futures[0].result() == ()


def test_workers_end_with_the_executor(cluster):
    with ClusterExecutor(cluster, workers_per_node=1) as executor:
        pid = executor.submit(os.getpid).result()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the worker to end")


def test_an_executor_that_is_dropped_ends(cluster):
    future = ClusterExecutor(cluster, workers_per_node=1).submit(abs, -1)
    assert future.result() == 1


@pytest.mark.parametrize("transport", ["direct", "scheduler"])
def test_the_cluster_may_close_first(transport):
    cluster = start_cluster(1, processes=False)
    with ClusterExecutor(cluster, workers_per_node=1, transport=transport) as executor, ProcessGate() as gate:
        running, queued = executor.submit(gate), executor.submit(abs, -1)
        gate.wait_started()
        cluster.close()
        assert type(running.exception()) is NodeDied
        assert type(queued.exception()) is BrokenExecutor
        wait_until(lambda: executor._dispatcher._refusal is not None, "the executor to be broken")
        with pytest.raises(BrokenExecutor):
            executor.submit(abs, -1)


def test_the_client_may_close_first(cluster):
    client = Client(cluster, set_as_default=False)
    with ClusterExecutor(client, workers_per_node=1) as executor:
        assert executor.submit(abs, -1).result() == 1
        client.close()
        assert list(executor.map(abs, range(20))) == [*range(20)]


PROGRAM = """
import logging, os, signal, sys, threading, time
from distributed import LocalCluster
from pyconc.cluster import ClusterExecutor
logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)

def note(path):
    with open(path, "a") as file:
        file.write("ran\\n")

def hang(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    os.rename(path, path + ".written")
    threading.Event().wait()

if __name__ == "__main__":
"""


def test_interpreter_exit_finishes_what_was_submitted(tmp_path):
    finished = run_script(
        PROGRAM
        + """
    executor = ClusterExecutor(workers_per_node=1)
    for _ in range(5):
        executor.submit(note, sys.argv[1])
""",
        tmp_path / "ran",
    )
    assert (tmp_path / "ran").read_text() == "ran\n" * 5
    assert finished.stderr == ""


def test_workers_end_when_the_program_is_killed(cluster, tmp_path):
    program = (
        PROGRAM
        + """
    executor = ClusterExecutor(sys.argv[1], workers_per_node=1)
    future = executor.submit(hang, sys.argv[2])
    print("submitted", flush=True)
    future.result()
"""
    )
    with start_script(program, cluster.scheduler_address, tmp_path / "pid") as process:
        await_line(process, process.stdout, "submitted")
        written = tmp_path / "pid.written"
        wait_until(written.exists, "the call to run")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not os.path.exists(f"/proc/{written.read_text()}"), "the worker to end")


def test_an_outcome_for_which_there_is_no_memory_costs_what_that_node_had(cluster):
    finished = run_script(
        PROGRAM
        + """
    import resource
    with ClusterExecutor(sys.argv[1], workers_per_node=1) as executor:
        assert executor.submit(abs, -1).result() == 1
        with open("/proc/self/statm") as file:
            room = int(file.read().split()[0]) * resource.getpagesize() + (50 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        print(type(executor.submit(bytes, 200 << 20).exception()).__name__)
        print(executor.submit(abs, -2).result(), executor.stats().failed, executor.stats().died)
""",
        cluster.scheduler_address,
    )
    assert (finished.stdout, finished.stderr) == ("MemoryError\n2 1 0\n", "")


SCHEDULER = """
import asyncio, logging, sys
from distributed import Scheduler, Worker
logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)

async def main():
    anywhere = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    server = Worker(sys.argv[1], **anywhere) if sys.argv[1:] else Scheduler(port=0, **anywhere)
    async with server:
        print("at", server.address, flush=True)
        await server.finished()

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_scheduler_that_is_killed_leaves_no_future_pending():
    """Its nodes end by themselves then, which is dask's rule."""
    env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with start_script(SCHEDULER, env=env) as scheduler:
        address = await_line(scheduler, scheduler.stdout, "at").split()[1]
        with start_script(SCHEDULER, address, env=env) as node:
            await_line(node, node.stdout, "at")
            with ClusterExecutor(address, workers_per_node=1) as executor, ProcessGate() as gate:
                running = executor.submit(gate)
                queued = [executor.submit(abs, -number) for number in range(3)]
                (pid,) = gate.wait_started()
                os.kill(scheduler.pid, signal.SIGKILL)
                assert not concurrent.futures.wait([running, *queued], HANG_LIMIT).not_done
                assert type(running.exception()) is NodeDied
                assert {type(future.exception()) for future in queued} == {BrokenExecutor}
                with pytest.raises(BrokenExecutor):
                    executor.submit(abs, -1)
                wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the worker to end")


def test_a_node_that_its_nanny_kills_for_its_memory_is_one_that_dies():
    """The nanny looks at dask's own process."""
    with dask.config.set({"distributed.worker.memory.terminate": 0.9}):
        made = start_cluster(1, memory_limit=f"{400 << 20}")
    with made as cluster, ClusterExecutor(cluster, workers_per_node=1) as executor:
        with ProcessGate() as gate, Client(cluster, set_as_default=False) as client:
            future = executor.submit(gate)
            gate.wait_started()
            client.submit(lambda: bytearray(b"x") * (450 << 20), pure=False, retries=0)
            assert type(future.exception(HANG_LIMIT)) is NodeDied


def test_executors_have_workers_of_their_own_on_each_node(cluster, executor):
    with ClusterExecutor(cluster, workers_per_node=1) as other, ProcessGate() as gate:
        held = [executor.submit(gate) for _ in range(4)]
        gate.wait_started(2)
        assert list(other.map(abs, range(-50, 0))) == [*range(50, 0, -1)]
        executor.shutdown(wait=False, cancel_futures=True)
        gate.open()
        assert not concurrent.futures.wait(held, HANG_LIMIT).not_done


def test_ctrl_c_ends_it(tmp_path):
    program = (
        PROGRAM
        + """
    with ClusterExecutor(workers_per_node=1) as executor:
        executor.submit(hang, sys.argv[1])
        print("submitted", flush=True)
        while True:
            time.sleep(1)
"""
    )
    with start_script(program, tmp_path / "pid") as process:
        await_line(process, process.stdout, "submitted")
        wait_until((tmp_path / "pid.written").exists, "the call to run")
        process.send_signal(signal.SIGINT)
        finished = finish(process)
    assert finished.returncode == -signal.SIGINT
    assert finished.stderr.count("KeyboardInterrupt") == 1


def test_the_child_of_a_fork_finds_it_closed(executor):
    with ProcessGate() as gate:
        pending = executor.submit(gate)
        gate.wait_started()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                assert isinstance(pending.exception(0), BrokenExecutor)
                with pytest.raises(RuntimeError, match="parent"):
                    executor.submit(abs, -1)
                executor.shutdown()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        gate.open()
        assert pending.result() == ()
    assert executor.submit(abs, -1).result() == 1


def negate_on(address, number):
    with ClusterExecutor(address, workers_per_node=1) as executor:
        return executor.submit(abs, -number).result()


def test_calls_may_use_the_cluster_themselves(cluster, executor):
    assert list(executor.map(negate_on, [cluster.scheduler_address] * 2, [1, 2])) == [1, 2]


def test_it_cannot_be_pickled(executor):
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(executor)


# --- Dask's own tasks -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def plugin_on(cluster, plugin):
    with Client(cluster, set_as_default=False) as client:
        client.register_plugin(plugin)
        try:
            with dask.annotate(executor=plugin.name):
                yield client
        finally:
            client.unregister_worker_plugin(plugin.name)


def in_worker(number):
    return number, os.getpid(), os.environ.get("PYCONC_TEST")


def test_tasks_of_dask_run_in_worker_processes(cluster):
    plugin = NodePlugin(1, initializer=set_variable, initargs=("set",))
    with plugin_on(cluster, plugin) as client:
        nodes = {*client.run(os.getpid).values()}
        results = client.gather(client.map(in_worker, range(6), pure=False))
        assert [number for number, _, _ in results] == [*range(6)]
        assert {value for _, _, value in results} == {"set"}
        workers = {pid for _, pid, _ in results}
        assert not workers & nodes
        assert dask.delayed(abs)(-1).compute(scheduler=client) == 1
        assert type(client.submit(jobs.fail, KeyError("k")).exception()) is KeyError
    for pid in workers:
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the worker to end")  # noqa: B023


def test_a_worker_that_dies_costs_one_task_and_no_node(cluster, tmp_path):
    with plugin_on(cluster, NodePlugin(name="processes")) as client:
        nodes = {*client.run(os.getpid).values()}
        assert type(client.submit(note_and_die_once, tmp_path, "once").exception()) is pyconc.WorkerDied
        assert len(list(tmp_path.iterdir())) == 1
        assert client.submit(note_and_die_once, tmp_path, "again", retries=1).result() == "again"
        assert {*client.run(os.getpid).values()} == nodes


def test_a_plugin_that_cannot_be_is_refused():
    for wrong, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error):
            NodePlugin(wrong)
    with start_cluster(1, processes=False) as cluster:
        with pytest.raises(ValueError, match="another executor"), plugin_on(cluster, NodePlugin(name="default")):
            pass
        with pytest.raises(TypeError, match="nonsense"), plugin_on(cluster, NodePlugin(nonsense=1)):
            pass
        with Client(cluster, set_as_default=False) as client:
            client.unregister_worker_plugin("default")
            assert client.submit(abs, -1).result() == 1


# --- Chaos ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 2])
def test_every_future_ends_and_none_runs_too_often_whoever_is_killed(cluster, tmp_path, retries):
    chance = random.Random(retries)
    ends = Counter()
    with ClusterExecutor(cluster, workers_per_node=2, retries=retries) as executor:
        for turn in range(2):
            wait_for_nodes(executor, 2)
            futures = {
                f"{turn}-{n}": executor.submit(note_or_die, tmp_path, f"{turn}-{n}", n % 25 == 7) for n in range(50)
            }
            first = chance.randrange(50)
            concurrent.futures.wait([futures[f"{turn}-{first}"]], HANG_LIMIT)
            if turn == 1:
                node = chance.choice(executor.stats().nodes or [None])
                if node is not None:
                    with contextlib.suppress(KeyError):  # it has died, and the executor does not know yet
                        kill_node(cluster, node.address)
            done, pending = concurrent.futures.wait(futures.values(), HANG_LIMIT)
            assert not pending
            ends.update(type(future.exception()).__name__ for future in done)
        stats = executor.stats()
    assert {*ends} <= {"NoneType", "WorkerDied", "NodeDied"}
    assert (stats.submitted, stats.completed, stats.died) == (100, ends["NoneType"], 100 - ends["NoneType"])
    runs = Counter(path.name.partition(".")[0] for path in tmp_path.iterdir())
    assert max(runs.values()) <= 1 + retries


def note_or_die(folder, name, dies):
    note(folder, name)
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)


def test_without_distributed_one_sentence_says_so():
    program = "import sys\nsys.modules['distributed'] = None\nfrom pyconc.cluster import ClusterExecutor\n"
    finished = run_script(program, check=False)
    assert finished.returncode == 1
    wanted = "\nModuleNotFoundError: pyconc.cluster needs dask.distributed: pip install pyconc[cluster]\n"
    assert wanted in finished.stderr
