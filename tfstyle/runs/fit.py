"""``model.fit`` in a folder, which resumes: backups, the history and grids of images."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from tfstyle._private.files import read_json, write_atomically
from tfstyle.callbacks import StyleImages
from tfstyle.encoders.weights import load_npz, save_npz
from tfstyle.errors import WeightsError
from tfstyle.style_transfer import StyleTransfer


def fit_resumable(
    model: StyleTransfer,
    dataset: Callable[..., tf.data.Dataset],
    folder: str | os.PathLike,
    *,
    epochs: int,
    steps: int,
    extra_callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> History:
    """``model.fit`` in a folder; called again after an interruption, it resumes.

    The folder then holds ``history.json``, ``grids/``, and ``backup/``, which is of no use any more
    once the model is saved.

    Args:
        model: Compiled, in the scope of the strategy it trains under.
        dataset: Called with the number of steps done already, gives the batches that follow, as
            :func:`tfstyle.data.pair_dataset` does with ``start``.
        folder: Where backups, history and grids lie; made if it is not there.
        epochs: Number of epochs.
        steps: Steps an epoch; a backup is made after each epoch.
        extra_callbacks: Further Keras callbacks, such as ``keras.callbacks.TensorBoard``.
        verbose: Of ``Model.fit``.

    Returns:
        The history of all epochs, those before an interruption included.

    Example:
        >>> def pairs(start):
        ...     return pair_dataset(scans, start=start)
        >>> history = fit_resumable(model, pairs, "runs/first", epochs=10,
        ...                         steps=100)  # doctest: +SKIP
    """
    with model.distribute_strategy.scope():
        model.optimizer.build(model.trainable_variables)
    folder = Path(folder)
    backup = Backup(folder / "backup", steps)
    backup.set_model(model)
    backup.on_train_begin()
    history = History(folder / "history.json")
    sample = next(iter(dataset(0).take(1)))
    pairs = sample["content"].numpy()[:4], sample["style"].numpy()[:4]
    grids = StyleImages(*pairs, folder / "grids")
    batches = dataset(steps_done(model))
    model.fit(
        batches,
        epochs=epochs,
        steps_per_epoch=steps,
        shuffle=False,  # the pairs are random already
        verbose=verbose,
        # The backup last: an epoch that it holds has its line in the history and its grid.
        callbacks=[history, grids, backup, *extra_callbacks],
    )
    del batches
    gc.collect()  # ends the pipeline's threads while the interpreter is sound
    return history


class Backup(keras.callbacks.Callback):
    """Keeps the model and its optimizer after each epoch of `steps`, in one file of `folder`.

    It is replaced as a whole, and the optimizer's own counter in it tells the epoch: of what
    ``keras.callbacks.BackupAndRestore`` writes, a process killed in between leaves a part.
    """

    def __init__(self, folder: Path, steps: int):
        super().__init__()
        self.path = folder / "state.npz"
        self.steps = steps

    def _state(self) -> dict[str, keras.Variable]:
        """Every variable, by its place; names are not unique."""
        variables = [*self.model.weights, *self.model.optimizer.variables]
        return {f"{number:04d}": variable for number, variable in enumerate(variables)}

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Takes up what a backup holds; a WeightsError if it is damaged or of another model."""
        state = self._state()
        if self.path.exists():
            arrays = load_npz(self.path)
            if {k: a.shape for k, a in arrays.items()} != {k: v.shape for k, v in state.items()}:
                raise WeightsError(f"{self.path}: is of another model; choose another folder.")
            for key, variable in state.items():
                variable.assign(arrays[key])
        self.model._initial_epoch = steps_done(self.model) // self.steps

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Replaces the backup."""
        save_npz(self.path, {k: keras.ops.convert_to_numpy(v) for k, v in self._state().items()})


class History(keras.callbacks.Callback):
    """Keeps terms of the loss over restarts, in a file ``{"loss": [...], …}``, a value an epoch."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.terms: dict[str, list[float | None]] = {}
        self.first_epoch = 0

    @property
    def last(self) -> dict[str, float | None]:
        """Terms of the last epoch."""
        return {term: values[-1] for term, values in self.terms.items() if values}

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.first_epoch = self.model._initial_epoch or 0
        self.read(self.first_epoch)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        for term, value in (logs or {}).items():
            before = self.terms.get(term, [])[:epoch]
            self.terms[term] = before + [None] * (epoch - len(before)) + [float(value)]
        text = json.dumps(self.terms, indent=2, sort_keys=True)
        write_atomically(self.path, f"{text}\n".encode())

    def read(self, epochs: int) -> None:
        """Takes up so many epochs of the file; none where it cannot be read."""
        try:
            self.terms = {term: values[:epochs] for term, values in read_json(self.path).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            self.terms = {}


def steps_done(model: keras.Model) -> int:
    """Steps of training in all, over every restart."""
    return int(model.optimizer.iterations.numpy())
