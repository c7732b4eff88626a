"""What the front door makes of bodies, keys, names and clients."""

import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import httpx2
import pytest
from openai.types.chat import ChatCompletionChunk
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.process import PLAIN, Gateway, Home, running_gateway
from tests.integration.upstream import Connection, ScriptedUpstream, delta_chunks, endless, said

CHAT, EXPIRED, OPS, DENIED = "agw-chat-ui", "agw-expired", "agw-ops", "agw-denied"
QUESTION = [{"role": "user", "content": "Hello"}]
DEEP = b"[" * 100_000
WHOLE = DEEP + b"]" * 100_000


def _key(name: str, key: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), **fields}


@pytest.fixture(scope="module")
async def gateway(home: Home, upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """A gateway with three agents, two of one bare name, and keys that cover different ones of them."""
    home.upstreams(chat={"base_url": upstream.url, "api_key": "sk-operator", "model": "test-model"})
    home.agent("Plain")
    home.agent("labs/Twin", PLAIN + "agent.instructions = 'Be early.'\n")
    home.agent("other/Twin", PLAIN + "agent.instructions = 'Be late.'\n")
    keys = [
        _key("chat-ui", CHAT, agents=["default/*"]),
        _key("expired", EXPIRED, agents=["*"], expires="2020-01-31"),
        _key("ops", OPS, agents=["*"], admin=True),
        _key("denied", DENIED, agents=["*"], deny=["labs/*"]),
    ]
    (home.root / "policies" / "security.yaml").write_text(json.dumps({"keys": keys}))
    async with running_gateway(home) as started:
        yield started


async def _get(gateway: Gateway, path: str, key: str = "", **headers: str) -> httpx2.Response:
    headers |= {"authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=30, trust_env=False) as client:
        return await client.get(path, headers=headers)


async def _ask_with(gateway: Gateway, key: str, model: str) -> int:
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=30, trust_env=False) as client:
        headers = {"authorization": f"Bearer {key}"}
        body = {"model": model, "messages": QUESTION}
        return (await client.post("/v1/chat/completions", json=body, headers=headers)).status_code


async def _post(gateway: Gateway, content: Any, **headers: str) -> httpx2.Response:
    async with gateway.http() as client:
        return await client.post("/v1/chat/completions", content=content, headers=headers)


def _error(answer: httpx2.Response) -> dict[str, Any]:
    """The error of an answer, which has OpenAI's shape and nothing beside it."""
    body: dict[str, Any] = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    assert error["message"]
    return error


def _events(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.splitlines() if line]


# Bodies


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(b"", "JSON", id="nothing"),
        pytest.param(b"model=plain", "JSON", id="no JSON"),
        pytest.param(b'{"model": "plain", "messages": ', "JSON", id="half of it"),
        pytest.param(b"[]", "object", id="no object"),
        pytest.param(b'{"model": "plain", "messages": [{"role": "user", "content": "\xff"}]}', "utf-8", id="no UTF-8"),
        pytest.param(json.dumps({"messages": QUESTION}).encode(), "model", id="no model"),
        pytest.param(json.dumps({"model": 7, "messages": QUESTION}).encode(), "model", id="a number for a model"),
        pytest.param(b'{"model": "plain"}', "messages", id="no messages"),
        pytest.param(b'{"model": "plain", "messages": []}', "empty", id="empty messages"),
        pytest.param(b'{"model": "plain", "messages": null}', "list", id="null for messages"),
        pytest.param(b'{"model": "plain", "messages": "Hello"}', "list", id="messages no list"),
        pytest.param(b'{"model": "plain", "messages": ["Hello"]}', "object", id="message no object"),
        pytest.param(b'{"model": "plain", "messages": [{"content": "Hello"}]}', "role", id="no role"),
        pytest.param(
            b'{"model": "plain", "messages": [{"role": ["user"], "content": "Hi"}]}', "role", id="role a list"
        ),
        pytest.param(b'{"model": "plain", "messages": [{"role": "wizard", "content": "Hi"}]}', "wizard", id="role"),
        pytest.param(json.dumps({"model": "plain", "messages": QUESTION, "n": 2}).encode(), "n must be 1", id="n"),
        pytest.param(b'{"model": "plain", "messages": ' + DEEP, "", id="100k brackets for messages"),
        pytest.param(
            b'{"model": "plain", "messages": [{"role": "user", "content": ' + WHOLE + b"}]}",
            "",
            id="100k brackets for a content",
        ),
        pytest.param(
            b'{"model": "plain", "extra": ' + WHOLE + b', "messages": []}',
            "",
            id="100k brackets in an unknown field",
        ),
    ],
)
async def test_a_body_that_cannot_be_understood_is_a_400_that_says_why(
    gateway: Gateway, upstream: ScriptedUpstream, body: bytes, words: str
) -> None:
    """The client learns what is wrong with its body, and no model is asked."""
    upstream.script()
    answer = await _post(gateway, body)
    assert answer.status_code == 400
    error = _error(answer)
    assert (error["type"], error["code"]) == ("invalid_request_error", "bad_request")
    assert words in error["message"]
    assert upstream.received == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"type": "hologram", "hologram": {}}], "hologram"),
        ([{"type": "image_url", "image_url": "text"}], "image_url"),
        (["Hello"], "messages[0]"),
        (7, "messages[0].content"),
    ],
)
async def test_a_content_that_the_worker_cannot_convert_is_a_400_that_names_it(
    gateway: Gateway, upstream: ScriptedUpstream, content: Any, words: str, stream: bool
) -> None:
    """What only the conversion finds wrong is the client's fault just the same, also where a stream was asked for."""
    upstream.script()
    async with gateway.http() as client:
        body = {"model": "plain", "stream": stream, "messages": [{"role": "user", "content": content}]}
        answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert words in _error(answer)["message"]
    assert upstream.received == []


