"""Chat messages as a client sends them to input items of the Agents SDK; pure, runs in the worker."""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

Item = dict[str, Any]

PARTS: dict[str, str] = {"text": "input_text", "image_url": "input_image", "file": "input_file"}


class InputError(Exception):
    """A message cannot be put to the agent; the text says which and why."""


def to_items(messages: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Return the whole conversation as input items, in the same order.

    Tool call ids that stand twice in a transcript are made unique: the SDK keys items by them and drops repeats.
    """
    ids = _CallIds()
    items: list[Item] = []
    for index, message in enumerate(messages):
        match message.get("role"):
            case "system" | "developer" | "user" as role:
                items.append({"role": role, "content": _content(message, index)})
            case "assistant":
                items += _assistant(message, ids, index)
            case "tool":
                call_id = ids.answered(str(message.get("tool_call_id") or ""))
                items.append({"type": "function_call_output", "call_id": call_id, "output": _plain(message, index)})
            case role:
                raise InputError(f"messages[{index}] has the role {role!r}; it must be one of {', '.join(ROLES)}")
    return items


ROLES = ("system", "developer", "user", "assistant", "tool")


class _CallIds:
    """Gives each tool call an id of its own, and each result the id of the call that it answers."""

    def __init__(self) -> None:
        self._open: defaultdict[str, deque[str]] = defaultdict(deque)
        self._used: set[str] = set()

    def called(self, id_: str) -> str:
        unique = self._unique(id_ or "call")
        self._open[id_].append(unique)
        return unique

    def answered(self, id_: str) -> str:
        return self._open[id_].popleft() if self._open[id_] else self._unique(id_ or "call")

    def _unique(self, id_: str) -> str:
        unique, number = id_, 1
        while unique in self._used:
            number += 1
            unique = f"{id_}_{number}"
        self._used.add(unique)
        return unique


def _assistant(message: Mapping[str, Any], ids: _CallIds, index: int) -> list[Item]:
    items: list[Item] = []
    text, refusal = _plain(message, index), _refusal(message, index)
    calls = message.get("tool_calls") or ()
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise InputError(f"messages[{index}].tool_calls must be a list")
    if refusal:
        content = [{"type": "output_text", "text": text, "annotations": []}] if text else []
        content.append({"type": "refusal", "refusal": refusal})
        items.append(
            {"type": "message", "id": f"msg_{index}", "role": "assistant", "status": "completed", "content": content}
        )
    elif text or not calls:
        items.append({"role": "assistant", "content": text})
    return items + [_call(call, ids, index) for call in calls]


def _call(call: object, ids: _CallIds, index: int) -> Item:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError(f"messages[{index}] has a tool call without function.name")
    arguments = function.get("arguments") or "{}"
    if not isinstance(arguments, str):
        raise InputError(f"messages[{index}] has a tool call whose function.arguments is not a string")
    call_id = ids.called(str(call.get("id") or ""))
    return {"type": "function_call", "call_id": call_id, "name": function["name"], "arguments": arguments}


def _refusal(message: Mapping[str, Any], index: int) -> str:
    """The refusal of an assistant's message, as a field or as parts."""
    refusal = message.get("refusal") or ""
    if not isinstance(refusal, str):
        raise InputError(f"messages[{index}].refusal must be a string")
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    return refusal + "".join(str(part.get("refusal") or "") for part in parts if isinstance(part, Mapping))


def _content(message: Mapping[str, Any], index: int) -> str | list[Item]:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return [_part(part, index) for part in content]
    raise InputError(f"messages[{index}].content must be a string or a list of parts")


def _plain(message: Mapping[str, Any], index: int) -> str:
    """The text of a message whose content can only be text."""
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise InputError(f"messages[{index}].content must be a string or a list of parts")
    return "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))


def _part(part: object, index: int) -> Item:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or kind not in PARTS:
        raise InputError(
            f"messages[{index}] has a content part of the type {kind!r}; it must be one of {', '.join(PARTS)}"
        )
    value = part.get(kind)
    if kind == "text":
        return {"type": "input_text", "text": str(value or "")}
    if not isinstance(value, Mapping):
        raise InputError(f"messages[{index}] has a content part of the type {kind!r} without {kind!r} in it")
    if kind == "image_url":
        return {"type": "input_image", "image_url": value.get("url"), "detail": value.get("detail") or "auto"}
    return {"type": "input_file"} | {name: value[name] for name in FILE_FIELDS if value.get(name)}


FILE_FIELDS = ("file_data", "file_id", "filename")
