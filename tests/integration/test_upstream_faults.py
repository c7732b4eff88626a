"""What a client meets when the model's server fails, which server an agent gets, and what never leaves the gateway."""

import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import httpx2
import psutil
import pytest

from tests.integration.process import PLAIN, Gateway, Home, running_gateway
from tests.integration.upstream import (
    Reply,
    ScriptedUpstream,
    answered,
    began,
    called,
    cut_in_mid_line,
    hang_up,
    one_line,
    reset,
    responded,
    said,
    scripted_upstream,
    silent,
    streamed,
)

KEY = "sk-the-operators-own-key"
OTHER_KEY = "sk-for-the-other-upstream"
IMPATIENT = {"first_byte": 1, "between_bytes": 1}
ON = "__gateway__ = {{'upstream': {!r}}}\n" + PLAIN

OWN = """
__gateway__ = {{'upstream': 'other'}}
import openai
from agents import Agent, function_tool

client = openai.OpenAI(api_key="sk-mine", base_url={url!r}, max_retries=0)

@function_tool
def ask(question: str, model: str = "own") -> str:
    "Ask the server at an address."
    messages = [{{"role": "user", "content": question}}]
    try:
        return client.chat.completions.create(model=model, messages=messages).choices[0].message.content
    except openai.OpenAIError as error:
        return f"{{type(error).__name__}}: {{error}}"

agent = Agent(name="Own", tools=[ask])
"""

DEMO = """
from pydantic import BaseModel
from agents import Agent, function_tool

class Finding(BaseModel):
    title: str
    count: int
    tags: list[str]

@function_tool
def get_weather(city: str) -> str:
    "Return the weather."
    return f"{city}: sunny"

analyst = Agent(name="Analyst", output_type=Finding)
agent = Agent(name="Demo", tools=[get_weather, analyst.as_tool("ask_analyst", "Ask the analyst.")], handoffs=[analyst])
"""


@pytest.fixture(scope="module")
async def other(anyio_backend: str) -> AsyncIterator[ScriptedUpstream]:
    """Another scripted upstream."""
    async with scripted_upstream() as server:
        yield server


