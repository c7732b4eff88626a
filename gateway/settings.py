"""Every GATEWAY_* setting with its default and meaning; read once, at start, in the gateway."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gateway.errors import StartError

LEVELS = ("debug", "info", "warning", "error")
SWITCHES = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


@dataclass(frozen=True)
class Settings:
    """What the environment says; a field `x` is the variable GATEWAY_X."""

    home: Path = Path(".")
    """The folder with `agents/`, `tools/` and `policies/`."""
    state_dir: Path | None = None
    """Where the gateway keeps its own files; by default `.agent-gateway` in the home."""
    agent_discovery_path: Path | None = None
    """The folder of agent folders; by default `agents` in the home."""
    agent_exports: tuple[str, ...] = ("agent",)
    """Names under which a module may export its agent; the first that it has is taken."""
    agent_config: Path | None = None
    """The document of how agents run; by default `policies/agents.yaml` in the home."""
    upstream_config: Path | None = None
    """The document of upstreams; by default `policies/upstreams.yaml` in the home."""
    security_config: Path | None = None
    """The document of keys; by default `policies/security.yaml` in the home."""
    default_upstream: str = ""
    """The upstream of agents that name none; comes before `default` of the document."""
    default_model: str = ""
    """The model of agents that name none; comes before `model` of the default upstream."""
    sandbox: bool = True
    """Whether workers stand behind walls; off lets every agent do what the gateway's user can."""
    log_level: str = "info"
    """The least level that is logged: debug, info, warning or error."""
    prometheus_enabled: bool = True
    """Whether `GET /metrics/prometheus` is served."""
    max_body_mb: int = 16
    """The largest request body, in MiB."""

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.state_dir or self.home / ".agent-gateway"

    @property
    def agents(self) -> Path:
        """The folder of agent folders."""
        return self.agent_discovery_path or self.home / "agents"

    @property
    def agents_file(self) -> Path:
        """The document of how agents run."""
        return self.agent_config or self.home / "policies" / "agents.yaml"

    @property
    def upstreams_file(self) -> Path:
        """The document of upstreams."""
        return self.upstream_config or self.home / "policies" / "upstreams.yaml"

    @property
    def security_file(self) -> Path:
        """The document of keys."""
        return self.security_config or self.home / "policies" / "security.yaml"


def variable(name: str) -> str:
    """The environment variable of a field."""
    return f"GATEWAY_{name.upper()}"


def read(environ: Mapping[str, str], **given: object) -> Settings:
    """Return the settings of an environment; what the command line gave comes before it.

    Raises:
        StartError: on a value that cannot be meant.
    """
    values: dict[str, Any] = {}
    for each in fields(Settings):
        text = environ.get(variable(each.name), "").strip()
        if text:
            values[each.name] = _parse(each.name, each.type, text)
    values |= {name: value for name, value in given.items() if value is not None}
    for name in ("home", "state_dir", "agent_discovery_path", "agent_config", "upstream_config", "security_config"):
        if path := values.get(name, Path(".") if name == "home" else None):
            values[name] = _path(name, path)
    return Settings(**values)


def _path(name: str, text: str | Path) -> Path:
    try:
        return Path(text).expanduser().resolve()
    except (RuntimeError, OSError) as error:
        raise StartError(f"{variable(name)} is {str(text)!r}: {error}") from None


def _parse(name: str, kind: Any, text: str) -> object:
    if kind is bool:
        if text.lower() not in SWITCHES:
            raise StartError(f"{variable(name)} is {text!r}; it must be 1 or 0, on or off")
        return SWITCHES[text.lower()]
    if kind is int:
        if not text.isdecimal() or len(text) > 6 or int(text) == 0:
            raise StartError(f"{variable(name)} is {text[:50]!r}; it must be a whole number from 1 to 999999")
        return int(text)
    if kind == tuple[str, ...]:
        names = tuple(part.strip() for part in text.split(",") if part.strip())
        if not names:
            raise StartError(f"{variable(name)} is {text!r}; it must be names with commas between them")
        return names
    if name == "log_level":
        if text.lower() not in LEVELS:
            raise StartError(f"{variable(name)} is {text!r}; it must be one of {', '.join(LEVELS)}")
        return text.lower()
    return text
