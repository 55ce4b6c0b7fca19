"""Gets a Ctrl-C while its exit waits for a task that never ends: interrupt_exit.py blocked|busy.  One is enough."""

import os
import signal
import sys
import threading

import pyconc

begin = threading.Event()
main = threading.main_thread()


def interrupt():
    begin.wait()
    while True:  # until the main thread sleeps at its exit
        with open(f"/proc/self/task/{main.native_id}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == "S":
                break
    os.write(1, b"interrupt\n")
    while True:  # again, should the first have come too early; the program ends under our feet
        os.kill(os.getpid(), signal.SIGINT)
        begin.clear()
        begin.wait(5)


pool = pyconc.ThreadPoolExecutor(2)
started = threading.Event()


def blocked():
    started.set()
    threading.Event().wait()


def busy():
    while True:
        started.set()
        try:
            pool.submit(int).result()
        except RuntimeError:
            pyconc.Future().cancel()


pool.submit(globals()[sys.argv[1]])
pool.submit(int).result()
started.wait()
threading.Thread(target=interrupt, daemon=True).start()
threading._register_atexit(begin.set)
