"""The exception of a task whose time is over."""

import builtins
import concurrent.futures

__all__ = ["TaskTimeout", "make"]


class TaskTimeout(*dict.fromkeys([concurrent.futures.TimeoutError, builtins.TimeoutError])):
    """A task has reached its timeout or its deadline, see options() of the executors. A TimeoutError.

    Raised by the task's future. `task_name` says which one; `timeout` is for how many seconds it could run, `deadline`
    when it had to end, by time.monotonic(), or None; `ran_for` is for how many seconds it ran, None if it never began.

    `stopped` says how it ended: "raised" (TaskCancelled, or what came of that), "returned" (a result all the same,
    which is dropped), "killed" (its worker process was); None if it never began, or if nothing can stop it, such as a
    call in a thread that goes on after its grace, or a process that the kernel does not let end. `stack` is text: the
    Python stack of the call's thread when the time was over; if a process did not end the call soon, or was killed at
    once, that of each of its threads, also where C code was running; of a coroutine, what it awaited then; None if
    there is none. It ends with the worker's own code that has called the task. The traceback shows it, too.

    It can be pickled, and has all of that afterwards.

        >>> import time
        >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...     error = pool.options(timeout=0.1).submit(time.sleep, 3600).exception()
        ...     print(type(error).__name__, error.task_name, error.timeout, error.stopped)
        TaskTimeout sleep 0.1 raised
    """

    __module__ = "pyconc"

    def __init__(self, message, *, task_name=None, timeout=None, deadline=None, ran_for=None, stack=None, stopped=None):
        super().__init__(message)
        self.task_name = task_name
        self.timeout = timeout
        self.deadline = deadline
        self.ran_for = ran_for
        self.stack = stack
        self.stopped = stopped


class _WhereItWas(Exception):
    """The cause of a TaskTimeout, for its traceback."""


_ENDS = {
    # By itself, too: with on_cancel="kill" nobody interrupts it, and it may end while its worker is asked where it is.
    "raised": "it has ended with an exception",
    "returned": "its result came too late and is dropped",
    "killed": "its worker process was killed",
    None: "it has not ended, as nothing can stop it",
}


def make(function, name, timeout, deadline, ran_for, stack, stopped):
    """Return the exception; the extension calls this.

    function, name: as those of a _core.Call.  stack: text, or what returns it, or None.
    """
    if callable(stack):
        stack = stack()
    if name is None:
        from pyconc._core import name_of

        name = name_of(function)
    if ran_for is None:
        message = f"{name} has not begun before its deadline"
    else:
        limit = "its deadline" if timeout is None else f"its timeout of {timeout:g} s"
        message = f"{name} has reached {limit}: it ran for {ran_for:.3f} s, and {_ENDS[stopped]}"
    error = TaskTimeout(
        message,
        task_name=name,
        timeout=timeout,
        deadline=deadline,
        ran_for=ran_for,
        stack=stack,
        stopped=None if ran_for is None else stopped,
    )
    if stack is not None:
        error.__cause__ = _WhereItWas(f"\n'''\n{name} was here when its time was over:\n{stack.rstrip()}'''")
    return error
