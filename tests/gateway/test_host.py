"""Promises of what is found of this host: where its interpreter lies, and which walls stand."""

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gateway
import worker
from gateway.runtime import host
from gateway.runtime.host import installed, survey
from gateway.runtime.plans import Host, Installed

GATEWAY = Path(gateway.__file__).resolve().parent
WORKER = Path(worker.__file__).resolve().parent


# What there is on disk.


def within(path: str | Path, folders: tuple[str, ...]) -> bool:
    """Whether a path is one of these, or below one."""
    return any(Path(path).is_relative_to(each) for each in folders)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter behind a chain of links, one of them to a folder and one of them relative."""
    root = tmp_path_factory.mktemp("python")
    (root / "3.11.7" / "bin").mkdir(parents=True)
    (root / "3.11.7" / "bin" / "python3.11").touch()
    (root / "3.11.7" / "bin" / "python3").symlink_to("python3.11")
    (root / "3.11").symlink_to("3.11.7")
    (root / "env" / "bin").mkdir(parents=True)
    (root / "env" / "bin" / "python").symlink_to("python3")
    (root / "env" / "bin" / "python3").symlink_to(root / "3.11.7" / "bin" / "python3")
    (root / "env" / "bin" / "by_folder").symlink_to("../../3.11/bin/python3")
    return root


def test_what_a_worker_needs_is_shown_and_nothing_twice() -> None:
    """The interpreter, its library, its environment and `worker/` are there; none lies in another."""
    found = installed()
    for path in (os.path.realpath(sys.executable), os.__file__, sys.prefix, WORKER, pytest.__file__):
        assert within(path, found.shown), path
    for each in found.shown:
        assert os.path.exists(each), each
        assert not os.path.islink(each) or each in host._ways(sys.executable), each
        assert not within(each, tuple(other for other in found.shown if other != each))


def test_no_file_of_the_gateway_lies_in_what_surrounds_it() -> None:
    """Where nothing can be masked, there is no part that has the gateway's folder in it, or lies in it."""
    found = installed()
    for each in found.around:
        assert not GATEWAY.is_relative_to(each), each
        assert not Path(each).is_relative_to(GATEWAY), each
    shown = any(GATEWAY.is_relative_to(each) for each in found.shown)
    assert found.hidden == ((str(GATEWAY),) if shown else ())


def test_nothing_of_a_home_and_no_secret_of_the_system_is_shown() -> None:
    """Of /etc there is what TLS and the linker need; the home's folders, / and /root are nowhere."""
    found = installed()
    for path in ("/etc/passwd", "/etc/shadow", "/etc/ssl/private", Path.home() / ".ssh", "/root", "/", "/proc", "/sys"):
        assert not within(path, found.shown), path
    assert not within(GATEWAY.parent / "agents", found.shown)


def test_a_gateway_installed_beside_its_libraries_is_masked_and_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In site-packages the environment is shown with the gateway's folder hidden, or in parts around it."""
    packages = tmp_path / "env" / "lib" / "site-packages"
    for name in ("gateway/runtime/host.py", "worker/plan.py", "openai/__init__.py"):
        (packages / name).parent.mkdir(parents=True)
        (packages / name).touch()
    (tmp_path / "env" / "bin").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setattr(host, "__file__", str(packages / "gateway" / "runtime" / "host.py"))
    found = installed()
    assert str(tmp_path / "env") in found.shown
    assert found.hidden == (str(packages / "gateway"),)
    below = {each for each in found.around if Path(each).is_relative_to(tmp_path)}
    assert below == {str(tmp_path / "env" / "bin"), str(packages / "openai"), str(packages / "worker")}


def test_the_interpreter_is_found_by_every_name_on_the_way_to_it(python: Path) -> None:
    """Each name that a link gives it, up to the file."""
    bin_ = python / "env" / "bin"
    assert set(host._ways(str(bin_ / "python"))) == {
        f"{bin_}/python",
        f"{bin_}/python3",
        f"{python}/3.11.7/bin/python3",
        f"{python}/3.11.7/bin/python3.11",
    }
    assert set(host._ways(str(python / "3.11.7" / "bin" / "python3.11"))) == {f"{python}/3.11.7/bin/python3.11"}


def test_the_interpreter_can_be_reached_by_its_name_over_linked_folders(python: Path) -> None:
    """As uv lays them out: a folder on the way is a link to that of the patch version."""
    found = set(host._ways(str(python / "env" / "bin" / "by_folder")))
    assert {f"{python}/3.11/bin/python3.11", f"{python}/3.11.7/bin/python3.11"} <= found


def test_an_interpreter_is_reached_from_its_environment() -> None:
    """Each name of `sys.executable` on the way to it is in something that is shown."""
    found = installed()
    assert all(within(path, found.shown) for path in host._ways(sys.executable))


names = st.sampled_from(["a", "b", "ab"])
trees = st.lists(st.lists(names, min_size=1, max_size=4).map("/".join), min_size=1, max_size=8)


@given(trees)
def test_what_lies_in_another_is_left_out(paths: list[str]) -> None:
    """What is kept covers all that was given, and none of it covers another; `/a` does not cover `/ab`."""
    given_ = [f"/{each}" for each in paths]
    kept = host._outermost(given_)
    assert set(kept) <= set(given_)
    assert all(within(each, tuple(kept)) for each in given_)
    assert not any(within(each, (other,)) for each in kept for other in kept if other != each)


