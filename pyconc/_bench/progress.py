"""How far a comparison is, on standard error: rich's bar on a terminal, if rich is installed, or else a line a row."""

import contextlib
import sys
import time

__all__ = ["show"]


class Lines:
    """A line for each row, and how long the rest may take once that can be told."""

    def __init__(self, entries, steps):
        self._entries = entries
        self._steps = steps
        self._begun = self._done = 0
        self._started = time.monotonic()

    def begin(self, name):
        rest = ""
        if self._done:
            seconds = (time.monotonic() - self._started) / self._done * (self._steps - self._done)
            rest = f" (about {seconds:.0f} s left)"
        self._begun += 1
        print(f"[{self._begun}/{self._entries}] {name}{rest}", file=sys.stderr, flush=True)

    def step(self):
        self._done += 1


class Bar:
    """One bar for all of them, with the row that is measured beside it."""

    def __init__(self, bar, steps):
        self._bar = bar
        self._task = bar.add_task("", total=steps)

    def begin(self, name):
        self._bar.update(self._task, description=name)

    def step(self):
        self._bar.advance(self._task)


@contextlib.contextmanager
def show(entries, steps):
    """Give what is told of each row that begins, and of each step that is done."""
    if sys.stderr is not None and sys.stderr.isatty():
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        except ImportError:
            pass
        else:
            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
                yield Bar(bar, steps)
            return
    yield Lines(entries, steps)
