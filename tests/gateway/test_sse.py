"""Promises of chunks and completions as OpenAI's clients read them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.api import sse
from gateway.observe.usage import Usage

USAGE = Usage(7, 5, 3, 2)


def events(stream: bytes) -> list[bytes]:
    """The data of each event."""
    assert stream.endswith(b"\n\n")
    return [event.removeprefix(b"data: ") for event in stream[:-2].split(b"\n\n")]


def chunks(usage_wanted: bool = False) -> sse.Chunks:
    """A maker of chunks."""
    return sse.Chunks("chatcmpl-1", 5, "default/weather", usage_wanted)


@pytest.mark.parametrize("usage_wanted", [True, False])
@pytest.mark.parametrize("usage", [USAGE, None])
def test_every_chunk_is_one_of_openais(usage_wanted: bool, usage: Usage | None) -> None:
    """A whole stream validates, ends with `[DONE]`, and tells usage only where it is wanted."""
    made = chunks(usage_wanted)
    stream = made.first() + made.delta("text", "hi") + made.delta("refusal", "no") + made.end("stop", usage)
    *bodies, done = events(stream)
    assert done == b"[DONE]"
    read = [ChatCompletionChunk.model_validate_json(body, strict=True) for body in bodies]
    assert {(chunk.id, chunk.created, chunk.model) for chunk in read} == {("chatcmpl-1", 5, "default/weather")}
    assert read[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in read if chunk.choices] == [None, None, None, "stop"]
    assert [not chunk.choices for chunk in read] == [False] * 4 + [True] * usage_wanted
    assert all(("usage" in msgspec.json.decode(body)) == usage_wanted for body in bodies)
    if usage_wanted and usage:
        assert read[-1].usage
        assert read[-1].usage.total_tokens == 12
        assert all(chunk.usage is None for chunk in read[:-1])


@given(st.text(), st.sampled_from(["text", "reasoning", "refusal"]))
def test_whatever_an_agent_says_stays_one_event(text: str, kind: str) -> None:
    """No text can end its event, begin another, or change on its way."""
    (body,) = events(chunks().delta(kind, text))
    assert b"\n" not in body
    assert b"\r" not in body
    delta: Any = ChatCompletionChunk.model_validate_json(body).choices[0].delta
    assert getattr(delta, sse.FIELDS[kind]) == text


@pytest.mark.parametrize("text", ['\n\ndata: {"error": 1}\n\n', "data: [DONE]\n\n", "\r\n\r\n", "\u2028", '"}]}'])
def test_a_forged_event_is_text(text: str) -> None:
    """What looks like the protocol is said, not obeyed."""
    assert len(events(chunks().delta("text", text))) == 1


@pytest.mark.parametrize(
    ("said", "content", "refusal"),
    [
        ({"text": ["a", "b"]}, "ab", None),
        ({"refusal": ["no"]}, None, "no"),
        ({"text": ["a"], "reasoning": ["hm"], "refusal": ["no"]}, "a", "no"),
        ({}, "", None),
    ],
)
@pytest.mark.parametrize("usage", [USAGE, None])
def test_a_completion_is_one_of_openais(
    said: dict[str, list[str]], content: str | None, refusal: str | None, usage: Usage | None
) -> None:
    """A whole answer validates and says what was said; usage that is not known is left out."""
    body = sse.completion("chatcmpl-1", 5, "default/weather", said=said, finish_reason="stop", usage=usage)
    read = ChatCompletion.model_validate_json(msgspec.json.encode(body), strict=True)
    message = read.choices[0].message
    assert (message.content, message.refusal) == (content, refusal)
    assert read.usage is None if usage is None else read.usage is not None
