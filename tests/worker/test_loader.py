"""Promises of how an agent's folder is imported and its export found."""

import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agents import Agent
from worker import loader
from worker.loader import NotImportable, find_export, hidden_names, import_folder, make_agent


def folder(where: Path, **files: str) -> Path:
    """A folder with these Python files."""
    for name, source in files.items():
        (where / f"{name}.py").write_text(source)
    return where


def module(**values: object) -> ModuleType:
    """A module with these names."""
    made = ModuleType("agent")
    vars(made).update(values)
    return made


@pytest.fixture
def clean_imports() -> Iterator[None]:
    """Puts the interpreter's import state back."""
    path, argv, modules = sys.path.copy(), sys.argv.copy(), set(sys.modules)
    yield
    sys.path[:], sys.argv[:] = path, argv
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.mark.usefixtures("clean_imports")
@pytest.mark.parametrize("line", ["from .tidbits import X", "from tidbits import X", "import tidbits; X = tidbits.X"])
def test_helpers_beside_the_agent_can_be_imported_in_either_way(tmp_path: Path, line: str) -> None:
    """A module of the folder is found relatively and by its bare name."""
    imported = import_folder(folder(tmp_path, agent=line, tidbits="X = 5"))
    assert imported.X == 5


@pytest.mark.usefixtures("clean_imports")
def test_an_init_of_the_folder_runs_first(tmp_path: Path) -> None:
    """A folder that is a package is imported as one."""
    assert import_folder(folder(tmp_path, __init__="X = 5", agent="from . import X")).X == 5


@pytest.mark.usefixtures("clean_imports")
def test_no_file_of_the_folder_hides_a_library(tmp_path: Path) -> None:
    """`import agents` is the SDK even where the folder has an agents.py."""
    source = "import agents, string; X = agents.Agent; Y = string.digits"
    imported = import_folder(folder(tmp_path, agent=source, agents="", string=""))
    assert (Agent, "0123456789") == (imported.X, imported.Y)


@pytest.mark.usefixtures("clean_imports")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import no_such_thing.at_all",
            "the package 'no_such_thing' is not installed where the gateway runs (agent.py, line 1)",
        ),
        ("\n\ndef", "agent.py, line 3: invalid syntax"),
        ("import sys\nsys.exit(3)", "it called sys.exit(3) (agent.py, line 2)"),
        ("1 / 0", "ZeroDivisionError: division by zero (agent.py, line 1)"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt:  (agent.py, line 1)"),
        ("from .tidbits import X", "ValueError: deep (tidbits.py, line 2)"),
        ("from .tidbits2 import X", "tidbits2.py, line 1: '(' was never closed"),
    ],
)
def test_an_import_that_fails_is_explained_with_file_and_line(tmp_path: Path, source: str, message: str) -> None:
    """The author reads what went wrong, and in which line of their own code."""
    with pytest.raises(NotImportable) as failure:
        import_folder(folder(tmp_path, agent=source, tidbits="\nraise ValueError('deep')", tidbits2="("))
    assert str(failure.value) == message


@pytest.mark.usefixtures("clean_imports")
def test_a_folder_without_agent_py_is_not_importable(tmp_path: Path) -> None:
    """A folder whose agent.py is gone is refused like any other."""
    with pytest.raises(NotImportable, match="agent"):
        import_folder(tmp_path)


def test_files_that_a_library_hides_are_named(tmp_path: Path) -> None:
    """Modules and packages of the folder that cannot be imported by their bare name are told, and no others."""
    folder(tmp_path, agent="", __init__="", json="", httpx2="", tidbits="")
    for name in ("agents", "handbook", "not-a-name"):
        (tmp_path / name).mkdir()
    assert hidden_names(tmp_path) == ["agents", "httpx2", "json"]


@pytest.mark.usefixtures("clean_imports")
def test_a_file_that_was_imported_from_the_folder_is_not_hidden(tmp_path: Path) -> None:
    """A helper that the agent has imported by its bare name is in nobody's shadow."""
    home = folder(tmp_path, agent="import tidbits", tidbits="")
    assert hidden_names(home) == []
    import_folder(home)


AGENT = Agent[Any](name="a")


def factory() -> Agent[Any]:
    """A factory."""
    return AGENT


def factory_with_options(name: str = "a", *rest: str, **more: str) -> Agent[Any]:
    """A factory that needs no argument."""
    return AGENT


async def async_factory() -> Agent[Any]:
    """A factory that is awaited."""
    return AGENT


def factory_with_arguments(name: str) -> Agent[Any]:
    """A function that cannot be called by the gateway."""
    return AGENT


@pytest.mark.parametrize("value", [AGENT, factory, factory_with_options, async_factory])
def test_an_agent_or_a_factory_without_arguments_is_an_export(value: object) -> None:
    """What can be run, or makes what can be run, is taken."""
    assert find_export(module(agent=value), ["agent"]) == ("agent", value)


def test_the_first_name_that_fits_is_taken() -> None:
    """Names are tried in their order, and one that holds something else is passed over."""
    assert find_export(module(main=AGENT, agent=5, bot=factory), ["agent", "bot", "main"]) == ("bot", factory)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "named agent or bot; there is no Agent in it"),
        ({"agent": 5}, "agent is a int; there is no Agent in it"),
        ({"agent": Agent}, "agent is a type"),
        ({"agent": factory_with_arguments}, "agent is a function"),
        ({"weather": AGENT, "helper": AGENT}, "agents in it: helper, weather"),
    ],
)
def test_a_module_without_export_says_what_it_has(values: dict[str, object], message: str) -> None:
    """The author reads which names were looked for, and what stands there instead."""
    with pytest.raises(NotImportable, match=message):
        find_export(module(**values), ["agent", "bot"])


def returns_text() -> Any:
    """A factory of something else."""
    return "agent"


def raises() -> Agent[Any]:
    """A factory that fails."""
    raise ValueError("no such file")


@pytest.mark.parametrize("export", [AGENT, factory, async_factory])
async def test_an_agent_is_made_of_any_export(export: Any) -> None:
    """The agent itself comes out, called and awaited where it must be."""
    assert await make_agent("agent", export, Path()) is AGENT


@pytest.mark.parametrize(
    ("export", "message"),
    [
        (returns_text, r"agent\(\) returned a str, not an Agent"),
        (raises, r"agent\(\) failed: ValueError: no such file"),
    ],
)
async def test_a_factory_that_makes_no_agent_is_explained(
    export: Callable[[], Agent[Any] | Awaitable[Agent[Any]]], message: str
) -> None:
    """The author reads how the factory failed."""
    with pytest.raises(NotImportable, match=message):
        await make_agent("agent", export, Path("/"))


def test_importing_leaves_the_folder_last_on_the_path(tmp_path: Path) -> None:
    """In a fresh interpreter the folder comes after everything that is installed."""
    folder(tmp_path, agent="import sys; LAST = sys.path[-1]")
    script = f"from worker.loader import *; print(import_folder(Path({str(tmp_path)!r})).LAST)"
    root = Path(loader.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path)
