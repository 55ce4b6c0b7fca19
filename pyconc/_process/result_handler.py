"""The result handler: the thread of a process executor that delivers outcomes, and calls what hangs on them.

It lives in ProcessQueue.collect().  Callbacks run here, so it may be held up for as long as they like.  Another thread,
the supervisor, starts, watches and replaces workers, and leaves it to this one to fail what a dead worker had taken.
When everything is delivered the supervisor ends, and then this thread: to join it is to wait for the executor's end.
"""

import threading
import weakref
from concurrent.futures import process

from pyconc import _core
from pyconc._process.launcher import quiet_threads

__all__ = ["ResultHandler"]


class ResultHandler(threading.Thread):
    """Delivers outcomes until its queue is closed and has nothing left to do, or close().

    kill: a method that ends the workers, for a user who does not want to wait at exit.
    """

    def __init__(self, name, queue, kill):
        super().__init__(name=name)
        self.is_over = False  # nothing is delivered any more; this thread sets it, and then pokes the supervisor
        self.supervisor_thread = None  # set before that one is started
        self._queue = queue
        self._kill = weakref.WeakMethod(kill)
        self._is_closed = False
        quiet_threads.add(self)

    def run(self):
        _core.name_thread("pyconc-results")
        queue, self._queue = self._queue, None
        while not (queue.is_done() or queue.is_inherited() or self._is_closed):
            queue.collect()
        self.is_over = True
        queue.poke()
        if self.supervisor_thread is not None and not (self._is_closed or queue.is_inherited()):
            self.supervisor_thread.join()

    def close(self, queue):
        """Have the thread end, and wait for that: there is no supervisor."""
        self._is_closed = True
        queue.wake()
        self.join()

    def join(self, timeout=None):
        try:
            super().join(timeout)
        except KeyboardInterrupt:
            if process._global_shutdown:
                # The program is over, and the user does not want to wait.
                self.kill_workers()
                super().join()
            raise

    def kill_workers(self):
        kill = self._kill()
        if kill is not None:
            kill()
