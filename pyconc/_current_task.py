"""The task that a worker runs, as the code in it sees it."""

import operator
import time
from collections import namedtuple

from pyconc import _core

__all__ = ["Task", "TaskProgress", "current_task", "finders", "note_progress"]

# Functions that return what has the methods of a _core.Call for the code that asks, or None: of workers that run tasks
# in other ways than one at a time in a thread.
finders = []

# In a worker process, a function (began, TaskProgress) that leaves for its parent what a call tells.
note_progress = None

# How much of a note counts, in characters: it has a place of its own in memory that processes share.
_NOTE_LENGTH = 60


class TaskProgress(namedtuple("TaskProgress", ("done", "total", "note"), defaults=(None, None))):
    """How far a task is, as it has told by Task.progress(); what pyconc.WorkerStats has of it.

    done: how much it has done. total: of how much, or None. note: a short text, or None. Raises nothing.

        >>> pyconc.TaskProgress(3, 10, "parsing").done
        3
    """

    __module__ = __package__
    __slots__ = ()


def _as_number(name, value):
    if hasattr(value, "__index__"):
        number = operator.index(value)
        if -(1 << 63) <= number < 1 << 63:
            return number
    elif not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number that a float can be, not {value!r}") from None


class Task:
    """A task that a worker runs, as the code in it sees it; pyconc.current_task() returns it.

    Any thread of the worker may use it, also when the task is over: it says then what was true at its end. Nobody else
    makes one: `call` is what the worker runs. Raises nothing.

        >>> def work():
        ...     return repr(pyconc.current_task())
        >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...     pool.submit(work).result()
        "<pyconc.Task 'work'>"
    """

    __module__ = __package__
    __slots__ = ("_call",)

    def __init__(self, call):
        self._call = call

    def __repr__(self):
        return f"<pyconc.Task {self.name!r}{' cancelled' if self.cancelled() else ''}>"

    @property
    def name(self):
        """What options(name=) says, else the name of the function that is called."""
        return _core.name_of(self._call.callable) if self._call.name is None else self._call.name

    @property
    def deadline(self):
        """When the task must have ended, by time.monotonic(): the earlier of its deadline and its timeout; or None."""
        ends = [] if self._call.timeout is None else [self._call.began + self._call.timeout]
        if self._call.deadline is not None:
            ends.append(self._call.deadline)
        return min(ends, default=None)

    def remaining(self):
        """Return for how many seconds the task may still run, 0.0 when its time is over; None: for ever.

        Raises nothing.

            >>> def work():
            ...     return pyconc.current_task().remaining()
            >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
            ...     print(pool.submit(work).result())
            None
        """
        deadline = self.deadline
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def cancelled(self):
        """Return whether the task is to end: its future was cancelled, its time is over, its executor is shut down.

        That costs no more than the call of a method, so a loop may ask often. It is never true of a task whose options
        say neither what is to become of it when it is cancelled nor how long it may run. Raises nothing.

            >>> def count():
            ...     task, number = pyconc.current_task(), 0
            ...     with task.shield():
            ...         while not task.cancelled():
            ...             number += 1
            >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
            ...     future = pool.options(on_cancel="interrupt").submit(count)
            ...     while not future.running():
            ...         _ = pyconc.wait([future], timeout=0.01)
            ...     future.cancel()
            True
        """
        return self._call.reason() is not None

    def check(self):
        """Raise TaskCancelled if the task is to end, each time; never within shield(), nor when the task is over.

        In a coroutine it is asyncio.CancelledError, which asyncio's own time-outs and groups know how to end by; it
        sees at once what would else reach the coroutine only when it awaits something.

        >>> def work():
        ...     while True:
        ...         pyconc.current_task().check()
        >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...     future = pool.options(on_cancel="interrupt").submit(work)
        ...     while not future.running():
        ...         _ = pyconc.wait([future], timeout=0.01)
        ...     future.cancel()
        True
        """
        self._call.check()

    def progress(self, done, total=None, note=None):
        """Tell how far the task is: the executor's workers() shows it; the last word counts.

        done, total: numbers, of whatever the task counts; total None: nobody knows. note: a text, of which the first 60
        characters count. It costs a microsecond or two. When the task is over it does nothing. Any thread may call
        this. Raises TypeError for what is no number and for a note that is no str, and ValueError for an integer that
        is too large for a float.

            >>> def work(numbers):
            ...     for done, number in enumerate(numbers):
            ...         pyconc.current_task().progress(done, len(numbers), f"at {number}")
            ...     return pool.workers()[0].progress
            >>> with pyconc.ThreadPoolExecutor(max_workers=1) as pool:
            ...     print(pool.submit(work, [5, 6, 7]).result())
            TaskProgress(done=2, total=3, note='at 7')
        """
        if note is not None and not isinstance(note, str):
            raise TypeError(f"note must be a str, not {type(note).__name__}")
        told = TaskProgress(
            _as_number("done", done),
            None if total is None else _as_number("total", total),
            None if note is None else note[:_NOTE_LENGTH],
        )
        if self._call.tell(told) and note_progress is not None:
            note_progress(self._call.began, told)

    def shield(self):
        """Return a context manager within which TaskCancelled is not raised; at its end it is, if it was kept off.

        For what must not be torn, such as two writes that belong together. The grace of options() goes on meanwhile: a
        worker process whose task takes longer is killed. Shields nest. Only the thread that runs the task may use it.
        In a coroutine it keeps the CancelledError off that stands for its future's cancellation, also while it awaits;
        not what it, or another coroutine of that worker, cancels by itself.

            >>> def move(source, target):
            ...     with pyconc.current_task().shield():
            ...         target.append(source.pop())
            ...     return source, target
            >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
            ...     pool.options(on_cancel="interrupt").submit(move, [1], []).result()
            ([], [1])
        """
        return _Shield(self._call)


class _Shield:
    __slots__ = ("_call",)

    def __init__(self, call):
        self._call = call

    def __enter__(self):
        self._call.enter_shield()

    def __exit__(self, *exc_info):
        self._call.leave_shield()


def current_task():
    """Return the pyconc.Task that this code runs in, or None where no worker runs it.

    Its `name`, `deadline` and `remaining()` say what it is and how long it may take; `progress()` tells how far it is;
    `cancelled()`, `check()` and `shield()` are for code that is to end when nobody wants its result any more, see
    options() of the executors. Costs nothing until it is called. A thread that a task starts, and a process that it
    forks, run no task; nor do, in a CoroutinePool, the asyncio tasks that a coroutine makes, and the generators of
    stream(). Raises nothing.

        >>> def work():
        ...     task = pyconc.current_task()
        ...     return task.name, task.cancelled(), task.remaining()
        >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...     print(pool.submit(work).result())
        ...     print(pool.options(name="nightly report").submit(work).result()[0])
        ('work', False, None)
        nightly report
        >>> pyconc.current_task() is None
        True
    """
    call = _core.current_call()
    for find in finders:
        call = call or find()
    return None if call is None else Task(call)


current_task.__module__ = __package__
