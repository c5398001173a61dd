"""How far a converted model is from the SavedModel on real slices."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tfstyle.data import Scan, read_scans, scan_to_unit
from tfstyle.errors import ArgumentError, ConversionError, first_line
from tfstyle.export.signatures import ENCODE_STYLE

if TYPE_CHECKING:
    import tensorflow as tf

    from tfstyle.export.servable import Servable

Paths = str | os.PathLike | Sequence[str | os.PathLike]
#: Takes inputs by name, gives outputs by name.
Runner = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]

#: Windows of content and style, in turn: a dark and a bright style, and one without soft tissue.
WINDOWS = (("soft_tissue", "bone"), ("bone", "soft_tissue"), ("soft_tissue", "lung"))
#: What an input of unknown rank, ``strength``, is given.
STRENGTH = 0.5
#: Largest difference beyond which a conversion is not this model.
_DAMAGED = 1e-2


def find_scans(paths: Paths) -> list[Scan]:
    """All scans in files and folders; where none are named, CT that packages carry."""
    chosen = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if chosen:
        return [scan for path in chosen for scan in read_scans(path)]
    from pydicom.data import get_testdata_file

    from tfstyle.data.extra_ct import extra_ct

    return extra_ct() or read_scans(str(get_testdata_file("CT_small.dcm", download=False)))


def signature_inputs(
    servable: Servable,
    inputs: Mapping[str, tf.TensorSpec],
    scans: Sequence[Scan],
    count: int,
    size: int | None = None,
) -> list[dict[str, np.ndarray]]:
    """What a signature takes, for `count` pairs of content and style.

    An image is the content, or the style where it is called ``style``; a strength is ``STRENGTH``;
    anything else is the style's code, made by the SavedModel itself. Raises an ArgumentError where
    the signature takes something else.
    """

    def value(name: str, spec: tf.TensorSpec, content: np.ndarray, style: np.ndarray) -> np.ndarray:
        if spec.shape.rank == 4 and spec.shape[-1] == 1:
            return style if name == "style" else content
        if spec.shape.rank == 1:
            return np.full(1, STRENGTH, np.float32)
        if ENCODE_STYLE in servable.signatures:
            takes = servable.signatures[ENCODE_STYLE].inputs
            (code,) = servable.run(ENCODE_STYLE, dict.fromkeys(takes, style)).values()
            if spec.shape.is_compatible_with(code.shape):
                return code
        raise ArgumentError(
            f"signature: must take images, a strength or a style code that {ENCODE_STYLE!r} gives, "
            f"received {name!r} of shape {spec.shape}."
        )

    return [
        {name: value(name, spec, *pair) for name, spec in inputs.items()}
        for pair in _image_pairs(scans, count, size)
    ]


def _image_pairs(
    scans: Sequence[Scan], count: int, size: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Content and style, float32 (1, H, W, 1) in [0, 1], spread evenly over all slices.

    CT is shown through ``WINDOWS``, scans in other units through ``"auto"``.
    """
    slices = [(scan, index) for scan in scans for index in range(len(scan))]

    def image(place: int, window: str) -> np.ndarray:
        scan, index = slices[place % len(slices)]
        shown = scan_to_unit(scan[index], window if scan.units == "HU" else "auto")
        if size is None or shown.shape[1:3] == (size, size):
            return shown
        import tensorflow as tf

        resized = tf.image.resize(shown, (size, size), antialias=True).numpy()
        return np.clip(resized, 0.0, 1.0).astype(np.float32)

    for number in range(count):
        place = int((number + 0.5) * len(slices) / count)
        content, style = WINDOWS[number % len(WINDOWS)]
        # The style comes from half way through all the others: another scan, or another region.
        yield image(place, content), image(place + (len(slices) + 1) // 2, style)


@dataclass(frozen=True)
class Difference:
    """How far the outputs of a converted model lie from the SavedModel's.

    Attributes:
        pairs: Number of content and style pairs.
        max_difference: Largest absolute difference, in gray levels of [0, 1] for images.
        mean_difference: Mean absolute difference.
        equal_share: For outputs of whole numbers, such as masks, which the other figures leave
            out: share of values that are the same. None where there are none.
    """

    pairs: int
    max_difference: float
    mean_difference: float
    equal_share: float | None = None


def measure_difference(
    saved_model: Runner, converted: Runner, samples: Sequence[Mapping[str, np.ndarray]]
) -> Difference:
    """Compares two models on the same inputs, the first of which is right.

    Raises a ConversionError if the other fails, gives other shapes or values that are not finite,
    or differs so much that it is not this model.
    """
    largest, span, means, equal = 0.0, 1.0, [], []
    for inputs in samples:
        expected = saved_model(inputs)
        try:
            found = converted(inputs)
        except Exception as error:
            raise ConversionError(
                f"the converted model does not run: {first_line(error)}"
            ) from error
        errors = []
        for name, values in expected.items():
            shape = found[name].shape if name in found else None
            if shape != values.shape:
                raise ConversionError(
                    f"the converted model's output {name!r} has shape {shape}, the SavedModel's "
                    f"{values.shape}."
                )
            if values.dtype.kind in "iub":
                equal.append(np.mean(found[name] == values))
                continue
            errors.append(np.abs(found[name].astype(np.float64) - values).ravel())
            if values.ndim != 4:  # codes are larger than gray levels
                span = max(span, float(np.ptp(values)))
        off = np.concatenate(errors or [np.zeros(1)])
        if not np.isfinite(off).all():
            raise ConversionError("the converted model gives NaN or infinite values.")
        largest = max(largest, float(off.max()))
        means.append(off.mean())
    if largest > _DAMAGED * span:
        raise ConversionError(
            f"the converted model differs from the SavedModel by up to {largest:.3g}; nothing was "
            "written."
        )
    share = float(np.mean(equal)) if equal else None
    return Difference(len(samples), largest, float(np.mean(means)), share)
