"""The exception of a lock whose holder ended, if the program has asked for it."""

__all__ = ["LockAbandoned"]


class LockAbandoned(RuntimeError):
    """A lock was released by the end of the thread that held it, so what it guards may be half changed.

    Raised by `acquire()` and `with` of a pyconc.shared.Lock or RLock made with on_abandoned="raise". The lock is not
    held then; it is free, and the next to take it is not told again. `pid` is the process of the thread that ended,
    which may be one's own; 0 if it could not say.

        >>> import os, threading
        >>> lock = pyconc.shared.Lock(on_abandoned="raise")
        >>> thread = threading.Thread(target=lock.acquire)
        >>> thread.start(); thread.join()
        >>> try:
        ...     lock.acquire()
        ... except pyconc.LockAbandoned as error:
        ...     print(error.pid == os.getpid(), lock.locked())
        True False
    """

    __module__ = "pyconc"

    def __init__(self, pid=0):
        super().__init__(pid)
        self.pid = pid

    def __str__(self):
        return f"a thread of process {self.pid or '?'} ended while it held the lock"
