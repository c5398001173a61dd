from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tfstyle.serving.monitoring import LATENCY_BUCKETS, Counter, Gauge, Histogram, Metrics


def samples(lines):
    """What the parser of Prometheus' client library reads; it adds _total to counters itself."""
    families = text_string_to_metric_families("\n".join([*lines, ""]))
    return {
        (s.name.removesuffix("_total"), tuple(sorted(s.labels.items()))): s.value
        for f in families
        for s in f.samples
    }


def test_counter():
    counter = Counter(":tensorflow:serving:request_count", "Requests.", ("model_name", "status"))
    counter.add("stylize", "OK")
    counter.add("stylize", "OK", by=2)
    counter.add('a"b\\c\nd', "NOT_FOUND")
    name = ":tensorflow:serving:request_count"
    assert samples(counter.lines()) == {
        (name, (("model_name", "stylize"), ("status", "OK"))): 3,
        (name, (("model_name", 'a"b\\c\nd'), ("status", "NOT_FOUND"))): 1,
    }


def test_histogram_counts_from_below():
    histogram = Histogram("latency", "Time.", ("API",), bounds=(1.0, 10.0))
    for value in (0.5, 1.0, 5.0, 50.0):
        histogram.observe(value, "Predict")
    api = ("API", "Predict")
    assert samples(histogram.lines()) == {
        ("latency_bucket", (api, ("le", "1"))): 2,
        ("latency_bucket", (api, ("le", "10"))): 3,
        ("latency_bucket", (api, ("le", "+Inf"))): 4,
        ("latency_sum", (api,)): 56.5,
        ("latency_count", (api,)): 4,
    }


def test_gauge_is_read_when_the_page_is():
    values = iter([1, 7])
    gauge = Gauge("queue", "Waiting.", lambda: next(values))
    assert samples(gauge.lines()) == {("queue", ()): 1}
    assert samples(gauge.lines()) == {("queue", ()): 7}


def test_latency_buckets_are_tensorflow_servings():
    assert len(LATENCY_BUCKETS) == 33
    assert LATENCY_BUCKETS[:2] == (10.0, 18.0)
    assert LATENCY_BUCKETS[-1] == pytest.approx(10 * 1.8**32)


def test_page():
    metrics = Metrics()
    metrics.request_count.add("stylize", "OK")
    metrics.runtime_latency.observe(1e5, "stylize", "Predict", "TF1")
    metrics.add_gauge("queued", "Waiting.", lambda: 3)
    found = {name for name, _ in samples(metrics.page().splitlines())}
    assert ":tensorflow:serving:request_count" in found
    assert ":tensorflow:serving:runtime_latency_bucket" in found
    assert "queued" in found
