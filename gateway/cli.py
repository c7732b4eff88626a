"""The `agent-gateway` command: reads arguments, calls, prints."""

import os
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import anyio
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway import settings as settings_of
from gateway.api.front import Front
from gateway.app import OFF, serve
from gateway.errors import StartError
from gateway.observe import logs
from gateway.runtime.lifecycle import Phase

COLOURS = {Phase.READY: "green", Phase.FAILED: "red"}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("agent-gateway"), message="agent-gateway %(version)s")
def main() -> None:
    """Serve folders of untrusted agents on an OpenAI-compatible endpoint."""


@main.command("serve")
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="The folder with agents/ and policies/.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
def serve_command(home: Path | None, host: str, port: int) -> None:
    """Serve a home until it is stopped.

    Example: agent-gateway serve --home ~/agents-home --port 8000
    """
    try:
        settings = settings_of.read(os.environ, home=home)
        if not settings.home.is_dir():
            raise StartError(f"there is no folder {settings.home}; name one with --home")
        logs.configure(settings.log_level)
        click.echo(f"Starting the agents of {settings.agents} ...")
        anyio.run(lambda: serve(settings, host, port, up=banner), backend_options={"use_uvloop": True})
    except StartError as error:
        click.secho(f"agent-gateway cannot start: {error}", fg="red", err=True)
        sys.exit(2)


def banner(front: Front, address: str) -> None:
    """Print what a newcomer needs."""
    console = Console(highlight=False, soft_wrap=True)
    key = front.settings.state / "key"
    console.print(f"\n[bold]Agent Gateway[/bold] serves on [bold]{address}[/bold]")
    console.print(f"Key: {key}", markup=False)
    console.print(f"Logs of the agents: {front.settings.state / 'logs'}\n", markup=False)
    console.print(walls(front), "")
    console.print(_upstreams(front), "", _agents(front), "")
    for problem in front.diagnostics:
        if problem.stage == "discovery":
            text = f"Not served: {problem.path}: {problem.message}; {problem.remedy}"
            console.print(text, style="yellow", markup=False)
    if any(each.state is Phase.STARTING for each in front.supervisor.statuses()):
        console.print("Some agents are still starting; /health says how far they are.\n")
    listed = [each.id for each in front.supervisor.statuses() if each.state is Phase.READY]
    if not listed and front.supervisor.ids():
        console.print("No agent is up yet.\n")
        return
    if not listed:
        console.print("No agent is up. Put one into agents/NAME/agent.py and start again.\n")
        return
    model = "default/weather" if "default/weather" in listed else listed[0]
    question = "Use get_weather for Paris" if model == "default/weather" else "Hello"
    body = f'{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "{question}"}}]}}'
    header = f'"Authorization: Bearer $(cat {shlex.quote(str(key))})"'
    if front.supervisor.host.off:
        console.print(walls(front), "")
    click.echo(f"Try it:\n\ncurl -N {address}/v1/chat/completions -H {header} -d '{body}'\n")


def walls(front: Front) -> Text:
    """Say in a line or two which walls stand around agents, and loudly where there are none."""
    host = front.supervisor.host
    if host.off:
        return Text(f"NO WALLS: {OFF}.", "bold white on red")
    line = f"Walls around agents: {host.tier}; memory: {front.supervisor.memory}"
    missing = "".join(f"\n  missing: {name} ({why})" for name, why in host.missing)
    return Text(line + missing, "green" if host.tier == "full" else "yellow")


def _upstreams(front: Front) -> Table:
    table = _table("upstream", "can be used", "address")
    for each in front.servers:
        chosen = " (default)" if each is front.servers.default else ""
        usable = Text(each.problem, "yellow") if each.problem else Text("yes", "green")
        table.add_row(Text(each.name + chosen), usable, Text(each.policy.base_url or "built in"))
    return table


def _agents(front: Front) -> Table:
    table = _table("agent", "state", "upstream", "model", "reason")
    for each in front.supervisor.statuses():
        route = front.supervisor.route(each.id)
        state = Text(each.state, COLOURS.get(each.state, "yellow"))
        reason = each.reason or ("" if route.name else "it has no upstream that can be used")
        table.add_row(Text(each.id), state, Text(route.name or "none"), Text(route.model or "-"), Text(reason))
    return table


def _table(*headings: str) -> Table:
    return Table(*headings, box=None, pad_edge=False, padding=(0, 2, 0, 0))
