"""Fixtures of the integration tests."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.process import Home
from tests.integration.upstream import ScriptedUpstream, scripted_upstream


@pytest.fixture(scope="module")
async def upstream(anyio_backend: str) -> AsyncIterator[ScriptedUpstream]:
    """A scripted upstream; a test begins with `upstream.script(...)`."""
    async with scripted_upstream() as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """An empty home."""
    return Home(tmp_path_factory.mktemp("home") / "home")
