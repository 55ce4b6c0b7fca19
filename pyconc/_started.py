"""Starting a thread without waiting for it."""

import threading

__all__ = ["Started"]


class Started(threading.Event):
    """The event on which Thread.start() waits until the thread runs, which would cost an executor two wakeups.

    With this one start() does not wait.  join() and is_alive() call is_set(), and a thread that calls them waits there.
    """

    launched = False

    def wait(self, timeout=None):
        self.launched = True
        return True

    def is_set(self):
        # A wait that a signal handler ends may leave its lock taken, so there is none without need.
        return self._flag or (self.launched and super().wait())
