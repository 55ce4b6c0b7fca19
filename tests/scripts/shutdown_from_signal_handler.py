"""A signal handler that shuts the pool down while the main thread submits, as a SIGTERM handler would.

shutdown_from_signal_handler.py ROUNDS WAIT CANCEL: each round has a new pool.  Every future must end.
"""

import signal
import sys
import threading

import pyconc

rounds, wait, cancel = int(sys.argv[1]), sys.argv[2] == "wait", sys.argv[3] == "cancel"
main = threading.main_thread()
ready, finished = threading.Semaphore(0), threading.Semaphore(0)


def handle(signum, frame):
    pool.shutdown(wait=wait, cancel_futures=cancel)


def send():
    for _ in range(rounds):
        ready.acquire()
        signal.pthread_kill(main.ident, signal.SIGTERM)
        finished.acquire()


sys.setswitchinterval(1e-4)  # or every round would submit for 5 ms before the sender's turn comes
signal.signal(signal.SIGTERM, handle)
thread = threading.Thread(target=send)
thread.start()
ended = 0
for _ in range(rounds):
    pool = pyconc.ThreadPoolExecutor(2)
    futures = []
    ready.release()
    try:
        while True:
            futures.append(pool.submit(int))
    except RuntimeError as error:
        if str(error) != "cannot schedule new futures after shutdown":
            raise
    pool.shutdown()
    for future in futures:
        assert future.done()
        assert future.cancelled() if future.cancelled() and cancel else future.result() == 0
    ended += 1
    finished.release()
thread.join()
print(ended)
