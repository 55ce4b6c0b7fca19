"""Progress of map(): how many of its calls have ended, for a bar or for a function of the program's.

    whoever ends a call --- done callback ---.
    the consumer's thread --- source ends ---+--> queue --> a thread of this map() --> bar, or function(done, total)
    the consumer's thread --- iterator ends -'

That thread alone counts and shows, so what is slow there, or waits, holds up neither calls nor results.  It shows what
is new, rests for a moment, and sleeps until another call ends.  It ends with the last call, or with the iterator.
"""

import atexit
import contextlib
import os
import queue
import sys
import threading
import time
import weakref
from concurrent.futures import _base

__all__ = ["choose", "follow", "follow_async"]

# For how long the thread rests after it has shown something, in seconds: what ends meanwhile is shown together.
_REST = 0.05

_tellers: "weakref.WeakSet[_Teller]" = weakref.WeakSet()


def choose(progress):
    """Return what map() shows its progress with, as follow() takes it: a class or a function; None: nothing."""
    if progress is None or progress is False:
        return None
    if progress is True:
        return _choose_bar() if _is_terminal(sys.stderr) else None
    if not callable(progress):
        raise TypeError(f"progress must be a bool, or a function of (done, total), not {type(progress).__name__}")
    return _Told.of(progress)


def _is_terminal(stream):
    try:
        return stream is not None and stream.isatty()
    except (AttributeError, ValueError):  # the program's own, or closed
        return False


def _choose_bar():
    for bar, module in ((_Tqdm, "tqdm"), (_Rich, "rich.progress")):
        with contextlib.suppress(ImportError):
            __import__(module)
            return bar
    return _Line


def follow(executor, fn, iterables, show, submit):
    """Return an iterator over map()'s results, while `show` shows the progress.

    submit(executor, fn, arguments): makes the calls by that executor's submit(), and returns an iterator.
    """
    followed = _Followed(executor, _Teller(show, _count(iterables)))
    return _yield(submit(followed, fn, followed.read(zip(*iterables))), followed)


def _yield(results, followed):
    try:
        yield from results
        followed.end(is_complete=True).wait()
    except Exception:
        followed.end().wait()
        raise
    finally:
        followed.end()


def follow_async(executor, fn, iterables, source, show, submit):
    """Do the same for a CoroutinePool; source: what there is to read, an async generator if it has to be awaited."""
    followed = _Followed(executor, _Teller(show, _count(iterables)))
    read = followed.read_async if hasattr(source, "__aiter__") else followed.read
    return _yield_async(submit(followed, fn, read(source)), followed)


async def _yield_async(results, followed):
    try:
        async for result in results:
            yield result
        await followed.end(is_complete=True).wait_async()
    except Exception:
        await followed.end().wait_async()
        raise
    finally:
        followed.end()
        await results.aclose()


def _count(iterables):
    """Return how many calls there will be, or None if no iterable knows its length."""
    lengths = []
    for iterable in iterables:
        with contextlib.suppress(TypeError):
            lengths.append(len(iterable))
    return min(lengths, default=None)


class _Followed:
    """Stands for an executor: a map()'s calls that are submitted here are counted."""

    def __init__(self, executor, teller):
        self._executor = executor
        self._teller = teller
        self._submitted = 0  # only the thread that reads the source

    def submit(self, fn, /, *args):
        return self._watch(self._executor.submit(fn, *args))

    def run(self, fn, /, *args):
        return self._watch(self._executor.run(fn, *args))

    def _watch(self, future):
        self._submitted += 1
        future.add_done_callback(self._teller.note)
        if self._submitted == 1:  # not before: a program with one thread has its workers forked
            self._teller.start()
        return future

    def read(self, source):
        """Yield what a source does, and say how many calls that makes when it ends, or nobody reads it any more."""
        try:
            yield from source
        finally:
            self._teller.tell("submitted", self._submitted)

    async def read_async(self, source):
        try:
            async for args in source:
                yield args
        finally:
            self._teller.tell("submitted", self._submitted)
            await source.aclose()

    def end(self, is_complete=False):
        """The iterator has ended; is_complete: as each call has returned something.

        Return the thread, which ends when that is shown.
        """
        self._teller.tell(*(("completed", self._submitted) if is_complete else ("left", 0)))
        return self._teller


