"""The pipeline itself: chunks of the work, spread over workers."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

#: Counters in the namespace ``tfstyle`` of Beam's metrics.
COUNTERS = ("done", "resumed", "failed", "gated", "left out")


class DoChunk(beam.DoFn):
    """Does chunks of the work with a model that is loaded once a process.

    Args:
        output: Folder of the results, as all workers see it.
    """

    def __init__(self, output: str):
        self.output = output
        self.shared = Shared()
        self.counters = {name: Metrics.counter("tfstyle", name) for name in COUNTERS}

    def setup(self) -> None:
        self.worker = self.shared.acquire(self._load)

    def _load(self):
        from tfstyle.beam.chunks import Worker

        return Worker(self.output)

    def process(self, chunk: int) -> Iterator[int]:
        for word in self.worker.run(chunk):
            self.counters[word].inc()
        yield chunk


def build(pipeline: beam.Pipeline, output: str, chunks: int) -> beam.PCollection:
    """Adds the work to a pipeline.

    Args:
        pipeline: The pipeline.
        output: Folder of the results.
        chunks: Number of chunks.

    Returns:
        The numbers of the chunks that are done.
    """
    return (
        pipeline
        | "Chunks" >> beam.Create(range(chunks), reshuffle=False)
        | "Spread" >> beam.Reshuffle()
        | "Work" >> beam.ParDo(DoChunk(output))
    )
