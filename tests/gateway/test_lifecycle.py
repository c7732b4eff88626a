"""Promises of the life of an agent, as a table and for every sequence of events."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.runtime.lifecycle import (
    LONGEST_PAUSE,
    QUIET_SECONDS,
    Became,
    Died,
    Event,
    Launch,
    Life,
    Pause,
    PauseOver,
    Phase,
    Start,
    Unusable,
    step,
)

NOW = 3
"""The generation of the table."""
EVENTS: dict[str, Event] = {
    "Start": Start(),
    "PauseOver": PauseOver(NOW),
    "Became": Became(NOW),
    "Unusable": Unusable(NOW, "why"),
    "Died": Died(NOW, "why", 0.0),
}
TABLE = {
    ("STOPPED", "Start"): Phase.STARTING,
    ("FAILED", "Start"): Phase.STARTING,
    ("BACKOFF", "Start"): Phase.STARTING,
    ("BACKOFF", "PauseOver"): Phase.STARTING,
    ("STARTING", "Became"): Phase.READY,
    ("STARTING", "Unusable"): Phase.FAILED,
    ("STARTING", "Died"): Phase.BACKOFF,
    ("READY", "Died"): Phase.BACKOFF,
}
"""Where an event leads an agent that has crashed before; all that is not here changes nothing."""

generations = st.integers(0, 6)
events = st.one_of(
    st.just(Start()),
    st.builds(PauseOver, generations),
    st.builds(Became, generations),
    st.builds(Unusable, generations, st.just("why")),
    st.builds(Died, generations, st.just("why"), st.floats(0, 200)),
)
histories = st.lists(events, max_size=40)


def live(history: list[Event]) -> list[tuple[Life, Event, Life, tuple[Launch | Pause, ...]]]:
    """Every step of a life."""
    life, steps = Life(), []
    for event in history:
        after, actions = step(life, event)
        steps.append((life, event, after, actions))
        life = after
    return steps


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("name", EVENTS)
def test_each_event_leads_where_the_table_says(phase: Phase, name: str) -> None:
    """Every pair of phase and event is decided, most of them as nothing."""
    life = Life(phase, NOW, crashes=1)
    after, actions = step(life, EVENTS[name])
    expected = TABLE.get((phase.name, name))
    if expected is None:
        assert (after, actions) == (life, ())
        return
    assert after.phase is expected
    match expected:
        case Phase.STARTING:
            assert (after.generation, actions) == (NOW + 1, (Launch(NOW + 1),))
        case Phase.BACKOFF:
            assert actions == (Pause(NOW, 0.5),)
        case _:
            assert actions == ()


def test_a_first_crash_starts_again_at_once() -> None:
    """Once is chance: there is no pause."""
    life, actions = step(Life(Phase.READY, NOW, worked=True), Died(NOW, "exit code 1", 1.0))
    assert (life.phase, life.crashes, actions) == (Phase.STARTING, 1, (Launch(NOW + 1),))
    assert life.worked


def test_a_worker_that_was_up_for_long_has_left_its_crashes_behind() -> None:
    """After a quiet time the next crash counts as the first."""
    crashed = Life(Phase.READY, NOW, crashes=9)
    assert step(crashed, Died(NOW, "why", QUIET_SECONDS + 1))[0].crashes == 1
    assert step(crashed, Died(NOW, "why", QUIET_SECONDS))[0].crashes == 10


def test_a_reason_stays_until_the_agent_is_ready() -> None:
    """Why it is not up can be read through all attempts, and goes when it is up."""
    life = step(Life(Phase.READY, NOW, crashes=1), Died(NOW, "killed by SIGKILL", 0.0))[0]
    life = step(life, PauseOver(NOW))[0]
    assert life.reason == "killed by SIGKILL"
    life = step(life, Became(NOW + 1))[0]
    assert (life.reason, life.worked) == ("", True)


def test_the_pause_grows_and_is_capped() -> None:
    """A crash loop is tried ever more rarely, but never given up, for years."""
    life, pauses = Life(Phase.STARTING, 1, crashes=1), []
    for _ in range(3000):
        life, actions = step(life, Died(life.generation, "why", 0.0))
        pauses += [action.seconds for action in actions if isinstance(action, Pause)]
        life, _ = step(life, PauseOver(life.generation))
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert len(pauses) == 3000


@given(histories)
def test_no_generation_is_launched_twice(history: list[Event]) -> None:
    """Each launch has a generation of its own, one above the last."""
    launched = [each.generation for *_, actions in live(history) for each in actions if isinstance(each, Launch)]
    assert launched == list(range(1, len(launched) + 1))


@given(histories)
def test_news_of_another_generation_changes_nothing(history: list[Event]) -> None:
    """What an older worker, or one that never was, tells is dropped."""
    for life, event, after, actions in live(history):
        if not isinstance(event, Start) and event.generation != life.generation:
            assert (after, actions) == (life, ())


@given(histories)
def test_there_is_never_a_launch_while_a_worker_runs(history: list[Event]) -> None:
    """A worker is launched only where there is none: none yet, or the last one ended."""
    for life, event, after, actions in live(history):
        if any(isinstance(each, Launch) for each in actions):
            assert after.phase is Phase.STARTING
            assert life.phase in (Phase.STOPPED, Phase.FAILED, Phase.BACKOFF) or isinstance(event, Died)


@given(histories)
def test_a_start_brings_every_agent_that_is_not_up_back(history: list[Event]) -> None:
    """No state is the end: whoever is down is launched by a Start, and whoever is up stays so."""
    life = live([*history, Start()])[-1][2]
    assert life.phase in (Phase.STARTING, Phase.READY)


@given(histories)
def test_what_was_ready_once_has_worked(history: list[Event]) -> None:
    """That an agent ever worked is not forgotten."""
    worked = False
    for *_, after, _ in live(history):
        worked = worked or after.phase is Phase.READY
        assert after.worked == worked


@given(histories, st.integers(0, 2000))
def test_a_pause_is_for_the_generation_that_ended_and_never_too_long(history: list[Event], crashes: int) -> None:
    """Whatever went before, a pause is above zero, within its cap, and of this generation."""
    life = live([*history, Start()])[-1][2]
    _, actions = step(replace(life, crashes=crashes), Died(life.generation, "why", 0.0))
    for each in actions:
        assert isinstance(each, Launch) or (each.generation == life.generation and 0 < each.seconds <= LONGEST_PAUSE)
    assert actions
