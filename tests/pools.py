"""Executors for tests that stop what runs in them."""

import contextlib
import inspect

import pyconc


@contextlib.contextmanager
def pool_of(max_workers, **options):
    """An executor whose workers do not outlive a test that fails."""
    with pyconc.ProcessPoolExecutor(max_workers, **options) as pool:
        try:
            yield pool
        except BaseException:
            pool.kill_workers()
            raise


def with_pool(test):
    """Gives a test an executor with one worker as `pool`; a fixture's would be kept until after the test's end."""

    def run(**fixtures):
        with pool_of(1) as pool:
            test(pool, **fixtures)

    _, *others = inspect.signature(test).parameters.values()
    run.__name__ = test.__name__
    run.__signature__ = inspect.Signature(others)
    return run
