"""A sandbox that refuses a system call: refused_calls.py CALL ERROR WHEN ERROR WHEN ...

ERROR: as old kernels (ENOSYS) or containers (EPERM) do.  WHEN: from the "first", or from when an executor was "made",
also with "threads", or has "worked".  Each pair is tried in a child of its own, as a refusal is for a process's life.

Prints for each what came of calls in worker processes; or, if no executor could be made, the error; and then the
children left.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
import sys
import threading

CALLS = {
    "x86_64": {
        "poll": 7,
        "lseek": 8,
        "dup2": 33,
        "sendmsg": 46,
        "recvmsg": 47,
        "wait4": 61,
        "getppid": 110,
        "setpriority": 141,
        "prctl": 157,
        "epoll_wait": 232,
        "epoll_ctl": 233,
        "fallocate": 285,
        "ppoll": 271,
        "eventfd2": 290,
        "epoll_create1": 291,
        "pipe2": 293,
        "prlimit64": 302,
        "memfd_create": 319,
    },
    "aarch64": {
        "lseek": 62,
        "setpriority": 140,
        "fallocate": 47,
        "eventfd2": 19,
        "dup2": 24,  # dup3
        "pipe2": 59,
        "epoll_create1": 20,
        "epoll_ctl": 21,
        "epoll_wait": 22,  # epoll_pwait, as poll is ppoll: there are no others
        "poll": 73,
        "ppoll": 73,
        "prctl": 167,
        "getppid": 173,
        "sendmsg": 211,
        "recvmsg": 212,
        "wait4": 260,
        "prlimit64": 261,
        "memfd_create": 279,
    },
}.get(platform.machine(), {})
CALLS |= {"pidfd_send_signal": 424, "pidfd_open": 434, "clone3": 435}  # on every machine

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


def refuse(number, error, third=None):
    """Have the kernel refuse a call from now on, or with `third` only if its third argument is that."""
    load, equal, give = 0x20, 0x15, 0x06
    refusal, allowance = (give, 0, 0, 0x00050000 | error), (give, 0, 0, 0x7FFF0000)
    steps = [(load, 0, 0, 0), (equal, 0, 1 if third is None else 3, number), refusal, allowance]
    if third is not None:
        steps[2:2] = [(load, 0, 0, 32), (equal, 0, 1, third)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = Program(len(steps), ctypes.cast(code, ctypes.c_void_p).value)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")


def run(pool):
    print(*pool.map(abs, range(-3, 0), chunksize=1), end=" ")
    died = pool.submit(os._exit, 3).exception()
    print(type(died).__name__, pool.submit(abs, -4).result(), end=" ")
    future = pool.submit(signal.pause)
    while not future.running():
        pass
    pool.kill_workers()
    print(type(future.exception()).__name__)


def main(call, *cases):
    from pyconc import ProcessPoolExecutor  # noqa: F401 - in this process, for all of its children

    for error, when in zip(cases[::2], cases[1::2]):
        print(f"{error} {when}: ", end="", flush=True)
        child = os.fork()
        if child == 0:
            return attempt(call, error, when)
        if os.waitpid(child, 0)[1]:
            sys.exit("the child failed")


def attempt(call, error, when):
    from pyconc import ProcessPoolExecutor
    from pyconc._process.nursery import the_nursery

    how = (CALLS[call], getattr(errno, error), *([os.SEEK_DATA] if call == "lseek" else []))
    try:
        if when == "first":
            refuse(*how)
        with ProcessPoolExecutor(2) as pool:
            if when == "worked":
                pool.submit(abs, -1).result()
            if when != "first":
                refuse(*how)
            if when == "threads":
                threading.Thread(target=threading.Event().wait, daemon=True).start()
            run(pool)
    except OSError as refused:
        print(f"{errno.errorcode[refused.errno]}: {refused.strerror}")
    the_nursery.stop()  # the program's, where zygotes cannot be forked from it
    try:
        print("left:", os.waitpid(-1, os.WNOHANG))
    except ChildProcessError:
        print("nothing left")


if __name__ == "__main__":
    main(*sys.argv[1:])
