"""The end of an executor's `async with` block."""

import threading

__all__ = ["AsyncWith"]


class AsyncWith:
    """For an executor with a shutdown() that waits: `async with` waits without blocking the event loop."""

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc_info):
        """Shut down, and wait for the workers while the event loop goes on."""
        self.shutdown(wait=False)
        await self._wait_closed()

    async def _wait_closed(self):
        """Wait until the workers of an executor that was shut down have ended, while the event loop goes on."""
        import asyncio

        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def join():
            self.shutdown(wait=True)
            try:
                loop.call_soon_threadsafe(lambda: ended.done() or ended.set_result(None))
            except RuntimeError:
                if not loop.is_closed():  # if it is, the waiting task was cancelled
                    raise

        threading.Thread(target=join, name=f"{type(self).__name__}_shutdown").start()
        await ended
