"""Counters, gauges and histograms under TensorFlow Serving's names, in Prometheus' text format.

The names, labels and units are those of tensorflow_model_server, so that one dashboard fits both.
They are not the names that Prometheus' own client library would make: TensorFlow Serving's
counters do not end in ``_total``, and its latencies are in microseconds.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: TensorFlow Serving's latency buckets: 10 µs times powers of 1.8, 33 of them (to 20 minutes).
LATENCY_BUCKETS = tuple(10.0 * 1.8**i for i in range(33))
SIZE_BUCKETS = tuple(float(2**i) for i in range(11))


class _Metric:
    kind = ""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()):
        self.name = name
        self.help = help_text
        self.labels = tuple(labels)
        self._lock = threading.Lock()

    def lines(self) -> list[str]:
        head = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} {self.kind}"]
        return head + self._samples()

    def _samples(self) -> list[str]:
        raise NotImplementedError

    def _series(self, suffix: str, values: Sequence[str], extra: Sequence[str] = ()) -> str:
        pairs = [f'{k}="{_escape(v)}"' for k, v in zip(self.labels, values, strict=True)]
        inner = ",".join([*pairs, *extra])
        return f"{self.name}{suffix}{{{inner}}}"


class Counter(_Metric):
    """A number for each set of label values that only grows."""

    kind = "counter"

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()):
        super().__init__(name, help_text, labels)
        self._values: dict[tuple[str, ...], float] = {}

    def add(self, *values: str, by: float = 1) -> None:
        """Adds to the series with these label values."""
        with self._lock:
            self._values[values] = self._values.get(values, 0) + by

    def _samples(self) -> list[str]:
        with self._lock:
            items = sorted(self._values.items())
        return [f"{self._series('', values)} {number:g}" for values, number in items]


class Gauge(_Metric):
    """A number that is asked for when the page is."""

    kind = "gauge"

    def __init__(self, name: str, help_text: str, read: Callable[[], float]):
        super().__init__(name, help_text)
        self._read = read

    def _samples(self) -> list[str]:
        return [f"{self.name} {self._read():g}"]


class Histogram(_Metric):
    """How often values fell below each of some bounds, with their sum and count."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str] = (),
        bounds: Sequence[float] = LATENCY_BUCKETS,
    ):
        super().__init__(name, help_text, labels)
        self.bounds = tuple(bounds)
        self._values: dict[tuple[str, ...], list] = {}

    def observe(self, value: float, *values: str) -> None:
        """Counts one value in the series with these label values."""
        place = bisect_left(self.bounds, value)
        with self._lock:
            if values not in self._values:
                self._values[values] = [[0] * (len(self.bounds) + 1), 0.0]
            state = self._values[values]
            state[0][place] += 1
            state[1] += value

    def _samples(self) -> list[str]:
        with self._lock:
            items = sorted((k, (list(v[0]), v[1])) for k, v in self._values.items())
        lines = []
        for values, (counts, total) in items:
            below = 0
            for bound, count in zip((*map("{:g}".format, self.bounds), "+Inf"), counts):
                below += count
                limit = f'le="{bound}"'
                lines.append(f"{self._series('_bucket', values, [limit])} {below}")
            lines.append(f"{self._series('_sum', values)} {total:.9g}")
            lines.append(f"{self._series('_count', values)} {below}")
        return lines


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Metrics:
    """What the embedded server counts."""

    def __init__(self) -> None:
        self.request_count = Counter(
            ":tensorflow:serving:request_count",
            "Requests by outcome.",
            ("model_name", "status"),
        )
        self.request_latency = Histogram(
            ":tensorflow:serving:request_latency",
            "Microseconds that a request spent in the server.",
            ("model_name", "API", "entrypoint"),
        )
        self.runtime_latency = Histogram(
            ":tensorflow:serving:runtime_latency",
            "Microseconds that the graph ran.",
            ("model_name", "API", "runtime"),
        )
        self.queuing_latency = Histogram(
            ":tensorflow:serving:batching_session:queuing_latency",
            "Microseconds that a request waited before it ran.",
        )
        self.batch_size = Histogram(
            ":tensorflow:serving:batching_session:processed_batch_size",
            "Images in one run of the graph.",
            bounds=SIZE_BUCKETS,
        )
        self.load_attempts = Counter(
            ":tensorflow:cc:saved_model:load_attempt_count",
            "Attempts to load a version.",
            ("model_path", "status"),
        )
        self.load_latency = Histogram(
            ":tensorflow:cc:saved_model:load_latency",
            "Microseconds that loading a version took.",
            ("model_path",),
        )
        self.warm_up_latency = Histogram(
            ":tensorflow:serving:model_warmup_latency",
            "Microseconds that the warm-up of a version took.",
            ("model_path", "status"),
        )
        self._all: list[_Metric] = [v for v in vars(self).values() if isinstance(v, _Metric)]

    def add_gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Adds a number that is read when the page is."""
        self._all.append(Gauge(name, help_text, read))

    def page(self) -> str:
        """Everything in Prometheus' text format, version 0.0.4."""
        return "\n".join([line for metric in self._all for line in metric.lines()] + [""])
