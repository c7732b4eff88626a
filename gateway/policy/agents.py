"""What an operator grants to agents, `policies/agents.yaml`, as models and one merge; runs in the gateway; pure."""

import re
from fnmatch import fnmatchcase
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator, model_validator

from gateway.errors import DocumentError
from gateway.policy.documents import Document

NOT_YET = ("replicas", "hang_seconds", "drain_seconds", "idle_seconds", "egress", "tools", "aliases", "declared")
"""Keys that are read and checked, and that the gateway does not act on yet."""
ENV_BYTES = 32 << 10
"""What the names and values of an agent's `env` may take together."""

ID = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*/[a-z0-9_-]+")
GLOB = re.compile(r"(?:[a-z0-9_.*?-]|\[!?[a-z0-9_.-]+\])+/(?:[a-z0-9_*?-]|\[!?[a-z0-9_-]+\])+|\*")
LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
SHARED = {"ac", "co", "com", "edu", "gov", "net", "org"}
"""Names under which a country registers everybody, as in co.uk."""


def _is_number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("it must be a number, not true or false")
    return value


def _is_glob(text: str) -> str:
    return _matching(GLOB, text)


def _is_id(text: str) -> str:
    return _matching(ID, text)


def _matching(pattern: re.Pattern[str], text: str) -> str:
    """Return a key that is an id, or a glob over ids; any other is told with what it could have been."""
    if pattern.fullmatch(text):
        return text
    *namespace, name = (re.sub(r"[^a-z0-9_.*?!\[\]-]", "-", part) for part in text[:200].strip().lower().split("/"))
    name = name.replace(".", "-") or "*"
    near = f"{'.'.join(namespace) or 'default'}/{name}"
    if not pattern.fullmatch(near):
        raise ValueError("an id is namespace/name, of lower-case letters, digits, _ and -, as in labs/planner")
    others = f", or '*/{name}' for every namespace" if pattern is GLOB and not namespace else ""
    raise ValueError(f"an id is namespace/name in lower case: write {near!r}{others}")


def _is_target(text: str) -> str:
    if not ID.fullmatch(text):  # not shown, nor is any value below: it may come from the environment
        raise ValueError("it must be the id of an agent, as in support/faq")
    return text


def _is_destination(text: str) -> str:
    """Return `host:port` in one way of writing it."""
    host, _, port = text.lower().rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError("it must be host:port, as in api.example.org:443, without http:// and without a path")
    return f"{_host(host)}:{int(port)}"


def _host(host: str) -> str:
    if host.startswith("[") and host.endswith("]") and "%" not in host:
        try:
            return f"[{IPv6Address(host[1:-1]).compressed}]"
        except AddressValueError:
            pass
    if "*" in host:
        _check_wildcard(host)
    if not _is_host(host.removeprefix("*.")):
        raise ValueError(
            "its host must be a name, as in api.example.org:443, or an address, as in 10.0.0.7:443 or [::1]:443"
        )
    return host


def _check_wildcard(host: str) -> None:
    labels = host.split(".")
    if all(each == "*" for each in labels):
        raise ValueError("it would open every host: name those that are needed, as in *.example.org:443")
    if labels[0] != "*" or "*" in host[1:]:
        raise ValueError("a * may only stand for all that comes before a name, as in *.example.org:443")
    if labels[-1].isdecimal():
        raise ValueError("a * cannot stand for a part of an address: write out each address")
    if len(labels) < 3 or (len(labels) == 3 and len(labels[2]) == 2 and labels[1] in SHARED):
        raise ValueError(
            "it is too broad, for anybody may own a name there: write one more part, as in *.example.org:443"
        )


def _is_host(host: str) -> bool:
    labels = host.split(".")
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):  # resolvers take such a one for an address
        try:
            return bool(IPv4Address(host))
        except AddressValueError:
            return False
    return len(host) <= 253 and all(LABEL.fullmatch(each) for each in labels)


def _is_text(value: object) -> object:
    """Return the text of a number that is as it was written; 1.10 would be 1.1, and true might be True or 1."""
    if type(value) is int:
        return str(value)
    if isinstance(value, float):
        text = str(float(value))
        written = len(text) == getattr(value, "_width", len(text)) and getattr(value, "_exp", None) is None
        value = text if written and re.fullmatch(r"-?[0-9]+\.[0-9]+", text) else value
    if not isinstance(value, str):
        raise ValueError("put it in quotes, for it to stay as it is written")
    return value


def _is_passable(value: str) -> str:
    if re.search("[\0\ud800-\udfff]", value):
        raise ValueError("no process can be given a text with NUL, or half a character, in it")
    return value


Id = Annotated[str, AfterValidator(_is_id)]
Glob = Annotated[str, AfterValidator(_is_glob)]
Alias = Annotated[str, Field(pattern=r"^[a-z0-9_.:-]{1,128}$")]
Target = Annotated[str, AfterValidator(_is_target)]
Destination = Annotated[str, AfterValidator(_is_destination)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Text = Annotated[str, BeforeValidator(_is_text), AfterValidator(_is_passable)]
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
ToolGlob = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.*?!\[\]-]{1,128}$")]
Whole = Annotated[int, BeforeValidator(_is_number)]
Megabytes = Annotated[Whole, Field(ge=1, le=1 << 20)]
Seconds = Annotated[float, BeforeValidator(_is_number), Field(gt=0, le=86400, allow_inf_nan=False)]


