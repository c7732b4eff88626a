"""What the tests of this run have found, for the tables at its end."""

from collections.abc import Iterator

OUTCOMES: dict[str, dict[str, str]] = {}
"""By kind of host and attempt."""
KNOWN: dict[str, dict[str, str]] = {}
"""The reasons for what stands open, by kind of host and attempt."""
FLOODS: dict[str, tuple[str, str, str, str]] = {}
"""By kind of message: growth of the gateway, the slowest gap of another stream, how many, and how it ended."""


def note(kind: str, outcomes: dict[str, str], known: dict[str, str]) -> None:
    """Keep outcomes for the table; one that is open in any round is open."""
    into = OUTCOMES.setdefault(kind, {})
    for name, text in outcomes.items():
        if not into.get(name, "").startswith("open"):
            into[name] = text
    KNOWN.setdefault(kind, {}).update(known)


def reasons() -> Iterator[str]:
    """Yield each reason for something open, with where it is."""
    where: dict[tuple[str, str], list[str]] = {}
    for kind, known in KNOWN.items():
        for name, reason in known.items():
            if OUTCOMES[kind].get(name, "").startswith("open"):
                where.setdefault((name, reason), []).append(kind)
    for (name, reason), kinds in where.items():
        yield f"open: {name}: {reason} ({'; '.join(kinds)})"
