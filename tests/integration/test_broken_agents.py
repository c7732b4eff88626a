"""What a home with broken agents in it does: each one says what is wrong with it, and the others never notice."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.runtime.worker_log import FILE_LIMIT
from tests.integration.process import Gateway, Home, running_gateway, until
from tests.integration.upstream import ScriptedUpstream, called, said


@dataclass(frozen=True)
class Broken:
    """An agent that cannot be served."""

    source: str
    reason: tuple[str, ...]
    """What must be said of it."""
    traceback: str = ""
    """What its traceback must have; empty where nothing was run."""


BROKEN = {
    "syntax": Broken("agent = 1\nagent = (\n", ("agent.py, line 2", "was never closed")),
    "crooked": Broken(
        "from agents import Agent\nfrom .helpers import NAME\nagent = Agent(name=NAME)\n",
        ("helpers.py, line 2",),
        traceback="SyntaxError",
    ),
    "missing": Broken(
        "import os\n\nimport a_package_of_nobody.part\n",
        ("'a_package_of_nobody' is not installed", "agent.py, line 3"),
        traceback="import a_package_of_nobody.part",
    ),
    "quitting": Broken(
        "import sys\nsys.exit('bye')\n", ("sys.exit('bye')", "agent.py, line 2"), traceback="SystemExit"
    ),
    "vanishing": Broken("import os\nos._exit(1)\n", ("while the module was being imported", "exit code 1")),
    "raising": Broken(
        "def connect():\n    raise RuntimeError('no database')\n\nconnect()\n",
        ("RuntimeError: no database", "agent.py, line 2"),
        traceback="connect()",
    ),
    "wrong": Broken("agent = {'name': 'Wrong'}\n", ("must export an Agent", "agent is a dict")),
    "misnamed": Broken(
        "from agents import Agent\nbot = Agent(name='Bot')\n", ("must export an Agent", "agents in it: bot")
    ),
    "demanding": Broken(
        "from agents import Agent\ndef agent(model):\n    return Agent(name='D', model=model)\n",
        ("without arguments", "agent is a function"),
    ),
    "failing": Broken(
        "async def agent():\n    raise LookupError('no prompt')\n",
        ("agent() failed", "LookupError: no prompt", "agent.py, line 2"),
        traceback="raise LookupError",
    ),
    "computed": Broken(
        "from agents import Agent\n__gateway__ = dict(upstream='chat')\nagent = Agent(name='C')\n",
        ("agent.py, line 2", "plain dict"),
    ),
    "astray": Broken(
        "from agents import Agent\n__gateway__ = {'upstream': 'nowhere'}\nagent = Agent(name='A')\n",
        ("'nowhere'", "there are chat"),
    ),
    "annotated": Broken(
        "from agents import Agent\n__gateway__: dict[str, str] = {'upstream': 'nowhere'}\nagent = Agent(name='A')\n",
        ("'nowhere'", "there are chat"),
    ),
}
TWINS, LINKED = "default/twin", "default/linked"
REASONS = {f"default/{name}": each.reason for name, each in BROKEN.items()} | {
    TWINS: ("Twin and twin", "rename one"),
    LINKED: ("passwords", "leads out of the folder"),
}

HEALTHY = """
import json
import os
import sys

import dotenv
import openai
from agents import Agent, GuardrailFunctionOutput, function_tool, input_guardrail
from mcp import ClientSession

from .near import NEAR
from far import FAR

dotenv.load_dotenv()
SECRET = "the-value-of-a-secret"

@function_tool
def look_around() -> str:
    "Say what is around this code."
    print("looked around")
    print('\\x00\\x00\\x00\\x05not a frame', flush=True)
    around = {
        "cwd": os.getcwd(),
        "files": sorted(os.listdir(".")),
        "stdin": sys.stdin.read() + os.read(0, 10).decode(),
        "environ": dict(os.environ),
        "argv": sys.argv,
        "modules": {name: sys.modules[name].__file__ for name in ("agents", "mcp", "openai")},
        "helpers": [NEAR, FAR],
    }
    return json.dumps(around)

@function_tool
def stumble() -> str:
    "Raise, as tools do."
    raise ValueError("the number must be positive")

@function_tool(failure_error_function=None)
def fall() -> str:
    "Raise, and end the run by it."
    raise ValueError(SECRET)

@input_guardrail
async def no_secrets(context, agent, items):
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered="forbidden" in str(items))

