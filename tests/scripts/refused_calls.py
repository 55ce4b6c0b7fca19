"""A sandbox that refuses a system call: refused_calls.py ERROR CALL, as old kernels (ENOSYS) or containers (EPERM) do.

Prints what came of calls in worker processes; or, if no executor could be made, the error; and then the children left.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
import sys

NUMBERS = {
    "x86_64": {"eventfd2": 290, "epoll_create1": 291, "memfd_create": 319, "fallocate": 285},
    "aarch64": {"eventfd2": 19, "epoll_create1": 20, "memfd_create": 279, "fallocate": 47},
}.get(platform.machine(), {})
NUMBERS |= {"pidfd_send_signal": 424, "pidfd_open": 434}  # on every machine

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


def refuse(number, error):
    """Have the kernel refuse a call from now on: load its number, compare, return an error or go on."""
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = Program(len(steps), ctypes.cast(code, ctypes.c_void_p).value)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")


def main():
    from pyconc import ProcessPoolExecutor

    try:
        with ProcessPoolExecutor(2) as pool:
            print(*pool.map(abs, range(-3, 0), chunksize=1), end=" ")
            died = pool.submit(os._exit, 3).exception()
            print(type(died).__name__, pool.submit(abs, -4).result(), end=" ")
            future = pool.submit(signal.pause)
            while not future.running():
                pass
            pool.kill_workers()
            print(type(future.exception()).__name__)
    except OSError as refused:
        print(f"{errno.errorcode[refused.errno]}: {refused.strerror}")
    try:
        print("left:", os.waitpid(-1, os.WNOHANG))
    except ChildProcessError:
        print("nothing left")


if __name__ == "__main__":
    refuse(NUMBERS[sys.argv[2]], getattr(errno, sys.argv[1]))
    main()
