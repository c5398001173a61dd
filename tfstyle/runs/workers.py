"""Training over several machines: what ``TF_CONFIG`` says, and the strategy that follows from it.

One process runs on each machine, all with the same command. They are the workers; the first is the
chief, which alone writes the results. See
https://www.tensorflow.org/guide/distributed_training#TF_CONFIG.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfstyle.errors import ArgumentError, WorkerError

#: What TensorFlow raises where another worker is gone, or came back without the others.
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)


@dataclass(frozen=True)
class Worker:
    """The place of this process among the workers of a run.

    Attributes:
        rank: 0 for the chief, then 1, 2, …
        count: Number of workers.
        address: ``"host:port"`` at which this worker listens; empty if it is the only one.
    """

    rank: int = 0
    count: int = 1
    address: str = ""

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the results."""
        return self.rank == 0

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Worker:
        """Reads ``TF_CONFIG``; without it the process is the only worker.

        Args:
            environ: Environment variables.

        Raises:
            ArgumentError: If its cluster and task do not fit together.

        Example:
            >>> cluster = {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}
            >>> config = {"cluster": cluster, "task": {"type": "worker", "index": 1}}
            >>> Worker.from_environment({"TF_CONFIG": json.dumps(config)})
            Worker(rank=1, count=2, address='10.0.0.2:2222')
        """
        text = environ.get("TF_CONFIG", "").strip()
        if text in ("", "{}"):
            return cls()
        try:
            config = json.loads(text)
            jobs = tf.train.ClusterSpec(config["cluster"]).as_dict()
            chiefs, workers = jobs.get("chief", []), jobs.get("worker", [])
            kind, index = config["task"]["type"], int(config["task"]["index"])
            places = [("chief", i) for i in range(len(chiefs))]
            places += [("worker", i) for i in range(len(workers))]
            rank, addresses = places.index((kind, index)), [*chiefs, *workers]
            fits = len(jobs) == bool(chiefs) + bool(workers) and len(chiefs) < 2
            fits &= len({*addresses}) == len(places) and all(map(_is_address, addresses))
        except (AttributeError, KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise ArgumentError(
                'TF_CONFIG: must be {"cluster": {"worker": ["host:port", …]}, "task": {"type": '
                '"worker", "index": 0}}, with one "chief" beside "worker" if wanted, received '
                f"{' '.join(text.split())}."
            )
        return cls(rank, len(places), addresses[rank]) if len(places) > 1 else cls()

    def strategy(self) -> tf.distribute.Strategy:
        """All devices of this machine, or of all machines.

        With several workers this waits for the others, and must come before anything else that
        TensorFlow does in the process.

        Returns:
            ``MirroredStrategy`` for one worker, ``MultiWorkerMirroredStrategy`` for several.

        Raises:
            ArgumentError: If this worker cannot listen at its address, or TensorFlow is in use
                already.
            WorkerError: If the others do not come.
        """
        if self.count == 1:
            return tf.distribute.MirroredStrategy()
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            raise ArgumentError(
                "TF_CONFIG: TensorFlow is in use in this process already; start the training in a "
                f"process of its own ({error})."
            ) from None
        except tf.errors.UnknownError as error:
            raise ArgumentError(
                f"TF_CONFIG: cannot listen at {self.address} ({error.message.strip()})."
            ) from None
        except LOST as error:
            raise WorkerError("the other workers cannot be reached.") from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """Says in one line that another worker has stopped, where TensorFlow says it in many.

        Raises:
            WorkerError: In place of TensorFlow's error, which comes some seconds after a worker
                has gone.
        """
        try:
            yield
        except LOST as error:
            if self.count == 1:
                raise
            raise WorkerError(
                "another worker has stopped; its own message says why. Give every worker its "
                "command again to resume."
            ) from error


def from_chief(
    strategy: tf.distribute.Strategy, values: Sequence[np.ndarray | float]
) -> list[np.ndarray]:
    """The chief's values on every worker; every worker has to call it.

    Args:
        strategy: The strategy of the run.
        values: Numbers or arrays, of the same shapes on every worker; whole numbers below 2⁵³.

    Returns:
        The chief's values, in shapes and data types of this worker's.
    """
    arrays = [np.asarray(value) for value in values]
    flat = np.concatenate([array.astype(np.float64).ravel() for array in arrays])
    shares = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(flat * (context.replica_id_in_sync_group == 0))
    )
    flat = strategy.reduce("SUM", shares, axis=None).numpy()
    parts = np.split(flat, np.cumsum([array.size for array in arrays])[:-1])
    return [
        part.reshape(array.shape).astype(array.dtype)
        for part, array in zip(parts, arrays, strict=True)
    ]


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


__all__ = ["Worker", "from_chief"]
