"""Promises of the exception tree and of the table from failure to HTTP answer."""

import inspect
import re
from typing import Any

import pytest

from gateway import errors
from gateway.errors import ANSWERS, INTERNAL, GatewayError, StartError, answer_to


def tree_of(kind: type[GatewayError]) -> dict[str, Any]:
    """The classes below a class, by name."""
    return {each.__name__: tree_of(each) for each in kind.__subclasses__() if each.__module__ == errors.__name__}


def tree_drawn() -> dict[str, Any]:
    """The classes as the docstring draws them."""
    tree: dict[str, Any] = {}
    branches = [tree]
    for indent, name in re.findall(r"^([│ ]*)[├└]── (\w+)", inspect.getdoc(errors) or "", re.MULTILINE):
        depth = len(indent) // 4
        branches[depth + 1 :] = [branches[depth].setdefault(name, {})]
    return tree


def leaves(kind: type[GatewayError]) -> list[type[GatewayError]]:
    """The classes that have none below them."""
    below = [each for each in kind.__subclasses__() if each.__module__ == errors.__name__]
    return [leaf for each in below for leaf in leaves(each)] if below else [kind]


LEAVES = [kind for kind in leaves(GatewayError) if not issubclass(kind, StartError)]


def test_the_tree_is_as_drawn() -> None:
    """The picture at the top of the file shows every class where it is."""
    assert tree_drawn() == tree_of(GatewayError)


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_every_failure_of_a_request_has_an_answer(kind: type[GatewayError]) -> None:
    """Each class that can end a request has a row of its own."""
    assert answer_to(kind("x")) is ANSWERS[kind]


def test_the_table_has_no_other_rows() -> None:
    """Only leaves are answered, and what keeps the gateway from starting is not."""
    assert set(ANSWERS) == set(LEAVES)


@pytest.mark.parametrize("field", ["code", "event"])
def test_codes_and_events_are_unique(field: str) -> None:
    """A code, or a line in the log, names one failure."""
    values = [getattr(each, field) for each in (*ANSWERS.values(), INTERNAL)]
    assert len(set(values)) == len(values)


def test_every_answer_is_an_error() -> None:
    """Statuses are those of errors, and events have a part and a fact."""
    assert all(400 <= each.status <= 599 and re.fullmatch(r"[a-z]+\.[a-z_]+", each.event) for each in ANSWERS.values())


def test_a_stranger_is_a_bug() -> None:
    """An exception that is none of ours is answered as a fault of the gateway."""
    assert answer_to(ValueError("x")) is INTERNAL


def test_a_descendant_has_the_answer_of_its_ancestor() -> None:
    """A class made from one in the table needs no row."""

    class Special(errors.TooLarge):
        pass

    assert answer_to(Special("x")) is ANSWERS[errors.TooLarge]
