"""Prepared training data: writes scans as the shards that :mod:`tfstyle.data.shards` reads.

The command ``tfstyle prepare`` is a thin layer over :func:`prepare_scans`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfstyle._private.files import remove, temporary_beside, write_atomically
from tfstyle.data.read import ScanFiles, list_scans
from tfstyle.data.scan import Scan
from tfstyle.data.shards import DTYPES, FORMAT, INDEX, is_prepared, read_index, sha256
from tfstyle.errors import ArgumentError, InputFileError, OutputError, TfstyleError
from tfstyle.runs.folder import RunFolder, files_digest

_RECORD, _JOURNAL = ".prepare.json", ".prepare.jsonl"  # while shards are written
_FRAME = 8 + 4, 4  # of a record: its length with a checksum before it, a checksum behind it


@dataclass(frozen=True)
class PreparedSet:
    """What :func:`prepare_scans` did.

    Attributes:
        index: The file ``index.json``.
        shards: Number of shards.
        scans: Number of scans in them.
        slices: Number of slices in them.
        bytes: Size of the shards.
        resumed: Shards that an earlier run had finished.
        failed: Inputs that could not be read, and why; the others are there.
    """

    index: str
    shards: int
    scans: int
    slices: int
    bytes: int
    resumed: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict:
        """The same as plain types for JSON."""
        return asdict(self)


def prepare_scans(
    inputs: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    shard_mb: float = 256.0,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> PreparedSet:
    """Writes scans as TFRecord shards for training.

    Records hold pixels in the scan's own units and data type (int16 HU for CT), spacing in mm and
    the header's window: windows, crops and zooms are chosen when training. They hold no name, date,
    UID or other attribute; scans have numbers. Pixels are not changed, so what is burned into them
    stays. The same inputs give the same bytes.

    Shards appear one by one, whole, and the index at the end. The same call resumes after an
    interruption; other inputs or settings in the same folder are refused. One scan at a time is in
    memory. Inputs that cannot be read are named in the result, and the others continue.

    Args:
        inputs: DICOM files or folders, NIfTI, PNG, as for :func:`tfstyle.data.read_scans`, of which
            label maps are left out in the same way.
        output: A new or empty folder, or that of an earlier run.
        shard_mb: Size in MB from which on a new shard is begun; a scan is never split.
        overwrite: Remove the shards that `output` holds and begin again.
        progress: Called as ``progress(done, total, label)``, counting inputs.

    Returns:
        An account.

    Raises:
        ArgumentError: If `shard_mb` is not above 0, or the folder was begun with other inputs or
            settings.
        InputFileError: If an input does not exist, or none holds a scan.
        OutputError: If the folder holds something else or cannot be written.

    Example:
        >>> prepare_scans(["ct/"], "new/").slices
        2
        >>> scans = tfstyle.data.load_shards("new/")        # or: tfstyle train --content new/
    """
    if not shard_mb > 0:
        raise ArgumentError(f"shard_mb: must be above 0, received {shard_mb!r}.")
    output = Path(output)
    sources, failed = _sources(inputs)
    settings = {"shard_mb": float(shard_mb), "compression": None}
    files = [file for source in sources for file in source.files]
    if overwrite and is_prepared(output):
        try:
            os.replace(output / INDEX, output / _RECORD)  # it has the settings too
        except OSError as error:
            raise OutputError.of(output, error) from error
    finished = is_prepared(output)
    with RunFolder(
        output,
        {"inputs": files_digest(files, FORMAT), "settings": settings},
        record=INDEX if finished else _RECORD,
        journal=_JOURNAL,
        what="prepared scans",
        came=lambda run: bool(run.rows) or finished,
        overwrite=[path.name for path in output.glob("shard-*")] if overwrite else None,
    ) as run:
        if finished:
            index, resumed = read_index(output), None
            for number in index["unread"]:
                _read(sources[number], failed)  # fails again, or has been repaired without a trace
        else:
            index, resumed = _write(run, sources, failed, shard_mb * 1e6, progress)
            if not index["scans"]:
                first = next(iter(failed.items()), None)
                detail = (
                    f" The first of {len(failed)} failures: {': '.join(first)}" if first else ""
                )
                what = ", ".join(map(str, inputs))
                raise InputFileError(what, f"holds no scan that can be read.{detail}")
            index = run.found | {"format": FORMAT, "left_out": len(failed)} | index
            write_atomically(output / INDEX, (json.dumps(index, indent=1) + "\n").encode())
        for path in (run.journal, output / _RECORD):
            remove(path)
    if progress is not None:
        progress(len(sources), len(sources), "")
    return PreparedSet(
        index=str(output / INDEX),
        shards=len(index["shards"]),
        scans=index["count"]["scans"],
        slices=index["count"]["slices"],
        bytes=sum(shard["bytes"] for shard in index["shards"]),
        resumed=len(index["shards"]) if resumed is None else resumed,
        failed=failed,
    )


def _write(
    run: RunFolder,
    sources: Sequence[ScanFiles],
    failed: dict[str, str],
    limit: float,
    progress: Callable[[int, int, str], None] | None,
) -> tuple[dict[str, Any], int]:
    """Writes the shards that are missing; their part of the index, and how many were there."""
    import tensorflow as tf

    shards = [row["shard"] for row in run.rows]
    scans = [scan for row in run.rows for scan in row["scans"]]
    position, unread = (0, 0), []
    if run.rows:
        position, unread = tuple(run.rows[-1]["next"]), list(run.rows[-1]["unread"])
        for number in unread:
            _read(sources[number], failed)
    run.keep(run.rows)
    resumed = len(shards)

    def read() -> Iterator[tuple[tuple[int, int], Scan]]:
        for number, source in enumerate(sources):
            if progress is not None:
                progress(number, len(sources), "")
            if number < position[0]:
                continue
            found = _read(source, failed)
            if found is None:
                unread.append(number)
            for part, scan in enumerate(found or ()):
                if (number, part) >= position:
                    yield (number, part), scan

    end = (len(sources), 0), None
    reading = read()
    following = next(reading, end)
    while following[1] is not None:
        name = f"shard-{len(shards):05d}.tfrecord"
        found: list[dict] = []
        size = 0
        try:
            with temporary_beside(run.path / name) as temporary:
                with tf.io.TFRecordWriter(os.fsencode(temporary)) as writer:
                    while (scan := following[1]) is not None and (
                        not found or size + scan.pixels.nbytes <= limit
                    ):
                        entry, size = _write_scan(writer, scan, len(scans) + len(found), size)
                        found.append({"shard": len(shards), **entry})
                        following = next(reading, end)
                facts = {"file": name, "slices": sum(entry["slices"] for entry in found)}
                facts.update(bytes=temporary.stat().st_size, sha256=sha256(temporary))
                os.replace(temporary, run.path / name)
        except (OSError, tf.errors.OpError) as error:
            raise OutputError.of(run.path / name, error) from error
        run.add({"shard": facts, "scans": found, "next": following[0], "unread": unread})
        shards.append(facts)
        scans.extend(found)
    count = {"scans": len(scans), "slices": sum(scan["slices"] for scan in scans)}
    return {"count": count, "unread": unread, "shards": shards, "scans": scans}, resumed


def _sources(inputs: Sequence[str | os.PathLike]) -> tuple[list[ScanFiles], dict[str, str]]:
    """What there is to read, in the order of :func:`tfstyle.data.read_scans`."""
    order = "png", "nifti", "dicom"
    sources: list[ScanFiles] = []
    failed: dict[str, str] = {}
    for path in inputs:
        found, damaged = list_scans(path)
        sources += sorted(
            found, key=lambda one: (os.path.dirname(one.files[0]), order.index(one.kind), one.files)
        )
        failed.update((error.path, error.problem) for error in damaged)
    return sources, failed


def _read(source: ScanFiles, failed: dict[str, str]) -> list[Scan] | None:
    """The scans of a source; None, and the reason in `failed`, if it cannot be read."""
    try:
        return source.read()
    except Exception as error:  # any failure of one file, and the others continue
        path = getattr(error, "path", source.files[0])
        known = isinstance(error, (TfstyleError, OSError))
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        failed[path] = getattr(error, "problem", reason)
        return None


def _write_scan(writer: Any, scan: Scan, number: int, start: int) -> tuple[dict[str, Any], int]:
    """Writes the records of a scan; its entry in the index, and where the next one begins."""
    dtype = scan.pixels.dtype.newbyteorder("<").str
    if dtype not in DTYPES:
        raise ArgumentError(f"{scan.name}: pixels of type {scan.pixels.dtype} are not kept.")
    window = scan.header_window
    entry: dict[str, Any] = {
        "slices": len(scan),
        "size": list(scan.pixels.shape[1:]),
        "dtype": dtype,
        "units": scan.units,
        "spacing": list(scan.spacing),
        "window": None if window is None else [window.center, window.width],
    }
    for i, plane in enumerate(scan.pixels):
        raw = np.ascontiguousarray(plane, dtype).tobytes()
        record = _record(raw, entry, number, i)
        if i == 0:
            entry["start"] = start + _FRAME[0] + _pixels_in(record)
            entry["stride"] = sum(_FRAME) + len(record)
        writer.write(record)
        start += sum(_FRAME) + len(record)
    return entry, start


def _record(raw: bytes, entry: dict[str, Any], number: int, index: int) -> bytes:
    """One slice; of one length for all slices of a scan, hence the position as a float."""
    import tensorflow as tf

    def floats(values: Sequence[float]) -> tf.train.Feature:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    def whole(values: Sequence[int]) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    def text(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {
        "pixels": text(raw),
        "position": floats([index * entry["spacing"][0]]),
        "scan": whole([number]),
        "size": whole(entry["size"]),
        "dtype": text(entry["dtype"].encode()),
        "spacing": floats(entry["spacing"]),
        "units": text(entry["units"].encode()),
        "window": floats(entry["window"] or [float("nan")] * 2),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def _pixels_in(record: bytes) -> int:
    """Where the pixels begin: behind their key and three lengths of protobuf, each with its tag."""
    place = record.index(b"\x06pixels") + 7
    for _ in range(3):
        place += 1
        while record[place] & 0x80:
            place += 1
        place += 1
    return place


__all__ = ["PreparedSet", "prepare_scans"]
