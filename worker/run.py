"""Serves runs on the worker's event loop: the agent's Runner in, typed deltas out, cancel at any time."""

import sys
import traceback
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.abc
import msgspec
from openai import OpenAIError
from pydantic import BaseModel

from agents import (
    Agent,
    AgentsException,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    ModelBehaviorError,
    ModelRefusalError,
    OutputGuardrailTripwireTriggered,
    Runner,
    RunResultStreaming,
)
from worker import convert, wire
from worker.calls import RUN, RunScope
from worker.channel import Channel

KINDS: dict[str, str] = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning_summary_text.delta": "reasoning",
}


class RunCancelled(Exception):
    """The agent's own code has cancelled its run."""


class _Open:
    """A run that has been announced and not ended."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.scope = anyio.CancelScope()
        self.inflow = wire.Inflow()
        self.outflow = wire.Outflow()
        self.credit = anyio.Event()


class Runs:
    """The runs of one agent, side by side; the agent is there before the first of them."""

    agent: Agent[Any]

    def __init__(self, channel: Channel, tasks: anyio.abc.TaskGroup) -> None:
        self._channel = channel
        self._tasks = tasks
        self._open: dict[int, _Open] = {}

    def take(self, message: wire.ToWorker, size: int) -> None:
        """Take a message from the gateway."""
        match message:
            case wire.Run():
                self._open[message.request] = _Open()
            case wire.RunData() if run := self._open.get(message.request):
                self._collect(run, message, size)
            case wire.Cancel() if run := self._open.pop(message.request, None):
                run.scope.cancel()
            case wire.Credit() if run := self._open.get(message.id):
                run.outflow.credit(message.bytes)
                run.credit.set()
            case wire.Stop():
                self._tasks.cancel_scope.cancel()
            case _:
                pass  # of a run that has just ended

    def _collect(self, run: _Open, message: wire.RunData, size: int) -> None:
        run.body += message.data
        if credit := run.inflow.dealt(size):
            self._channel.send(wire.Credit("request", message.request, credit))
        if message.last:
            self._tasks.start_soon(self._run, message.request, run)

    async def _run(self, request: int, run: _Open) -> None:
        with run.scope:
            end = await self._outcome(request, run)
            if self._open.pop(request, None):
                self._channel.send(end)

    async def _outcome(self, request: int, run: _Open) -> wire.Done | wire.Failed:
        scope = RunScope(request)
        RUN.set(scope)
        try:
            items = convert.to_items(msgspec.json.decode(bytes(run.body))["messages"])
            await self._stream(request, run, scope, items)
        except convert.InputError as error:
            return wire.Failed(request, "input", wire.line(str(error)))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            return wire.Failed(request, _kind(error), wire.line(_message(error)))
        return wire.Done(request, scope.front_call)

    async def _stream(self, request: int, run: _Open, scope: RunScope, items: list[convert.Item]) -> None:
        result = Runner.run_streamed(self.agent, items)  # type: ignore[arg-type]  # items are plain dicts
        speech = _Speech()
        try:
            async for event in result.stream_events():
                if event.type == "raw_response_event":
                    for kind, text in speech.heard(event.data):
                        await self._say(request, run, scope, kind, text)
        except (ModelRefusalError, ModelBehaviorError):
            if not speech.ended:  # else the SDK raises over an end that a client can be told of
                raise
        else:
            if (task := result.run_loop_task) and task.cancelled():  # which the SDK's events do not tell
                raise RunCancelled
            for piece in speech.unsaid(result):
                await self._say(request, run, scope, "text", piece)
        finally:
            result.cancel()  # without it, a run that is cancelled goes on behind our back

    async def _say(self, request: int, run: _Open, scope: RunScope, kind: Any, text: str) -> None:
        frame = wire.encode(wire.Delta(request, kind, text))
        while not run.outflow.take(len(frame)):
            run.credit = anyio.Event()
            scope.heard.clear()
            try:
                await run.credit.wait()
            finally:
                scope.heard.set()
        self._channel.send_frame(frame)


class _Speech:
    """What of a run's events is said to the client, and how messages are kept apart."""

    def __init__(self) -> None:
        self.ended = False
        """Whether the last answer was a refusal, or was cut at its length: an end, if not a good one."""
        self._said = False
        """Whether there was any text."""
        self._fresh = True
        """Whether there was none yet in this answer of the model."""

    def heard(self, event: Any) -> Iterator[tuple[str, str]]:
        """Yield kind and text of what an event of the model says."""
        if event.type == "response.created":
            self._fresh, self.ended = True, False
        elif event.type == "response.incomplete":
            self.ended = True
        elif (kind := KINDS.get(event.type)) and event.delta:
            self.ended = self.ended or kind == "refusal"
            for text in _cut(self._apart(event.delta) if kind == "text" else event.delta):
                yield kind, text

    def unsaid(self, result: RunResultStreaming) -> Iterator[str]:
        """Yield the final output, where it is a tool's result and not the last message of a model."""
        output = result.final_output
        if output is None or not result.new_items or result.new_items[-1].type != "tool_call_output_item":
            return
        self._fresh = True
        text = output.model_dump_json() if isinstance(output, BaseModel) else str(output)
        yield from _cut(self._apart(text))

    def _apart(self, text: str) -> str:
        """Put an empty line before a message that would run into the one before it."""
        parted = "\n\n" + text if self._said and self._fresh else text
        self._said, self._fresh = True, False
        return parted


def _cut(text: str) -> Iterator[str]:
    for at in range(0, len(text), wire.TEXT):
        yield text[at : at + wire.TEXT]


def _kind(error: Exception) -> wire.FailureKind:
    match error:
        case OpenAIError():
            return "model"
        case InputGuardrailTripwireTriggered() | OutputGuardrailTripwireTriggered():
            return "guardrail"
        case MaxTurnsExceeded():
            return "max_turns"
    return "agent"


def _message(error: Exception) -> str:
    """What may be said of an error outside: the SDK's and openai's words, but of others only the class."""
    if isinstance(error, InputGuardrailTripwireTriggered | OutputGuardrailTripwireTriggered):
        return f"the guardrail {error.guardrail_result.guardrail.get_name()} refused"
    if isinstance(error, AgentsException) and isinstance(error.__cause__, Exception):
        return _message(error.__cause__)  # the SDK quotes what an agent's own code raised
    return str(error) if isinstance(error, OpenAIError | AgentsException) else type(error).__name__