def instructions(context, agent):
    raise KeyError(SECRET)

agent = Agent(
    name="Healthy",
    tools=[look_around, stumble, fall],
    input_guardrails=[no_secrets],
    handoffs=[Agent(name="Moody", instructions=instructions)],
)
"""
HIDDEN = "raise RuntimeError('this file was imported in the place of a library')\n"

EAGER = """
import openai
from agents import Agent

try:
    openai.OpenAI(api_key="sk-mine", max_retries=0).chat.completions.create(
        model="own", messages=[{"role": "user", "content": "Hi"}]
    )
except openai.OpenAIError as error:
    print("at import:", error)

agent = Agent(name="Eager")
"""

CHATTY = """
from agents import Agent

for _ in range(10):
    print("x" * (1 << 20))
print("the last line")

agent = Agent(name="Chatty")
"""

LOOP = "while True:\n    pass\n"


def write(home: Home) -> None:
    """Put every agent of this file into a home, but the one that never ends."""
    for name, each in BROKEN.items():
        home.agent(name, each.source, **({"helpers": "NAME = 'x'\nNAME = = 1\n"} if name == "crooked" else {}))
    home.agent("Healthy", HEALTHY, near="NEAR = 'near'", far="FAR = 'far'", agents=HIDDEN, mcp=HIDDEN, openai=HIDDEN)
    home.agent("Eager", EAGER)
    home.agent("Chatty", CHATTY)
    for folder in ("Twin", "twin", "Linked", "_drafts", ".old"):
        home.agent(folder)
    agents = home.root / "agents"
    (agents / "Linked" / "passwords").symlink_to("/etc/passwd")
    (agents / "Empty").mkdir()
    (agents / "agent.py").write_text("agent = 1\n")


@pytest.fixture(scope="module")
async def gateway(home: Home, upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """A gateway on a home where most agents are broken."""
    home.upstreams(chat={"base_url": upstream.url, "api_key": "sk-operator", "model": "test-model"})
    write(home)
    async with running_gateway(home, SECRET_THING="of-the-gateway", GATEWAY_LOG_LEVEL="info") as started:
        yield started


async def reported(gateway: Gateway) -> list[dict[str, Any]]:
    """Return what `/admin/agents/errors` lists."""
    async with gateway.http() as client:
        errors: list[dict[str, Any]] = (await client.get("/admin/agents/errors")).json()["errors"]
    return errors


async def around(gateway: Gateway, upstream: ScriptedUpstream) -> dict[str, Any]:
    """Return what a tool of the healthy agent sees around it."""
    upstream.script(called("look_around", {}), said("Seen."))
    assert (await gateway.ask("healthy")).status_code == 200
    seen: dict[str, Any] = json.loads(upstream.received[1].body["messages"][-1]["content"])
    return seen


@pytest.mark.parametrize("agent", REASONS)
async def test_a_request_to_a_broken_agent_says_what_is_wrong_and_where(gateway: Gateway, agent: str) -> None:
    """The answer is a 503 that has the reason, with file and line where there is one."""
    answer = await gateway.ask(agent)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "agent_unavailable")
    assert "retry-after" not in answer.headers, "another try would end the same way"
    for words in REASONS[agent]:
        assert words in error["message"]


@pytest.mark.parametrize("agent", REASONS)
async def test_an_operator_finds_a_broken_agent_in_health_diagnostics_and_log(gateway: Gateway, agent: str) -> None:
    """`/health` says FAILED and why, `/admin/agents/errors` has it once, and the log has a line."""
    status = await gateway.status(agent)
    assert status["state"] == "FAILED"
    [found] = [each for each in await reported(gateway) if each["agent"] == agent]
    line = await gateway.logged("diagnostic.import", agent=agent)
    for words in REASONS[agent]:
        assert words in status["reason"]
        assert words in found["message"]
        assert words in line["reason"]
    assert (found["stage"], found["severity"], found["count"]) == ("import", "error", 1)


@pytest.mark.parametrize("name", [name for name, each in BROKEN.items() if each.traceback])
async def test_what_was_raised_comes_with_its_traceback(gateway: Gateway, name: str) -> None:
    """An author reads where their code failed, in the diagnostics and in the worker's log."""
    [found] = [each for each in await reported(gateway) if each["agent"] == f"default/{name}"]
    assert BROKEN[name].traceback in found["traceback"]
    await gateway.in_worker_log("default", name, BROKEN[name].traceback)


