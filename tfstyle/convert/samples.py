"""Real slices as inputs of a signature: to calibrate with, and to compare on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfstyle.data import Scan, read_scans, scan_to_unit
from tfstyle.errors import ArgumentError
from tfstyle.export.signatures import ENCODE_NAMES

if TYPE_CHECKING:
    import tensorflow as tf

    from tfstyle.export.servable import Servable

#: Windows of content and style, in turn: a dark and a bright style, and one without soft tissue.
WINDOWS = (("soft_tissue", "bone"), ("bone", "soft_tissue"), ("soft_tissue", "lung"))
#: What an input of unknown rank, ``strength``, is given.
STRENGTH = 0.5


def read_all(paths: str | os.PathLike | Sequence[str | os.PathLike]) -> list[Scan]:
    """Reads all scans in one or several files and folders.

    Raises:
        InputFileError: A path cannot be read.
        ArgumentError: No path is given.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    scans = [scan for path in paths for scan in read_scans(path)]
    if not scans:
        raise ArgumentError("scans: none given; name DICOM files or folders, NIfTI or PNG.")
    return scans


def packaged_scans() -> list[Scan]:
    """CT that packages of the registry carry: pydicom-data's where installed, else pydicom's own.

    Returns:
        Scans in HU, at least one.
    """
    from pydicom.data import get_testdata_file

    from tfstyle.experiments.extra_ct import extra_ct

    return extra_ct() or read_scans(get_testdata_file("CT_small.dcm", download=False))


def image_pairs(
    scans: Sequence[Scan], count: int, size: int | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of content and style, spread evenly over all slices.

    CT is shown through ``WINDOWS``, scans in other units through ``"auto"``.

    Args:
        scans: At least one.
        count: Number of pairs; slices are used again where there are fewer.
        size: Side of the images in pixels; each slice's own unless given.

    Returns:
        Pairs of float32 arrays (1, H, W, 1) in [0, 1].
    """
    slices = [(scan, index) for scan in scans for index in range(len(scan))]
    pairs = []
    for number in range(count):
        place = int((number + 0.5) * len(slices) / count)
        if count > len(slices):
            place = number % len(slices)
        # The style comes from half way through all the others: another scan, or another region.
        away = (place + (len(slices) + 1) // 2) % len(slices)
        windows = WINDOWS[number % len(WINDOWS)]
        pairs.append(
            tuple(
                _image(scan, index, window, size)
                for (scan, index), window in zip((slices[place], slices[away]), windows)
            )
        )
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
    signature: str,
    inputs: Mapping[str, tf.TensorSpec],
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
) -> list[dict[str, np.ndarray]]:
    """What a signature takes, for every pair.

    An image is the content, or the style where it is called ``style``; a style code is made of the
    style by the SavedModel itself; a strength is ``STRENGTH``.

    Args:
        servable: The SavedModel.
        signature: Name of the signature.
        inputs: Input name to shape and dtype, as in :class:`tfstyle.convert.graph.PlainGraph`.
        pairs: See :func:`image_pairs`.

    Raises:
        ArgumentError: The signature takes something else.
    """
    encode = ENCODE_NAMES["plain" if "_plain" in signature else "guided"]
    return [
        {name: _value(servable, encode, name, spec, *pair) for name, spec in inputs.items()}
        for pair in pairs
    ]


def _value(
    servable: Servable,
    encode: str,
    name: str,
    spec: tf.TensorSpec,
    content: np.ndarray,
    style: np.ndarray,
) -> np.ndarray:
    if spec.shape.rank == 4 and spec.shape[-1] == 1:
        return style if name == "style" else content
    if spec.shape.rank == 1:
        return np.full(1, STRENGTH, np.float32)
    if spec.shape.rank == 3 and encode in servable.signatures:
        takes = servable.signatures[encode].inputs
        (code,) = servable.run(encode, dict.fromkeys(takes, style)).values()
        return code
    raise ArgumentError(
        f"signature: its input {name!r} of shape {spec.shape} is neither an image, a strength nor "
        f"a style code that the signature {encode!r} gives."
    )
