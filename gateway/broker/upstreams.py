"""The model servers: which of them can be used, what models they have, and where an agent's calls go."""

import fnmatch
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import anyio
import httpx2
import msgspec

from gateway.broker import demo
from gateway.errors import NoUpstream, StartError
from gateway.observe.diagnostics import Diagnostic, Diagnostics
from gateway.policy.documents import Upstream, Upstreams

PROBE_SECONDS = 2.0
LISTING_SECONDS = 300.0
"""How long a listing of models is believed."""
RETRY_SECONDS = 15.0
"""How long a listing that could not be had is not asked for again."""
NAMES = 5000
"""Models that are remembered of one upstream."""


@dataclass(frozen=True)
class Route:
    """Where an agent's model calls go when it says nothing else."""

    name: str
    """The upstream's name; empty if there is none, or none that can be used."""
    api: Literal["chat_completions", "responses"] = "chat_completions"
    model: str = ""


class Server:
    """One upstream, and what is known of it."""

    def __init__(self, name: str, policy: Upstream, client: httpx2.AsyncClient) -> None:
        self.name = name
        self.policy = policy
        self.host = _host(policy.base_url)
        self.problem = "it has no key" if policy.lacks_key else ""
        """Why it could not be used when it was last asked."""
        self.models: tuple[str, ...] | None = ("demo",) if policy.kind == "demo" else None
        """The models it listed; None where it did not."""
        self._client = client
        self._asked = float("-inf")
        self._asking = anyio.Lock()

    @property
    def key(self) -> str:
        """The operator's key for it, or nothing."""
        return self.policy.api_key.get_secret_value() if self.policy.api_key else ""

    async def probe(self) -> None:
        """Ask which models it has, unless that is known, or has just been asked."""
        pause = RETRY_SECONDS if self.models is None else LISTING_SECONDS
        if self.policy.kind == "demo" or time.monotonic() - self._asked < pause:
            return
        async with self._asking:
            if time.monotonic() - self._asked >= pause:
                with anyio.move_on_after(PROBE_SECONDS) as scope:
                    await self._ask()
                if scope.cancelled_caught:
                    self.problem = f"it did not answer within {PROBE_SECONDS:g} s"
                self._asked = time.monotonic()

    async def _ask(self) -> None:
        try:
            response = await self._client.get(f"{self.policy.base_url}/models", headers=self.headers())
            response.raise_for_status()
            listing = msgspec.json.decode(response.content)["data"]
            self.models = tuple(str(each["id"])[:256] for each in listing[:NAMES])
            self.problem = ""
        except httpx2.ConnectError:
            self.problem = "nothing answers there"
        except httpx2.HTTPStatusError as error:
            self.problem = f"GET /models answered {error.response.status_code}"
        except (httpx2.HTTPError, msgspec.MsgspecError, ValueError, KeyError, TypeError, RecursionError) as error:
            self.problem = self.without_key(f"GET /models: {str(error) or type(error).__name__}")

    def headers(self) -> dict[str, str]:
        """The headers of every request to it."""
        headers = {"accept-encoding": "identity", "user-agent": "agent-gateway"}
        return headers | {"authorization": f"Bearer {self.key}"} if self.key else headers

    def without_key(self, text: str) -> str:
        """Return its words without the key, which an upstream may quote."""
        return text.replace(self.key, "***") if self.key else text

    def model_for(self, asked: str, default: str) -> str:
        """Return its name for a model: as listed, as mapped, or the default; empty where there is none."""
        lower = {name.lower(): name for name in self.models or ()}
        if asked and asked.lower() in lower:
            return lower[asked.lower()]
        for pattern, name in self.policy.models.items():
            if asked and fnmatch.fnmatchcase(asked.lower(), pattern.lower()):
                return name
        if asked and self.models is None:
            return default if default and asked.lower() == default.lower() else asked
        return default or self.policy.model or (self.models[0] if self.models else "")

    @asynccontextmanager
    async def post(self, path: str, body: Mapping[str, Any], request_id: str) -> AsyncIterator[httpx2.Response]:
        """Send a request and yield the answer, its body not yet read."""
        method = "GET" if path == "models" else "POST"
        request = self._client.build_request(
            method,
            f"{self.policy.base_url}/{path}",
            content=msgspec.json.encode(body) if method == "POST" else None,
            headers=self.headers() | {"content-type": "application/json", "x-request-id": request_id},
            timeout=httpx2.Timeout(None, connect=self.policy.timeouts.connect, pool=self.policy.timeouts.connect),
        )
        if self.policy.kind == "demo":
            yield httpx2.Response(200, headers=demo.headers(body), content=demo.answer(path, body), request=request)
            return
        response = await self._client.send(request, stream=True)
        try:
            yield response
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()


