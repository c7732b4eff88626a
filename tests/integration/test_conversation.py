"""What a client of a dropped-in agent gets."""

import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.integration.process import Gateway, Home, running_gateway
from tests.integration.upstream import HEAD, Connection, ScriptedUpstream, called, responded, said, silent

WEATHER = """
from agents import Agent, function_tool

@function_tool
def get_weather(city: str) -> str:
    "Return the weather."
    print("looked up", city)
    return f"{city}: sunny"

agent = Agent(name="Weather", instructions="Look it up.", tools=[get_weather])
"""

NESTED = """
from agents import Agent, function_tool

poet = Agent(name="Poet", instructions="Write verses.", model="poet-model")
expert = Agent(name="Expert", instructions="Know things.")
agent = Agent(
    name="Front",
    instructions="Decide.",
    tools=[poet.as_tool("ask_poet", "Ask the poet.")],
    handoffs=[expert],
)
"""

OWN_CLIENTS = """
import asyncio
from concurrent.futures import ThreadPoolExecutor

import openai
from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool

@function_tool
async def blocking(question: str) -> str:
    "Call a model with a sync client, on the loop."
    answer = openai.OpenAI(api_key="sk-mine").chat.completions.create(
        model="own", messages=[{"role": "user", "content": question}]
    )
    return answer.choices[0].message.content or ""

@function_tool
def threaded(question: str) -> str:
    "Call a model with a sync client, in a thread, streamed."
    client = openai.OpenAI(api_key="sk-mine")
    stream = client.chat.completions.create(
        model="own", messages=[{"role": "user", "content": question}], stream=True
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

def _ask(question: str) -> str:
    answer = asyncio.run(Runner.run(Agent(name="Nested"), question))
    return answer.final_output

@function_tool
def nested_loop(question: str) -> str:
    "Run an agent on a loop of its own, in a thread."
    return _ask(question)

@function_tool
async def joined(question: str) -> str:
    "Block the loop until a thread has run an agent on a loop of its own."
    with ThreadPoolExecutor() as pool:
        return pool.submit(_ask, question).result()

@function_tool
def crowd(question: str) -> str:
    "Call a model 200 times from 20 threads."
    client = openai.OpenAI(api_key="sk-mine")
    messages = [{"role": "user", "content": question}]
    def ask(_: int) -> str:
        stream = client.chat.completions.create(model="own", messages=messages, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    with ThreadPoolExecutor(20) as pool:
        return " ".join(pool.map(ask, range(200)))

@function_tool
async def fetch(url: str) -> str:
    "Fetch a page."
    import httpx2
    async with httpx2.AsyncClient() as client:
        try:
            return (await client.get(url)).text
        except httpx2.ConnectError as error:
            return str(error)

agent = Agent(
    name="Own",
    model=OpenAIChatCompletionsModel("own", openai.AsyncOpenAI(api_key="sk-mine", base_url="https://elsewhere.example/v1")),
    tools=[blocking, threaded, nested_loop, joined, crowd, fetch],
)
"""

FACTORY = """
from agents import Agent

async def agent():
    return Agent(name="Made", instructions="Be brief.")
"""

STOPPING = """
from agents import Agent, function_tool

@function_tool
def lookup(word: str) -> str:
    "Look a word up."
    return f"{word} means nothing"

agent = Agent(name="Stopping", tools=[lookup], tool_use_behavior="stop_on_first_tool")
"""


ODD = """
import asyncio
from agents import Agent, AgentHooks, UserError

def instructions(context, agent):
    raise UserError("not a letter: \\udcff")

class Cancelling(AgentHooks):
    async def on_start(self, context, agent):
        raise asyncio.CancelledError

agent = Agent(name="Odd", instructions=instructions)
"""


