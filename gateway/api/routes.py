"""The HTTP application: which path leads where."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.api import admin, chat, models
from gateway.api.front import Front
from gateway.api.middleware import Requests
from gateway.api.replies import on_bug, on_gateway_error, on_http_error
from gateway.errors import GatewayError


class _Chat:
    """The chat endpoint as an ASGI application, which routes take only as an object."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await chat.chat(scope, receive, send)


def application(front: Front) -> Starlette:
    """Return the application in front of these parts."""
    routes = [
        Route("/v1/chat/completions", _Chat(), methods=["POST"]),
        Route("/v1/models", models.models),
        Route("/v1/models/{id:path}", models.model),
        Route("/health", admin.health),
        Route("/metrics", admin.metrics),
        Route("/admin/metrics", admin.metrics),
        Route("/admin/agents/errors", admin.errors),
    ]
    if front.settings.prometheus_enabled:
        routes.append(Route("/metrics/prometheus", admin.prometheus))
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Requests)],
        exception_handlers={GatewayError: on_gateway_error, HTTPException: on_http_error, Exception: on_bug},
    )
    app.router.redirect_slashes = False
    app.state.front = front
    return app
