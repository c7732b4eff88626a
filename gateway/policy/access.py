"""Who may use which agent; pure."""

from collections.abc import Collection
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


def find(grant: Grant, model: str, ids: Collection[str]) -> str:
    """Return the agent that a model name means: its id in any letter case, or its bare name where only one has it.

    Raises:
        NotAllowed: for an id that the patterns do not take in, which does not tell whether it exists.
        NoSuchAgent: for one that they do.
    """
    id_ = model.lower()
    if "/" not in id_:
        named = [each for each in ids if each.partition("/")[2] == id_ and covers(grant, each)]
        if len(named) > 1:
            raise NoSuchAgent(f"{id_[:100]!r} could be {' or '.join(sorted(named))}")
        id_ = named[0] if named else f"default/{id_}"
    if not covers(grant, id_):
        raise NotAllowed(f"this key may not use {id_[:200]!r}")
    if id_ not in ids:
        raise NoSuchAgent(f"there is no agent {id_[:200]!r}; GET /v1/models lists those that this key may use")
    return id_