@given(trees, st.data())
def test_what_is_around_a_hole_is_all_but_the_hole(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], data: st.DataObject
) -> None:
    """Every file is in exactly one part, but for those in the hole, which are in none."""
    root = tmp_path_factory.mktemp("tree", numbered=True)
    for each in paths:
        (root / each).mkdir(parents=True, exist_ok=True)
        (root / each / "file").touch()
    hole = root / data.draw(st.sampled_from(paths))
    parts = host._around(str(root), str(hole))
    for file in root.rglob("file"):
        holders = [part for part in parts if file.is_relative_to(part)]
        assert len(holders) == (0 if file.is_relative_to(hole) else 1), file
    assert not any(hole.is_relative_to(part) for part in parts)


def test_a_tree_without_the_hole_stays_whole(tmp_path: Path) -> None:
    """It is not even looked into; of a tree that is the hole nothing is left."""
    assert host._around("/no/such/tree", str(tmp_path)) == ["/no/such/tree"]
    assert host._around(str(tmp_path), str(tmp_path)) == []


# Which walls stand.

STANDS = {"namespaces": "", "namespaces without /proc": "", "user": "", "landlock": "", "seccomp": ""}
FULL = Host(60900, namespaces=True, proc=True, landlock=7, seccomp=b"filter")
NO = {"namespaces": "no /proc", "namespaces without /proc": "clone: no"}
JUDGED: dict[str, tuple[dict[str, str], int, bytes, str, Host]] = {
    "all of it": ({}, 7, b"filter", "", FULL),
    "no /proc of one's own": (
        {"namespaces": "root: mount proc: no"},
        7,
        b"filter",
        "",
        Host(60900, namespaces=True, landlock=7, seccomp=b"filter"),
    ),
    "an older Landlock behind namespaces": (
        {},
        1,
        b"filter",
        "",
        Host(60900, namespaces=True, proc=True, landlock=1, seccomp=b"filter"),
    ),
    "a user whose trouble nobody needs to know": ({"user": "cannot walk there"}, 7, b"filter", "", FULL),
    "no namespaces": (
        NO,
        6,
        b"filter",
        "",
        Host(60900, landlock=6, seccomp=b"filter", missing=(("namespaces", "clone: no"),)),
    ),
    "no namespaces and a Landlock without scopes": (
        NO,
        5,
        b"filter",
        "",
        Host(
            60900,
            landlock=5,
            seccomp=b"filter",
            missing=(("namespaces", "clone: no"), ("signals", "Landlock 5 is older than 6")),
        ),
    ),
    "no Landlock": (
        {"landlock": "landlock: no"},
        0,
        b"filter",
        "",
        Host(60900, namespaces=True, proc=True, seccomp=b"filter", missing=(("landlock", "landlock: no"),)),
    ),
    "no libseccomp": (
        {},
        7,
        b"",
        "no libseccomp",
        Host(60900, namespaces=True, proc=True, landlock=7, missing=(("seccomp", "no libseccomp"),)),
    ),
    "a kernel without filters": (
        {"seccomp": "seccomp: no"},
        7,
        b"filter",
        "",
        Host(60900, namespaces=True, proc=True, landlock=7, missing=(("seccomp", "seccomp: no"),)),
    ),
    "nothing": (
        {**NO, "user": "user: no", "landlock": "landlock: no", "seccomp": "seccomp: no"},
        0,
        b"filter",
        "",
        Host(
            60900,
            missing=(
                ("namespaces", "clone: no"),
                ("landlock", "landlock: no"),
                ("signals", "Landlock 0 is older than 6"),
                ("seccomp", "seccomp: no"),
                ("user", "user: no"),
            ),
        ),
    ),
}


@pytest.mark.parametrize("case", JUDGED)
def test_what_a_host_gives_is_what_stood_in_the_trial(case: str) -> None:
    """What did not stand is missing, with the reason that the trial gave, and no plan will have it."""
    wrong, abi, program, no_filter, expected = JUDGED[case]
    assert host._judge(STANDS | wrong, abi, 60900, program, no_filter) == expected


def surveyed(seen: Installed, folder: Path, *, off: bool = False) -> Host:
    """What a survey of this host finds."""
    return anyio.run(partial(survey, seen, folder, off=off))


def test_the_walls_that_are_claimed_stand_on_this_host(tmp_path: Path) -> None:
    """The tier is that of an independent look: whether namespaces can be unshared, whether the kernel has the rest."""
    found = surveyed(installed(), tmp_path)
    flags = ["--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--fork"]
    unshared = subprocess.run(["unshare", *flags, "true"], check=False, capture_output=True).returncode == 0
    assert found.namespaces == unshared
    assert found.uid == (60900 if os.geteuid() == 0 else -1)
    assert bool(found.seccomp) == ("Seccomp:" in Path("/proc/self/status").read_text())
    assert (found.tier == "full") == (found.namespaces and bool(found.seccomp) and bool(found.landlock))
    assert list(tmp_path.iterdir()) == [], "the trial leaves nothing behind"


def test_a_wall_that_does_not_stand_is_missing(tmp_path: Path) -> None:
    """Where a file that is to be shown is not there, the trial says so, and nothing is claimed that was not tried."""
    seen = installed()
    broken = replace(seen, shown=(*seen.shown, "/no/such/file"), around=(*seen.around, "/no/such/file"))
    found = surveyed(broken, tmp_path)
    assert (found.namespaces, found.tier) == (False, "partial")
    assert "/no/such/file" in found.why_not("partial")


def test_an_installation_below_tmp_has_the_same_walls(tmp_path: Path) -> None:
    """Where new roots are put together, and where workers find their scratch, there may be libraries too."""
    seen = installed()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        below = replace(seen, shown=(*seen.shown, folder), around=(*seen.around, folder))
        assert surveyed(below, tmp_path).tier == surveyed(seen, tmp_path).tier


def test_where_walls_are_off_none_are_tried(tmp_path: Path) -> None:
    """Not even the folder for the trial is needed."""
    assert surveyed(installed(), tmp_path / "nowhere", off=True) == Host(off=True)
