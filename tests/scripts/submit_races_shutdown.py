"""Threads submit while another shuts the pool down, round after round: submit_races_shutdown.py ROUNDS HOW.

Each future that submit() returned must be done once every submitter has stopped and shutdown() has returned, and each
submit() that was refused must have raised; nothing else may happen.
"""

import gc
import sys
import threading

import pyconc

rounds, how = int(sys.argv[1]), sys.argv[2]
SUBMITTERS = 3
barrier = threading.Barrier(SUBMITTERS + 1)
accepted = [0] * SUBMITTERS
futures = [[] for _ in range(SUBMITTERS)]
pool = None


def submit(number):
    for _ in range(rounds):
        barrier.wait()
        executor, mine = pool, futures[number]
        try:
            while True:
                mine.append(executor.submit(pow, 2, 5))
                if len(mine) > 1000:
                    mine.pop(0).cancel()
        except RuntimeError as error:
            if str(error) != "cannot schedule new futures after shutdown":
                raise
        del executor
        accepted[number] += len(mine)
        barrier.wait()


shutdowns = {
    "wait": lambda: pool.shutdown(),
    "no wait": lambda: pool.shutdown(wait=False),
    "cancel": lambda: pool.shutdown(cancel_futures=True),
    "twice": lambda: (pool.shutdown(wait=False), pool.shutdown(cancel_futures=True)),
}
sys.setswitchinterval(1e-5)
threads = [threading.Thread(target=submit, args=(number,)) for number in range(SUBMITTERS)]
for thread in threads:
    thread.start()
for round in range(rounds):
    pool = pyconc.ThreadPoolExecutor(2)
    barrier.wait()
    if round % 2:
        while not any(futures):  # half of them before the first task, if it comes to that
            pass
    shutdowns[how]()
    barrier.wait()
    if how != "no wait":
        pool.shutdown()
    for mine in futures:
        for future in mine:
            assert future.cancelled() or future.result() == 32
        mine.clear()
    pool.shutdown()
    assert not any(thread.is_alive() for thread in pool._threads)
    assert pool._work_queue.qsize() == 0
for thread in threads:
    thread.join()
gc.collect()
assert all(accepted)
print(rounds)
