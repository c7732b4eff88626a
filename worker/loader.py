"""Imports the one agent folder of this worker and finds what it exports."""

import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from agents import Agent

PACKAGE = "_agent_folder"
"""The private name under which an agent's folder is imported."""

Factory = Callable[[], Agent[Any] | Awaitable[Agent[Any]]]
Export = Agent[Any] | Factory


class NotImportable(Exception):
    """The folder holds no agent that can run; the message is for its author."""


def hidden_names(folder: Path) -> list[str]:
    """Return the files of a folder that an installed module takes precedence over; to be asked before the import."""
    names = {path.stem for path in folder.glob("*.py")} | {
        path.name for path in folder.iterdir() if path.is_dir() and path.name.isidentifier()
    }
    others = [path for path in sys.path if Path(path) != folder]
    return sorted(name for name in names - {"agent", "__init__"} if _stands_elsewhere(name, others))


def _stands_elsewhere(name: str, path: list[str]) -> bool:
    if name in sys.modules or name in sys.stdlib_module_names:
        return True
    spec = importlib.machinery.PathFinder.find_spec(name, path)
    return spec is not None and spec.loader is not None


def import_folder(folder: Path) -> ModuleType:
    """Import `agent.py` as a module of a private package, with the folder last on the path.

    Both `from .helpers import x` and `from helpers import x` then work, and no file of the folder hides a library.

    Raises:
        NotImportable: whatever the module did, short of ending the process.
    """
    sys.path.append(str(folder))
    sys.argv = [str(folder / "agent.py")]
    try:
        sys.modules[PACKAGE] = package = _package(folder)
        if package.__spec__ and package.__spec__.loader:
            package.__spec__.loader.exec_module(package)
        return importlib.import_module(f"{PACKAGE}.agent")
    except BaseException as error:
        raise NotImportable(_explain(error, folder)) from error


def _package(folder: Path) -> ModuleType:
    init = folder / "__init__.py"
    spec = (
        importlib.util.spec_from_file_location(PACKAGE, init, submodule_search_locations=[str(folder)])
        if init.exists()
        else importlib.machinery.ModuleSpec(PACKAGE, None, is_package=True)
    )
    if spec is None:
        raise NotImportable("the folder's __init__.py cannot be loaded")
    package = importlib.util.module_from_spec(spec)
    package.__path__ = [str(folder)]
    return package


def _explain(error: BaseException, folder: Path) -> str:
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith(str(folder)):
            where = f" ({Path(frame.filename).relative_to(folder)}, line {frame.lineno})"
    match error:
        case SyntaxError():
            return f"{Path(error.filename or 'agent.py').name}, line {error.lineno}: {error.msg}"
        case ModuleNotFoundError(name=str(name)) if not name.startswith(PACKAGE):
            return f"the package {name.partition('.')[0]!r} is not installed where the gateway runs{where}"
        case SystemExit():
            return f"it called sys.exit({error.code!r}){where}"
    return f"{type(error).__name__}: {error}{where}"


def find_export(module: ModuleType, names: Sequence[str]) -> tuple[str, Agent[Any] | Factory]:
    """Return the first of these names that holds an Agent or a factory without arguments.

    Raises:
        NotImportable: if none of them does.
    """
    wrong = []
    for name in names:
        value = getattr(module, name, None)
        if isinstance(value, Agent):
            return name, value
        if inspect.isfunction(value) and not _required(value):
            return name, value
        if value is not None:
            wrong.append(f"{name} is a {type(value).__name__}")
    found = sorted(name for name, value in vars(module).items() if isinstance(value, Agent))
    raise NotImportable(
        f"agent.py must export an Agent, or a factory of one without arguments, named {' or '.join(names)}"
        + (f"; {', '.join(wrong)}" if wrong else "")
        + (_named(found) if found else "; there is no Agent in it")
    )


def _named(found: Sequence[str]) -> str:
    return f'; agents in it: {", ".join(found)}: name one with __gateway__ = {{"export": "{found[0]}"}}'


def _required(function: Callable[..., object]) -> list[str]:
    empty = inspect.Parameter.empty
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.default is empty and each.kind not in variable]


async def make_agent(name: str, export: Export, folder: Path) -> Agent[Any]:
    """Return the agent itself, called from its factory where it is one.

    Raises:
        NotImportable: if the factory fails or makes something else.
    """
    if isinstance(export, Agent):
        return export
    try:
        made = export()
        agent = await made if inspect.isawaitable(made) else made
    except (Exception, SystemExit) as error:
        raise NotImportable(f"{name}() failed: {_explain(error, folder)}") from error
    if not isinstance(agent, Agent):
        raise NotImportable(f"{name}() returned a {type(agent).__name__}, not an Agent")
    return agent
