"""The kinds of hosts that are attacked, and what is known to stand open on each: a row for each, with its reason."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

NOBODY = 65534
IS_ROOT = os.getuid() == 0
AS_NOBODY = ("--lend", f"--user={NOBODY}")
OFF = {"GATEWAY_SANDBOX": "off"}


@dataclass(frozen=True)
class Kind:
    """A host of a kind."""

    name: str
    options: tuple[str, ...] = ()
    tier: str = "full"
    env: Mapping[str, str] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    """Of `policies/agents.yaml`, beside the limits."""
    missing: tuple[str, ...] = ()
    """The walls that the gateway must name as missing."""

    @property
    def uid(self) -> int:
        """Whom the gateway runs as."""
        return NOBODY if f"--user={NOBODY}" in self.options else os.getuid()

    @property
    def mounts(self) -> bool:
        """Whether it takes root to make it."""
        return bool({"--lend", "--masked-proc"} & {*self.options})

    @property
    def namespaces(self) -> bool:
        """Whether workers have namespaces of their own."""
        return self.tier != "off" and "namespaces" not in self.missing


LEND = ("--lend",) if IS_ROOT else ()
"""For workers of root, who are somebody else and must find the interpreter."""
PARTIAL = {"sandbox": "partial"}
SELF = (
    Kind("full"),
    Kind("full, /proc masked", (*LEND, "--masked-proc")),
    Kind("no-namespaces", (*LEND, "--no-namespaces"), "no-namespaces", missing=("namespaces",)),
    Kind("partial, no Landlock", (*LEND, "--no-landlock"), "partial", policy=PARTIAL, missing=("landlock",)),
)
"""As whoever runs the tests."""
OTHERS = (
    Kind("full, uid 65534", AS_NOBODY),
    Kind("full, /proc masked, uid 65534", (*AS_NOBODY, "--masked-proc")),
    Kind("no-namespaces, uid 65534", (*AS_NOBODY, "--no-namespaces"), "no-namespaces", missing=("namespaces",)),
    Kind(
        "partial, no Landlock, uid 65534",
        (*AS_NOBODY, "--no-landlock"),
        "partial",
        policy=PARTIAL,
        missing=("landlock",),
    ),
)
"""As an ordinary user, where the tests are run by root."""
KINDS = (*SELF, *OTHERS)
UNWALLED = (Kind("off", (), "off", env=OFF), Kind("off, uid 65534", AS_NOBODY, "off", env=OFF))


def params(*kinds: Kind) -> list[Any]:
    """Return kinds as parameters of a fixture; all but the first are slow."""
    return [pytest.param(each, id=each.name, marks=[] if each.name == "full" else pytest.mark.slow) for each in kinds]


OWN_GUARD = "its parent is its own guard, and ends with it"
SEEN = "Landlock does not hide that a path is there, and how large it is"


def known_open(kind: Kind) -> dict[str, str]:
    """Return what a host of a kind does not hold, and why;."""
    rows = {"signal_parent": OWN_GUARD}
    if kind.namespaces:
        return rows | {"signal_pid_1": "the first process of its namespace is its own guard"}
    return rows | {"stat_secret": SEEN, "stat_process": SEEN}


def known_open_of_limits(kind: Kind) -> dict[str, str]:
    """Return which limits a host of a kind does not hold at once."""
    if kind.namespaces:
        return {}
    return {
        "fill_scratch": "a folder on the disk is measured every two seconds, and what goes before is not seen",
        "raise_limits": "the kernel counts the processes of a user, not of a worker; the watch ends who has more",
        "make_many_files": "no file system of its own, so only sizes are measured",
    }


DEPENDS = {"raise_limits"}
"""What is held or not by how much others have of the same pool."""
