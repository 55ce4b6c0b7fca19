"""What is raised in a call that is to end."""


class TaskCancelled(BaseException):
    """Raised in a call that runs in a worker process, by cancelling its future; see ProcessPoolExecutor.options().

    A BaseException, so that `except Exception` does not stop it. The call may clean up and must then end; whatever it
    returns or raises is dropped. It is raised once, between two steps of the call's Python code or out of a system call
    that waits, never while arguments or results are pickled, and in no other task.

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
