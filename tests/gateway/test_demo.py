"""Promises of the demo upstream."""

import time
from contextlib import suppress
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # has no stubs of its own
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.broker.counting import Count
from gateway.broker.demo import SIGNATURE, _example, answer, compose, headers
from gateway.errors import GatewayError

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def asked(text: Any, **more: Any) -> dict[str, Any]:
    """A request with one question."""
    return {"model": "demo", "messages": [{"role": "user", "content": text}]} | more


def arguments(reply: dict[str, Any]) -> Any:
    """The arguments of the reply's tool call."""
    return msgspec.json.decode(reply["tool_calls"][0]["function"]["arguments"])


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (asked("Hello"), f"You said: Hello{SIGNATURE}"),
        (
            asked([{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]),
            f"You said: a  b{SIGNATURE}",
        ),
        (
            asked("Hello", tools=[WEATHER]),
            f"You said: Hello Name one of my tools and I call it: get_weather.{SIGNATURE}",
        ),
        (
            {"messages": [*asked("x")["messages"], {"role": "tool", "content": "sunny"}]},
            f"The tool answered: sunny{SIGNATURE}",
        ),
        ({"messages": []}, f"You said: {SIGNATURE}"),
        ({}, f"You said: {SIGNATURE}"),
    ],
)
def test_a_conversation_is_answered_by_what_stands_last(body: dict[str, Any], content: str) -> None:
    """It repeats a question, tells a tool's result, and always says that no model was asked."""
    assert compose(body) == {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("question", "city"),
    [
        ("Use get_weather for Paris", "Paris"),
        ("GET_WEATHER", "GET_WEATHER"),
        ("What is the weather in Oslo? get_weather", "Oslo"),
    ],
)
def test_a_tool_that_is_named_is_called(question: str, city: str) -> None:
    """A tool's name in the question calls it, with an argument from the question."""
    assert arguments(compose(asked(question, tools=[WEATHER]))) == {"city": city}


def test_a_tool_is_not_called_by_a_part_of_a_word() -> None:
    """Only the whole name counts."""
    assert "tool_calls" not in compose(asked("forget_weathering", tools=[WEATHER]))


