"""Promises of how documents are read: what is filled in, and how mistakes are told."""

import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from gateway.errors import DocumentError
from gateway.policy import yaml_file
from gateway.policy.documents import Security, Upstreams


def short_id(value: object) -> str:
    """A value as the id of a test."""
    return repr(value)[:40]


class Free(BaseModel):
    """A document that may hold anything."""

    model_config = ConfigDict(extra="allow")
    text: str | None = "default"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The document."""
    return tmp_path / "doc.yaml"


def mistake(file: Path, content: str | bytes, model: type[BaseModel] = Upstreams, **environ: str) -> str:
    """What is said of a document with a mistake, without the folder."""
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DocumentError) as failure:
        yaml_file.read(file, model, environ)
    return failure.value.message.replace(str(file.parent) + "/", "")


DEMO = "upstreams:\n  demo: {kind: demo}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (DEMO + "defalt: demo\n", "doc.yaml:3: unknown key 'defalt'; did you mean 'default'?"),
        (DEMO + "zzz: 1\n", "doc.yaml:3: unknown key 'zzz'; known here: default, upstreams"),
        (
            "upstreams:\n  a:\n    kind: demo\n    modle: x\n",
            "doc.yaml:4: unknown key 'upstreams.a.modle'; did you mean 'model'?",
        ),
        (
            "upstreams:\n  timeouts:\n    kind: demo\n    modle: x\n",
            "doc.yaml:4: unknown key 'upstreams.timeouts.modle'; did you mean 'model'?",
        ),
        (
            "upstreams:\n  a:\n    kind: demo\n    timeouts:\n      conect: 1\n",
            "doc.yaml:5: unknown key 'upstreams.a.timeouts.conect'; did you mean 'connect'?",
        ),
        ("upstreams:\n  a:\n    kind: [x]\n", "doc.yaml:3: upstreams.a.kind: input should be 'openai' or 'demo'"),
        ("upstreams:\n  a:\n    base_url: x\n", "doc.yaml:3: upstreams.a.base_url: it must be an address like"),
        ("upstreams:\n  a:\n    model: x\n", "doc.yaml:2: upstreams.a: base_url is missing"),
        ("\ndefault: auto\n", "doc.yaml:1: upstreams: field required"),
        ("", "doc.yaml:1: upstreams: field required"),
        ("- a\n", "doc.yaml:1: the document: input should be"),
        ("5", "doc.yaml:1: the document: input should be"),
        (b"a: b\nc: \xff\n", "doc.yaml:2: not UTF-8; save the file as UTF-8"),
        ("a: b\n c: d\n", "doc.yaml:2: not YAML: "),
        ("a: [b\n", "doc.yaml:2: not YAML: "),
        ("\t- a", "doc.yaml:1: not YAML: "),
        ("default: auto\ndefault: demo\n", "doc.yaml:2: a key stands twice"),
        ("a: *nobody\n", "doc.yaml:1: not YAML: found undefined alias"),
        ("a: 1\n---\nb: 2\n", "doc.yaml:"),
        ("a: 2027-13-45\n", "doc.yaml:"),
        ("a: \x00\n", "doc.yaml"),
        ("a: !!int x\n", "doc.yaml"),
        ("a: " + "x" * yaml_file.LIMIT, "doc.yaml: 1048579 bytes; a document has at most 1048576"),
        ("[" * 200 + "]" * 200, "doc.yaml"),
        ("[" * 20_000, "doc.yaml"),
        ("a: &a [*a]\n", "doc.yaml:"),
    ],
    ids=short_id,
)
def test_a_mistake_is_told_with_file_line_and_remedy(file: Path, content: str | bytes, message: str) -> None:
    """Whoever wrote the file can go to the line and knows what would be right."""
    assert mistake(file, content).startswith(message)


def test_all_mistakes_are_told_at_once(file: Path) -> None:
    """Two mistakes are two lines."""
    said = mistake(file, "keys:\n  - {name: a, sha: b}\n", Security)
    assert [line.partition(" ")[0] for line in said.splitlines()] == ["doc.yaml:2:", "doc.yaml:2:"]


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A missing file, or a folder in its place, is a DocumentError."""
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(DocumentError, match="cannot be read"):
            yaml_file.read(path, Upstreams, {})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "one"),
        ("${EMPTY}", None),
        ("${NONE}", None),
        ("x-${A}-${B}", "x-one-two"),
        ("x${EMPTY}", "x"),
        ("$A", "$A"),
        ("${A", "${A"),
        ("${}", "${}"),
        ("${A-b}", "${A-b}"),
        ("$${A}", "$one"),
    ],
)
def test_references_to_the_environment_are_filled_in(file: Path, text: str, value: str | None) -> None:
    """`${NAME}` alone may be absent; all that is no reference stays as it is."""
    file.write_text(f'text: "{text}"\n')
    environ = {"A": "one", "B": "two", "EMPTY": ""}
    assert yaml_file.read(file, Free, environ).text == value


