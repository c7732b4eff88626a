"""Serves the model calls of workers: picks the upstream, puts in the key, streams the answer back, counts."""

import math
from typing import Any, Literal, Protocol

import anyio
import httpx2
import msgspec

from gateway.broker.counting import BODY_LIMIT, Count, Whole, read_whole
from gateway.broker.upstreams import Server, Servers
from gateway.errors import (
    GatewayError,
    NoUpstream,
    UpstreamError,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamTooSlow,
    answer_to,
)
from gateway.observe.logs import logger
from gateway.observe.metrics import Metrics
from gateway.observe.usage import Usage

ERROR_LIMIT = 64 << 10
"""Bytes of an upstream's error that are read."""
REFUSALS = (400, 413, 422)
"""Statuses that are about the request, not about the upstream's health."""
MESSAGE = 1000
"""Characters of an upstream's words that are passed on; cut only after the key is out of them."""
TRAILER_SECONDS = 0.5
"""How long the end of a body may come after the end of its answer."""
PASSED_ON = ("content-type", "retry-after", "x-request-id")


class Exchange(Protocol):
    """One model call of a worker; see `runtime.exchange`."""

    agent: str
    request_id: str
    upstream: str
    model: str
    path: Literal["chat/completions", "responses", "embeddings", "models"]
    host: str
    begun: bool
    usage: Usage | None
    finish: str
    error: GatewayError | None

    async def body(self) -> bytes:
        """Await the whole body."""

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Send the beginning of the answer."""

    async def data(self, data: bytes) -> None:
        """Send bytes of the answer, as fast as the worker takes them."""

    def end(self, error: str = "") -> None:
        """Send the end of the answer."""


class ModelBroker:
    """Answers model calls."""

    def __init__(self, servers: Servers, metrics: Metrics) -> None:
        self._servers = servers
        self._metrics = metrics

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one call; whatever goes wrong is told to the worker and kept in the exchange."""
        server = None
        outcome = "cancelled"
        try:
            server = self._servers.pick(exchange.upstream, exchange.host)
            await self._serve(exchange, server)
            exchange.end()
            outcome = "ok"
        except GatewayError as error:
            outcome = answer_to(error).code
            await self._refuse(exchange, server, error)
        finally:
            self._count(exchange, server.name if server else "none", outcome)

    async def _serve(self, exchange: Exchange, server: Server) -> None:
        body = _decode(await exchange.body()) if exchange.path != "models" else {}
        await server.probe()
        if exchange.path in ("chat/completions", "responses"):
            self._prepare(exchange, server, body)
        timeouts = server.policy.timeouts
        with anyio.CancelScope() as scope:
            scope.deadline = anyio.current_time() + timeouts.first_byte
            try:
                async with server.post(exchange.path, body, exchange.request_id) as response:
                    await self._relay(exchange, response, body, scope, timeouts.between_bytes)
            except httpx2.TimeoutException as error:
                raise UpstreamTooSlow(f"upstream {server.name} could not be connected to in time") from error
            except (httpx2.HTTPError, OSError) as error:
                raise UpstreamFailed(f"upstream {server.name}: {str(error) or type(error).__name__}") from error
        if scope.cancelled_caught:
            raise UpstreamTooSlow(f"upstream {server.name} sent nothing for too long")

    def _prepare(self, exchange: Exchange, server: Server, body: dict[str, Any]) -> None:
        """Put in the model as the upstream calls it, and ask for usage."""
        if exchange.path == "responses" and server.policy.api == "chat_completions":
            raise UpstreamRefused(f"upstream {server.name} speaks chat completions; the agent asked for responses")
        asked = str(body.get("model") or exchange.model or "")
        taken = server.model_for(asked, self._servers.default_model(server))
        if not taken and server.problem:
            raise UpstreamFailed(f"upstream {server.name} cannot be used: {server.problem}")
        if not taken:
            raise NoUpstream(f"upstream {server.name} lists no model: name one with `model` in policies/upstreams.yaml")
        if asked and taken.lower() != asked.lower():
            self._servers.replaced(exchange.agent, asked, taken, server)
        body["model"] = taken
        if body.get("stream") is True and exchange.path == "chat/completions":
            options = body.get("stream_options")
            body["stream_options"] = (options if isinstance(options, dict) else {}) | {"include_usage": True}

    async def _relay(
        self,
        exchange: Exchange,
        response: httpx2.Response,
        body: dict[str, Any],
        scope: anyio.CancelScope,
        pause: float,
    ) -> None:
        """Pass an answer on as it comes. While the worker is not ready for more, the upstream's time stands still."""
        if response.status_code != 200:
            raise await _refusal(response)
        headers = {name: response.headers[name][:4096] for name in PASSED_ON if name in response.headers}
        if not await _is_stream(response, body):
            whole = await _whole(response)
            exchange.usage, exchange.finish = whole.usage, whole.finish
            exchange.head(200, headers)
            scope.deadline = math.inf
            await exchange.data(whole.content)
            return
        count = Count()
        chunks = response.aiter_bytes()
        async for data in chunks:
            scope.deadline = math.inf
            count.feed(data)
            exchange.usage, exchange.finish = count.usage, count.finish
            if not exchange.begun:
                exchange.head(200, headers)
            await exchange.data(data)
            scope.deadline = anyio.current_time() + pause
            if count.done:
                break
        count.end()
        with anyio.move_on_after(TRAILER_SECONDS):  # the end of the body, so that the connection can be used again
            async for _ in chunks:
                pass

    async def _refuse(self, exchange: Exchange, server: Server | None, error: GatewayError) -> None:
        """Tell the worker, in OpenAI's words where the answer has not begun, so that an agent's own handling works."""
        error.reword(server.without_key(error.message)[:MESSAGE] if server else error.message[:MESSAGE])
        begun, exchange.error = exchange.begun, error
        answer = answer_to(error)
        logger().warning(
            answer.event,
            agent=exchange.agent,
            request_id=exchange.request_id,
            upstream=server.name if server else "",
            reason=error.message,
        )
        if not begun:
            status = error.upstream_status if isinstance(error, UpstreamError) else None
            exchange.head(status or answer.status, {"content-type": "application/json", "x-should-retry": "false"})
            shown = {"message": error.message, "type": answer.type, "code": answer.code, "param": None}
            await exchange.data(msgspec.json.encode({"error": shown}))
        exchange.end(error.message if begun else "")

    def _count(self, exchange: Exchange, upstream: str, outcome: str) -> None:
        self._metrics.model_calls.labels(upstream, outcome).inc()
        if exchange.usage:
            tokens = self._metrics.tokens
            tokens.labels(exchange.agent, upstream, "prompt").inc(exchange.usage.prompt)
            tokens.labels(exchange.agent, upstream, "completion").inc(exchange.usage.completion)


