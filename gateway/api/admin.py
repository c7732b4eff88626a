"""What operators look at: health, metrics, diagnostics."""

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.front import admin, front, is_admin
from gateway.api.replies import Json


async def health(request: Request) -> Response:
    """Say that the gateway lives; to an admin, how every agent is."""
    if not is_admin(request):
        return Json({"status": "ok"})
    parts = front(request)
    default = parts.servers.default
    return Json(
        {
            "status": "ok",
            "walls": parts.supervisor.walls(),
            "agents": [asdict(each) for each in parts.supervisor.statuses()],
            "upstream": default.name if default else None,
            "upstreams": {each.name: each.problem or "ok" for each in parts.servers},
        }
    )


async def errors(request: Request) -> Response:
    """List what is wrong, with tracebacks."""
    admin(request)
    return Json({"errors": [each.public() for each in front(request).diagnostics]})


async def metrics(request: Request) -> Response:
    """Return all metrics as JSON."""
    _guard(request)
    return Json(front(request).metrics.snapshot())


async def prometheus(request: Request) -> Response:
    """Return all metrics as Prometheus reads them."""
    _guard(request)
    return Response(front(request).metrics.prometheus(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _guard(request: Request) -> None:
    """Metrics are open on this machine, and an admin's elsewhere; the bound address decides, not the peer's."""
    if not front(request).loopback:
        admin(request)
