"""Reads YAML documents that people write: `${ENV}` filled in, checked by a model, errors with file, line and remedy."""

import difflib
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError

from gateway.errors import DocumentError

LIMIT = 1 << 20
"""Bytes of a document."""
DEPTH, NODES = 32, 100_000
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

M = TypeVar("M", bound=BaseModel)


def read(path: Path, model: type[M], environ: Mapping[str, str] = os.environ) -> M:
    """Return the document of a file; an empty one is all defaults.

    A value that is nothing but `${NAME}` is absent when NAME is not set; inside a longer text it must be set.

    Raises:
        DocumentError: with the file, the line, what is wrong and what would be right.
    """
    tree = _parse(path)
    plain = _Filler(path, environ).fill(tree)
    try:
        return model.model_validate({} if plain is None else plain)
    except ValidationError as error:
        raise DocumentError("\n".join(_explain(path, tree, model, each) for each in error.errors())) from None


def _parse(path: Path) -> Any:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DocumentError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > LIMIT:
        raise DocumentError(f"{path}: {len(raw)} bytes; a document has at most {LIMIT}")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DocumentError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None
    yaml = YAML(typ="rt")
    yaml.max_depth = DEPTH
    try:
        return yaml.load(io.StringIO(text))
    except DuplicateKeyError as error:  # its words have both values, which may be secrets
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DocumentError(f"{path}:{line}: a key stands twice in one place; keep one of them") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DocumentError(f"{path}:{line}: not YAML: {error.problem or error.context}") from None
    except Exception as error:  # whatever a parser of hostile text may raise: KeyError for an odd tag, say
        raise DocumentError(f"{path}: not YAML: {type(error).__name__}") from None


class _Filler:
    """Makes plain data of a parsed document, with references to the environment filled in."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._path = path
        self._environ = environ
        self._nodes = 0

    def fill(self, node: Any, line: int = 1, depth: int = 0) -> Any:
        self._nodes += 1
        if depth > DEPTH or self._nodes > NODES:  # aliases may unfold to far more than the file holds
            raise DocumentError(f"{self._path}:{line}: more than {DEPTH} levels or {NODES} values")
        if isinstance(node, Mapping):
            return {key: self.fill(value, _line_of(node, key), depth + 1) for key, value in node.items()}
        if isinstance(node, list):
            return [self.fill(value, _line_of(node, at), depth + 1) for at, value in enumerate(node)]
        return self._text(str(node), line) if isinstance(node, str) else node

    def _text(self, text: str, line: int) -> str | None:
        if whole := REFERENCE.fullmatch(text):
            return self._environ.get(whole[1]) or None
        missing = sorted({name for name in REFERENCE.findall(text) if name not in self._environ})
        if missing:
            raise DocumentError(f"{self._path}:{line}: set {', '.join(missing)} in the gateway's environment")
        return REFERENCE.sub(lambda match: self._environ[match[1]], text)


def _explain(path: Path, tree: Any, model: type[BaseModel], error: ErrorDetails) -> str:
    where = [part for part in error["loc"] if part != "[key]"]
    name = ".".join(str(part) for part in where) or "the document"
    line = _line(tree, where)
    if error["type"] == "extra_forbidden":
        return f"{path}:{line}: unknown key {name!r}; {_meant(str(where[-1]), _names(model, where[:-1]))}"
    reference = REFERENCE.fullmatch(str(_at(tree, where)))
    if reference and error["input"] is None:
        return f"{path}:{line}: {name}: set {reference[1]} in the gateway's environment"
    message = error["msg"].removeprefix("Value error, ")
    return f"{path}:{line}: {name}: {message[:1].lower()}{message[1:]}"


def _meant(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"


def _names(model: Any, where: list[int | str]) -> list[str]:
    """The keys that a model knows at a place within it."""
    for part in where:
        # of a model its field, else what a dict or a tuple holds
        model = model.model_fields[part].annotation if hasattr(model, "model_fields") else _held(model)
    return sorted(getattr(model, "model_fields", {}))


def _held(annotation: Any) -> Any:
    """What a dict, a list or a tuple holds."""
    return [each for each in get_args(annotation) if each is not ...][-1]


def _at(tree: Any, where: list[int | str]) -> Any:
    for part in where:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def _line(tree: Any, where: list[int | str]) -> int:
    """The line of the deepest part of a place that the file has."""
    line = 1
    for part in where:
        if not isinstance(tree, CommentedMap | CommentedSeq):
            break
        line = _line_of(tree, part) or line
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            break
    return line


def _line_of(parent: Any, key: Any) -> int:
    try:
        at = parent.lc.key(key) if isinstance(parent, CommentedMap) else parent.lc.item(key)
    except (AttributeError, KeyError, IndexError, TypeError):
        return 0
    return int(at[0]) + 1 if at else 0
