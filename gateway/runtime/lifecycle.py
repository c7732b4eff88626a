"""The life of one agent as a pure function: a state and an event in, the next state and what to do out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

QUIET_SECONDS = 60.0
"""A worker that was up for so long has left its crashes behind."""
LONGEST_PAUSE = 60.0


class Phase(StrEnum):
    """Where an agent is."""

    STARTING = "STARTING"
    READY = "READY"
    BACKOFF = "BACKOFF"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


@dataclass(frozen=True)
class Life:
    """The state of one agent."""

    phase: Phase = Phase.STOPPED
    generation: int = 0
    """Counts the worker processes; news from an older one is dropped."""
    crashes: int = 0
    """Ends in a row that nobody asked for."""
    worked: bool = False
    """Whether it was ever ready."""
    reason: str = ""
    """Why it is not ready."""


@dataclass(frozen=True)
class Start:
    """Somebody wants the agent to run."""


@dataclass(frozen=True)
class PauseOver:
    """The pause after a crash is over."""

    generation: int


@dataclass(frozen=True)
class Became:
    """The worker is ready."""

    generation: int


@dataclass(frozen=True)
class Unusable:
    """The agent cannot be imported; trying again would end the same way."""

    generation: int
    reason: str


@dataclass(frozen=True)
class Died:
    """The worker ended, and nobody asked for it."""

    generation: int
    reason: str
    uptime: float
    """Seconds that it was ready."""


Event = Start | PauseOver | Became | Unusable | Died


@dataclass(frozen=True)
class Launch:
    """Start a worker of this generation."""

    generation: int


@dataclass(frozen=True)
class Pause:
    """Say PauseOver after so many seconds."""

    generation: int
    seconds: float


Action = Launch | Pause
Step = tuple[Life, tuple[Action, ...]]


def step(life: Life, event: Event) -> Step:
    """Return what an event makes of an agent. What the table does not have changes nothing."""
    if not isinstance(event, Start) and event.generation != life.generation:
        return life, ()
    change = TABLE.get((life.phase, type(event)))
    return change(life, event) if change else (life, ())


def _launch(life: Life, _: Event) -> Step:
    generation = life.generation + 1
    return replace(life, phase=Phase.STARTING, generation=generation), (Launch(generation),)


def _became(life: Life, _: Event) -> Step:
    return replace(life, phase=Phase.READY, worked=True, reason=""), ()


def _fail(life: Life, event: Event) -> Step:
    assert isinstance(event, Unusable)  # noqa: S101 - the table pairs them
    return replace(life, phase=Phase.FAILED, reason=event.reason), ()


def _crash(life: Life, event: Event) -> Step:
    assert isinstance(event, Died)  # noqa: S101 - the table pairs them
    crashes = 1 if event.uptime > QUIET_SECONDS else life.crashes + 1
    crashed = replace(life, crashes=crashes, reason=event.reason)
    if crashes == 1:
        return _launch(crashed, event)  # once is chance: whoever asks next only waits for the start
    seconds = min(0.5 * 2.0 ** min(crashes - 2, 10), LONGEST_PAUSE)
    return replace(crashed, phase=Phase.BACKOFF), (Pause(life.generation, seconds),)


TABLE: dict[tuple[Phase, type[Event]], Callable[[Life, Event], Step]] = {
    (Phase.STOPPED, Start): _launch,
    (Phase.FAILED, Start): _launch,
    (Phase.BACKOFF, Start): _launch,
    (Phase.STARTING, Became): _became,
    (Phase.STARTING, Unusable): _fail,
    (Phase.STARTING, Died): _crash,
    (Phase.READY, Died): _crash,
    (Phase.BACKOFF, PauseOver): _launch,
}
