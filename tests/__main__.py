"""Runs the tests: `python tests`.

The interpreter that workers are cloned from runs a program up to its guard.  conftest.py has it take this one for that
of the tests, so that each worker finds imported what their modules import.
"""

import asyncio  # noqa: F401

import loops  # noqa: F401
import pytest
import support  # noqa: F401

if __name__ == "__main__":
    raise SystemExit(pytest.main())
