"""Promises of walls, tried in processes that stand behind them; every plan is put up for real."""
# ruff: noqa: S108 - paths behind walls

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.policy.agents import Limits
from gateway.runtime import plans
from gateway.runtime.host import installed, survey
from gateway.runtime.plans import Folders, Host
from worker.plan import COMPLAINT, FAILED, Bind, Memory, Plan, Root

PROGRAM = """
import json, os, sys
from worker import kernel, walls
from worker.plan import plan_of

chain = [plan_of(each) for each in json.loads(sys.argv[1])]
handed = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(5)]
kept = handed[2]
walls.settle(chain[0])
for plan in chain:
    if child := walls.enter(plan, keep=[kept]):
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256)
said = None

def answer(of, *arguments):
    try:
        return of(*arguments)
    except OSError as error:
        return type(error).__name__ + " " + __import__("errno").errorcode[error.errno]

exec(sys.argv[2])
print(json.dumps(said))
"""
"""Goes behind walls within walls, and then runs what it is given there, which leaves something in `said`."""
LIMITS = Limits(memory_mb=200, processes=20, open_files=40, file_mb=2, scratch_mb=3, cpu_seconds=7)
IS_ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """What this host gives; without namespaces there is nothing to be tried here."""
    found = anyio.run(partial(survey, installed(), tmp_path_factory.mktemp("survey"), off=False))
    if not found.namespaces:
        pytest.skip(f"this host gives no namespaces: {dict(found.missing)}")
    return found


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """A snapshot of an agent."""
    folder = tmp_path / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "agent.py").write_text("agent = 1\n")
    folder.chmod(0o755)
    return folder


@pytest.fixture
def plan(host: Host, agent: Path) -> Plan:
    """The walls of a worker that is not within a zygote."""
    return plans.worker(host, installed(), LIMITS, Folders(str(agent), "", "/agent", "/scratch"))


@pytest.fixture
def open_plan(plan: Plan) -> Plan:
    """The same, where only the root holds."""
    return replace(plan, landlock=(), seccomp=b"", bare=False)


def started(chain: Sequence[Plan], code: str) -> subprocess.CompletedProcess[str]:
    """Run code behind walls."""
    plans_ = json.dumps([each.data() for each in chain])
    command = [sys.executable, "-I", "-B", "-X", "utf8", "-c", PROGRAM, plans_, code]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, cwd="/")


