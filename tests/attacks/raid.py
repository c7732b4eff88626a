"""A gateway on a host of a kind, with an agent that makes the attempts, and with victims beside it."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil

from tests.attacks import hosts, stage
from tests.attacks.attempts.attack_base import Target
from tests.attacks.kinds import Kind
from tests.integration.process import Gateway, Home, running_gateway
from tests.integration.upstream import Connection, ScriptedUpstream, called, said

KEY = "agw-the-operators-own-of-these-tests"
LIMITS = {"memory_mb": 128, "processes": 48, "open_files": 128, "file_mb": 8, "scratch_mb": 24}
AGENT = '''
import contextlib
import json
import os
import socket
import stat
import traceback
from dataclasses import replace

import attack_runner
from agents import Agent, function_tool


def given() -> list[int]:
    """The worker's own channel: its listening socket, and the one connection on it."""
    found = []
    for each in range(3, 128):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(each).st_mode):
                with socket.socket(fileno=os.dup(each)) as one:
                    found += [each] if one.family == socket.AF_UNIX and one.getsockname() else []
    assert len(found) <= 2, found
    return found


def told(context: object, error: Exception) -> str:
    """What went wrong in a tool."""
    return "".join(traceback.format_exception(error))


@function_tool(failure_error_function=told)
def attack(names: list[str], target: str, way: str) -> str:
    """Make attempts, here or in a child that is exec'd."""
    aim = replace(
        attack_runner.Target.from_json(target),
        own_folder=os.path.dirname(os.path.abspath(__file__)),
        scratch=os.environ["TMPDIR"],
        expected_fds=given(),
    )
    runs = {"here": attack_runner.run, "exec": attack_runner.run_in_exec}
    return json.dumps(runs[way](names or list(attack_runner.NAMES), aim))


@function_tool(failure_error_function=told)
def run(code: str) -> str:
    """Run Python in the worker, and say what it leaves in `said`."""
    names = {}
    exec(code, names)
    return json.dumps(names.get("said"))


agent = Agent(name="Attacker", tools=[attack, run])
'''
OTHER = """
from agents import Agent

agent = Agent(name="Other", instructions="Has nothing to do with it.")
"""


@dataclass
class Raid:
    """What runs, and whom it is aimed at."""

    kind: Kind
    gateway: Gateway
    victims: Target
    """Stand-ins, with listeners and a secret in their memory."""

    async def call(self, agent: str, tool: str, **arguments: Any) -> httpx2.Response:
        """Have an agent call a tool; the answer is what the tool gave."""
        return await self.gateway.ask(f"default/{agent}", json.dumps({"tool": tool, "arguments": arguments}))

    async def run(self, code: str, agent: str = "attacker") -> Any:
        """Run code in a worker, and return what it leaves in `said`."""
        return content(await self.call(agent, "run", code=code))

    async def attack(self, names: list[str], target: Target, way: str = "here", agent: str = "attacker") -> Any:
        """Make attempts in a worker, and return their outcomes."""
        return content(await self.call(agent, "attack", names=names, target=target.to_json(), way=way))

    async def ready(self, agent: str) -> None:
        """Wait until an agent has a worker, be it after a pause."""
        for _ in range(300):
            status = await self.gateway.status(f"default/{agent}")
            if status["state"] == "READY":
                return
            await anyio.sleep(0.1)
        raise AssertionError(status)

    async def real(self) -> Target:
        """Return the gateway, its zygote and another agent's worker as targets, with the secrets of the gateway."""
        state = self.gateway.home.root / ".agent-gateway"
        _, zygote, _, _ = await self.line("attacker")
        [other] = [
            each.parent for each in (state / "snapshots" / "default").glob("*/*.py") if "Other" in each.read_text()
        ]
        return replace(
            self.victims,
            secret_file=str(state / "key"),
            secret=KEY,
            other_agent=str(other),
            gateway_pid=self.gateway.process.pid,
            memory_address=_address_of(KEY, self.gateway.process.pid),
            zygote_pid=zygote,
            outside_pid=(await self.line("other"))[3],
        )

    async def line(self, agent: str) -> tuple[int, int, int, int]:
        """Return the pids from the gateway to an agent: the zygote's warden, the zygote, the guard, the worker."""
        worker = psutil.Process((await self.gateway.status(f"default/{agent}"))["pid"])
        guard, zygote, warden = worker.parents()[:3]
        return warden.pid, zygote.pid, guard.pid, worker.pid


def content(answer: httpx2.Response) -> Any:
    """Return what a tool gave, of the answer to its call."""
    assert answer.status_code == 200, answer.text
    text = answer.json()["choices"][0]["message"]["content"]
    try:
        return json.loads(text)
    except ValueError:
        raise AssertionError(text) from None


def _address_of(text: str, pid: int) -> int:
    """Where in a process's memory a text lies; 0 where nobody may look."""
    found = 0
    with contextlib.suppress(OSError), open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            begin, end = (int(each, 16) for each in line.split()[0].split("-"))
            if "rw" in line.split()[1]:
                memory.seek(begin)
                if (at := memory.read(end - begin).find(text.encode())) >= 0:
                    found = begin + at  # the last one is on the stack, where it stays
    return found


async def obey(connection: Connection) -> None:
    """As a model: call the tool that the question names, and say what it gave."""
    last = connection.received.body["messages"][-1]
    if last["role"] == "user":
        asked = json.loads(last["content"])
        await called(asked["tool"], asked["arguments"])(connection)
    else:
        await said(last["content"])(connection)


@contextlib.contextmanager
def _staged(folder: Path, prefix: list[str]) -> Iterator[Target]:
    program = [*prefix, sys.executable, "-I", str(Path(stage.__file__).with_name("victims.py")), str(folder)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield replace(Target.from_json(process.stdout.readline()), limits=LIMITS)
        finally:
            process.communicate()


@asynccontextmanager
async def raided(kind: Kind, upstream: ScriptedUpstream, copies: tuple[str, ...] = ()) -> AsyncIterator[Raid]:
    """Stage victims and serve agents on a host; `copies` are further agents that attack."""
    with tempfile.TemporaryDirectory(prefix="agw-", dir="/tmp") as name:
        folder = Path(name)
        home = Home(folder / "home")
        home.upstreams(chat={"base_url": upstream.url, "api_key": "sk-operator", "model": "test-model"})
        home.policy(limits=LIMITS, **kind.policy)
        home.agent("other", OTHER)
        for each in ("attacker", *copies):
            home.agent(each, AGENT)
            stage.copy_attempts(home.root / "agents" / each)
        state = home.root / ".agent-gateway"
        state.mkdir(mode=0o700)
        (state / "key").write_text(KEY)
        (state / "key").chmod(0o600)
        victims = folder / f"for-{folder.name}"  # names the abstract socket too
        victims.mkdir()
        _give(folder, kind)
        upstream.script(*[obey] * 10_000)
        prefix = hosts.through(*kind.options)
        env = {**kind.env, "SECRET": KEY}
        with _staged(victims, prefix) as target:
            async with running_gateway(home, through=prefix, **env) as gateway:
                yield Raid(kind, gateway, target)


def _give(folder: Path, kind: Kind) -> None:
    """Let the user of the gateway have what it is to have."""
    folder.chmod(0o755)
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, kind.uid, kind.uid)