async def test_only_agents_that_work_are_listed(gateway: Gateway) -> None:
    """`/v1/models` has the healthy agents and no other; one that is broken is a 503 there too."""
    async with gateway.http() as client:
        listed = (await client.get("/v1/models")).json()["data"]
        shown = await client.get("/v1/models/default/missing")
    assert {each["id"] for each in listed} == {"default/healthy", "default/eager", "default/chatty"}
    assert shown.status_code == 503
    assert "a_package_of_nobody" in shown.json()["error"]["message"]


async def test_folders_that_give_no_id_are_diagnostics_only(gateway: Gateway) -> None:
    """A folder without agent.py, and agents/agent.py itself, are reported with a remedy and are no agents."""
    found = {each["path"]: each for each in await reported(gateway) if each["stage"] == "discovery"}
    assert set(found) == {"Empty", "agent.py"}
    assert "no agent.py" in found["Empty"]["message"]
    assert "directly" in found["agent.py"]["message"]
    assert all(each["remedy"] for each in found.values())
    assert (await gateway.ask("default/empty")).status_code == 404


@pytest.mark.parametrize("name", ["_drafts", ".old", "-old", "drafts"])
async def test_folders_that_begin_with_an_underscore_or_a_dot_are_not_there(gateway: Gateway, name: str) -> None:
    """A skipped folder is neither an agent nor a fault."""
    assert (await gateway.ask(f"default/{name}")).status_code == 404
    assert not [each for each in await reported(gateway) if name in each["path"] or name in each["agent"]]


