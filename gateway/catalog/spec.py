"""What is known of an agent before any of its code has run; plain data."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Hints:
    """`__gateway__` of a module, read from its source."""

    export: str = ""
    upstream: str = ""
    model: str = ""


@dataclass(frozen=True)
class AgentSpec:
    """One agent folder."""

    id: str
    """`namespace/name`"""
    folder: Path
    hints: Hints = field(default_factory=Hints)
    refused: str = ""
    """Why it is not even started; empty for an agent that can be."""

    @property
    def namespace(self) -> str:
        """The part before the slash."""
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        """The part after the slash."""
        return self.id.partition("/")[2]
