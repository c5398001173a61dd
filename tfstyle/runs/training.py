"""A training run in a folder: model, data, backups, history, grids and the finished preset."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfstyle import encoders
from tfstyle._private.files import remove
from tfstyle._private.versions import package_versions
from tfstyle.data import Scan, pair_dataset, read_scans, spine_phantom
from tfstyle.errors import ArgumentError, require_packages
from tfstyle.runs.fit import History, fit_resumable, steps_done
from tfstyle.runs.folder import RunFolder
from tfstyle.runs.options import TrainingRun
from tfstyle.style_transfer import StyleTransfer

log = logging.getLogger(__name__)

#: Settings of a run that are those of ``pair_dataset`` and of ``StyleTransfer.compile``.
_DATA = (
    *("windows", "style_windows", "crop", "batch_size", "seed"),
    *("same_place", "window_jitter", "rescale", "flips"),
)
_LOSSES = (
    *("content_loss", "style_loss", "style_weight", "histogram_weight"),
    *("paired_weight", "tv_weight", "spatial_weight"),
)
#: What is there once an epoch of a run is finished.
_CAME = "backup/state.npz", "history.json", "preset"


@dataclass(frozen=True)
class TrainingResult:
    """What a run left.

    Attributes:
        preset: The preset folder, for ``StyleTransfer.from_preset``.
        history: ``history.json``: one list a term, one value an epoch.
        steps: Steps of training in all, over every restart.
        resumed_from: Epoch at which this call took up the run; 0 for a new run.
        losses: Terms of the last epoch.
    """

    preset: Path
    history: Path
    steps: int
    resumed_from: int
    losses: dict[str, float | None] = field(default_factory=dict)


def train(
    run: TrainingRun,
    output: str | os.PathLike,
    *,
    tensorboard: bool = False,
    extra_callbacks: Sequence[keras.callbacks.Callback] = (),
    overwrite: bool = False,
    verbose: int = 0,
) -> TrainingResult:
    """Trains in ``output``; called again after an interruption of any kind, it resumes.

    Other settings are refused once an epoch is finished; a run that failed before may be given
    again with settings that are right.

    The folder then holds ``run.json`` (the settings), ``history.json``, ``grids/`` (content,
    style and generated after each epoch), ``backup/`` while the run is not finished, and
    ``preset/`` at the end. Training runs on all devices of this machine that TensorFlow sees
    (``tf.distribute.MirroredStrategy``).

    Args:
        run: The settings.
        output: Folder of the run. New or empty, or one that holds the same run.
        tensorboard: Write losses for TensorBoard to ``tensorboard/`` as well.
        extra_callbacks: Further Keras callbacks.
        overwrite: Remove the run that `output` holds and begin again, with any settings.
        verbose: Of ``Model.fit``.

    Returns:
        Paths and final losses.

    Raises:
        ArgumentError: Settings that cannot be used, or other settings than the folder's.
        MissingPackageError: TensorBoard is wanted and not installed.
        InputFileError: A scan that cannot be read.
        OutputError: The folder holds something else, is in use by another training, or cannot be
            written.
        WeightsError: The encoder's weights or the preset cannot be loaded.

    Example:
        >>> run = TrainingRun(content=("ct/",), windows=("bone", "soft_tissue"), epochs=20)
        >>> train(run, "runs/first").preset  # doctest: +SKIP
        PosixPath('runs/first/preset')
    """
    folder = Path(output)
    if tensorboard:
        require_packages({"tensorboard": "tensorboard"}, "tensorboard", "a log for TensorBoard")
        board = keras.callbacks.TensorBoard(str(folder / "tensorboard"))
        extra_callbacks = [board, *extra_callbacks]
    with RunFolder(
        folder,
        {"settings": asdict(run)},
        record="run.json",
        what="training run",
        facts=lambda: {"environment": environment()},
        came=lambda found: any((found.path / name).exists() for name in _CAME),
        overwrite=("backup", "grids", "tensorboard", *_CAME) if overwrite else None,
    ):
        return _train(run, folder, extra_callbacks, verbose)


def _train(
    run: TrainingRun, folder: Path, callbacks: Sequence[keras.callbacks.Callback], verbose: int
) -> TrainingResult:
    strategy = tf.distribute.MirroredStrategy()
    devices = strategy.num_replicas_in_sync
    log.info("training on %d device(s)", devices)
    if run.batch_size < devices:
        raise ArgumentError(f"batch_size: must be at least {devices}, one for each device.")
    preset, history_file = folder / "preset", folder / "history.json"
    if (preset / "preset.json").is_file():
        log.info("%s is finished already", folder)
        remove(folder / "backup")
        done = History(history_file)
        done.read(run.epochs)
        return TrainingResult(preset, history_file, run.epochs * run.steps, run.epochs, done.last)
    keras.utils.set_random_seed(run.seed)
    contents, styles = _load_scans(run)
    with strategy.scope():
        model = _build(run)
        model.compile(
            optimizer=keras.optimizers.Adam(run.learning_rate),
            content_layers=_weighted(run.content_layers, "content_layers"),
            style_layers=_weighted(run.style_layers, "style_layers"),
            **_chosen(run, _LOSSES),
            jit_compile=True if run.xla else "auto",
        )
    history = fit_resumable(
        model,
        # Pairs depend on the seed and their number alone, so the run resumes where it stopped.
        lambda start: pair_dataset(contents, styles, start=start, **_chosen(run, _DATA)),
        folder,
        epochs=run.epochs,
        steps=run.steps,
        extra_callbacks=callbacks,
        verbose=verbose,
    )
    model.save_to_preset(preset, card=_card(run, history.last))
    remove(folder / "backup")
    steps, first = steps_done(model), history.first_epoch
    return TrainingResult(preset, history_file, steps, first, history.last)


def _chosen(run: TrainingRun, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(run, name) for name in names}


def _load_scans(run: TrainingRun) -> tuple[list[Scan], list[Scan]]:
    def read(paths: Sequence[str]) -> list[Scan]:
        # in memory, or on the disk still where a file can be mapped
        return [scan.load() for path in paths for scan in read_scans(path, lazy=True)]

    contents = read(run.content)
    styles = read(run.style) or contents
    phantoms = [
        spine_phantom(seed=run.seed + i, size=max(128, run.crop)).scan for i in range(run.phantoms)
    ]
    return contents + phantoms, styles + phantoms


def _build(run: TrainingRun) -> StyleTransfer:
    start = None if run.preset is None else StyleTransfer.from_preset(run.preset)
    family = encoders.family(run.encoder) if start is None else type(start.encoder)
    layer = run.layer if start is None else start.layer
    if run.layer not in (None, layer):
        raise ArgumentError(f"layer: {run.preset} works at {layer!r} and not {run.layer!r}.")
    # Nothing behind the deepest tap is built: those layers are the largest.
    deepest = family.deepest(
        (
            layer or family.default_layer,
            *(_weighted(run.content_layers, "content_layers") or family.default_content_layers),
            *(_weighted(run.style_layers, "style_layers") or family.default_style_layers),
        )
    )
    if start is not None and deepest in start.encoder.available_taps:
        return start
    encoder = family(weights=None if run.weights == "none" else run.weights, depth=deepest)
    return StyleTransfer(encoder, layer=layer, decoder=start and start.decoder)


def _weighted(layers: Sequence[str] | None, argument: str) -> dict[str, float] | None:
    """``("relu1_1", "relu2_1:0.5")`` as ``{"relu1_1": 1.0, "relu2_1": 0.5}``."""
    if not layers:
        return None
    table = {}
    for text in layers:
        name, colon, weight = text.partition(":")
        try:
            table[name] = float(weight) if colon else 1.0
        except ValueError:
            what = "TAP or TAP:WEIGHT such as relu2_1:0.5"
            raise ArgumentError(f"{argument}: must be {what}, received {text!r}.") from None
    return table


def _card(run: TrainingRun, losses: dict[str, float | None]) -> dict:
    settings = asdict(run)
    # Paths may carry names of patients or machines; a preset travels, so it gets counts alone.
    for key in ("content", "style"):
        settings[key] = len(settings[key])
    return {
        "training": settings,
        "losses": losses,
        "environment": environment(),
        "limits": "Not a medical device, not for diagnosis.",
    }


def environment() -> dict[str, str | None]:
    """Versions of Python, the packages and the source, for result files.

    Returns:
        dict of version strings, None for what is not installed; ``"git"`` only where tfstyle runs
        from a clone.
    """
    versions = package_versions(("tensorflow", "keras", "numpy", "pydicom"))
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        words = ["git", "-C", str(root), "rev-parse", "HEAD"]
        with suppress(OSError, subprocess.CalledProcessError):
            versions["git"] = subprocess.check_output(
                words, stderr=subprocess.DEVNULL, text=True
            ).strip()
    return versions
