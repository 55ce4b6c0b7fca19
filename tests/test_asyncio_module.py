"""pyconc.asyncio is the standard module, with pyconc's threads behind its loops and with calls of 2021 that work."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import inspect
import sys
import threading
import warnings
import weakref

import pytest
from support import run_script

import pyconc
from pyconc import asyncio as pyconc_asyncio

try:
    import uvloop
except ImportError:
    uvloop = None

OWN = {"gather", "get_event_loop", "new_event_loop", "run", "to_thread", "wait"} | (
    {"Runner"} if sys.version_info >= (3, 11) else set()
)
both = pytest.mark.parametrize("aio", [asyncio, pyconc_asyncio], ids=["standard", "pyconc"])
needs_uvloop = pytest.mark.skipif(uvloop is None, reason="uvloop is not installed")
needs_runner = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.Runner came with Python 3.11")


def thread_name():
    return threading.current_thread().name


@pytest.fixture(autouse=True)
def no_current_loop():
    """Each test begins and ends without a current event loop, whatever came before it."""
    asyncio.set_event_loop(None)
    yield
    asyncio.set_event_loop(None)


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


# --- Names ----------------------------------------------------------------------------------------------------------


def test_every_name_is_the_standard_one_but_for_a_few():
    names = {name for name in dir(asyncio) if not name.startswith("__")}
    assert names >= set(asyncio.__all__)
    changed = {name for name in names if getattr(pyconc_asyncio, name) is not getattr(asyncio, name)}
    assert changed == OWN


def test_it_lists_what_the_standard_module_lists():
    assert dir(pyconc_asyncio) == dir(asyncio)
    assert pyconc_asyncio.__all__ == asyncio.__all__


def test_star_import():
    namespace = {}
    exec("from pyconc.asyncio import *", namespace)
    del namespace["__builtins__"]
    assert namespace.keys() == set(asyncio.__all__)
    assert namespace["wait"] is pyconc_asyncio.wait


def test_an_unknown_name_is_an_error_of_this_module():
    with pytest.raises(AttributeError, match=r"module 'pyconc\.asyncio' has no attribute 'nonsense'"):
        pyconc_asyncio.nonsense  # noqa: B018


def test_names_that_warn_go_on_warning():
    if sys.version_info < (3, 14):
        pytest.skip("event-loop policies are deprecated from Python 3.14 on")
    with pytest.warns(DeprecationWarning, match="DefaultEventLoopPolicy"):
        pyconc_asyncio.DefaultEventLoopPolicy  # noqa: B018


@pytest.mark.parametrize("name", sorted(OWN))
def test_what_differs_has_the_standard_signature(name):
    ours, standard = (inspect.signature(getattr(module, name)) for module in (pyconc_asyncio, asyncio))
    if name == "run" and sys.version_info[:2] == (3, 11):
        assert list(ours.parameters)[:2] == list(standard.parameters)  # loop_factory, a year early
    else:
        assert ours.replace(return_annotation=ours.empty) == standard.replace(return_annotation=ours.empty)
    assert inspect.iscoroutinefunction(getattr(pyconc_asyncio, name)) == inspect.iscoroutinefunction(
        getattr(asyncio, name)
    )


# --- Default executors ----------------------------------------------------------------------------------------------


async def default_executor():
    """The loop's default executor, after it has run something."""
    loop = asyncio.get_running_loop()
    assert (await loop.run_in_executor(None, thread_name)).startswith("asyncio_")
    return loop._default_executor


def in_new_event_loop():
    loop = pyconc_asyncio.new_event_loop()
    try:
        return loop.run_until_complete(default_executor())
    finally:
        loop.close()


def in_get_event_loop():
    loop = pyconc_asyncio.get_event_loop()
    try:
        return loop.run_until_complete(default_executor())
    finally:
        loop.close()


def in_run():
    return pyconc_asyncio.run(default_executor())


def in_runner():
    with pyconc_asyncio.Runner() as runner:
        return runner.run(default_executor())


def in_runner_without_with():
    runner = pyconc_asyncio.Runner()
    try:
        return runner.run(default_executor())
    finally:
        runner.close()


def in_loop_of_runner():
    with pyconc_asyncio.Runner() as runner:
        return runner.get_loop().run_until_complete(default_executor())


def in_run_with_a_loop_factory():
    return pyconc_asyncio.run(default_executor(), loop_factory=asyncio.SelectorEventLoop)


