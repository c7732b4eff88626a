"""`POST /v1/chat/completions`: one run of an agent, streamed as it comes or gathered."""

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable

import anyio
import structlog
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from gateway.api import body, sse
from gateway.api.front import Front, front, grant
from gateway.api.replies import Json, error_body
from gateway.errors import AgentFailed, GatewayError, answer_to
from gateway.observe.logs import logger
from gateway.policy import access
from gateway.runtime.run import Run

ANSWER_LIMIT = 16 << 20
"""Characters of an answer that is gathered."""
STALL_SECONDS = 120.0
"""How long a client may read nothing before it is hung up on."""
STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


async def chat(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one request, as an ASGI application."""
    request = Request(scope)
    parts, key = front(request), grant(request)
    parsed = body.parse(await body.read(scope, receive, parts.settings.max_body_mb << 20))
    agent = access.find(key, parsed.model, parts.supervisor.ids())
    structlog.contextvars.bind_contextvars(agent=agent)
    answer = _Answer(parts, agent, parsed, scope["state"]["request_id"], send)
    await _while_connected(receive, answer.serve)


async def _while_connected(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Do the work, and drop it the moment that the client hangs up."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:

        async def hung_up() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(hung_up)
        try:
            await work()
        except Exception as error:  # kept out of the group, which would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure:
        raise failure


class _Answer:
    """One answer on its way."""

    def __init__(self, parts: Front, agent: str, request: body.ChatRequest, request_id: str, send: Send) -> None:
        self._parts = parts
        self._agent = agent
        self._request = request
        self._request_id = request_id
        self._send = send
        self._begun = anyio.current_time()
        self._id = f"chatcmpl-{request_id}"
        self._created = int(time.time())
        self._started = False
        self._outcome = "hung_up"

    async def serve(self) -> None:
        """Run the agent and answer; an error before the first byte is raised, one after it is an event."""
        metrics = self._parts.metrics
        in_flight = metrics.in_flight.labels(self._agent)
        in_flight.inc()
        try:
            async with self._parts.supervisor.run(self._agent, self._request.run_body(), self._request_id) as run:
                await (self._stream(run) if self._request.stream else self._gather(run))
        except GatewayError as error:
            self._outcome = answer_to(error).code
            if not self._started:
                raise
            await self._break_off(error)
        finally:
            in_flight.dec()
            metrics.requests.labels(self._agent, self._outcome).inc()
            metrics.duration.labels(self._agent).observe(anyio.current_time() - self._begun)

    async def _stream(self, run: Run) -> None:
        chunks = sse.Chunks(self._id, self._created, self._agent, self._request.usage_wanted)
        async for deltas in run.deltas():
            if not self._started:
                await self._start()
                await self._write(chunks.first())
            await self._write(b"".join(chunks.delta(delta.kind, delta.text) for delta in deltas))
        if not self._started:
            await self._start()
            await self._write(chunks.first())
        self._outcome = "ok"
        await self._write(chunks.end(run.finish_reason, run.usage), more=False)

    async def _gather(self, run: Run) -> None:
        said: defaultdict[str, list[str]] = defaultdict(list)
        size = 0
        async for deltas in run.deltas():
            if not said:
                self._first_delta()
            for delta in deltas:
                said[delta.kind].append(delta.text)
                size += len(delta.text)
            if size > ANSWER_LIMIT:
                raise AgentFailed(f"the answer is over {ANSWER_LIMIT >> 20} million characters; stream it")
        whole = sse.completion(
            self._id, self._created, self._agent, said=said, finish_reason=run.finish_reason, usage=run.usage
        )
        response = Json(whole)
        self._started, self._outcome = True, "ok"
        await self._send({"type": "http.response.start", "status": 200, "headers": response.raw_headers})
        await self._write(bytes(response.body), more=False)

    async def _start(self) -> None:
        self._started = True
        self._first_delta()
        await self._send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})

    async def _write(self, data: bytes, more: bool = True) -> None:
        try:
            with anyio.fail_after(STALL_SECONDS):
                await self._send({"type": "http.response.body", "body": data, "more_body": more})
        except OSError as error:  # a time-out is one, too
            raise body.ClientGone("the client does not read") from error

    async def _break_off(self, error: GatewayError) -> None:
        """Tell of an error in mid-stream; without `[DONE]`, for the answer is not whole."""
        answer = answer_to(error)
        self._parts.metrics.errors.labels(answer.code).inc()
        logger().info(answer.event, agent=self._agent, reason=error.message, in_stream=True)
        await self._write(sse.event(error_body(error)), more=False)

    def _first_delta(self) -> None:
        self._parts.metrics.first_delta.labels(self._agent).observe(anyio.current_time() - self._begun)
