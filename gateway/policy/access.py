"""Who may use which agent; pure."""

from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase

from gateway.errors import NoSuchAgent, NotAllowed


@dataclass(frozen=True)
class Grant:
    """What one key opens. The key itself is not in it."""

    name: str
    agents: tuple[str, ...] = ()
    """Globs over ids; none means none."""
    deny: tuple[str, ...] = ()
    admin: bool = False
    expires: date | None = None


def covers(grant: Grant, agent: str) -> bool:
    """Whether a grant's patterns take in an id, be there such an agent or not."""
    return any(fnmatchcase(agent, each) for each in grant.agents) and not any(
        fnmatchcase(agent, each) for each in grant.deny
    )


def check(grant: Grant, agent: str, exists: bool) -> None:
    """Say no where a grant does not open an agent.

    Raises:
        NotAllowed: for an id that the patterns do not take in, which does not tell whether it exists.
        NoSuchAgent: for one that they do.
    """
    if not covers(grant, agent):
        raise NotAllowed(f"this key may not use {agent!r}")
    if not exists:
        raise NoSuchAgent(f"there is no agent {agent!r}; GET /v1/models lists those that this key may use")
