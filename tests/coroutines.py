"""Coroutines that tests have worker processes run: importable there without the test framework.

Those that wait do so at a gate, a socket of the test's own: it learns who has come, and how they left.
"""

import asyncio
import contextlib
import os
import threading
import warnings

import jobs

import pyconc
from pyconc._process import loop_worker


async def identity(*args):
    return args[0] if len(args) == 1 else args


async def identify_worker():
    """The number and the generation of the worker that runs this."""
    return loop_worker._current.identify()


async def double(value):
    return 2 * value


async def after_a_turn(value):
    await asyncio.sleep(0)
    return value


async def pid():
    return os.getpid()


async def fail(error):
    await asyncio.sleep(0)
    raise error


async def die(how):
    jobs.die(how)


async def leave(code):
    raise SystemExit(code)


async def loop_module():
    return type(asyncio.get_running_loop()).__module__


async def lock():
    return threading.Lock()


def no_coroutine():
    return 7


@contextlib.asynccontextmanager
async def _at(address, text):
    reader, writer = await asyncio.open_unix_connection(address)
    try:
        writer.write(b"%s %d\n" % (text, os.getpid()))
        yield reader, writer
    finally:
        writer.close()


async def wait_at(address, value=None):
    """Say "started", wait for a byte; say "cancelled" if that is how it ends."""
    async with _at(address, b"started") as (reader, writer):
        try:
            await reader.readexactly(1)
        except asyncio.CancelledError:
            writer.write(b"cancelled %d\n" % os.getpid())
            await writer.drain()
            raise
    return value


async def wait_at_whatever_comes(address):
    """The same, and refuse to be cancelled."""
    try:
        return await wait_at(address)
    except asyncio.CancelledError:
        return "refused"


def busy_at(address):
    """Keep the worker's loop busy until a byte comes."""
    return jobs.AtGate(address, 60)()


async def compute_at(address):
    return busy_at(address)


async def compute_until_others_are_to_end(address):
    """Those that the worker has begun with; it is told of that while its loop is busy."""
    busy_at(address)
    current, own = loop_worker._current, asyncio.current_task()
    others = [handle for handle, task in current._running.items() if task is not own]
    while any(current._worker.asked(handle) is None for handle in others):
        pass


async def count_to(stop, address=None):
    """Yield numbers; say "closed" when that ends, in whatever way."""
    try:
        for number in range(stop):
            yield number
    finally:
        if address is not None:
            async with _at(address, b"closed") as (_, writer):
                await writer.drain()


async def count_and_fail(stop, error):
    for number in range(stop):
        yield number
        await asyncio.sleep(0)
    raise error


def fail_to_begin():
    raise OSError("no beginning")


def no_loop():
    raise OSError("no loop")


_begun = _ended = 0


async def storm(value):
    """Take a few turns of the loop, and keep count of those that do."""
    global _begun, _ended
    _begun += 1
    try:
        for _ in range(value % 50):
            await asyncio.sleep(0)
        return value
    finally:
        _ended += 1


async def tally():
    """Return how many have begun and ended in this worker, which must not take all of its like at once."""
    await asyncio.sleep(0)
    return os.getpid(), _begun, _ended


async def never_ends():
    await asyncio.get_running_loop().create_future()


async def refuse_for_ever():
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()


async def wait_if(item, address):
    return await wait_at(address, item) if item == "wait" else item


async def divide_by(number):
    return 1 / number


def remember_loop():
    global _loop
    _loop = asyncio.get_event_loop()


async def is_remembered_loop():
    return _loop is asyncio.get_running_loop()


_items = 0


async def count_items(stop):
    global _items
    for number in range(stop):
        _items += 1
        yield number


async def how_many_items():
    return _items


async def yield_locks():
    yield 1
    yield threading.Lock()


async def wait_then_count(address):
    await wait_at(address)
    for number in range(3):
        yield number


async def count_slowly(stop):
    for number in range(stop):
        await asyncio.sleep(0.003)  # as a source on a network would
        yield number


# ---- coroutines that ask about their own call ----


async def describe_task():
    task = pyconc.current_task()
    return task.name, task.deadline, task.remaining(), task.cancelled()


