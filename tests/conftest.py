"""Fixtures of all tests."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """One event loop for the session, so that fixtures may outlive a test."""
    return "asyncio"
