"""Promises of the records of what went wrong."""

import itertools

from gateway.observe import diagnostics
from gateway.observe.diagnostics import Diagnostic, Diagnostics


def records() -> tuple[Diagnostics, list[str]]:
    """Records with a clock that counts, and the stages that were counted."""
    counted: list[str] = []
    return Diagnostics(counted.append, clock=itertools.count(1.0).__next__), counted


def test_the_same_fault_again_is_counted() -> None:
    """One record a fault, with when it was first and last seen."""
    kept, counted = records()
    for traceback in ("old", "new"):
        kept.report(Diagnostic("import", "no module", agent="a/b", traceback=traceback))
    (record,) = kept
    assert (record.count, record.first_seen, record.last_seen, record.traceback) == (2, 1.0, 2.0, "new")
    assert counted == ["import", "import"]


def test_faults_of_other_agents_stages_or_words_are_others() -> None:
    """Only what is the same in all three is the same fault."""
    kept, _ = records()
    kept.report(Diagnostic("import", "x", agent="a/b"))
    kept.report(Diagnostic("import", "x", agent="a/c"))
    kept.report(Diagnostic("runtime", "x", agent="a/b"))
    kept.report(Diagnostic("import", "y", agent="a/b"))
    assert [record.count for record in kept] == [1] * 4


def test_records_are_bounded_and_the_longest_unseen_go_first() -> None:
    """A fault that still happens stays, however many others come."""
    kept, _ = records()
    kept.report(Diagnostic("import", "again"))
    for number in range(diagnostics.LIMIT + 50):
        kept.report(Diagnostic("runtime", str(number)))
        if number % 100 == 0:
            kept.report(Diagnostic("import", "again"))
    messages = [record.message for record in kept]
    assert len(messages) == diagnostics.LIMIT
    assert "again" in messages
    assert "0" not in messages


def test_what_was_resolved_is_gone() -> None:
    """An agent that is right at a stage has no records of it, and others keep theirs."""
    kept, _ = records()
    for agent, stage in itertools.product(("a/b", "a/c"), ("import", "runtime")):
        kept.report(Diagnostic(stage, "x", agent=agent))  # type: ignore[arg-type]  # product loses the literal
    kept.resolve("a/b", "import")
    assert [(record.agent, record.stage) for record in kept] == [
        ("a/b", "runtime"),
        ("a/c", "import"),
        ("a/c", "runtime"),
    ]


def test_a_record_shows_all_its_fields() -> None:
    """What an admin gets has what was reported."""
    kept, _ = records()
    kept.report(Diagnostic("policy", "x", path="p", remedy="r", severity="warning"))
    (record,) = kept
    shown = record.public()
    assert [shown[name] for name in ("stage", "message", "path", "remedy", "severity", "count")] == [
        "policy",
        "x",
        "p",
        "r",
        "warning",
        1,
    ]
