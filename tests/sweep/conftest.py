"""A real PostgreSQL for the tests of sweeps that several commands share."""

from collections.abc import Iterator

import pytest
from postgres_server import Server, running_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A server of its own for these tests; it runs."""
    with running_server() as server:
        yield server
