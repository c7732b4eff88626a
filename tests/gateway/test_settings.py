"""Promises of the settings, and that each of them is documented."""

from dataclasses import fields
from pathlib import Path

import pytest

from gateway.errors import StartError
from gateway.settings import Settings, read, variable

NAMES = [each.name for each in fields(Settings)]
DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


def short_id(value: object) -> str:
    """A value as the id of a test."""
    return repr(value)[:40]


def test_an_empty_environment_gives_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any variable, all is found under the current folder."""
    monkeypatch.chdir(tmp_path)
    settings = read({})
    assert settings == Settings(home=tmp_path)
    assert [settings.state, settings.agents, settings.upstreams_file, settings.security_file] == [
        tmp_path / ".agent-gateway",
        tmp_path / "agents",
        tmp_path / "policies" / "upstreams.yaml",
        tmp_path / "policies" / "security.yaml",
    ]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("home", "/srv/home", Path("/srv/home")),
        ("home", "/srv/x/../home", Path("/srv/home")),
        ("state_dir", "/srv/state", Path("/srv/state")),
        ("state_dir", "~/state", Path("~/state").expanduser()),
        ("agent_discovery_path", "/srv/agents", Path("/srv/agents")),
        ("agent_exports", "agent", ("agent",)),
        ("agent_exports", " bot , main,, ", ("bot", "main")),
        ("upstream_config", "/srv/u.yaml", Path("/srv/u.yaml")),
        ("security_config", "/srv/s.yaml", Path("/srv/s.yaml")),
        ("default_upstream", " ollama ", "ollama"),
        ("default_model", "gpt-5-mini", "gpt-5-mini"),
        ("log_level", "DEBUG", "debug"),
        ("log_level", "error", "error"),
        ("prometheus_enabled", "0", False),
        ("prometheus_enabled", "Off", False),
        ("prometheus_enabled", "false", False),
        ("prometheus_enabled", "no", False),
        ("prometheus_enabled", "yes", True),
        ("prometheus_enabled", "TRUE", True),
        ("max_body_mb", "4", 4),
    ],
)
def test_a_variable_sets_its_field(name: str, text: str, value: object) -> None:
    """GATEWAY_X is the field x, read as what it is."""
    assert getattr(read({variable(name): text}), name) == value


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_variable_is_as_if_not_set(name: str) -> None:
    """A variable of blanks, as compose files leave them, gives the default."""
    assert read({variable(name): "  "}) == read({})


@pytest.mark.parametrize(
    ("name", "text", "remedy"),
    [
        ("log_level", "loud", "must be one of debug, info, warning, error"),
        ("prometheus_enabled", "maybe", "must be 1 or 0"),
        ("prometheus_enabled", "2", "must be 1 or 0"),
        ("max_body_mb", "0", "must be a whole number from 1 to"),
        ("max_body_mb", "-1", "must be a whole number from 1 to"),
        ("max_body_mb", "1.5", "must be a whole number from 1 to"),
        ("max_body_mb", "\u00b2", "must be a whole number from 1 to"),
        ("max_body_mb", "9" * 5000, ""),
        ("agent_exports", " , ", ""),
        ("home", "~no_such_user_here/home", ""),
    ],
    ids=short_id,
)
def test_a_value_that_cannot_be_meant_is_told_with_what_would_be_right(name: str, text: str, remedy: str) -> None:
    """The message names the variable and the remedy."""
    with pytest.raises(StartError, match=variable(name)) as failure:
        read({variable(name): text})
    assert remedy in failure.value.message


def test_the_command_line_comes_before_the_environment() -> None:
    """What was given wins, and what was not given leaves the variable alone."""
    settings = read({"GATEWAY_HOME": "/a", "GATEWAY_STATE_DIR": "/s"}, home=Path("/b"), state_dir=None)
    assert (settings.home, settings.state_dir) == (Path("/b"), Path("/s"))


def test_other_variables_are_none_of_ours() -> None:
    """The environment may hold anything else."""
    assert read({"HOME": "/x", "GATEWAY_UNKNOWN": "1", "home": "/y"}) == read({})


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_documented(name: str) -> None:
    """Each variable has one row in the table of docs/settings.md."""
    rows = [
        line for line in DOCUMENT.read_text().splitlines() if line.startswith("|") and f"`{variable(name)}`" in line
    ]
    assert len(rows) == 1