async def describe_task_later():
    await asyncio.sleep(0)
    return await describe_task()


class Awaitable:
    """Makes what can be awaited, and is no coroutine."""

    def __await__(self):
        return describe_task().__await__()


async def find_other_tasks():
    """What others find that run because of this: a task, a thread, a forked process, the same after a wait."""
    found = [await asyncio.create_task(_current_task()), await asyncio.to_thread(pyconc.current_task)]
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has threads, which a newer Python warns of
        if os.fork() == 0:
            os.write(writer, repr(pyconc.current_task()).encode())
            os._exit(0)
    os.wait()
    return found, os.read(reader, 100), pyconc.current_task().name


async def _current_task():
    return pyconc.current_task()


async def yield_task():
    yield pyconc.current_task()


async def see_cancellation(address, path):
    """Write down what a coroutine knows of its cancellation, when it comes and when it has come."""
    task, log = pyconc.current_task(), []
    try:
        await wait_at(address)
    except asyncio.CancelledError:
        log.append(task.cancelled())
        with task.shield():  # it was raised: once
            await asyncio.sleep(0)
        try:
            task.check()
        except asyncio.CancelledError:
            log.append("raised again")
    path.write_text(repr((log, pyconc.current_task().name)))


async def compute_until_cancelled(address, path, how):
    """Never let the loop run; then await something, which must not be cancelled once more."""
    task = pyconc.current_task()
    busy_at(address)
    while not task.cancelled():
        pass
    try:
        task.check()
    except asyncio.CancelledError:
        for _ in range(3):
            await asyncio.sleep(0)
        path.write_text("cleaned up")
        if how == "raises":
            raise


async def wait_in_shields(address, path, depth):
    task, log = pyconc.current_task(), []
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(depth):
                stack.enter_context(task.shield())
            async with _at(address, b"started") as (reader, _):
                while not task.cancelled():
                    await asyncio.sleep(0)
                task.check()
                await reader.readexactly(1)
            log.append("kept off")
        log.append("never")
    except asyncio.CancelledError:
        log.append("raised at the end")
        with task.shield():
            await asyncio.sleep(0)
        log.append("cleaned up")
    path.write_text(", ".join(log))


async def end_late(address, path):
    """Go on when it is cancelled, for a time that is short."""
    with contextlib.suppress(asyncio.CancelledError):
        await wait_at(address)
    await asyncio.sleep(0)
    path.write_text("ended")


async def leave_shield_open(path):
    pyconc.current_task().shield().__enter__()


async def keep_task():
    global _kept
    _kept = pyconc.current_task()


async def ask_kept_task():
    _kept.check()
    with _kept.shield():
        pass
    return _kept.name, _kept.cancelled(), pyconc.current_task().name


async def wait_and_keep_task(address):
    await keep_task()
    await wait_at(address)


async def see_time_limit(path, asks):
    """Write down what comes when the time is over."""
    task, log = pyconc.current_task(), []
    log.append("within" if task.remaining() > 0 and not task.cancelled() else "over")
    try:
        if asks:
            while True:
                task.check()
        await never_ends()
    except asyncio.CancelledError as error:
        log += [str(error), str(task.remaining())]
    path.write_text(", ".join(log))


async def compute_while_in_time():
    while True:
        pyconc.current_task().check()


async def wait_or_return(value):
    return await never_ends() if value == "wait" else value


async def block_for_ever():
    threading.Event().wait()


async def say_and_refuse(address):
    task = pyconc.current_task()
    with contextlib.suppress(asyncio.CancelledError), task.shield():
        async with _at(address, b"started") as (_, writer):
            while not task.cancelled():
                await asyncio.sleep(0)
            writer.write(b"cancelled %d\n" % os.getpid())
            await writer.drain()
    await refuse_for_ever()


async def say_after(turns):
    for _ in range(turns):
        await asyncio.sleep(0)
    return "a text"


async def tell(*told):
    pyconc.current_task().progress(*told)


async def tell_and_wait(address, *told):
    await tell(*told)
    async with _at(address, b"told") as (reader, _):
        await reader.read(1)