class Servers:
    """All upstreams of the document."""

    def __init__(
        self,
        document: Upstreams,
        client: httpx2.AsyncClient,
        diagnostics: Diagnostics,
        default_upstream: str = "",
        default_model: str = "",
    ) -> None:
        self._servers = {name: Server(name, policy, client) for name, policy in document.upstreams.items()}
        self._default = default_upstream or document.default
        self._default_model = default_model
        self._diagnostics = diagnostics
        self._told: set[tuple[str, str, str]] = set()
        self.default: Server | None = None
        """The upstream of agents that name none."""

    def __iter__(self) -> Iterator[Server]:
        return iter(self._servers.values())

    def __contains__(self, name: str) -> bool:
        return name in self._servers

    async def choose(self) -> None:
        """Ask all upstreams side by side, and settle on the default.

        Raises:
            StartError: if the default that was asked for does not exist.
        """
        if self._default not in ("auto", *self._servers):
            known = ", ".join(self._servers)
            raise StartError(f"GATEWAY_DEFAULT_UPSTREAM is {self._default!r}; the document has {known}")
        async with anyio.create_task_group() as tasks:
            for server in self._servers.values():
                if not server.policy.lacks_key:
                    tasks.start_soon(server.probe)
        self.default = self._servers.get(self._default) or next(filter(_usable, self._servers.values()), None)

    def route(self, upstream: str, model: str) -> Route:
        """Return where the calls of an agent go that asks for this upstream and model, which may both be empty."""
        try:
            server = self.pick(upstream, "")
        except NoUpstream:
            return Route("", model=model)
        return Route(server.name, server.policy.api, server.model_for(model, self.default_model(server)))

    def default_model(self, server: Server) -> str:
        """The model that is taken on an upstream where a call names none that it has."""
        if server is self.default and self._default_model:
            return self._default_model
        return server.policy.model

    def pick(self, upstream: str, host: str) -> Server:
        """Return the upstream at a host, if it has its key, else the named one, else the default.

        Raises:
            NoUpstream: if there is none, or it has no key.
        """
        there = (each for each in self._servers.values() if host and each.host == host and not each.policy.lacks_key)
        server = next(there, None)
        if server is None:
            server = self._servers.get(upstream) if upstream else self.default
        if server is None:
            known = ", ".join(self._servers)
            raise NoUpstream(
                f"there is no upstream {upstream!r}; the document has {known}" if upstream else NONE_USABLE
            )
        if server.policy.lacks_key:
            raise NoUpstream(f"upstream {server.name} has no key: set the variable that its api_key names")
        return server

    def replaced(self, agent: str, asked: str, taken: str, server: Server) -> None:
        """Note that an agent's model was replaced, once for each."""
        if (agent, asked, server.name) in self._told or len(self._told) > NAMES:
            return
        self._told.add((agent, asked, server.name))
        message = f"upstream {server.name} has no model {asked[:100]!r}: {taken!r} is used instead"
        remedy = "to choose another, map it under `models` in policies/upstreams.yaml"
        self._diagnostics.report(Diagnostic("upstream", message, agent=agent, severity="warning", remedy=remedy))


NONE_USABLE = "no upstream can be used: start one of those in policies/upstreams.yaml, or set its key"


def _usable(server: Server) -> bool:
    if server.policy.kind == "demo" or server.policy.api_key:
        return True
    return not server.policy.lacks_key and server.models is not None


def _host(base_url: str) -> str:
    parts = urlsplit(base_url)
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}" if base_url else ""
