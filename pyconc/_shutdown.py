"""The time-out of every executor's shutdown()."""

import math
import time

__all__ = ["SPARE", "deadline_after"]

# How many seconds longer than it may wait shutdown() does so all the same: what was ended has yet to be seen to end.
SPARE = 0.08


def deadline_after(timeout):
    """Return when so many seconds will be over, by time.monotonic(), or None: never.

    Below 0 counts as 0. Raises ValueError for nan, TypeError for what is no number.
    """
    if timeout is None or timeout == math.inf:
        return None
    if math.isnan(timeout):
        raise ValueError("timeout must be a number of seconds, not nan")
    return time.monotonic() + max(0.0, float(timeout))