class Limits(Document):
    """What the kernel holds a worker to."""

    memory_mb: Annotated[Whole, Field(ge=64, le=1 << 20)] = 512
    processes: Annotated[Whole, Field(ge=4, le=4096)] = 64
    """With the threads, of which the worker itself has some."""
    open_files: Annotated[Whole, Field(ge=32, le=65536)] = 256
    file_mb: Megabytes = 64
    """The largest file that it may write."""
    scratch_mb: Megabytes = 64
    """All that it may write."""
    cpu_seconds: Annotated[Whole, Field(ge=1, le=366 * 86400)] = 3600


class Tools(Document):
    """Which tools an agent may use, as globs over their names; deny comes before allow."""

    allow: tuple[ToolGlob, ...] = ("*",)
    deny: tuple[ToolGlob, ...] = ()
    add: tuple[ToolName, ...] = ()
    """Tools of the gateway that the agent has beside its own."""
    arguments: Literal["hash", "full", "none"] = "hash"
    """What of a call's arguments is written down."""


class AgentPolicy(Document):
    """The settings of an agent; in the document also a part of them, told by `model_fields_set`."""

    sandbox: Literal["full", "no-namespaces", "partial"] = "no-namespaces"
    """The least tier that will do."""
    start: Literal["fork", "exec"] = "fork"
    limits: Limits = Limits()
    replicas: Annotated[Whole, Field(ge=1, le=64)] = 1
    concurrent_runs: Annotated[Whole, Field(ge=1, le=10_000)] = 32
    """The most runs of one worker at a time."""
    queue: Annotated[Whole, Field(ge=0, le=100_000)] = 128
    queue_seconds: Seconds = 30
    ready_seconds: Seconds = 60
    run_seconds: Seconds = 600
    hang_seconds: Seconds = 10
    drain_seconds: Seconds = 60
    idle_seconds: Annotated[float, BeforeValidator(_is_number), Field(ge=0, le=86400, allow_inf_nan=False)] = 900
    """After this long without a request it rests; 0: never."""
    upstreams: tuple[Annotated[str, Field(min_length=1)], ...] = ("*",)
    """Globs over the upstreams that `__gateway__` may choose from."""
    upstream: str = ""
    model: str = ""
    egress: tuple[Destination, ...] = ()
    """What it may reach: `host:port`, or `*.example.org:443` for all below a name."""
    env: dict[Variable, Text] = Field(default={}, repr=False)
    tools: Tools = Tools()

    @field_validator("env")
    @classmethod
    def _is_small(cls, value: dict[str, str]) -> dict[str, str]:
        if sum(len(name) + len(text.encode()) for name, text in value.items()) > ENV_BYTES:
            raise ValueError(
                f"names and values may have {ENV_BYTES >> 10} KiB together; put what is larger into a file"
            )
        return value


class Declared(Document):
    """An agent without code."""

    instructions: Annotated[str, Field(min_length=1)]
    tools: tuple[ToolName, ...] = ()
    tool_choice: str = "auto"
    model: str = ""

    @model_validator(mode="after")
    def _can_choose(self) -> "Declared":
        choices = {"auto", "none", *self.tools} | ({"required"} if self.tools else set())
        if self.tool_choice not in choices:
            raise ValueError("tool_choice must be auto, none, required (where there are tools) or one of its tools")
        return self


class AgentsDocument(Document):
    """`policies/agents.yaml`."""

    defaults: AgentPolicy = AgentPolicy()
    agents: dict[Glob, AgentPolicy] = Field(default={})
    """Globs over ids to what is different for them, in the order of the file."""
    aliases: dict[Alias, Target] = Field(default={})
    declared: dict[Id, Declared] = Field(default={})

    def policy_of(self, id_: str) -> AgentPolicy:
        """Return the settings of one agent: the defaults, then what each glob that matches sets, key by key.

        Raises:
            DocumentError: where parts that are right each by itself are too much together.
        """
        merged = _set_in(self.defaults)
        for glob, part in self.agents.items():
            if fnmatchcase(id_, glob):
                merged = _merge(merged, _set_in(part))
        try:
            return AgentPolicy.model_validate(merged)
        except ValidationError as error:
            said = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_input=False))
            raise DocumentError(f"the policy of {id_}: {'; '.join(said)}") from None


def not_in_force(document: AgentsDocument) -> list[str]:
    """Return the keys that a document sets and the gateway does not act on yet, each once."""
    parts = (document, document.defaults, *document.agents.values())
    found = set[str]().union(*(each.model_fields_set for each in parts))
    return [name for name in NOT_YET if name in found]


def _set_in(part: AgentPolicy) -> dict[str, Any]:
    return part.model_dump(exclude_unset=True)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return both, where the second comes before the first; what is a dict in both is merged likewise."""
    both = {name for name in below.keys() & above.keys() if isinstance(above[name], dict)}
    return below | above | {name: _merge(below[name], above[name]) for name in both}