@pytest.fixture(scope="module")
async def gateway(home: Home, upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """A gateway with agents of many kinds."""
    home.upstreams(
        chat={"base_url": upstream.url, "api_key": "sk-operator", "model": "test-model"},
        resp={"base_url": upstream.url, "api_key": "sk-operator", "api": "responses"},
    )
    home.agent("Plain")
    home.agent("Weather", WEATHER)
    home.agent("labs/Nested", NESTED)
    home.agent("Own", OWN_CLIENTS)
    home.agent("Made", FACTORY)
    home.agent("Stopping", STOPPING)
    home.agent("Odd", ODD)
    home.agent("Cancelling", ODD.replace("instructions=instructions", "hooks=Cancelling()"))
    home.agent("Responses", "__gateway__ = {'upstream': 'resp'}\nfrom agents import Agent\nagent = Agent(name='R')\n")
    async with running_gateway(home) as started:
        yield started


async def test_deltas_arrive_one_by_one_as_the_upstream_sends_them(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """A client gets each word when the upstream sends it, not when the answer is whole."""
    hold = anyio.Event()
    upstream.script(said("one ", "two ", "three", hold=hold))
    stream = await gateway.client.chat.completions.create(
        model="default/plain", messages=[{"role": "user", "content": "Count"}], stream=True
    )
    words = []
    with anyio.fail_after(10):
        async for chunk in stream:
            if content := chunk.choices[0].delta.content:
                words.append(content)
            if words == ["one ", "two "]:
                hold.set()  # the last word is sent only now
    assert words == ["one ", "two ", "three"]
    assert upstream.received[0].headers["authorization"] == "Bearer sk-operator"


async def test_a_conversation_of_seven_messages_reaches_the_upstream_whole(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """Nothing of a transcript is lost, reordered or invented; the agent's own instructions come first."""
    upstream.script(said("Done."))
    call = {"id": "call_0", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    messages: list[Any] = [
        {"role": "system", "content": "Be polite."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello, how can I help?"},
        {"role": "user", "content": [{"type": "text", "text": "Weather in Oslo?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": "rain"},
        {"role": "user", "content": "And tomorrow?"},
    ]
    await gateway.client.chat.completions.create(model="default/weather", messages=messages)
    sent = upstream.received[0].body["messages"]
    assert [each["role"] for each in sent] == ["system", *(each["role"] for each in messages)]
    assert sent[0]["content"] == "Look it up."
    assert sent[5]["tool_calls"][0]["function"] == call["function"]
    assert sent[6] == {"role": "tool", "tool_call_id": "call_0", "content": "rain"}
    assert sent[7]["content"] == "And tomorrow?"


async def test_a_native_tool_runs_and_its_result_goes_back_to_the_model(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """Two model calls, one tool call between them, usage of both; what the tool prints is in the worker's log."""
    upstream.script(called("get_weather", {"city": "Paris"}), said("It is ", "sunny."))
    answer = await gateway.client.chat.completions.create(
        model="weather", messages=[{"role": "user", "content": "Paris?"}]
    )
    assert answer.choices[0].message.content == "It is sunny."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (20, 10, 30)
    assert upstream.received[1].body["messages"][-1]["content"] == "Paris: sunny"
    await gateway.in_worker_log("default", "weather", "looked up Paris")


async def test_a_stream_ends_with_usage_where_it_is_asked_for(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """`include_usage` gives one more chunk, with no choice and the true usage; without it there is none."""
    upstream.script(said("Hi"), said("Hi"))
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]
    client = gateway.client
    asked = await client.chat.completions.create(
        model="plain", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in asked]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 15
    plain = await client.chat.completions.create(model="plain", messages=messages, stream=True)
    assert all([chunk.usage is None and chunk.choices async for chunk in plain])


async def test_the_finish_reason_is_the_upstreams(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """An answer that the upstream cut at its length says so."""
    upstream.script(said("Too lo", finish="length"))
    answer = (await gateway.ask("plain")).json()
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_handoffs_and_agents_as_tools_call_models_over_the_wire(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """Every model call of a run is brokered with the operator's key, and counted, whoever in the run makes it."""
    upstream.script(
        called("ask_poet", {"input": "roses"}),
        said("Roses are red."),
        called("transfer_to_expert", {}),
        said("They are, indeed."),
    )
    answer = (await gateway.ask("labs/nested")).json()
    assert answer["choices"][0]["message"]["content"] == "They are, indeed."
    assert answer["usage"]["total_tokens"] == 60
    assert len(upstream.received) == 4
    assert {each.headers["authorization"] for each in upstream.received} == {"Bearer sk-operator"}


async def test_a_model_that_the_upstream_does_not_list_is_replaced_and_said_once(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """An agent that names a model of another vendor works, and a diagnostic says which one it got."""
    for _ in range(2):
        upstream.script(called("ask_poet", {"input": "roses"}), said("Roses."), said("Done."))
        await gateway.ask("nested")
    assert {each.body["model"] for each in upstream.received} == {"test-model"}
    async with gateway.http() as client:
        errors = (await client.get("/admin/agents/errors")).json()["errors"]
    found = [each for each in errors if "poet-model" in each["message"]]
    assert [each["count"] for each in found] == [1]


@pytest.mark.parametrize("tool", ["blocking", "threaded"])
async def test_a_sync_client_of_the_agents_own_is_brokered_without_its_key(
    gateway: Gateway, upstream: ScriptedUpstream, tool: str
) -> None:
    """A sync client, called on the loop or in a thread, neither hangs the worker nor gets past the broker."""
    upstream.script(called(tool, {"question": "Why?"}), said("from the client"), said("Because."))
    with anyio.fail_after(20):
        answer = await gateway.ask("own")
    assert answer.json()["choices"][0]["message"]["content"] == "Because."
    assert upstream.received[2].body["messages"][-1]["content"] == "from the client"
    assert {each.headers["authorization"] for each in upstream.received} == {"Bearer sk-operator"}


@pytest.mark.parametrize("tool", ["nested_loop", "joined"])
async def test_a_run_on_another_loop_of_the_worker_ends(
    gateway: Gateway, upstream: ScriptedUpstream, tool: str
) -> None:
    """A run nested in a thread, on an event loop of its own, gets its model even where the main loop waits for it."""
    upstream.script(called(tool, {"question": "Why?"}), said("from below"), said("Because."))
    with anyio.fail_after(20):
        answer = await gateway.ask("own")
    assert answer.json()["choices"][0]["message"]["content"] == "Because."
    assert upstream.received[2].body["messages"][-1]["content"] == "from below"


async def test_calls_from_many_threads_at_once_are_all_answered(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """Threads that stream side by side neither break the protocol nor lose, double or reorder a word."""
    words = [f"{number}," for number in range(60)]
    upstream.script(called("crowd", {"question": "Why?"}), *[said(*words)] * 200, said("Because."))
    answer = await gateway.ask("own")
    assert answer.json()["choices"][0]["message"]["content"] == "Because."
    assert upstream.received[-1].body["messages"][-1]["content"] == " ".join(["".join(words)] * 200)


async def test_any_other_http_of_an_agent_has_no_network_and_is_told_so(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """A plain HTTP client in a tool gets an error that names the reason; nothing is sent."""
    upstream.script(called("fetch", {"url": upstream.url}), said("I could not."))
    await gateway.ask("own")
    assert len(upstream.received) == 2
    assert "no network" in upstream.received[1].body["messages"][-1]["content"]


async def test_an_async_factory_is_an_export(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """`async def agent()` is called once, on the worker's loop."""
    upstream.script(said("Made."))
    assert (await gateway.ask("made")).json()["choices"][0]["message"]["content"] == "Made."


async def test_an_output_that_no_model_said_is_said_all_the_same(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """Where a tool's result ends the run, it is the answer."""
    upstream.script(called("lookup", {"word": "foo"}))
    answer = (await gateway.ask("stopping")).json()
    assert answer["choices"][0] | {"logprobs": None} == {
        "index": 0,
        "message": {"role": "assistant", "content": "foo means nothing", "refusal": None},
        "finish_reason": "stop",
        "logprobs": None,
    }


async def test_an_upstream_that_speaks_responses_is_spoken_to_so(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """The SDK's Responses model runs over the wire; usage has cached and reasoning tokens."""
    upstream.script(responded("Hel", "lo"))
    answer = (await gateway.ask("responses")).json()
    assert upstream.received[0].path == "/v1/responses"
    assert answer["choices"][0]["message"]["content"] == "Hello"
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


async def test_a_client_that_hangs_up_ends_run_and_model_call_at_once(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """Within a second of the hang-up the upstream's connection is closed and the worker has nothing in flight."""
    upstream.script(said("one ", "two", hold=anyio.Event()))
    stream = await gateway.client.chat.completions.create(
        model="plain", messages=[{"role": "user", "content": "Count"}], stream=True
    )
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    begun = time.monotonic()
    await stream.close()
    before = len(gateway.log)
    await gateway.logged("request.end", since=max(before - 1, 0), path="/v1/chat/completions")
    assert time.monotonic() - begun < 1
    assert (await gateway.status("default/plain"))["in_flight"] == 0


async def test_messages_of_two_turns_do_not_run_into_each_other(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """Text before a tool call and the answer after it are paragraphs."""
    upstream.script(called("get_weather", {"city": "Rome"}, before="Let me look."), said("Sunny."))
    answer = (await gateway.ask("weather")).json()
    assert answer["choices"][0]["message"]["content"] == "Let me look.\n\nSunny."


async def test_an_error_that_is_no_utf_8_ends_its_own_run_alone(gateway: Gateway) -> None:
    """Whatever characters an exception has in it, the client gets an error and the worker goes on."""
    answer = await gateway.ask("odd")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "agent_failed")
    assert (await gateway.status("default/odd"))["restarts"] == 0


async def test_a_run_that_the_agent_cancels_itself_is_an_error(gateway: Gateway) -> None:
    """An answer that nobody gave is not told as an empty one."""
    answer = await gateway.ask("cancelling")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "agent_failed")


async def test_an_answer_ends_with_its_done_even_where_the_body_stays_open(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """An upstream that forgets to end its body keeps no client waiting."""

    async def left_open(connection: Connection) -> None:
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        await connection.raw(HEAD)
        await connection.event(chunk | {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]})
        await connection.chunk(b"data: [DONE]\n\n")
        await silent(connection)

    upstream.script(left_open)
    with anyio.fail_after(5):
        answer = await gateway.ask("plain", stream=True)
    assert '"Hi"' in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
