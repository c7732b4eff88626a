"""Reads of an upstream's answer only what must be known: usage, finish reason, whether it was whole; pure."""

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
        return Usage(prompt or 0, completion or 0, given.cached_tokens or 0, made.reasoning_tokens or 0)


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
ENDS = ("response.completed", "response.incomplete", "response.failed")


class Count:
    """What is known of one answer so far."""

    def __init__(self, *, stream: bool) -> None:
        self.usage: Usage | None = None
        self.finish = ""
        self.whole = False
        """Whether the answer has come to its end."""
        self._stream = stream
        self._rest = bytearray()

    def feed(self, data: bytes) -> None:
        """Read bytes of the answer.

        Raises:
            UpstreamFailed: if they are no answer of a model.
        """
        self._rest += data
        if not self._stream:
            if len(self._rest) > BODY_LIMIT:
                raise UpstreamFailed(f"the answer is over {BODY_LIMIT >> 20} MiB")
            return
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest
        if len(rest) > LINE_LIMIT:
            raise UpstreamFailed(f"an event of the answer is over {LINE_LIMIT >> 20} MiB")
        for line in lines:
            if line.startswith(b"data:"):
                self._read(bytes(line[5:]).strip())

    def end(self) -> None:
        """Read the end of the answer.

        Raises:
            UpstreamFailed: if it came too early.
        """
        if not self._stream:
            self._read(bytes(self._rest))
            self.whole = True
        if not self.whole:
            raise UpstreamFailed("the upstream cut its answer off: it ended without a finish")

    def _read(self, event: bytes) -> None:
        if event == b"[DONE]":
            self.whole = True
            return
        try:
            read = _decode(event)
        except msgspec.ValidationError:
            return  # JSON of a shape that says nothing to us: the worker may make something of it
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamFailed(f"the upstream's answer is not JSON: {error}") from None
        _raise(read.error or (read.message if read.type == "error" else None))
        if read.usage:
            self.usage = read.usage.usage()
        if read.choices and read.choices[0].finish_reason:
            self.finish, self.whole = read.choices[0].finish_reason, True
        if read.type in ENDS and read.response:
            self._finish_response(read.response)
        elif read.status:
            details = read.incomplete_details
            self._finish_response(_Response(read.status, usage=read.usage, incomplete_details=details))

    def _finish_response(self, response: _Response) -> None:
        _raise(response.error)
        self.whole = True
        if response.usage:
            self.usage = response.usage.usage()
        reason = response.incomplete_details.reason if response.incomplete_details else None
        self.finish = {"max_output_tokens": "length", "content_filter": "content_filter"}.get(reason or "", "stop")


def _raise(error: Any) -> None:
    if error:
        message = error.get("message") if isinstance(error, dict) else error
        raise UpstreamFailed(f"the upstream broke off: {str(message)[:1000]}")
