"""Holds the project to the rules of its design on who may import whom."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ANYONE = {"errors"}
ALLOWED: dict[str, set[str]] = {
    "api": {"policy", "runtime", "catalog", "observe", "broker", "settings"},
    "runtime": {"policy", "catalog", "observe"},
    "broker": {"policy", "observe"},
    "catalog": {"observe"},
    "policy": set(),
    "observe": set(),
    "settings": set(),
    "errors": set(),
}
"""What each part of the gateway may import, beside itself; `app` and `cli` put all together."""
WORKER: dict[str, set[str]] = {
    "runtime": {"worker.wire", "worker.warden", "worker.plan"},
    "broker": {"worker.wire"},
    "app": {"worker.warden", "worker.kernel"},
}
"""What of the worker each part of the gateway may import."""
PURE = (
    "gateway/runtime/lifecycle.py",
    "gateway/policy/access.py",
    "gateway/policy/agents.py",
    "gateway/policy/documents.py",
    "gateway/runtime/plans.py",
    "worker/convert.py",
    "worker/plan.py",
    "worker/wire.py",
)
IMPURE = {"anyio", "asyncio", "http", "httpx2", "multiprocessing", "openai", "os", "select", "signal", "socket"} | {
    "ssl",
    "starlette",
    "subprocess",
    "threading",
    "uvicorn",
    "zmq",
}


def modules(package: str) -> list[Path]:
    """The source files of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    """A file's name within the project."""
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it; of `from a import b`, `a.b` where that is a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "imports are absolute"
            found |= {within(node.module, alias.name) for alias in node.names}
    return found


def within(module: str, name: str) -> str:
    """The module that `from module import name` is about."""
    below = ROOT / Path(*module.split("."))
    is_module = (below / f"{name}.py").exists() or (below / name).is_dir()
    return f"{module}.{name}" if is_module else module


def part(module: str) -> str:
    """The part of the gateway that a module is in."""
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("path", modules("gateway"), ids=name_of)
def test_the_gateways_imports_point_one_way(path: Path) -> None:
    """A part imports itself, errors, and what the design lets it; app and cli may import any."""
    here = path.relative_to(ROOT / "gateway").parts[0].removesuffix(".py")
    if here not in ALLOWED:
        assert here in ("app", "cli", "__main__", "__init__")
        return
    reached = {part(each) for each in imports(path) if each.split(".")[0] == "gateway"}
    assert reached <= ALLOWED[here] | ANYONE | {here}


@pytest.mark.parametrize("path", modules("gateway"), ids=name_of)
def test_the_gateway_shares_only_the_wire_with_workers(path: Path) -> None:
    """Of the untrusted side's code the gateway runs the messages, and the warden's care for its own children."""
    here = path.relative_to(ROOT / "gateway").parts[0].removesuffix(".py")
    reached = {each for each in imports(path) if each.split(".")[0] == "worker"}
    assert reached <= WORKER.get(here, set())


@pytest.mark.parametrize("path", modules("worker"), ids=name_of)
def test_a_worker_never_imports_the_gateway(path: Path) -> None:
    """The gateway's code is not on the disk that a worker sees."""
    assert not {each for each in imports(path) if each.split(".")[0] == "gateway"}


@pytest.mark.parametrize("path", modules("gateway"), ids=name_of)
def test_the_gateway_runs_nothing_of_an_agent(path: Path) -> None:
    """Nothing that imports, unpickles or evaluates by name is in the trusted process."""
    reached = imports(path)
    assert not {"importlib", "importlib.util", "importlib.machinery"} & reached
    assert not {"pickle", "runpy", "marshal", "agents"} & {each.split(".")[0] for each in reached}
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    named = {call.id for call in calls if isinstance(call, ast.Name)}
    assert not {"eval", "exec", "compile", "__import__"} & named


def test_the_wire_needs_the_standard_library_and_msgspec() -> None:
    """Both sides can import it, whatever else they have."""
    others = {each.split(".")[0] for each in imports(ROOT / "worker" / "wire.py")} - set(sys.stdlib_module_names)
    assert others == {"msgspec"}


@pytest.mark.parametrize("name", PURE)
def test_what_is_pure_imports_no_sockets_processes_or_frameworks(name: str) -> None:
    """What decides can be tested without what acts, and imports only what is pure of the project itself."""
    reached = imports(ROOT / name)
    assert not {each.split(".")[0] for each in reached} & IMPURE
    pure = {each.removesuffix(".py").replace("/", ".") for each in PURE}
    assert {each for each in reached if each.split(".")[0] in ("gateway", "worker")} <= pure | {"gateway.errors"}


def test_the_rules_name_what_is_there() -> None:
    """A part that is new, or gone, is noticed here."""
    there = {path.relative_to(ROOT / "gateway").parts[0].removesuffix(".py") for path in modules("gateway")}
    assert there - {"__init__", "__main__", "app", "cli"} == set(ALLOWED)
