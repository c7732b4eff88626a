"""The keys of clients: the operator's own, made at first start, and those of `policies/security.yaml`."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from pathlib import Path

from gateway.errors import NoKey, StateError
from gateway.policy.access import Grant
from gateway.policy.documents import Key


def operator_key(path: Path) -> str:
    """Return the operator's key, made with mode 0600 where there is none."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        key = path.read_bytes().decode("ascii", "replace").strip()
        if len(key) < 20 or not key.isascii():
            raise StateError(f"{path} holds no key; remove the file and start again to have one made") from None
        return key
    key = f"agw-{secrets.token_urlsafe(32)}"
    try:
        with os.fdopen(fd, "w") as file:
            file.write(key + "\n")
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StateError(f"{path} cannot be written: {error.strerror}") from None
    return key


class Keys:
    """Finds what a key opens; holds hashes only."""

    def __init__(self, operator: str, others: Iterable[Key], today: Callable[[], date] | None = None) -> None:
        self._today = today or (lambda: datetime.now(UTC).date())
        self._grants = [(_hash(operator), Grant("operator", agents=("*",), admin=True))]
        for each in others:
            grant = Grant(each.name, each.agents, each.deny, each.admin, each.expires)
            self._grants.append((each.sha256, grant))

    @property
    def for_others(self) -> bool:
        """Whether anyone but the operator has a key."""
        return len(self._grants) > 1

    def find(self, key: str | None) -> Grant:
        """Return what a key opens.

        Raises:
            NoKey: if there is none, or nobody has it, or its time is over.
        """
        if not key:
            raise NoKey(
                "a key is needed: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`;"
                " the operator's own is in the file `key` of the state folder"
            )
        given, found = _hash(key), None
        for known, grant in self._grants:  # all of them, so that time tells nothing
            if hmac.compare_digest(given, known):
                found = grant
        if found is None or (found.expires and found.expires < self._today()):
            raise NoKey("this key is not known here, or its time is over")
        return found


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
