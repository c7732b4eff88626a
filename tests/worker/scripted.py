"""A stand-in for the client under the SDK's chat model: it notes what is touched, and plays answers from a list."""

from collections.abc import AsyncIterator
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk


class ScriptedClient:
    """An OpenAI client as far as the chat model uses it; each answer is the `choices[0]` of its chunks."""

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self.touched: set[str] = set()
        self.asked: list[dict[str, Any]] = []
        self._answers = list(answers)

    def __getattr__(self, name: str) -> Any:
        self.touched.add(name)
        if name == "base_url":
            return "http://gateway/v1"
        if name in ("chat", "completions"):
            return self
        if name == "create":
            return self._create
        raise AttributeError(name)

    async def _create(self, **options: Any) -> Any:
        self.asked.append(options)
        choices = self._answers.pop(0)
        if options.get("stream") is True:
            return self._chunks(choices)
        return ChatCompletion.model_validate(BASE | {"object": "chat.completion", "choices": choices})

    async def _chunks(self, choices: list[dict[str, Any]]) -> AsyncIterator[ChatCompletionChunk]:
        for choice in choices:
            chunk = BASE | {"object": "chat.completion.chunk", "choices": [{"index": 0} | choice]}
            yield ChatCompletionChunk.model_validate(chunk)


BASE: dict[str, Any] = {"id": "x", "created": 1, "model": "m"}


def says(text: str, finish: str | None = "stop") -> list[dict[str, Any]]:
    """A turn that says a text."""
    said = [{"delta": {"role": "assistant", "content": text}}]
    return [*said, {"delta": {}, "finish_reason": finish}] if finish else said


def calls(name: str, id_: str, arguments: str = "{}") -> list[dict[str, Any]]:
    """A turn that calls a tool."""
    call = {"index": 0, "id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
    return [{"delta": {"role": "assistant", "tool_calls": [call]}}, {"delta": {}, "finish_reason": "tool_calls"}]
