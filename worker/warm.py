"""Brings a zygote to where a worker is after its first run; what is made here, all workers share.

Nothing of it may start a thread or open a connection.
"""

import contextlib
import gc
import importlib
import importlib.machinery
import os
from collections.abc import AsyncIterator
from typing import Any

import anyio

from agents import Agent, Model, ModelResponse, RunConfig, Runner, Usage, function_tool

LATE = (
    "concurrent.futures.thread",
    "httpcore2",
    "multiprocessing.connection",
    "openai.lib.streaming.chat",
    "openai.resources.chat.completions",
    "openai.resources.responses",
    "openai.types.chat.completions",
    "subprocess",
    "worker.serve",
)
"""What is imported only when it is first needed, in one version of the libraries or another."""


def warm_up() -> None:
    """Import, rehearse, and set what there is apart from the collector, which would write to every page of it."""
    for name in LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    importlib.machinery.PathFinder.find_spec("no_such_module")  # lists every folder of libraries, once for all
    compile("import agents", "agent.py", "exec")
    anyio.run(_rehearse)
    gc.collect()
    gc.freeze()
    if len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("something that was imported has started a thread: no fork is safe after that")


class _Silent(Model):
    """A model that answers nothing."""

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        return ModelResponse(output=[], usage=Usage(), response_id=None)

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        return
        yield


async def _rehearse() -> None:
    @function_tool
    def tool(text: str, times: int = 1) -> str:
        """Say a text again."""
        return text * times

    agent = Agent(name="Rehearsal", instructions="None.", tools=[tool], model=_Silent())
    async with anyio.create_task_group():
        with contextlib.suppress(Exception):
            await Runner.run(agent, "Hello", max_turns=1, run_config=RunConfig(tracing_disabled=True))
