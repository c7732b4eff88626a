"""Agents that take too much, in the real gateway: each is held, and whoever asked is told which limit it was."""

from collections.abc import AsyncIterator

import pytest

from tests.attacks import rows
from tests.attacks.attempts import attack_runner
from tests.attacks.kinds import DEPENDS, IS_ROOT, OTHERS, SELF, Kind, known_open_of_limits, params
from tests.attacks.raid import LIMITS, Raid, content, raided
from tests.integration.upstream import ScriptedUpstream

pytestmark = pytest.mark.slow
MEMORY = [name for name in attack_runner.EXPENSIVE if name.startswith("take_")]
OTHER_LIMITS = [name for name in attack_runner.EXPENSIVE if name not in MEMORY]
OUT_OF_MEMORY = f"out of memory at {LIMITS['memory_mb']} MB"
TOLD = (OUT_OF_MEMORY, f"more than {LIMITS['processes']} processes", f"more than {LIMITS['scratch_mb']} MB")
GATEWAY_GROWS = 60 << 20
STAYS = """
import os, time
for number in range(8):
    with open(os.environ["TMPDIR"] + f"/{number}", "wb") as file:
        file.write(bytes(4 << 20))
time.sleep(30)
"""
HOSTS = (SELF[0], SELF[2], OTHERS[0], OTHERS[2])


TAKERS = ("taker-a", "taker-b", "taker-c", "taker-d")
"""Agents that take turns, for a worker that has been ended twice has to pause."""


def agent(name: str) -> str:
    """Return the agent that makes an attempt."""
    return TAKERS[attack_runner.EXPENSIVE.index(name) % len(TAKERS)]


@pytest.fixture(scope="module", params=params(*HOSTS))
async def raid(request: pytest.FixtureRequest, upstream: ScriptedUpstream) -> AsyncIterator[Raid]:
    """A gateway on each kind of host, with agents that take turns at the attempts."""
    kind: Kind = request.param
    if kind.mounts and not IS_ROOT:
        pytest.skip("needs root")
    async with raided(kind, upstream, (*TAKERS, "fills")) as started:
        yield started


@pytest.fixture(scope="module")
async def outcomes(raid: Raid) -> dict[str, str]:
    """The outcome of each attempt: as its tool says, or what the client is told where the worker was ended."""
    before = most = raid.gateway.rss()
    found: dict[str, str] = {}
    for name in attack_runner.EXPENSIVE:
        found[name] = await outcome(raid, name)
        most = max(most, raid.gateway.rss())
    found["the gateway grew by"] = str(most - before)
    rows.note(raid.kind.name, {name: found[name] for name in attack_runner.EXPENSIVE}, known_open_of_limits(raid.kind))
    return found


async def outcome(raid: Raid, name: str) -> str:
    """Make one attempt, in a worker that has done nothing else or was replaced."""
    await raid.ready(agent(name))
    arguments = {"names": [name], "target": raid.victims.to_json(), "way": "here"}
    answer = await raid.call(agent(name), "attack", **arguments)
    if answer.status_code == 200:
        return str(content(answer)[name])
    error = answer.json()["error"]
    held = error["code"] == "worker_lost" and any(each in error["message"] for each in TOLD)
    return f"{'held' if held else 'error'}: {error['message']}"


def test_no_more_is_to_be_had(raid: Raid, outcomes: dict[str, str]) -> None:
    """Every attempt is refused, or ends its worker with the name of the limit."""
    known = known_open_of_limits(raid.kind)
    wrong = {name: outcomes[name] for name in attack_runner.EXPENSIVE if not outcomes[name].startswith("held: ")}
    assert {name: text for name, text in wrong.items() if name not in known} == {}


def test_what_is_known_to_be_open_is_open(raid: Raid, outcomes: dict[str, str]) -> None:
    """A row that is held after all is one to strike out."""
    known = known_open_of_limits(raid.kind).keys() - DEPENDS
    assert {name for name in known if not outcomes[name].startswith("open: ")} == set()


async def test_out_of_memory_is_told_apart(raid: Raid, outcomes: dict[str, str]) -> None:
    """The log and `/health` name the limit too: one is told it while the other has not replaced the worker."""
    lost = [name for name in MEMORY if OUT_OF_MEMORY in outcomes[name]]
    assert {"take_shared_memory", "take_memory_in_four"} <= {*lost}  # one fast process may meet its RLIMIT_DATA first
    for name in lost:
        line = await raid.gateway.logged("worker.end", agent=f"default/{agent(name)}")
        assert (line["kind"], line["reason"]) == ("limit", OUT_OF_MEMORY)


async def test_others_took_no_harm(raid: Raid, outcomes: dict[str, str]) -> None:
    """The gateway did not grow, another agent's worker is the first one, and a worker that was ended is replaced."""
    assert int(outcomes["the gateway grew by"]) < GATEWAY_GROWS
    assert (await raid.gateway.status("default/other"))["generation"] == 1
    for each in TAKERS:
        await raid.ready(each)
        assert await raid.run("said = 1", each) == 1
    assert raid.gateway.errors == []


async def test_scratch_that_stays_too_full_ends_the_worker(raid: Raid) -> None:
    """In a file system of its own there is no room; on the disk it is found within seconds."""
    answer = await raid.call("fills", "run", code=STAYS)
    if raid.kind.namespaces:
        assert "No space left" in answer.json()["choices"][0]["message"]["content"]
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_lost")
        assert "MB in its scratch folder" in answer.json()["error"]["message"]
