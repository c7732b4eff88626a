"""Promises of how agent folders are found and read, the hostile ones too."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalog import discovery
from gateway.catalog.discovery import Refused, agent_id, discover, read_hints
from gateway.catalog.spec import Hints


def short_id(value: object) -> str:
    """A value as the id of a test."""
    return repr(value)[:40]


def agent(root: Path, where: str, source: str = "") -> Path:
    """An agent folder."""
    folder = root / where
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "agent.py").write_text(source)
    return folder


def ids(root: Path) -> dict[str, str]:
    """The agents that are found, each with why it is refused."""
    return {spec.id: spec.refused for spec in discover(root).agents}


@pytest.mark.parametrize(
    ("path", "id_"),
    [
        ("Weather", "default/weather"),
        ("labs/Planner", "labs/planner"),
        ("a/b/C", "a.b/c"),
        ("My Agent!", "default/my-agent-"),
        ("x_y-z9", "default/x_y-z9"),
        ("v1.2", "default/v1-2"),
        ("Größe", "default/gr--e"),
        ("a.b/c", "a-b/c"),
        ("x\ny", "default/x-y"),
        ("b\udcffd", "default/b-d"),
    ],
)
def test_an_id_follows_from_the_path(path: str, id_: str) -> None:
    """Ids have two parts, in lower case, of letters, digits, `_` and `-`."""
    assert agent_id(Path(path)) == id_


@given(st.lists(st.text(st.characters(exclude_characters="/\x00"), min_size=1, max_size=5), min_size=1, max_size=4))
def test_every_path_gives_an_id_of_plain_characters(parts: list[str]) -> None:
    """Whatever a folder is called, its id can stand in a URL and in a file name."""
    path = Path(*parts)
    if ".." not in parts and path.parts:
        namespace, _, name = agent_id(path).partition("/")
        allowed = set("abcdefghijklmnopqrstuvwxyz0123456789_-")
        assert set(name) <= allowed
        assert set(namespace) <= allowed | {"."}


def test_agents_are_found_at_any_depth_in_order(tmp_path: Path) -> None:
    """Folders of folders are namespaces."""
    for where in ("labs/Planner", "Weather", "a/b/C"):
        agent(tmp_path, where)
    assert list(ids(tmp_path)) == ["a.b/c", "default/weather", "labs/planner"]
    assert not discover(tmp_path).problems


def test_what_is_hidden_is_skipped_in_silence(tmp_path: Path) -> None:
    """Folders that begin with a dot or `_`, plain files, and folders within an agent are no agents."""
    agent(tmp_path, "_draft")
    agent(tmp_path, ".git")
    agent(tmp_path, "Weather/_inner")
    agent(tmp_path, "Weather/data")
    agent(tmp_path, "Weather")
    (tmp_path / "README.md").write_text("x")
    assert list(ids(tmp_path)) == ["default/weather"]
    assert not discover(tmp_path).problems


def test_a_folder_that_holds_no_agent_is_told(tmp_path: Path) -> None:
    """An empty folder is told with a remedy; one with agents below it is not."""
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    agent(tmp_path, "labs/Planner")
    (tmp_path / "labs" / "notes").mkdir()
    (problem,) = discover(tmp_path).problems
    assert (problem.path, problem.message) == ("empty", "no agent.py in this folder")
    assert "agent.py" in problem.remedy


def test_an_agent_directly_in_the_folder_is_refused(tmp_path: Path) -> None:
    """`agents/agent.py` has no name, so it is told where to go."""
    agent(tmp_path, ".")
    found = discover(tmp_path)
    assert not found.agents
    assert "agents/NAME/agent.py" in found.problems[0].remedy


@pytest.mark.parametrize("two", [("Weather", "weather"), ("weather", "default/weather"), ("a b", "a-b")])
def test_folders_that_give_one_id_are_all_refused(tmp_path: Path, two: tuple[str, str]) -> None:
    """Neither of two agents takes the other's name, and both are named."""
    for where in two:
        agent(tmp_path, where)
    ((_, refused),) = ids(tmp_path).items()
    assert all(where in refused for where in two)
    assert "rename one" in refused


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    """No agents folder is a problem, not an exception."""
    assert discover(tmp_path / "none").problems[0].remedy


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    """A folder that is a link to elsewhere is no agent; a link within is."""
    root = tmp_path / "agents"
    agent(root, "Real")
    (root / "out").symlink_to(agent(tmp_path, "elsewhere"))
    (root / "inside").symlink_to(root / "Real")
    (root / "loop").symlink_to(root / "loop")
    assert list(ids(root)) == ["default/inside", "default/real"]
    assert [problem.path for problem in discover(root).problems] == ["out"]


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    """Folders that go round in a circle are looked into a few levels deep, and no more."""
    agent(tmp_path, "labs/Planner")
    (tmp_path / "labs" / "again").symlink_to(tmp_path / "labs")
    assert "labs/planner" in ids(tmp_path)


