"""Promises of the look from outside: a process that stands as planned passes, and any other is refused by name."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import psutil
import pytest

from gateway.policy.agents import Limits
from gateway.runtime import inspection, plans
from gateway.runtime.host import installed, survey
from gateway.runtime.inspection import Mismatch, inspect
from gateway.runtime.plans import Folders, Host
from worker.plan import NAMESPACES, Bind, Memory, Plan, Root
from worker.warden import children

PROGRAM = """
import ctypes, json, os, signal, sys, threading
from worker import kernel, walls
from worker.plan import plan_of

plan = plan_of(json.loads(sys.argv[1]))
if guard := walls.enter(plan, keep=()):
    os.waitpid(guard, 0)
    sys.exit()

def fork():
    if os.fork():
        return False
    signal.pause()

def told():
    print("it stands", flush=True)
    signal.pause()

SHAPES = {
    "worker": lambda: os.fork() or told(),
    "no worker": lambda: told(),
    "two workers": lambda: [fork(), os.fork() or told()],
    "a child": lambda: os.fork() or [fork(), told()],
    "renamed": lambda: os.fork() or [kernel.prctl(15, ctypes.addressof(NAME)), told()],
    "a thread that no filter is over": lambda: os.fork() or [
        threading.Thread(target=signal.pause).start(), kernel.load_filter(bytes.fromhex(sys.argv[3])), told()
    ],
}
NAME = ctypes.create_string_buffer(b"a\\x0b\\xff", 16)
SHAPES[sys.argv[2]]()
signal.pause()
"""
"""Stands as a guard with a worker, or in another shape, until it is killed."""
LIMITS = Limits(memory_mb=200, processes=20, open_files=40, file_mb=2, scratch_mb=3, cpu_seconds=7)
USER = os.geteuid()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """What this host gives; without namespaces there is nothing to be tried here."""
    found = anyio.run(partial(survey, installed(), tmp_path_factory.mktemp("survey"), off=False))
    if not found.namespaces:
        pytest.skip(f"this host gives no namespaces: {dict(found.missing)}")
    return found


@pytest.fixture(scope="module")
def plan(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The walls of a worker that is not within a zygote."""
    agent = tmp_path_factory.mktemp("agent")
    (agent / "data").mkdir()
    return plans.worker(host, installed(), LIMITS, Folders(str(agent), "", "/agent", "/scratch"))