async def test_fields_that_mean_nothing_here_are_ignored(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """Clients send far more than an agent needs, and what is to come; none of it is an error."""
    upstream.script(said("Hi"))
    answer = await gateway.ask("plain", temperature=0.1, n=1, seed=4, user="me", from_the_future={"a": [1]}, stop=None)
    assert answer.status_code == 200
    assert upstream.received[0].body.keys() & {"temperature", "seed", "user", "from_the_future"} == set()


async def test_a_body_over_the_limit_is_a_413_before_it_is_read(gateway: Gateway) -> None:
    """50 MB that announce themselves are refused, and take no memory."""
    before = gateway.rss()
    answer = await _post(gateway, b" " * 50_000_000)
    assert answer.status_code == 413
    assert _error(answer)["code"] == "request_too_large"
    assert gateway.rss() - before < 20_000_000


async def test_a_body_over_the_limit_in_chunks_is_a_413(gateway: Gateway) -> None:
    """50 MB that do not say how much they are get no further than the limit."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b" " * 1_000_000

    before = gateway.rss()
    answer = await _post(gateway, parts())
    assert answer.status_code == 413
    assert _error(answer)["code"] == "request_too_large"
    assert gateway.rss() - before < 40_000_000


async def test_a_body_that_never_arrives_whole_keeps_nobody_waiting(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """While clients dawdle over their bodies others are served; a dawdler that leaves is forgotten."""
    upstream.script(said("Hi"))
    before = len(gateway.log)
    async with anyio.create_task_group() as tasks:

        async def dawdle(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            async with await _connect(gateway) as stream:
                await stream.send(_head(gateway, length=1000) + b'{"model": "plain"')
                task_status.started()
                await anyio.sleep_forever()

        for _ in range(20):
            await tasks.start(dawdle)
        with anyio.fail_after(5):
            assert (await gateway.ask("plain")).status_code == 200
        tasks.cancel_scope.cancel()
    await gateway.logged("request.end", since=before, status=0)
    assert (await gateway.status("default/plain"))["in_flight"] == 0


# Keys


async def test_without_a_key_there_is_a_401(gateway: Gateway) -> None:
    """No route of the API answers somebody without a key."""
    async with httpx2.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        answers = [
            await client.post("/v1/chat/completions", json={"model": "plain", "messages": QUESTION}),
            await client.get("/v1/models"),
            await client.get("/v1/models/default/plain"),
            await client.get("/admin/agents/errors"),
        ]
    for answer in answers:
        assert answer.status_code == 401
        assert _error(answer)["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer agw-wrong"},
        {"authorization": f"Bearer {EXPIRED}"},
        {"authorization": f"Basic {CHAT}"},
        {"authorization": f"Bearer {hashlib.sha256(CHAT.encode()).hexdigest()}"},
        {"authorization": "Bearer"},
        {b"authorization": b"Bearer \xff\xfe"},
        {"x-api-key": "agw-wrong"},
        {"x-api-key": EXPIRED},
    ],
)
async def test_a_key_that_is_not_valid_is_a_401(gateway: Gateway, headers: dict[str, str] | dict[bytes, bytes]) -> None:
    """A wrong key, an expired one, and the hash of a right one open nothing."""
    async with httpx2.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        answer = await client.get("/v1/models", headers=headers)
    assert answer.status_code == 401
    assert _error(answer)["type"] == "authentication_error"


@pytest.mark.parametrize(
    "headers", [{"authorization": f"Bearer {CHAT}"}, {"authorization": f"bearer  {CHAT}"}, {"x-api-key": CHAT}]
)
async def test_a_key_is_taken_from_either_header(gateway: Gateway, headers: dict[str, str]) -> None:
    """`Authorization: Bearer` in any letter case, and `x-api-key`, carry a key."""
    assert (await _get(gateway, "/v1/models", **headers)).status_code == 200


async def test_a_key_sees_404_within_its_patterns_and_403_beyond_them(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """An id that a key does not cover is refused in the same words whether it exists or not."""
    upstream.script()
    assert await _ask_with(gateway, CHAT, "default/plain") == 200
    assert await _ask_with(gateway, CHAT, "default/nobody") == 404
    assert await _ask_with(gateway, CHAT, "labs/twin") == 403
    assert await _ask_with(gateway, CHAT, "labs/nobody") == 403
    assert await _ask_with(gateway, DENIED, "other/twin") == 200
    assert await _ask_with(gateway, DENIED, "labs/twin") == 403
    assert await _ask_with(gateway, DENIED, "labs/nobody") == 403
    messages = [
        _error(await _get(gateway, f"/v1/models/{each}", CHAT))["message"] for each in ("labs/twin", "labs/nobo")
    ]
    assert messages[0].replace("labs/twin", "labs/nobo") == messages[1]


@pytest.mark.parametrize(
    ("key", "ids"),
    [
        (CHAT, ["default/plain"]),
        (DENIED, ["default/plain", "other/twin"]),
        (OPS, ["default/plain", "labs/twin", "other/twin"]),
    ],
)
async def test_models_are_those_that_the_key_covers(gateway: Gateway, key: str, ids: list[str]) -> None:
    """`GET /v1/models` lists what the key may use, and no word of the rest."""
    answer = await _get(gateway, "/v1/models", key)
    assert [each["id"] for each in answer.json()["data"]] == ids


async def test_health_tells_strangers_only_that_the_gateway_lives(gateway: Gateway) -> None:
    """Who is no admin learns nothing of the agents."""
    for key in ("", CHAT, EXPIRED, "agw-wrong"):
        answer = await _get(gateway, "/health", key)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_health_tells_an_admin_of_every_agent(gateway: Gateway) -> None:
    """The operator's key, and an admin's of the document, see each agent and the upstreams."""
    for key in (gateway.key, OPS):
        seen = (await _get(gateway, "/health", key)).json()
        assert [each["id"] for each in seen["agents"]] == ["default/plain", "labs/twin", "other/twin"]
        assert {each["state"] for each in seen["agents"]} == {"READY"}
        assert seen["upstreams"] == {"chat": "ok"}


async def test_admin_routes_are_for_admins(gateway: Gateway) -> None:
    """A key that is no admin's is refused, however much it covers."""
    assert (await _get(gateway, "/admin/agents/errors", DENIED)).status_code == 403
    assert (await _get(gateway, "/admin/agents/errors", OPS)).status_code == 200


# Names


@pytest.mark.parametrize("name", ["plain", "Plain", "PLAIN", "default/plain", "Default/PLAIN"])
async def test_an_agent_answers_to_its_bare_name_in_any_letter_case(
    gateway: Gateway, upstream: ScriptedUpstream, name: str
) -> None:
    """The answer names the one id that was meant."""
    upstream.script(said("Hi"))
    answer = await gateway.client.chat.completions.create(model=name, messages=[{"role": "user", "content": "Hi"}])
    assert answer.model == "default/plain"


@pytest.mark.parametrize("name", ["twin", "nobody", "", "/", "default/", "labs/twin/", "../plain", "default/pl*", "é"])
async def test_a_name_that_means_no_agent_or_two_is_a_404(gateway: Gateway, name: str) -> None:
    """A bare name that two agents have is no guess at one of them."""
    answer = await gateway.ask(name)
    assert answer.status_code == 404
    assert _error(answer)["code"] == "model_not_found"


async def test_a_model_is_shown_with_where_its_calls_go(gateway: Gateway) -> None:
    """`GET /v1/models/{id}` takes the id with its slash, as the openai package sends it, or a bare name."""
    listed = [each async for each in gateway.client.models.list()]
    assert [each.id for each in listed] == ["default/plain", "labs/twin", "other/twin"]
    assert listed[1].owned_by == "labs"
    for path in ("default/plain", "default%2Fplain", "Plain"):
        shown = (await _get(gateway, f"/v1/models/{path}", CHAT)).json()
        assert shown == listed[0].to_dict()
        assert shown["gateway"] == {"upstream": "chat", "model": "test-model"}
    assert (await gateway.client.models.retrieve("labs/twin")).id == "labs/twin"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "route_not_found"),
        ("GET", "/v1", 404, "route_not_found"),
        ("POST", "/v1/completions", 404, "route_not_found"),
        ("GET", "/v1/chat/completions/", 404, "route_not_found"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404, "route_not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/default/plain", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
    ],
)
async def test_what_is_no_route_is_said_in_openais_words(
    gateway: Gateway, method: str, path: str, status: int, code: str
) -> None:
    """A path or method that is not there is an error in the shape that clients of OpenAI read."""
    async with gateway.http() as client:
        answer = await client.request(method, path)
    assert answer.status_code == status
    assert _error(answer)["code"] == code


