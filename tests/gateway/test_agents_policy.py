"""Promises of `policies/agents.yaml`: what may stand in it, how mistakes are told, and how its parts are merged."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import DocumentError
from gateway.policy import yaml_file
from gateway.policy.agents import (
    ENV_BYTES,
    NOT_YET,
    AgentPolicy,
    AgentsDocument,
    Declared,
    Limits,
    Tools,
    not_in_force,
)

DESIGN = """
defaults:
  sandbox: no-namespaces      # the least tier that will do: full, no-namespaces, partial
  start: fork                 # or exec
  limits: {memory_mb: 512, processes: 64, open_files: 256, file_mb: 64, scratch_mb: 64, cpu_seconds: 3600}
  replicas: 1
  concurrent_runs: 32         # a worker; then a queue of `queue` (128) for at most `queue_seconds` (30), then 503
  ready_seconds: 60
  run_seconds: 600
  hang_seconds: 10
  drain_seconds: 60
  idle_seconds: 900           # 0: never rests
  upstreams: ["*"]            # those that `__gateway__` may choose from
agents:                       # globs over ids, merged in the order of the file
  "labs/*":        {sandbox: full, upstream: ollama, limits: {memory_mb: 256}}
  "default/weather":
    egress: ["api.weather.gov:443"]
    env: {UNITS: metric}
    model: gpt-5-mini
    tools: {allow: ["*"], deny: ["delete_*"], add: [fetch_doc], arguments: hash}
