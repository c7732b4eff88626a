"""Tokens, as upstreams count them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """Tokens of one model call, or of all calls of a run."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    """Of the prompt, those that the upstream had in its cache."""
    reasoning: int = 0
    """Of the completion, those that were not shown."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.cached + other.cached,
            self.reasoning + other.reasoning,
        )
