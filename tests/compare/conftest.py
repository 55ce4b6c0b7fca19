"""Everything in this folder runs twice, on the standard library and on pyconc."""

from collections.abc import Iterator

import pytest
from libraries import LIBRARIES, Library, Log


@pytest.fixture(params=LIBRARIES, ids=str)
def library(request: pytest.FixtureRequest) -> Library:
    return request.param


@pytest.fixture
def log() -> Iterator[Log]:
    """What the library logs during the test."""
    with Log() as log:
        yield log