@pytest.fixture(scope="module")
async def gateway(home: Home, upstream: ScriptedUpstream, other: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """A gateway with an agent on each upstream, and one that speaks to one of them by a client of its own."""
    secret = "${OPENAI_API_KEY}"
    home.upstreams(
        main={
            "base_url": upstream.url,
            "api_key": secret,
            "model": "test-model",
            "models": {"gpt-*": "mapped-model"},
            "timeouts": IMPATIENT,
        },
        resp={"base_url": upstream.url, "api_key": secret, "api": "responses", "timeouts": IMPATIENT},
        other={"base_url": other.url, "api_key": OTHER_KEY, "model": "test-model"},
    )
    home.agent("Chat", PLAIN)
    home.agent("Resp", ON.format("resp"))
    home.agent("Own", OWN.format(url=upstream.url))
    async with running_gateway(home, OPENAI_API_KEY=KEY) as started:
        yield started


@dataclass
class Fault:
    """What an upstream does, and what its client must be told."""

    reply: Reply
    status: int
    code: str
    words: str

    @property
    def event(self) -> str:
        """The event of its log line."""
        return self.code.replace("_", ".", 1)


def _says(status: int, message: str, **headers: str) -> Reply:
    return answered(status, {"error": {"message": message, "type": "t", "code": "c"}}, **headers)


HTML = answered(200, b"<html>Sign in to the hotel's network</html>", "text/html")
REDIRECT = answered(302, b"", location="http://127.0.0.1:1/v1/chat/completions")
BROKE = {"error": {"message": f"overloaded, says {KEY}", "type": "server_error"}}

EARLY = {
    "refuses the key": Fault(_says(401, f"bad key {KEY}"), 502, "upstream_failed", "bad key ***"),
    "is out of quota": Fault(_says(429, "slow down", retry_after="17"), 502, "upstream_failed", "slow down"),
    "breaks down": Fault(_says(500, "oops"), 502, "upstream_failed", "oops"),
    "breaks down in HTML": Fault(answered(503, b"<h1>no</h1>", "text/html"), 502, "upstream_failed", "503"),
    "refuses the request": Fault(_says(400, "context too long"), 400, "upstream_refused", "context too long"),
    "answers in HTML": Fault(HTML, 502, "upstream_failed", "text/html"),
    "answers with no JSON": Fault(streamed(b"data: {oops\n\n"), 502, "upstream_failed", "not JSON"),
    "answers with a list": Fault(streamed(b"data: [1, 2]\n\n"), 502, "upstream_failed", "cut"),
    "answers with nothing": Fault(streamed(), 502, "upstream_failed", "cut"),
    "sends an error at once": Fault(streamed(BROKE), 502, "upstream_failed", "overloaded, says ***"),
    "resets the connection": Fault(reset, 502, "upstream_failed", "main"),
    "hangs up at once": Fault(hang_up, 502, "upstream_failed", "main"),
    "hangs up before it says a word": Fault(began(then=hang_up), 502, "upstream_failed", "main"),
    "sends half a line": Fault(streamed(b'data: {"id": "chatc'), 502, "upstream_failed", "cut"),
    "says nothing": Fault(silent, 504, "upstream_too_slow", "main"),
    "redirects": Fault(REDIRECT, 502, "upstream_failed", "302"),
    "sends a line without end": Fault(one_line, 502, "upstream_failed", "8 MiB"),
}

LATE = {
    "cuts its answer in a line": Fault(cut_in_mid_line, 502, "upstream_failed", "cut"),
    "sends an error": Fault(began("Well, ", then=streamed(BROKE)), 502, "upstream_failed", "overloaded, says ***"),
    "hangs up": Fault(began("Well, ", then=hang_up), 502, "upstream_failed", "main"),
    "resets the connection": Fault(began("Well, ", then=reset), 502, "upstream_failed", "main"),
    "stops": Fault(began("Well, ", then=silent), 504, "upstream_too_slow", "main"),
    "goes on without a line's end": Fault(began("Well, ", then=one_line), 502, "upstream_failed", "8 MiB"),
}


def _error(body: dict[str, Any]) -> dict[str, Any]:
    """The error of an answer, which has OpenAI's shape and nothing beside it."""
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


def _events(answer: httpx2.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in answer.text.splitlines() if line]


async def _check(gateway: Gateway, fault: Fault, error: dict[str, Any], since: int) -> None:
    """Check an error, its log line, and that the same agent goes on."""
    assert error["code"] == fault.code
    assert fault.words in error["message"]
    assert KEY not in error["message"]
    line = await gateway.logged(fault.event, since=since, agent="default/chat", upstream="main")
    assert fault.words in line["reason"]
    assert (await gateway.ask("chat")).json()["choices"][0]["message"]["content"] == "ok"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", EARLY.values(), ids=EARLY.keys())
async def test_an_upstream_that_fails_before_its_first_word_is_an_error_with_a_status(
    gateway: Gateway, upstream: ScriptedUpstream, fault: Fault, stream: bool
) -> None:
    """Nothing has been said, so a stream is refused as a whole answer is: by status, cause, and a line of the log."""
    since = len(gateway.log)
    upstream.script(fault.reply)
    with anyio.fail_after(10):
        answer = await gateway.ask("chat", stream=stream)
    assert answer.status_code == fault.status
    await _check(gateway, fault, _error(answer.json()), since)
    assert len(upstream.received) == 2  # asked once, never again behind the client's back


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", LATE.values(), ids=LATE.keys())
async def test_an_upstream_that_fails_in_mid_answer_breaks_it_off(
    gateway: Gateway, upstream: ScriptedUpstream, fault: Fault, stream: bool
) -> None:
    """A stream ends with an error event and no `[DONE]`; a whole answer is never half of one."""
    since = len(gateway.log)
    upstream.script(fault.reply)
    with anyio.fail_after(10):
        answer = await gateway.ask("chat", stream=stream)
    assert answer.status_code == (200 if stream else fault.status)
    if stream:
        *chunks, last = _events(answer)
        assert "".join(json.loads(each)["choices"][0]["delta"].get("content", "") for each in chunks)
        assert [json.loads(each)["choices"][0]["finish_reason"] for each in chunks] == [None] * len(chunks)
        await _check(gateway, fault, _error(json.loads(last)), since)
    else:
        await _check(gateway, fault, _error(answer.json()), since)


async def test_a_pause_that_the_upstream_asks_for_is_passed_on(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """A client that honours Retry-After waits as long as the upstream said; a wild one is dropped."""
    upstream.script(_says(429, "slow down", retry_after="17"))
    assert (await gateway.ask("chat")).headers["retry-after"] == "17"
    upstream.script(_says(429, "slow down", retry_after="1e9"))
    assert "retry-after" not in (await gateway.ask("chat")).headers


@pytest.mark.parametrize("filler", [980, 63_000])
async def test_a_key_at_the_place_where_an_error_is_cut_is_not_shown_in_part(
    gateway: Gateway, upstream: ScriptedUpstream, filler: int
) -> None:
    """The operator's key is taken out of an upstream's words before they are shortened."""
    upstream.script(_says(401, "x" * filler + KEY))
    message = _error((await gateway.ask("chat")).json())["message"]
    assert KEY[:6] not in message


@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstream_that_does_not_stream_is_no_empty_answer(
    gateway: Gateway, upstream: ScriptedUpstream, stream: bool
) -> None:
    """A server that answers a stream's request with one piece of JSON is understood, or refused with the reason."""
    message = {"role": "assistant", "content": "All at once."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    upstream.script(answered(200, whole))
    answer = await gateway.ask("chat", stream=stream)
    if answer.status_code == 200:
        assert "All at once." in answer.text
    else:
        assert (answer.status_code, _error(answer.json())["code"]) == (502, "upstream_failed")


async def test_other_agents_do_not_notice_that_an_upstream_fails(
    gateway: Gateway, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """While one upstream hangs, floods and resets, an answer from another goes on as it comes."""
    hold = anyio.Event()
    other.script(said("one ", "two", hold=hold))
    upstream.script(silent, one_line, reset)
    async with anyio.create_task_group() as tasks:
        answers: list[httpx2.Response] = []

        async def ask_own() -> None:
            answers.append(await gateway.ask("own"))

        tasks.start_soon(ask_own)
        for status in (504, 502, 502):
            assert (await gateway.ask("chat")).status_code == status
        hold.set()
    assert answers[0].json()["choices"][0]["message"]["content"] == "one two"


# The responses dialect


def _response(kind: str, **fields: Any) -> dict[str, Any]:
    base = {"id": "resp_1", "object": "response", "created_at": 1, "model": "test-model", "tools": [], "output": []}
    base |= {"parallel_tool_calls": True, "tool_choice": "auto", "status": kind.rpartition(".")[2]}
    return {"type": kind, "sequence_number": 0, "response": base | fields}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("events", "words"),
    [
        pytest.param(
            [_response("response.failed", error={"code": "server_error", "message": f"overloaded {KEY}"})],
            "overloaded ***",
            id="failed",
        ),
        pytest.param([_response("response.failed", error=None)], "", id="failed without a word"),
        pytest.param(
            [{"type": "error", "sequence_number": 0, "code": "rate_limit", "message": "slow down", "param": None}],
            "slow down",
            id="error",
        ),
        pytest.param([_response("response.created", status="in_progress")], "cut", id="cut"),
    ],
)
async def test_a_response_that_fails_is_an_error(
    gateway: Gateway, upstream: ScriptedUpstream, events: list[dict[str, Any]], words: str, stream: bool
) -> None:
    """The upstream's own words for it reach the client, as a 502."""
    since = len(gateway.log)
    upstream.script(streamed(*events, named=True), responded("fine"))
    answer = await gateway.ask("resp", stream=stream)
    assert answer.status_code == 502
    error = _error(answer.json())
    assert error["code"] == "upstream_failed"
    assert words in error["message"]
    await gateway.logged("upstream.failed", since=since, agent="default/resp", upstream="resp")
    assert (await gateway.ask("resp")).json()["choices"][0]["message"]["content"] == "fine"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_that_was_cut_at_its_length_says_so(
    gateway: Gateway, upstream: ScriptedUpstream, stream: bool
) -> None:
    """What there is of the answer is given, with `length` for a reason."""
    upstream.script(responded("Too lo", status="incomplete", details={"reason": "max_output_tokens"}))
    answer = await gateway.ask("resp", stream=stream)
    assert answer.status_code == 200
    if stream:
        *_, last, done = _events(answer)
        assert (json.loads(last)["choices"][0]["finish_reason"], done) == ("length", "[DONE]")
    else:
        choice = answer.json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("Too lo", "length")


async def test_a_status_of_the_responses_dialect_is_told_as_well(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """The openai package's own client in the worker makes no other error of it, and does not try again."""
    upstream.script(_says(500, "oops"))
    answer = await gateway.ask("resp")
    assert answer.status_code == 502
    assert "oops" in _error(answer.json())["message"]
    assert len(upstream.received) == 1


# Which upstream


async def test_a_client_for_the_host_of_an_upstream_gets_that_upstream_and_its_key(
    gateway: Gateway, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """An agent that names a server by its address is led there, with the operator's key in place of its own."""
    other.script(_asked("Why?"), said("I see."))
    upstream.script(said("By address."))
    assert (await gateway.ask("own")).json()["choices"][0]["message"]["content"] == "I see."
    assert other.received[1].body["messages"][-1]["content"] == "By address."
    assert [each.headers["authorization"] for each in upstream.received] == [f"Bearer {KEY}"]
    assert [each.headers["authorization"] for each in other.received] == 2 * [f"Bearer {OTHER_KEY}"]


def _asked(question: str, model: str = "own") -> Reply:
    return called("ask", {"question": question, "model": model})


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        (_says(429, f"slow down, {KEY}"), "RateLimitError"),
        (answered(200, {"error": {"message": f"overloaded, says {KEY}"}}), ""),
    ],
)
async def test_an_error_reaches_the_agents_own_client_as_openais(
    gateway: Gateway, upstream: ScriptedUpstream, other: ScriptedUpstream, reply: Reply, name: str
) -> None:
    """Agent code that handles openai's exceptions handles them here, and does not see the key either."""
    other.script(_asked("Why?"), said("I see."))
    upstream.script(reply)
    assert (await gateway.ask("own")).json()["choices"][0]["message"]["content"] == "I see."
    result = other.received[1].body["messages"][-1]["content"]
    assert name in result
    assert KEY not in result


@pytest.mark.parametrize(
    ("asked", "got"),
    [("gpt-5-mini", "mapped-model"), ("GPT-4o", "mapped-model"), ("Test-Model", "test-model"), ("x", "test-model")],
)
async def test_a_model_is_mapped_to_what_the_upstream_has(
    gateway: Gateway, upstream: ScriptedUpstream, other: ScriptedUpstream, asked: str, got: str
) -> None:
    """Listed names stay, patterns of `models` are next, and the upstream's own `model` is for the rest."""
    other.script(_asked("Why?", asked), said("I see."))
    upstream.script(said("Because."))
    await gateway.ask("own")
    assert [each.body["model"] for each in upstream.received] == [got]


async def test_the_operators_key_is_nowhere_but_on_the_way_to_its_upstream(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """After all that went wrong, no output, log, answer or environment of a worker has a key in it."""
    upstream.script()
    async with gateway.http() as client:
        answers = [(await client.get(path)).text for path in ("/health", "/metrics", "/admin/agents/errors")]
    logs = [path.read_text() for path in (gateway.home.root / ".agent-gateway" / "logs").rglob("*.log*")]
    printed = [*gateway.output, *gateway.errors, *map(json.dumps, gateway.log)]
    workers = gateway.descendants()
    environments = [json.dumps([each.environ(), each.cmdline()]) for each in workers]
    assert len(workers) >= 3
    assert any("upstream.failed" in line for line in printed)
    for text in [*answers, *logs, *printed, *environments]:
        assert KEY not in text
        assert OTHER_KEY not in text
    assert KEY in psutil.Process(gateway.process.pid).environ().values()  # it would have been found


# The default upstream


def _closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


async def _default(gateway: Gateway) -> str:
    async with gateway.http() as client:
        upstream: str = (await client.get("/health")).json()["upstream"]
    return upstream


def _automatic(home: Home, **upstreams: dict[str, Any]) -> None:
    document = {"default": "auto", "upstreams": upstreams}
    (home.root / "policies" / "upstreams.yaml").write_text(json.dumps(document))


@pytest.fixture(scope="module")
async def newcomer(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[Gateway]:
    """A gateway as a newcomer has it, without a key and without a model server."""
    home = Home(tmp_path_factory.mktemp("newcomer") / "home")
    keyed = {"base_url": "https://api.openai.com/v1", "api_key": "${OPENAI_API_KEY}", "api": "responses"}
    _automatic(home, openai=keyed, local={"base_url": f"http://127.0.0.1:{_closed_port()}/v1"}, demo={"kind": "demo"})
    home.agent("Demo", DEMO)
    home.agent("Keyless", ON.format("openai"))
    home.agent("Local", ON.format("local"))
    async with running_gateway(home) as started:
        yield started


async def test_without_a_key_or_a_server_the_default_is_the_demo(newcomer: Gateway) -> None:
    """`/health` says which upstream was taken, and why not the others."""
    async with newcomer.http() as client:
        health = (await client.get("/health")).json()
    assert health["upstream"] == "demo"
    assert "no key" in health["upstreams"]["openai"]
    assert health["upstreams"]["local"] != "ok"
    assert health["upstreams"]["demo"] == "ok"


async def test_the_demo_streams_words_and_says_what_it_is(newcomer: Gateway) -> None:
    """A newcomer sees an answer grow, and is not deceived about who gave it."""
    *events, done = _events(await newcomer.ask("demo", "Is anybody there", stream=True))
    deltas = [json.loads(each)["choices"][0]["delta"].get("content", "") for each in events]
    assert done == "[DONE]"
    assert "".join(deltas).startswith("You said: Is anybody there")
    assert "demo upstream: no model was asked" in "".join(deltas)
    assert len([each for each in deltas if each]) > 5


async def test_the_demo_calls_the_tool_that_the_question_names(newcomer: Gateway) -> None:
    """A tool really runs, with arguments from the question, and its result is the answer."""
    answer = (await newcomer.ask("demo", "Use get_weather for Paris")).json()
    assert answer["choices"][0]["message"]["content"].startswith("The tool answered: Paris: sunny")
    assert answer["usage"]["total_tokens"] > 0


async def test_the_demo_gives_a_value_of_the_type_that_is_asked_for(newcomer: Gateway) -> None:
    """An agent with an output type, here one that is another's tool, gets JSON that it can validate."""
    answer = (await newcomer.ask("demo", "Use ask_analyst about Whales")).json()
    assert "title='Whales' count=1 tags=['Whales']" in answer["choices"][0]["message"]["content"]


async def test_the_demo_gives_json_after_a_handoff_as_well(newcomer: Gateway) -> None:
    """Where a schema is asked for after a tool's result, the result is no reason to answer in prose."""
    answer = (await newcomer.ask("demo", "Use transfer_to_analyst about 7 Whales")).json()
    finding = json.loads(answer["choices"][0]["message"]["content"])
    assert finding.keys() == {"title", "count", "tags"}
    assert [type(each) for each in finding.values()] == [str, int, list]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstream_without_its_key_is_a_503_that_says_what_to_set(newcomer: Gateway, stream: bool) -> None:
    """An agent that names an upstream whose variable is not set fails alone and clearly, without another upstream."""
    since = len(newcomer.log)
    answer = await newcomer.ask("keyless", stream=stream)
    assert answer.status_code == 503
    error = _error(answer.json())
    assert error["code"] == "no_upstream"
    assert "openai" in error["message"]
    await newcomer.logged("upstream.none", since=since)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstream_that_refuses_the_connection_is_a_502(newcomer: Gateway, stream: bool) -> None:
    """A server that is not running is named; its agent is not led to the demo in its stead."""
    since = len(newcomer.log)
    answer = await newcomer.ask("local", stream=stream)
    assert answer.status_code == 502
    error = _error(answer.json())
    assert error["code"] == "upstream_failed"
    assert "local" in error["message"]
    await newcomer.logged("upstream.failed", since=since, agent="default/local", upstream="local")
    assert (await newcomer.ask("demo")).status_code == 200


async def test_a_server_that_lists_its_models_is_taken_and_settings_come_before_it(
    tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream, other: ScriptedUpstream
) -> None:
    """`auto` skips what has no key or does not answer; GATEWAY_DEFAULT_UPSTREAM and GATEWAY_DEFAULT_MODEL decide."""
    home = Home(tmp_path_factory.mktemp("automatic") / "home")
    home.agent("Plain")
    keyless = {"base_url": "https://api.openai.com/v1", "api_key": "${OPENAI_API_KEY}"}
    closed = {"base_url": f"http://127.0.0.1:{_closed_port()}/v1"}
    local, spare = {"base_url": upstream.url}, {"base_url": other.url}
    _automatic(home, openai=keyless, closed=closed, local=local, spare=spare, demo={"kind": "demo"})
    upstream.script()
    other.script()
    async with running_gateway(home) as gateway:
        assert await _default(gateway) == "local"
        assert (await gateway.ask("plain")).status_code == 200
    assert [each.body["model"] for each in upstream.received] == ["test-model"]
    settings = {"GATEWAY_DEFAULT_UPSTREAM": "spare", "GATEWAY_DEFAULT_MODEL": "special"}
    async with running_gateway(home, **settings) as gateway:
        assert await _default(gateway) == "spare"
        assert (await gateway.ask("plain")).status_code == 200
    assert [each.body["model"] for each in other.received] == ["special"]
    assert len(upstream.received) == 1
