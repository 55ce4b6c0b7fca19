"""context=: what calls find in context variables is what they were to who submitted."""

import asyncio
import contextvars
import inspect
import sys
import threading

import pytest

import pyconc

number = contextvars.ContextVar("number", default=0)
text = contextvars.ContextVar("text", default="")
CARRIED = [number, text]


def read(*args):
    return number.get(), text.get(), *args


def read_and_set(value):
    found = number.get()
    number.set(value)
    return found


async def read_later(*args):
    await asyncio.sleep(0)
    return read(*args)


async def items():
    yield number.get()


def describe():
    return pyconc.current_task().name


async def describe_later():
    return pyconc.current_task().name


def with_number(value, function, *args, **kwargs):
    """Calls a function in a context of its own, in which `number` has that value."""

    def run():
        number.set(value)
        return function(*args, **kwargs)

    return contextvars.copy_context().run(run)


def make_pool(Executor):
    return Executor(1, context=True if Executor is pyconc.ThreadPoolExecutor else CARRIED)


EXECUTORS = [pyconc.ThreadPoolExecutor, pyconc.ProcessPoolExecutor]


@pytest.mark.parametrize("Executor", EXECUTORS)
def test_a_call_finds_what_its_submitter_has(Executor):
    with make_pool(Executor) as pool:
        futures = [with_number(value, pool.submit, read, value) for value in range(5)]
        assert [future.result() for future in futures] == [(value, "", value) for value in range(5)]
        assert pool.submit(read).result() == (0, "")
        assert with_number(7, pool.options(name="other").submit, read).result() == (7, "")
        assert with_number(7, pool.submit, int, "ff", base=16).result() == 255


@pytest.mark.parametrize("Executor", EXECUTORS)
@pytest.mark.parametrize("options", [{}, {"chunksize": 3}, {"buffersize": 100}, {"progress": print}], ids=str)
def test_map_has_the_context_of_its_caller(Executor, options, capsys):
    with make_pool(Executor) as pool:
        assert list(with_number(7, pool.map, read, range(9), **options)) == [(7, "", item) for item in range(9)]


@pytest.mark.parametrize("Executor", EXECUTORS)
def test_what_a_call_sets_is_its_own(Executor):
    with make_pool(Executor) as pool:
        assert [pool.submit(read_and_set, value).result() for value in range(1, 5)] == [0] * 4
        assert list(pool.map(read_and_set, range(1, 3))) in ([0, 0], [0, 1])  # those of a chunk are one call's
        assert number.get() == 0


@pytest.mark.parametrize("Executor", EXECUTORS)
def test_loops_carry_the_context_of_the_task_that_awaits(Executor):
    async def ask(pool, value):
        number.set(value)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, read, value), await pool.run(read, value)

    async def main():
        async with make_pool(Executor) as pool:
            found = await asyncio.gather(*[ask(pool, value) for value in range(5)])
            assert found == [((value, "", value), (value, "", value)) for value in range(5)]

    asyncio.run(main())


def test_coroutines_and_streams_have_it_to_their_end():
    async def main():
        async with make_pool(pyconc.CoroutinePool) as pool:
            number.set(3)
            runs = [pool.run(read_later, value) for value in range(3)]
            number.set(4)
            assert await asyncio.gather(*runs) == [(3, "", value) for value in range(3)]
            assert [result async for result in pool.map(read_later, range(2))] == [(4, "", 0), (4, "", 1)]
            assert [item async for item in pool.stream(items)] == [4]
            assert await pool.run(describe_later) == "describe_later"
            assert await pool.options(name="page").run(describe_later) == "page"

    asyncio.run(main())


@pytest.mark.parametrize("Executor", [pyconc.ProcessPoolExecutor, pyconc.CoroutinePool])
def test_a_worker_forked_where_a_variable_has_a_value_forgets_it(Executor):
    function = read if Executor is pyconc.ProcessPoolExecutor else read_later
    with make_pool(Executor) as pool:
        assert with_number(7, pool.submit, function).result() == (7, "")
        assert pool.submit(function).result() == (0, "")


