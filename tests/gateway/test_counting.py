"""Promises of what is read of an upstream's answer."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.broker import counting
from gateway.broker.counting import Count, Whole, read_whole
from gateway.errors import UpstreamFailed
from gateway.observe.usage import Usage


def short_id(value: object) -> str:
    """A value as the id of a test."""
    return repr(value)[:40]


def sse(*events: Any) -> bytes:
    """A stream of these events."""
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f"data: {line}\n\n" for line in lines).encode()


def chunk(finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk of a chat completion."""
    return {"id": "x", "choices": [{"index": 0, "delta": {"content": "hé"}, "finish_reason": finish}]} | more


CHAT_USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
RESPONSES_USAGE = {
    "input_tokens": 7,
    "output_tokens": 5,
    "input_tokens_details": {"cached_tokens": 3},
    "output_tokens_details": {"reasoning_tokens": 2},
}
USAGE = Usage(7, 5, 3, 2)


def ended(kind: str, **more: Any) -> dict[str, Any]:
    """The last event of a response."""
    response = {"status": kind, "usage": RESPONSES_USAGE} | more
    return {"type": f"response.{kind}", "response": response}


STREAMS: dict[str, tuple[bytes, str, Usage | None]] = {
    "chat": (sse(chunk(), chunk("stop"), {"choices": [], "usage": CHAT_USAGE}, "[DONE]"), "stop", USAGE),
    "chat, usage with the finish": (sse(chunk("length", usage=CHAT_USAGE)), "length", USAGE),
    "chat without usage": (sse(chunk(usage=None), chunk("tool_calls"), "[DONE]"), "tool_calls", None),
    "chat without a finish": (sse(chunk(), "[DONE]"), "", None),
    "chat with comments": (b": hi\r\n\r\n" + sse(chunk("stop")).replace(b"\n", b"\r\n"), "stop", None),
    "chat without a blank": (sse(chunk("stop")).replace(b"data: ", b"data:"), "stop", None),
    "chat with events of other shapes": (sse([1], "5", {"choices": 3}, chunk("stop")), "stop", None),
    "responses": (
        sse({"type": "response.created", "response": {"status": "in_progress"}}, ended("completed")),
        "stop",
        USAGE,
    ),
    "responses, too long": (
        sse(ended("incomplete", incomplete_details={"reason": "max_output_tokens"})),
        "length",
        USAGE,
    ),
    "responses, filtered": (
        sse(ended("incomplete", incomplete_details={"reason": "content_filter"})),
        "content_filter",
        USAGE,
    ),
    "responses with names of events": (
        b"event: response.completed\n" + sse(ended("completed", usage=None)),
        "stop",
        None,
    ),
}


@pytest.mark.parametrize("name", STREAMS)
@given(data=st.data())
def test_any_split_of_a_stream_counts_the_same(name: str, data: st.DataObject) -> None:
    """Usage, finish and wholeness do not depend on where the stream is cut."""
    stream, finish, usage = STREAMS[name]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    count = Count()
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        count.feed(stream[begin:end])
    count.end()
    assert (count.whole, count.finish, count.usage) == (True, finish, usage)


@pytest.mark.parametrize(
    ("answer", "finish", "usage"),
    [
        (chunk("stop", usage=CHAT_USAGE), "stop", USAGE),
        ({"status": "completed", "usage": RESPONSES_USAGE, "error": None}, "stop", USAGE),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length", None),
        ({"object": "list", "data": []}, "", None),
        ({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": None}}, "", Usage(4)),
        ({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": -1}}, "", Usage(4)),
    ],
)
def test_a_whole_answer_is_counted_at_its_end(answer: Any, finish: str, usage: Usage | None) -> None:
    """An answer that is no stream is read when all of it is there; a count below zero counts nothing."""
    body = json.dumps(answer).encode()
    assert read_whole(body) == Whole(body, usage, finish)


@pytest.mark.parametrize("stream", [sse(chunk()), b"", sse(chunk("stop"))[:-20], b": ping\n\n"])
def test_a_stream_that_ends_without_a_finish_was_cut_off(stream: bytes) -> None:
    """Half an answer is not taken for a whole one."""
    count = Count()
    count.feed(stream)
    with pytest.raises(UpstreamFailed, match="cut its answer off"):
        count.end()


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"error": {"message": "out of memory"}}, "out of memory"),
        ({"error": "out of memory"}, "out of memory"),
        ({"type": "error", "message": "out of memory"}, "out of memory"),
        (ended("failed", error={"code": "server_error", "message": "out of memory"}), "out of memory"),
        ("{", "not JSON"),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1") + "{", "not JSON"),
        ('{"error": ' + "[" * 100_000, "not JSON"),
        ('{"x": ' + "[" * 100_000, "not JSON"),
    ],
    ids=short_id,
)
def test_an_error_in_mid_stream_is_raised(event: Any, said: str) -> None:
    """An upstream that breaks off says so, and what is no JSON is no answer."""
    with pytest.raises(UpstreamFailed, match=said):
        Count().feed(sse(chunk(), event))


def test_a_failed_response_that_is_no_stream_is_raised() -> None:
    """The error of a whole answer is one."""
    with pytest.raises(UpstreamFailed, match="out of memory"):
        read_whole(b'{"status": "failed", "error": {"message": "out of memory"}}')


def test_an_answer_over_the_limits_is_refused() -> None:
    """An endless event does not fill the gateway's memory."""
    with pytest.raises(UpstreamFailed, match="event of the upstream's answer is over 8 MiB"):
        Count().feed(b"x" * (counting.LINE_LIMIT + 1))


def test_usages_add_up() -> None:
    """The tokens of a run are those of its calls together."""
    assert USAGE + Usage(1, 1, 1, 1) == Usage(8, 6, 4, 3)
