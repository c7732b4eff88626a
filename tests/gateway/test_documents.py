"""Promises of the documents that operators write, as models."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.app import BUILT_IN_UPSTREAMS
from gateway.policy import yaml_file
from gateway.policy.documents import Key, Upstream, Upstreams

DESIGN = """
default: auto                 # the first that can be used when the gateway starts
upstreams:
  openai:   {base_url: "https://api.openai.com/v1", api_key: "${OPENAI_API_KEY}", api: responses, model: gpt-5-mini}
  ollama:   {base_url: "http://127.0.0.1:11434/v1", api: chat_completions, models: {"gpt-*": llama3.2}}
  lmstudio: {base_url: "http://127.0.0.1:1234/v1", api: chat_completions}
  vllm:     {base_url: "http://127.0.0.1:8001/v1", api: chat_completions}
  demo:     {kind: demo}
"""


def test_the_document_of_the_design_works_as_written(tmp_path: Path) -> None:
    """The example in the docs is a document."""
    (tmp_path / "upstreams.yaml").write_text(DESIGN)
    document = yaml_file.read(tmp_path / "upstreams.yaml", Upstreams, {"OPENAI_API_KEY": "sk-1"})
    openai, ollama, *_, demo = document.upstreams.values()
    assert list(document.upstreams) == ["openai", "ollama", "lmstudio", "vllm", "demo"]
    assert (openai.api, openai.model, openai.lacks_key) == ("responses", "gpt-5-mini", False)
    assert openai.api_key
    assert openai.api_key.get_secret_value() == "sk-1"
    assert ollama.models == {"gpt-*": "llama3.2"}
    assert demo.kind == "demo"


@pytest.mark.parametrize("path", [BUILT_IN_UPSTREAMS, Path(__file__).parents[2] / "policies" / "upstreams.yaml"])
def test_the_documents_that_we_bring_are_those_of_the_design(path: Path, tmp_path: Path) -> None:
    """The built-in document, and the sample home's, say the same as the docs."""
    (tmp_path / "upstreams.yaml").write_text(DESIGN)
    assert yaml_file.read(path, Upstreams, {}) == yaml_file.read(tmp_path / "upstreams.yaml", Upstreams, {})


def test_a_key_that_the_environment_does_not_have_is_lacking() -> None:
    """An upstream that names a key and has none can be told from one that needs none."""
    assert Upstream.model_validate({"base_url": "http://x", "api_key": None}).lacks_key
    assert not Upstream.model_validate({"base_url": "http://x"}).lacks_key
    assert not Upstream.model_validate({"base_url": "http://x", "api_key": "k"}).lacks_key


@pytest.mark.parametrize("url", ["http://127.0.0.1:8001/v1", "https://x", "http://[::1]:80/v1", "HTTP://x/v1/"])
def test_an_http_address_is_taken_without_its_last_slash(url: str) -> None:
    """Paths can be put after a base_url."""
    assert Upstream(base_url=url).base_url == url.rstrip("/")


@pytest.mark.parametrize("url", ["x", "127.0.0.1:80", "ftp://x", "http://", "file:///etc/passwd", "http://[", "//x/v1"])
def test_what_is_no_http_address_is_refused(url: str) -> None:
    """A base_url without scheme or host is a mistake, and so is any other scheme."""
    with pytest.raises(ValidationError, match="base_url"):
        Upstream(base_url=url)


@pytest.mark.parametrize("port", ["99999", "http"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    """An address that nothing can listen on is a mistake of the document, not of a later call."""
    with pytest.raises(ValidationError):
        Upstream(base_url=f"http://x:{port}/v1")


def test_an_upstream_without_address_is_refused_unless_it_is_the_demo() -> None:
    """Only the demo is nowhere."""
    assert Upstream(kind="demo").base_url == ""
    with pytest.raises(ValidationError, match="base_url is missing"):
        Upstream()


def test_the_default_must_exist() -> None:
    """`default` is auto or a name of the document, and the message has those."""
    demo = {"demo": Upstream(kind="demo")}
    assert Upstreams(default="demo", upstreams=demo).default == "demo"
    with pytest.raises(ValidationError, match="must be auto or one of demo"):
        Upstreams(default="openai", upstreams=demo)
    with pytest.raises(ValidationError):
        Upstreams(upstreams={})


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n"])
def test_a_key_needs_a_whole_hash(digest: str) -> None:
    """What is no SHA-256 in hex could never open anything, so it is refused."""
    with pytest.raises(ValidationError, match="sha256"):
        Key(name="k", sha256=digest)


def test_a_secret_does_not_show_in_print() -> None:
    """A model that is logged by mistake shows no key."""
    upstream = Upstream.model_validate({"base_url": "http://x", "api_key": "sk-secret"})
    assert not re.search("sk-secret", f"{upstream} {upstream!r} {upstream.model_dump_json()}")


def test_a_key_is_taken_without_the_blanks_around_it() -> None:
    """A newline at the end of a secret's file is no part of the key."""
    upstream = Upstream.model_validate({"base_url": "http://h/v1", "api_key": "sk-secret\r\n"})
    assert upstream.api_key is not None
    assert upstream.api_key.get_secret_value() == "sk-secret"


@pytest.mark.parametrize("key", ["sk-a\nb", "sk-\u00e9", "sk a"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str) -> None:
    """A key with a blank or a letter of another alphabet in it would fail at every call, and be quoted there."""
    with pytest.raises(ValidationError, match="no header can carry") as failure:
        Upstream.model_validate({"base_url": "http://h/v1", "api_key": key})
    assert "sk" not in failure.value.errors()[0]["msg"]
