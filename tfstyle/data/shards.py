"""Prepared training data: scans as TFRecord shards with an index, without anything of the patient.

A shard is a TFRecord file of ``tf.train.Example`` records, one a slice, in the order of the scans;
a scan lies in one shard. ``index.json`` beside the shards says where each scan begins. Records of
one scan have one length, so that shards which are not compressed are mapped into memory as they
are: a training reads only the slices that its crops lie in, on every machine those of its own part
of the batch, and sets may be larger than the memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfstyle._private.files import (
    is_unused,
    read_json,
    remove_abandoned,
    temporary_beside,
    write_atomically,
)
from tfstyle.data.read import ScanFiles, list_scans
from tfstyle.data.scan import UNITS, Scan
from tfstyle.data.windows import Window
from tfstyle.errors import ArgumentError, InputFileError, OutputError, TfstyleError

if TYPE_CHECKING:
    import tensorflow as tf

#: Beside the shards: what they hold, and where.
INDEX = "index.json"

_FORMAT = "tfstyle-shards/1"
_JOURNAL = ".prepare.jsonl"  # the job, then a line for each shard that is finished
_SHARD = re.compile(r"shard-\d{5}\.tfrecord(\.gz)?")
_DTYPES = ("<i2", "|u1", "<u2", "<i4", "<f4")
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
    gzip: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> PreparedSet:
    """Writes scans as TFRecord shards for training.

    Records hold pixels in the scan's own units and data type (int16 HU for CT), spacing in mm and
    the header's window: windows, crops and zooms are chosen when training. They hold no name, date,
    UID or other attribute; scans have numbers. Pixels are not changed, so what is burned into them
    stays. The same inputs give the same bytes.

    Shards appear one by one, whole, and the index at the end. The same call goes on after an
    interruption; other inputs or settings in the same folder are refused. One scan at a time is in
    memory. Inputs that cannot be read are named in the result, the others go on.

    Args:
        inputs: DICOM files or folders, NIfTI, PNG, as for :func:`tfstyle.data.read_scans`, of which
            label maps are left out in the same way.
        output: A new or empty folder, or that of an earlier run.
        shard_mb: Size in MB from which on a new shard is begun; a scan is never split.
        gzip: Compress the shards. Reading then takes the time to decompress them and the memory to
            hold all of them, at each start.
        progress: Called as ``progress(done, total, label)``, counting inputs.

    Returns:
        An account.

    Raises:
        ArgumentError: If `shard_mb` is not above 0.
        InputFileError: If an input does not exist, or none holds a scan.
        OutputError: If the folder holds something else or cannot be written.

    Example:
        >>> prepare_scans(["ct/"], "prepared/").slices
        12480
        >>> scans = load_shards("prepared/")        # or: tfstyle train --content prepared/
    """
    if not shard_mb > 0:
        raise ArgumentError(f"shard_mb: must be above 0, received {shard_mb!r}.")
    output = Path(output)
    sources, failed = _sources(inputs)
    ending = ".gz" if gzip else ""
    settings = {"shard_mb": float(shard_mb), "compression": "gzip" if gzip else None}
    job = _job(sources, settings)
    index, lines = _open(output, job)
    unread = index["unread"] if index else lines[-1]["unread"] if lines else []
    for number in unread:
        _read(sources[number], failed)  # fails again, or has been repaired without a trace
    if index is not None:
        return _account(output, index, len(index["shards"]), failed)
    shards = [line["shard"] for line in lines]
    scans = [scan for line in lines for scan in line["scans"]]
    position = tuple(lines[-1]["next"]) if lines else (0, 0)
    resumed, total = len(shards), len(sources)
    reading = _Reading(sources, position, unread, failed, progress)
    while reading.scan is not None:
        name = f"shard-{len(shards):05d}.tfrecord{ending}"
        found, size = [], 0
        try:
            with temporary_beside(output / name) as temporary:
                with _writer(temporary, gzip) as writer:
                    while reading.scan is not None and (
                        not found or size + reading.scan.pixels.nbytes <= shard_mb * 1e6
                    ):
                        entry, size = _write_scan(
                            writer, reading.scan, len(scans) + len(found), size, gzip
                        )
                        found.append({"shard": len(shards), **entry})
                        reading.advance()
                facts = {"file": name, "slices": sum(entry["slices"] for entry in found)}
                facts.update(bytes=temporary.stat().st_size, sha256=_digest(temporary))
                os.replace(temporary, output / name)
            _append(
                output / _JOURNAL,
                {
                    "shard": facts,
                    "scans": found,
                    "next": reading.position,
                    "unread": reading.unread,
                },
            )
        except (OSError, *_tensorflow_errors()) as error:
            raise OutputError.of(output / name, error) from error
        shards.append(facts)
        scans.extend(found)
    if not scans:
        what = ", ".join(map(str, inputs))
        first = next(iter(failed.items()), None)
        detail = f" The first of {len(failed)} failures: {': '.join(first)}" if first else ""
        raise InputFileError(what, f"holds no scan that can be read.{detail}")
    index = {
        "format": _FORMAT,
        "job": job,
        "settings": settings,
        "count": {"scans": len(scans), "slices": sum(scan["slices"] for scan in scans)},
        "left_out": len(failed),
        "unread": reading.unread,
        "shards": shards,
        "scans": scans,
    }
    write_atomically(output / INDEX, (json.dumps(index, indent=1) + "\n").encode())
    (output / _JOURNAL).unlink(missing_ok=True)
    if progress is not None:
        progress(total, total, "")
    return _account(output, index, resumed, failed)


def is_prepared(path: str | os.PathLike) -> bool:
    """Whether a path is a folder that :func:`prepare_scans` wrote."""
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
            same = size == shard["bytes"] and (not verify or _digest(file) == shard["sha256"])
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


def shard_dataset(folder: str | os.PathLike, *, shard: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
    """Slices of a prepared folder one after another, for training loops of one's own.

    Args:
        folder: The folder.
        shard: ``(worker, workers)``: that worker's part, whole files where there are as many files
            as workers, else each n-th slice. Under a ``tf.distribute`` strategy these are
            ``input_pipeline_id`` and ``num_input_pipelines`` of the ``InputContext``.

    Returns:
        Dataset of ``{"pixels": float32 (rows, columns, 1) in the scan's units, "spacing": float32
        (3,), slices, rows, columns in mm, "window": float32 (2,), centre and width of the header's
        window or NaN, "scan": int64, its number, "units": string}``.

    Raises:
        ArgumentError: If `shard` cannot be used.
        InputFileError: If the index is missing or damaged.

    Example:
        >>> def part(context):
        ...     place = context.input_pipeline_id, context.num_input_pipelines
        ...     return shard_dataset("prepared/", shard=place).repeat()
        >>> strategy.distribute_datasets_from_function(part)
    """
    import tensorflow as tf

    worker, workers = shard
    if not 0 <= worker < workers:
        raise ArgumentError(
            f"shard: must be (worker, workers) with 0 <= worker < workers, received {shard!r}."
        )
    index = read_index(folder)
    files = [os.fsencode(Path(folder) / entry["file"]) for entry in index["shards"]]
    compression = "GZIP" if index["settings"]["compression"] else ""
    data = tf.data.Dataset.from_tensor_slices(files)
    by_file = len(files) >= workers
    if by_file:
        data = data.shard(workers, worker)
    data = data.flat_map(lambda file: tf.data.TFRecordDataset(file, compression))
    if not by_file:
        data = data.shard(workers, worker)
    return data.map(_parse)


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
        if index["format"] != _FORMAT:
            raise InputFileError(path, f"format {index['format']!r} is not {_FORMAT}.")
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
        raise InputFileError(path, f"is no index of prepared scans ({error}).") from error


# -- writing -------------------------------------------------------------------------------


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


def _job(sources: Sequence[ScanFiles], settings: dict) -> str:
    """Tells this work from any other."""
    digest = hashlib.sha256(json.dumps([_FORMAT, settings]).encode())
    for source in sources:
        for file in source.files:
            status = os.stat(file)
            digest.update(os.fsencode(file))
            digest.update(f":{status.st_size}:{status.st_mtime_ns};".encode())
    return digest.hexdigest()


def _open(output: Path, job: str) -> tuple[dict | None, list[dict]]:
    """Makes the folder, or finds the index or the journal that the same job left there."""
    other = OutputError(
        output,
        "holds other scans, or these with other settings or as they were before they changed; "
        "choose another folder.",
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
        remove_abandoned(output)
        if is_prepared(output):
            index = read_index(output)
            if index.get("job") != job:
                raise other
            (output / _JOURNAL).unlink(missing_ok=True)
            return index, []
        lines = []
        if (output / _JOURNAL).is_file():
            for line in (output / _JOURNAL).read_text(encoding="utf-8").splitlines():
                try:
                    lines.append(json.loads(line))
                except ValueError:
                    break  # the line at which the run was stopped
            if lines and lines[0] != {"job": job}:
                if lines[1:]:
                    raise other
                lines = []  # stopped before its first shard
        elif not is_unused(output):
            raise OutputError(output, "is not empty and holds no prepared scans; choose another.")
        lines = lines or [{"job": job}]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomically(output / _JOURNAL, text.encode())
    except OSError as error:
        raise OutputError.of(output, error) from error
    return None, lines[1:]


def _append(path: Path, line: dict) -> None:
    with open(path, "ab", buffering=0) as file:
        data = json.dumps(line).encode() + b"\n"
        while data:
            data = data[file.write(data) :]


def _read(source: ScanFiles, failed: dict[str, str]) -> list[Scan] | None:
    """The scans of a source; None, and the reason in `failed`, if it cannot be read."""
    try:
        return source.read()
    except Exception as error:  # whatever one file has in store, the others go on
        path = getattr(error, "path", source.files[0])
        known = isinstance(error, (TfstyleError, OSError))
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        failed[path] = getattr(error, "problem", reason)
        return None


class _Reading:
    """The scans of all sources from a position on, one at a time.

    Attributes:
        scan: The scan to be written next, None at the end.
        position: Its source, and its number among that source's scans.
        unread: Numbers of the sources before it that could not be read.
    """

    def __init__(
        self,
        sources: Sequence[ScanFiles],
        position: tuple[int, int],
        unread: list[int],
        failed: dict[str, str],
        progress: Callable[[int, int, str], None] | None,
    ):
        self.scan: Scan | None = None
        self.position, self.unread = position, list(unread)
        self._sources, self._failed, self._progress = sources, failed, progress
        self._scans = self._all(position)
        self.advance()

    def advance(self) -> None:
        """Goes on to the next scan."""
        self.position, self.scan = next(self._scans, ((len(self._sources), 0), None))

    def _all(self, start: tuple[int, int]) -> Iterator[tuple[tuple[int, int], Scan]]:
        for number, source in enumerate(self._sources):
            if self._progress is not None:
                self._progress(number, len(self._sources), "")
            if number < start[0]:
                continue
            scans = _read(source, self._failed)
            if scans is None:
                self.unread.append(number)
            for part, scan in enumerate(scans or ()):
                if (number, part) >= start:
                    yield (number, part), scan


def _writer(path: Path, gzip: bool) -> Any:
    import tensorflow as tf

    return tf.io.TFRecordWriter(
        os.fsencode(path), tf.io.TFRecordOptions(compression_type="GZIP" if gzip else "")
    )


def _tensorflow_errors() -> tuple[type[Exception], ...]:
    import tensorflow as tf

    return (tf.errors.OpError,)


def _write_scan(
    writer: Any, scan: Scan, number: int, start: int, gzip: bool
) -> tuple[dict[str, Any], int]:
    """Writes the records of a scan; its entry in the index, and where the next one begins."""
    dtype = scan.pixels.dtype.newbyteorder("<").str
    if dtype not in _DTYPES:
        raise ArgumentError(f"{scan.name}: pixels of type {scan.pixels.dtype} are not kept.")
    window = scan.header_window
    entry: dict[str, Any] = {
        "slices": len(scan),
        "size": list(scan.pixels.shape[1:]),
        "dtype": dtype,
        "units": scan.units,
        "spacing": list(scan.spacing),
        "window": None if window is None else [window.centre, window.width],
    }
    for i, plane in enumerate(scan.pixels):
        raw = np.ascontiguousarray(plane, dtype).tobytes()
        record = _record(raw, entry, number, i)
        if i == 0 and not gzip:
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


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _account(output: Path, index: dict, resumed: int, failed: dict[str, str]) -> PreparedSet:
    return PreparedSet(
        index=str(output / INDEX),
        shards=len(index["shards"]),
        scans=index["count"]["scans"],
        slices=index["count"]["slices"],
        bytes=sum(shard["bytes"] for shard in index["shards"]),
        resumed=resumed,
        failed=failed,
    )


# -- reading -------------------------------------------------------------------------------


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
    if scan["dtype"] not in _DTYPES or scan["units"] not in UNITS:
        raise ValueError(f"type {scan['dtype']!r}, units {scan['units']!r}")
    return shape, np.dtype(scan["dtype"])


def _parse(record: tf.Tensor) -> dict[str, tf.Tensor]:
    import tensorflow as tf

    found = tf.io.parse_single_example(
        record,
        {
            "pixels": tf.io.FixedLenFeature((), tf.string),
            "dtype": tf.io.FixedLenFeature((), tf.string),
            "units": tf.io.FixedLenFeature((), tf.string),
            "scan": tf.io.FixedLenFeature((), tf.int64),
            "size": tf.io.FixedLenFeature((2,), tf.int64),
            "spacing": tf.io.FixedLenFeature((3,), tf.float32),
            "window": tf.io.FixedLenFeature((2,), tf.float32),
        },
    )
    raw, kind = found.pop("pixels"), found.pop("dtype")

    def decode(dtype: str) -> Callable[[], tf.Tensor]:
        return lambda: tf.cast(tf.io.decode_raw(raw, tf.as_dtype(np.dtype(dtype))), tf.float32)

    number = tf.argmax(tf.cast(kind == tf.constant(_DTYPES), tf.int32))
    pixels = tf.switch_case(tf.cast(number, tf.int32), [decode(dtype) for dtype in _DTYPES])
    size = found.pop("size")
    pixels = tf.ensure_shape(tf.reshape(pixels, tf.concat([size, [1]], 0)), (None, None, 1))
    return {"pixels": pixels, **found}


__all__ = [
    "INDEX",
    "PreparedSet",
    "is_prepared",
    "load_shards",
    "prepare_scans",
    "read_index",
    "shard_dataset",
]
