"""Promises of the messages, the frames and the flow control between gateway and worker."""

import typing
from collections import deque
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import wire

TO_WORKER: tuple[type[wire.Message], ...] = get_args(wire.ToWorker)
TO_GATEWAY: tuple[type[wire.Message], ...] = get_args(wire.ToGateway)
LARGEST = len(wire.encode(wire.Delta((1 << 62) - 1, "reasoning", "\U0001f600" * wire.TEXT)))
"""Bytes of the largest frame that flow control counts."""

SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    wire.Id: st.integers(0, (1 << 62) - 1),
    wire.Count: st.integers(1, wire.WINDOW),
    wire.Bytes: st.binary(max_size=100),
    wire.Line: st.text(max_size=30),
    wire.Text: st.text(max_size=100),
    bool: st.booleans(),
    int: st.integers(-(1 << 62), 1 << 62),
    dict[wire.Line, wire.Line]: st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    tuple[wire.Line, ...]: st.lists(st.text(max_size=5), max_size=3).map(tuple),
}


def messages_of(kind: type[wire.Message]) -> st.SearchStrategy[Any]:
    """Any message of one kind."""
    fields = get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{name: values_of(fields[name]) for name in kind.__struct_fields__})


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Any value of a field."""
    return st.sampled_from(get_args(annotation)) if get_origin(annotation) is Literal else SIMPLE[annotation]


def framed(body: bytes) -> bytes:
    """A frame around any bytes."""
    return len(body).to_bytes(4, "big") + body


def packed(*fields: object) -> bytes:
    """A frame around any fields."""
    return framed(msgspec.msgpack.encode(fields))


to_worker = st.one_of(*map(messages_of, TO_WORKER))
to_gateway = st.one_of(*map(messages_of, TO_GATEWAY))


@given(to_worker)
def test_what_the_gateway_says_arrives_as_it_was_sent(message: Any) -> None:
    """Every message to a worker comes out of its frame as it went in, with the size of the frame."""
    frame = wire.encode(message)
    assert list(wire.worker_frames().feed(frame)) == [(message, len(frame))]


@given(to_gateway)
def test_what_a_worker_says_arrives_as_it_was_sent(message: Any) -> None:
    """Every message to the gateway comes out of its frame as it went in, with the size of the frame."""
    frame = wire.encode(message)
    assert list(wire.gateway_frames().feed(frame)) == [(message, len(frame))]


@given(st.lists(to_gateway, max_size=6), st.data())
def test_any_split_of_a_stream_gives_the_same_messages(messages: list[Any], data: st.DataObject) -> None:
    """Where the stream is cut on its way makes no difference."""
    stream = b"".join(map(wire.encode, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    frames = wire.gateway_frames()
    got = [
        message
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for message, _ in frames.feed(stream[begin:end])
    ]
    assert got == messages
    assert frames.whole == len(messages)
    assert not frames.partial


def test_a_begun_frame_shows_as_partial_until_it_is_whole() -> None:
    """A peer that begins a frame and stops can be told from one that is silent."""
    frames, frame = wire.gateway_frames(), wire.encode(wire.Hello(wire.VERSION))
    assert list(frames.feed(frame[:-1])) == []
    assert (frames.partial, frames.whole) == (True, 0)
    assert [message for message, _ in frames.feed(frame[-1:])] == [wire.Hello(wire.VERSION)]
    assert (frames.partial, frames.whole) == (False, 1)


def test_a_reader_that_stops_early_loses_no_message() -> None:
    """What was not taken from one feed comes with the next."""
    frames = wire.worker_frames()
    feed = frames.feed(wire.encode(wire.Run(1)) + wire.encode(wire.Run(2)))
    assert next(iter(feed))[0] == wire.Run(1)
    typing.cast(Any, feed).close()
    assert [message for message, _ in frames.feed(wire.encode(wire.Run(3)))] == [wire.Run(2), wire.Run(3)]


BROKEN: dict[str, bytes] = {
    "oversize": (wire.FRAME_LIMIT + 1).to_bytes(4, "big"),
    "largest length": b"\xff\xff\xff\xff",
    "empty": framed(b""),
    "garbage": framed(b"\xc1\xc1\xc1"),
    "json": framed(b'["Hello",1,2]'),
    "not an array": framed(msgspec.msgpack.encode({"type": "Hello", "version": 1, "pid": 2})),
    "no fields": packed(),
    "unknown tag": packed("Exec", "rm"),
    "tag of no text": packed(3, 1, 2),
    "tag of the other side": wire.encode(wire.Run(1)),
    "missing field": packed("Hello"),
    "extra field": packed("Hello", 1, 2),
    "extra field after defaults": packed("Call", 1, 1, "responses", "", False, "x"),
    "bytes after the message": framed(msgspec.msgpack.encode(("Hangup", 1)) + b"\x01"),
    "truncated message": framed(msgspec.msgpack.encode(("Hello", 1, 2))[:-1]),
    "endless array": framed(b"\xdd\xff\xff\xff\xff\xa5Hello"),
    "endless text": framed(b"\x92\xa6Notice\xdb\xff\xff\xff\xff"),
    "wrong type": packed("Hello", 1, "2"),
    "float id": packed("Hangup", 1.5),
    "negative id": packed("Hangup", -1),
    "id too high": packed("Hangup", 1 << 62),
    "no credit": packed("Credit", "request", 1, 0),
    "negative credit": packed("Credit", "request", 1, -1),
    "credit over the window": packed("Credit", "request", 1, wire.WINDOW + 1),
    "unknown stream": packed("Credit", "file", 1, 1),
    "unknown path": packed("Call", 1, 1, "../admin"),
    "unknown kind of delta": packed("Delta", 1, "usage", "9"),
    "unknown failure": packed("Failed", 1, "bribe", ""),
    "line too long": packed("Notice", "x" * 4097),
    "text too long": packed("Delta", 1, "text", "x" * (wire.TEXT + 1)),
    "piece too long": packed("CallData", 1, b"x" * (wire.PIECE + 1), True),
    "text that is no UTF-8": framed(b"\x92\xa6Notice\xa2\xff\xff"),
    "nesting": framed(b"\x91" * 100_000 + b"\x01"),
    "nested field": framed(b"\x92\xa6Notice" + b"\x91" * 100_000 + b"\x01"),
}


@pytest.mark.parametrize("frame", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_message_of_a_worker_ends_the_connection(frame: bytes) -> None:
    """A frame that a worker may not send is a WireError, never another exception and never a message."""
    with pytest.raises(wire.WireError):
        list(wire.gateway_frames().feed(frame))


def test_messages_before_a_bad_frame_are_given() -> None:
    """A bad frame does not take back the good ones that came before it."""
    feed = wire.gateway_frames().feed(wire.encode(wire.Hangup(1)) + framed(b"\xc1"))
    assert next(feed)[0] == wire.Hangup(1)
    with pytest.raises(wire.WireError):
        next(feed)


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_make_the_gateway_raise_anything_else(data: bytes, whole: bool) -> None:
    """Whatever a worker sends is a message, or waits for more, or is a WireError."""
    try:
        for message, _ in wire.gateway_frames().feed(framed(data) if whole else data):
            assert isinstance(message, TO_GATEWAY)
    except wire.WireError:
        pass


@pytest.mark.parametrize(
    "message",
    [
        wire.Notice("\U0001f600" * 4096),
        wire.Broken("\U0001f600" * 4096, "\U0001f600" * wire.TEXT),
        wire.Delta((1 << 62) - 1, "text", "\U0001f600" * wire.TEXT),
        wire.CallData((1 << 62) - 1, b"x" * wire.PIECE, True),
    ],
    ids=lambda message: type(message).__name__,
)
def test_the_longest_of_every_field_passes(message: Any) -> None:
    """What is exactly at its limit is a message."""
    assert [each for each, _ in wire.gateway_frames().feed(wire.encode(message))] == [message]


def test_tags_are_one_of_a_kind() -> None:
    """No two messages can be taken for each other, in either direction."""
    tags = [kind.__struct_config__.tag for kind in {*TO_WORKER, *TO_GATEWAY}]
    assert len(set(tags)) == len(tags)


@given(st.lists(st.integers(1, LARGEST), max_size=60), st.randoms(use_true_random=False))
def test_flow_control_holds_the_window_and_never_stands_still(sizes: list[int], random: Any) -> None:
    """However sender, wire and receiver take turns, no more than a window is under way, and all arrives."""
    outflow, inflow = wire.Outflow(), wire.Inflow()
    queue, way, held = deque(sizes), deque[int](), deque[int]()
    dealt = 0
    while queue or way or held:
        moves = []
        if queue and outflow.take(queue[0]):
            way.append(queue.popleft())
            assert sum(way) + sum(held) <= wire.WINDOW
            moves.append("sent")
        if way and random.random() < 0.6:
            inflow.took(way[0])
            held.append(way.popleft())
            moves.append("took")
        if held and (random.random() < 0.6 or not moves):
            dealt += held[0]
            if credit := inflow.dealt(held.popleft()):
                assert credit <= wire.WINDOW
                outflow.credit(credit)
            moves.append("dealt")
        if not moves and way:
            inflow.took(way[0])
            held.append(way.popleft())
            moves.append("took")
        assert moves, "nothing can move any more"
    assert dealt == sum(sizes)


def test_a_sender_over_its_window_is_found_out() -> None:
    """A worker that does not wait for credit breaks the protocol."""
    inflow = wire.Inflow()
    inflow.took(wire.WINDOW)
    with pytest.raises(wire.WireError, match="window"):
        inflow.took(1)


@given(st.lists(st.integers(1, wire.WINDOW), max_size=20))
def test_credit_never_opens_more_than_the_window(credits_given: list[int]) -> None:
    """A worker that invents credit does not make the gateway send more than a window."""
    outflow = wire.Outflow()
    for credit in credits_given:
        outflow.credit(credit)
    assert outflow.take(wire.WINDOW)
    assert not outflow.take(1)


def test_the_largest_frame_always_finds_room_once_all_is_dealt_with() -> None:
    """Credit that is held back never keeps out the next frame."""
    assert wire.WINDOW - (wire.WINDOW // 4 - 1) >= LARGEST
    assert LARGEST <= wire.FRAME_LIMIT


@given(st.integers(0, 3 * wire.PIECE + 1))
def test_pieces_join_to_the_payload(size: int) -> None:
    """A payload cut into pieces is whole again when joined; each fits a message, and only the last says so."""
    payload = (b"0123456789" * (size // 10 + 1))[:size]
    cut = list(wire.pieces(payload))
    assert b"".join(piece for piece, _ in cut) == payload
    assert all(len(piece) <= wire.PIECE for piece, _ in cut)
    assert [last for _, last in cut] == [False] * (len(cut) - 1) + [True]