def _decode(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamRefused(f"the agent's request to the model is not a JSON object: {error}") from None


async def _is_stream(response: httpx2.Response, body: dict[str, Any]) -> bool:
    """Whether the answer is a stream, as it must be if one was asked for."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    asked = body.get("stream") is True
    expected = "text/event-stream" if asked else "application/json"
    if kind != expected:
        words = await _read_words(response) if kind == "application/json" else ""
        raise UpstreamFailed(f"the upstream answered with {kind or 'no content type'}, not {expected}: {words}")
    return asked


async def _whole(response: httpx2.Response) -> Whole:
    """An answer that is no stream; none of it goes on before it is known to be one."""
    raw = bytearray()
    async for data in response.aiter_bytes():
        raw += data
        if len(raw) > BODY_LIMIT:
            raise UpstreamFailed(f"the upstream's answer is over {BODY_LIMIT >> 20} MiB")
    return read_whole(bytes(raw))


async def _read_words(response: httpx2.Response) -> str:
    raw = bytearray()
    async for data in response.aiter_bytes():
        raw += data
        if len(raw) > ERROR_LIMIT:
            break
    return _words(bytes(raw[:ERROR_LIMIT]))


async def _refusal(response: httpx2.Response) -> UpstreamError:
    """The error that an upstream answered with, in its own words."""
    message = await _read_words(response) or response.reason_phrase
    text = f"the upstream answered {response.status_code}: {message}"
    after = response.headers.get("retry-after", "")
    retry_after = int(after) if after.isdecimal() and len(after) < 6 else None
    kind = UpstreamRefused if response.status_code in REFUSALS else UpstreamFailed
    error = kind(text, retry_after=retry_after)
    error.upstream_status = response.status_code if response.status_code >= 400 else None
    return error


def _words(raw: bytes) -> str:
    try:
        data = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "" if raw.lstrip().startswith(b"<") else raw.decode("utf-8", "replace")
    error = data.get("error", data) if isinstance(data, dict) else data
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)
