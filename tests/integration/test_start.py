"""When the gateway does not start, and how it does."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import httpx2
import pytest
from anyio.streams.text import TextReceiveStream

from tests.integration.process import Home, running_gateway
from tests.integration.upstream import ScriptedUpstream, said

COMMAND = str(Path(sys.executable).with_name("agent-gateway"))
IMAGINARY = """
from pathlib import Path
Path({marker!r}).joinpath({name!r}).touch()
raise SystemExit("loaded from the current directory")
"""


def _environ(**env: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "OPENAI_"))}
    return clean | env


async def _refused(home: Path, *arguments: str, **env: str) -> str:
    """Start a gateway that must not start, and return what it says."""
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            [COMMAND, "serve", "--home", str(home), *arguments],
            env=_environ(**env),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def unserved(tmp_path: Path) -> Home:
    """A home without agents, that nothing serves."""
    unserved = Home(tmp_path / "home")
    unserved.upstreams(demo={"kind": "demo"})
    return unserved


async def test_beyond_this_machine_the_gateway_wants_a_key_for_others(unserved: Home) -> None:
    """With the operator's key alone, a host that others reach is refused, and the file to write is named."""
    said_ = await _refused(unserved.root, "--host", "0.0.0.0", "--port", "0")
    assert str(unserved.root / "policies" / "security.yaml") in said_


@pytest.mark.parametrize(
    ("document", "line", "words"),
    [
        ("upstreams:\n  a:\n    base_url: http://127.0.0.1:1/v1\n    modle: x\n", 4, "did you mean 'model'?"),
        ("default: demo\nupstream:\n  demo: {kind: demo}\n", 2, "did you mean 'upstreams'?"),
        ("upstreams:\n  demo: {kind: demo\n", 3, "not YAML"),
        ("default: other\nupstreams:\n  demo: {kind: demo}\n", 1, "default must be auto"),
    ],
)
async def test_a_mistake_in_a_document_is_told_with_file_line_and_remedy(
    unserved: Home, document: str, line: int, words: str
) -> None:
    """Nothing starts on a document that does not say what its author meant."""
    path = unserved.root / "policies" / "upstreams.yaml"
    path.write_text(document)
    said_ = await _refused(unserved.root, "--port", "0")
    assert f"{path}:{line}: " in said_
    assert words in said_


async def test_a_home_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A path with a slip in it is no empty home."""
    assert str(tmp_path / "nowhere") in await _refused(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


async def test_a_port_that_is_taken_is_named(unserved: Home) -> None:
    """The message has the address, and the option that helps."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said_ = await _refused(unserved.root, "--port", str(port))
    assert f"127.0.0.1:{port}" in said_
    assert "--port" in said_


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"GATEWAY_LOG_LEVEL": "loud"}, "debug, info, warning, error"),
        ({"GATEWAY_MAX_BODY_MB": "lots"}, "whole number"),
        ({"GATEWAY_PROMETHEUS_ENABLED": "perhaps"}, "1 or 0"),
        ({"GATEWAY_DEFAULT_UPSTREAM": "nobody"}, "the document has demo"),
    ],
)
async def test_a_setting_that_cannot_be_meant_is_named(unserved: Home, env: dict[str, str], words: str) -> None:
    """The variable, its value and what would be right are said."""
    said_ = await _refused(unserved.root, "--port", "0", **env)
    assert next(iter(env)) in said_
    assert words in said_


@asynccontextmanager
async def _serving(command: list[str], cwd: Path, **env: str) -> AsyncIterator[str]:
    """Start a gateway by a command in a folder, yield its address once it serves, and end it."""
    async with await anyio.open_process(command, cwd=cwd, env=_environ(**env), stderr=None) as process:
        assert process.stdout is not None
        text = ""
        try:
            with anyio.fail_after(30):
                async for part in TextReceiveStream(process.stdout):
                    text += part
                    if found := re.search(r"serves on (\S+)\n[\s\S]*(curl|No agent)", text):
                        yield found[1]
                        break
                else:
                    raise AssertionError(f"the gateway did not start:\n{text}")
        finally:
            if process.returncode is None:
                process.terminate()


