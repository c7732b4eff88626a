"""A real HTTP server that speaks OpenAI's dialects from a script, and fails in every way that a server can."""

import json
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import anyio
import anyio.abc

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass
class Received:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Connection:
    """One connection while a reply is given."""

    stream: anyio.abc.SocketStream
    received: Received
    sent: int = 0

    async def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.stream.send(data)
        self.sent += len(data)

    async def chunk(self, data: bytes) -> None:
        """Send a chunk of a chunked body."""
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def event(self, data: object, name: str = "") -> None:
        """Send a server-sent event."""
        head = f"event: {name}\n" if name else ""
        await self.chunk(f"{head}data: {json.dumps(data)}\n\n".encode())

    async def whole(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        """Send a whole answer."""
        lines = [f"HTTP/1.1 {status} Status", f"content-type: {kind}", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


Reply = Callable[[Connection], Awaitable[None]]


@dataclass
class ScriptedUpstream:
    """The server: replies are given in the order in which they were scripted, then `said("ok")`."""

    port: int
    received: list[Received] = field(default_factory=list)
    replies: deque[Reply] = field(default_factory=deque)
    models: list[str] = field(default_factory=lambda: ["test-model"])
    hung_up: anyio.Event = field(default_factory=anyio.Event)
    """Set when a client leaves before its answer has ended."""

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def script(self, *replies: Reply) -> None:
        """Give these replies next, and forget what came before."""
        self.replies = deque(replies)
        self.received.clear()
        self.hung_up = anyio.Event()

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        """Serve one connection until it closes."""
        async with stream:
            try:
                while received := await _request(stream):
                    await self._reply(Connection(stream, received))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
                self.hung_up.set()

    async def _reply(self, connection: Connection) -> None:
        if connection.received.path.endswith("/models"):
            listing = {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
            await connection.whole(200, json.dumps(listing).encode())
            return
        self.received.append(connection.received)
        reply = self.replies.popleft() if self.replies else said("ok")
        await reply(connection)


async def _request(stream: anyio.abc.SocketStream) -> Received | None:
    data = b""
    while b"\r\n\r\n" not in data:
        try:
            data += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return None
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += await stream.receive()
    method, path, _ = first.split(" ")
    return Received(method, path, headers, json.loads(body) if body else None)


@asynccontextmanager
async def scripted_upstream() -> AsyncIterator[ScriptedUpstream]:
    """Serve on a free port of the loopback interface."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        server = ScriptedUpstream(port)
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()


USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def _chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "id": "chatcmpl-up",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "test-model",
        "choices": [choice],
    }


async def _finish(connection: Connection, finish: str) -> None:
    await connection.event(_chunk({}, finish))
    await connection.event(_chunk({}) | {"choices": [], "usage": USAGE})
    await connection.chunk(b"data: [DONE]\n\n")
    await connection.raw(b"0\r\n\r\n")


def said(*words: str, pause: float = 0.0, finish: str = "stop", hold: anyio.Event | None = None) -> Reply:
    """Say words, where a stream is asked for with pauses between them; `hold` is awaited before the last."""

    async def reply(connection: Connection) -> None:
        if not connection.received.body.get("stream"):
            await connection.whole(200, json.dumps(_completion("".join(words), finish)).encode())
            return
        await connection.raw(HEAD)
        for index, word in enumerate(words):
            if hold is not None and index == len(words) - 1:
                await hold.wait()
            elif index:
                await anyio.sleep(pause)
            await connection.event(_chunk({"role": "assistant", "content": word}))
        await _finish(connection, finish)

    return reply


def _completion(text: str, finish: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    whole = {"id": "chatcmpl-up", "object": "chat.completion", "created": 1, "model": "test-model"}
    return whole | {"choices": [choice], "usage": USAGE}


_ids = count()


def called(name: str, arguments: dict[str, Any], before: str = "") -> Reply:
    """Call a tool, with some text before it."""

    async def reply(connection: Connection) -> None:
        await connection.raw(HEAD)
        if before:
            await connection.event(_chunk({"role": "assistant", "content": before}))
        function = {"name": name, "arguments": json.dumps(arguments)}
        call = {"index": 0, "id": f"call_{next(_ids)}", "type": "function", "function": function}
        await connection.event(_chunk({"role": "assistant", "tool_calls": [call]}))
        await _finish(connection, "tool_calls")

    return reply


def responded(*words: str, status: str = "completed", details: dict[str, str] | None = None) -> Reply:
    """Stream words in the responses dialect."""

    async def reply(connection: Connection) -> None:
        await connection.raw(HEAD)
        for data in _response_events(words, status, details):
            await connection.event(data, data["type"])
        await connection.raw(b"0\r\n\r\n")

    return reply


def _response_events(words: tuple[str, ...], status: str, details: dict[str, str] | None) -> list[dict[str, Any]]:
    text = {"type": "output_text", "text": "".join(words), "annotations": [], "logprobs": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [text]}
    usage = {
        "input_tokens": 10,
        "output_tokens": 5,
        "total_tokens": 15,
        "input_tokens_details": {"cached_tokens": 3},
        "output_tokens_details": {"reasoning_tokens": 2},
    }
    base = {"id": "resp_1", "object": "response", "created_at": 1, "model": "test-model", "tools": []}
    base |= {"parallel_tool_calls": True, "tool_choice": "auto", "output": []}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    end = {"status": status, "output": [item], "usage": usage, "incomplete_details": details}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": base | {"status": "in_progress"}}]
    events.append({"type": "response.output_item.added", "output_index": 0, "item": item | {"content": []}})
    events += [{"type": "response.output_text.delta", "delta": word, "logprobs": []} | place for word in words]
    events.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    events.append({"type": f"response.{status}", "response": base | end})
    return [event | {"sequence_number": number} for number, event in enumerate(events)]


def answered(status: int, body: object = None, kind: str = "application/json", **headers: str) -> Reply:
    """Answer with a status, and a JSON body or bytes of another kind."""

    async def reply(connection: Connection) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await connection.whole(status, data, kind, **headers)

    return reply


async def cut_in_mid_line(connection: Connection) -> None:
    """Send half a line of an event, and close as if it were all."""
    await connection.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    await connection.raw(f"data: {json.dumps(_chunk({'content': 'half'}))}\n\n".encode() + b'data: {"id": "chatc')
    await connection.stream.aclose()


async def silent(connection: Connection) -> None:
    """Accept the request and say nothing until the client leaves."""
    await connection.stream.receive()


def endless(word: str) -> Reply:
    """Say the same word until the client leaves."""

    async def reply(connection: Connection) -> None:
        await connection.raw(HEAD)
        while True:
            await connection.event(_chunk({"content": word}))

    return reply


def delta_chunks(*deltas: dict[str, Any], finish: str = "stop") -> Reply:
    """Stream chunks with these deltas, whatever is in them."""

    async def reply(connection: Connection) -> None:
        await connection.raw(HEAD)
        for delta in deltas:
            await connection.event(_chunk(delta))
        await _finish(connection, finish)

    return reply


def streamed(*events: object, named: bool = False) -> Reply:
    """Stream these events and end the body; bytes go out as they are, other things as JSON."""

    async def reply(connection: Connection) -> None:
        await _head(connection)
        for data in events:
            if isinstance(data, bytes):
                await connection.chunk(data)
            else:
                await connection.event(data, data["type"] if named and isinstance(data, dict) else "")
        await connection.raw(b"0\r\n\r\n")

    return reply


def began(*words: str, then: Reply) -> Reply:
    """Begin to say words, and then do something else on the same connection."""

    async def reply(connection: Connection) -> None:
        await connection.raw(HEAD)
        for word in words:
            await connection.event(_chunk({"role": "assistant", "content": word}))
        await then(connection)

    return reply


async def _head(connection: Connection) -> None:
    """Send the head of an answer that has not begun."""
    if not connection.sent:
        await connection.raw(HEAD)


async def reset(connection: Connection) -> None:
    """Reset the connection."""
    raw = connection.stream.extra(anyio.abc.SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await connection.stream.aclose()


async def hang_up(connection: Connection) -> None:
    """Close the connection as if all were said."""
    await connection.stream.aclose()


async def one_line(connection: Connection) -> None:
    """Send bytes without a line's end until the client leaves."""
    await _head(connection)
    await connection.chunk(b"data: ")
    while True:
        await connection.chunk(b"x" * 65536)