@pytest.mark.parametrize(
    "way",
    [
        in_new_event_loop,
        in_get_event_loop,
        in_run,
        pytest.param(in_runner, marks=needs_runner),
        pytest.param(in_runner_without_with, marks=needs_runner),
        pytest.param(in_loop_of_runner, marks=needs_runner),
        pytest.param(in_run_with_a_loop_factory, marks=needs_runner),
    ],
)
def test_loops_have_pyconcs_default_executor(way):
    assert type(way()) is pyconc.ThreadPoolExecutor


@pytest.mark.parametrize("factory", [None, asyncio.SelectorEventLoop, uvloop and uvloop.new_event_loop])
def test_a_default_executor_that_nobody_uses_is_never_made(factory):
    """Shutting one down would take a thread, which nobody gets in a function that atexit calls."""
    if factory is not None and sys.version_info < (3, 11):
        pytest.skip("asyncio.Runner came with Python 3.11")

    async def main():
        await asyncio.sleep(0)

    threads = []
    threading.setprofile(lambda *_: threads.append(thread_name()))
    try:
        pyconc_asyncio.run(main(), **({"loop_factory": factory} if factory else {}))
    finally:
        threading.setprofile(None)
    assert threads == []


@both
def test_run_in_a_function_that_atexit_calls(aio):
    finished = run_script(
        f"""
        import atexit
        {"import asyncio" if aio is asyncio else "from pyconc import asyncio"}

        async def main():
            print("cleaned up")

        atexit.register(lambda: asyncio.run(main()))
        """
    )
    assert finished.stdout == "cleaned up\n"
    assert finished.stderr == ""


def test_a_loop_is_as_it_was_once_it_has_its_executor():
    loop = pyconc_asyncio.new_event_loop()
    loop.run_until_complete(loop.run_in_executor(None, int))
    own = vars(loop).keys() & {"run_in_executor", "set_default_executor"}
    loop.close()
    assert own == set()


def test_a_loop_dies_with_its_last_reference():
    loop = pyconc_asyncio.new_event_loop()
    loop.close()
    reference = weakref.ref(loop)
    gc.disable()
    try:
        del loop
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("way", ["explicit", "default"])
def test_the_first_call_of_run_in_executor(way):
    async def main():
        loop = asyncio.get_running_loop()
        run_in_executor = loop.run_in_executor
        with pyconc.ThreadPoolExecutor(1, "explicit") as executor:
            names = {await run_in_executor(executor, thread_name) for _ in range(2)} if way == "explicit" else set()
        for _ in range(2):
            names.add(await run_in_executor(None, thread_name))
        names.add(await loop.run_in_executor(None, thread_name))
        with pytest.raises(TypeError):
            await loop.run_in_executor()
        return names

    prefixes = {name.partition("_")[0] for name in pyconc_asyncio.run(main())}
    assert prefixes == ({"explicit", "asyncio"} if way == "explicit" else {"asyncio"})


@pytest.mark.parametrize("debug", [False, True])
def test_to_thread_runs_in_pyconcs_threads(debug):
    async def main():
        name = await pyconc_asyncio.to_thread(thread_name)
        return name, asyncio.get_running_loop()._default_executor

    name, executor = pyconc_asyncio.run(main(), debug=debug)
    assert name == "asyncio_0"
    assert type(executor) is pyconc.ThreadPoolExecutor


def test_to_thread_passes_arguments_and_context():
    variable = contextvars.ContextVar("variable")

    async def main():
        variable.set("of the caller")
        return await pyconc_asyncio.to_thread(lambda *args, **kwargs: (args, kwargs, variable.get()), 1, func=2)

    assert pyconc_asyncio.run(main()) == ((1,), {"func": 2}, "of the caller")


def test_to_thread_goes_through_a_standard_one_that_was_replaced(monkeypatch):
    seen = []

    async def traced(func, /, *args, **kwargs):
        seen.append(func)
        return await asyncio.threads.to_thread(func, *args, **kwargs)

    monkeypatch.setattr(asyncio, "to_thread", traced)
    assert pyconc_asyncio.run(pyconc_asyncio.to_thread(abs, -1)) == 1
    assert seen == [abs]


