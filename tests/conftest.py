"""Fixtures of all tests."""

import os

import pytest
from hypothesis import settings

# The same examples at every run, so that a test which passed goes on passing; `make test-all` looks for new ones.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("seeking", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """One event loop for the session, so that fixtures may outlive a test."""
    return "asyncio"