# Answers


async def test_the_clients_request_id_goes_all_the_way(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """An id that the client gives comes back, stands in the log, and reaches the upstream."""
    upstream.script(said("Hi"))
    body = json.dumps({"model": "plain", "messages": QUESTION}).encode()
    answer = await _post(gateway, body, **{"x-request-id": "trace-42.a_B"})
    assert answer.headers.get_list("x-request-id") == ["trace-42.a_B"]
    assert upstream.received[0].headers["x-request-id"] == "trace-42.a_B"
    await gateway.logged("request.end", request_id="trace-42.a_B", status=200)


@pytest.mark.parametrize("given", [b"x" * 65, b"x" * 20_000, b"a b", b'{"a": 1}', b"\xff\xfe", b""])
async def test_a_wild_request_id_is_replaced(gateway: Gateway, given: bytes) -> None:
    """What would not stand well in a log or a header is not taken up."""
    async with httpx2.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        answer = await client.get("/health", headers={b"x-request-id": given})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_a_stream_has_the_shape_that_openai_gives_it(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """A chunk with the role, chunks of text, a chunk with the reason for the end, `[DONE]`; each valid, of one id."""
    upstream.script(said("Hel", "lo\n\ndata: [DONE]\n\n"))
    answer = await gateway.ask("plain", stream=True)
    assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
    *events, done = _events(answer.text)
    assert done == "[DONE]"
    assert answer.text.endswith("data: [DONE]\n\n")
    chunks = [ChatCompletionChunk.model_validate_json(event, strict=True) for event in events]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello\n\ndata: [DONE]\n\n"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[0].model == "default/plain"


async def test_reasoning_is_told_apart_from_what_is_said(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """What the model thinks arrives as `reasoning_content`, in a stream and in a whole answer."""
    thinking = [{"role": "assistant", "reasoning_content": "Let me "}, {"reasoning_content": "think."}]
    upstream.script(*2 * [delta_chunks(*thinking, {"content": "Four."})])
    *events, _ = _events((await gateway.ask("plain", stream=True)).text)
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Let me think."
    assert "".join(delta.get("content", "") for delta in deltas) == "Four."
    message = (await gateway.ask("plain")).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Let me think.", "Four.")


async def test_a_refusal_of_the_model_is_one(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """What the model will not do arrives as `refusal`, and not as text."""
    refusing = [{"role": "assistant", "refusal": "I will "}, {"refusal": "not."}]
    upstream.script(*2 * [delta_chunks(*refusing)])
    *events, _ = _events((await gateway.ask("plain", stream=True)).text)
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("refusal", "") for delta in deltas) == "I will not."
    assert "".join(delta.get("content", "") for delta in deltas) == ""
    message = (await gateway.ask("plain")).json()["choices"][0]["message"]
    assert (message["refusal"], message["content"]) == ("I will not.", None)


def _samples(text: str) -> Iterator[tuple[tuple[str, tuple[tuple[str, str], ...]], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                yield (sample.name, tuple(sorted(sample.labels.items()))), sample.value


async def test_both_forms_of_metrics_have_the_same_numbers(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """`/metrics` and `/metrics/prometheus` agree in every sample, and a request moves them."""
    request = ("gateway_requests_total", (("agent", "default/plain"), ("outcome", "ok")))
    tokens = (("agent", "default/plain"), ("kind", "completion"), ("upstream", "chat"))
    before = dict(_samples((await _get(gateway, "/metrics/prometheus")).text))
    logged = len(gateway.log)
    upstream.script(said("Hi"))
    await gateway.ask("plain")
    await gateway.logged("request.end", since=logged, path="/v1/chat/completions")
    text = dict(_samples((await _get(gateway, "/metrics/prometheus")).text))
    families = (await _get(gateway, "/metrics")).json()
    plain = {
        (sample["name"], tuple(sorted(sample["labels"].items()))): sample["value"]
        for family in families.values()
        for sample in family["samples"]
    }
    assert plain == text
    assert text[request] == before.get(request, 0) + 1
    assert text["gateway_tokens_total", tokens] == before.get(("gateway_tokens_total", tokens), 0) + 5
    assert text["gateway_requests_in_flight", (("agent", "default/plain"),)] == 0


# A client that reads nothing


class _Flood:
    """An answer without end, and how much of it has been sent."""

    def __init__(self) -> None:
        self.connection: Connection | None = None

    async def __call__(self, connection: Connection) -> None:
        self.connection = connection
        await endless("x" * 1000)(connection)

    async def settled(self) -> int:
        """Wait until nothing more is sent for a second."""
        seen = -1
        while self.connection is None or self.connection.sent != seen:
            seen = self.connection.sent if self.connection else -1
            await anyio.sleep(1)
        return seen


def _head(gateway: Gateway, length: int) -> bytes:
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: gateway", f"authorization: Bearer {gateway.key}"]
    return "\r\n".join([*lines, f"content-length: {length}", "", ""]).encode()


async def _connect(gateway: Gateway) -> anyio.abc.SocketStream:
    return await anyio.connect_tcp("127.0.0.1", int(gateway.url.rpartition(":")[2]))


async def test_a_client_that_does_not_read_stops_its_own_run_and_nothing_else(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """The upstream is held back, the gateway's memory is not filled, others are served, a hang-up ends it all."""
    flood = _Flood()
    upstream.script(flood, said("Hi"))
    before = gateway.rss()
    body = json.dumps({"model": "plain", "stream": True, "messages": QUESTION}).encode()
    async with await _connect(gateway) as stream:
        await stream.send(_head(gateway, len(body)) + body)
        assert b"200 OK" in await stream.receive()
        with anyio.fail_after(20):
            assert 100_000 < await flood.settled() < 30_000_000
        assert gateway.rss() - before < 40_000_000
        with anyio.fail_after(5):
            assert (await gateway.ask("plain")).json()["choices"][0]["message"]["content"] == "Hi"
        assert not upstream.hung_up.is_set()
    with anyio.fail_after(2):
        await upstream.hung_up.wait()


# The start
