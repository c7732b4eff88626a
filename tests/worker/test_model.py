"""Promises of what leads model calls to the broker, and of the seams of the SDK that it relies on."""

from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest
from agents.run import AgentRunner, set_default_agent_runner
from openai import APIError, AsyncOpenAI, NotGiven, Omit, OpenAIError
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from agents import Agent, ModelSettings, ModelTracing, MultiProvider, OpenAIChatCompletionsModel, RunConfig, Runner
from tests.worker.scripted import ScriptedClient, says
from worker.model import _body, _chunk, _loose, _parsed

CHUNK: dict[str, Any] = {
    "id": "x",
    "created": 1,
    "model": "m",
    "object": "chat.completion.chunk",
    "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}],
}


class Format(BaseModel):
    """Something that the SDK may put into a request."""

    kind: str
    strict: bool = False


def sent(**options: Any) -> Any:
    """The body that goes out for these options."""
    return msgspec.json.decode(_body(options))


def chat_model(client: ScriptedClient) -> OpenAIChatCompletionsModel:
    """The SDK's chat model on a scripted client."""
    return OpenAIChatCompletionsModel("m", cast(AsyncOpenAI, client))


USED = {"base_url", "chat", "completions", "create"}
ARGUMENTS: dict[str, Any] = {
    "system_instructions": "be brief",
    "input": "hi",
    "model_settings": ModelSettings(),
    "tools": [],
    "output_schema": None,
    "handoffs": [],
    "tracing": ModelTracing.DISABLED,
    "previous_response_id": None,
    "conversation_id": None,
    "prompt": None,
}


async def test_a_streamed_turn_needs_no_more_of_its_client_than_the_gateway_gives() -> None:
    """The SDK's chat model streams with `base_url` and `chat.completions.create` alone."""
    client = ScriptedClient(says("hi"))
    kinds = [event.type async for event in chat_model(client).stream_response(**ARGUMENTS)]
    assert "response.output_text.delta" in kinds
    assert client.touched <= USED


async def test_a_whole_turn_needs_no_more_of_its_client_than_the_gateway_gives() -> None:
    """The SDK's chat model answers with `base_url` and `chat.completions.create` alone."""
    answer = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
    client = ScriptedClient([answer])
    response = await chat_model(client).get_response(**ARGUMENTS)
    assert response.output
    assert client.touched <= USED


async def test_what_the_chat_model_sends_becomes_json() -> None:
    """The options of a real turn, with all that the SDK leaves out marked, make a plain body."""
    client = ScriptedClient(says("hi"))
    async for _ in chat_model(client).stream_response(**ARGUMENTS):
        pass
    body = sent(**client.asked[0])
    assert body["model"] == "m"
    assert [message["content"] for message in body["messages"]] == ["be brief", "hi"]
    assert not {"extra_headers", "extra_query", "extra_body", "timeout"} & set(body)


def test_what_is_omitted_stays_out_of_the_body() -> None:
    """Options that were not given are not sent; null is sent where it was given."""
    assert sent(model="m", top_p=Omit(), seed=NotGiven(), stop=None) == {"model": "m", "stop": None}


def test_headers_and_query_stay_with_the_gateway() -> None:
    """An agent sets the body of a request only."""
    assert sent(model="m", extra_headers={"a": "b"}, extra_query={"a": "b"}, timeout=3) == {"model": "m"}


def test_an_extra_body_is_merged() -> None:
    """`extra_body` adds to the body and comes before the rest, as with openai's client."""
    assert sent(model="m", seed=1, extra_body={"seed": 2, "mirostat": 1}) == {"model": "m", "seed": 2, "mirostat": 1}


def test_models_become_objects_without_their_defaults() -> None:
    """A pydantic model within the options is sent as what was set of it."""
    assert sent(format=Format(kind="x")) == {"format": {"kind": "x"}}


def test_what_cannot_be_sent_is_an_error() -> None:
    """A value that JSON does not have is refused with its class."""
    with pytest.raises(TypeError, match="object"):
        sent(model=object())


def test_a_chunk_is_read_with_what_a_dialect_adds() -> None:
    """Fields beyond OpenAI's are kept."""
    body = msgspec.json.encode(CHUNK | {"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]})
    (choice,) = _chunk(body).choices
    assert getattr(choice.delta, "reasoning_content", None) == "hm"


@pytest.mark.parametrize("left_out", ["id", "created", "model", "object"])
def test_a_chunk_that_leaves_something_out_is_still_read(left_out: str) -> None:
    """A dialect that forgets a field is forgiven."""
    chunk = _chunk(msgspec.json.encode({name: value for name, value in CHUNK.items() if name != left_out}))
    assert chunk.choices[0].delta.content == "hi"


def test_an_error_within_a_stream_is_raised() -> None:
    """An upstream's error in place of a chunk ends the turn in its words."""
    with pytest.raises(APIError, match="out of memory"):
        _chunk(b'{"error": {"message": "out of memory"}}')
    with pytest.raises(APIError, match="out of memory"):
        _chunk(b'{"error": "out of memory"}')


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b'{"a"', b"[]", b"null", b'"text"', b"5"])
def test_an_answer_of_another_shape_is_an_error_of_the_model(body: bytes) -> None:
    """What is no answer is told as openai's client would, so that an agent's own handling works."""
    with pytest.raises(OpenAIError):
        _parsed(ChatCompletion, body)


def test_a_loose_answer_keeps_its_content() -> None:
    """An answer without its usual fields still says what it says."""
    answer = _loose(ChatCompletion, b'{"choices": [{"message": {"content": "hi"}}]}')
    assert answer.choices[0].message.content == "hi"


def test_a_run_config_begins_with_the_provider_that_is_replaced() -> None:
    """A run without a provider of its own has exactly the SDK's MultiProvider."""
    assert type(RunConfig().model_provider) is MultiProvider


class Seen(Exception):
    """A run reached the default runner."""


class Watcher(AgentRunner):
    """A runner that shows how it was called."""

    async def run(self, starting_agent: Agent[Any], input: Any, **kwargs: Any) -> Any:  # noqa: A002 - the SDK's name
        raise Seen(kwargs)

    def run_sync(self, starting_agent: Agent[Any], input: Any, **kwargs: Any) -> Any:  # noqa: A002 - the SDK's name
        raise Seen(kwargs)

    def run_streamed(self, starting_agent: Agent[Any], input: Any, **kwargs: Any) -> Any:  # noqa: A002 - the SDK's name
        raise Seen(kwargs)


@pytest.fixture
def watcher() -> Iterator[None]:
    """The watcher as the SDK's default runner."""
    set_default_agent_runner(Watcher())
    yield
    set_default_agent_runner(None)


@pytest.mark.usefixtures("watcher")
async def test_every_run_goes_through_the_default_runner() -> None:
    """All three ways to run an agent reach the runner that was set, with the run's config by name."""
    config = RunConfig()
    with pytest.raises(Seen) as run:
        await Runner.run(Agent(name="a"), "hi", run_config=config)
    with pytest.raises(Seen) as sync:
        Runner.run_sync(Agent(name="a"), "hi", run_config=config)
    with pytest.raises(Seen) as streamed:
        Runner.run_streamed(Agent(name="a"), "hi", run_config=config)
    assert all(seen.value.args[0]["run_config"] is config for seen in (run, sync, streamed))
