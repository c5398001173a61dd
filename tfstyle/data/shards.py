"""Prepared training data: scans as TFRecord shards with an index, written by ``tfstyle prepare``.

A shard is a TFRecord file of ``tf.train.Example`` records, one a slice, in the order of the scans;
a scan lies in one shard. ``index.json`` beside the shards says where each scan begins. Records of
one scan have one length, so that shards which are not compressed are mapped into memory as they
are: a training reads only the slices that its crops lie in, on every machine those of its own part
of the batch, and sets may be larger than the memory.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from tfstyle._private.files import read_json
from tfstyle.data.scan import UNITS, Scan
from tfstyle.data.windows import Window
from tfstyle.errors import InputFileError

#: Beside the shards: what they hold, and where.
INDEX = "index.json"

FORMAT = "tfstyle-shards/1"
_SHARD = re.compile(r"shard-\d{5}\.tfrecord(\.gz)?")
#: Types of pixels.
DTYPES = ("<i2", "|u1", "<u2", "<i4", "<f4")


def is_prepared(path: str | os.PathLike) -> bool:
    """Whether a path is a folder that :func:`tfstyle.runs.prepare_scans` wrote."""
    try:
        found = read_json(Path(path) / INDEX)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and str(found.get("format")).startswith("tfstyle-shards/")


def load_shards(folder: str | os.PathLike, *, verify: bool = True) -> list[Scan]:
    """The scans of a prepared folder, as :func:`tfstyle.data.pair_dataset` takes them.

    Pixels of shards that are not compressed stay on the disk until they are used.

    Args:
        folder: The folder.
        verify: Compare the shards with their checksums, which reads all of them once.

    Returns:
        Scans in the order of the inputs, named by numbers, without affine and files.

    Raises:
        InputFileError: If the index or a shard is missing, damaged or of something else.
    """
    folder = Path(folder)
    index = read_index(folder)
    for shard in index["shards"]:
        file = folder / shard["file"]
        try:
            size = file.stat().st_size
            same = size == shard["bytes"] and (not verify or sha256(file) == shard["sha256"])
        except OSError as error:
            raise InputFileError(file, f"cannot be read ({error.strerror or error}).") from error
        if not same:
            raise InputFileError(file, "is damaged or was changed; prepare the scans again.")
    find = _mapped if index["settings"]["compression"] is None else _unpacked
    try:
        pixels = find(folder, index)
        return [
            Scan(
                array,
                spacing=tuple(scan["spacing"]),
                units=scan["units"],
                name=f"scan-{number:05d}",
                header_window=Window(*scan["window"]) if scan["window"] else None,
            )
            for number, (scan, array) in enumerate(zip(index["scans"], pixels, strict=True))
        ]
    except OSError as error:
        raise InputFileError(
            folder,
            f"its shards cannot be mapped ({error.strerror or error}). Each takes an open file: "
            "raise the limit (ulimit -n), or prepare the scans with a larger shard_mb.",
        ) from error
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise InputFileError(
            folder / INDEX, f"does not fit its shards ({error}); prepare the scans again."
        ) from error


def read_index(folder: str | os.PathLike) -> dict[str, Any]:
    """What ``index.json`` of a prepared folder says.

    Args:
        folder: The folder.

    Returns:
        ``format``, ``settings`` (``shard_mb``, ``compression``), ``count`` (``scans``,
        ``slices``), ``left_out`` (number of inputs that could not be read), ``shards`` (``file``,
        ``slices``, ``bytes``, ``sha256``) and ``scans`` (``shard``, ``slices``, ``size``,
        ``dtype``, ``units``, ``spacing``, ``window``, and ``start`` and ``stride`` of the pixels in
        the file).

    Raises:
        InputFileError: If it is missing or something else.
    """
    path = Path(folder) / INDEX
    try:
        index = read_json(path)
        if index["format"] != FORMAT:
            raise InputFileError(path, f"format {index['format']!r} is not {FORMAT}.")
        if not all(_SHARD.fullmatch(shard["file"]) for shard in index["shards"]):
            raise ValueError("names of shards")
        if not {"compression"} <= set(index["settings"]) or not isinstance(index["scans"], list):
            raise ValueError("settings or scans")
        return index
    except FileNotFoundError:
        raise InputFileError(path, "no such file; prepare scans: tfstyle prepare.") from None
    except InputFileError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputFileError(path, f"is not an index of prepared scans ({error}).") from error


def sha256(path: Path) -> str:
    """Checksum of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _mapped(folder: Path, index: dict) -> list[np.ndarray]:
    """Pixels of every scan where they lie in the shards."""
    maps = [np.memmap(folder / shard["file"], np.uint8, "r") for shard in index["shards"]]
    found = []
    for scan in index["scans"]:
        shape, dtype = _layout(scan)
        row = shape[2] * dtype.itemsize
        buffer, start, stride = maps[scan["shard"]], scan["start"], scan["stride"]
        size = shape[1] * row
        if start < 0 or stride < size or start + stride * (shape[0] - 1) + size > len(buffer):
            raise ValueError("a scan lies outside its shard")
        found.append(np.ndarray(shape, dtype, buffer, start, strides=(stride, row, dtype.itemsize)))
    return found


def _unpacked(folder: Path, index: dict) -> list[np.ndarray]:
    """Pixels of every scan, decompressed."""
    import tensorflow as tf

    files = [os.fsencode(folder / shard["file"]) for shard in index["shards"]]
    records = iter(tf.data.TFRecordDataset(files, "GZIP"))
    found = []
    try:
        for scan in index["scans"]:
            shape, dtype = _layout(scan)
            pixels = np.empty(shape, dtype)
            for plane in pixels:
                example = tf.train.Example.FromString(next(records).numpy())
                raw = example.features.feature["pixels"].bytes_list.value[0]
                plane[...] = np.frombuffer(raw, dtype).reshape(shape[1:])
            found.append(pixels)
    except (StopIteration, tf.errors.DataLossError) as error:
        raise ValueError("records are missing or damaged") from error
    return found


def _layout(scan: dict) -> tuple[tuple[int, int, int], np.dtype]:
    shape = scan["slices"], *scan["size"]
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"shape {shape}")
    if scan["dtype"] not in DTYPES or scan["units"] not in UNITS:
        raise ValueError(f"type {scan['dtype']!r}, units {scan['units']!r}")
    return shape, np.dtype(scan["dtype"])
