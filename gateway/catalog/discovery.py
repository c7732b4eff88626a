"""Finds agent folders and reads what can be known without running them."""

import ast
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.catalog.spec import AgentSpec, Hints
from gateway.observe.diagnostics import Diagnostic

DEPTH = 8
"""Levels of folders that are looked into."""
SOURCE_LIMIT = 1 << 20
"""Bytes of an agent.py."""
HINT_LIMIT = 200
HINTS = ("export", "model", "upstream")


@dataclass(frozen=True)
class Found:
    """What one pass over the folder found."""

    agents: tuple[AgentSpec, ...]
    problems: tuple[Diagnostic, ...]


class Refused(Exception):
    """A folder cannot be served; the message says why."""


def discover(root: Path) -> Found:
    """Look through a folder of agents."""
    problems: list[Diagnostic] = []
    by_id: defaultdict[str, list[Path]] = defaultdict(list)
    if not root.is_dir():
        missing = Diagnostic(
            "discovery", "there is no such folder", path=shown(root), remedy="make it, with an agent in it"
        )
        return Found((), (missing,))
    if (root / "agent.py").exists():
        remedy = "move it into a folder of its own, agents/NAME/agent.py"
        problems.append(
            Diagnostic("discovery", "agent.py directly in the agents folder", path="agent.py", remedy=remedy)
        )
    for folder, is_agent in _folders(root, root, DEPTH):
        path = folder.relative_to(root)
        if is_agent:
            by_id[agent_id(path)].append(folder)
        else:
            remedy = "add agent.py, or begin the folder's name with _ to have it skipped"
            problems.append(Diagnostic("discovery", "no agent.py in this folder", path=shown(path), remedy=remedy))
    specs = [_spec(id_, folders, root) for id_, folders in sorted(by_id.items())]
    return Found(tuple(specs), tuple(problems))


def agent_id(path: Path) -> str:
    """Return the id of a folder, by its path under the agents folder."""
    *namespace, name = (re.sub(r"[^a-z0-9_-]", "-", part.lower()) for part in path.parts)
    return f"{'.'.join(namespace) or 'default'}/{name}"


def shown(path: Path) -> str:
    """Return a path as it can be told: names that are no UTF-8 have a mark in place of what is wrong."""
    return os.fsencode(path).decode("utf-8", "replace")


def _folders(folder: Path, root: Path, depth: int) -> Iterator[tuple[Path, bool]]:
    """Yield the agent folders under a folder, and those that hold none anywhere."""
    for child in sorted(folder.iterdir()):
        if child.name.startswith(("_", ".")) or not child.is_dir():
            continue
        if not child.resolve().is_relative_to(root.resolve()):
            yield child, False
        elif (child / "agent.py").is_file():
            yield child, True
        else:
            below = list(_folders(child, root, depth - 1)) if depth else []
            yield from [each for each in below if each[1]] or [(child, False)]


def _spec(id_: str, folders: list[Path], root: Path) -> AgentSpec:
    if len(folders) > 1:
        names = " and ".join(shown(each.relative_to(root)) for each in folders)
        return AgentSpec(id_, folders[0], refused=f"{names} give the same id {id_}: rename one of them")
    try:
        return AgentSpec(id_, folders[0], read_hints(folders[0] / "agent.py"))
    except Refused as error:
        return AgentSpec(id_, folders[0], refused=str(error))


def read_hints(path: Path) -> Hints:
    """Return `__gateway__` of a module, by reading it.

    Raises:
        Refused: if the file is too large, is not Python, or says something that cannot be meant.
    """
    try:
        with path.open("rb") as file:
            source = file.read(SOURCE_LIMIT + 1)
    except OSError as error:
        raise Refused(f"agent.py cannot be read: {os.strerror(error.errno or 0)}") from None
    if len(source) > SOURCE_LIMIT:
        raise Refused(f"agent.py is over {SOURCE_LIMIT} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source, "agent.py")
    except SyntaxError as error:
        raise Refused(f"agent.py, line {error.lineno or 1}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"agent.py is not Python: {error}") from None
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(each, ast.Name) and each.id == "__gateway__" for each in targets):
            return _hints(node)
    return Hints()


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and len(value) <= HINT_LIMIT and value.isprintable()


def _hints(node: ast.stmt) -> Hints:
    where = f"agent.py, line {node.lineno}: __gateway__"
    try:
        value = ast.literal_eval(getattr(node, "value", None) or ast.Dict([], []))
    except (ValueError, TypeError, RecursionError):
        raise Refused(f"{where} must be a plain dict, without names or calls in it") from None
    if not isinstance(value, dict) or not all(_is_plain(each) for pair in value.items() for each in pair):
        raise Refused(f"{where} must be a dict of texts of at most {HINT_LIMIT} characters")
    if unknown := sorted(set(value) - set(HINTS)):
        raise Refused(f"{where} has {', '.join(map(repr, unknown))}; it may have {', '.join(HINTS)}")
    return Hints(**value)
