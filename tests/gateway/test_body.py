"""Promises of how the body of a chat request is read."""

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from gateway.api.body import ClientGone, parse, read
from gateway.errors import BadRequest, TooLarge

USER = {"role": "user", "content": "hi"}


def short_id(value: object) -> str:
    """A value as the id of a test."""
    return repr(value)[:40]


def body(**fields: Any) -> bytes:
    """A request with these fields beside a model and messages."""
    return json.dumps({"model": "m", "messages": [USER]} | fields).encode()


@pytest.mark.parametrize(
    ("fields", "stream", "usage"),
    [
        ({}, None, False),
        ({"stream": True}, True, False),
        ({"stream": None, "stream_options": None}, None, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True, True),
        ({"stream": True, "stream_options": {"include_obfuscation": False}}, True, False),
        ({"temperature": 0, "tools": [], "user": "u", "unknown": {}}, None, False),
        ({"n": 1}, None, False),
    ],
)
def test_what_clients_send_is_read(fields: dict[str, Any], stream: bool | None, usage: bool) -> None:
    """Known fields are read, all others are ignored."""
    request = parse(body(**fields))
    assert (request.model, request.stream, request.usage_wanted) == ("m", stream, usage)


@given(st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text()}), min_size=1, max_size=3))
def test_messages_reach_the_worker_as_they_came(messages: list[dict[str, str]]) -> None:
    """The worker gets the messages byte for byte."""
    raw = json.dumps(messages, indent=1)
    run_body = parse(b'{"messages": ' + raw.encode() + b', "model": "m"}').run_body()
    assert run_body == b'{"messages":' + raw.encode() + b"}"


@pytest.mark.parametrize(
    ("raw", "said", "param"),
    [
        (b"", "is not JSON", None),
        (b"{", "is not JSON", None),
        (b"\xff", "is not JSON", None),
        (b'{"model": "\xff", "messages": []}', "is not JSON", None),
        (b"[]", "does not fit", None),
        (b"{}", "`model`", None),
        (b'{"model": "m"}', "`messages`", None),
        (body(model=5), "$.model", None),
        (body(stream="yes"), "$.stream", None),
        (body(stream_options=[]), "$.stream_options", None),
        (body(n=2), "n must be 1", "n"),
        (body(n=0), "n must be 1", "n"),
        (body(n=-1), "n must be 1", "n"),
        (body(messages=5), "must be a list", "messages"),
        (body(messages=None), "must be a list", "messages"),
        (body(messages=["hi"]), "must be a list of objects", "messages"),
        (body(messages=[]), "messages is empty", "messages"),
        (body(messages=[USER, {"role": "robot"}]), "messages[1] has the role 'robot'", "messages[1].role"),
        (body(messages=[{"content": "x"}]), "messages[0] has the role 'None'", "messages[0].role"),
        (body(messages=[{"role": ["user"]}]), "messages[0] has the role", "messages[0].role"),
        (b'{"model": "m", "messages": ' + b"[" * 100_000, "not JSON", None),
        (b'{"model": "m", "messages": [{"role": ' + b"[" * 5000 + b"]" * 5000 + b"}]}", "", None),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "", None),
    ],
    ids=short_id,
)
def test_a_body_that_does_not_fit_is_told_what_is_wrong(raw: bytes, said: str, param: str | None) -> None:
    """Every mistake is a BadRequest with the field, where there is one."""
    with pytest.raises(BadRequest) as refusal:
        parse(raw)
    assert said in refusal.value.message
    assert refusal.value.param == param or said == ""


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    """Whatever a client posts is a request or a BadRequest."""
    with suppress(BadRequest):
        assert parse(raw).model is not None


def receiving(*messages: Message) -> Callable[[], Awaitable[Message]]:
    """A client that sends these."""
    waiting = iter(messages)

    async def receive() -> Message:
        return next(waiting)

    return receive


def part(data: bytes, more: bool) -> Message:
    """A part of a body."""
    return {"type": "http.request", "body": data, "more_body": more}


async def test_a_body_in_parts_is_joined() -> None:
    """A body is whole when its last part is there."""
    assert await read({"headers": []}, receiving(part(b"ab", True), part(b"c", False)), 3) == b"abc"


@pytest.mark.parametrize("length", [b"4", b"5000000000", None, b"x", b"1"])
async def test_a_body_over_the_limit_is_refused_whatever_it_announced(length: bytes | None) -> None:
    """Neither a long body nor a false length gets past the limit."""
    headers = [(b"content-length", length)] if length else []
    with pytest.raises(TooLarge):
        await read({"headers": headers}, receiving(part(b"ab", True), part(b"cd", True)), 3)


async def test_a_client_that_hangs_up_in_mid_body_is_gone() -> None:
    """There is nobody to answer."""
    with pytest.raises(ClientGone):
        await read({"headers": []}, receiving(part(b"ab", True), {"type": "http.disconnect"}), 3)