@pytest.mark.parametrize(
    ("source", "hints"),
    [
        ("", Hints()),
        (
            "import os\n__gateway__ = {'model': 'gpt-5', 'upstream': 'ollama', 'export': 'bot'}",
            ("bot", "ollama", "gpt-5"),
        ),
        ("x = __gateway__ = {'model': 'm'}", Hints(model="m")),
        ("__gateway__: dict[str, str] = {'model': 'm'}", Hints(model="m")),
        ("__gateway__ = {}", Hints()),
        ("if True:\n    __gateway__ = {'model': 'm'}", Hints()),
        ("# -*- coding: latin-1 -*-\n__gateway__ = {'model': 'm'}", Hints(model="m")),
    ],
)
def test_hints_are_read_from_the_source(tmp_path: Path, source: str, hints: Hints | tuple[str, str, str]) -> None:
    """`__gateway__` at the top of the module is read, and nothing is run."""
    expected = hints if isinstance(hints, Hints) else Hints(*hints)
    assert read_hints(agent(tmp_path, "x", source) / "agent.py") == expected


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"def (", "agent.py, line 1: "),
        (b"x = 1\n\xff\xfe", "agent.py"),
        (b"x = '\x00'", "null bytes"),
        (b"# coding: no-such\n", "agent.py, line"),
        (b"__gateway__ = dict(model='m')", "agent.py, line 1: __gateway__ must be a plain dict"),
        (b"\n__gateway__ = {'model': open('/etc/passwd').read()}", "agent.py, line 2: __gateway__ must be a plain"),
        (b"__gateway__ = ['model']", "must be a dict of texts"),
        (b"__gateway__ = {'model': 5}", "must be a dict of texts"),
        (b"__gateway__ = {[]: 1}", "must be a plain dict"),
        (b"__gateway__ = {**{}}", "must be a plain dict"),
        (
            b"__gateway__ = {'modell': 'm', 'api_key': 'k'}",
            "has 'api_key', 'modell'; it may have export, model, upstream",
        ),
        (b"__gateway__ = {'model': '\\ud800'}", "agent.py, line 1"),
        (b"__gateway__ = {'\\ud800': 'm'}", "agent.py, line 1"),
        (b"__gateway__ = {'model': '" + b"m" * 5000 + b"'}", "agent.py, line 1"),
        (b"#" * ((1 << 20) + 1), "agent.py is over 1048576 bytes"),
    ],
    ids=short_id,
)
def test_a_source_that_cannot_be_meant_is_refused_with_its_line(tmp_path: Path, source: bytes, reason: str) -> None:
    """The author reads why, and the reason itself can be sent as UTF-8."""
    path = agent(tmp_path, "x") / "agent.py"
    path.write_bytes(source)
    with pytest.raises(Refused) as refusal:
        read_hints(path)
    assert reason in str(refusal.value)
    assert str(refusal.value).encode()
    assert "None" not in str(refusal.value)


def test_an_agent_py_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    """A dangling link or a folder in its place is a reason, not an exception."""
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    for path in (tmp_path, tmp_path / "dangling"):
        with pytest.raises(Refused, match="cannot be read"):
            read_hints(path)


def test_what_is_told_of_a_folder_with_an_odd_name_can_be_sent(tmp_path: Path) -> None:
    """A folder's name that is no UTF-8 does not break the list of problems."""
    (tmp_path / "b\udcffd").mkdir()
    agent(tmp_path, "x\udcff")
    agent(tmp_path, "x\udcfe")
    found = discover(tmp_path)
    for text in [*(spec.refused for spec in found.agents), *(problem.path for problem in found.problems)]:
        assert text.encode()


HOSTILE = {
    "brackets": "b'(' * 1_000_000",
    "lists": "b'[' * 90 + b']' * 90 + b'\\n' + b'[' * 500_000",
    "minus": "b'x = ' + b'-' * 900_000 + b'1'",
    "not": "b'not ' * 250_000 + b'1'",
    "sum": "b'1' + b'+1' * 450_000",
    "calls": "b'f' + b'()' * 450_000",
    "attributes": "b'a' + b'.a' * 450_000",
    "lambdas": "b'lambda:' * 140_000 + b'1'",
    "power": "b'1' + b'**1' * 300_000",
    "hints": "b'__gateway__ = ' + b'-' * 900_000 + b'1'",
    "hints of a sum": "b'__gateway__ = 1' + b'+1j' * 300_000",
    "indents": "b''.join(b' ' * i + b'if 1:\\n' for i in range(1300))",
    "elifs": "b'if 1: pass\\n' + b'elif 1: pass\\n' * 70_000",
    "number": "b'__gateway__ = ' + b'9' * 900_000",
    "escapes": "b'x = \"' + b'\\\\q' * 400_000 + b'\"'",
    "f-strings": "b'f\"{' * 100_000",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_source_does_not_take_the_gateway_down(tmp_path: Path, source: str) -> None:
    """A megabyte made to exhaust the parser is read or refused in seconds, and the process lives."""
    (agent(tmp_path, "x") / "agent.py").touch()
    script = (
        "import pathlib, sys; from gateway.catalog.discovery import discover\n"
        f"root = pathlib.Path({str(tmp_path)!r}); (root / 'x' / 'agent.py').write_bytes({source})\n"
        "print(len(discover(root).agents))"
    )
    root = Path(discovery.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "1", "")