aliases: {support: support/faq}
declared:
  support/faq: {instructions: Answer from the handbook., tools: [fetch_doc, word_count], tool_choice: auto}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The document."""
    return tmp_path / "agents.yaml"


def read(file: Path, content: str, **environ: str) -> AgentsDocument:
    """The document of a text."""
    file.write_text(content)
    return yaml_file.read(file, AgentsDocument, environ)


def mistake(file: Path, content: str, **environ: str) -> str:
    """What is said of a document with a mistake, without the folder."""
    with pytest.raises(DocumentError) as failure:
        read(file, content, **environ)
    return failure.value.message.replace(str(file.parent) + "/", "")


def document(**content: Any) -> AgentsDocument:
    """The document of plain data."""
    return AgentsDocument.model_validate(content)


def short_id(value: object) -> str:
    """A value as the id of a test."""
    return repr(value)[:40]


def test_the_document_of_the_design_works_as_written(file: Path) -> None:
    """The example in the docs is a document."""
    found = read(file, DESIGN)
    assert list(found.agents) == ["labs/*", "default/weather"]
    assert found.aliases == {"support": "support/faq"}
    assert found.declared["support/faq"] == Declared(
        instructions="Answer from the handbook.", tools=("fetch_doc", "word_count")
    )
    planner, weather = found.policy_of("labs/planner"), found.policy_of("default/weather")
    assert planner == AgentPolicy(sandbox="full", upstream="ollama", limits=Limits(memory_mb=256))
    assert weather == AgentPolicy(
        egress=("api.weather.gov:443",),
        env={"UNITS": "metric"},
        model="gpt-5-mini",
        tools=Tools(deny=("delete_*",), add=("fetch_doc",)),
    )


def test_the_defaults_of_the_design_are_those_of_an_empty_document(file: Path) -> None:
    """Who writes nothing has what the docs show."""
    designed = read(file, DESIGN).policy_of("some/agent")
    assert read(file, "# nothing yet\n").policy_of("some/agent") == designed == AgentPolicy()
    assert (designed.queue, designed.queue_seconds, designed.egress, designed.tools.allow) == (128, 30, (), ("*",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("defalts: {}\n", "agents.yaml:1: unknown key 'defalts'; did you mean 'defaults'?"),
        ("zzz: 1\n", "agents.yaml:1: unknown key 'zzz'; known here: agents, aliases, declared, defaults"),
        (
            "defaults:\n  start: fork\n  sandbx: full\n",
            "agents.yaml:3: unknown key 'defaults.sandbx'; did you mean 'sandbox'?",
        ),
        (
            'agents:\n  "labs/*":\n    egres: []\n',
            "agents.yaml:3: unknown key 'agents.labs/*.egres'; did you mean 'egress'?",
        ),
        (
            'agents:\n  "labs/*":\n    limits:\n      memory: 5\n',
            "agents.yaml:4: unknown key 'agents.labs/*.limits.memory'; did you mean 'memory_mb'?",
        ),
        (
            'agents:\n  "*":\n    tools: {\n      alow: []}\n',
            "agents.yaml:4: unknown key 'agents.*.tools.alow'; did you mean 'allow'?",
        ),
        (
            "declared:\n  a/b:\n    instructions: x\n    tool: [y]\n",
            "agents.yaml:4: unknown key 'declared.a/b.tool'; did you mean 'tools'?",
        ),
        (
            "agents:\n  a/b:\n    sandbox: none\n",
            "agents.yaml:3: agents.a/b.sandbox: input should be 'full', 'no-namespaces' or 'partial'",
        ),
        ("defaults:\n  start: spawn\n", "agents.yaml:2: defaults.start: input should be 'fork' or 'exec'"),
        (
            "defaults:\n  limits:\n    memory_mb: 1\n",
            "agents.yaml:3: defaults.limits.memory_mb: input should be greater than or equal to 64",
        ),
        (
            "defaults: {replicas: true}\n",
            "agents.yaml:1: defaults.replicas: it must be a number, not true or false",
        ),
        ("agents:\n  a/b:\n    - x\n", "agents.yaml:2: agents.a/b: input should be"),
        ("declared: {a/b: {}}\n", "agents.yaml:1: declared.a/b.instructions: field required"),
        ("aliases:\n  x: y\n", "agents.yaml:2: aliases.x: it must be the id of an agent, as in support/faq"),
        ("aliases:\n  X: a/b\n", "agents.yaml:2: aliases.X: string should match pattern"),
        (
            "agents:\n  a/b:\n    env:\n      A: 1\n      B: true\n",
            "agents.yaml:5: agents.a/b.env.B: put it in quotes",
        ),
        ("defaults:\n  env:\n    A-B: x\n", "agents.yaml:3: defaults.env.A-B: string should match pattern"),
        (
            "defaults:\n  egress:\n    - a.org:443\n    - '*:443'\n",
            "agents.yaml:4: defaults.egress.1: it would open every host: name those that are needed",
        ),
        (
            'defaults:\n  model: "${NO_SUCH}"\n',
            "agents.yaml:2: defaults.model: set NO_SUCH in the gateway's environment",
        ),
        (
            'agents:\n  a/b:\n    env: {T: "${NO_SUCH}"}\n',
            "agents.yaml:3: agents.a/b.env.T: set NO_SUCH in the gateway's environment",
        ),
    ],
    ids=short_id,
)
def test_a_mistake_is_told_with_file_line_and_remedy(file: Path, content: str, message: str) -> None:
    """Whoever wrote the file can go to the line and knows what would be right, however deep it stands."""
    said = mistake(file, content)
    assert said.startswith(message)
    assert len(said.splitlines()) == 1


def test_all_mistakes_are_told_at_once(file: Path) -> None:
    """Mistakes of several agents are a line each."""
    said = mistake(file, "agents:\n  a/b: {queue: -1}\n  labs: {modle: x}\n")
    assert [line.partition(" ")[0] for line in said.splitlines()] == [
        "agents.yaml:2:",
        "agents.yaml:3:",
        "agents.yaml:3:",
    ]


@pytest.mark.parametrize(
    "content",
    [
        'defaults: {egress: ["${KEY}"]}\n',
        'defaults: {egress: ["https://${KEY}.example.org:443/"]}\n',
        'defaults: {env: {A: ["${KEY}"]}}\n',
        'defaults: {env: {A: "${KEY}\\0"}}\n',
        'defaults: {upstreams: "${KEY}"}\n',
        'defaults: {queue: "${KEY}"}\n',
        'defaults: {start: "${KEY}"}\n',
        'defaults: {tools: {deny: ["${KEY}!/"]}}\n',
        'aliases: {x: "${KEY}"}\n',
        'declared: {a/b: {instructions: x, tool_choice: "${KEY}"}}\n',
        'declared: {a/b: {instructions: x, tools: ["${KEY}"], tool_choice: y}}\n',
    ],
    ids=short_id,
)
def test_no_mistake_shows_what_the_environment_filled_in(file: Path, content: str) -> None:
    """A value may be a secret, so that a message has its place only."""
    assert "very-secret" not in mistake(file, content, KEY="sk-very-secret")


def test_env_does_not_show_in_print() -> None:
    """A policy that is logged by mistake shows no value of `env`."""
    assert "very-secret" not in f"{AgentPolicy(env={'KEY': 'very-secret'})!r}"


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("limits.memory_mb", 64, 1 << 20),
        ("limits.processes", 4, 4096),
        ("limits.open_files", 32, 65536),
        ("limits.file_mb", 1, 1 << 20),
        ("limits.scratch_mb", 1, 1 << 20),
        ("limits.cpu_seconds", 1, 366 * 86400),
        ("replicas", 1, 64),
        ("concurrent_runs", 1, 10_000),
        ("queue", 0, 100_000),
        ("queue_seconds", 0.1, 86400),
        ("ready_seconds", 0.5, 86400),
        ("run_seconds", 0.1, 86400),
        ("hang_seconds", 0.1, 86400),
        ("drain_seconds", 0.1, 86400),
        ("idle_seconds", 0, 86400),
    ],
)
def test_every_number_has_bounds(file: Path, name: str, least: float, most: float) -> None:
    """What could only break a worker, or the gateway, is refused; what is at the bound is taken."""
    *parent, key = name.split(".")
    text = f"defaults: {{limits: {{{key}: %s}}}}" if parent else f"defaults: {{{key}: %s}}"
    for value in (least, most):
        found: Any = read(file, text % value).defaults
        assert getattr(found.limits if parent else found, key) == value
    for wrong in (least - 1, most + 1, ".inf", ".nan", "true", "many", "[]", "null"):
        assert f"defaults.{name}: " in mistake(file, text % wrong)


def test_zero_is_a_duration_only_where_it_means_never(file: Path) -> None:
    """`idle_seconds: 0` never rests; a deadline of 0 would refuse all."""
    assert read(file, "defaults: {idle_seconds: 0}").defaults.idle_seconds == 0
    for name in ("queue_seconds", "ready_seconds", "run_seconds", "hang_seconds", "drain_seconds"):
        assert "greater than 0" in mistake(file, f"defaults: {{{name}: 0}}")


def test_half_a_process_is_refused(file: Path) -> None:
    """Only durations may be fractions."""
    assert "valid integer" in mistake(file, "defaults: {limits: {processes: 4.5}}")


@pytest.mark.parametrize(
    "glob", ["*", "labs/*", "*/weather", "a.b/c", "labs*/*", "default/we?ther", "labs/[ab]*", "l/[!a-c]", "a-b/c_d"]
)
def test_a_glob_over_ids_is_taken(glob: str) -> None:
    """A glob has the two parts of an id, or is `*`."""
    assert list(document(agents={glob: {}}).agents) == [glob]


@pytest.mark.parametrize(
    ("glob", "remedy"),
    [
        ("weather", "write 'default/weather', or '*/weather' for every namespace"),
        ("labs*", "write 'default/labs*', or '*/labs*' for every namespace"),
        ("Labs/*", "write 'labs/*'"),
        ("labs/", "write 'labs/*'"),
        ("a/b/c", "write 'a.b/c'"),
        ("labs/my planner", "write 'labs/my-planner'"),
        ("labs/v1.2", "write 'labs/v1-2'"),
        (" labs/* ", "write 'labs/*'"),
        ("/weather", "write 'default/weather'"),
        ("labs/[", "as in labs/planner"),
        ("labs/[]", "as in labs/planner"),
        ("", "write 'default/*'"),
        ("labs/*\n", "write 'labs/*'"),
    ],
)
def test_a_glob_that_no_id_can_match_is_refused_with_what_would_be_right(glob: str, remedy: str) -> None:
    """A setting that would silently apply to nobody is a mistake."""
    with pytest.raises(ValueError, match="an id is namespace/name") as failure:
        document(agents={glob: {}})
    assert remedy in str(failure.value)


@pytest.mark.parametrize("key", ["*", "labs/*", "faq", "Support/Faq", "a/b/c", "", "a/b.c", "../x", "a..b/c", 5])
def test_a_declared_agent_has_an_id(key: object) -> None:
    """What is declared is one agent, by its whole id."""
    with pytest.raises(ValueError, match="declared"):
        document(declared={key: {"instructions": "x"}})


@pytest.mark.parametrize("target", ["faq", "support/*", "Support/faq", "a/b/c", "", 5])
def test_an_alias_leads_to_an_id(target: object) -> None:
    """An alias is another name of one agent."""
    with pytest.raises(ValueError, match=r"aliases\.x"):
        document(aliases={"x": target})


@pytest.mark.parametrize("name", ["", "Support", "a/b", "a b", "é", "a" * 129])
def test_the_name_of_an_alias_is_a_plain_word(name: str) -> None:
    """Model names are compared in lower case, and one with `/` is an id already."""
    with pytest.raises(ValueError, match="aliases"):
        document(aliases={name: "a/b"})
    assert document(aliases={"gpt-5-mini": "a/b", "llama3.2:3b": "a/b"})


@pytest.mark.parametrize(
    ("text", "destination"),
    [
        ("api.weather.gov:443", "api.weather.gov:443"),
        ("API.Example.ORG:443", "api.example.org:443"),
        ("*.example.org:443", "*.example.org:443"),
        ("*.a.b.example.org:8443", "*.a.b.example.org:8443"),
        ("*.example.co.uk:443", "*.example.co.uk:443"),
        ("*.bbc.uk:443", "*.bbc.uk:443"),
        ("localhost:1", "localhost:1"),
        ("my_db:05432", "my_db:5432"),
        ("10.0.0.7:65535", "10.0.0.7:65535"),
        ("[::1]:443", "[::1]:443"),
        ("[0:0::0:1]:443", "[::1]:443"),
        ("xn--mnchen-3ya.de:443", "xn--mnchen-3ya.de:443"),
    ],
)
def test_a_destination_is_taken_in_one_way_of_writing_it(text: str, destination: str) -> None:
    """Who compares destinations later has one text for each."""
    assert AgentPolicy(egress=(text,)).egress == (destination,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("*:443", "it would open every host"),
        ("*.*:443", "it would open every host"),
        ("*.com:443", "it is too broad"),
        ("*.:443", "it is too broad"),
        ("*.co.uk:443", "it is too broad"),
        ("*.com.au:443", "it is too broad"),
        ("**:443", "a \\* may only stand"),
        ("*.*.org:443", "a \\* may only stand"),
        ("api*.example.org:443", "a \\* may only stand"),
        ("api.*.org:443", "a \\* may only stand"),
        ("*example.org:443", "a \\* may only stand"),
        ("*.0.0.7:443", "a \\* cannot stand for a part of an address"),
        ("*.example.0x7:443", "its host must be a name"),
        ("*.example..org:443", "its host must be a name"),
        ("https://example.org:443", "its host must be a name"),
        ("me@example.org:443", "its host must be a name"),
        ("example.org.:443", "its host must be a name"),
        ("exa mple.org:443", "its host must be a name"),
        ("münchen.de:443", "its host must be a name"),
        ("-a.org:443", "its host must be a name"),
        (":443", "its host must be a name"),
        (f"{'a' * 64}.org:443", "its host must be a name"),
        (f"{'a.' * 127}org:443", "its host must be a name"),
        ("127.1:80", "its host must be a name"),
        ("2130706433:80", "its host must be a name"),
        ("0x7f000001:80", "its host must be a name"),
        ("1.2.3.256:80", "its host must be a name"),
        ("::1:80", "its host must be a name"),
        ("[::1%eth0]:80", "its host must be a name"),
        ("[x]:80", "its host must be a name"),
        ("example.org", "it must be host:port"),
        ("example.org:", "it must be host:port"),
        ("example.org:https", "it must be host:port"),
        ("example.org:*", "it must be host:port"),
        ("example.org:0", "it must be host:port"),
        ("example.org:65536", "it must be host:port"),
        ("example.org:443/v1", "it must be host:port"),
        ("example.org:-1", "it must be host:port"),
        ("example.org:\u0661", "it must be host:port"),
        ("example.org:443\n", "it must be host:port"),
        ("", "it must be host:port"),
    ],
)
def test_a_destination_that_is_none_or_too_broad_is_refused_with_the_reason(text: str, reason: str) -> None:
    """A hole that nobody meant is not made, and the message has what would be right."""
    with pytest.raises(ValueError, match=rf"egress\.0\n  Value error, {reason}"):
        AgentPolicy(egress=(text,))


@given(st.text("ab.*:[]-0x1/@%\n ", max_size=30))
def test_a_destination_never_holds_more_than_one_leading_star(text: str) -> None:
    """Whatever is written, what is taken is a host of a plain alphabet, a port, and at most `*.` before them."""
    try:
        (taken,) = AgentPolicy(egress=(text,)).egress
    except ValueError:
        return
    assert "*" not in taken.removeprefix("*.")
    assert not set(taken) & set("/@%\n ")
    assert AgentPolicy(egress=(taken,)).egress == (taken,)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("metric", "metric"),
        ("5", "5"),
        ("-5", "-5"),
        ("1.5", "1.5"),
        ("-0.25", "-0.25"),
        ("yes", "yes"),
        ('"1.10"', "1.10"),
        ('"true"', "true"),
        ('""', ""),
        ('"${A}"', "one"),
        ('"x ${A}"', "x one"),
    ],
)
def test_a_value_of_env_is_a_text_or_a_number_as_it_is_written(file: Path, text: str, value: str) -> None:
    """What stands in the file is what the agent finds."""
    assert read(file, f"defaults: {{env: {{A: {text}}}}}", A="one").defaults.env == {"A": value}


@pytest.mark.parametrize(
    "text",
    [
        *("true", "&a true", "null", "1.10", "010", "0x10", "1_000", "1e3", "100e-2", ".5", "1.", ".inf", ".nan"),
        *("1.0000000000000000001", "2027-01-31", "[a]", "{a: b}"),
    ],
)
def test_a_value_of_env_that_would_not_stay_as_written_wants_quotes(file: Path, text: str) -> None:
    """Version 1.10 does not become 1.1 behind anybody's back, nor `true` a `True` or a 1."""
    said = mistake(file, f"defaults:\n  env:\n    A: {text}\n")
    assert said == "agents.yaml:3: defaults.env.A: put it in quotes, for it to stay as it is written"


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A=B", "A B", "É", "A\0", "A\n"])
def test_a_name_of_env_is_one_that_every_process_can_be_given(name: str) -> None:
    """A name is letters, digits and _, and begins with no digit."""
    with pytest.raises(ValueError, match="env"):
        document(defaults={"env": {name: "x"}})
    assert document(defaults={"env": {"_a1": "x", "B": ""}})


