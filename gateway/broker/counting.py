"""Reads of an upstream's answer only what must be known: usage, finish reason, whether it was whole; pure."""

from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.errors import UpstreamFailed
from gateway.observe.usage import Usage

LINE_LIMIT = 8 << 20
"""Bytes of one event."""
BODY_LIMIT = 32 << 20
"""Bytes of an answer that is no stream."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Tokens(msgspec.Struct):
    """Tokens in the words of both dialects."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None

    def usage(self) -> Usage:
        prompt, completion = (
            self.prompt_tokens or self.input_tokens,
            self.completion_tokens or self.output_tokens,
        )
        given = self.prompt_tokens_details or self.input_tokens_details or _Details()
        made = self.completion_tokens_details or self.output_tokens_details or _Details()
        counts = (prompt, completion, given.cached_tokens, made.reasoning_tokens)
        return Usage(*(max(count or 0, 0) for count in counts))


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    status: str | None = None
    error: Any = None
    usage: _Tokens | None = None
    incomplete_details: _Incomplete | None = None


class _Event(msgspec.Struct):
    """What is read of an event, or of a whole answer, of either dialect."""

    type: str | None = None
    choices: list[_Choice] | None = None
    message: Any = None
    usage: _Tokens | None = None
    response: _Response | None = None
    status: str | None = None
    incomplete_details: _Incomplete | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode
BROKEN = ("failed", "cancelled")
ENDS = ("response.completed", "response.incomplete", "response.failed")


class Count:
    """What is known of one streamed answer so far."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.finish = ""
        self.whole = False
        """Whether the answer has come to its end."""
        self.done = False
        """Whether nothing follows it, not even usage."""
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Read bytes of the answer.

        Raises:
            UpstreamFailed: if they are no answer of a model.
        """
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._rest, lines[0]])
            self._rest, self._size = [], 0
        self._rest.append(rest)
        self._size += len(rest)
        if self._size > LINE_LIMIT:
            raise UpstreamFailed(f"an event of the upstream's answer is over {LINE_LIMIT >> 20} MiB")
        for line in lines:
            if line.startswith(b"data:"):
                self._read(line[5:].strip())

    def end(self) -> None:
        """Read the end of the answer.

        Raises:
            UpstreamFailed: if it came too early.
        """
        if not self.whole:
            raise UpstreamFailed("the upstream cut its answer off: it ended without a finish")

    def _read(self, event: bytes) -> None:
        if event == b"[DONE]":
            self.whole = self.done = True
            return
        if (read := _event(event)) is None:
            return
        if read.usage:
            self.usage = read.usage.usage()
        if read.choices and read.choices[0].finish_reason:
            self.finish, self.whole = read.choices[0].finish_reason, True
        if read.type in ENDS and read.response:
            self.whole = self.done = True
            self.finish = _finish(read.response)
            self.usage = read.response.usage.usage() if read.response.usage else None


@dataclass(frozen=True)
class Whole:
    """An answer that is no stream."""

    content: bytes
    usage: Usage | None
    finish: str


def read_whole(content: bytes) -> Whole:
    """Return what is known of a whole answer.

    Raises:
        UpstreamFailed: if it is no answer of a model.
    """
    read = _event(content) or _Event()
    usage = read.usage.usage() if read.usage else None
    if read.choices:
        return Whole(content, usage, read.choices[0].finish_reason or "")
    return Whole(content, usage, _finish(read) if read.status else "")


def _event(data: bytes) -> _Event | None:
    """Read an event or an answer; None for JSON of a shape that says nothing to us, which the worker may know."""
    try:
        read = _decode(data)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamFailed(f"the upstream's answer is not JSON: {error}") from None
    _raise(read.error or (read.message if read.type == "error" else None))
    return read


def _finish(response: _Response | _Event) -> str:
    """The finish reason of a response, in the words of chat completions."""
    _raise(response.error or (f"its status is {response.status}" if response.status in BROKEN else None))
    reason = response.incomplete_details.reason if response.incomplete_details else None
    return {"max_output_tokens": "length", "content_filter": "content_filter"}.get(reason or "", "stop")


def _raise(error: Any) -> None:
    if error:
        message = error.get("message") if isinstance(error, dict) else error
        raise UpstreamFailed(f"the upstream broke off: {message}")
