"""Real slices as inputs of a signature, to compare on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfstyle.data import Scan, read_scans, scan_to_unit
from tfstyle.errors import ArgumentError
from tfstyle.export.signatures import ENCODE_STYLE

if TYPE_CHECKING:
    import tensorflow as tf

    from tfstyle.export.servable import Servable

Paths = str | os.PathLike | Sequence[str | os.PathLike]

#: Windows of content and style, in turn: a dark and a bright style, and one without soft tissue.
WINDOWS = (("soft_tissue", "bone"), ("bone", "soft_tissue"), ("soft_tissue", "lung"))
#: What an input of unknown rank, ``strength``, is given.
STRENGTH = 0.5


def find_scans(paths: Paths) -> list[Scan]:
    """All scans in files and folders; where none are named, CT that packages carry."""
    chosen = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if chosen:
        return [scan for path in chosen for scan in read_scans(path)]
    from pydicom.data import get_testdata_file

    from tfstyle.data.extra_ct import extra_ct

    return extra_ct() or read_scans(str(get_testdata_file("CT_small.dcm", download=False)))


def image_pairs(
    scans: Sequence[Scan], count: int, size: int | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of content and style, float32 (1, H, W, 1) in [0, 1], spread evenly over all slices.

    CT is shown through ``WINDOWS``, scans in other units through ``"auto"``. Slices are used again
    where there are fewer than `count`, and keep their size unless `size` gives another side.
    """
    slices = [(scan, index) for scan in scans for index in range(len(scan))]
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for number in range(count):
        place = int((number + 0.5) * len(slices) / count)
        if count > len(slices):
            place = number % len(slices)
        # The style comes from half way through all the others: another scan, or another region.
        away = (place + (len(slices) + 1) // 2) % len(slices)
        chosen = zip((slices[place], slices[away]), WINDOWS[number % len(WINDOWS)])
        content, style = (_image(*place, window, size) for place, window in chosen)
        pairs.append((content, style))
    return pairs


def _image(scan: Scan, index: int, window: str, size: int | None) -> np.ndarray:
    image = scan_to_unit(scan[index], window if scan.units == "HU" else "auto")
    if size is None or image.shape[1:3] == (size, size):
        return image
    import tensorflow as tf

    resized = tf.image.resize(image, (size, size), antialias=True).numpy()
    return np.clip(resized, 0.0, 1.0).astype(np.float32)


def signature_inputs(
    servable: Servable,
    inputs: Mapping[str, tf.TensorSpec],
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
) -> list[dict[str, np.ndarray]]:
    """What a signature takes, for every pair.

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

    return [{name: value(name, spec, *pair) for name, spec in inputs.items()} for pair in pairs]