async def test_no_module_of_the_current_directory_is_ever_imported(unserved: Home, tmp_path: Path) -> None:
    """Files in the folder where the gateway is started shadow nothing, in the gateway or in a worker."""
    unserved.agent("Plain")
    _plant(unserved.root, tmp_path / "loaded")
    async with _serving([COMMAND, "serve", "--port", "0"], unserved.root) as url:
        key = (unserved.root / ".agent-gateway" / "key").read_text().strip()
        async with httpx2.AsyncClient(base_url=url, headers={"x-api-key": key}, trust_env=False) as client:
            answer = await client.post(
                "/v1/chat/completions", json={"model": "plain", "messages": [{"role": "user", "content": "Hello"}]}
            )
        assert answer.status_code == 200
    assert list((tmp_path / "loaded").iterdir()) == []


def _plant(folder: Path, marker: Path) -> None:
    """Lay modules into a folder that tell when they are imported."""
    marker.mkdir()
    for name in ("gateway", "worker", "agents", "openai", "anyio", "click", "sitecustomize", "usercustomize", "queue"):
        if not (folder / name).exists() or name == "agents":
            (folder / f"{name}.py").write_text(IMAGINARY.format(marker=str(marker), name=name))


async def test_python_m_gateway_is_the_same_command_and_the_state_folder_can_be_elsewhere(
    unserved: Home, tmp_path: Path
) -> None:
    """The key has mode 0600, lies in GATEWAY_STATE_DIR, and is there when `/health` first answers 200."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    state = tmp_path / "state"
    command = [sys.executable, "-m", "gateway", "serve", "--home", str(unserved.root), "--port", str(port)]
    stood: list[bool] = []

    async def watch() -> None:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            while not stood:
                try:
                    await client.get("/health")
                    stood.append((state / "key").exists())
                except httpx2.ConnectError:
                    await anyio.sleep(0.01)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        async with _serving(command, Path("/"), GATEWAY_STATE_DIR=str(state)) as url:
            key = (state / "key").read_text().strip()
            async with httpx2.AsyncClient(base_url=url, headers={"x-api-key": key}, trust_env=False) as client:
                assert (await client.get("/v1/models")).status_code == 200
            assert stat.S_IMODE((state / "key").stat().st_mode) == 0o600
            assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stood == [True]
    assert not (unserved.root / ".agent-gateway").exists()


async def test_python_m_gateway_takes_no_module_of_the_current_directory_either(unserved: Home, tmp_path: Path) -> None:
    """Python puts the current directory first for `-m`; the gateway takes it out before it imports anything else."""
    _plant(unserved.root, tmp_path / "loaded")
    (unserved.root / "gateway.py").unlink()  # that one Python itself takes, before any word of ours
    async with _serving([sys.executable, "-m", "gateway", "serve", "--port", "0"], unserved.root):
        pass
    loaded = {each.name for each in (tmp_path / "loaded").iterdir()}
    assert loaded <= {"sitecustomize", "usercustomize"}


async def test_a_second_signal_ends_an_answer_with_the_reason(home: Home, upstream: ScriptedUpstream) -> None:
    """At the first signal an answer goes on; at the second it ends with an error event, and so does the gateway."""
    home.upstreams(chat={"base_url": upstream.url, "model": "test-model"})
    home.agent("Plain")
    async with running_gateway(home) as gateway, gateway.http() as client:
        upstream.script(said("one ", "two", hold=anyio.Event()))
        body = {"model": "plain", "stream": True, "messages": [{"role": "user", "content": "Count"}]}
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.aiter_lines()
            while '"one "' not in await anext(lines):
                pass
            gateway.process.send_signal(signal.SIGTERM)
            await gateway.logged("gateway.stopping", requests=1)
            gateway.process.send_signal(signal.SIGTERM)
            rest = "".join([line async for line in lines])
        with anyio.fail_after(10):
            assert await gateway.process.wait() == 0
    assert '"code":"worker_lost"' in rest
    assert "the gateway is stopping" in rest
    assert "[DONE]" not in rest


async def test_no_traceback_on_a_terminal_shows_the_values_of_variables() -> None:
    """What goes wrong inside the gateway is told with file and line, never with a key that a variable holds."""
    script = (
        "import pty, os, sys\n"
        "code = '''\n"
        "from gateway.observe import logs\n"
        'logs.configure("info")\n'
        'key = "agw-" + "secret" * 4\n'
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    logs.logger().exception(\"gateway.bug\")\n'''\n"
        "pty.spawn([sys.executable, '-c', code])\n"
    )
    done = await anyio.run_process([sys.executable, "-c", script])
    assert b"ZeroDivisionError" in done.stdout
    assert b"secret" * 4 not in done.stdout
