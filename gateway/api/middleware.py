"""Around every request: an id, one line at its end, and our headers."""

import re
import time
import uuid

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.body import ClientGone
from gateway.observe.logs import logger

ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Requests:
    """Gives each request its id: the client's own `x-request-id` where it is a plain one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        id_ = given if ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = id_
        begun, status = time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", id_.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=id_):
            try:
                await self._app(scope, receive, answer)
            except ClientGone:
                pass
            finally:
                seconds = round(time.monotonic() - begun, 4)
                path = scope["path"][:200]
                logger().info("request.end", method=scope["method"], path=path, status=status, seconds=seconds)
