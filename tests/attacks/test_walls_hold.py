"""Agents that try, in the real gateway: what a tier promises to hold is held, and what it does not is named."""

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import psutil
import pytest

from tests.attacks import rows, stage
from tests.attacks.attempts import attack_runner
from tests.attacks.kinds import IS_ROOT, KINDS, UNWALLED, Kind, known_open, params
from tests.attacks.raid import Raid, raided
from tests.attacks.test_attempts_work import OF_INIT, cannot
from tests.integration.process import until
from tests.integration.upstream import ScriptedUpstream

CHEAP = [name for name in attack_runner.NAMES if name not in attack_runner.EXPENSIVE and name != "outlive"]
AIMS = ("victims", "real")
WAYS = ("here", "exec")
Outcomes = dict[tuple[str, str], dict[str, str]]


@pytest.fixture(scope="module", params=params(*KINDS))
async def raid(request: pytest.FixtureRequest, upstream: ScriptedUpstream) -> AsyncIterator[Raid]:
    """A gateway on each kind of host."""
    kind: Kind = request.param
    if kind.mounts and not IS_ROOT:
        pytest.skip("needs root")
    async with raided(kind, upstream) as started:
        yield started


@pytest.fixture(scope="module")
async def outcomes(raid: Raid) -> Outcomes:
    """All cheap attempts, on stand-ins and on the gateway itself, in the worker and in a child that it execs."""
    return await attempted(raid, CHEAP)


async def attempted(raid: Raid, names: list[str]) -> Outcomes:
    """Make attempts in every way; a part at a time, as a tool's result has its limits."""
    found: Outcomes = {}
    targets = {"victims": raid.victims, "real": await raid.real()}
    for aim in AIMS:
        for way in WAYS:
            found[aim, way] = {}
            for start in range(0, len(names), 50):
                found[aim, way] |= await raid.attack(names[start : start + 50], targets[aim], way)
        rows.note(raid.kind.name, found[aim, "here"], known_open(raid.kind))
    return found


def not_held(outcomes: dict[str, str]) -> dict[str, str]:
    """Return what was not held, be it open or an error."""
    return {name: text for name, text in outcomes.items() if not text.startswith("held: ")}


@pytest.mark.parametrize("aim", AIMS)
def test_what_is_promised_is_held(raid: Raid, outcomes: Outcomes, aim: str) -> None:
    """Nothing is open, nor goes wrong, but what is known to be open on such a host."""
    known = known_open(raid.kind)
    assert {name: text for name, text in not_held(outcomes[aim, "here"]).items() if name not in known} == {}


@pytest.mark.parametrize("aim", AIMS)
def test_what_is_known_to_be_open_is_open(raid: Raid, outcomes: Outcomes, aim: str) -> None:
    """A row that is held after all is one to strike out."""
    known = known_open(raid.kind)
    assert {name for name in known if not outcomes[aim, "here"][name].startswith("open: ")} == set()


@pytest.mark.parametrize("aim", AIMS)
def test_a_child_that_is_executed_gets_no_further(outcomes: Outcomes, aim: str) -> None:
    """Another program has the same walls around it."""
    assert not_held(outcomes[aim, "exec"]).keys() <= not_held(outcomes[aim, "here"]).keys()
    assert [text for text in outcomes[aim, "exec"].values() if text.startswith("error: ")] == []


async def test_the_tier_is_told(raid: Raid) -> None:
    """By `/health`, in the whole and for each agent, with the names of missing walls."""
    async with raid.gateway.http() as client:
        health = (await client.get("/health")).json()
    walls = health["walls"]
    assert (walls["tier"], {*walls["missing"]}) == (raid.kind.tier, {*raid.kind.missing})
    assert {each["walls"] for each in health["agents"]} == {raid.kind.tier}


async def test_proc_is_a_workers_own_or_none(raid: Raid) -> None:
    """Where /proc is masked, no other can be mounted: then a worker has none."""
    there = await raid.run("import os\nsaid = os.path.exists('/proc/self/status')")
    assert there == ("--masked-proc" not in raid.kind.options)


async def test_nobody_else_took_harm(raid: Raid, outcomes: Outcomes) -> None:
    """The victims live and listen, the gateway serves the other agent, and found no fault of its own."""
    assert outcomes
    assert stage.still_answers(raid.victims)
    assert (await raid.gateway.status("default/other"))["generation"] == 1
    assert (await raid.gateway.status("default/attacker"))["generation"] == 1
    assert [line for line in raid.gateway.log if line["event"] == "gateway.bug"] == []
    assert raid.gateway.errors == []


async def test_what_means_to_outlive_a_worker_does_not(raid: Raid, outcomes: Outcomes) -> None:
    """A process in a session of its own, twice forked, ends with the worker: seen from outside."""
    assert outcomes
    mark = f"mark-{os.urandom(4).hex()}"
    said = await raid.attack(["outlive"], replace(raid.victims, mark=mark))
    assert said["outlive"].startswith("open: ")
    await until(lambda: named(mark) == 1, 5)
    os.kill((await raid.gateway.status("default/attacker"))["pid"], signal.SIGKILL)
    await until(lambda: named(mark) == 0, 10)
    rows.note(raid.kind.name, {"outlive": "held: it ended with the worker"}, {})


def named(name: str) -> int:
    """Count the processes of a name."""
    return sum(process.info["name"] == name for process in psutil.process_iter(["name"]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", UNWALLED, ids=lambda kind: kind.name)
async def test_without_walls_it_is_open(kind: Kind, upstream: ScriptedUpstream) -> None:
    """The second control: in the same gateway, but for its walls, the same attempts work."""
    if kind.mounts and not IS_ROOT:
        pytest.skip("needs root")
    user = "root" if kind.uid == 0 else "self"
    expected = {*cannot(user), "inherited_descriptors"}  # what a worker inherits is closed, walls or not
    names = [name for name in CHEAP if name not in {*OF_INIT, *expected}]  # the first process is the host's here
    async with raided(kind, upstream) as raid:
        found = await attempted(raid, names)
        assert (await raid.gateway.status("default/attacker"))["walls"] == "off"
        assert "GATEWAY_SANDBOX is off" in "\n".join(str(line) for line in raid.gateway.log)
        assert stage.still_answers(raid.victims)
    wrong = {
        key: {name: text for name, text in each.items() if not text.startswith("open: ")} for key, each in found.items()
    }
    assert wrong == {key: {} for key in found}
