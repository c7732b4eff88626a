"""Promises of the plans of walls, as exact values, and of what a host says that it can give."""
# ruff: noqa: S108 - paths of a plan, at which nothing is made

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.agents import Limits
from gateway.runtime import plans
from gateway.runtime.plans import Folders, Host, Installed, Tier, folders
from worker.plan import NAMESPACES, Bind, Memory, Plan, Root, plan_of

FILTER = b"eight of"
ORDINARY = Host(namespaces=True, proc=True, landlock=7, seccomp=FILTER)
OF_ROOT = replace(ORDINARY, uid=60900)
WITHOUT = (("namespaces", "clone: no"),)
DISK = Installed(
    shown=("/usr/lib", "/env"),
    links=(("/lib", "usr/lib"), ("/bin/python", "python3")),
    hidden=("/env/gateway",),
    around=("/usr/lib", "/env/bin", "/env/worker"),
)
OWN = Folders("/snapshots/abc", "", "/agent", "/scratch")
OUTSIDE = Folders("/state/abc", "/state/scratch/x", "/state/abc", "/state/scratch/x")
LIMITS = Limits(memory_mb=100, processes=10, open_files=40, file_mb=3, scratch_mb=5, cpu_seconds=7)
AS_TOLD = (
    ("RLIMIT_AS", 64 << 30, 64 << 30),
    ("RLIMIT_CORE", 0, 0),
    ("RLIMIT_MEMLOCK", 0, 0),
    ("RLIMIT_MSGQUEUE", 0, 0),
    ("RLIMIT_CPU", 7, 12),
    ("RLIMIT_DATA", 328 << 20, 328 << 20),
    ("RLIMIT_FSIZE", 3 << 20, 3 << 20),
    ("RLIMIT_NOFILE", 40, 40),
    ("RLIMIT_NPROC", 10, 10),
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
SHOWN = (
    *(Bind("/usr/lib", "/usr/lib"), Bind("/env", "/env"), Bind("/dev/null", "/dev/null")),
    *(Bind("/dev/zero", "/dev/zero"), Bind("/dev/full", "/dev/full"), Bind("/dev/random", "/dev/random")),
    Bind("/dev/urandom", "/dev/urandom"),
)
ZYGOTES_ROOT = Root(
    binds=(*SHOWN, Bind("/state/snapshots/ns", "/snapshots")),
    links=(("/lib", "usr/lib"), ("/bin/python", "python3")),
    memory=(Memory("/env/gateway", 0), Memory("/mnt", 0)),
    proc="own",
)
WORKERS_ROOT = Root(
    binds=(*SHOWN, Bind("/snapshots/abc", "/agent")),
    links=(
        ("/lib", "usr/lib"),
        ("/bin/python", "python3"),
        ("/tmp", "/scratch"),
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ),
    memory=(Memory("/env/gateway", 0), Memory("/scratch", 5, 320), Memory("/dev/shm", 16)),
    proc="pids",
)
FULL = Plan(
    -1,
    namespaces=NAMESPACES,
    root=WORKERS_ROOT,
    limits=AS_TOLD,
    bare=True,
    landlock=(
        ("/", "read"),
        ("/scratch", "write"),
        ("/dev/shm", "write"),
        *((each, "device") for each in DEVICES),
    ),
    seccomp=FILTER,
)
BY_PATH = Plan(
    -1,
    limits=(*AS_TOLD[:-1], ("RLIMIT_NPROC", 33, 33)),
    bare=True,
    landlock=(
        ("/usr/lib", "read"),
        ("/env/bin", "read"),
        ("/env/worker", "read"),
        ("/state/abc", "read"),
        ("/state/scratch/x", "write"),
        *((each, "device") for each in DEVICES),
    ),
    seccomp=FILTER,
)


def zygote(host: Host) -> Plan:
    """The plan of the zygote of a namespace."""
    return plans.zygote(host, DISK, Path("/state/snapshots/ns"))


def test_a_zygote_of_an_ordinary_user_sees_the_libraries_and_the_snapshots_of_its_namespace() -> None:
    """All of it read-only, in every namespace, free to make further ones, with a folder to mount its workers on."""
    assert zygote(ORDINARY) == Plan(-1, None, NAMESPACES, ZYGOTES_ROOT, nested=True)


def test_a_zygote_of_root_is_lent_the_same_before_it_becomes_another_user() -> None:
    """What root can walk to and the user of workers cannot is mounted first; within that, it is bound again."""
    again = tuple(Bind(each.target, each.target) for each in ZYGOTES_ROOT.binds)
    expected = Plan(
        60900, replace(ZYGOTES_ROOT, proc="outer"), NAMESPACES, replace(ZYGOTES_ROOT, binds=again), nested=True
    )
    assert zygote(OF_ROOT) == expected


@pytest.mark.parametrize("host", [ORDINARY, OF_ROOT])
def test_a_zygote_that_cannot_have_a_proc_of_its_own_has_the_outer_one(host: Host) -> None:
    """It writes there who its workers are, so it needs one."""
    assert zygote(replace(host, proc=False)).root == replace(zygote(host).root or ZYGOTES_ROOT, proc="outer")


@pytest.mark.parametrize("uid", [-1, 60900])
def test_without_namespaces_a_zygote_has_no_walls_but_its_user(uid: int) -> None:
    """It forks, and holds nothing that a worker may not see; root still becomes the user of workers."""
    assert zygote(Host(uid, landlock=7, seccomp=FILTER, missing=WITHOUT)) == Plan(uid)


@pytest.mark.parametrize("host", [ORDINARY, OF_ROOT])
def test_a_worker_has_every_wall_where_the_host_gives_them(host: Host) -> None:
    """The same for root and an ordinary user, for its zygote is the user already; others do not count in its space."""
    assert plans.worker(host, DISK, LIMITS, OWN) == FULL
    assert plans.worker(host, DISK, LIMITS, OWN, others=1000) == FULL


@pytest.mark.parametrize("host", [ORDINARY, OF_ROOT])
def test_a_worker_that_cannot_have_a_proc_of_its_own_has_none(host: Host) -> None:
    """The one outside would show it the processes of others."""
    assert plans.worker(replace(host, proc=False), DISK, LIMITS, OWN).root == replace(WORKERS_ROOT, proc="")


def test_a_worker_without_namespaces_is_held_by_landlock_to_what_surrounds_the_gateway() -> None:
    """What is hidden cannot be masked there, so it is left out; the tasks that its user has already are added."""
    host = Host(landlock=7, seccomp=FILTER, missing=WITHOUT)
    assert plans.worker(host, DISK, LIMITS, OUTSIDE, others=23) == BY_PATH
    assert "/env" not in dict(BY_PATH.landlock)


@pytest.mark.parametrize(("host", "own", "whole"), [(ORDINARY, OWN, FULL), (Host(landlock=7), OUTSIDE, BY_PATH)])
def test_one_missing_wall_takes_no_other_with_it(host: Host, own: Folders, whole: Plan) -> None:
    """Without Landlock, or without a filter, all else stands as before."""
    both = replace(host, seccomp=FILTER)

    def plan(host: Host) -> Plan:
        return plans.worker(host, DISK, LIMITS, own, others=23)

    assert plan(replace(both, landlock=0)) == replace(whole, landlock=())
    assert plan(replace(both, seccomp=b"")) == replace(whole, seccomp=b"")


@pytest.mark.parametrize("own", [OWN, OUTSIDE])
def test_where_the_operator_wants_no_walls_there_are_none(own: Folders) -> None:
    """No limit and no user either."""
    assert zygote(Host(off=True)) == Plan(-1)
    assert plans.worker(Host(off=True), DISK, LIMITS, own) == Plan(-1)


def test_a_worker_with_its_own_root_finds_its_agent_and_scratch_at_fixed_places() -> None:
    """No path of the outside, with the name of a user or of a home in it, is told to it."""
    store, scratch = Path("/home/somebody/snapshots/ns/abc"), Path("/home/somebody/scratch/x")
    assert folders(ORDINARY, store, scratch) == Folders("/snapshots/abc", "", "/agent", "/scratch")


@pytest.mark.parametrize("host", [Host(), Host(off=True), Host(60900, landlock=7)])
def test_a_worker_in_the_hosts_root_finds_them_where_they_are(host: Host) -> None:
    """Its agent is the snapshot, not the folder in the home."""
    assert folders(host, Path("/state/abc"), Path("/state/scratch/x")) == OUTSIDE


TIERS: list[tuple[tuple[str, ...], Tier]] = [
    ((), "full"),
    (("namespaces",), "no-namespaces"),
    (("namespaces", "signals"), "partial"),
    (("landlock",), "partial"),
    (("seccomp",), "partial"),
    (("user",), "partial"),
    (("namespaces", "landlock", "signals", "seccomp", "user"), "partial"),
]


@pytest.mark.parametrize(("missing", "tier"), TIERS)
def test_the_tier_is_what_is_missing(missing: tuple[str, ...], tier: Tier) -> None:
    """Namespaces alone may be missing for the second; any other wall that is missing makes it partial."""
    assert Host(missing=tuple((name, "why") for name in missing)).tier == tier
    assert Host(missing=tuple((name, "why") for name in missing), off=True).tier == "off"


WANTED = ("full", "no-namespaces", "partial")


@pytest.mark.parametrize(("missing", "tier"), TIERS)
@pytest.mark.parametrize("wanted", WANTED)
def test_an_agent_is_refused_where_the_host_gives_less_than_policy_wants(
    missing: tuple[str, ...], tier: Tier, wanted: str
) -> None:
    """The refusal has what is wanted, what there is, and each missing wall with its reason; as root always a user."""
    why_not = Host(missing=tuple((name, f"{name} why") for name in missing)).why_not(wanted)
    weaker = {"full": WANTED[:0], "no-namespaces": WANTED[:1], "partial": WANTED[:2]}.get(tier, ())
    if wanted not in weaker and "user" not in missing:
        assert why_not == ""
        return
    walls = "; ".join(f"{name} ({name} why)" for name in missing)
    assert why_not == f"policy wants the tier {wanted} at least, this host gives {tier}; missing: {walls}"


@pytest.mark.parametrize("wanted", WANTED)
def test_where_walls_are_off_no_agent_is_refused(wanted: str) -> None:
    """The operator has said so, of all of them."""
    assert Host(off=True).why_not(wanted) == ""


paths = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
links = st.lists(st.tuples(paths, paths), max_size=3).map(tuple)
roots = st.builds(
    Root,
    binds=st.lists(st.builds(Bind, paths, paths), max_size=3).map(tuple),
    links=links,
    memory=st.lists(st.builds(Memory, paths, st.integers(0, 9), st.integers(1, 9)), max_size=3).map(tuple),
    proc=st.sampled_from(["", "pids", "own", "outer"]),
)
any_plan = st.builds(
    Plan,
    uid=st.integers(-1, 1 << 31),
    lent=st.none() | roots,
    namespaces=st.sets(st.sampled_from(NAMESPACES)).map(tuple),
    root=st.none() | roots,
    nested=st.booleans(),
    limits=st.lists(st.tuples(paths, st.integers(0), st.integers(0)), max_size=3).map(tuple),
    bare=st.booleans(),
    landlock=st.lists(st.tuples(paths, st.sampled_from(["read", "write", "device"])), max_size=3).map(tuple),
    seccomp=st.binary(),
)


@given(any_plan)
def test_a_plan_arrives_as_it_was_sent(plan: Plan) -> None:
    """Through JSON and back it is the same, filter and all."""
    assert plan_of(json.loads(json.dumps(plan.data()))) == plan
