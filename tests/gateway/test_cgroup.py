"""Promises of what is written into a cgroup and read from it, on plain files: not every host has cgroups to give."""

import os
from pathlib import Path

import pytest

from gateway.policy.agents import Limits
from gateway.runtime.cgroup import Group, Groups, delegated


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The files of a host where the gateway is alone in a group that it may divide."""
    own = tmp_path / "fs" / "service"
    own.mkdir(parents=True)
    (own / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (own / "cgroup.controllers").write_text("cpu memory pids\n")
    (own / "gateway").mkdir()
    (tmp_path / "self").write_text("4:memory:/elsewhere\n0::/service\n")
    return tmp_path


def test_the_gateway_moves_aside_and_hands_the_controllers_on(host: Path) -> None:
    """A group that has groups below it may hold no process, so the gateway goes into one of its own."""
    own = host / "fs" / "service"
    assert delegated(host / "self", host / "fs") == Groups(own)
    assert (own / "gateway" / "cgroup.procs").read_text() == str(os.getpid())
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("fs/service/cgroup.procs", f"{os.getpid()}\n1\n"),
        ("fs/service/cgroup.procs", "1\n"),
        ("fs/service/cgroup.controllers", "cpu memory\n"),
        ("fs/service/cgroup.controllers", ""),
        ("self", "4:memory:/service\n"),
        ("self", "0::/somewhere/else\n"),
    ],
)
def test_a_group_that_is_not_ours_alone_is_left_as_it_is(host: Path, file: str, text: str) -> None:
    """With others in it, without the controllers, or without a group of version 2, the watch has to do."""
    (host / file).write_text(text)
    assert delegated(host / "self", host / "fs") is None
    assert not (host / "fs" / "service" / "cgroup.subtree_control").exists()


def test_what_an_ended_gateway_left_is_removed(host: Path) -> None:
    """Groups of workers that are no more go, others stay."""
    own = host / "fs" / "service"
    (own / "worker-1").mkdir()
    (own / "another").mkdir()
    assert delegated(host / "self", host / "fs")
    assert not (own / "worker-1").exists()
    assert (own / "another").exists()


def test_a_worker_gets_its_limits(tmp_path: Path) -> None:
    """Memory with no swap beside it, processes, and all ended together."""
    group = Groups(tmp_path).make("x", Limits(memory_mb=100, processes=20))
    there = {each.name: each.read_text() for each in group.path.iterdir()}
    assert there == {
        "memory.max": "104857600",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "20",
    }


@pytest.mark.parametrize(("kills", "reason"), [(0, ""), (1, "out of memory at 100 MB")])
def test_an_end_for_want_of_memory_is_told(tmp_path: Path, kills: int, reason: str) -> None:
    """The kernel counts those that it ended."""
    (tmp_path / "memory.events").write_text(f"low 0\nhigh 0\nmax 7\noom 1\noom_kill {kills}\n")
    assert Group(tmp_path, 100).reason == reason


async def test_a_group_is_removed_once_it_is_empty(tmp_path: Path) -> None:
    """And one that is gone already is no fault."""
    path = tmp_path / "worker-x"
    path.mkdir()
    await Group(path, 100).remove()
    await Group(path, 100).remove()
    assert not path.exists()
