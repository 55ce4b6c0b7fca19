"""How a thread is started without waiting for it."""

import threading


class Started(threading.Event):
    """By this event a Thread's start() waits until the thread runs.  That would cost an executor two wakeups.

    So start() does not wait, and whoever wants to know afterwards waits instead: join() and is_alive() ask is_set().
    """

    launched = False

    def wait(self, timeout=None):
        self.launched = True
        return True

    def is_set(self):
        return super().wait() if self.launched else super().is_set()