@pytest.mark.parametrize("text", ['"a\\0b"', '"\\ud800"', '"${RAW}"'])
def test_env_has_nothing_that_no_process_can_be_given(file: Path, text: str) -> None:
    """No NUL, and no bytes that are no UTF-8: the worker could not be started with it."""
    assert "no process can be given" in mistake(file, f"defaults: {{env: {{A: {text}}}}}", RAW="\udcff")


def test_env_has_a_size() -> None:
    """Names and values have 32 KiB together, in bytes."""
    assert document(defaults={"env": {"A": "x" * (ENV_BYTES - 1)}})
    with pytest.raises(ValueError, match="32 KiB"):
        document(defaults={"env": {"A": "é" * (ENV_BYTES // 2)}})


def test_parts_that_are_too_much_together_are_told_without_their_values() -> None:
    """Each part of `env` is small enough and the whole is not: an error with the agent's id."""
    half = "s" * (ENV_BYTES // 2)
    found = document(defaults={"env": {"A": half}}, agents={"a/*": {"env": {"B": half}}})
    assert found.policy_of("b/c").env == {"A": half}
    with pytest.raises(DocumentError, match=r"the policy of a/b: env: .*32 KiB") as failure:
        found.policy_of("a/b")
    assert "sss" not in failure.value.message


@pytest.mark.parametrize("choice", ["auto", "none", "required", "word_count"])
def test_a_tool_choice_is_a_word_or_a_tool(choice: str) -> None:
    """A declared agent may be made to call one of its tools."""
    assert Declared(instructions="x", tools=("word_count",), tool_choice=choice).tool_choice == choice


@pytest.mark.parametrize("choice", ["required", "word_count", "", "any"])
def test_a_tool_choice_that_cannot_be_is_refused(choice: str) -> None:
    """What every call would fail for is refused when the file is read."""
    with pytest.raises(ValueError, match="tool_choice must be auto, none, required"):
        Declared(instructions="x", tool_choice=choice)


@pytest.mark.parametrize(
    "tools", [{"add": ["a b"]}, {"add": ["*"]}, {"allow": [""]}, {"deny": ["a/b"]}, {"arguments": 5}]
)
def test_tools_are_names_or_globs_of_names(tools: dict[str, object]) -> None:
    """`add` has names, `allow` and `deny` have globs, and a word that no tool has for a name is a mistake."""
    with pytest.raises(ValueError, match="tools"):
        document(defaults={"tools": tools})
    assert document(defaults={"tools": {"add": ["a-b_1"], "allow": [], "deny": ["a*", "[ab]?.x"], "arguments": "full"}})


NAMES = st.sampled_from(["A", "B", "C"])
LIMITS = st.fixed_dictionaries(
    {}, optional={"memory_mb": st.integers(64, 9999), "processes": st.integers(4, 99), "file_mb": st.integers(1, 99)}
)
TOOLS = st.fixed_dictionaries({}, optional={"allow": st.lists(NAMES), "deny": st.lists(NAMES), "add": st.lists(NAMES)})
PARTS = st.fixed_dictionaries(
    {},
    optional={
        "sandbox": st.sampled_from(["full", "no-namespaces", "partial"]),
        "queue": st.integers(0, 999),
        "ready_seconds": st.floats(0.5, 99),
        "upstreams": st.lists(NAMES),
        "model": st.sampled_from(["", "gpt-5-mini"]),
        "limits": LIMITS,
        "env": st.dictionaries(NAMES, st.sampled_from(["", "x", "y"])),
        "tools": TOOLS,
    },
)
"""What an operator may write for one glob, the defaults' own values among it."""
Part = dict[str, Any]


def flat(part: Part) -> dict[tuple[str, ...], Any]:
    """The single settings of a part, by their path; a list is one of them."""
    found: dict[tuple[str, ...], Any] = {}
    for key, value in part.items():
        below = flat(value) if isinstance(value, dict) else {(): value}
        found |= {(key, *path): tuple(each) if isinstance(each, list) else each for path, each in below.items()}
    return found


def settings_of(policy: AgentPolicy) -> dict[tuple[str, ...], Any]:
    """All settings of a policy, by their path."""
    return flat(policy.model_dump())


@given(PARTS, st.lists(PARTS, max_size=4))
def test_each_setting_is_the_last_that_was_written_for_it(defaults: Part, parts: list[Part]) -> None:
    """The later of two globs that match wins key by key, a list replaces, and what is not set overrides nothing."""
    globs = ["*", "a/*", "*/b", "a/b"]
    found = document(defaults=defaults, agents=dict(zip(globs, parts, strict=False)))
    expected = settings_of(AgentPolicy())
    for each in (defaults, *parts):
        expected |= flat(each)
    assert settings_of(found.policy_of("a/b")) == expected


@given(PARTS, PARTS)
def test_a_glob_that_does_not_match_changes_nothing(defaults: Part, other: Part) -> None:
    """What is written for others is theirs."""
    found = document(defaults=defaults, agents={"labs/*": other, "*/planner": {}})
    assert found.policy_of("default/weather") == AgentPolicy.model_validate(defaults)


@given(PARTS)
def test_nothing_merged_into_a_policy_leaves_it_as_it_is(part: Part) -> None:
    """Empty parts, before or after, are as good as none; saying a thing twice is saying it once."""
    alone = document(agents={"a/b": part}).policy_of("a/b")
    empty: Part = {"limits": {}, "env": {}, "tools": {}}
    assert document(agents={"*": empty, "a/b": part, "a/*": empty}).policy_of("a/b") == alone
    assert document(defaults=part, agents={"a/b": part}).policy_of("a/b") == alone


@given(PARTS, PARTS)
def test_a_merge_changes_no_document(defaults: Part, part: Part) -> None:
    """Asking for one agent's policy has no effect on another's."""
    found = document(defaults=defaults, agents={"a/*": part})
    before = found.model_dump(exclude_unset=True)
    assert found.policy_of("a/b") == found.policy_of("a/c")
    assert found.model_dump(exclude_unset=True) == before


def test_a_default_that_is_written_out_overrides() -> None:
    """Who writes a value means it, even where it is the one that the gateway has anyway."""
    found = document(
        defaults={"queue": 5, "limits": {"processes": 5}}, agents={"a/b": {"queue": 128, "limits": {"processes": 64}}}
    )
    assert found.policy_of("a/b") == AgentPolicy()


def test_the_order_of_the_file_decides_and_not_which_glob_is_narrower(file: Path) -> None:
    """A `*` at the end of the file has the last word."""
    content = "agents:\n  a/b: {queue: 1}\n  '*': {queue: 2}\n"
    assert read(file, content).policy_of("a/b").queue == 2


def test_what_is_not_in_force_is_told_once_in_a_fixed_order() -> None:
    """A key that the gateway reads and does not act on yet can be warned of, wherever it is set."""
    found = document(
        defaults={"idle_seconds": 900, "queue": 3},
        agents={"a/b": {"tools": {}, "idle_seconds": 5}, "a/*": {"egress": [], "replicas": 1}},
        declared={},
    )
    assert not_in_force(found) == ["replicas", "idle_seconds", "egress", "tools", "declared"]


def test_what_is_in_force_or_not_set_is_not_told() -> None:
    """A document of keys that work, or of none, warns of nothing; the tools of a declared agent are no policy."""
    assert not_in_force(document()) == []
    working = {name: value for name, value in AgentPolicy().model_dump().items() if name not in NOT_YET}
    assert not_in_force(document(defaults=working, agents={"*": working})) == []
    assert not_in_force(document(declared={"a/b": {"instructions": "x", "tools": ["y"]}})) == ["declared"]


def test_what_is_not_in_force_is_a_key_of_the_document() -> None:
    """No name in the list is one that was renamed."""
    assert set(NOT_YET) <= {*AgentPolicy.model_fields, *AgentsDocument.model_fields}
