"""The exceptions of pyconc.shared's queues: those of the module queue."""

from queue import Empty, Full

try:
    from queue import ShutDown
except ImportError:  # before Python 3.13

    class ShutDown(Exception):
        """Raised by put() and get() of a pyconc.shared.Queue that is shut down; queue.ShutDown since Python 3.13.

        >>> q = pyconc.shared.Queue()
        >>> q.shutdown()
        >>> try:
        ...     q.put(1)
        ... except pyconc.shared.ShutDown:
        ...     print("too late")
        too late
        """

        __module__ = f"{__package__}.shared"


__all__ = ["Empty", "Full", "ShutDown"]
