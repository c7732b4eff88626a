"""The demo upstream: no key, no network, no model; answers in the chat completions dialect, and says what it is."""

import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import islice
from typing import Any

import anyio
import msgspec

from gateway.errors import UpstreamRefused

WORD_SECONDS = 0.02
SIGNATURE = " (I am the demo upstream: no model was asked.)"
Schema = Mapping[str, Any]
DEPTH, VALUES = 8, 500
"""Levels of a schema, and values in all, that are filled in."""
QUESTION, TOOLS = 4000, 128
"""Characters of a question, and tools, that are looked at."""


def headers(body: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of the answer to a request."""
    return {"content-type": "text/event-stream" if body.get("stream") else "application/json"}


async def answer(path: str, body: Mapping[str, Any]) -> AsyncIterator[bytes]:
    """Yield the answer to a request as bytes, a word at a time where a stream is asked for."""
    if path != "chat/completions":
        yield msgspec.json.encode({"object": "list", "data": []})
        return
    try:
        reply = compose(body)
        usage = _usage(body, reply)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # a body that is no chat completion's
        raise UpstreamRefused(f"the demo upstream cannot read this request: {error}") from error
    if not body.get("stream"):
        yield _completion(reply, usage, str(body.get("model")))
        return
    base = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
    }
    base["model"] = str(body.get("model"))
    for delta in _deltas(reply):
        yield _event(base | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        await anyio.sleep(WORD_SECONDS)
    finish = "tool_calls" if "tool_calls" in reply else "stop"
    yield _event(base | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    yield _event(base | {"choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def compose(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the message that answers a conversation; pure."""
    messages = [each for each in body.get("messages") or () if isinstance(each, Mapping)]
    question = next((_text(each) for each in reversed(messages) if each.get("role") == "user"), "")[:QUESTION]
    last = messages[-1] if messages else {}
    schema = _schema(body.get("response_format"))
    answered = last.get("role") == "tool"
    if answered and schema is None:
        return _said(f"The tool answered: {_text(last)}{SIGNATURE}")
    if schema is not None and (answered or not _named(body.get("tools") or (), question)):
        return _said(msgspec.json.encode(_example(schema, question)).decode())
    if tool := _named(body.get("tools") or (), question):
        arguments = _example(tool.get("parameters") or {}, question)
        call = {"name": tool["name"], "arguments": msgspec.json.encode(arguments).decode()}
        return {"role": "assistant", "content": None, "tool_calls": [_call(call)]}
    names = ", ".join(each["function"]["name"] for each in body.get("tools") or () if "function" in each)
    hint = f" Name one of my tools and I call it: {names}." if names else ""
    return _said(f"You said: {question}{hint}{SIGNATURE}")


def _said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _call(function: dict[str, str]) -> dict[str, Any]:
    return {"index": 0, "id": f"call_{uuid.uuid4().hex[:12]}", "type": "function", "function": function}


def _named(tools: Sequence[Mapping[str, Any]], question: str) -> Mapping[str, Any] | None:
    """The first tool whose name stands in the question."""
    for tool in tools[:TOOLS]:
        function = tool.get("function")
        if isinstance(function, Mapping) and re.search(rf"\b{re.escape(str(function.get('name')))}\b", question, re.I):
            return function
    return None


def _schema(response_format: object) -> Mapping[str, Any] | None:
    if not isinstance(response_format, Mapping) or response_format.get("type") != "json_schema":
        return None
    schema = response_format.get("json_schema", {}).get("schema")
    return schema if isinstance(schema, Mapping) else None


def _example(schema: Schema, question: str) -> Any:
    """A value that fits a schema, with what can be had from the question in it."""
    return _Example(schema, question).fill(schema)


class _Example:
    """Fills in one schema, up to so many values: references may unfold to far more than the schema holds."""

    def __init__(self, root: Schema, question: str) -> None:
        self._root = root
        self._question = question
        self._left = VALUES

    def fill(self, schema: Schema, depth: int = DEPTH) -> Any:
        self._left -= 1
        if depth <= 0 or self._left < 0:
            return None
        if (other := _stands_for(schema, self._root)) is not None:
            return self.fill(other, depth - 1)
        if "const" in schema or schema.get("enum"):
            return schema["const"] if "const" in schema else schema["enum"][0]
        kind = schema.get("type", "object")
        kind = kind[0] if isinstance(kind, list) else kind
        if kind == "object":
            fields = islice((schema.get("properties") or {}).items(), max(self._left, 0))
            return {name: self.fill(each, depth - 1) for name, each in fields}
        if kind == "array":
            return [self.fill(schema.get("items") or {}, depth - 1)]
        return _scalar(kind, self._question)


def _stands_for(schema: Schema, root: Schema) -> Schema | None:
    """The schema that one refers to, or the first of those that it offers."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return (root.get("$defs") or {}).get(name) or {}
    options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    return options[0] if options else None


def _scalar(kind: str, question: str) -> str | int | bool | None:
    found = re.search(r"-?\d{1,15}", question)
    number = int(found[0]) if found else 1
    values = {"integer": number, "number": number, "boolean": True, "null": None}
    return values[kind] if kind in values else _topic(question)


def _topic(question: str) -> str:
    """What a question is likely about: its last capitalised word that does not begin a sentence, else its last word."""
    names = re.findall(r"(?<![.!?])\s([A-Z]\w+)", question)
    words = re.findall(r"\w+", question)
    return str(names[-1] if names else words[-1] if words else "something")


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(str(each.get("text", "")) for each in content if isinstance(each, Mapping))
    return str(content or "")


def _deltas(reply: Mapping[str, Any]) -> list[dict[str, Any]]:
    if calls := reply.get("tool_calls"):
        return [{"role": "assistant", "tool_calls": calls}]
    return [{"role": "assistant", "content": ""}] + [
        {"content": word} for word in re.findall(r"\s*\S+", reply["content"])
    ]


def _usage(body: Mapping[str, Any], reply: Mapping[str, Any]) -> dict[str, int]:
    """Words instead of tokens."""
    prompt = sum(len(_text(each).split()) for each in body.get("messages") or () if isinstance(each, Mapping))
    completion = len(str(reply.get("content") or reply.get("tool_calls")).split())
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _completion(reply: Mapping[str, Any], usage: dict[str, int], model: str) -> bytes:
    finish = "tool_calls" if "tool_calls" in reply else "stop"
    return msgspec.json.encode(
        {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [{"index": 0, "message": reply, "finish_reason": finish}],
            "usage": usage,
        }
    )


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"
