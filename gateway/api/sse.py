"""Chat completions as OpenAI's API has them: chunks of a stream, and whole answers; made here, never by a worker."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from gateway.observe.usage import Usage

DONE = b"data: [DONE]\n\n"


class Delta(msgspec.Struct, omit_defaults=True):
    """What a chunk adds."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    refusal: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET


class Choice(msgspec.Struct):
    """The one choice of a chunk."""

    delta: Delta
    finish_reason: str | None = None
    index: int = 0
    logprobs: None = None


class Chunk(msgspec.Struct):
    """One event of a stream."""

    id: str
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: dict[str, Any] | UnsetType | None = UNSET
    object: str = "chat.completion.chunk"


FIELDS = {"text": "content", "reasoning": "reasoning_content", "refusal": "refusal"}
"""The field of a delta or a message for each kind of what an agent says."""

_encode = msgspec.json.Encoder().encode


def event(data: object) -> bytes:
    """Return a server-sent event."""
    return b"data: " + _encode(data) + b"\n\n"


def usage_body(usage: Usage) -> dict[str, Any]:
    """Return usage in OpenAI's shape."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


class Chunks:
    """Makes the chunks of one answer."""

    def __init__(self, id_: str, created: int, model: str, usage_wanted: bool) -> None:
        self._id = id_
        self._created = created
        self._model = model
        self._usage: UnsetType | None = None if usage_wanted else UNSET
        self._usage_wanted = usage_wanted

    def first(self) -> bytes:
        """Return the chunk that opens the answer."""
        return self._chunk(Choice(Delta(role="assistant", content="")))

    def delta(self, kind: str, text: str) -> bytes:
        """Return a chunk of what the agent says."""
        return self._chunk(Choice(Delta(**{FIELDS[kind]: text})))

    def end(self, finish_reason: str, usage: Usage | None) -> bytes:
        """Return the chunks that close the answer, and `[DONE]`."""
        closing = self._chunk(Choice(Delta(), finish_reason))
        if self._usage_wanted:
            counted = usage_body(usage) if usage else None
            closing += event(Chunk(self._id, self._created, self._model, (), counted))
        return closing + DONE

    def _chunk(self, choice: Choice) -> bytes:
        return event(Chunk(self._id, self._created, self._model, (choice,), self._usage))


def completion(
    id_: str, created: int, model: str, *, said: dict[str, list[str]], finish_reason: str, usage: Usage | None
) -> dict[str, Any]:
    """Return a whole answer."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    message |= {FIELDS[kind]: "".join(texts) for kind, texts in said.items()}
    if message["content"] is None and message["refusal"] is None:
        message["content"] = ""
    answer = {
        "id": id_,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}],
    }
    return answer | {"usage": usage_body(usage)} if usage else answer