@pytest.mark.parametrize("way", ["to_thread", "get_event_loop"])
def test_a_loop_from_elsewhere_gets_pyconcs_executor_if_it_has_none(loop, way):
    async def main():
        if way == "to_thread":
            await pyconc_asyncio.to_thread(int)
        else:
            assert pyconc_asyncio.get_event_loop() is loop
        return await default_executor()

    assert type(loop.run_until_complete(main())) is pyconc.ThreadPoolExecutor


def test_a_default_executor_that_somebody_chose_is_kept(loop):
    async def main():
        await pyconc_asyncio.to_thread(int)
        pyconc_asyncio.get_event_loop()
        return loop._default_executor

    with pyconc.ThreadPoolExecutor(1) as chosen:
        loop.set_default_executor(chosen)
        assert loop.run_until_complete(main()) is chosen


@needs_runner
def test_a_default_executor_that_a_loop_factory_chose_is_kept():
    chosen = pyconc.ThreadPoolExecutor(1)

    def factory():
        loop = asyncio.new_event_loop()
        loop.set_default_executor(chosen)
        return loop

    async def main():
        return asyncio.get_running_loop()._default_executor

    assert pyconc_asyncio.run(main(), loop_factory=factory) is chosen


@needs_uvloop
@needs_runner
def test_uvloop_as_loop_factory():
    async def main():
        return type(asyncio.get_running_loop()), await pyconc_asyncio.to_thread(thread_name)

    kind, name = pyconc_asyncio.run(main(), loop_factory=uvloop.new_event_loop)
    assert kind is uvloop.Loop
    assert name == "asyncio_0"  # its own executor's threads are called uvloop_0


@needs_uvloop
@needs_runner
@pytest.mark.parametrize("kind", [concurrent.futures.ThreadPoolExecutor, pyconc.ThreadPoolExecutor])
@pytest.mark.parametrize("way", ["run", "Runner", "new_event_loop"])
def test_a_default_executor_that_a_factory_of_uvloops_chose_is_kept(way, kind, monkeypatch):
    chosen = kind(1, thread_name_prefix="chosen")

    def factory():
        loop = uvloop.new_event_loop()
        loop.set_default_executor(chosen)
        return loop

    async def main():
        names = [await pyconc_asyncio.to_thread(thread_name) for _ in range(2)]
        return [*names, await asyncio.get_running_loop().run_in_executor(None, thread_name)]

    if way == "run":
        names = pyconc_asyncio.run(main(), loop_factory=factory)
    elif way == "Runner":
        with pyconc_asyncio.Runner(loop_factory=factory) as runner:
            names = runner.run(main())
    else:
        monkeypatch.setattr(asyncio, "new_event_loop", factory)
        loop = pyconc_asyncio.new_event_loop()
        names = loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    assert names == ["chosen_0"] * 3


@needs_uvloop
@pytest.mark.parametrize("way", ["to_thread", "get_event_loop"])
def test_a_uvloop_from_elsewhere_keeps_its_default_executor(way):
    async def main():
        await asyncio.get_running_loop().run_in_executor(None, thread_name)
        if way == "get_event_loop":
            pyconc_asyncio.get_event_loop()
        return await pyconc_asyncio.to_thread(thread_name)

    with pyconc.ThreadPoolExecutor(1, thread_name_prefix="chosen") as chosen:
        loop = uvloop.new_event_loop()
        loop.set_default_executor(chosen)
        assert loop.run_until_complete(main()) == "chosen_0"
        loop.close()


@needs_runner
def test_a_loop_that_knows_no_executors_is_a_loop_all_the_same():
    class Bare(asyncio.SelectorEventLoop):
        def set_default_executor(self, executor):
            raise NotImplementedError

    async def main():
        return type(asyncio.get_running_loop())

    assert pyconc_asyncio.run(main(), loop_factory=Bare) is Bare


# --- gather ---------------------------------------------------------------------------------------------------------

LOOPS = [asyncio.new_event_loop] + ([uvloop.new_event_loop] if uvloop else [])
on_both_loops = pytest.mark.parametrize("make_loop", LOOPS, ids=["asyncio", "uvloop"][: len(LOOPS)])


