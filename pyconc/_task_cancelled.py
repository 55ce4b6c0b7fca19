"""The exception that is raised in a call that is to end."""

__all__ = ["TaskCancelled"]

_MESSAGES = {
    "cancel": "the task was cancelled",
    "timeout": "the task has reached its time limit",
    "shutdown": "the executor of the task is shut down",
}


class TaskCancelled(BaseException):
    """Raised in a call that runs in a worker and is to end; see options() of the executors.

    reason: "cancel" (its future was cancelled), "timeout" (it has reached its timeout or deadline) or "shutdown" (its
    executor is shut down).

    A BaseException, so that `except Exception` does not stop it. The call may clean up and must then end; whatever it
    returns or raises is dropped. It is raised once, between two steps of the call's Python code or out of a system call
    that waits, never while arguments or results are pickled, in no other task, and not within
    pyconc.current_task().shield().

        >>> import asyncio, signal
        >>> def wait():
        ...     try:
        ...         signal.pause()
        ...     except pyconc.TaskCancelled:
        ...         pass  # clean up
        >>> async def main():
        ...     async with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...         stoppable = pool.options(on_cancel="interrupt")
        ...         call = asyncio.get_running_loop().run_in_executor(stoppable, wait)
        ...         done, pending = await asyncio.wait([call], timeout=0.1)
        ...         call.cancel()
        ...         await asyncio.wait([call])
        ...         return call.cancelled()
        >>> asyncio.run(main())
        True
    """

    __module__ = "pyconc"

    def __init__(self, message=None, reason=None):
        if reason is None:
            reason = _find_reason()
        super().__init__(_MESSAGES[reason] if message is None else message)
        self.reason = reason


def _find_reason():
    """Return why the call that this thread runs is to end; the interpreter raises the exception by its class alone."""
    from pyconc import _core

    call = _core.current_call()
    return (call and call.reason()) or "cancel"
