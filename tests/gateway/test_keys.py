"""Promises of the keys of clients."""

import hashlib
import os
import stat
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import NoKey, StateError
from gateway.policy.documents import Key
from gateway.policy.keys import Keys, operator_key

OPERATOR = "agw-operator"


def short_id(value: object) -> str:
    """A value as the id of a test."""
    return repr(value)[:40]


def key(text: str, expires: date | None = None) -> Key:
    """A client's key in the document."""
    return Key(name="k", sha256=hashlib.sha256(text.encode()).hexdigest(), agents=("default/*",), expires=expires)


@pytest.fixture(params=[0o022, 0o000])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """A usual and a careless umask."""
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_the_operators_key_is_made_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    """The first start makes it with mode 0600, later ones read it."""
    made = operator_key(tmp_path / "key")
    assert made.startswith("agw-")
    assert len(made) > 40
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert operator_key(tmp_path / "key") == made


def test_two_homes_have_different_keys(tmp_path: Path) -> None:
    """A key is made of chance."""
    assert operator_key(tmp_path / "a") != operator_key(tmp_path / "b")


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"\xff" * 40], ids=short_id)
def test_a_file_without_a_key_keeps_the_gateway_from_starting(tmp_path: Path, content: bytes) -> None:
    """An empty or torn file is no key, and the remedy is told."""
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(StateError, match="remove the file"):
        operator_key(tmp_path / "key")


def test_the_operator_may_do_all() -> None:
    """The operator's own key is an admin's, for every agent."""
    grant = Keys(OPERATOR, []).find(OPERATOR)
    assert (grant.name, grant.agents, grant.deny, grant.admin) == ("operator", ("*",), (), True)


def test_a_clients_key_opens_what_the_document_says() -> None:
    """A key is known by its hash, and is no admin's unless it says so."""
    keys = Keys(OPERATOR, [key("one")])
    grant = keys.find("one")
    assert (grant.name, grant.agents, grant.admin) == ("k", ("default/*",), False)
    assert keys.for_others
    assert not Keys(OPERATOR, []).for_others


@given(st.none() | st.text())
def test_no_other_text_is_a_key(text: str | None) -> None:
    """What nobody has opens nothing; neither does a hash itself."""
    keys = Keys(OPERATOR, [key("one")])
    if text not in (OPERATOR, "one"):
        with pytest.raises(NoKey):
            keys.find(text)


@pytest.mark.parametrize("text", ["", "\udcff", "agw-\x00", hashlib.sha256(b"one").hexdigest()])
def test_odd_texts_are_no_keys(text: str) -> None:
    """Bytes that are no UTF-8, and the hash from the document, are refused like any other."""
    with pytest.raises(NoKey):
        Keys(OPERATOR, [key("one")]).find(text)


@pytest.mark.parametrize(("day", "open_"), [(30, True), (31, True), (1, False)])
def test_a_key_works_to_the_end_of_its_last_day(day: int, open_: bool) -> None:
    """`expires` is the last day on which it opens anything."""
    keys = Keys(OPERATOR, [key("one", date(2027, 1, 31))], today=lambda: date(2027, 1 if open_ else 2, day))
    if open_:
        assert keys.find("one").name == "k"
    else:
        with pytest.raises(NoKey, match="its time is over"):
            keys.find("one")
