"""Objects that submit when they die, wherever that is: submit_from_del.py ROUNDS.

They die in the collector, which runs at nearly every allocation, so also inside submit(); in workers, which drop the
arguments of finished tasks; and with futures, whose results they are.
"""

import gc
import sys

import pyconc

rounds = int(sys.argv[1])
pool = pyconc.ThreadPoolExecutor(2)
futures = []


class Submits:
    def __del__(self):
        futures.append(pool.submit(pow, 2, 5))


def identity(argument):
    return argument


gc.set_threshold(1, 1, 1)
for number in range(rounds):
    in_cycle = Submits()
    in_cycle.itself = in_cycle
    del in_cycle
    pool.submit(id, Submits())  # dies in the worker
    pool.submit(identity, Submits())  # dies with its future, here or in the worker
    if number % 100 == 0:
        pyconc.wait(list(futures))
gc.set_threshold(700, 10, 10)
while len(futures) < 3 * rounds:
    gc.collect()  # It does nothing while a worker is collecting, so once is not enough.
    pyconc.wait(list(futures))
    pool.submit(int).result()
assert all(future.result() == 32 for future in list(futures))
pool.shutdown()
print(len(futures))
