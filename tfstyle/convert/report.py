"""What a conversion did to a model: size, difference on real slices, time. One form for all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import numpy as np

from tfstyle import __version__
from tfstyle.errors import ConversionError, first_line

logger = logging.getLogger(__name__)

FORMAT = "tfstyle-conversion/1"
TARGETS = ("tflite", "onnx", "trt")
PRECISIONS = ("float32", "float16", "int8")
#: What a conversion should reach on real slices, as largest difference or PSNR in dB.
GOALS = {
    "float32": {"max_difference": 1e-4},
    "float16": {"psnr_db": 45.0},
    "int8": {"psnr_db": 30.0},
}
#: Largest difference of a float32 conversion beyond which it is no conversion of this model.
_DAMAGED = 1e-2
_PACKAGES = ("tensorflow", "ai-edge-litert", "litert-quantizer", "tf2onnx", "onnx", "onnxruntime")

#: Takes inputs by name, gives outputs by name.
Runner = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Difference:
    """How far the outputs of a converted model lie from the SavedModel's.

    Attributes:
        pairs: Number of content and style pairs.
        sizes: Their content sizes, (rows, columns), each once.
        max_difference: Largest absolute difference, in gray levels of [0, 1] for images.
        mean_difference: Mean absolute difference.
        psnr_db: 10·log10(peak² / mean squared difference) over all pairs; the peak is 1 for
            images, the SavedModel's span of values for anything else. None where all is equal.
        lowest_psnr_db: The same of the worst pair.
        equal_share: For outputs of whole numbers, such as masks, which the other figures leave
            out: share of values that are the same. None where there are none.
    """

    pairs: int
    sizes: list[list[int]]
    max_difference: float
    mean_difference: float
    psnr_db: float | None
    lowest_psnr_db: float | None
    equal_share: float | None = None


@dataclass(frozen=True)
class Latency:
    """Times of one call with one image, in ms: medians over `calls` calls in turn.

    Attributes:
        threads: Threads that either may use.
        calls: Calls of each.
        saved_model_ms: Of the SavedModel, run by TensorFlow's session loader as a server does.
        converted_ms: Of the converted model.
        ratio: Converted over SavedModel: the median of the ratios of neighbouring calls.
    """

    threads: int
    calls: int
    saved_model_ms: float
    converted_ms: float
    ratio: float


@dataclass(frozen=True)
class ConversionReport:
    """The report that is written beside a converted model as ``<model>.json``.

    Attributes:
        target: ``"tflite"``, ``"onnx"`` or ``"trt"``.
        precision: ``"float32"``, ``"float16"`` or ``"int8"``.
        signature: Signature of the SavedModel.
        size: Side of the images that the model takes; None for any height and width.
        model: The converted model: ``"file"``, ``"bytes"``, ``"sha256"``, ``"inputs"``,
            ``"outputs"`` and ``"operations"`` with their numbers.
        saved_model: The source: ``"bytes"``, ``"sha256"`` and what its export recorded of it.
        method: How it was converted, in words, and on how many slices it was calibrated.
        dropped: Checks of the SavedModel that the converted model lacks.
        difference: See :class:`Difference`.
        latency: See :class:`Latency`.
        reached: Whether each goal of ``GOALS`` is reached.
        versions: Packages, Python and the machine's processor.
        created: Time in UTC.
    """

    target: str
    precision: str
    signature: str
    size: int | None
    model: dict
    saved_model: dict
    method: dict
    dropped: dict
    difference: Difference
    latency: Latency
    reached: dict
    versions: dict
    created: str

    def as_dict(self) -> dict:
        """The report as plain types, with its format."""
        return {"format": FORMAT, **asdict(self)}

    def to_json(self) -> bytes:
        """The report as the file's content."""
        return (json.dumps(self.as_dict(), indent=2) + "\n").encode()


