"""Imported by every interpreter of `make test-asan`: a fork waits until the other threads are at rest.

The sanitizer's allocator has locks of its own, which a fork does not look after, unlike the C library's.  A thread that
begins, ends, or computes at that instant may hold one, and then the child waits for ever.
"""

import _thread
import os
import time

# Seconds; some program may compute in another thread all the time.
LIMIT = 1.0


def is_resting(tid):
    try:
        with open(f"/proc/self/task/{tid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"S"
    except OSError:
        return True  # it is gone


def wait_for_others():
    deadline = time.monotonic() + LIMIT
    try:
        while not all(map(is_resting, set(os.listdir("/proc/self/task")) - {str(_thread.get_native_id())})):
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
    except OSError:
        pass  # no /proc, or no descriptor


os.register_at_fork(before=wait_for_others)
