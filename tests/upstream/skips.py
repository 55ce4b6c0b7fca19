"""The interpreter's own tests that are not asked of pyconc, each by its name and with the reason.

A name may have wildcards.  For what those of processes are after, see instead.py, and instead_pools.py for pools.
"""

import sys
from fnmatch import fnmatchcase

SKIPS: dict[str, str] = {
    "ProcessPool*.test_saturation": (
        "its tasks cannot be pickled: pyconc finds that in submit(), where the future gets the error, and starts no "
        "worker for them; instead.py counts workers"
    ),
    "ProcessPool*.test_processes_terminate": (
        "its tasks cannot be pickled: pyconc finds that in submit(), where the future gets the error, and starts no "
        "worker for them; instead.py counts workers"
    ),
    "ProcessPool*.test_cancel_futures": (
        "demands that some task counts as started though no worker has been; pyconc's are cancelled until a worker has "
        "taken them; instead.py waits for that"
    ),
    "ProcessPool*.test_gh105829_should_not_deadlock_if_wakeup_pipe_full": (
        "slows down the standard library's manager thread and fills its pipe; pyconc has neither, and would pass"
    ),
    "WithProcessesTestPoolWorkerErrors.test_unpickleable_result": (
        "its result is a lambda, which pyconc's workers can send; instead_pools.py has one that nobody can"
    ),
    "TestPoolNotLeakOnFailure.test_release_unused_processes": (
        "its processes are objects without a pid, which nobody can watch; instead_pools.py fails to start real ones"
    ),
}

if sys.version_info < (3, 13):
    SKIPS["ThreadPoolShutdownTest.test_cancel_futures_wait_false"] = (
        "whether the only task starts before it is cancelled is a race; the test says so itself since 3.13 (gh-116682)"
    )

if sys.version_info >= (3, 12):
    SKIPS["ProcessPool*.test_python_finalization_error"] = (
        "lets the second thread fail that the standard executor starts; pyconc's starts only one"
    )

if sys.version_info >= (3, 14):
    SKIPS["InterpreterPoolExecutorTest.test_import_interpreter_pool_executor"] = (
        "hides _interpreters before concurrent.futures is first imported; inject.py has imported it by then"
    )
    SKIPS["InterpreterPoolExecutorTest.test_idle_thread_reuse"] = (
        "submits as soon as it has a result; the standard class, all that runs there, lets a worker count as idle only "
        "after that, and on a busy machine starts another thread; ThreadPoolExecutorTest asks pyconc's"
    )
    SKIPS["ProcessPool*.test_failed_worker_replacement_breaks_pool"] = (
        "replaces a private function of the standard library that starts workers; instead.py replaces a public one"
    )
    SKIPS["ProcessPool*.test_gc_during_max_tasks_worker_exit_gh152967"] = (
        "demands that the tasks of a collected executor fail, as nobody can start a worker for them there; pyconc can, "
        "and they run: instead.py"
    )
    SKIPS["ProcessPool*.test_shutdown_no_wait_max_tasks_gh119592"] = (
        "demands in its second half that the tasks of a collected executor fail, as nobody can start a worker for them "
        "there; pyconc can, and they run; instead.py does both halves"
    )


def reason_to_skip(test_id: str) -> str | None:
    """Why the test is skipped, or None.  A name matches from its end, whatever package the tests live in."""
    return next((reason for name, reason in SKIPS.items() if fnmatchcase(test_id, "*." + name)), None)