async def test_healthy_agents_answer_beside_broken_ones(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """Whatever the others are, an agent that works works."""
    for agent in ("healthy", "eager", "chatty"):
        upstream.script(said("Fine."))
        answer = await gateway.ask(agent)
        assert answer.json()["choices"][0]["message"]["content"] == "Fine."


async def test_what_an_agent_raises_is_plain_text_to_the_terminal(tmp_path: Path) -> None:
    """Markup and control characters in a reason neither style nor break the banner: the gateway starts."""
    home = Home(tmp_path / "home")
    home.upstreams(demo={"kind": "demo"})
    home.agent("Painter", "raise ValueError('[/bold] [red]' + chr(27) + '[2J')\n")
    with anyio.fail_after(20):
        async with running_gateway(home) as gateway:
            [row] = [line for line in gateway.output if line.startswith("default/painter")]
    assert "ValueError: [/bold] [red]" in row
    assert "\x1b[2J" not in row


async def test_an_agent_that_loops_at_import_is_given_up_and_holds_up_nobody(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """After its deadline it is FAILED with the reason, its process is ended, and the other agent has been up."""
    home = Home(tmp_path / "home")
    home.upstreams(chat={"base_url": upstream.url, "api_key": "sk-operator", "model": "test-model"})
    home.agent("Endless", LOOP)
    home.agent("Plain")
    home.policy(ready_seconds=6)
    async with running_gateway(home) as gateway:
        status = await gateway.status("default/endless")
        assert status["state"] == "FAILED"
        assert "not ready within 6 s" in status["reason"]
        answer = await gateway.ask("endless")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "agent_unavailable")
        assert "not ready within 6 s" in answer.json()["error"]["message"]
        upstream.script(said("Fine."))
        assert (await gateway.ask("plain")).status_code == 200
        await until(lambda: len(gateway.descendants()) == 4)  # the healthy worker, its guard, the zygote and its warden


async def test_ten_megabytes_printed_at_import_are_capped(gateway: Gateway) -> None:
    """A chatty agent is up; its log holds the latest of it, within the limit of one file."""
    folder = gateway.home.root / ".agent-gateway" / "logs" / "default"
    assert (await gateway.status("default/chatty"))["state"] == "READY"
    await gateway.in_worker_log("default", "chatty", "the last line")
    assert (folder / "chatty.log").stat().st_size <= FILE_LIMIT
    assert sorted(each.name for each in folder.glob("chatty*")) == ["chatty.log", "chatty.log.1"]


async def test_both_ways_to_import_a_neighbour_work(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """`from .near import x` and `from far import x` find the files of the agent's folder."""
    assert (await around(gateway, upstream))["helpers"] == ["near", "far"]


async def test_files_named_like_a_library_do_not_hide_it(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """agents.py, mcp.py and openai.py in an agent's folder leave the installed packages what they are."""
    seen = await around(gateway, upstream)
    assert all("site-packages" in path for path in seen["modules"].values())


async def test_a_file_that_is_hidden_by_a_library_is_said(gateway: Gateway) -> None:
    """A warning names each such file of a running agent, and no other."""
    found = [each for each in await reported(gateway) if each["agent"] == "default/healthy"]
    assert {each["severity"] for each in found} == {"warning"}
    named = {
        name for each in found for name in ("agents", "mcp", "openai", "far", "near") if name in each["message"].split()
    }
    assert named == {"agents", "mcp", "openai"}


async def test_only_files_that_are_hidden_are_said_to_be(gateway: Gateway) -> None:
    """A neighbour that the agent imported from its own folder is hidden by nothing, and no log line says so."""
    lines = [line["reason"] for line in gateway.log if line.get("agent") == "default/healthy" and "reason" in line]
    hidden = {line.split()[0] for line in lines if "hidden" in line}
    assert hidden == {"agents", "mcp", "openai"}


async def test_agent_code_stands_in_a_copy_of_its_folder(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """The working directory has the folder's files, and writing there would not touch the author's."""
    seen = await around(gateway, upstream)
    assert seen["cwd"] == "/agent"
    assert {"agent.py", "near.py", "far.py"} <= set(seen["files"])
    assert seen["argv"] == [f"{seen['cwd']}/agent.py"]


async def test_reading_stdin_ends_at_once_and_printing_goes_to_the_log(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """Standard input is empty; what is printed, be it shaped like a frame, is never taken for the protocol."""
    before = (await gateway.status("default/healthy"))["pid"]
    seen = await around(gateway, upstream)
    assert seen["stdin"] == ""
    await gateway.in_worker_log("default", "healthy", "looked around")
    await gateway.in_worker_log("default", "healthy", "not a frame")
    assert (await gateway.status("default/healthy"))["pid"] == before


async def test_nothing_of_the_gateways_environment_reaches_an_agent(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """An agent's environment has no variable of the gateway's own, and no key."""
    environ = (await around(gateway, upstream))["environ"]
    assert not [name for name in environ if name.startswith("GATEWAY_")]
    text = json.dumps(environ)
    for secret in ("SECRET_THING", "of-the-gateway", "sk-operator", gateway.key):
        assert secret not in text
    allowed = {"PATH", "LANG", "HOME", "TMPDIR", "OPENAI_API_KEY", "OPENAI_DEFAULT_MODEL", "PYTHONUNBUFFERED", "USER"}
    assert set(environ) <= allowed | {"LC_CTYPE"}


async def test_a_model_call_at_import_is_told_that_it_is_too_early(gateway: Gateway) -> None:
    """The error that a module gets says that models are for runs; the agent is up if it can live with that."""
    log = gateway.worker_log("default", "eager")
    assert "at import:" in log
    assert "while the module was being imported" in log


async def test_a_tool_that_raises_is_the_models_business(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """The model is told of the error and the run goes on, as the SDK has it."""
    upstream.script(called("stumble", {}), said("It failed."))
    answer = await gateway.ask("healthy")
    assert answer.json()["choices"][0]["message"]["content"] == "It failed."
    assert "error occurred" in upstream.received[1].body["messages"][-1]["content"]


@pytest.mark.parametrize("tool", ["fall", "transfer_to_moody"])
async def test_an_exception_of_an_agent_is_a_500_that_gives_nothing_away(
    gateway: Gateway, upstream: ScriptedUpstream, tool: str
) -> None:
    """The client learns that the agent failed, but no path and no value; the worker's log has the traceback."""
    upstream.script(called(tool, {}))
    answer = await gateway.ask("healthy")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (500, "agent_failed")
    for word in ("the-value-of-a-secret", "agent.py", "snapshots", str(gateway.home.root)):
        assert word not in answer.text
    await gateway.in_worker_log("default", "healthy", "the-value-of-a-secret")
    upstream.script(said("Fine."))
    assert (await gateway.ask("healthy")).status_code == 200


async def test_a_tripped_guardrail_refuses_the_request(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """An input that the agent's own guardrail does not want is a 400, not a fault."""
    upstream.script(said("I will not."))
    answer = await gateway.ask("healthy", "something forbidden")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "guardrail_tripped")
