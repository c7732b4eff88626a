"""The life of a worker process: hello, import, runs, stop."""

import os
import sys
import traceback
from pathlib import Path

import anyio
from agents.run import set_default_agent_runner

from agents import set_tracing_disabled
from worker import loader, wire
from worker.calls import Calls
from worker.channel import Channel
from worker.model import GatewayProvider, GatewayRunner
from worker.run import Runs
from worker.threads import inherit_context
from worker.transport import catch_all

LOAD_SECONDS = 30.0
"""How long a worker waits for its first order."""


def serve(fd: int, folder: Path) -> None:
    """Say hello, import the agent, run it until told to stop."""
    channel = Channel(fd)
    channel.send(wire.Hello(wire.VERSION))
    load = channel.receive(LOAD_SECONDS)
    if not isinstance(load, wire.Load):
        raise wire.WireError(f"expected Load, got {type(load).__name__}")
    calls = Calls(channel)
    _prepare(calls, load)
    for hidden in loader.hidden_names(folder):
        channel.send(
            wire.Notice(wire.line(f"{hidden} in the agent's folder is hidden by an installed module of that name"))
        )
    try:
        module = loader.import_folder(folder)
        name, export = loader.find_export(module, load.exports)
    except loader.NotImportable as error:
        channel.send(_broken(error))
        channel.detach()
        return
    anyio.run(_serve, channel, name, export, folder)


def _prepare(calls: Calls, load: wire.Load) -> None:
    """Lead every model call to the broker, before any code of the agent runs."""
    if load.model:
        os.environ["OPENAI_DEFAULT_MODEL"] = load.model  # the SDK's own default adds settings that fit only its model
    set_tracing_disabled(True)
    catch_all(calls)
    inherit_context()
    set_default_agent_runner(GatewayRunner(GatewayProvider(calls, load.api, load.model)))


async def _serve(channel: Channel, name: str, export: loader.Export, folder: Path) -> None:
    async with anyio.create_task_group() as tasks:
        runs = Runs(channel, tasks)
        channel.attach(runs.take)
        try:
            runs.agent = await loader.make_agent(name, export, folder)
        except loader.NotImportable as error:
            channel.send(_broken(error))
        else:
            channel.send(wire.Ready(name))
            await anyio.sleep_forever()
    channel.detach()
    sys.stdout.flush()


def _broken(error: loader.NotImportable) -> wire.Broken:
    cause = error.__cause__
    trace = "".join(traceback.format_exception(cause)) if cause else ""
    print((trace or str(error)).encode("utf-8", "replace").decode(), file=sys.stderr)  # noqa: T201 - stderr is the worker's log
    return wire.Broken(wire.line(str(error)), trace.encode("utf-8", "replace").decode()[-wire.TEXT :])
