"""What went wrong where, for those who must act on it: one record a fault, counted when it comes again."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from gateway.observe.logs import logger

Stage = Literal["discovery", "import", "walls", "runtime", "upstream", "policy"]
Severity = Literal["error", "warning"]
LIMIT = 500
"""Records kept; the ones not seen for longest go first."""


@dataclass(frozen=True)
class Diagnostic:
    """One fault, as its author or an operator should read it."""

    stage: Stage
    message: str
    agent: str = ""
    """The agent's id; empty where it is about none."""
    severity: Severity = "error"
    path: str = ""
    """The file or folder, relative to the home."""
    remedy: str = ""
    traceback: str = ""
    first_seen: float = 0.0
    last_seen: float = 0.0
    count: int = 1

    def public(self) -> dict[str, Any]:
        """Return all fields, for an answer to an admin."""
        return asdict(self)


class Diagnostics:
    """The records of this gateway; a resolved one is dropped."""

    def __init__(self, counted: Callable[[str], None], clock: Callable[[], float] = time.time) -> None:
        self._counted = counted
        self._clock = clock
        self._records: OrderedDict[tuple[str, Stage, str, str], Diagnostic] = OrderedDict()

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(tuple(self._records.values()))

    def report(self, found: Diagnostic) -> None:
        """Keep a fault and log it; the same one again is counted."""
        now, key = self._clock(), (found.agent, found.stage, found.path, found.message)
        before = self._records.pop(key, None)
        first, count = (before.first_seen, before.count + 1) if before else (now, 1)
        self._records[key] = replace(found, first_seen=first, last_seen=now, count=count)
        if len(self._records) > LIMIT:
            self._records.popitem(last=False)
        self._counted(found.stage)
        log = logger().error if found.severity == "error" else logger().warning
        log(f"diagnostic.{found.stage}", agent=found.agent, path=found.path, reason=found.message, count=count)

    def resolve(self, agent: str, stage: Stage) -> None:
        """Drop the errors of an agent at a stage: it is right now. Warnings stay."""
        for key, found in list(self._records.items()):
            if key[:2] == (agent, stage) and found.severity == "error":
                del self._records[key]
