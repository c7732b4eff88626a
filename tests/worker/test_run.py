"""Promises of what a run says to its client."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAIError
from pydantic import BaseModel

from agents import (
    Agent,
    MaxTurnsExceeded,
    OpenAIChatCompletionsModel,
    RunConfig,
    Runner,
    RunResultStreaming,
    function_tool,
)
from tests.worker.scripted import ScriptedClient, calls, says
from worker import wire
from worker.run import _cut, _kind, _message, _Speech


class Answer(BaseModel):
    """An output type."""

    city: str


def event(kind: str, delta: str = "") -> Any:
    """An event of a model."""
    return SimpleNamespace(type=kind, delta=delta)


CREATED = event("response.created")


def text(delta: str) -> Any:
    """A piece of text."""
    return event("response.output_text.delta", delta)


def heard(*events: Any) -> str:
    """All text that a client gets of these events."""
    speech = _Speech()
    return "".join(said for each in events for kind, said in speech.heard(each) if kind == "text")


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([CREATED, text("a"), text("b")], "ab"),
        ([text("a"), text("b")], "ab"),
        ([CREATED, text("a"), CREATED, text("b")], "a\n\nb"),
        ([CREATED, CREATED, text("a")], "a"),
        ([CREATED, text("a"), CREATED], "a"),
        ([CREATED, text("a"), CREATED, CREATED, text("b")], "a\n\nb"),
        ([CREATED, text("a"), CREATED, text("b"), CREATED, CREATED, text("c")], "a\n\nb\n\nc"),
        ([CREATED, text("a"), CREATED, text(""), text("b")], "a\n\nb"),
        ([CREATED, text("a"), CREATED, event("response.reasoning_text.delta", "hm"), text("b")], "a\n\nb"),
        ([CREATED, event("response.function_call_arguments.delta", "{}")], ""),
    ],
)
def test_messages_of_two_turns_are_kept_apart(events: list[Any], said: str) -> None:
    """An empty line stands between the texts of two turns, however many silent turns lie between."""
    assert heard(*events) == said


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("response.output_text.delta", "text"),
        ("response.refusal.delta", "refusal"),
        ("response.reasoning_text.delta", "reasoning"),
        ("response.reasoning_summary_text.delta", "reasoning"),
    ],
)
def test_each_kind_of_delta_keeps_its_kind(kind: str, told: str) -> None:
    """Text, refusal and reasoning reach the client as what they are."""
    assert list(_Speech().heard(event(kind, "x"))) == [(told, "x")]


@given(st.lists(st.text(max_size=3), max_size=5), st.text(max_size=5))
def test_a_long_delta_is_cut_and_stays_whole(words: list[str], tail: str) -> None:
    """The pieces of a text join to it, and each fits a message."""
    whole = "".join(words) * 9000 + tail
    cut = list(_cut(whole))
    assert "".join(cut) == whole
    assert all(0 < len(piece) <= wire.TEXT for piece in cut)


@pytest.mark.parametrize(
    ("output", "said"),
    [(None, ""), ("sunny", "sunny"), (Answer(city="Oslo"), '{"city":"Oslo"}'), (7, "7"), ("", "")],
)
def test_an_output_that_no_model_said_is_said_at_the_end(output: object, said: str) -> None:
    """The result of a tool that ends the run reaches the client, as text."""
    ended = SimpleNamespace(final_output=output, new_items=[SimpleNamespace(type="tool_call_output_item")])
    assert "".join(_Speech().unsaid(cast(RunResultStreaming, ended))) == said


@function_tool
def look() -> str:
    """Look out of the window."""
    return "sunny"


async def told(*answers: list[dict[str, Any]], ends_run: bool = False) -> str:
    """All text that a client gets of a run whose model gives these answers."""
    model = OpenAIChatCompletionsModel("m", cast(AsyncOpenAI, ScriptedClient(*answers)))
    agent = Agent(
        name="a", model=model, tools=[look], tool_use_behavior="stop_on_first_tool" if ends_run else "run_llm_again"
    )
    speech, said = _Speech(), ""
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(tracing_disabled=True))
    async for each in result.stream_events():
        if each.type == "raw_response_event":
            said += "".join(piece for kind, piece in speech.heard(each.data) if kind == "text")
    return said + "".join(speech.unsaid(result))


async def test_a_run_of_one_turn_is_said_once() -> None:
    """What the model streamed is not said again as the final output."""
    assert await told(says("hello")) == "hello"


async def test_a_turn_with_no_words_does_not_join_its_neighbours() -> None:
    """Text, a tool call without a word, and text again are two messages."""
    first = says("Let me look.", finish=None) + calls("look", "c1")
    assert await told(first, calls("look", "c2"), says("Sunny.")) == "Let me look.\n\nSunny."


async def test_the_result_of_a_tool_that_ends_the_run_is_said() -> None:
    """Where a tool's result is the final output, it reaches the client."""
    assert await told(calls("look", "c1"), ends_run=True) == "sunny"


async def test_the_result_of_a_tool_that_ends_the_run_is_said_after_the_words_before_it() -> None:
    """A model that says something as it calls the tool does not hide the tool's result."""
    first = says("Let me look.", finish=None) + calls("look", "c1")
    assert await told(first, ends_run=True) == "Let me look.\n\nsunny"


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OpenAIError("no credit"), "model", "no credit"),
        (MaxTurnsExceeded("10 turns"), "max_turns", "10 turns"),
        (ValueError("a secret"), "agent", "ValueError"),
    ],
)
def test_an_error_of_the_agents_own_code_shows_its_class_alone(error: Exception, kind: str, message: str) -> None:
    """The SDK's words may go out; those of an agent's own exception may hold anything."""
    assert (_kind(error), _message(error)) == (kind, message)
