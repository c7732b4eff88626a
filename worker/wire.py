"""The messages between gateway and worker, and the frames that carry them; both processes import this module.

A frame is four bytes of length (big endian) and one MessagePack message of the closed sets `ToWorker` and
`ToGateway`. Ids of requests are given by the gateway, ids of calls by the worker; both only ever grow.
"""

from collections.abc import Iterator
from typing import Annotated, Generic, Literal, TypeVar

import msgspec

VERSION = 2
FRAME_LIMIT = 4 << 20
"""Bytes of one frame's message; longer payloads are cut into pieces."""
PIECE = 64 << 10
"""Bytes of payload that one message carries at most."""
TEXT = PIECE // 4
"""Characters of text that one message carries at most: a quarter, for UTF-8 takes up to four bytes for one."""
WINDOW = 256 << 10
"""Bytes of frames that may be under way, unacknowledged, on one stream in one direction."""

Id = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Count = Annotated[int, msgspec.Meta(gt=0, le=WINDOW)]
Bytes = Annotated[bytes, msgspec.Meta(max_length=PIECE)]
Line = Annotated[str, msgspec.Meta(max_length=4096)]
Text = Annotated[str, msgspec.Meta(max_length=TEXT)]

Stream = Literal["request", "call"]
Api = Literal["chat_completions", "responses"]
Path = Literal["chat/completions", "responses", "embeddings", "models"]
FailureKind = Literal["agent", "model", "guardrail", "max_turns", "input"]


class WireError(Exception):
    """The peer did not keep to the protocol; the connection is of no further use."""


class Message(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag=True):
    """A base for all messages."""


# Gateway to worker.


class Load(Message):
    """Import the agent; the answer is Ready or Broken."""

    agent: Line
    exports: tuple[Line, ...]
    api: Api
    model: Line
    """The upstream's default model; empty when it has none."""


class Run(Message):
    """Start a run; its body follows in RunData."""

    request: Id


class RunData(Message):
    """A piece of a run's body: JSON with `messages` as the client sent them."""

    request: Id
    data: Bytes
    last: bool


class Cancel(Message):
    """End this run now; nothing that it still sends will be heard."""

    request: Id


class Head(Message):
    """The beginning of an upstream's answer to a call."""

    call: Id
    status: int
    headers: dict[Line, Line]


class Data(Message):
    """Bytes of an upstream's answer, as they came."""

    call: Id
    data: Bytes


class End(Message):
    """The end of an upstream's answer; with an error, where it did not end well."""

    call: Id
    error: Line = ""


class Stop(Message):
    """End the worker process."""


# Worker to gateway.


class Hello(Message):
    """The first message of a worker."""

    version: int


class Ready(Message):
    """The agent is imported and can run."""

    export: Line


class Broken(Message):
    """The agent cannot be imported, or exports nothing that can run."""

    message: Line
    traceback: Text = ""


class Notice(Message):
    """Something that the author of the agent should know."""

    message: Line


class Call(Message):
    """A model call; its body follows in CallData."""

    call: Id
    request: Id
    """The run that it belongs to; 0 outside any run."""
    path: Path
    host: Line = ""
    """Where a client that the agent built itself wanted to go, as host:port."""
    front: bool = False
    """Whether it is a turn of the run itself, and not of a run nested in it."""


class CallData(Message):
    """A piece of a call's body."""

    call: Id
    data: Bytes
    last: bool


class Hangup(Message):
    """The worker no longer wants the answer to this call."""

    call: Id


class Delta(Message):
    """A piece of what the agent says."""

    request: Id
    kind: Literal["text", "reasoning", "refusal"]
    text: Text


class Done(Message):
    """The run ended well."""

    request: Id
    call: Id
    """The front call whose answer ended the run, by which its finish reason is known; 0 for none."""


class Failed(Message):
    """The run ended with an error."""

    request: Id
    kind: FailureKind
    message: Line


# Both ways.


class Credit(Message):
    """So many bytes of frames on this stream were dealt with: as many more may be sent."""

    stream: Stream
    id: Id
    bytes: Count


ToWorker = Load | Run | RunData | Cancel | Head | Data | End | Credit | Stop
ToGateway = Hello | Ready | Broken | Notice | Call | CallData | Hangup | Delta | Done | Failed | Credit

_encode = msgspec.msgpack.Encoder().encode
M = TypeVar("M")


def encode(message: ToWorker | ToGateway) -> bytes:
    """Return the whole frame of a message."""
    body = _encode(message)
    return len(body).to_bytes(4, "big") + body


class Frames(Generic[M]):
    """Cuts what arrives into messages of one set."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[M]) -> None:
        self._decode = decoder.decode
        self._buffer = bytearray()
        self.whole = 0
        """How many whole frames there have been."""

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[tuple[M, int]]:
        """Yield each message that is whole by now, with the bytes that its frame took.

        Raises:
            WireError: on a frame over the limit, or one that is no message of the set.
        """
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        try:
            while end - at >= 4:
                size = int.from_bytes(buffer[at : at + 4], "big")
                if size > FRAME_LIMIT:
                    raise WireError(f"a frame of {size} bytes is over the limit of {FRAME_LIMIT}")
                if at + 4 + size > end:
                    return
                message = self._message(bytes(buffer[at + 4 : at + 4 + size]))
                at += 4 + size
                self.whole += 1
                yield message, 4 + size
        finally:
            del buffer[:at]

    def _message(self, body: bytes) -> M:
        try:
            return self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise WireError(f"not a message of this protocol: {error}") from error


def worker_frames() -> Frames[ToWorker]:
    """Frames as a worker receives them."""
    return Frames(msgspec.msgpack.Decoder(ToWorker))


def gateway_frames() -> Frames[ToGateway]:
    """Frames as the gateway receives them."""
    return Frames(msgspec.msgpack.Decoder(ToGateway))


class Inflow:
    """A receiver's count of one stream: what arrived, what was dealt with, what to acknowledge."""

    def __init__(self) -> None:
        self._held = 0
        self._dealt = 0

    def took(self, size: int) -> None:
        """Count a frame that arrived.

        Raises:
            WireError: if the sender went over its window.
        """
        self._held += size
        if self._held > WINDOW:
            raise WireError(f"{self._held} bytes are under way on a stream whose window is {WINDOW}")

    def dealt(self, size: int) -> int:
        """Count a frame as dealt with; return the credit that is now worth sending, else 0."""
        self._dealt += size
        if self._dealt < WINDOW // 4:
            return 0
        credit, self._dealt = self._dealt, 0
        self._held -= credit
        return credit


class Outflow:
    """A sender's count of one stream."""

    def __init__(self) -> None:
        self._free = WINDOW

    def take(self, size: int) -> bool:
        """Whether a frame of this size may go now; if so it is counted."""
        if size > self._free:
            return False
        self._free -= size
        return True

    def credit(self, size: int) -> None:
        """Count what the receiver acknowledged; never more than the window."""
        self._free = min(WINDOW, self._free + size)


def line(text: str) -> str:
    """Return a text as a message can carry it."""
    return text.encode("utf-8", "replace").decode()[:4096]


def pieces(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Cut a payload into pieces that fit a message, each with whether it is the last; at least one."""
    for at in range(0, len(data) or 1, PIECE):
        yield data[at : at + PIECE], at + PIECE >= len(data)
