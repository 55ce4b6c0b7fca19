"""Ends with work in the queue, in one of many ways: exit_with_work.py WAY.  The work must be finished all the same.

The first task blocks the only worker until the interpreter has begun to exit, so the others are certainly queued then.
"""

import atexit
import concurrent.futures.thread
import os
import sys
import threading
import time

import pyconc

way = sys.argv[1]
pool = pyconc.ThreadPoolExecutor(1)


def report(what):
    os.write(1, f"{what}\n".encode())  # in one piece, whoever else writes


def wait_for_exit():
    while not concurrent.futures.thread._shutdown:  # which has no event to wait for
        time.sleep(0.001)
    report("task 0")


def submit_in_vain(who):
    try:
        pool.submit(report, f"{who} accepted")
    except RuntimeError as error:
        report(f"{who} {error}")


def ways():
    if way == "end":
        pass
    elif way == "dropped":
        global pool
        del pool
    elif way == "shutdown":
        pool.shutdown(wait=False)
    elif way == "cycle":
        pool.itself = pool
    elif way == "exit":
        sys.exit(3)
    elif way == "exception":
        raise LookupError("at the end")
    elif way == "atexit":
        atexit.register(submit_in_vain, "atexit:")
    elif way == "cancelled":
        for future in futures[1:]:
            future.cancel()
    elif way == "waiting":
        # Somebody waits for a future meanwhile, in a daemon thread that is never joined.
        threading.Thread(target=futures[-1].result, daemon=True).start()
    elif way == "submitting":
        futures.append(pool.submit(submit_in_vain, "task:"))
    elif way == "callbacks":
        futures[-1].add_done_callback(lambda future: submit_in_vain("callback:"))
    elif way == "initializer":
        # A thread that the last submit has only just started.
        other = pyconc.ThreadPoolExecutor(1, initializer=wait_for_exit)  # reports a second "task 0"
        other.submit(report, "after the initializer")
    else:
        sys.exit(f"unknown way {way}")


futures = [pool.submit(wait_for_exit), *(pool.submit(report, f"task {number}") for number in range(1, 4))]
ways()
