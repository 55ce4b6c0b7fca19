"""Everything in this folder runs twice, on the standard library and on pyconc.

With on_cluster.py it is a cluster's executor that they run on.  Where only pyconc is built in another way, under a
sanitizer or with assertions, the oracle is not asked again.
"""

from collections.abc import Iterator

import pytest
from libraries import LIBRARIES, STANDARD, Library, Log
from support import DEBUG_BUILD, SANITIZED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not (SANITIZED or DEBUG_BUILD):
        return
    for item in items:
        for parameter in item.callspec.params.values() if hasattr(item, "callspec") else ():
            if parameter is STANDARD or (isinstance(parameter, tuple) and STANDARD in parameter):
                item.add_marker(pytest.mark.skip(reason="the oracle has said so on an ordinary build"))


@pytest.fixture(params=LIBRARIES, ids=str)
def library(request: pytest.FixtureRequest) -> Library:
    return request.param


@pytest.fixture
def log() -> Iterator[Log]:
    """What the library logs during the test."""
    with Log() as log:
        yield log
