"""A signal handler that submits, wherever the main thread is: submit_from_signal_handler.py WHERE ROUNDS.

WHERE is what the main thread does meanwhile: submit to a running pool, submit the first tasks of ever new pools (which
start threads), wait for results, or wait for a set of futures.  Every future, of the handler too, must get its result.
"""

import signal
import sys
import threading

import pyconc

where, rounds = sys.argv[1], int(sys.argv[2])
main = threading.main_thread()
pool = pyconc.ThreadPoolExecutor(2)
futures = []
handled = threading.Semaphore(0)


def handle(signum, frame):
    futures.append(pool.submit(pow, 2, len(futures) % 64))
    handled.release()


def send():
    for _ in range(rounds):
        signal.pthread_kill(main.ident, signal.SIGUSR1)
        handled.acquire()


def main_submits():
    pool.submit(int).result()


def main_submits_bursts():
    for future in [pool.submit(int) for _ in range(20)]:
        future.result()


def main_makes_pools():
    global pool
    previous, pool = pool, pyconc.ThreadPoolExecutor(4)
    for _ in range(4):
        pool.submit(int)
    previous.shutdown()


def main_waits():
    pyconc.wait([pool.submit(int) for _ in range(20)])


signal.signal(signal.SIGUSR1, handle)
thread = threading.Thread(target=send)
thread.start()
while thread.is_alive():
    globals()[f"main_{where}"]()
thread.join()
assert [future.result() for future in futures] == [2 ** (number % 64) for number in range(len(futures))]
pool.shutdown()
print(len(futures))
