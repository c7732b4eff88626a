"""Promises of how the end of a process is told, and of what a worker finds around it."""

from pathlib import Path

import pytest

from gateway.runtime.launcher import environment
from gateway.runtime.process import describe


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "exit code 0"),
        (1, "exit code 1"),
        (128, "exit code 128"),
        (-9, "killed by SIGKILL"),
        (137, "killed by SIGKILL"),
        (139, "killed by SIGSEGV"),
        (-15, "killed by SIGTERM"),
        (255, "exit code 255"),
        (-200, "exit code -200"),
    ],
)
def test_an_exit_status_is_told_in_words(code: int, text: str) -> None:
    """Signals have their names, whether the process had them or its guard passed them on."""
    assert describe(code) == text


def test_a_worker_finds_nothing_of_the_gateways_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of ours, secret or not, is handed on."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("GATEWAY_HOME", "/srv/home")
    found = environment(str(tmp_path), {"UNITS": "metric"})
    assert "sk-secret" not in found.values()
    assert not [name for name in found if name.startswith("GATEWAY_")]
    assert found["UNITS"] == "metric"
    assert (found["HOME"], found["TMPDIR"]) == (str(tmp_path), str(tmp_path))
