"""The way in for programs that use loky: `from pyconc.loky import get_reusable_executor`.

One executor of worker processes that all parts of a program share, made when it is first asked for.
"""

import os
import threading

from pyconc.process_pool import ProcessPoolExecutor, TaskUnpicklable, WorkerDied, default_workers

__all__ = ["ProcessPoolExecutor", "ReusableExecutor", "TaskUnpicklable", "WorkerDied", "get_reusable_executor"]


class ReusableExecutor(ProcessPoolExecutor):
    """A ProcessPoolExecutor that others may use, too; get_reusable_executor() returns it.

    Leaving a `with` block waits for nothing and shuts nothing down.
    """

    _shared = None

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        return False

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc_info):
        return False

    def shutdown(self, wait=True, *, cancel_futures=False, timeout=None, kill_workers=False):
        """Do what ProcessPoolExecutor.shutdown() does; with kill_workers=True kill the workers first.

        The next get_reusable_executor() makes another executor.
        """
        if self._shared is not None:
            self._shared.forget(self)
        if kill_workers:
            self.kill_workers()
        super().shutdown(wait, cancel_futures=cancel_futures, timeout=timeout)

    def terminate(self, kill_workers=True):
        """End the executor; loky has this method."""
        self.shutdown(kill_workers=kill_workers)


class _SetUp:
    """The initializer of the workers: the environment first, then the program's own."""

    def __init__(self, env, initializer, initargs):
        self._env = env
        self._initializer = initializer
        self._initargs = initargs

    def __call__(self):
        os.environ.update(self._env)
        if self._initializer is not None:
            self._initializer(*self._initargs)


class Shared:
    """An executor that is kept between its callers, until one asks for another kind."""

    def __init__(self):
        self._lock = threading.RLock()  # a finalizer may ask, too
        # Both with the lock.
        self._executor = None
        self._made_with = None

    def get(self, max_workers, *, context=None, initializer=None, initargs=(), env=None, reuse="auto", kill=False):
        """Return the executor, and whether it was there already."""
        wanted = context, initializer, initargs, env
        with self._lock:
            former = self._executor
            if former is not None and reuse is not False and not _has_ended(former):
                if max_workers is None and reuse is True:
                    max_workers = former._max_workers
                if former._max_workers == max_workers and (reuse is True or self._made_with == wanted):
                    return former, True
            if env or initializer is not None:
                initializer = _SetUp(env or {}, initializer, initargs)
            executor = ReusableExecutor(max_workers, context, initializer)
            executor._shared = self
            self._executor, self._made_with = executor, wanted
        if former is not None:
            former.shutdown(wait=False, kill_workers=kill)  # what it has is done by its workers
        return executor, False

    def forget(self, executor):
        """Keep an executor no longer."""
        with self._lock:
            if self._executor is executor:
                self._executor = self._made_with = None

    def close(self):
        """End the executor, if there is one, and what it runs."""
        executor = self._executor
        if executor is not None:
            executor.shutdown(kill_workers=True)

    def after_fork(self):
        """In the child of a fork there is none yet."""
        self.__init__()


def _has_ended(executor):
    return executor._broken or executor._shutdown_thread


_shared = Shared()
os.register_at_fork(after_in_child=_shared.after_fork)


def get_reusable_executor(
    max_workers=None,
    context=None,
    timeout=10,
    kill_workers=False,
    reuse="auto",
    job_reducers=None,
    result_reducers=None,
    initializer=None,
    initargs=(),
    env=None,
):
    """Return the program's shared executor of processes, as loky's function of this name does.

    It is made when it is first asked for, and again when it has been shut down, or when other arguments are given: the
    one before then ends what it has, and takes nothing more.

    max_workers: how many processes; by default one for each CPU that the program may use. context: a multiprocessing
    context or the name of a start method, as ProcessPoolExecutor's mp_context. kill_workers: kill the workers of the
    executor that is replaced. reuse: "auto", or True: take the one that is there although it was made with other
    arguments than max_workers, or False: make another. initializer, initargs: called in each worker. env: a dict of
    environment variables for the workers, set before the initializer is called; libraries that a worker has from the
    program, as it is forked, have read theirs already. timeout: accepted, as loky's; idle workers stay, since they cost
    no CPU time.

    Raises ValueError for fewer than one worker, and where job_reducers or result_reducers are given: register those
    with multiprocessing.reduction.ForkingPickler, which pyconc asks. Any thread may call it. The child of a fork makes
    an executor of its own.

        >>> from pyconc.loky import get_reusable_executor
        >>> executor = get_reusable_executor(max_workers=2)
        >>> executor.submit(pow, 2, 10).result()
        1024
        >>> get_reusable_executor(max_workers=2) is executor
        True
        >>> executor.shutdown()
    """
    if job_reducers or result_reducers:
        raise ValueError("job_reducers and result_reducers: register them with ForkingPickler instead")
    if max_workers is None and reuse is not True:
        max_workers = default_workers()
    if isinstance(context, str):
        from multiprocessing import get_context

        context = None if context == "loky" else get_context(context)
    executor, _ = _shared.get(
        max_workers,
        context=context,
        initializer=initializer,
        initargs=initargs,
        env=env,
        reuse=reuse,
        kill=kill_workers,
    )
    return executor