def said(code: str, *chain: Plan) -> Any:
    """What code says behind walls."""
    done = started(chain, code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nothing_is_seen_but_what_the_plan_has(plan: Plan) -> None:
    """The folders down to what is bound, and those of /, /etc and /dev exactly."""
    assert plan.root
    code = "said = {path: sorted(os.listdir(path)) for path in ('/', '/etc', '/dev', '/agent', '/scratch')}"
    seen = said(code, plan)
    there = [*(each.target for each in plan.root.binds), *(each.path for each in plan.root.memory), "/proc"]
    there += [path for path, _ in plan.root.links]
    assert seen["/"] == sorted({each.split("/")[1] for each in there})
    assert set(seen["/etc"]) <= {"ld.so.cache", "localtime", "ssl", "pki"}
    devices = ["full", "null", "random", "urandom", "zero"]
    assert seen["/dev"] == sorted([*devices, "fd", "shm", "stderr", "stdin", "stdout"])
    assert (seen["/agent"], seen["/scratch"]) == (["agent.py"], [])


def test_nothing_can_be_written_but_in_scratch_and_shared_memory(open_plan: Plan, agent: Path) -> None:
    """The mounts themselves hold it, for one who has every capability and no Landlock over it."""
    folders = ["/", "/etc", "/dev", "/agent", "/usr/lib", sys.prefix, "/tmp", "/scratch", "/dev/shm"]
    code = f"said = {{path: bool(answer(lambda: open(path + '/new', 'w')) != 'OSError EROFS') for path in {folders}}}"
    writable = [path for path, could in said(code, open_plan).items() if could]
    assert open_plan.root
    linked = [path for path, to in open_plan.root.links if (path, to) == ("/tmp", "/scratch")]
    assert writable == [*linked, "/scratch", "/dev/shm"]  # not linked where the interpreter lies below it
    assert said("said = [answer(os.chmod, '/agent/agent.py', 0o777), answer(os.utime, '/agent')]", open_plan) == [
        "OSError EROFS",
        "OSError EROFS",
    ]
    assert [each.name for each in agent.iterdir()] == ["agent.py"]


def test_what_the_old_root_had_cannot_be_reached(open_plan: Plan, agent: Path) -> None:
    """Neither by its path nor by going up from the root."""
    code = f"said = [os.path.exists(path) for path in ('/etc/passwd', {str(agent)!r}, '/../../etc/passwd')]"
    assert said(code, open_plan) == [False, False, False]


def test_scratch_holds_so_many_megabytes_and_files(plan: Plan) -> None:
    """Then the disk is full, as code expects it to become."""
    code = """
def fill():
    for number in range(9):
        with open(f"/scratch/{number}", "wb") as file:
            file.write(b"x" * (1 << 20))
def crowd():
    for number in range(1000):
        os.close(os.open(f"/scratch/{number}", os.O_CREAT | os.O_WRONLY))
full = answer(fill)
size = sum(os.stat(f"/scratch/{each}").st_size for each in os.listdir("/scratch"))
for each in os.listdir("/scratch"):
    os.unlink(f"/scratch/{each}")
said = [full, size, answer(crowd), len(os.listdir("/scratch"))]
"""
    full, size, crowded, files = said(code, plan)
    assert (full, size) == ("OSError ENOSPC", 3 << 20)
    assert crowded == "OSError ENOSPC"
    assert 100 < files < 3 * plans.INODES_PER_MB


def test_what_is_hidden_is_an_empty_folder(open_plan: Plan, agent: Path) -> None:
    """It stays empty, for there is no room in it."""
    (agent / "gateway").mkdir()
    (agent / "gateway" / "keys.py").touch()
    assert open_plan.root
    root = replace(open_plan.root, memory=(*open_plan.root.memory, Memory("/agent/gateway", 0)))
    code = "said = [os.listdir('/agent/gateway'), answer(open, '/agent/gateway/x', 'w')]"
    assert said(code, replace(open_plan, root=root)) == [[], "OSError EROFS"]


def test_it_is_the_first_process_of_its_own_space_and_the_same_user(plan: Plan) -> None:
    """It sees no process but itself, leads its session, and no network but its own loopback; nobody else is known."""
    code = """
import socket
said = {
    "pid": [os.getpid(), os.getppid(), os.getsid(0)],
    "ids": [os.getuid(), os.getgid()],
    "processes": [each for each in os.listdir("/proc") if each.isdecimal()],
    "system": [each for each in ("meminfo", "sys", "kcore", "net/tcp") if os.path.exists(f"/proc/{each}")],
    "network": socket.if_nameindex(),
    "maps": open("/proc/self/uid_map").read().split(),
}
"""
    assert said(code, replace(plan, seccomp=b"")) == {
        "pid": [1, 0, 1],
        "ids": [os.getuid(), os.getgid()],
        "processes": ["1"],
        "system": [],
        "network": [[1, "lo"]],
        "maps": [str(os.getuid()), str(os.getuid()), "1"],
    }


def test_it_has_no_capability_and_can_gain_none(plan: Plan) -> None:
    """All five sets are empty; programs with more rights give it none; its limits are those of the plan."""
    code = """
import resource
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
said = [
    {name: int(text, 16) for name, text in fields.items() if name.startswith("Cap")},
    {name: int(fields[name]) for name in ("NoNewPrivs", "Seccomp")},
    [[name, *resource.getrlimit(getattr(resource, name))] for name in LIMITS],
]
"""
    capabilities, rights, limits = said(f"LIMITS = {[name for name, _, _ in plan.limits]}\n{code}", plan)
    assert capabilities == dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0)
    assert rights == {"NoNewPrivs": 1, "Seccomp": 2}
    assert limits == [list(each) for each in plan.limits]


def test_no_further_namespaces_can_be_made_unless_the_plan_says_so(open_plan: Plan) -> None:
    """Even where no filter forbids the call: the kernel has none left to give."""
    code = "said = answer(kernel.unshare, kernel.NEW_USER)"
    assert said(code, open_plan) == "OSError ENOSPC"
    assert said(code, replace(open_plan, nested=True)) is None