@pytest.mark.parametrize("Executor", EXECUTORS)
def test_a_call_keeps_its_name(Executor):
    with make_pool(Executor) as pool:
        assert pool.submit(describe).result() == "describe"
        with pytest.raises(pyconc.TaskTimeout, match="read"):
            pool.options(deadline=0).submit(read).result()


def test_any_function_and_value_travels():
    values = [None, [1, {"two": 2}], b"x" * 1_000_000]
    with make_pool(pyconc.ProcessPoolExecutor) as pool:
        for value in values:
            assert with_number(value, pool.submit, lambda: read()[0]).result() == value
            assert list(with_number(value, pool.map, lambda item: read()[0], [1, 2])) == [value, value]
        with pytest.raises(TypeError, match="pickle"):
            with_number(threading.Lock(), pool.submit, read).result()
        assert pool.submit(read).result() == (0, "")


@pytest.mark.parametrize("Executor", EXECUTORS)
def test_without_it_a_call_has_the_workers_context(Executor):
    with Executor(1) as pool:
        pool.submit(abs, 1).result()
        assert with_number(7, pool.submit, read).result() == (0, "")
        assert pool._carry is None


def current_span():
    from opentelemetry import baggage, trace

    context = trace.get_current_span().get_span_context()
    return context.trace_id, context.span_id, dict(baggage.get_all())


async def current_span_later():
    return current_span()


@pytest.mark.parametrize(
    ("Executor", "function"),
    [(pyconc.ProcessPoolExecutor, current_span), (pyconc.CoroutinePool, current_span_later)],
    ids=["processes", "coroutines"],
)
def test_a_span_of_a_call_is_its_submitters_child_in_opentelemetry(Executor, function):
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry import baggage, context

    tracer = trace.TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with Executor(1, context=["opentelemetry", number]) as pool:
        with tracer.start_as_current_span("submitter") as span:
            token = context.attach(baggage.set_baggage("user", "7"))
            future = with_number(7, pool.submit, function)
            context.detach(token)
        ids = span.get_span_context()
        assert future.result() == (ids.trace_id, ids.span_id, {"user": "7"})
        assert pool.submit(function).result() == (0, 0, {})


def test_opentelemetry_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.delitem(sys.modules, "pyconc._trace_context", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    with pytest.raises(ImportError, match=r"needs opentelemetry-api: pip install 'pyconc\[opentelemetry\]'"):
        pyconc.ProcessPoolExecutor(1, context=["opentelemetry"])


def test_a_copy_is_the_callers_whole_context():
    own = contextvars.ContextVar("own")
    own.set("seen")
    with pyconc.ThreadPoolExecutor(1, context=True) as pool:
        assert pool.submit(own.get).result() == "seen"
        assert pool.submit(lambda: pool.submit(own.get).result()).result() == "seen"


@pytest.mark.parametrize("Executor", [pyconc.ProcessPoolExecutor, pyconc.CoroutinePool])
@pytest.mark.parametrize(
    ("context", "error", "what"),
    [
        (True, TypeError, "iterable of ContextVars, not bool"),
        ("number", TypeError, "iterable of ContextVars, not str"),
        (number, TypeError, "iterable of ContextVars, not ContextVar"),
        (["number"], TypeError, "in which 'number' is none"),
        ([contextvars.ContextVar("lost")], ValueError, "no global of a module"),
    ],
    ids=["bool", "str", "variable", "names", "lost"],
)
def test_what_cannot_be_carried_is_refused(Executor, context, error, what):
    with pytest.raises(error, match=what):
        Executor(1, context=context)


@pytest.mark.parametrize("context", [None, 1, [number]], ids=lambda value: type(value).__name__)
def test_threads_take_all_or_nothing(context):
    with pytest.raises(TypeError, match="context must be a bool"):
        pyconc.ThreadPoolExecutor(1, context=context)


@pytest.mark.parametrize("Executor", [*EXECUTORS, pyconc.CoroutinePool])
def test_the_default_carries_nothing(Executor):
    assert inspect.signature(Executor).parameters["context"].default in (False, ())
