"""Event loops for tests: every kind that this interpreter has, watched for complaints."""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

try:
    import uvloop
except ImportError:
    uvloop = None

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

LOOP_FACTORIES: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
if uvloop is not None:
    LOOP_FACTORIES["uvloop"] = uvloop.new_event_loop

# Makes a test run once per kind of loop, with its factory as `new_loop`.
on_every_loop = pytest.mark.parametrize(
    "new_loop",
    [
        pytest.param(
            LOOP_FACTORIES.get(name),
            id=name,
            marks=pytest.mark.skipif(name not in LOOP_FACTORIES, reason=f"{name} is not importable here"),
        )
        for name in ("asyncio", "uvloop")
    ],
)


@contextlib.contextmanager
def watched(loop: asyncio.AbstractEventLoop) -> Iterator[list[dict[str, Any]]]:
    """Closes the loop after the body, and fails the test if it still has something to complain about.

    Yields the list of what its exception handler was given; a test that expects something clears it.
    """
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    try:
        yield complaints
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    assert complaints == []


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Makes an async test an ordinary one, run to its end on the loop of the `new_loop` it is given, and watched."""

    @functools.wraps(test)
    def run(new_loop: LoopFactory, **fixtures: Any) -> None:
        loop = new_loop()
        with watched(loop):
            loop.run_until_complete(test(new_loop=new_loop, **fixtures))

    return run