def test_a_schema_is_answered_with_what_fits_it() -> None:
    """Structured output gets JSON, and no signature that would break it."""
    schema = WEATHER["function"]["parameters"]  # type: ignore[index]
    body = asked("Rome", response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    assert compose(body)["content"] == '{"city":"Rome"}'


scalars = st.sampled_from(["string", "integer", "number", "boolean", "null"]).map(lambda kind: {"type": kind})
enums = st.lists(st.none() | st.booleans() | st.integers(0, 3) | st.text(max_size=3), min_size=1, max_size=3).map(
    lambda values: {"enum": values}
)
references = st.sampled_from([{"$ref": "#/$defs/One"}, {"$ref": "#/$defs/Two"}])


def nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Schemas with others in them."""
    objects = st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
        lambda fields: {
            "type": "object",
            "properties": fields,
            "required": list(fields),
            "additionalProperties": False,
        }
    )
    arrays = inner.map(lambda items: {"type": "array", "items": items})
    unions = st.lists(inner, min_size=1, max_size=2).map(lambda options: {"anyOf": options})
    return objects | arrays | unions


schemas = st.recursive(scalars | enums | references, nested, max_leaves=5)
DEFS = {"One": {"type": "integer"}, "Two": {"type": "object", "properties": {"x": {"$ref": "#/$defs/One"}}}}


@given(schemas, st.text(max_size=20))
def test_an_example_fits_its_schema(schema: dict[str, Any], question: str) -> None:
    """What is made up for a simple schema is valid, whatever was asked."""
    whole = schema | {"$defs": DEFS}
    jsonschema.validate(_example(whole, question), whole)


@pytest.mark.parametrize(
    "schema",
    [
        {"const": "x"},
        {"const": "x", "type": "string"},
        {"type": ["integer", "null"]},
        {"type": ["string", "null"]},
        {"enum": ["x", "y"], "type": "string"},
        {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        {"allOf": [{"type": "integer"}]},
        {"oneOf": [{"type": "integer"}, {"type": "null"}]},
        {"type": "array"},
        {},
    ],
    ids=str,
)
def test_an_example_fits_what_pydantic_and_openai_write(schema: dict[str, Any]) -> None:
    """The usual forms of literals, options and wrapped references are understood."""
    jsonschema.validate(_example(schema, "Rome"), schema)


@pytest.mark.parametrize("number", ["7", "-7", "9" * 30, "9" * 5000, "\u0663"])
def test_a_number_in_a_question_is_taken_however_long(number: str) -> None:
    """A client's digits do not break the demo."""
    add = {"type": "function", "function": {"name": "add", "parameters": {"properties": {"n": {"type": "integer"}}}}}
    assert isinstance(arguments(compose(asked(f"add {number}", tools=[add])))["n"], int)


async def whole(body: dict[str, Any], path: str = "chat/completions") -> list[bytes]:
    """All pieces of an answer."""
    return [piece async for piece in answer(path, body)]


@pytest.mark.parametrize("question", ["one two", "get_weather Rome"])
async def test_a_stream_is_one_that_openai_would_send(question: str) -> None:
    """Every chunk is valid, and the whole has a finish, usage and an end."""
    body = asked(question, stream=True, tools=[WEATHER])
    pieces, count = await whole(body), Count()
    for piece in pieces:
        count.feed(piece)
        if b"[DONE]" not in piece:
            ChatCompletionChunk.model_validate_json(piece.removeprefix(b"data: "), strict=True)
    count.end()
    assert count.finish == ("tool_calls" if "Rome" in question else "stop")
    assert count.usage
    assert headers(body)["content-type"] == "text/event-stream"


@pytest.mark.parametrize("question", ["one two", "get_weather Rome"])
async def test_an_answer_that_is_no_stream_is_one_that_openai_would_send(question: str) -> None:
    """The whole answer is a valid chat completion with usage."""
    body = asked(question, tools=[WEATHER])
    (piece,) = await whole(body)
    completion = ChatCompletion.model_validate_json(piece)
    assert completion.usage
    assert completion.usage.total_tokens > 0
    assert headers(body)["content-type"] == "application/json"


@pytest.mark.parametrize(
    "body",
    [
        {"messages": 5},
        {"messages": [5, {"role": "user", "content": {"a": 1}}]},
        {"tools": 5},
        {"tools": [5]},
        {"tools": [{"function": 5}]},
        {"tools": [{"function": {}}]},
        {"tools": [{"function": {"name": "x", "parameters": 5}}], **asked("x")},
        {"tools": [{"function": {"name": "x", "parameters": {"properties": 5}}}], **asked("x")},
        {"tools": [{"function": {"name": "x", "parameters": {"$ref": 5, "$defs": []}}}], **asked("x")},
        {"tools": [{"function": {"name": "x", "parameters": {"enum": 5}}}], **asked("x")},
        {"response_format": {"type": "json_schema", "json_schema": 5}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"anyOf": 5}}}},
        {"model": ["x"]},
    ],
    ids=str,
)
async def test_no_request_of_a_worker_breaks_the_demo(body: dict[str, Any]) -> None:
    """Whatever stands where something else should, an answer comes, or a failure that has one."""
    with suppress(GatewayError):
        assert await whole(body)


async def test_other_paths_have_nothing() -> None:
    """The demo lists no models and makes no embeddings."""
    assert await whole({}, "embeddings") == [b'{"object":"list","data":[]}']


def test_a_schema_that_unfolds_without_end_is_filled_in_at_once() -> None:
    """References that fan out cost the gateway no more than a few hundred values."""
    fan = {f"f{number}": {"$ref": "#/$defs/x"} for number in range(40)}
    schema = {"type": "object", "properties": fan, "$defs": {"x": {"type": "object", "properties": fan}}}
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    begun = time.monotonic()
    compose({"messages": [{"role": "user", "content": "x" * 100_000}], "response_format": form})
    assert time.monotonic() - begun < 1