def test_no_descriptor_comes_along_but_the_ones_to_keep(plan: Plan) -> None:
    """Of five that were open one is to be kept; the last of those seen is the listing itself."""
    code = "said = [len(os.listdir('/proc/self/fd')), [each for each in handed if type(answer(os.fstat, each)) is str]]"
    count, closed = said(code, plan)
    assert (count, len(closed)) == (5, 4)


def test_a_limit_that_the_host_has_set_lower_stays() -> None:
    """A plan never raises one."""
    outer = Plan(-1, limits=(("RLIMIT_NOFILE", 30, 30),))
    inner = Plan(-1, limits=(("RLIMIT_NOFILE", 40, 40), ("RLIMIT_CORE", 0, 0)))
    code = "import resource; said = resource.getrlimit(resource.RLIMIT_NOFILE)"
    assert said(code, outer, inner) == [30, 30]


@dataclass(frozen=True)
class Fault:
    """A plan that cannot be put up, and what is said of it."""

    plan: Plan
    words: tuple[str, ...]
    needs_namespaces: bool = False


FAULTS = {
    "a file that is not there": Fault(
        Plan(-1, namespaces=("user", "mnt"), root=Root((Bind("/no/such", "/no/such"),), (), ())),
        ("own root: ", "/no/such", "No such file"),
        needs_namespaces=True,
    ),
    "a link at the place of a bound file": Fault(
        Plan(-1, namespaces=("user", "mnt"), root=Root((Bind("/usr/lib", "/lib"),), (("/lib", "usr/lib"),), ())),
        ("own root: ", "File exists"),
        needs_namespaces=True,
    ),
    "a filter that is none": Fault(Plan(-1, bare=True, seccomp=b"\xff" * 8), ("seccomp: ", "Invalid argument")),
    "a folder that no right can be given to": Fault(
        Plan(-1, bare=True, landlock=(("/no/such", "read"),)), ("landlock: ", "/no/such")
    ),
    "a limit above its own": Fault(Plan(-1, limits=(("RLIMIT_NOFILE", 30, 20),)), ("limits: ",)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_process_whose_walls_cannot_be_put_up_says_why_and_ends(fault: str, request: pytest.FixtureRequest) -> None:
    """Its output begins with the wall's name; not a line of what was to be run is run."""
    each = FAULTS[fault]
    if each.needs_namespaces:
        request.getfixturevalue("host")
    done = started([each.plan], "said = 'I ran'")
    assert (done.returncode, done.stdout) == (FAILED, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(COMPLAINT + each.words[0])
    assert all(word in line for word in each.words)


def test_where_no_namespace_is_left_there_is_not_even_a_process(open_plan: Plan) -> None:
    """Whoever asks is told which wall it was."""
    done = started([open_plan, Plan(-1, namespaces=("user",))], "said = 'I ran'")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("worker.walls.WallError: namespaces: [Errno 28] clone: ")


@pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
def test_root_becomes_the_user_of_workers_who_sees_what_root_alone_could_walk_to(host: Host, agent: Path) -> None:
    """In a zygote and in the worker within, with no group of root's; what was lent is there, behind a locked folder."""
    agent.parent.parent.chmod(0o700)
    own = plans.folders(host, agent, Path("/unused"))
    outer = plans.zygote(host, installed(), agent.parent)
    inner = plans.worker(host, installed(), LIMITS, own)
    code = "said = [os.getresuid(), os.getresgid(), os.getgroups(), open('/agent/agent.py').read()]"
    assert said(code, outer, inner) == [[60900] * 3, [60900] * 3, [], "agent = 1\n"]


def test_only_root_can_become_another_user() -> None:
    """For anybody else the plan fails at once, by its name."""
    chain = [Plan(60900), Plan(60901)] if IS_ROOT else [Plan(60900)]
    code = "walls.settle(chain[-1]); said = 'I ran'"
    done = started(chain, code)
    assert (done.returncode, done.stdout) == (1, "")
    assert "WallError: user: " in done.stderr