@contextmanager
def standing(plan: Plan, shape: str = "worker", filter_: bytes = b"") -> Iterator[int]:
    """Put processes up by a plan, and yield the one that guards."""
    arguments = [json.dumps(plan.data()), shape, filter_.hex()]
    command = [sys.executable, "-I", "-B", "-X", "utf8", "-c", PROGRAM, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        assert process.stdout
        assert process.stdout.readline() == "it stands\n"
        try:
            yield children(process.pid)[0]
        finally:
            for each in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    each.kill()


def refused(planned: Plan, actual: Plan, shape: str = "worker", filter_: bytes = b"") -> str:
    """Why a process that was put up by one plan is refused by another."""
    with standing(actual, shape, filter_) as guard, pytest.raises(Mismatch) as caught:
        inspect(guard, planned, USER)
    return str(caught.value)


def with_memory(plan: Plan, *more: Memory) -> Plan:
    """The plan with folders to write to that it should not have."""
    assert plan.root
    return replace(plan, root=replace(plan.root, memory=(*plan.root.memory, *more)))


def test_a_process_that_stands_as_planned_passes(plan: Plan) -> None:
    """What comes back is the pid of the worker, the child of the guard."""
    with standing(plan) as guard:
        assert [inspect(guard, plan, USER)] == children(guard)


def test_a_process_without_namespaces_that_stands_as_planned_passes() -> None:
    """Where there is only what needs none."""
    bare = Plan(-1, limits=plans._limits(LIMITS, 1000), bare=True)
    with standing(bare) as guard:
        assert [inspect(guard, bare, USER)] == children(guard)


def test_whatever_a_process_calls_itself_it_passes(plan: Plan) -> None:
    """Its name is its own, and may be no text at all."""
    with standing(plan, "renamed") as guard:
        assert [inspect(guard, plan, USER)] == children(guard)


def test_a_process_without_the_filter_is_refused(plan: Plan) -> None:
    """So is one where a single thread is without it."""
    without = replace(plan, seccomp=b"")
    assert refused(plan, without) == "no filter of system calls is over it"
    assert refused(plan, without, "a thread that no filter is over", plan.seccomp) == (
        "no filter of system calls is over it"
    )


def test_a_process_that_kept_rights_is_refused(plan: Plan) -> None:
    """Capabilities in its own namespace, or the way to gain some by a program."""
    assert refused(plan, replace(plan, bare=False, seccomp=b"")).startswith("it has capabilities: Cap")
    whole = replace(Plan(-1, limits=plan.limits), bare=True)
    with standing(replace(whole, bare=False)) as guard, pytest.raises(Mismatch) as caught:
        inspect(guard, whole, USER)
    assert str(caught.value).startswith("it has capabilities" if USER == 0 else "it can gain privileges")


def test_a_process_of_another_user_is_refused(plan: Plan) -> None:
    """Root's process where the user of workers was meant, or any other."""
    with standing(plan) as guard, pytest.raises(Mismatch, match=f"its user is {USER}, not {USER + 1}"):
        inspect(guard, plan, USER + 1)


@pytest.mark.parametrize("missing", NAMESPACES)
def test_a_process_that_shares_a_namespace_with_the_gateway_is_refused(plan: Plan, missing: str) -> None:
    """Each of the seven kinds, by its name."""
    if missing == "user" and USER:
        pytest.skip("only root can have the other namespaces without one for users")
    fewer = tuple(each for each in NAMESPACES if each != missing)
    actual = replace(plan, namespaces=fewer, root=None, landlock=())  # a root would be made outside
    assert refused(plan, actual) == f"it shares the namespace {missing} with the gateway"


@pytest.mark.parametrize("name", inspection.LIMITS)
def test_a_process_without_a_limit_is_refused(plan: Plan, name: str) -> None:
    """The kernel's own name for it is told, what it is and what it was to be; a plan has no other limits."""
    assert {each for each, _, _ in plan.limits} == set(inspection.LIMITS)
    looser = tuple((each, soft + 7 * (each == name), hard + 7 * (each == name)) for each, soft, hard in plan.limits)
    [(_, soft, hard)] = [each for each in plan.limits if each[0] == name]
    reason = refused(plan, replace(plan, limits=looser))
    kernels = inspection.LIMITS[name]
    assert reason == f"its limit {kernels!r} is {soft + 7} to {hard + 7}, not {soft} to {hard}"


def test_a_process_in_the_root_of_the_host_is_refused(plan: Plan) -> None:
    """The first mount that was not planned is named."""
    assert refused(plan, replace(plan, root=None, landlock=())).endswith(("is mounted", "can be written to"))


def test_a_process_that_sees_more_than_planned_is_refused(plan: Plan, tmp_path: Path) -> None:
    """A folder of the host, read-only as it may be, or memory to write to."""
    assert plan.root
    more = replace(plan.root, binds=(*plan.root.binds, Bind(str(tmp_path), "/extra")))
    assert refused(plan, replace(plan, root=more)) == "/extra is mounted"
    assert refused(plan, with_memory(plan, Memory("/elsewhere", 1))) == "/elsewhere is mounted"


def test_a_process_that_can_write_to_what_is_planned_to_be_read_is_refused(plan: Plan) -> None:
    """Memory over a part of its agent's folder."""
    assert refused(plan, with_memory(plan, Memory("/agent/data", 1))) == "/agent/data can be written to"


def test_a_process_whose_scratch_is_not_memory_is_refused(plan: Plan) -> None:
    """What it may write has its bounds from the mount; without it there are none."""
    assert plan.root
    fewer = tuple(each for each in plan.root.memory if each.path != "/scratch")
    actual = replace(plan, root=replace(plan.root, memory=fewer), landlock=())
    assert refused(plan, actual) == "/scratch is not mounted"


def test_a_process_in_other_company_is_refused(plan: Plan) -> None:
    """One guard, one worker below it, and nothing below that."""
    assert refused(plan, plan, "no worker") == "0 processes where one was started"
    assert refused(plan, plan, "two workers") == "2 processes where one was started"
    assert refused(plan, plan, "a child") == "it has started processes already"


def test_a_process_that_is_gone_is_refused(plan: Plan) -> None:
    """There is nothing to look at."""
    with standing(plan) as guard:
        pass
    with pytest.raises(Mismatch, match="0 processes"):
        inspect(guard, plan, USER)


STATUS = {
    "Name": "python",
    "Uid": "60900\t60900\t60900\t60900",
    **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0000000000000000"),
    "NoNewPrivs": "1",
    "Seccomp": "2",
    "Seccomp_filters": "1",
}
WALLED = Plan(60900, namespaces=("user",), bare=True, seccomp=b"filter")


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("Uid", "0\t60900\t60900\t60900", "its user is 0, not 60900"),
        ("Uid", "60900\t60900\t0\t60900", "its user is 60900, not 60900"),
        *((name, "0000000000000001", f"{name} is 0000000000000001") for name in STATUS if name.startswith("Cap")),
        ("NoNewPrivs", "0", "it can gain privileges"),
        ("Seccomp", "1", "no filter"),
        ("Seccomp_filters", "0", "no filter"),
    ],
)
def test_one_wrong_line_of_its_status_is_enough(field: str, text: str, words: str) -> None:
    """Each of four uids, of five sets of capabilities, and the rest."""

    def check(**other: str) -> None:
        inspection._check_rights(
            "".join(f"{name}:\t{said}\n" for name, said in (STATUS | other).items()), WALLED, 60900
        )

    check()
    with pytest.raises(Mismatch, match=words):
        check(**{field: text})


