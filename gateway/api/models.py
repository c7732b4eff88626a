"""`GET /v1/models` and `GET /v1/models/{id}`."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.front import Front, front, grant
from gateway.api.replies import Json
from gateway.errors import AgentUnavailable
from gateway.policy import access
from gateway.runtime.supervisor import Status


async def models(request: Request) -> Response:
    """List the agents that the key may use and that can be used."""
    parts, key = front(request), grant(request)
    listed = [each for each in parts.supervisor.statuses() if each.listed and access.covers(key, each.id)]
    return Json({"object": "list", "data": [_model(parts, each) for each in listed]})


async def model(request: Request) -> Response:
    """Show one of them."""
    parts, key = front(request), grant(request)
    status = parts.supervisor.status(access.find(key, request.path_params["id"], parts.supervisor.ids()))
    if not status.listed:
        raise AgentUnavailable(f"{status.id} is {status.state}: {status.reason or 'it is still starting'}")
    return Json(_model(parts, status))


def _model(parts: Front, status: Status) -> dict[str, Any]:
    route = parts.supervisor.route(status.id)
    return {
        "id": status.id,
        "object": "model",
        "created": parts.started,
        "owned_by": status.id.partition("/")[0],
        "gateway": {"upstream": route.name, "model": route.model},
    }
