"""Fixtures of the attacks, and the table of what was held."""

from collections.abc import AsyncIterator

import pytest
from rich.console import Console
from rich.table import Table

from tests.attacks import rows
from tests.integration.upstream import ScriptedUpstream, scripted_upstream


@pytest.fixture(scope="module")
async def upstream(anyio_backend: str) -> AsyncIterator[ScriptedUpstream]:
    """A scripted upstream."""
    async with scripted_upstream() as server:
        yield server


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was held on which host, and what is known to be open there."""
    tables = [table for table in (_outcomes(), _floods()) if table]
    if tables:
        console = Console(file=terminalreporter._tw._file, width=max(terminalreporter._tw.fullwidth, 100))
        for table in tables:
            console.print(table)
        for reason in rows.reasons():
            console.print(reason, highlight=False)


def _outcomes() -> Table | None:
    if not rows.OUTCOMES:
        return None
    table = Table("attack", *rows.OUTCOMES, title="Attacks in a worker, by host")
    styles = {"held": "green", "open": "yellow", "error": "red"}
    for name in dict.fromkeys(name for outcomes in rows.OUTCOMES.values() for name in outcomes):
        words = [outcomes.get(name, "").partition(":")[0] for outcomes in rows.OUTCOMES.values()]
        table.add_row(name, *(f"[{styles[each]}]{each}[/]" if each in styles else each for each in words))
    return table


def _floods() -> Table | None:
    if not rows.FLOODS:
        return None
    table = Table("flood", "gateway grew", "slowest gap", "messages", "end of the worker", title="Floods of the wire")
    for name, row in rows.FLOODS.items():
        table.add_row(name, *row)
    return table
