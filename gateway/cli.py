"""The `agent-gateway` command: reads arguments, calls, prints."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import anyio
import click
from rich.console import Console
from rich.table import Table

from gateway import settings as settings_of
from gateway.api.front import Front
from gateway.app import serve
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
    statuses = front.supervisor.statuses()
    table = Table("agent", "state", "upstream", "model", "reason", box=None, pad_edge=False)
    for each in statuses:
        route = front.supervisor.route(each.id)
        colour = COLOURS.get(each.state, "yellow")
        state = f"[{colour}]{each.state}[/{colour}]"
        table.add_row(each.id, state, route.name or "none", route.model or "-", each.reason)
    key = front.settings.state / "key"
    console.print(f"\n[bold]Agent Gateway[/bold] serves on [bold]{address}[/bold]")
    console.print(f"Key: {key}")
    default = front.servers.default
    console.print(f"Upstream: {default.name if default else 'none can be used: see policies/upstreams.yaml'}\n")
    console.print(table)
    console.print(f"\nLogs of the agents: {front.settings.state / 'logs'}")
    ready = next((each.id for each in statuses if each.state is Phase.READY), None)
    if ready is None:
        console.print("No agent is up. Put one into agents/NAME/agent.py and start again.\n")
        return
    ask = "default/weather" if any(each.id == "default/weather" and each.listed for each in statuses) else ready
    question = "Use get_weather for Paris" if ask == "default/weather" else "Hello"
    body = f'{{"model": "{ask}", "stream": true, "messages": [{{"role": "user", "content": "{question}"}}]}}'
    click.echo("\nTry it:\n")
    click.echo(f"curl -N {address}/v1/chat/completions -H \"Authorization: Bearer $(cat {key})\" -d '{body}'\n")
