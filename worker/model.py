"""The model provider and the runner that lead every model call of the SDK to the broker; runs in the worker."""

import dataclasses
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

import httpx2
import msgspec
from agents.run import AgentRunner
from openai import APIConnectionError, APIError, AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, ValidationError

from agents import (
    Agent,
    Model,
    ModelProvider,
    MultiProvider,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    RunResult,
    RunResultStreaming,
)
from worker import wire
from worker.calls import DEPTH, Call, CallFailed, Calls
from worker.transport import AsyncTransport

BASE_URL = "http://gateway/v1"


class GatewayProvider(ModelProvider):
    """Makes a model of any name: what the name means is for the gateway to say."""

    def __init__(self, calls: Calls, api: wire.Api, default: str) -> None:
        self._default = default
        self._api = api
        self._openai = AsyncOpenAI(
            base_url=BASE_URL,
            api_key="the gateway has the key",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=AsyncTransport(calls, own_client=False)),
        )
        self._chat = ChatClient(calls, self._openai)

    def get_model(self, model_name: str | None) -> Model:
        """Return a model that asks the gateway."""
        name = model_name or self._default
        if self._api == "responses":
            return OpenAIResponsesModel(model=name, openai_client=self._openai)
        return OpenAIChatCompletionsModel(model=name, openai_client=self._chat)  # type: ignore[arg-type]  # see ChatClient


class GatewayRunner(AgentRunner):
    """Gives our provider to every run that did not bring its own, nested runs and those of guardrails too."""

    def __init__(self, provider: GatewayProvider) -> None:
        self._provider = provider

    async def run(self, starting_agent: Agent[Any], input: Any, **kwargs: Any) -> RunResult:  # noqa: A002 - the SDK's name
        """Run with our provider."""
        token = DEPTH.set(DEPTH.get() + 1)
        try:
            return await super().run(starting_agent, input, **self._configured(kwargs))
        finally:
            DEPTH.reset(token)

    def run_sync(self, starting_agent: Agent[Any], input: Any, **kwargs: Any) -> RunResult:  # noqa: A002 - the SDK's name
        """Run with our provider."""
        token = DEPTH.set(DEPTH.get() + 1)
        try:
            return super().run_sync(starting_agent, input, **self._configured(kwargs))
        finally:
            DEPTH.reset(token)

    def run_streamed(self, starting_agent: Agent[Any], input: Any, **kwargs: Any) -> RunResultStreaming:  # noqa: A002 - the SDK's name
        """Run with our provider; the run's task copies the context as it is now."""
        token = DEPTH.set(DEPTH.get() + 1)
        try:
            return super().run_streamed(starting_agent, input, **self._configured(kwargs))
        finally:
            DEPTH.reset(token)

    def _configured(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        config = kwargs.get("run_config") or RunConfig()
        if isinstance(config, dict):
            config = RunConfig(**config)
        if type(config.model_provider) is MultiProvider:
            config = dataclasses.replace(config, model_provider=self._provider)
        return kwargs | {"run_config": config}


class ChatClient:
    """What the SDK's chat model needs of an OpenAI client, without HTTP between it and the wire.

    The model calls `chat.completions.create` and reads `base_url`, nothing else (pinned by a test).
    """

    def __init__(self, calls: Calls, openai: AsyncOpenAI) -> None:
        self.base_url = BASE_URL
        self.chat = self.completions = self
        self._calls = calls
        self._openai = openai

    async def create(self, **options: Any) -> "ChatCompletion | ChatStream":
        """Post a chat completion to the broker."""
        call = self._calls.open("chat/completions")
        try:
            head = await call.asend(_body(options))
            if head.status >= 400:
                raise self._status_error(head, await _all(call))
            if options.get("stream") is True:
                return ChatStream(call)
            answer = _parsed(ChatCompletion, await _all(call))
        except CallFailed as error:
            call.close()
            raise _connection_error(str(error)) from error
        except BaseException:
            call.close()
            raise
        call.close()
        return answer

    def _status_error(self, head: wire.Head, body: bytes) -> APIError:
        request = httpx2.Request("POST", f"{BASE_URL}/chat/completions")
        response = httpx2.Response(head.status, headers=head.headers, content=body, request=request)
        return self._openai._make_status_error_from_response(response)


class ChatStream(AsyncIterator[ChatCompletionChunk]):
    """The chunks of one answer, each validated straight from its bytes."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._chunks = self._read()

    async def __anext__(self) -> ChatCompletionChunk:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Hang up, where the answer has not ended."""
        self._call.close()
        await self._chunks.aclose()

    async def _read(self) -> Any:
        begun: list[bytes] = []
        try:
            async for data in self._call.achunks():
                *lines, rest = data.split(b"\n")
                if lines:
                    lines[0] = b"".join([*begun, lines[0]])
                    begun.clear()
                begun.append(rest)
                for line in lines:
                    event = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
                    if event.startswith(b"{"):
                        yield _chunk(event)
        except CallFailed as error:
            raise _connection_error(str(error)) from error
        finally:
            self._call.close()


def _chunk(event: bytes) -> ChatCompletionChunk:
    try:
        return ChatCompletionChunk.model_validate_json(event)
    except ValidationError:
        return _loose(ChatCompletionChunk, event)


def _parsed(kind: type[ChatCompletion], body: bytes) -> ChatCompletion:
    try:
        return kind.model_validate_json(body)
    except ValidationError:
        return _loose(kind, body)


M = TypeVar("M", ChatCompletion, ChatCompletionChunk)


def _loose(kind: type[M], body: bytes) -> M:
    """Build an answer the way openai's own client does, which forgives what a dialect leaves out."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _connection_error(f"the model's answer is not JSON: {error}") from error
    if not isinstance(data, Mapping):
        raise _connection_error(f"the model's answer is a {type(data).__name__}, not an object")
    if data.get("error"):
        message = data["error"].get("message") if isinstance(data["error"], Mapping) else data["error"]
        raise APIError(str(message), request=httpx2.Request("POST", BASE_URL), body=data["error"])
    return kind.construct(**data)


async def _all(call: Call) -> bytes:
    return b"".join([data async for data in call.achunks()])


def _body(options: dict[str, Any]) -> bytes:
    """The JSON body of a request: headers and query are the gateway's business, what is omitted stays out."""
    extra = options.pop("extra_body", None) or {}
    for name in ("extra_headers", "extra_query", "timeout"):
        options.pop(name, None)
    given = {name: value for name, value in options.items() if _given(value)}
    return msgspec.json.encode(given | extra, enc_hook=_plain)


def _given(value: object) -> bool:
    return type(value).__name__ not in ("Omit", "NotGiven")


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent to a model")


def _connection_error(message: str) -> APIConnectionError:
    return APIConnectionError(message=message, request=httpx2.Request("POST", BASE_URL))
