"""Interrupts a wait with a signal, round after round: interrupt_waits.py WHAT ROUNDS.

A second thread sends SIGINT to the main thread: in every other round once the main thread sleeps, otherwise at once, so
that some signals arrive while it is on its way to sleep.  Each has to end the wait with KeyboardInterrupt.

No wait in Python can promise that for every single signal: one that arrives between the last look at the interpreter's
flags and the system call is noticed only when the next one comes.  So signals are sent again while the main thread
sleeps on, and what is printed is the number of rounds, and how many of them needed a second signal.
"""

import itertools
import signal
import sys
import threading

import pyconc

what, rounds = sys.argv[1], int(sys.argv[2])
main = threading.main_thread()
armed = threading.Semaphore(0)
waiting = False
ended = 0
again = 0


def handle(signum, frame):
    global waiting
    if waiting:
        waiting = False
        raise KeyboardInterrupt


def is_asleep():
    with open(f"/proc/self/task/{main.native_id}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


def interrupt():
    global again
    for number in range(rounds):
        armed.acquire()
        if number % 2:
            while not is_asleep():
                pass
        for attempt in itertools.count():
            signal.pthread_kill(main.ident, signal.SIGINT)
            looks = 0
            while ended == number and looks < 500:
                looks += is_asleep()
            if ended > number:
                again += attempt > 0
                break


never = threading.Event()


def shut_down():
    # A pool of its own each time: before Python 3.13, a join that is interrupted takes the thread for ended.
    with_one = pyconc.ThreadPoolExecutor(1)
    with_one.submit(never.wait)
    with_one.shutdown()


pool = pyconc.ThreadPoolExecutor(1)
waits = {
    "result": lambda: pyconc.Future().result(),
    "result with timeout": lambda: pyconc.Future().result(10**6),
    "exception": lambda: pyconc.Future().exception(),
    "wait": lambda: pyconc.wait([pyconc.Future(), pyconc.Future()]),
    "as_completed": lambda: next(pyconc.as_completed([pyconc.Future()])),
    "map": lambda: next(pool.map(never.wait, [None])),
    "shutdown": shut_down,
}

signal.signal(signal.SIGINT, handle)
thread = threading.Thread(target=interrupt)
thread.start()
for _ in range(rounds):
    try:
        waiting = True
        armed.release()
        waits[what]()
    except KeyboardInterrupt:
        ended += 1
    else:
        sys.exit("the wait ended by itself")
thread.join()
never.set()
pool.shutdown()
print(ended, again)
