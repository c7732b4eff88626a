"""Reads the body of a chat request: within its limit and its time, checked, the messages left as they came."""

from typing import Any

import anyio
import msgspec
from starlette.types import Receive, Scope

from gateway.errors import BadRequest, TooLarge, TooSlowRequest

BODY_SECONDS = 30.0
ROLES = ("system", "developer", "user", "assistant", "tool")


class ClientGone(Exception):
    """The client hung up; there is nobody to answer."""


class StreamOptions(msgspec.Struct):
    """How a stream ends."""

    include_usage: bool = False


class ChatRequest(msgspec.Struct):
    """What is read of a chat request; fields that are not here are ignored, as OpenAI's clients rely on."""

    model: str
    messages: msgspec.Raw
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None

    @property
    def usage_wanted(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def run_body(self) -> bytes:
        """What the worker gets of it."""
        return b'{"messages":' + bytes(self.messages) + b"}"


async def read(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the whole body.

    Raises:
        TooLarge, TooSlowRequest, ClientGone: if it does not come whole.
    """
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if length.isdigit() and int(length) > limit:
        raise TooLarge(f"the body has {int(length)} bytes; at most {limit} are taken")
    parts, size = [], 0
    with anyio.move_on_after(BODY_SECONDS):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client hung up")
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise TooLarge(f"the body is over {limit} bytes")
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)
    raise TooSlowRequest(f"the body did not arrive within {BODY_SECONDS:.0f} s")


_request = msgspec.json.Decoder(ChatRequest).decode
_messages = msgspec.json.Decoder(list[dict[str, Any]]).decode


def parse(body: bytes) -> ChatRequest:
    """Return the request of a body.

    Raises:
        BadRequest: saying what is wrong with it.
    """
    try:
        request = _request(body)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the body does not fit: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON in UTF-8: {error}") from None
    if request.n not in (None, 1):
        raise BadRequest("an agent gives one answer: n must be 1", param="n")
    _check(bytes(request.messages))
    return request


def _check(raw: bytes) -> None:
    try:
        messages = _messages(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"messages must be a list of objects: {error}", param="messages") from None
    if not messages:
        raise BadRequest("messages is empty; an agent needs at least one", param="messages")
    for index, message in enumerate(messages):
        if message.get("role") not in ROLES:
            known = ", ".join(ROLES)
            text = f"messages[{index}] has the role {str(message.get('role'))[:50]!r}; it must be one of {known}"
            raise BadRequest(text, param=f"messages[{index}].role")
