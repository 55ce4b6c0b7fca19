"""The levels of the program's loggers, which those of its workers with forward_logs=True follow.

    program                                      worker
      | setLevel(), disable() --> publish()        | isEnabledFor() looks at the head: has it changed?
      |----- the levels, in a file in memory ----->|     then takes over what the program has changed since

logging forgets what it has cached whenever a level changes, and this is how the program hears of it; so a program that
changes no level pays nothing, and a worker pays for a look at shared memory, a tenth of a microsecond, when it is about
to log.  What stands there begins with the checksum of the rest: what a worker reads in the middle of a write it leaves
for the next time.
"""

from __future__ import annotations

import binascii
import contextlib
import logging
import mmap
import os
import pickle

TYPE_CHECKING = False  # typing takes longer to import than this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Followed", "follow"]

_BYTES = 1 << 18  # for several thousand loggers with levels of their own; pages that are not needed are not there
_HEAD_BYTES = 8  # checksum, size

# Those of this process that are open, by their descriptors.
_followed: dict[int, Followed] = {}


def _read_levels() -> dict[str | None, int]:
    """Return the levels of loggers that have one, by name; and by None what is disabled."""
    loggers = logging.root.manager.loggerDict.items()
    levels: dict[str | None, int] = {
        name: logger.level
        for name, logger in list(loggers)
        if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET
    }
    levels["root"] = logging.root.level
    levels[None] = logging.root.manager.disable
    return levels


class Followed:
    """The levels of this process, in a file that workers open.  Any thread."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("pyconc-log-levels", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._fd, _BYTES)
            self._map = mmap.mmap(self._fd, _BYTES)
        except BaseException:
            os.close(self._fd)
            raise
        self.publish()
        _followed[self._fd] = self
        _hear_of_changes()

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self._fd

    def publish(self) -> None:
        """Have workers follow, unless there is no room for so many levels, or this is closed."""
        written = None
        # Who writes last looks again, so of several threads none leaves there what another has outdated.
        while written != (levels := _read_levels()):
            data = pickle.dumps(levels, protocol=5)
            data = binascii.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little") + data
            if len(data) > _BYTES:
                return
            with contextlib.suppress(ValueError):
                self._map[: len(data)] = data  # in one step
            written = levels

    def close(self) -> None:
        """Close the file, also in the child of a fork, which must not write there."""
        if _followed.pop(self._fd, None) is not None:
            self._map.close()
            os.close(self._fd)


def _hear_of_changes() -> None:
    manager: Any = logging.root.manager
    if "_clear_cache" in vars(manager):
        return
    clear_cache = manager._clear_cache

    def clear_and_publish() -> None:
        clear_cache()
        for followed in list(_followed.values()):
            followed.publish()

    manager._clear_cache = clear_and_publish


# ---- a worker ----


class _Follower:
    """What this process knows of the program's levels.  Any thread: to take over a change twice does no harm."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, _BYTES, access=mmap.ACCESS_READ)
        os.close(fd)
        self._head = b""
        self._levels: dict[str | None, int] = {}

    def take_over(self) -> None:
        """Have the levels that the program has, where it has changed them since the last time."""
        head = self._map[:_HEAD_BYTES]
        if head == self._head:
            return
        data = self._map[_HEAD_BYTES : _HEAD_BYTES + int.from_bytes(head[4:], "little")]
        if binascii.crc32(data) != int.from_bytes(head[:4], "little"):
            return  # it is being written
        before, self._levels, self._head = self._levels, pickle.loads(data), head
        for name in before.keys() | self._levels:
            level = self._levels.get(name, logging.NOTSET)
            if level == before.get(name, logging.NOTSET):
                continue
            if name is None:
                logging.disable(level)
            else:
                logging.getLogger(name).setLevel(level)


def follow(fd: int) -> None:
    """Have loggers of this process, a worker, follow those of the program: also in the middle of a call.  Takes fd."""
    vars(logging.root.manager).pop("_clear_cache", None)  # a fork has it from the program
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.setLevel(logging.NOTSET)
    logging.root.setLevel(logging.NOTSET)
    logging.disable(logging.NOTSET)
    follower = _Follower(fd)
    follower.take_over()
    is_enabled_for = logging.Logger.isEnabledFor

    def isEnabledFor(self: logging.Logger, level: int) -> bool:
        follower.take_over()
        return is_enabled_for(self, level)

    isEnabledFor.__doc__ = is_enabled_for.__doc__
    logging.Logger.isEnabledFor = isEnabledFor  # type: ignore[method-assign]
