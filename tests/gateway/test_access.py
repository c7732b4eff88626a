"""Promises of who may use which agent."""

import re
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import NoSuchAgent, NotAllowed
from gateway.policy.access import Grant, covers, find

ids = st.text("ab/-.", min_size=1, max_size=6)
globs = st.lists(st.text("ab/-.*?[]!", min_size=1, max_size=5), max_size=3).map(tuple)


@given(globs, globs, ids)
def test_a_grant_covers_what_one_glob_takes_in_and_no_denial_does(
    agents: tuple[str, ...], deny: tuple[str, ...], agent: str
) -> None:
    """Globs are those of fnmatch, case and all, and deny comes before allow."""
    allowed = any(fnmatchcase(agent, each) for each in agents)
    denied = any(fnmatchcase(agent, each) for each in deny)
    assert covers(Grant("k", agents, deny), agent) == (allowed and not denied)


@given(ids)
def test_a_grant_without_agents_covers_none(agent: str) -> None:
    """Absent means none, for an admin too."""
    assert not covers(Grant("k"), agent)
    assert not covers(Grant("k", admin=True), agent)


@pytest.mark.parametrize(
    ("agents", "deny", "agent", "covered"),
    [
        (["*"], [], "default/weather", True),
        (["default/*"], [], "default/weather", True),
        (["default/*"], [], "labs/planner", False),
        (["labs/*planner*"], [], "labs/my-planner-2", True),
        (["labs/*"], ["labs/secret*"], "labs/secret-plan", False),
        (["*"], ["*"], "default/weather", False),
        (["Default/*"], [], "default/weather", False),
        (["default"], [], "default/weather", False),
    ],
)
def test_globs_of_the_design(agents: list[str], deny: list[str], agent: str, covered: bool) -> None:
    """The globs that operators write do what they look like."""
    assert covers(Grant("k", tuple(agents), tuple(deny)), agent) is covered


IDS = ("default/weather", "default/x", "labs/x", "labs/planner")


@pytest.mark.parametrize(
    ("model", "agent"),
    [
        ("default/weather", "default/weather"),
        ("Default/Weather", "default/weather"),
        ("weather", "default/weather"),
        ("WEATHER", "default/weather"),
        ("planner", "labs/planner"),
    ],
)
def test_any_letter_case_and_a_bare_name_find_an_agent(model: str, agent: str) -> None:
    """A name that only one agent has is enough."""
    assert find(Grant("k", ("*",)), model, IDS) == agent


def test_a_bare_name_is_looked_for_among_the_agents_of_the_key_only() -> None:
    """What a key does not cover makes no name ambiguous; what it covers does, and both are named."""
    assert find(Grant("k", ("labs/*",)), "x", IDS) == "labs/x"
    with pytest.raises(NoSuchAgent, match="default/x or labs/x"):
        find(Grant("k", ("*",)), "x", IDS)


@pytest.mark.parametrize("ids", [(), IDS])
@pytest.mark.parametrize("model", ["labs/x", "x", "planner", "labs/nobody", ""])
def test_outside_the_patterns_the_answer_is_the_same_whether_it_exists_or_not(model: str, ids: tuple[str, ...]) -> None:
    """Nobody learns of agents that their key does not cover."""
    with pytest.raises(NotAllowed) as refusal:
        find(Grant("k", ("default/weather",)), model, ids)
    with pytest.raises(NotAllowed, match=re.escape(refusal.value.message)):
        find(Grant("k", ("default/weather",)), model, ())


@pytest.mark.parametrize("model", ["default/nobody", "nobody", "default/", "/", "", "a/b/c", "default/*"])
def test_a_covered_id_without_agent_is_told_as_missing(model: str) -> None:
    """Where the patterns take an id in, it is no secret that it does not exist."""
    with pytest.raises(NoSuchAgent):
        find(Grant("k", ("*",)), model, IDS)


@given(globs, globs, st.text(max_size=6))
def test_only_a_covered_agent_that_exists_is_ever_found(
    agents: tuple[str, ...], deny: tuple[str, ...], model: str
) -> None:
    """However it is asked for, an agent outside the grant is not handed out."""
    grant = Grant("k", agents, deny)
    ids = ("a/b", "b/a", "a./b-", model.lower())
    try:
        found = find(grant, model, ids)
    except (NoSuchAgent, NotAllowed):
        return
    assert found in ids
    assert covers(grant, found)
