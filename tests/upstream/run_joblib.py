"""Runs joblib's own tests of Parallel, out of its wheel, with pyconc's backend in the place of its own, loky."""

import os
import sys

import joblib.parallel
import pytest

import pyconc.joblib

# What differs on purpose, each with its reason.
DIFFERENT = {
    # They ask for the class LokyBackend by name.
    "test_backend_context_manager": "the class has another name",
    "test_backend_hinting_and_constraints": "the class has another name",
    "test_nested_parallelism_limit": "the class has another name",
    # They expect what loky cannot do.
    "test_nested_parallel_warnings": "processes work below threads and in daemonic processes",
    "test_multiple_generator_call_separated_gc": "a generator that is dropped stops its own calls, and no others",
    "test_error_capture": "an exception in a call costs no worker that does something else",
    # Others.
    "test_parallel_pickling": "what __reduce__ raises is raised as it is, no PicklingError in its place",
    "test_nested_loop[back_compat_backend-pyconc]": "a worker of loky has not imported pyconc.joblib",
    "memmap": "arrays travel in shared memory, and no memmap is made of them",
}


class InLokysPlace:
    @staticmethod
    def pytest_collection_modifyitems(config, items):
        """Keep the tests of this backend, and of what is no backend's; say which are left out."""
        wanted, left_out = [], []
        for item in items:
            is_ours = not any(other in item.name for other in ("threading", "multiprocessing", "sequential"))
            differs = any(item.name.startswith(name) or (name == "memmap" and name in item.name) for name in DIFFERENT)
            (wanted if is_ours and not differs else left_out).append(item)
        config.hook.pytest_deselected(items=left_out)
        items[:] = wanted


if __name__ == "__main__":
    joblib.parallel.BACKENDS["loky"] = pyconc.joblib.PyconcBackend
    options = ["-q", "-c", os.devnull, "-p", "no:cacheprovider", "-W", "ignore"]
    sys.exit(pytest.main([*options, "--pyargs", "joblib.test.test_parallel", *sys.argv[1:]], plugins=[InLokysPlace()]))
