"""Starts the gateway as its users do, as a process of its own, on a home that a test has written."""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import anyio
import anyio.abc
import httpx2
import psutil
from openai import AsyncOpenAI

START_SECONDS = 60
PLAIN = """
from agents import Agent

agent = Agent(name="Plain", instructions="Be brief.")
"""


class Home:
    """A home that a test writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "agents").mkdir(parents=True)
        (root / "policies").mkdir()

    def agent(self, folder: str, source: str = PLAIN, **files: str) -> None:
        """Write an agent's folder; other modules are given as name=source."""
        path = self.root / "agents" / folder
        path.mkdir(parents=True)
        for name, text in {"agent": source, **files}.items():
            (path / f"{name}.py").write_text(dedent(text))

    def policy(self, **defaults: Any) -> None:
        """Write `policies/agents.yaml` with these defaults."""
        (self.root / "policies" / "agents.yaml").write_text(json.dumps({"defaults": defaults}))

    def upstreams(self, **upstreams: dict[str, Any]) -> None:
        """Write `policies/upstreams.yaml`; the first one is the default."""
        document = {"default": next(iter(upstreams)), "upstreams": upstreams}
        (self.root / "policies" / "upstreams.yaml").write_text(json.dumps(document))


@dataclass
class Gateway:
    """A running gateway."""

    url: str
    home: Home
    process: anyio.abc.Process
    key: str
    _client: AsyncOpenAI | None = None
    output: list[str] = field(default_factory=list)
    """What it printed up to its banner."""
    log: list[dict[str, Any]] = field(default_factory=list)
    """Its log so far."""
    errors: list[str] = field(default_factory=list)
    """Lines of stderr that are no log lines."""
    _logged: anyio.Event = field(default_factory=anyio.Event)

    @property
    def client(self) -> AsyncOpenAI:
        """A client of the openai package with the operator's key."""
        assert self._client is not None
        return self._client

    def http(self) -> httpx2.AsyncClient:
        """Return a plain HTTP client with the operator's key."""
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    async def ask(self, model: str, text: str = "Hello", **fields: Any) -> httpx2.Response:
        """Post one question and return the answer."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        async with self.http() as client:
            return await client.post("/v1/chat/completions", json=body)

    async def status(self, agent: str) -> dict[str, Any]:
        """Return what `/health` says of an agent."""
        async with self.http() as client:
            agents = (await client.get("/health")).json()["agents"]
        found: dict[str, Any] = next(each for each in agents if each["id"] == agent)
        return found

    async def logged(self, event: str, since: int = 0, **fields: Any) -> dict[str, Any]:
        """Wait for a line of the log with this event and these fields."""
        wanted = {"event": event, **fields}
        with anyio.fail_after(30):
            while True:
                for line in self.log[since:]:
                    if wanted.items() <= line.items():
                        return line
                await self._logged.wait()

    def worker_log(self, namespace: str, name: str) -> str:
        """Return the log of an agent's workers."""
        return (self.home.root / ".agent-gateway" / "logs" / namespace / f"{name}.log").read_text()

    async def in_worker_log(self, namespace: str, name: str, text: str) -> None:
        """Wait until the log of an agent's workers has this text."""
        await until(lambda: text in self.worker_log(namespace, name))

    def descendants(self) -> list[psutil.Process]:
        """Return all processes below the gateway."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def rss(self) -> int:
        """Return the gateway's own memory, in bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    async def read_log(self) -> None:
        """Collect the log until the process ends."""
        assert self.process.stderr is not None
        rest = b""
        async for data in self.process.stderr:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._take(line.decode())
            self._logged.set()
            self._logged = anyio.Event()

    def _take(self, line: str) -> None:
        try:
            self.log.append(json.loads(line))
        except json.JSONDecodeError:
            self.errors.append(line)


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    """Wait for what tells nobody when it happens: a file, a process table."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - nobody sets an event for these
            await anyio.sleep(0.02)


@asynccontextmanager
async def running_gateway(home: Home, *, through: Sequence[str] = (), **env: str) -> AsyncIterator[Gateway]:
    """Serve a home on a free port, and end it; `through` is a command that runs the gateway in other circumstances."""
    command = [*through, str(Path(sys.executable).with_name("agent-gateway")), "serve", "--port", "0"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "OPENAI_"))}
    environ |= {"GATEWAY_HOME": str(home.root), **env}
    async with anyio.create_task_group() as tasks:
        process = await anyio.open_process(command, env=environ, cwd="/")
        gateway = Gateway("", home, process, "")
        tasks.start_soon(gateway.read_log)
        try:
            with anyio.fail_after(START_SECONDS):
                await _read_banner(gateway)
            gateway.key = (home.root / ".agent-gateway" / "key").read_text().strip()
            async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
                gateway._client = client
                yield gateway
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)
        tasks.cancel_scope.cancel()


async def _read_banner(gateway: Gateway) -> None:
    assert gateway.process.stdout is not None
    text = ""
    while "curl" not in text and "No agent is up" not in text:
        try:
            text += (await gateway.process.stdout.receive()).decode()
        except anyio.EndOfStream:
            raise AssertionError(f"the gateway did not start:\n{text}\n{gateway.errors}\n{gateway.log}") from None
    gateway.output = text.splitlines()
    gateway.url = next(line.split()[-1] for line in gateway.output if "serves on" in line)


async def _end(process: anyio.abc.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(30):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    await process.aclose()
