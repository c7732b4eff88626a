"""Promises of the way from chat messages to input items of the Agents SDK."""

from collections import defaultdict, deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.convert import InputError, Item, to_items

texts = st.text(min_size=1, max_size=20)
call_ids = st.sampled_from(["a", "a_2", "b", "", "a_2_2", "call", "call_2"])
calls = st.builds(
    lambda id_, name, arguments: {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}},
    call_ids,
    st.sampled_from(["look", "ask"]),
    texts,
)
messages_of_a_chat = st.lists(
    st.one_of(
        st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["system", "developer"]), texts),
        st.builds(lambda text: {"role": "user", "content": text}, texts),
        st.builds(lambda text: {"role": "user", "content": [{"type": "text", "text": text}]}, texts),
        st.builds(
            lambda text, made: {"role": "assistant", "content": text, "tool_calls": made},
            st.none() | texts,
            st.lists(calls, max_size=3),
        ),
        st.builds(lambda id_, text: {"role": "tool", "tool_call_id": id_, "content": text}, call_ids, texts),
    ),
    max_size=12,
)


def said_in(messages: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """What a chat says, in order, without its call ids."""
    said: list[tuple[str, ...]] = []
    for message in messages:
        content = message["content"]
        text = content[0]["text"] if isinstance(content, list) else content or ""
        if message["role"] == "tool":
            said.append(("result", text))
            continue
        made = message.get("tool_calls") or []
        if text or not made:
            said.append((message["role"], text))
        said += [("call", each["function"]["name"], each["function"]["arguments"]) for each in made]
    return said


def said_by(items: list[Item]) -> list[tuple[str, ...]]:
    """What input items say, in order, without their call ids."""
    said: list[tuple[str, ...]] = []
    for item in items:
        match item:
            case {"type": "function_call"}:
                said.append(("call", item["name"], item["arguments"]))
            case {"type": "function_call_output"}:
                said.append(("result", item["output"]))
            case {"content": [{"text": text}]}:
                said.append((item["role"], text))
            case _:
                said.append((item["role"], item["content"]))
    return said


@given(messages_of_a_chat)
def test_nothing_is_lost_reordered_or_invented(messages: list[dict[str, Any]]) -> None:
    """The items say what the messages said, in the same order."""
    assert said_by(to_items(messages)) == said_in(messages)


@given(messages_of_a_chat)
def test_call_ids_are_unique_and_results_find_their_calls(messages: list[dict[str, Any]]) -> None:
    """Calls get ids of their own; a result has the id of the oldest open call of its id, or one that nobody has."""
    made = [each["id"] for message in messages for each in message.get("tool_calls", ())]
    items = to_items(messages)
    ids = [item["call_id"] for item in items if item.get("type") == "function_call"]
    assert len(set(ids)) == len(ids) == len(made)
    given_ids, new_ids = iter(made), iter(ids)
    results = iter(message["tool_call_id"] for message in messages if message["role"] == "tool")
    open_calls: defaultdict[str, deque[str]] = defaultdict(deque)
    for item in items:
        if item.get("type") == "function_call":
            open_calls[next(given_ids)].append(next(new_ids))
        elif item.get("type") == "function_call_output":
            waiting = open_calls[next(results)]
            assert item["call_id"] == waiting.popleft() if waiting else item["call_id"] not in ids


@given(messages_of_a_chat)
def test_the_messages_themselves_are_left_alone(messages: list[dict[str, Any]]) -> None:
    """Converting changes nothing of what was given."""
    before = repr(messages)
    to_items(messages)
    assert repr(messages) == before


def test_a_repeated_call_id_is_made_unique_with_its_result() -> None:
    """The second call of an id, and its result, get a new one."""
    call = {"id": "x", "function": {"name": "look", "arguments": "{}"}}
    turn: list[Item] = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "x", "content": "r"},
    ]
    assert [item["call_id"] for item in to_items(turn * 2)] == ["x", "x", "x_2", "x_2"]


@pytest.mark.parametrize(
    ("part", "item"),
    [
        ({"type": "text", "text": "hi"}, {"type": "input_text", "text": "hi"}),
        (
            {"type": "image_url", "image_url": {"url": "data:x"}},
            {"type": "input_image", "image_url": "data:x", "detail": "auto"},
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
            {"type": "input_image", "image_url": "data:x", "detail": "low"},
        ),
        (
            {"type": "file", "file": {"file_id": "f", "filename": None, "other": 1}},
            {"type": "input_file", "file_id": "f"},
        ),
    ],
)
def test_a_content_part_becomes_its_counterpart(part: Item, item: Item) -> None:
    """Each kind of part that a user may send has one of the SDK's."""
    assert to_items([{"role": "user", "content": [part]}]) == [{"role": "user", "content": [item]}]


def test_text_parts_of_an_assistant_and_a_tool_are_joined() -> None:
    """Where only text can be, its parts become one text."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages: list[Item] = [
        {"role": "assistant", "content": parts},
        {"role": "tool", "tool_call_id": "x", "content": parts},
    ]
    items = to_items(messages)
    assert [items[0]["content"], items[1]["output"]] == ["ab", "ab"]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ],
    ids=["field", "part"],
)
def test_a_refusal_stays_a_refusal(message: dict[str, Any]) -> None:
    """A refusal reaches the agent in either of the forms that OpenAI has for it."""
    (item,) = to_items([message])
    assert item["content"] == [{"type": "refusal", "refusal": "no"}]


def test_a_refusal_keeps_the_text_before_it() -> None:
    """A message that says something and then refuses loses neither."""
    (item,) = to_items([{"role": "assistant", "content": "well", "refusal": "no"}])
    assert [part["type"] for part in item["content"]] == ["output_text", "refusal"]


FUNCTION = {"name": "look", "arguments": "{}"}
WRONG: dict[str, dict[str, Any]] = {
    "role": {"role": "robot", "content": "x"},
    "no role": {"content": "x"},
    "role of no text": {"role": ["user"], "content": "x"},
    "no content": {"role": "user"},
    "null content": {"role": "system", "content": None},
    "number as content": {"role": "user", "content": 5},
    "object as content": {"role": "user", "content": {"text": "x"}},
    "object as an assistant's content": {"role": "assistant", "content": {"text": "x"}},
    "part of no kind": {"role": "user", "content": [{"text": "x"}]},
    "part of an unknown kind": {"role": "user", "content": [{"type": "smell", "smell": {}}]},
    "part that is a text": {"role": "user", "content": ["x"]},
    "image without address": {"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]},
    "call that is a text": {"role": "assistant", "tool_calls": ["x"]},
    "call without function": {"role": "assistant", "tool_calls": [{"id": "x"}]},
    "call without name": {"role": "assistant", "tool_calls": [{"id": "x", "function": {"arguments": "{}"}}]},
    "calls that are a number": {"role": "assistant", "tool_calls": 5},
    "arguments that are no text": {
        "role": "assistant",
        "tool_calls": [{"id": "x", "function": FUNCTION | {"arguments": 5}}],
    },
    "refusal that is no text": {"role": "assistant", "refusal": {"a": 1}},
}


@pytest.mark.parametrize("message", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_put_to_an_agent_is_named_by_its_index(message: dict[str, Any]) -> None:
    """A mistake of the client is told as one, with the message that has it."""
    with pytest.raises(InputError, match=r"messages\[1\]"):
        to_items([{"role": "user", "content": "hello"}, message])