@pytest.mark.parametrize(
    ("soft", "hard", "fits"),
    [("7", "12", True), ("5", "5", True), ("8", "12", False), ("7", "13", False), ("7", "unlimited", False)],
)
def test_a_limit_may_be_lower_than_planned_and_not_higher(soft: str, hard: str, fits: bool) -> None:
    """The host may have its own; unlimited is more than any number."""
    head = f"{'Limit':<26}Soft Limit           Hard Limit           Units"
    text = f"{head}\n{'Max cpu time':<26}{soft:<21}{hard:<21}seconds\n"
    plan = Plan(-1, limits=(("RLIMIT_CPU", 7, 12),))
    if fits:
        inspection._check_limits(text, plan)
    else:
        with pytest.raises(Mismatch, match=f"'Max cpu time' is {soft} to {hard}, not 7 to 12"):
            inspection._check_limits(text, plan)


ROOT = Root((Bind("/o", "/a b"), Bind("/o", "/é\t\\n")), (), (Memory("/scratch", 1), Memory("/hidden", 0)), "pids")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/ ro,nosuid", ""),
        ("/proc rw,nosuid", ""),
        ("/a\\040b ro,nosuid", ""),
        ("/é\\011\\134n ro,nosuid", ""),
        ("/a\\040b/below ro,nosuid", ""),
        ("/hidden ro,nosuid", ""),
        ("/a\\040b rw,nosuid", "/a b can be written to"),
        ("/a\\040b/below rw,nosuid", "/a b/below can be written to"),
        ("/hidden rw,nosuid", "/hidden can be written to"),
        ("/ rw,nosuid", "/ can be written to"),
        ("/scratch/below rw,nosuid", "/scratch/below can be written to"),
        ("/a\\040bc ro,nosuid", "/a bc is mounted"),
        ("/a ro,nosuid", "/a is mounted"),
        ("/home ro,nosuid", "/home is mounted"),
        ("/a\\040b ro,nodev", "/a b may hold setuid programs"),
        ("/proc rw", "/proc may hold setuid programs"),
    ],
)
def test_each_mount_is_held_against_the_plan(line: str, words: str) -> None:
    """By its path, in which the kernel writes spaces and the like in octal, and by its options."""
    lines = ["/scratch rw,nosuid", line]
    text = "".join("9 8 0:1 / {} {},relatime - tmpfs tmpfs rw\n".format(*each.split(" ")) for each in lines)
    if not words:
        inspection._check_mounts(text, ROOT)
        return
    with pytest.raises(Mismatch) as caught:
        inspection._check_mounts(text, ROOT)
    assert str(caught.value) == words