class Tasks:
    """A loop whose create_task() counts: in its class, by its factory, or in its instance."""

    def __init__(self, way):
        self.made = 0
        counts = self

        class Counting(asyncio.SelectorEventLoop):
            if way == "class":

                def create_task(self, *args, **kwargs):
                    counts.made += 1
                    return super().create_task(*args, **kwargs)

        self.loop = Counting()
        if way == "factory":
            self.loop.set_task_factory(self.make)
        elif way == "instance":
            create_task = self.loop.create_task
            self.loop.create_task = lambda coroutine, **options: (self.count(), create_task(coroutine, **options))[1]

    def count(self):
        self.made += 1

    def make(self, loop, coroutine, **options):
        self.count()
        return asyncio.Task(coroutine, loop=loop, **options)


def run_on(loop, main):
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@on_both_loops
def test_gather_hands_calls_of_to_thread_to_threads_without_tasks(make_loop):
    gate = threading.Event()
    variable = contextvars.ContextVar("variable")

    async def seen_by_the_loop():
        gate.set()
        return len(asyncio.all_tasks())

    async def main():
        variable.set("of the caller")
        future = asyncio.get_running_loop().create_future()
        future.set_result("of the future")
        calls = [pyconc_asyncio.to_thread(lambda i, *, key: (gate.wait(), i, key)[1:], i, key=-i) for i in range(3)]
        context = pyconc_asyncio.to_thread(variable.get)
        return await pyconc_asyncio.gather(*calls, future, seen_by_the_loop(), context)

    results = run_on(make_loop(), main())
    # The task that waits, and that of the coroutine.
    assert results == [(0, 0), (1, -1), (2, -2), "of the future", 2, "of the caller"]


@pytest.mark.parametrize("way", ["class", "factory", "instance"])
def test_gather_makes_tasks_where_the_program_makes_its_own(way):
    tasks = Tasks(way)

    async def main():
        before = tasks.made
        results = await pyconc_asyncio.gather(pyconc_asyncio.to_thread(abs, -1), pyconc_asyncio.to_thread(abs, -2))
        return results, tasks.made - before

    assert run_on(tasks.loop, main()) == ([1, 2], 2)


def test_gather_makes_tasks_in_debug_mode_and_where_a_library_looks_on(monkeypatch, loop):
    gate = threading.Event()

    async def tasks_beside():
        calls = [pyconc_asyncio.to_thread(gate.wait) for _ in range(3)]
        gathered = pyconc_asyncio.gather(*calls)
        tasks = len(asyncio.all_tasks()) - 1
        gate.set()
        await gathered
        return tasks

    assert pyconc_asyncio.run(tasks_beside(), debug=True) == 3
    gather = asyncio.gather
    monkeypatch.setattr(asyncio, "gather", lambda *awaitables, **options: gather(*awaitables, **options))
    assert pyconc_asyncio.run(tasks_beside()) == 3


def test_gather_where_our_to_thread_was_replaced(monkeypatch, loop):
    """By a callable that is no function, as tests of programs do."""
    monkeypatch.setattr(pyconc_asyncio, "to_thread", functools.partial(pyconc_asyncio.to_thread, abs))

    async def main():
        return await pyconc_asyncio.gather(pyconc_asyncio.to_thread(-1), asyncio.sleep(0, "slept"))

    assert run_on(loop, main()) == [1, "slept"]


@on_both_loops
def test_gather_of_a_call_that_stands_twice_or_has_begun(make_loop):
    gate = threading.Event()

    async def main():
        call = pyconc_asyncio.to_thread(abs, -1)
        twice = await pyconc_asyncio.gather(call, call)
        begun = pyconc_asyncio.to_thread(gate.wait)
        begun.send(None)
        with pytest.raises(RuntimeError):  # as asyncio's gather(): its task cannot go on with what another has begun
            await pyconc_asyncio.gather(begun)
        gate.set()
        done = pyconc_asyncio.to_thread(abs, -1)
        assert await done == 1
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await pyconc_asyncio.gather(done)
        return twice

    assert run_on(make_loop(), main()) == [1, 1]


@on_both_loops
def test_gather_tells_what_calls_raise(make_loop):
    async def main():
        def calls():
            return [pyconc_asyncio.to_thread(abs, -1), pyconc_asyncio.to_thread(int, "x")]

        first, second = await pyconc_asyncio.gather(*calls(), return_exceptions=True)
        assert (first, type(second)) == (1, ValueError)
        with pytest.raises(ValueError, match="invalid literal"):
            await pyconc_asyncio.gather(*calls())

    run_on(make_loop(), main())


