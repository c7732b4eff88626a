"""The documents that operators write, as models; pure."""

from datetime import date
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

Seconds = Annotated[float, Field(gt=0, le=3600)]


class Document(BaseModel):
    """A part of a document: what it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Timeouts(Document):
    """How long an upstream may take, in seconds."""

    connect: Seconds = 10
    first_byte: Seconds = 120
    between_bytes: Seconds = 60


class Upstream(Document):
    """A model server."""

    kind: Literal["openai", "demo"] = "openai"
    base_url: str = ""
    api_key: SecretStr | None = None
    api: Literal["chat_completions", "responses"] = "chat_completions"
    model: str = ""
    models: dict[str, str] = {}
    """Globs of model names to the name that this upstream has for them."""
    timeouts: Timeouts = Timeouts()

    @field_validator("api_key")
    @classmethod
    def _is_key(cls, value: SecretStr | None) -> SecretStr | None:
        key = value.get_secret_value().strip() if value else ""
        if not all("!" <= each <= "~" for each in key):  # not shown: it is a secret
            raise ValueError("the key has a character in it that no header can carry")
        return SecretStr(key) if key else None

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if value and not _is_address(value):  # not shown: it may come from the environment
            raise ValueError("it must be an address like http://127.0.0.1:8001/v1")
        return value.rstrip("/")

    @property
    def lacks_key(self) -> bool:
        """Whether the document names a key and the environment does not have it."""
        return self.api_key is None and "api_key" in self.model_fields_set

    @model_validator(mode="after")
    def _has_address(self) -> "Upstream":
        if self.kind == "openai" and not self.base_url:
            raise ValueError("base_url is missing: where is this upstream?")
        return self


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class Upstreams(Document):
    """`policies/upstreams.yaml`."""

    default: str = "auto"
    upstreams: Annotated[dict[str, Upstream], Field(min_length=1)]

    @model_validator(mode="after")
    def _default_exists(self) -> "Upstreams":
        if self.default != "auto" and self.default not in self.upstreams:
            raise ValueError(f"default must be auto or one of {', '.join(self.upstreams)}")
        return self


class Key(Document):
    """A client's key, known by its hash."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    agents: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    admin: bool = False
    expires: date | None = None


class Security(Document):
    """`policies/security.yaml`."""

    keys: tuple[Key, ...] = ()
