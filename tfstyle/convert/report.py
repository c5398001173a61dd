"""What a conversion did to a model: its size, and its difference on real slices."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tfstyle.errors import ConversionError, first_line

FORMAT = "tfstyle-conversion/3"
#: Largest difference beyond which a conversion is not this model.
_DAMAGED = 1e-2

#: Takes inputs by name, gives outputs by name.
Runner = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Difference:
    """How far the outputs of a converted model lie from the SavedModel's.

    Attributes:
        pairs: Number of content and style pairs.
        max_difference: Largest absolute difference, in gray levels of [0, 1] for images.
        mean_difference: Mean absolute difference.
        psnr_db: 10·log10(peak² / mean squared difference) over all pairs; the peak is 1 for
            images, the SavedModel's span of values for anything else. None where all is equal.
        lowest_psnr_db: The same of the worst pair.
        equal_share: For outputs of whole numbers, such as masks, which the other figures leave
            out: share of values that are the same. None where there are none.
    """

    pairs: int
    max_difference: float
    mean_difference: float
    psnr_db: float | None
    lowest_psnr_db: float | None
    equal_share: float | None = None


@dataclass(frozen=True)
class ConversionReport:
    """The report that is written beside a converted model as ``<model>.json``.

    Attributes:
        target: ``"tflite"`` or ``"onnx"``.
        precision: ``"float32"`` or ``"float16"``.
        signature: Signature of the SavedModel.
        size: Side of the images that the model takes; None for any height and width.
        model: Of the converted model: ``"file"``, ``"bytes"``, ``"sha256"``, ``"inputs"``,
            ``"outputs"`` and ``"operations"`` with their numbers.
        source: What the export recorded of its model; None for a SavedModel of other origin.
        dropped: Checks of the SavedModel that the converted model lacks.
        difference: See :class:`Difference`.
        versions: tfstyle, Python and packages (None if not installed).
        created: Time in UTC.
    """

    target: str
    precision: str
    signature: str
    size: int | None
    model: dict
    source: dict | None
    dropped: dict
    difference: Difference
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
    """Compares two models on the same inputs, the first of which is right.

    Raises a ConversionError if the other fails, gives other shapes or values that are not finite,
    or differs so much that it is not this model.
    """
    largest, span, absolute, squares, equal = 0.0, 0.0, [], [], []
    for inputs in samples:
        expected = saved_model(inputs)
        try:
            found = converted(inputs)
        except Exception as error:
            raise ConversionError(
                f"the converted model does not run: {first_line(error)}"
            ) from error
        errors, peak = [np.zeros(1)], 0.0
        for name, values in expected.items():
            shape = found[name].shape if name in found else None
            if shape != values.shape:
                raise ConversionError(
                    f"the converted model's output {name!r} has shape {shape}, the SavedModel's "
                    f"{values.shape}."
                )
            if values.dtype.kind in "iub":
                equal.append(float(np.mean(found[name] == values)))
                continue
            errors.append(np.abs(found[name].astype(np.float64) - values).ravel())
            peak = max(peak, 1.0 if values.ndim == 4 else float(np.ptp(values)))
        off = np.concatenate(errors)[len(errors) > 1 :]
        if not np.isfinite(off).all():
            raise ConversionError("the converted model gives NaN or infinite values.")
        largest, span = max(largest, float(off.max())), max(span, peak)
        absolute.append(float(off.mean()))
        squares.append(float(np.mean((off / (peak or 1.0)) ** 2)))
    if largest > _DAMAGED * max(1.0, span):
        raise ConversionError(
            f"the converted model differs from the SavedModel by up to {largest:.3g}; nothing was "
            "written."
        )
    return Difference(
        pairs=len(samples),
        max_difference=largest,
        mean_difference=float(np.mean(absolute)),
        psnr_db=_psnr(float(np.mean(squares))),
        lowest_psnr_db=_psnr(max(squares)),
        equal_share=float(np.mean(equal)) if equal else None,
    )


def _psnr(mean_square: float) -> float | None:
    return None if mean_square == 0 else round(-10 * float(np.log10(mean_square)), 2)
