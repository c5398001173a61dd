"""Who runs when: a bounded queue, a few workers, and requests joined to batches.

Requests for the same signature of the same version, with images of the same sizes, may run as one
batch. A worker that becomes free takes what waits, up to the largest batch; only where fewer wait
does it give others a moment (``timeout``) to come. So a busy server fills its batches by itself.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tfstyle.errors import ArgumentError
from tfstyle.serving.monitoring import Metrics
from tfstyle.serving.status import StatusError, from_exception
from tfstyle.serving.versions import Lease, checked_seconds

if TYPE_CHECKING:
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

# How often a waiting request looks whether its client is still there, in seconds.
_LOOK = 0.5


@dataclass(frozen=True)
class Batching:
    """How requests are joined.

    Args:
        max_batch_size: Most images of one run of the graph.
        timeout: Seconds that a request waits for others to join it, at most, while a worker is
            free. TensorFlow Serving's ``batch_timeout_micros`` in seconds.

    Raises:
        ArgumentError: A value that cannot be used.
    """

    max_batch_size: int = 8
    timeout: float = 0.002

    def __post_init__(self) -> None:
        size = self.max_batch_size
        if isinstance(size, bool) or not isinstance(size, int) or size < 2:
            raise ArgumentError(
                f"max_batch_size: must be a whole number of at least 2, received {size!r}"
            )
        checked_seconds("timeout", self.timeout)


class Task:
    """One request on its way through the scheduler."""

    def __init__(
        self,
        lease: Lease,
        signature: str,
        inputs: dict[str, np.ndarray],
        outputs: list[str],
        deadline: float | None,
    ):
        self.lease = lease
        self.signature = signature
        self.inputs = inputs
        self.outputs = outputs
        self.deadline = deadline
        self.key: tuple | None = None
        self.size = 1
        self.queued_at = time.monotonic()
        self.results: dict[str, np.ndarray] | None = None
        self.error: BaseException | None = None
        self.abandoned = False
        self._done = threading.Event()

    def abandon(self) -> None:
        """Says that nobody waits for the answer any more."""
        self.abandoned = True
        self._done.set()

    def finish(
        self, results: dict[str, np.ndarray] | None = None, error: BaseException | None = None
    ) -> None:
        """Hands the answer over and gives the version back."""
        self.results, self.error = results, error
        self.lease.release()
        self._done.set()

    def wait(self, gone: Callable[[], bool] | None) -> dict[str, np.ndarray]:
        """The answer.

        Args:
            gone: Whether the client has left; asked from time to time.

        Raises:
            StatusError: DEADLINE_EXCEEDED or CANCELLED.
            Exception: What the run raised.
        """
        while True:
            remaining = math.inf if self.deadline is None else self.deadline - time.monotonic()
            if self._done.wait(max(0.0, min(remaining, _LOOK if gone else remaining, 3600.0))):
                break
            if remaining <= 0:
                self.abandon()
                raise StatusError(
                    "DEADLINE_EXCEEDED", "the request was not done before its deadline"
                )
            if gone is not None and gone():
                self.abandon()
        if self.error is not None:
            raise self.error
        if self.results is None:
            raise StatusError("CANCELLED", "the client cancelled the request")
        return self.results


class Scheduler:
    """Runs requests, a few at a time, and refuses more than it can hold.

    Args:
        running: Runs of graphs at the same time.
        waiting: Requests that may wait besides.
        batching: Join requests; None runs each alone.
        pixels: Most pixels of one input of a batch.
        metrics: Where waiting times and batch sizes are counted.
    """

    def __init__(
        self,
        running: int,
        waiting: int,
        batching: Batching | None = None,
        pixels: int = 4 * 2**20,
        metrics: Metrics | None = None,
    ):
        self._capacity = running + waiting
        self._batching = batching
        self._pixels = pixels
        self._metrics = metrics or Metrics()
        self._queue: deque[Task] = deque()
        self._condition = threading.Condition()
        self._admitted = 0
        self._stopping = False
        self._workers = [
            threading.Thread(target=self._work, name=f"tfstyle-run-{i}", daemon=True)
            for i in range(running)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def queued(self) -> int:
        """Requests that wait now."""
        return len(self._queue)

    def admit(self) -> Admission:
        """A place for one request, as a context manager.

        Raises:
            StatusError: RESOURCE_EXHAUSTED when all places are taken, UNAVAILABLE after
                :meth:`stop`.
        """
        with self._condition:
            if self._stopping:
                raise StatusError("UNAVAILABLE", "the server is stopping")
            if self._admitted >= self._capacity:
                raise StatusError(
                    "RESOURCE_EXHAUSTED",
                    f"{self._capacity} requests run or wait already; try again later",
                )
            self._admitted += 1
        return Admission(self)

    def submit(self, task: Task, signature: SignatureDef) -> Task:
        """Queues an admitted request.

        Args:
            task: The request, with a lease that the scheduler gives back.
            signature: Its signature, which decides whether it can be joined to others.
        """
        if self._batching is not None:
            self._prepare(task, signature)
        with self._condition:
            if self._stopping:
                task.lease.release()
                raise StatusError("UNAVAILABLE", "the server is stopping")
            self._queue.append(task)
            self._condition.notify()
        return task

    def stop(self) -> None:
        """Takes no more; what still waits is answered UNAVAILABLE, what runs goes on."""
        with self._condition:
            self._stopping = True
            waiting = list(self._queue)
            self._queue.clear()
            self._condition.notify_all()
        for task in waiting:
            task.finish(error=StatusError("UNAVAILABLE", "the server is stopping"))

    def join(self) -> None:
        """Waits, after :meth:`stop`, until nothing runs any more."""
        for worker in self._workers:
            worker.join()

    def _leave(self) -> None:
        with self._condition:
            self._admitted -= 1

    def _prepare(self, task: Task, signature: SignatureDef) -> None:
        """Gives a task its batch key, where it can be joined: all inputs hold as many rows."""
        rows = {len(array) for array in task.inputs.values() if array.ndim}
        if len(rows) != 1:
            return  # one style for several images: a batch already
        (size,) = rows
        if not 1 <= size <= self._batching.max_batch_size:
            return
        for name, array in task.inputs.items():
            shape = signature.inputs[name].tensor_shape
            if array.ndim == 0:
                if not shape.unknown_rank:
                    return  # the signature wants a scalar, which no batch has
                task.inputs[name] = np.full(size, array)
            elif not shape.unknown_rank and shape.dim[0].size != -1:
                return
        task.size = size
        task.key = (
            id(task.lease.servable),
            task.signature,
            tuple(task.outputs),
            tuple(sorted((k, v.dtype.str, v.shape[1:]) for k, v in task.inputs.items())),
        )

    def _work(self) -> None:
        while True:
            batch = self._take()
            if batch is None:
                return
            self._run(batch)

    def _take(self) -> list[Task] | None:
        with self._condition:
            while True:
                if self._stopping:
                    return None
                self._drop_abandoned()
                batch, ripe_at = self._next_batch()
                if batch is not None:
                    for task in batch:
                        self._queue.remove(task)
                    if self._queue:
                        self._condition.notify()  # another worker may take the rest
                    return batch
                self._condition.wait(None if ripe_at is None else ripe_at - time.monotonic())

    def _drop_abandoned(self) -> None:
        now = time.monotonic()
        for task in [
            t for t in self._queue if t.abandoned or (t.deadline is not None and t.deadline <= now)
        ]:
            self._queue.remove(task)
            task.finish(
                error=StatusError("DEADLINE_EXCEEDED", "the deadline passed before the run began")
            )

    def _next_batch(self) -> tuple[list[Task] | None, float | None]:
        """The batch to run now; if none is due, the time at which the first one will be."""
        seen, earliest = set(), None
        for head in self._queue:
            if head.key is None:
                return [head], None
            if head.key in seen:
                continue
            seen.add(head.key)
            batch, size = [], 0
            most = self._most(head)
            full = False
            for task in self._queue:
                if task.key == head.key:
                    if size + task.size > most and batch:
                        full = True
                        break
                    batch.append(task)
                    size += task.size
            ripe_at = head.queued_at + self._batching.timeout
            if full or size >= most or ripe_at <= time.monotonic():
                return batch, None
            earliest = ripe_at if earliest is None else min(earliest, ripe_at)
        return None, earliest

    def _most(self, task: Task) -> int:
        """Most images of a batch with this task: the batch size, or what the pixels allow."""
        pixels = max(
            [1, *(int(np.prod(a.shape[1:3])) for a in task.inputs.values() if a.ndim == 4)]
        )
        return max(task.size, min(self._batching.max_batch_size, self._pixels // pixels))

    def _run(self, batch: list[Task]) -> None:
        now = time.monotonic()
        for task in batch:
            self._metrics.queuing_latency.observe((now - task.queued_at) * 1e6)
        self._metrics.batch_size.observe(sum(task.size for task in batch))
        if len(batch) == 1:
            self._run_alone(batch[0])
            return
        deadlines = [task.deadline for task in batch]
        try:
            results = self._call(
                batch[0],
                {k: np.concatenate([t.inputs[k] for t in batch]) for k in batch[0].inputs},
                None if None in deadlines else max(deadlines),
            )
            rows = sum(task.size for task in batch)
            if any(array.ndim == 0 or len(array) != rows for array in results.values()):
                raise ValueError("an output has another batch size than the inputs")
        except BaseException:
            # One bad request must not fail its neighbours: each runs alone and gets its own answer.
            for task in batch:
                self._run_alone(task)
            return
        start = 0
        for task in batch:
            part = slice(start, start + task.size)
            start += task.size
            task.finish({name: array[part] for name, array in results.items()})

    def _run_alone(self, task: Task) -> None:
        try:
            task.finish(self._call(task, task.inputs, task.deadline))
        except BaseException as error:
            task.finish(error=from_exception(error) or error)

    def _call(
        self, task: Task, inputs: Mapping[str, np.ndarray], deadline: float | None
    ) -> dict[str, np.ndarray]:
        servable = task.lease.servable
        begin = time.perf_counter()
        timeout = None
        if deadline is not None:
            timeout = deadline - time.monotonic()
            if timeout <= 0:
                raise StatusError("DEADLINE_EXCEEDED", "the deadline passed before the run began")
        try:
            return servable.run(task.signature, inputs, task.outputs, timeout=timeout)
        finally:
            self._metrics.runtime_latency.observe(
                (time.perf_counter() - begin) * 1e6, servable.name, "Predict", "TF1"
            )


class Admission:
    """A place in the scheduler; see :meth:`Scheduler.admit`."""

    def __init__(self, scheduler: Scheduler):
        self._scheduler = scheduler

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        self._scheduler._leave()
