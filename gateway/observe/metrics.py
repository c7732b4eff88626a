"""Every metric of the gateway with its meaning, in one registry that both forms of `/metrics` are made from."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The numbers of one gateway; agents and upstreams as labels are always known ones."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "gateway_requests", "Chat requests by agent and outcome.", ["agent", "outcome"], registry=registry
        )
        self.in_flight = Gauge("gateway_requests_in_flight", "Runs under way.", ["agent"], registry=registry)
        self.first_delta = Histogram(
            "gateway_first_delta_seconds",
            "Request to first delta.",
            ["agent"],
            buckets=SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "gateway_request_seconds",
            "Request to the end of its answer.",
            ["agent"],
            buckets=SECONDS,
            registry=registry,
        )
        self.model_calls = Counter(
            "gateway_model_calls",
            "Model calls by upstream and outcome.",
            ["upstream", "outcome"],
            registry=registry,
        )
        self.tokens = Counter(
            "gateway_tokens",
            "Tokens as the upstream counts them.",
            ["agent", "upstream", "kind"],
            registry=registry,
        )
        self.errors = Counter("gateway_errors", "Failures told to clients, by code.", ["code"], registry=registry)
        self.diagnostics = Counter("gateway_diagnostics", "Faults reported, by stage.", ["stage"], registry=registry)
        self.starts = Counter(
            "gateway_worker_starts", "Worker processes started, by agent.", ["agent"], registry=registry
        )
        self.ends = Counter(
            "gateway_worker_ends",
            "Worker processes ended, by agent and why.",
            ["agent", "why"],
            registry=registry,
        )
        self.ready = Histogram(
            "gateway_worker_ready_seconds",
            "Launch of a worker to ready.",
            ["agent"],
            buckets=SECONDS,
            registry=registry,
        )

    def prometheus(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def snapshot(self) -> dict[str, Any]:
        """Return the same numbers for JSON: by metric, its meaning and its samples."""
        return {
            family.name: {
                "help": family.documentation,
                "type": family.type,
                "samples": [
                    {"name": sample.name, "labels": sample.labels, "value": sample.value}
                    for sample in family.samples
                    if not sample.name.endswith("_created")
                ],
            }
            for family in self._registry.collect()
        }
