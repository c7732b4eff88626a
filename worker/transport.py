"""HTTP transports that lead to the broker, put under every httpx client of the worker; runs in the worker.

A request of an openai client goes to the broker, without the key that the agent gave it; any other has no network.
"""

import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import httpx2

from worker import wire
from worker.calls import Call, CallFailed, Calls

NO_NETWORK = (
    "this agent has no network: the request to {host} was not sent. Models are reached through the gateway,"
    " by the SDK or an openai client"
)
PATHS: tuple[wire.Path, ...] = ("chat/completions", "responses", "embeddings", "models")


class AsyncTransport(httpx2.AsyncBaseTransport):
    """Sends what an async client asks to the broker."""

    def __init__(self, calls: Calls, *, own_client: bool, library: Any = httpx2) -> None:
        self._calls = calls
        self._own_client = own_client
        self._library = library

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Make a call of the request."""
        path = _path(request, self._library)
        body, call = await request.aread(), None
        try:
            call = self._calls.open(path, _host(request) if self._own_client else "")
            head = await call.asend(body)
        except CallFailed as error:
            _close(call)
            return _refusal(self._library, request, error)
        except BaseException:
            _close(call)
            raise
        return _response(self._library, request, head, _async_body(self._library, request, call))


class SyncTransport(httpx2.BaseTransport):
    """Sends what a sync client asks to the broker."""

    def __init__(self, calls: Calls, library: Any = httpx2) -> None:
        self._calls = calls
        self._library = library

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Make a call of the request."""
        path = _path(request, self._library)
        body, call = request.read(), None
        try:
            call = self._calls.open(path, _host(request))
            head = call.send(body)
        except CallFailed as error:
            _close(call)
            return _refusal(self._library, request, error)
        except BaseException:
            _close(call)
            raise
        return _response(self._library, request, head, _sync_body(self._library, request, call))


def _close(call: Call | None) -> None:
    if call:
        call.close()


def _refusal(library: Any, request: httpx2.Request, error: CallFailed) -> httpx2.Response:
    """An answer with the reason: of a connection error openai's clients show no word."""
    body = {"error": {"message": str(error), "type": "invalid_request_error", "param": None, "code": "not_brokered"}}
    headers = {"x-should-retry": "false"}
    return cast(httpx2.Response, library.Response(403, headers=headers, json=body, request=request))


def _response(library: Any, request: httpx2.Request, head: wire.Head, body: object) -> httpx2.Response:
    return cast(httpx2.Response, library.Response(head.status, headers=head.headers, stream=body, request=request))


def _async_body(library: Any, request: httpx2.Request, call: Call) -> object:
    base: Any = library.AsyncByteStream

    class Body(base):  # type: ignore[misc]  # httpx2's or httpx's, whose streams are checked by class
        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                async for data in call.achunks():
                    yield data
            except CallFailed as error:
                raise library.ReadError(str(error), request=request) from error

        async def aclose(self) -> None:
            call.close()

    return Body()


def _sync_body(library: Any, request: httpx2.Request, call: Call) -> object:
    base: Any = library.SyncByteStream

    class Body(base):  # type: ignore[misc]  # as above
        def __iter__(self) -> Iterator[bytes]:
            try:
                yield from call.chunks()
            except CallFailed as error:
                raise library.ReadError(str(error), request=request) from error

        def close(self) -> None:
            call.close()

    return Body()


def catch_all(calls: Calls) -> None:
    """Put our transports under every client of httpx2 and httpx that agent code makes from now on, or made before."""
    for name in ("httpx2", "httpx"):
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        _replace(
            library.AsyncHTTPTransport,
            AsyncTransport(calls, own_client=True, library=library).handle_async_request,
        )
        _replace(library.HTTPTransport, SyncTransport(calls, library=library).handle_request)


def _replace(transport: Any, handle: Callable[[Any], Any]) -> None:
    def handler(_: object, request: Any) -> Any:
        return handle(request)

    setattr(transport, handle.__name__, handler)


def _path(request: httpx2.Request, library: Any) -> wire.Path:
    """The broker's path of an openai client's request; any other request is refused."""
    if any(name.startswith("x-stainless-") for name in request.headers):
        for path in PATHS:
            if request.url.path.endswith("/" + path):
                return path
        raise library.ConnectError(f"the gateway brokers {', '.join(PATHS)}, not {request.url.path}", request=request)
    raise library.ConnectError(NO_NETWORK.format(host=request.url.host), request=request)


def _host(request: httpx2.Request) -> str:
    return f"{request.url.host}:{request.url.port or (443 if request.url.scheme == 'https' else 80)}"