def test_gather_tells_of_an_executor_that_is_shut_down(loop):
    async def main():
        executor = pyconc.ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(executor)
        executor.shutdown()
        gathered = pyconc_asyncio.gather(
            pyconc_asyncio.to_thread(abs, -1), asyncio.sleep(0, "slept"), return_exceptions=True
        )
        return await gathered

    error, slept = loop.run_until_complete(main())
    assert type(error) is RuntimeError
    assert "cannot schedule new futures after shutdown" in str(error)
    assert slept == "slept"


@on_both_loops
def test_cancelling_what_gather_returned_cancels_calls_that_wait(make_loop):
    gate = threading.Event()
    called = []

    async def main():
        executor = pyconc.ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(executor)
        blocked = asyncio.create_task(pyconc_asyncio.to_thread(gate.wait))
        await asyncio.sleep(0)
        gathered = pyconc_asyncio.gather(pyconc_asyncio.to_thread(called.append, 1))
        gathered.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathered
        gate.set()
        await blocked

    run_on(make_loop(), main())
    assert called == []


@on_both_loops
@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("aio", [asyncio, pyconc_asyncio], ids=["standard", "pyconc"])
def test_what_ends_the_program_comes_out_of_the_loop(aio, return_exceptions, make_loop):
    async def main():
        try:
            return await aio.gather(aio.to_thread(sys.exit, 3), return_exceptions=return_exceptions)
        except SystemExit:
            return "the task had it"

    loop = make_loop()
    with pyconc.ThreadPoolExecutor(1) as executor:
        loop.set_default_executor(executor)
        with pytest.raises(SystemExit) as exit:
            loop.run_until_complete(main())
    assert exit.value.code == 3
    for task in asyncio.all_tasks(loop):
        task.cancel()
    with contextlib.suppress(RuntimeError):  # uvloop's first run after that ends early, if the task was done as well
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@on_both_loops
def test_an_exception_that_nobody_awaits_is_reported(make_loop):
    reports = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, report: reports.append(report))
        gathered = pyconc_asyncio.gather(pyconc_asyncio.to_thread(int, "x"))
        while not gathered.done():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        del gathered
        gc.collect()

    run_on(make_loop(), main())
    assert [type(report["exception"]) for report in reports] == [ValueError]


# --- get_event_loop -------------------------------------------------------------------------------------------------


def test_get_event_loop_makes_a_loop_and_keeps_it():
    loop = pyconc_asyncio.get_event_loop()
    try:
        assert pyconc_asyncio.get_event_loop() is loop
        assert asyncio.get_event_loop() is loop
    finally:
        loop.close()


def test_get_event_loop_in_a_fresh_process_neither_warns_nor_fails():
    run_script(
        """
        from pyconc import asyncio
        loop = asyncio.get_event_loop()
        loop.run_until_complete(asyncio.gather(asyncio.sleep(0), asyncio.to_thread(int)))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        asyncio.run(asyncio.sleep(0))
        loop = asyncio.get_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        """,
        flags=("-W", "error"),
    )


def test_get_event_loop_returns_the_loop_that_was_set(loop):
    asyncio.set_event_loop(loop)
    assert pyconc_asyncio.get_event_loop() is loop


def test_get_event_loop_returns_the_running_loop(loop):
    current = asyncio.new_event_loop()
    asyncio.set_event_loop(current)

    async def main():
        return pyconc_asyncio.get_event_loop()

    assert loop.run_until_complete(main()) is loop
    current.close()


def test_get_event_loop_raises_in_other_threads_that_have_none():
    errors = []

    def target():
        try:
            pyconc_asyncio.get_event_loop()
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=target, name="other")
    thread.start()
    thread.join()
    assert errors == ["There is no current event loop in thread 'other'."]


def test_get_event_loop_returns_what_another_thread_has_set():
    loops = []

    def target():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loops.extend([loop, pyconc_asyncio.get_event_loop()])
        loop.close()

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert loops[0] is loops[1]


@pytest.fixture
def set_policy():
    def set_policy(policy):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.14 on
            asyncio.set_event_loop_policy(policy)

    yield set_policy
    set_policy(None)


def default_policy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return asyncio.DefaultEventLoopPolicy


def test_a_policy_decides_which_loop_is_current(set_policy, loop):
    class Policy(default_policy()):
        def get_event_loop(self):
            return loop

    set_policy(Policy())
    assert pyconc_asyncio.get_event_loop() is loop


