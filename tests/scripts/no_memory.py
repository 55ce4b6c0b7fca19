"""Fails one allocation after the other inside an operation: no_memory.py OPERATION.

The operation must raise or succeed, never crash or hang, and everything must work afterwards.
"""

import _testcapi
import sys
import threading

import pyconc

pool = pyconc.ThreadPoolExecutor(1)
error = ValueError()
done = pyconc.Future()
done.set_result(1)
futures = []


def finish():
    future = pyconc.Future()
    future.add_done_callback(futures.append)
    future.extra = 1
    future.set_running_or_notify_cancel()
    future.set_result([])
    future.result()
    future._get_snapshot()


def fail():
    future = pyconc.Future()
    future.set_exception(error)
    try:
        future.result()
    except ValueError:
        pass
    repr(future)


def cancel():
    future = pyconc.Future()
    future.add_done_callback(futures.append)
    future.cancel()
    future.set_running_or_notify_cancel()
    try:
        future.result()
    except pyconc.CancelledError:
        pass


def private():
    future = pyconc.Future()
    with future._condition:
        future._waiters.append(1)
        future._waiters.clear()
    future._done_callbacks.append(futures.append)
    future._state = "FINISHED"
    future._invoke_callbacks()


def wait():
    pyconc.wait([done, pyconc.Future()], timeout=0)


def as_completed():
    # Not left by close(): without memory it is a SystemError on 3.12, for any generator with a `finally`.
    try:
        list(pyconc.as_completed([done, pyconc.Future()], timeout=0))
    except pyconc.TimeoutError:
        pass


def submit():
    futures.append(pool.submit(pow, 2, 5))
    futures.append(pool.submit(int, "10", base=2))


def submit_and_cancel():
    pool.submit(int).cancel()


operation = globals()[sys.argv[1]]
failed = succeeded = 0
while succeeded < 50:
    # The worker stands at a gate, so that the allocation that fails is one of the operation's.
    started, gate = threading.Event(), threading.Event()
    at_gate = pool.submit(lambda started=started, gate=gate: started.set() or gate.wait())
    started.wait()
    try:
        _testcapi.set_nomemory(failed + succeeded, failed + succeeded + 1)
        try:
            operation()
        finally:
            _testcapi.remove_mem_hooks()
    except (MemoryError, RuntimeError) as exception:
        if isinstance(exception, RuntimeError) and "allocate lock" not in str(exception):
            raise
        failed += 1
    else:
        succeeded += 1
    gate.set()
    assert at_gate.result()
    assert all(future.done() or future.result() in (32, 2) for future in futures)
    futures.clear()
    assert pool.submit(pow, 2, 3).result() == 8
pool.shutdown()
print(failed)
