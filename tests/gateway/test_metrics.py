"""Promises of the metrics in both of their forms."""

from prometheus_client import Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from gateway.observe.metrics import Metrics

Sample = tuple[str, tuple[tuple[str, str], ...], float]


def used() -> Metrics:
    """Metrics with a sample of each."""
    metrics = Metrics()
    for metric in vars(metrics).values():
        names = getattr(metric, "_labelnames", None)
        if names is None:
            continue
        labelled = metric.labels(*names)
        if isinstance(metric, Histogram):
            labelled.observe(0.02)
        elif isinstance(metric, Counter):
            labelled.inc(3)
        else:
            labelled.inc()
    return metrics


def test_both_forms_have_the_same_numbers() -> None:
    """JSON and Prometheus's text are two views of one registry."""
    metrics = used()
    text: set[Sample] = {
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(metrics.prometheus().decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    json: set[Sample] = {
        (sample["name"], tuple(sorted(sample["labels"].items())), sample["value"])
        for family in metrics.snapshot().values()
        for sample in family["samples"]
    }
    assert json == text
    assert json


def test_every_metric_is_ours_and_says_what_it_means() -> None:
    """Names begin with gateway_, and each has a sentence."""
    for name, family in used().snapshot().items():
        assert name.startswith("gateway_")
        assert family["help"].endswith(".")
        assert family["type"] in ("counter", "gauge", "histogram")


def test_two_gateways_count_for_themselves() -> None:
    """Nothing is kept in the process's own registry."""
    metrics = used()
    assert metrics.snapshot() != Metrics().snapshot()