def test_a_policy_without_a_loop_is_asked_to_make_one(set_policy):
    class Loop(asyncio.SelectorEventLoop):
        pass

    class Policy(default_policy()):
        _loop_factory = Loop

    set_policy(Policy())
    loop = pyconc_asyncio.get_event_loop()
    assert type(loop) is Loop
    assert pyconc_asyncio.get_event_loop() is loop
    loop.close()


# --- run and Runner -------------------------------------------------------------------------------------------------


@both
def test_run_returns_the_result_and_raises_the_exception(aio):
    async def main(fail):
        await asyncio.sleep(0)
        if fail:
            raise LookupError("lost")
        return "found"

    assert aio.run(main(False)) == "found"
    with pytest.raises(LookupError, match="lost"):
        aio.run(main(True))


@both
@pytest.mark.parametrize("debug", [False, True])
def test_run_sets_the_debug_mode(aio, debug):
    async def main():
        return asyncio.get_running_loop().get_debug()

    assert aio.run(main(), debug=debug) is debug


@both
def test_run_leaves_no_loop_behind(aio):
    async def main():
        return asyncio.get_running_loop()

    assert aio.run(main()).is_closed()
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="There is no current event loop"):
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.get_event_loop()


@both
def test_run_sets_the_current_loop_meanwhile(aio):
    async def main():
        # What code without a running loop sees: asked in a callback of the loop's own thread, but outside of it.
        policy = asyncio.events._get_event_loop_policy if sys.version_info >= (3, 14) else asyncio.get_event_loop_policy
        return policy().get_event_loop() is asyncio.get_running_loop()

    assert aio.run(main()) is True


@both
def test_run_ends_threads_generators_and_tasks(aio):
    ended = []

    async def forever(name):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async def generate():
        try:
            yield 1
        finally:
            ended.append("generator")

    async def main():
        task = asyncio.create_task(forever("task"))
        generator = generate()
        await generator.__anext__()
        await asyncio.to_thread(int)
        threads.extend(asyncio.get_running_loop()._default_executor._threads)
        return task, generator

    threads = []
    task, _generator = aio.run(main())
    assert task.cancelled()
    assert sorted(ended) == ["generator", "task"]
    assert len(threads) == 1
    assert not threads[0].is_alive()


@both
@pytest.mark.parametrize("what", [None, 42, "coroutine", len])
def test_run_refuses_what_is_no_coroutine(aio, what):
    with pytest.raises((ValueError, TypeError)) as expected:
        asyncio.run(what)
    with pytest.raises(type(expected.value)) as error:
        aio.run(what)
    assert str(error.value) == str(expected.value)


@both
def test_run_refuses_to_run_inside_a_running_loop(aio):
    async def main():
        inner = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match=r"asyncio\.run\(\) cannot be called from a running event loop"):
            aio.run(inner)
        inner.close()
        return "still running"

    assert aio.run(main()) == "still running"


@both
def test_the_main_task_is_the_callers_coroutine(aio):
    async def main():
        coroutine = asyncio.current_task().get_coro()
        return coroutine.__name__, coroutine.__qualname__

    name, qualified = aio.run(main())
    assert name == "main"
    assert qualified.endswith("test_the_main_task_is_the_callers_coroutine.<locals>.main")


@pytest.mark.parametrize("source", ["asyncio", "pyconc"])
def test_run_turns_an_interrupt_into_a_cancellation(source):
    finished = run_script(
        f"""
        import signal
        {"import asyncio" if source == "asyncio" else "from pyconc import asyncio"}

        async def main():
            try:
                signal.raise_signal(signal.SIGINT)
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                print("cancelled")
                raise
            finally:
                print("cleaned up")

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
        """,
    )
    # Python 3.10 interrupts whatever is running, here the coroutine, and leaves it at that.
    cancelled = "" if sys.version_info < (3, 11) else "cancelled\n"
    assert finished.stdout == cancelled + "cleaned up\ninterrupted\nTrue\n"
    assert finished.stderr == ""


