"""Runs scikit-learn's own tests of what it does in parallel, out of its wheel, with pyconc's backend as joblib's."""

import os
import sys

import joblib
import pytest

import pyconc.joblib

# Of these, what concerns Parallel() and searches, which have two workers here.
TESTS = ["sklearn.utils.tests.test_parallel", "sklearn.model_selection.tests.test_search"]
IN_PARALLEL = "parallel or n_jobs or grid_search or random_search or search_cv or thread or config"
# They expect n_jobs=1, and fail with two workers of loky's as well: what a worker prints and warns of, and a generator
# as an argument.
ALONE = ["delayed_warnings", "search_cv_verbose_3", "cv_splits_consistency"]


class CountBatches:
    """How many batches came to pyconc's workers: were it none, nothing would have been tried."""

    count = 0

    @classmethod
    def pytest_sessionfinish(cls, session):
        if session.exitstatus == 0 and cls.count < 100:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\n{cls.count} batches in workers of pyconc")


def counting(submit):
    def submit_and_count(self, func, callback=None):
        CountBatches.count += 1
        return submit(self, func, callback)

    return submit_and_count


if __name__ == "__main__":
    pyconc.joblib.PyconcBackend.submit = counting(pyconc.joblib.PyconcBackend.submit)
    options = [
        "-q",
        "-c",
        os.devnull,
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore",
        "-k",
        f"({IN_PARALLEL}) and not ({' or '.join(ALONE)})",
    ]
    with joblib.parallel_config(backend="pyconc", n_jobs=2):
        sys.exit(pytest.main([*options, "--pyargs", *TESTS, *sys.argv[1:]], plugins=[CountBatches()]))