def test_what_was_filled_in_is_not_filled_again(file: Path) -> None:
    """A variable that holds a reference is only text."""
    file.write_text('text: "${A} "\n')
    assert yaml_file.read(file, Free, {"A": "${B}", "B": "no"}).text == "${B} "


def test_a_reference_within_a_text_must_be_set(file: Path) -> None:
    """Half an address would be worse than none, so the variable is named."""
    said = mistake(file, 'a: 1\ntext: "Bearer ${TOKEN} ${A} ${OTHER}"\n', Free, A="1")
    assert said == "doc.yaml:2: set OTHER, TOKEN in the gateway's environment"


def test_a_value_that_must_be_there_names_its_variable(file: Path) -> None:
    """A required value whose variable is not set says which one."""
    said = mistake(file, 'upstreams:\n  a:\n    base_url: "${URL}"\n')
    assert said == "doc.yaml:3: upstreams.a.base_url: set URL in the gateway's environment"


def test_an_empty_document_is_all_defaults(file: Path) -> None:
    """A file of comments says nothing."""
    file.write_text("# nothing yet\n")
    assert yaml_file.read(file, Security, {}) == Security()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


def test_aliases_that_unfold_without_end_are_refused_quickly(file: Path) -> None:
    """A few hundred bytes cannot take the gateway's memory or time."""
    file.write_text(BOMB)
    begun = time.process_time()
    with pytest.raises(DocumentError, match="levels or"):
        yaml_file.read(file, Free, {})
    assert time.process_time() - begun < 3


SECRET = "sk-very-secret"


@pytest.mark.parametrize(
    "content",
    [
        'upstreams:\n  a: {base_url: "http://x", api_key: ["${KEY}"]}\n',
        'upstreams:\n  a: {base_url: "http://x", api_key: {k: "${KEY}"}}\n',
        'upstreams:\n  a: {base_url: "http://x", api_kye: "${KEY}"}\n',
        'upstreams:\n  a: {base_url: "${KEY}"}\n',
        'upstreams:\n  a: {base_url: "ftp://me:${KEY}@x"}\n',
        'upstreams:\n  a: {kind: "${KEY}"}\n',
        'upstreams:\n  a: {kind: demo, api: "${KEY}"}\n',
        'upstreams:\n  a: {kind: demo, timeouts: {connect: "${KEY}"}}\n',
        'upstreams:\n  a: "${KEY}"\n',
        'default: "${KEY}"\nupstreams:\n  a: {kind: demo}\n',
        f"upstreams:\n  a:\n    kind: demo\n    api_key: {SECRET}\n    api_key: {SECRET}2\n",
        f"upstreams:\n  a:\n    api_key: {SECRET}: x\n",
        f'upstreams:\n  a:\n    api_key: "{SECRET}\n',
    ],
)
def test_no_mistake_shows_a_secret(file: Path, content: str) -> None:
    """A value that came from the environment, or stands at a key, is in no message."""
    assert SECRET not in mistake(file, content, KEY=SECRET)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text("ab:-[]{}&*!|>?,#'\"%@` \n\t0${}<.~", max_size=40))
@example("? [a]\n: b\n")
@example("{[a]: b}")
@example("<<: 5")
@example("<<: [1]")
@example("a: !!set {b}")
@example("a: !!binary '*'")
@example("!!float x")
@example("%YAML 9.9\n---\na")
@example("a: 1e999999")
@example("a: 0x")
@example("a: !!timestamp x")
@example("a: !!bool x")
def test_no_text_raises_anything_but_a_document_error(file: Path, content: str) -> None:
    """Whatever stands in the file, it is read or it is a DocumentError."""
    file.write_text(content)
    for model in (Free, Upstreams, Security):
        with suppress(DocumentError):
            assert isinstance(yaml_file.read(file, model, {}), model)


def test_a_key_in_a_list_is_met_with_what_the_list_may_hold(tmp_path: Path) -> None:
    """The word that was meant is found in the items of a list, too."""
    path = tmp_path / "security.yaml"
    path.write_text(f'keys:\n  - name: a\n    sha256: "{"0" * 64}"\n    agent: ["*"]\n')
    with pytest.raises(DocumentError, match=r"security.yaml:4: unknown key 'keys.0.agent'; did you mean 'agents'\?"):
        yaml_file.read(path, Security)