class _Teller(threading.Thread):
    """The thread of one map() that counts its ended calls, and shows how many there are."""

    def __init__(self, show, total):
        super().__init__(name="pyconc-progress", daemon=True)  # it has what ends it at exit, see _end_all()
        self._show = show
        self._total = total
        self._process = os.getpid()
        self._news = queue.SimpleQueue()  # (what, number): its put() may be interrupted by a handler that puts, too
        self._is_left = threading.Event()  # it is to end
        self._has_ended = _base.Future()
        _tellers.add(self)

    def note(self, future):
        """A call has ended: a done callback."""
        self._news.put(("lost" if future.cancelled() else "done", 1))

    def tell(self, what, number):
        """Any thread."""
        self._news.put((what, number))
        if what in ("completed", "left") and self._process == os.getpid():
            self._is_left.set()

    def _may_wait(self):
        return self._process == os.getpid() and self.ident is not None and self is not threading.current_thread()

    def wait(self):
        """Wait for its end, if it runs in this process."""
        if self._may_wait():
            self.join()

    async def wait_async(self):
        if self._may_wait():
            import asyncio

            await asyncio.wrap_future(self._has_ended)

    def run(self):
        try:
            self._show_until_the_end()
        finally:
            self._has_ended.set_result(None)

    def _show_until_the_end(self):
        try:
            with contextlib.closing(self._show(self._total)) as shown:
                self._show_all(shown)
        except Exception:
            _base.LOGGER.exception("pyconc shows no more progress of a map(), as that has raised an exception")

    def _show_all(self, shown):
        done, lost, submitted, total, last = 0, 0, None, self._total, None
        is_left = False
        while True:
            if last != (done, total):
                last = done, total
                shown.show(done, total)
                self._is_left.wait(_REST)
            if is_left or done + lost == submitted:
                return
            for what, number in self._take():
                if what == "done":
                    done += number
                elif what == "lost":
                    lost += number
                elif what == "submitted":
                    submitted = total = number
                elif what == "completed":
                    done = total = number
                    is_left = True
                    break  # calls of which no callback was called yet are among them
                else:
                    is_left = True

    def _take(self):
        yield self._news.get()
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._news.get_nowait()


def _end_all():
    """At exit: no thread may write to a stream that the interpreter closes."""
    for teller in list(_tellers):
        teller.tell("left", 0)
        teller.wait()


atexit.register(_end_all)


# ---- what it is shown with ----


class _Told:
    """A function of the program's."""

    def __init__(self, function):
        self.show = function

    @classmethod
    def of(cls, function):
        return lambda total: cls(function)

    def close(self):
        pass


class _Line:
    """A line on the terminal."""

    def __init__(self, total):
        self._began = time.monotonic()
        self._width = 0

    def show(self, done, total):
        seconds = time.monotonic() - self._began
        of = f"/{total} ({100 * done // total} %)" if total else ""
        text = f"{done}{of}, {int(seconds)} s"
        sys.stderr.write("\r" + text.ljust(self._width))
        sys.stderr.flush()
        self._width = len(text)

    def close(self):
        if self._width:
            sys.stderr.write("\n")
            sys.stderr.flush()


class _Tqdm:
    def __init__(self, total):
        import tqdm

        self._bar = tqdm.tqdm(total=total, file=sys.stderr)

    def show(self, done, total):
        self._bar.total = total
        self._bar.n = done
        self._bar.refresh()

    def close(self):
        self._bar.close()


class _Rich:
    def __init__(self, total):
        from rich.console import Console
        from rich.progress import Progress

        # What the program prints, also in workers that are forked meanwhile, goes where it always goes.
        console = Console(stderr=True)
        self._bar = Progress(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._task = self._bar.add_task("", total=total)
        self._bar.start()

    def show(self, done, total):
        self._bar.update(self._task, completed=done, total=total, refresh=True)

    def close(self):
        self._bar.stop()
