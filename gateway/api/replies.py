"""Errors and JSON as the API sends them."""

from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import GatewayError, MethodNotAllowed, RouteNotFound, answer_to
from gateway.observe.logs import logger


class Json(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode with msgspec."""
        return msgspec.json.encode(content, enc_hook=str)


def error_body(error: BaseException) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    answer = answer_to(error)
    return {
        "error": {
            "message": error.message if isinstance(error, GatewayError) else "the gateway failed; its log says more",
            "type": answer.type,
            "param": error.param if isinstance(error, GatewayError) else None,
            "code": answer.code,
        }
    }


async def on_gateway_error(request: Request, error: Exception) -> Response:
    """Answer a failure."""
    answer = answer_to(error)
    retry = getattr(error, "retry_after", None)
    headers = {"retry-after": str(retry)} if retry else {}
    if answer.status == 401:
        headers["www-authenticate"] = "Bearer"
    request.app.state.front.metrics.errors.labels(answer.code).inc()
    logger().info(answer.event, path=request.url.path, status=answer.status, reason=str(error)[:500])
    return Json(error_body(error), status_code=answer.status, headers=headers)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the router itself refuses."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    path, method = request.url.path[:200], request.method
    if status == 405:
        return await on_gateway_error(request, MethodNotAllowed(f"{method} is not for {path}"))
    return await on_gateway_error(request, RouteNotFound(f"there is no {path}; the API begins at /v1"))


async def on_bug(request: Request, error: Exception) -> Response:
    """Answer an exception that nobody expected, without a word of it."""
    logger().error("gateway.bug", path=request.url.path, exc_info=error)
    request.app.state.front.metrics.errors.labels(answer_to(error).code).inc()
    return Json(error_body(error), status_code=500)
