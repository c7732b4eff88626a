"""What every endpoint needs: who asks, and the parts that answer."""

import time
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from gateway.broker.upstreams import Servers
from gateway.errors import NoKey, NotAllowed
from gateway.observe.diagnostics import Diagnostics
from gateway.observe.metrics import Metrics
from gateway.policy.access import Grant
from gateway.policy.keys import Keys
from gateway.runtime.supervisor import Supervisor
from gateway.settings import Settings


@dataclass(frozen=True)
class Front:
    """The parts behind the front door."""

    settings: Settings
    keys: Keys
    supervisor: Supervisor
    servers: Servers
    metrics: Metrics
    diagnostics: Diagnostics
    loopback: bool
    """Whether the address that is bound can be reached from this machine only."""
    started: int = field(default_factory=lambda: int(time.time()))


def front(connection: HTTPConnection) -> Front:
    """Return the parts of this app."""
    found = connection.app.state.front
    assert isinstance(found, Front)  # noqa: S101 - the composition root put it there
    return found


def grant(connection: HTTPConnection) -> Grant:
    """Return what the request's key opens.

    Raises:
        NoKey: if it has none that is known.
    """
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else connection.headers.get("x-api-key", "")
    return front(connection).keys.find(key)


def admin(connection: HTTPConnection) -> None:
    """Let only an admin's key pass.

    Raises:
        AccessError: for all others.
    """
    if not grant(connection).admin:
        raise NotAllowed("this needs an admin's key")


def is_admin(connection: HTTPConnection) -> bool:
    """Whether the request has an admin's key."""
    try:
        return grant(connection).admin
    except NoKey:
        return False