@needs_runner
def test_a_runner_runs_several_coroutines_on_one_loop():
    variable = contextvars.ContextVar("variable", default=0)

    async def main():
        variable.set(variable.get() + 1)
        await pyconc_asyncio.to_thread(int)
        return asyncio.get_running_loop(), asyncio.get_running_loop()._default_executor, variable.get()

    with pyconc_asyncio.Runner(debug=True) as runner:
        loop, executor, first = runner.run(main())
        assert runner.run(main()) == (loop, executor, 2)
        assert runner.run(main(), context=contextvars.copy_context()) == (loop, executor, 1)
        assert runner.get_loop() is loop
        assert loop.get_debug()
        assert first == 1
    assert loop.is_closed()
    with pytest.raises(RuntimeError, match="Runner is closed"):
        runner.get_loop()


@needs_uvloop
@needs_runner
def test_a_runner_keeps_the_executor_set_between_two_runs():
    async def main():
        return await asyncio.get_running_loop().run_in_executor(None, thread_name)

    with pyconc_asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == "asyncio_0"
        runner.get_loop().set_default_executor(pyconc.ThreadPoolExecutor(1, "chosen"))
        assert runner.run(main()) == "chosen_0"


@needs_runner
def test_a_runner_refuses_to_run_inside_a_running_loop():
    async def main():
        runner, inner = pyconc_asyncio.Runner(), asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            runner.run(inner)
        inner.close()
        runner.close()  # it has made no loop
        return pyconc_asyncio.get_event_loop() is asyncio.get_running_loop()

    assert pyconc_asyncio.run(main()) is True


# --- wait -----------------------------------------------------------------------------------------------------------


async def value(x):
    await asyncio.sleep(0)
    return x


async def failure():
    raise LookupError


def results(futures):
    return {future.result() for future in futures}


def test_wait_accepts_coroutines():
    async def main():
        done, pending = await pyconc_asyncio.wait([value(1), value(2)])
        return results(done), pending

    assert pyconc_asyncio.run(main()) == ({1, 2}, set())


def test_wait_accepts_every_kind_of_awaitable_and_any_iterable():
    class Awaitable:
        def __await__(self):
            return value(4).__await__()

    async def main():
        loop = asyncio.get_running_loop()
        kinds = [value(1), asyncio.create_task(value(2)), loop.run_in_executor(None, int, 3), Awaitable()]
        done, _pending = await pyconc_asyncio.wait(iter(kinds))
        assert kinds[1] in done
        return results(done)

    assert pyconc_asyncio.run(main()) == {1, 2, 3, 4}


def test_wait_starts_coroutines_in_order_and_the_same_one_once():
    started = []

    async def note(x):
        started.append(x)

    async def main():
        coroutines = [note(x) for x in range(20)]
        done, _ = await pyconc_asyncio.wait([*coroutines, *coroutines])
        return len(done)

    assert pyconc_asyncio.run(main()) == 20
    assert started == list(range(20))


def test_wait_for_the_first():
    async def main():
        never = asyncio.Event()
        for mark, quick in [(asyncio.FIRST_COMPLETED, value(1)), (asyncio.FIRST_EXCEPTION, failure())]:
            done, pending = await pyconc_asyncio.wait([quick, never.wait()], return_when=mark)
            assert len(done) == len(pending) == 1
            for future in pending:
                future.cancel()
        done, pending = await pyconc_asyncio.wait({never.wait()}, timeout=0)
        assert not done
        pending.pop().cancel()
        return True

    assert pyconc_asyncio.run(main())


@both
def test_wait_refuses_what_the_standard_one_refuses(aio):
    async def main():
        future = asyncio.get_running_loop().create_future()
        coroutine = value(1)
        task = asyncio.create_task(value(1))
        for arguments, error in [
            (([],), ValueError),
            ((future,), TypeError),
            ((coroutine,), TypeError),
            ((None,), (TypeError, ValueError)),
        ]:
            with pytest.raises(error):
                await aio.wait(*arguments)
        with pytest.raises(ValueError, match="Invalid return_when value: SOME"):
            await aio.wait([task], return_when="SOME")
        with pytest.raises(ValueError, match="Invalid return_when value"):
            await aio.wait([coroutine], return_when="SOME")
        # None of these has made a task of the coroutine.
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
        assert asyncio.all_tasks() == {asyncio.current_task(), task}
        coroutine.close()
        return await task

    assert aio.run(main()) == 1


def test_wait_refuses_a_future_of_another_loop(loop):
    async def main(future):
        with pytest.raises(ValueError, match="different loop"):
            await pyconc_asyncio.wait([future])

    pyconc_asyncio.run(main(loop.create_future()))