def measure_difference(
    saved_model: Runner, converted: Runner, samples: Sequence[Mapping[str, np.ndarray]]
) -> Difference:
    """Compares two models on the same inputs.

    Args:
        saved_model: The one that is right.
        converted: The other.
        samples: Inputs by name.

    Raises:
        ConversionError: The converted model fails, or gives other shapes or values that are not
            finite.
    """
    largest, absolute, squares, sizes, equal = 0.0, [], [], [], []
    for inputs in samples:
        expected = saved_model(inputs)
        try:
            found = converted(inputs)
        except Exception as error:
            raise ConversionError(
                f"the converted model does not run: {first_line(error)}"
            ) from error
        errors, peak = [], 0.0
        for name, values in expected.items():
            if name not in found or found[name].shape != values.shape:
                shape = found[name].shape if name in found else None
                raise ConversionError(
                    f"the converted model's output {name!r} has shape {shape}, the SavedModel's "
                    f"{values.shape}."
                )
            if values.dtype.kind in "iub":
                equal.append(float(np.mean(found[name] == values)))
                continue
            errors.append(np.abs(found[name].astype(np.float64) - values).ravel())
            peak = max(peak, 1.0 if values.ndim == 4 else float(np.ptp(values)))
        error = np.concatenate(errors) if errors else np.zeros(1)
        if not np.isfinite(error).all():
            raise ConversionError("the converted model gives NaN or infinite values.")
        largest = max(largest, float(error.max()))
        absolute.append(float(error.mean()))
        squares.append(float(np.mean((error / (peak or 1.0)) ** 2)))
        size = list(next(iter(inputs.values())).shape[1:3])
        if size not in sizes:
            sizes.append(size)
    return Difference(
        pairs=len(samples),
        sizes=sizes,
        max_difference=largest,
        mean_difference=float(np.mean(absolute)),
        psnr_db=_rounded(_psnr(float(np.mean(squares)))),
        lowest_psnr_db=_rounded(_psnr(max(squares))),
        equal_share=float(np.mean(equal)) if equal else None,
    )


def _psnr(mean_square: float) -> float:
    return float("inf") if mean_square == 0 else -10 * float(np.log10(mean_square))


def _rounded(psnr: float) -> float | None:
    return None if np.isinf(psnr) else round(psnr, 2)


def measure_latency(
    saved_model: Runner,
    converted: Runner,
    samples: Sequence[Mapping[str, np.ndarray]],
    rounds: int = 5,
) -> Latency:
    """Times two models in turn on the same inputs, after a call of each that does not count.

    Args:
        saved_model: Run by :class:`tfstyle.serving.Servable`.
        converted: The converted model, with as many threads as TensorFlow has (:func:`threads`).
        samples: Inputs by name; with free sizes, all of one size, for a runtime that plans its
            memory anew for another.
        rounds: Calls of each with each sample.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for inputs in samples:
        for run in (saved_model, converted):
            run(inputs)
        for _ in range(rounds):
            for run, seconds in zip((saved_model, converted), times):
                start = time.perf_counter()
                run(inputs)
                seconds.append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(*times)]
    before, after = (statistics.median(seconds) * 1000 for seconds in times)
    return Latency(
        threads=threads(),
        calls=len(ratios),
        saved_model_ms=round(before, 2),
        converted_ms=round(after, 2),
        ratio=round(statistics.median(ratios), 3),
    )


def threads() -> int:
    """Threads that TensorFlow uses within an operation, and so a converted model for comparison."""
    import tensorflow as tf

    chosen = tf.config.threading.get_intra_op_parallelism_threads()
    chosen = chosen or int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0)
    if chosen < 1:
        affinity = getattr(os, "sched_getaffinity", None)
        chosen = len(affinity(0)) if affinity else os.cpu_count() or 1
    return chosen


def goals_reached(precision: str, difference: Difference) -> dict[str, bool]:
    """Whether each goal of ``GOALS`` is reached, by its name."""
    reached = {}
    for name, goal in GOALS[precision].items():
        value = getattr(difference, name)
        within = value <= goal if name == "max_difference" else value is None or value >= goal
        reached[f"{name} {'<=' if name == 'max_difference' else '>='} {goal:g}"] = bool(within)
    return reached


def checked(precision: str, difference: Difference) -> dict[str, bool]:
    """:func:`goals_reached`, with a warning where one is not.

    Raises:
        ConversionError: A float32 conversion differs so much that it is not this model.
    """
    if precision == "float32" and difference.max_difference > _DAMAGED:
        raise ConversionError(
            f"the converted model differs from the SavedModel by up to "
            f"{difference.max_difference:.3g} gray levels of [0, 1]; nothing was written."
        )
    reached = goals_reached(precision, difference)
    for goal, within in reached.items():
        if not within:
            logger.warning(
                "%s misses %s: largest difference %.2g, PSNR %s dB",
                precision,
                goal,
                difference.max_difference,
                difference.psnr_db,
            )
    return reached


def versions() -> dict[str, str | None]:
    """Versions of tfstyle, Python and the converters' packages; None where not installed."""
    found: dict[str, str | None] = {
        "tfstyle": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def digest(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 of a file, or of all files of a folder in the order of their names."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    sha256, size = hashlib.sha256(), 0
    for file in files:
        if file != path:
            sha256.update(file.relative_to(path).as_posix().encode() + b"\0")
        content = file.read_bytes()
        sha256.update(content)
        size += len(content)
    return size, sha256.hexdigest()


def now() -> str:
    """The time in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
