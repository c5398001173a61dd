# ruff: noqa: D103 - makers and readers of cases are told by their names
"""Readers under hostile input: mutations of real files, each read in a process that may fall.

    python benchmarks/fuzz.py                     # benchmarks/fuzz.json
    python benchmarks/fuzz.py --reader dicom --case 1234      # one case again, with its traceback

Each case is made of its reader's name, its number and the seed alone. A worker process reads case
after case under a limit of memory; whoever watches it notes when it dies (a crash) or takes longer
than the time limit (a hang) and goes on with the next case in a new process. A case is good when
the file is read or refused with one of tfstyle's errors, and nothing was written beside its
output folder.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import hashlib
import io
import json
import logging
import multiprocessing
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LIMITS = {
    "TFSTYLE_LIMIT_PICTURE_PIXELS": "1Mi",
    "TFSTYLE_LIMIT_SCAN_PIXELS": "8Mi",
    "TFSTYLE_LIMIT_FILE_BYTES": "64Mi",
    "TFSTYLE_LIMIT_TEXT_BYTES": "1Mi",
    "TFSTYLE_LIMIT_MANIFEST_BYTES": "1Mi",
    "TFSTYLE_LIMIT_FRAMES": "4096",
}
MEMORY = 2**30  # bytes above what the idle worker has
SECONDS = 10.0  # of a processor; a case that takes longer hangs
WAITING = 6  # times as long by the clock: on a machine that has other work it is tried once more

OUTSIDE = "elsewhere"  # a folder of the sandbox that no reader has any business in
INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000)
INTERESTING += (0xFFFFFFFF, 0xFFFFFFFE, 0x10000, 0x100)


@dataclass(frozen=True)
class Reader:
    """A reader and how its cases are made.

    Args:
        share: Its part of all cases.
        seeds: Writes the files to start from into a folder.
        make: Writes a case into a folder: (generator, seeds' folder, case's folder).
        read: Reads it: (case's folder, output folder).
        tensorflow: Whether reading takes TensorFlow; such workers start slowly.
    """

    share: float
    seeds: Callable[[Path], None]
    make: Callable[[random.Random, Path, Path], None]
    read: Callable[[random.Random, Path, Path], None]
    tensorflow: bool = False


# Mutations -----------------------------------------------------------------------------------


def mutate(rng: random.Random, data: bytes, other: bytes = b"", head: int = 1024) -> bytes:
    """One to eight changes: bits, bytes, numbers, cuts, copies, and pieces of another file."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            return bytes(rng.randrange(256) for _ in range(rng.randrange(64)))
        end = len(data) if rng.random() < 0.5 else min(head, len(data))
        at = rng.randrange(end)
        kind = rng.randrange(10)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind in (2, 3):
            number, form = rng.choice(INTERESTING), rng.choice("HIQ")
            raw = struct.pack(
                rng.choice("<>") + form, number & (2 ** (8 * struct.calcsize(form)) - 1)
            )
            data[at : at + len(raw)] = raw
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            del data[at : at + rng.choice((1, 2, 4, 16, 256))]
        elif kind == 6:
            data[at:at] = data[at : at + rng.choice((1, 4, 16, 256))]
        elif kind == 7:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 2, 8, 64))))
        elif kind == 8 and other:
            start = rng.randrange(len(other))
            data[at : at + rng.choice((8, 64, 1024))] = other[
                start : start + rng.choice((8, 64, 1024))
            ]
        else:
            data[at : at + rng.choice((4, 32, 512))] = bytes(rng.choice((4, 32, 512)))
    return bytes(data)


def odd_value(rng: random.Random):
    """A value that a program may not expect in a text file or an attribute."""
    return rng.choice(ODD)


ODD = (
    None, True, "", " ", "x", "../../../../x", f"../../../{OUTSIDE}/x", f"/{OUTSIDE}/x", "..", ".",
    "a/b", "a\0b", "\ud800", "NaN", "x" * 5000, 0, 1, -1, 2**31, 2**63, 2**64, -(2**70), 10**400,
    1e308, -1e308, float("nan"), float("inf"), 0.5, [], {}, [[]], [None], {"a": {}}, [1, "2", None],
)  # fmt: skip


def mutate_tree(rng: random.Random, tree):
    """Replaces, removes, repeats or wraps something anywhere in lists and dicts."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 4))):
        spots = list(_spots(tree))
        if not spots:
            return odd_value(rng)
        parent, key = rng.choice(spots)
        kind = rng.randrange(6)
        if kind == 0:
            del parent[key]
        elif kind == 1:
            parent[key] = [parent[key]] * rng.choice((0, 1, 2, 50))
        elif kind == 2 and isinstance(parent, dict):
            parent[str(odd_value(rng))] = parent.pop(key)
        elif kind == 3:
            other, second = rng.choice(spots)
            if second in other if isinstance(other, dict) else second < len(other):
                parent[key] = copy.deepcopy(other[second])
        else:
            parent[key] = odd_value(rng)
    return tree


def _spots(tree):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(items):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from _spots(value)


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON text with another tree, or with other bytes, or nested without end."""
    choice = rng.random()
    if choice < 0.02:
        return rng.choice((b"[", b'{"a":', b"[{},")) * rng.choice((100, 5000, 100_000))
    if choice < 0.35:
        return mutate(rng, data)
    try:
        return json.dumps(mutate_tree(rng, json.loads(data)), default=str).encode(
            "utf-8", "replace"
        )
    except (ValueError, RecursionError):
        return mutate(rng, data)


def files(folder: Path, ending: str = "") -> list[Path]:
    """Files of a folder in a fixed order."""
    key = folder, ending
    if key not in _FILES:
        _FILES[key] = sorted(p for p in folder.iterdir() if p.is_file() and p.name.endswith(ending))
    return _FILES[key]


def content(path: Path) -> bytes:
    """A seed's bytes, kept."""
    if path not in _CONTENT:
        _CONTENT[path] = path.read_bytes()
    return _CONTENT[path]


_FILES: dict = {}
_CONTENT: dict = {}


# DICOM ---------------------------------------------------------------------------------------

SMALL = 64 * 1024


def dicom_seeds(folder: Path) -> None:
    """Pydicom's own test files, those of pydicom-data, and what they lack."""
    import pydicom

    roots = [Path(pydicom.__file__).parent / "data" / "test_files"]
    try:
        import data_store
    except ImportError:
        pass
    else:
        roots.append(Path(data_store.__file__).parent / "data")
    number = 0
    for root in roots:
        for file in sorted(p for p in root.rglob("*") if p.is_file()):
            raw = file.read_bytes()
            if len(raw) <= SMALL and (raw[128:132] == b"DICM" or file.suffix == ".dcm"):
                (folder / f"{number:03d}-{file.name}").write_bytes(raw)
                number += 1
    for name, dataset in made_dicom():
        dataset.save_as(folder / f"made-{name}.dcm", enforce_file_format=True)


def made_dicom():
    """A CT series, an enhanced CT, and compressed and deflated forms of a slice."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset

    def slice_of(number: int) -> Dataset:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset.SOPInstanceUID = f"1.2.3.{number}"
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.4", "1.2.5"
        dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 12, 10, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation, dataset.PixelPaddingValue = 0, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.ImagePositionPatient = [0, 0, 2.0 * number]
        dataset.ImageOrientationPatient, dataset.PixelSpacing = [1, 0, 0, 0, 1, 0], [1, 1]
        dataset.SliceThickness, dataset.InstanceNumber, dataset.SeriesNumber = 2, number, 3
        dataset.WindowCenter, dataset.WindowWidth = [40, 400], [400, 2000]
        pixels = (np.arange(120).reshape(12, 10) * 17 + number) % 2000
        dataset.PixelData = pixels.astype("<u2").tobytes()
        return dataset

    for number in range(3):
        yield f"slice{number}", slice_of(number)
    for name, syntax in (
        ("rle", pydicom.uid.RLELossless),
        ("j2k", pydicom.uid.JPEG2000Lossless),
        ("jls", pydicom.uid.JPEGLSLossless),
    ):
        dataset = slice_of(0)
        try:
            dataset.compress(syntax)
        except RuntimeError:  # no encoder installed
            continue
        yield name, dataset
    deflated = slice_of(1)
    deflated.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    yield "deflated", deflated
    enhanced = slice_of(0)
    enhanced.SOPClassUID = enhanced.file_meta.MediaStorageSOPClassUID = (
        "1.2.840.10008.5.1.4.1.1.2.1"
    )
    enhanced.NumberOfFrames = 4
    enhanced.PixelData = enhanced.PixelData * 4
    shared, groups = Dataset(), []
    measures, orientation, rescale = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [1, 1], 2
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, -1024, "HU"
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelValueTransformationSequence = [rescale]
    for number in range(4):
        group, position, frame = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, 3.0 * number]
        frame.TemporalPositionIndex = 1
        group.PlanePositionSequence, group.FrameContentSequence = [position], [frame]
        groups.append(group)
    enhanced.SharedFunctionalGroupsSequence = [shared]
    enhanced.PerFrameFunctionalGroupsSequence = groups
    yield "enhanced", enhanced


TAGS = [
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "SamplesPerPixel",
    "PixelRepresentation",
    "PlanarConfiguration",
    "PhotometricInterpretation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "InstanceNumber",
    "SeriesNumber",
    "AcquisitionNumber",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SOPClassUID",
    "Modality",
    "ImageType",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "PixelData",
    "FrameIncrementPointer",
    "SeriesDescription",
    "SpecificCharacterSet",
    "TemporalPositionIdentifier",
    "FrameOfReferenceUID",
    "PatientName",
]
SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.100", "9.9", "",
)  # fmt: skip
NUMBERS = {
    "US": (0, 1, 2, 3, 8, 12, 16, 32, 64, 100, 255, 4096, 32767, 65535),
    "IS": ("0", "1", "-1", "2", "65536", "2147483647", "99999999999", "1e9", "NaN", "x", ""),
    "DS": ("0", "-1", "1e308", "-1e308", "NaN", "inf", "1e-308", "x", "", "65536", "0.5\\2\\3"),
    "UI": ("", "..", f"../../../{OUTSIDE}/x", "1.2/../../x", "1.2.5", "x" * 200, "1.2\0", "/etc/x"),
}  # fmt: skip


def mutate_dicom(rng: random.Random, path: Path) -> bytes:
    """Other attributes, other values of them, or another transfer syntax; well-formed otherwise."""
    import pydicom
    from pydicom.datadict import dictionary_VR

    try:
        dataset = pydicom.dcmread(io.BytesIO(content(path)), force=True)
        spots = [dataset, *_items(dataset)] if rng.random() < 0.3 else [dataset]
        for _ in range(rng.choice((1, 1, 2, 3, 6))):
            where = rng.choice(spots)
            name, kind = rng.choice(TAGS), rng.randrange(8)
            own = list(where.keys()) if kind < 3 else []
            tag = rng.choice(own) if own else pydicom.tag.Tag(name)
            if kind == 0 and tag in where:
                del where[tag]
            elif kind == 1:
                where[tag] = pydicom.DataElement(tag, "OB", rng.randbytes(rng.choice((0, 2, 16))))
            elif kind == 2:
                meta = getattr(dataset, "file_meta", None)
                if meta is not None:
                    meta.TransferSyntaxUID = rng.choice(SYNTAXES)
            else:
                vr = dictionary_VR(pydicom.tag.Tag(name)).split()[0]
                if vr == "SQ":
                    item = pydicom.Dataset()
                    item.ImagePositionPatient = ["0", "0", rng.choice(("0", "1e300", "7"))]
                    value = [copy.deepcopy(item) for _ in range(rng.choice((0, 1, 5)))]
                elif name == "PixelData":
                    value = bytes(rng.choice((0, 1, 7, 240, 5000)))
                    vr = "OW"
                else:
                    value = rng.choice(
                        NUMBERS.get(vr, ("", "x", "LOCALIZER", "MONOCHROME1", "..", "é"))
                    )
                raw = pydicom.DataElement(
                    pydicom.tag.Tag(name), vr, value, validation_mode=pydicom.config.IGNORE
                )
                where[raw.tag] = raw
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=False)
        return buffer.getvalue()
    except Exception:  # pydicom does not write everything that one may read
        return mutate(rng, content(path))


def _items(dataset):
    for element in dataset:
        if element.VR == "SQ" and element.value is not None:
            for item in element.value:
                yield item
                yield from _items(item)


def one_dicom(rng: random.Random, seeds: Path) -> bytes:
    paths = files(seeds)
    path = rng.choice(paths) if rng.random() < 0.7 else rng.choice(files(seeds, ".dcm")[-9:])
    if rng.random() < 0.6:
        data = mutate_dicom(rng, path)
        return mutate(rng, data) if rng.random() < 0.1 else data
    data = content(path)
    if rng.random() < 0.3 and (at := data.rfind(b"\xe0\x7f\x10\x00")) > 0:  # in the compressed data
        return data[:at] + mutate(rng, data[at:])
    return mutate(rng, data, content(rng.choice(paths)), head=1500)


def make_dicom(rng: random.Random, seeds: Path, folder: Path) -> None:
    (folder / "case.dcm").write_bytes(one_dicom(rng, seeds))
    if rng.random() < 0.15:
        for path in (seeds / "made-slice0.dcm", seeds / "made-slice1.dcm"):
            (folder / path.name).write_bytes(content(path))


def read_dicom_case(rng: random.Random, folder: Path, out: Path) -> None:
    from tfstyle.data import list_scans, read_scans, resolve_window
    from tfstyle.errors import TfstyleError
    from tfstyle.runs.outputs import write_generated

    several = len(os.listdir(folder)) > 1
    path = folder if several else folder / "case.dcm"
    if rng.random() < 0.2:
        found, damaged = list_scans(path)
        scans = [scan for one in found for scan in one.read()]
        if damaged and not scans:
            raise damaged[0]
    else:
        lazy, odd = rng.random() < 0.3, rng.choice(("skip", "error"))
        scans = read_scans(path, lazy=lazy, on_odd=odd)
        scans = [scan.load() if hasattr(scan, "load") else scan for scan in scans]
    for scan in scans[:2] if rng.random() < 0.15 else ():
        window = resolve_window(rng.choice(("auto", "range", "percentile")), scan)
        unit = window.to_unit(scan.pixels)
        kind = rng.choice(("dicom", "dicom", "nifti"))
        target = out / (scan.name + (".nii" if kind == "nifti" else ""))
        try:
            write_generated(scan, unit, window, kind, target)
        except TfstyleError:
            shutil.rmtree(target, ignore_errors=True)
            raise


# DICOM SEG ------------------------------------------------------------------------------------


def seg_seeds(folder: Path) -> None:
    """Segmentations of a made series as highdicom writes them."""
    import highdicom as hd
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    series = [dataset for name, dataset in made_dicom() if name.startswith("slice")]
    for dataset in series:
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID"):
            setattr(dataset, keyword, "")
        dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = ""
        dataset.ReferringPhysicianName, dataset.FrameOfReferenceUID = "", "1.2.6"
    mask = np.zeros((3, 12, 10), np.uint8)
    mask[1:, 3:9, 2:7] = 1
    describe = [
        SegmentDescription(
            number,
            f"segment {number}",
            codes.SCT.Tissue,
            codes.SCT.Bone,
            hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in (1, 2)
    ]
    for kind in ("BINARY", "FRACTIONAL", "LABELMAP"):
        pixels = (
            mask.astype(np.float32)
            if kind == "FRACTIONAL"
            else mask * 2
            if kind == "LABELMAP"
            else mask
        )
        segmentation = Segmentation(
            series, pixels, kind, describe[:2] if kind == "LABELMAP" else describe[:1],
            "1.2.7", 1, "1.2.8", 1, "tfstyle", "fuzz", "1", "0",
        )  # fmt: skip
        segmentation.save_as(folder / f"seg-{kind.lower()}.dcm")


def make_seg(rng: random.Random, seeds: Path, folder: Path) -> None:
    path = rng.choice(files(seeds))
    whole = rng.random() < 0.6
    data = mutate_dicom(rng, path) if whole else mutate(rng, content(path), head=3000)
    (folder / "case.dcm").write_bytes(data)


def read_seg_case(rng: random.Random, folder: Path, out: Path) -> None:
    from tfstyle.data.labelled import read_dicom_seg
    from tfstyle.data.nifti import resample_labels

    resample_labels(_scan(), *read_dicom_seg(folder / "case.dcm"))


def _scan():
    from tfstyle.data import Scan

    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]], float)
    return Scan(np.zeros((3, 12, 10), np.int16), (2.0, 1.0, 1.0), affine=affine)


# NIfTI ----------------------------------------------------------------------------------------


def nifti_seeds(folder: Path) -> None:
    import nibabel as nib

    rng = np.random.default_rng(0)
    hu = rng.integers(-1024, 1500, (5, 6, 4)).astype(np.int16)
    affine = np.diag([-1.0, -1, 2, 1])
    for name, kind, values in (
        ("hu", nib.Nifti1Image, hu),
        ("labels", nib.Nifti1Image, (hu > 0).astype(np.uint8)),
        ("float", nib.Nifti1Image, hu.astype(np.float32) / 3),
        ("double", nib.Nifti1Image, hu.astype(np.float64)),
        ("two", nib.Nifti2Image, hu),
        ("four", nib.Nifti1Image, hu[..., None]),
    ):
        image = kind(values, affine)
        if name == "hu":
            image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"a comment"))
        if name == "labels":
            image.header.set_slope_inter(2, 1)
        nib.save(image, folder / f"{name}.nii")
        nib.save(image, folder / f"{name}.nii.gz")
    big = nib.Nifti1Image(hu.astype(">i2"), affine, nib.Nifti1Header(endianness=">"))
    nib.save(big, folder / "big.nii")


def make_nifti(rng: random.Random, seeds: Path, folder: Path) -> None:
    path = rng.choice(files(seeds))
    data = content(path)
    if path.suffix == ".gz":
        if rng.random() < 0.3:
            data = mutate(rng, data, head=64)
        else:
            data = gzip.compress(mutate(rng, gzip.decompress(data), head=352), 1)
            if rng.random() < 0.05:
                data += gzip.compress(bytes(rng.choice((10, 10**6))), 1)
    else:
        data = mutate(rng, data, content(rng.choice(files(seeds))), head=352)
    (folder / f"case.nii{'.gz' if path.suffix == '.gz' else ''}").write_bytes(data)


def read_nifti_case(rng: random.Random, folder: Path, out: Path) -> None:
    from tfstyle.data import match_labels, read_scan

    (name,) = os.listdir(folder)
    if rng.random() < 0.3:
        match_labels(_scan(), folder / name)
    else:
        read_scan(folder / name, units=rng.choice(("auto", "HU", "US")))


# Tables and side-cars ----------------------------------------------------------------------------


def table_seeds(folder: Path) -> None:
    rows = "".join(f"case{i},scanner {i % 3},{i}\n" for i in range(12))
    (folder / "table.csv").write_text("subject_id,scanner,age\n" + rows)
    (folder / "table.tsv").write_text(("participant_id\tscanner\n" + rows).replace(",", "\t"))
    (folder / "side.json").write_text(json.dumps({"Manufacturer": "A", "KVP": 120, "x": [1, {}]}))


def make_table(rng: random.Random, seeds: Path, folder: Path) -> None:
    path = rng.choice(files(seeds))
    data = mutate_json(rng, content(path)) if path.suffix == ".json" else mutate(rng, content(path))
    (folder / f"case{path.suffix}").write_bytes(data)


def read_table_case(rng: random.Random, folder: Path, out: Path) -> None:
    from tfstyle.data.labelled import _table, _tag_or_sidecar

    (name,) = os.listdir(folder)
    if name.endswith(".json"):
        _tag_or_sidecar(str(folder / "case.nii.gz"), "Manufacturer")
    else:
        _table(str(folder / name), "scanner", folder)


# PNG ------------------------------------------------------------------------------------------


def png(rows: int, columns: int, bits: int, colour: int, data: bytes, extra: bytes = b"") -> bytes:
    """A PNG with these raw lines."""
    header = struct.pack(">IIBBBBB", columns, rows, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_seeds(folder: Path) -> None:
    line = bytes(range(0, 240, 24))
    for name, bits, colour, width in (
        ("gray", 8, 0, 1), ("deep", 16, 0, 2), ("rgb", 8, 2, 3), ("alpha", 8, 4, 2),
        ("rgba", 8, 6, 4),
    ):  # fmt: skip
        pixels = b"".join(bytes([n]) * width for n in line)
        if name in ("alpha", "rgba"):
            pixels = b"".join(bytes([n]) * (width - 1) + b"\xff" for n in line)
        (folder / f"{name}.png").write_bytes(png(7, 10, bits, colour, (b"\0" + pixels) * 7))
    palette = chunk(b"PLTE", bytes(range(48))) + chunk(b"tRNS", b"\xff\xff")
    (folder / "palette.png").write_bytes(png(7, 10, 4, 3, (b"\0" + bytes(5)) * 7, palette))
    text = chunk(b"zTXt", b"Title\0\0" + zlib.compress(bytes(1000))) + chunk(b"gAMA", b"\0\0\x80\0")
    text += chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(300)))
    (folder / "text.png").write_bytes(png(7, 10, 1, 0, (b"\0" + bytes(2)) * 7, text))


def make_png(rng: random.Random, seeds: Path, folder: Path) -> None:
    data = content(rng.choice(files(seeds)))
    if rng.random() < 0.3:
        data = mutate(rng, data)
    else:  # within chunks, with their checksums made right
        chunks, at = [], 8
        while at < len(data):
            (length,) = struct.unpack(">I", data[at : at + 4])
            chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
            at += 12 + length
        lines = zlib.decompress(next(inner for kind, inner in chunks if kind == b"IDAT"))
        for _ in range(rng.choice((1, 1, 2))):
            number = rng.randrange(len(chunks))
            kind, inner = chunks[number]
            choice = rng.randrange(6)
            if choice == 0:
                del chunks[number]
            elif choice == 1:
                chunks.insert(rng.randrange(len(chunks)), (kind, inner))
            elif choice == 2 and kind == b"IDAT":
                chunks[number] = kind, zlib.compress(mutate(rng, lines))
            elif choice == 3 and kind in (b"zTXt", b"iCCP"):
                head = inner[: inner.find(b"\0") + 2]
                chunks[number] = kind, head + zlib.compress(bytes(10 ** rng.choice((3, 6, 7))))
            else:
                chunks[number] = kind, mutate(rng, inner)
            if not chunks:
                break
        data = data[:8] + b"".join(chunk(kind, inner) for kind, inner in chunks)
    (folder / "case.png").write_bytes(data)


def read_png_case(rng: random.Random, folder: Path, out: Path) -> None:
    from tfstyle.data import read_png

    read_png(folder / "case.png")


# Arrays ---------------------------------------------------------------------------------------


def array_seeds(folder: Path) -> None:
    from tfstyle.style_bank import StyleBank

    codes = np.abs(np.random.default_rng(0).normal(size=(3, 2, 6))).astype(np.float32)
    quantiles = np.sort(np.random.default_rng(1).random((3, 256), np.float32))
    StyleBank(codes, names=("a", "b", "c"), quantiles=quantiles).save(folder / "bank.npz")
    np.savez_compressed(folder / "packed.npz", **{"a/b": codes, "about": np.array("x")})
    np.savez(folder / "objects.npz", a=np.array([{"a": 1}], object))


def make_arrays(rng: random.Random, seeds: Path, folder: Path) -> None:
    path = rng.choice(files(seeds))
    data = content(path)
    if rng.random() < 0.4:
        data = mutate(rng, data)
    else:
        data = mutate_zip(rng, data, lambda raw: mutate(rng, raw, head=128))
    (folder / "case.npz").write_bytes(data)


def mutate_zip(rng: random.Random, data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """One member changed, added twice, renamed or swollen; the archive itself is right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        chosen = rng.choice(names)
        for name in names:
            raw = old.read(name)
            if name == chosen:
                kind = rng.randrange(8)
                if kind == 0:
                    continue
                if kind == 1:
                    new.writestr(name, raw)
                if kind == 2:
                    name = rng.choice(("../../../x", f"/{OUTSIDE}/x", "x", name + ".npy"))
                if kind == 3:
                    raw += bytes(10 ** rng.choice((2, 6, 7)))
                if kind > 3:
                    raw = change(raw)
            new.writestr(
                name, raw, compress_type=rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            )
    return buffer.getvalue()


def read_arrays_case(rng: random.Random, folder: Path, out: Path) -> None:
    from tfstyle.errors import InputFileError
    from tfstyle.files import read_arrays
    from tfstyle.style_bank import StyleBank

    if rng.random() < 0.7:
        StyleBank.load(folder / "case.npz")
        return
    try:
        read_arrays(folder / "case.npz")
    except InputFileError:
        raise
    except ValueError as error:  # what its callers wrap
        raise InputFileError("case.npz", str(error)) from error


# Weights and presets --------------------------------------------------------------------------


def weight_seeds(folder: Path) -> None:
    import pickle

    tree = {
        "VGG16_0": {"Conv_0": {"kernel": np.ones((3, 3, 3, 4), np.float32), "bias": np.zeros(4)}}
    }
    for protocol in (2, 4, 5):
        (folder / f"weights{protocol}.pickle").write_bytes(pickle.dumps(tree, protocol))
    (folder / "system.pickle").write_bytes(b"cposix\nsystem\n(S'touch elsewhere/x'\ntR.")
    np.savez(folder / "weights.npz", **{"conv/kernel": np.ones((3, 3), np.float32)})


def make_weights(rng: random.Random, seeds: Path, folder: Path) -> None:
    path = rng.choice(files(seeds))
    (folder / f"case{path.suffix}").write_bytes(
        mutate(rng, content(path), content(files(seeds)[0]))
    )


def read_weights_case(rng: random.Random, folder: Path, out: Path) -> None:
    from tfstyle.encoders.weights import load_arrays, load_npz

    (name,) = os.listdir(folder)
    if name.endswith(".npz"):
        load_npz(folder / name)
    else:
        load_arrays((folder / name).read_bytes())


def preset_seeds(folder: Path) -> None:
    from tfstyle import presets

    for name in ("preset.json", "weights.npz"):
        shutil.copy(presets.folder("vgg16_ct") / name, folder / name)


def make_preset(rng: random.Random, seeds: Path, folder: Path) -> None:
    config, weights = content(seeds / "preset.json"), content(seeds / "weights.npz")
    kind = rng.random()
    if kind < 0.8:
        config = mutate_json(rng, config)
    else:
        weights = mutate_zip(rng, weights, lambda raw: mutate(rng, raw, head=128))
        if kind > 0.85:  # whoever can change the weights can change their checksum
            tree = json.loads(config)
            tree["sha256"] = hashlib.sha256(weights).hexdigest()
            config = json.dumps(tree).encode()
    (folder / "preset.json").write_bytes(config)
    (folder / "weights.npz").write_bytes(weights)


def read_preset_case(rng: random.Random, folder: Path, out: Path) -> None:
    from tfstyle import presets
    from tfstyle.style_transfer import StyleTransfer

    presets.card(folder)
    presets.load(folder, StyleTransfer)


# What earlier runs left ---------------------------------------------------------------------------


def run_seeds(folder: Path) -> None:
    row = {
        "status": "done", "source": "a.nii.gz", "part": 0, "parts": 1, "copy": 1,
        "image": "images/a-1.nii.gz", "mask": None, "style": "s", "strength": 0.5,
        "window": [40.0, 400.0], "structure": 0.9,
    }  # fmt: skip
    (folder / "manifest.jsonl").write_text(
        "".join(json.dumps({**row, "copy": i}) + "\n" for i in (1, 2))
    )
    (folder / "settings.json").write_text(json.dumps({"seed": 1, "per_image": 2, "model": "x"}))
    state = {"uid": "1.2", "study_uid": "1.3", "frame_of_reference_uid": "1.4"}
    state.update(date="20260101", time="120000.0")
    (folder / "job.json").write_text(json.dumps({"job": "j"}))
    facts = {"slice": 0, "file": "IM_0001.dcm", "step": 1.0, "error": 0.1, "below": 0, "above": 0}
    window = {"centre": 40.0, "width": 400.0}
    result = {
        "source": "scan", "files": ["scan.nii"], "format": "nifti", "slices": 3, "size": [5, 6],
        "window": window, "style_windows": [window], "output": "scan.nii", "step": 1.0,
        "round_trip": 0.1, "distance_before": 1.0, "distance_after": 0.5, "structure": None,
        "seconds": 1.0, "resumed": 0,
    }  # fmt: skip
    from dataclasses import fields

    from tfstyle.runs.stylize import StylizedScan

    result = {field.name: result.get(field.name, 1.0) for field in fields(StylizedScan)}
    rows = [{"state": state}, facts, {**facts, "slice": 1}, {"result": result}]
    (folder / "slices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.json").write_text(json.dumps({"settings": {"steps": 3}, "environment": {}}))
    (folder / "history.json").write_text(json.dumps({"loss": [1.0, 0.5], "style": [1.0, None]}))
    (folder / "study.json").write_text(json.dumps({"settings": {"a": 1}, "rows": []}))


def make_run(rng: random.Random, seeds: Path, folder: Path) -> None:
    path = rng.choice(files(seeds))
    if path.suffix == ".jsonl":
        lines = [mutate_json(rng, line) for line in content(path).splitlines()]
        data = b"\n".join(lines) if rng.random() < 0.7 else mutate(rng, content(path))
    else:
        data = mutate_json(rng, content(path))
    (folder / path.name).write_bytes(data)


def read_run_case(rng: random.Random, folder: Path, out: Path) -> None:
    from tfstyle.experiments.study_file import read_study
    from tfstyle.runs import stylize, training
    from tfstyle.runs.manifest import ManifestFolder

    (name,) = os.listdir(folder)
    seeds = folder.parents[1] / "seeds" / "runs"
    if name in ("manifest.jsonl", "settings.json"):
        target = out / "set"
        (target / "images").mkdir(parents=True)
        (target / "images" / "a-1.nii.gz").write_bytes(b"x")
        for file in ("manifest.jsonl", "settings.json"):
            shutil.copy(folder / file if file == name else seeds / file, target / file)
        settings = {"seed": 1, "per_image": 2, "model": "x"}
        with ManifestFolder(target, settings) as manifest:
            manifest.complete("a.nii.gz", 2)
            manifest.count(["a.nii.gz"], 2)
    elif name in ("job.json", "slices.jsonl"):
        place = out / stylize.RECORDS / "scan.nii"
        (place / "slices").mkdir(parents=True)
        (place / "slices" / "IM_0001.dcm").write_bytes(b"x")
        (out / "scan.nii").write_bytes(b"x")
        for file in ("job.json", "slices.jsonl"):
            shutil.copy(folder / file if file == name else seeds / file, place / file)
        result = stylize._finished(out / "scan.nii", "j")
        if result is not None:
            json.dumps(result.as_dict())
        with stylize._place(out / "scan.nii", "j") as run:
            for row in run.rows:
                stylize._is_slice(row, ["IM_0001.dcm"], place / "slices")
    elif name == "history.json":
        training._last(training._read_history(folder / name))
    elif name == "run.json":
        shutil.copy(folder / name, out / name)
        with training._folder(training.TrainingRun(phantoms=1), out, False):
            pass
    else:
        read_study(folder / name, {"a": 1}, {"rows": []}, "runs")


# Models ---------------------------------------------------------------------------------------


def model_seeds(folder: Path) -> None:
    """A small SavedModel with a variable, a function and the server's checks."""
    import tensorflow as tf

    class Model(tf.Module):
        def __init__(self):
            self.gain = tf.Variable([1.0, 2.0])

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="content")])
        def generate(self, content):
            tf.debugging.assert_all_finite(content, "content")
            return {"generated": tf.nn.relu(content * self.gain)}

    model = Model()
    tf.saved_model.save(model, str(folder / "model"), signatures={"stylize": model.generate})
    shutil.copy(folder / "model" / "saved_model.pb", folder / "saved_model.pb")
    (folder / "tfstyle.json").write_text(
        json.dumps({"format": "tfstyle-servable/1", "signatures": {"a": {}}, "operations": ["Add"]})
    )


def make_model(rng: random.Random, seeds: Path, folder: Path) -> None:
    target = folder / "1"
    (target / "assets.extra").mkdir(parents=True)
    graph, facts = content(seeds / "saved_model.pb"), content(seeds / "tfstyle.json")
    kind = rng.random()
    if kind < 0.15:
        facts = mutate_json(rng, facts)
    elif kind < 0.3:
        graph = mutate(rng, graph, head=len(graph))
    else:
        graph = mutate_graph(rng, graph)
    (target / "saved_model.pb").write_bytes(graph)
    (target / "assets.extra" / "tfstyle.json").write_bytes(facts)


def mutate_graph(rng: random.Random, data: bytes) -> bytes:
    """Other operations, inputs, attributes or signatures in a SavedModel that parses."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    model = SavedModel.FromString(data)
    (meta,) = model.meta_graphs
    for _ in range(rng.choice((1, 1, 2, 4))):
        nodes = [*meta.graph_def.node]
        for function in meta.graph_def.library.function:
            nodes.extend(function.node_def)
        node = rng.choice(nodes)
        kind = rng.randrange(7)
        if kind == 0:
            node.op = rng.choice(
                ("ReadFile", "WriteFile", "PyFunc", "NoSuchOperation", "Identity", "")
            )
        elif kind == 1 and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(
                (rng.choice(nodes).name, "^x", "x:9", "")
            )
        elif kind == 2 and node.attr:
            node.attr.pop(rng.choice(sorted(node.attr)))
        elif kind == 3:
            signature = rng.choice([*meta.signature_def.values()])
            for info in signature.outputs.values():
                info.name = rng.choice((f"{node.name}:0", "x:0", ":", "", "a:b:c"))
        elif kind == 4:
            meta.saver_def.restore_op_name = rng.choice((node.name, "", "x"))
        elif kind == 5:
            node.name = rng.choice(nodes).name
        else:
            del meta.meta_info_def.tags[:]
    return model.SerializeToString()


def read_model_case(rng: random.Random, folder: Path, out: Path) -> None:
    from tfstyle.export import read_metadata, saved_model_folder
    from tfstyle.export.saved_model import graph_operations

    path = saved_model_folder(folder)
    graph_operations(path)
    read_metadata(path)


def make_loaded(rng: random.Random, seeds: Path, folder: Path) -> None:
    target = folder / "1"
    shutil.copytree(seeds / "model", target)
    graph = content(seeds / "saved_model.pb")
    kind = rng.random()
    if kind < 0.5:
        graph = mutate_graph(rng, graph)
    elif kind < 0.6:
        graph = mutate(rng, graph, head=len(graph))
    else:
        name = rng.choice(("variables.index", "variables.data-00000-of-00001"))
        file = target / "variables" / name
        file.write_bytes(mutate(rng, file.read_bytes()))
    (target / "saved_model.pb").write_bytes(graph)


def read_loaded_case(rng: random.Random, folder: Path, out: Path) -> None:
    from tfstyle.export import Servable

    Servable(folder / "1", threads=1).close()


def keras_seeds(folder: Path) -> None:
    """A small U-Net, and an archive with a Lambda layer."""
    import keras

    from tfstyle.segmentation import UNet

    UNet(2, depth=1, width=2).save(folder / "unet.keras")
    inputs = keras.Input((4,))
    outputs = keras.layers.Lambda(lambda x: x * 2, output_shape=(4,))(inputs)
    keras.Model(inputs, outputs).save(folder / "lambda.keras")


def make_keras(rng: random.Random, seeds: Path, folder: Path) -> None:
    data = content(rng.choice(files(seeds)))
    if rng.random() < 0.2:
        data = mutate(rng, data)
    else:
        data = mutate_zip(
            rng, data, lambda raw: mutate_json(rng, raw) if raw[:1] == b"{" else mutate(rng, raw)
        )
    (folder / "case.keras").write_bytes(data)


def read_keras_case(rng: random.Random, folder: Path, out: Path) -> None:
    from tfstyle.segmentation import UNet

    UNet.load(folder / "case.keras")


READERS = {
    "dicom": Reader(0.05, dicom_seeds, make_dicom, read_dicom_case),
    "dicom-seg": Reader(0.005, seg_seeds, make_seg, read_seg_case),
    "nifti": Reader(0.21, nifti_seeds, make_nifti, read_nifti_case),
    "tables": Reader(0.24, table_seeds, make_table, read_table_case),
    "png": Reader(0.1, png_seeds, make_png, read_png_case, True),
    "style banks": Reader(0.11, array_seeds, make_arrays, read_arrays_case),
    "weights": Reader(0.05, weight_seeds, make_weights, read_weights_case, True),
    "presets": Reader(0.0015, preset_seeds, make_preset, read_preset_case, True),
    "runs": Reader(0.04, run_seeds, make_run, read_run_case, True),
    "model folders": Reader(0.005, model_seeds, make_model, read_model_case, True),
    "models loaded": Reader(0.001, model_seeds, make_loaded, read_loaded_case, True),
    "keras archives": Reader(0.0006, keras_seeds, make_keras, read_keras_case, True),
}
COUNTS = ("read", "refused", "unexpected", "outside")


# Running --------------------------------------------------------------------------------------


class Sandbox:
    """A tree of folders in which nothing but a case's output may appear.

    Args:
        root: Where; ``root/a/b/c`` holds the case, so that a few ``..`` do not leave the tree.
    """

    def __init__(self, root: Path):
        self.root = root
        self.seeds = root / "a" / "seeds"
        self.case = root / "a" / "b" / "in"
        self.out = root / "a" / "b" / "out"
        for folder in (
            self.seeds,
            self.case,
            self.out,
            root / OUTSIDE,
            root / "home",
            root / "cwd",
        ):
            folder.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Empties the case's folders."""
        for folder in (self.case, self.out):
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)

    def strays(self, inputs: set[str]) -> list[str]:
        """What is there and should not be; taken away."""
        expected = {
            self.root: {"a", OUTSIDE, "home", "cwd", "tmp"},
            self.root / "a": {"seeds", "b"},
            self.root / "a" / "b": {"in", "out"},
            self.root / OUTSIDE: set(),
            self.root / "cwd": set(),
            self.case: inputs,
        }
        found = []
        for folder, names in expected.items():
            for name in set(os.listdir(folder)) - names:
                found.append(str(Path(folder, name).relative_to(self.root)))
                path = Path(folder, name)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return found


def run_case(name: str, number: int, seed: int, sandbox: Sandbox) -> tuple[str, str]:
    """Makes and reads one case.

    Returns:
        One of ``COUNTS``, and what there is to tell of it.
    """
    from tfstyle.errors import TfstyleError

    reader = READERS[name]
    rng = random.Random(f"{seed}/{name}/{number}")
    sandbox.clear()
    reader.make(rng, sandbox.seeds / name.replace(" ", "-"), sandbox.case)
    inputs = set(os.listdir(sandbox.case))
    outcome, note = "read", ""
    try:
        reader.read(rng, sandbox.case, sandbox.out)
    except TfstyleError as error:
        outcome, note = "refused", type(error).__name__
        str(error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        outcome, note = "unexpected", "".join(traceback.format_exception(error))
    strays = sandbox.strays(inputs)
    return ("outside", ", ".join(strays)) if strays else (outcome, note)


def prepare(tensorflow: bool, sandbox: Sandbox) -> None:
    """What a worker imports and sets before its first case."""
    os.environ.update(LIMITS)
    os.environ.update(HOME=str(sandbox.root / "home"), TMPDIR=str(sandbox.root / "tmp"))
    (sandbox.root / "tmp").mkdir(exist_ok=True)
    tempfile.tempdir = None
    os.chdir(sandbox.root / "cwd")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    if tensorflow:
        import tensorflow as tf

        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.io.decode_png(png(1, 1, 8, 0, b"\0\0"))
    import tfstyle.data
    import tfstyle.runs.outputs  # noqa: F401


def make_seeds(name: str, sandbox: Sandbox) -> None:
    folder = sandbox.seeds / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    READERS[name].seeds(folder)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def work(
    name: str, first: int, last: int, seed: int, sandbox: Sandbox, shared, notes: Path
) -> None:
    """A worker: cases from `first` up to `last`."""
    for stream in (1, 2):  # decoders and TensorFlow write there
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    prepare(READERS[name].tensorflow, sandbox)
    run_case(name, 0, seed, sandbox)  # imports what is imported late
    idle = _status("VmRSS")
    space = _status("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in range(first, last):
        shared[1] = int(time.monotonic() * 1000)
        shared[0] = number
        outcome, note = run_case(name, number, seed, sandbox)
        spent = int(time.monotonic() * 1000) - shared[1]
        shared[2] = max(shared[2], spent)
        shared[4 + COUNTS.index(outcome)] += 1
        if outcome in ("unexpected", "outside"):
            with open(notes, "a") as file:
                file.write(json.dumps({"reader": name, "case": number, outcome: note}) + "\n")
        if number % 64 == 0 or spent > 200:
            shared[3] = max(shared[3], _status("VmHWM") - idle)
    shared[0] = last
    shared[3] = max(shared[3], _status("VmHWM") - idle)
    os._exit(0)


def cpu_seconds(process: int) -> float:
    """Time that a process has had of the processors; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_reader(name: str, count: int, seed: int, root: Path, notes: Path) -> dict:
    """All cases of one reader, whatever becomes of the workers."""
    context = multiprocessing.get_context("fork")
    sandbox = Sandbox(root)
    seeding = context.Process(target=make_seeds, args=(name, sandbox))
    seeding.start()
    seeding.join()
    if seeding.exitcode:
        raise SystemExit(f"the files to start from for {name!r} could not be made")
    shared = context.Array("q", 4 + len(COUNTS), lock=False)
    crashes, hangs, waited_for, begin, first = [], [], [], time.monotonic(), 0
    while first < count:
        shared[0], shared[1] = -1, 0
        worker = context.Process(
            target=work, args=(name, first, count, seed, sandbox, shared, notes)
        )
        worker.start()
        hung, case, busy = False, -1, 0.0
        while worker.is_alive():
            worker.join(0.2)
            if shared[0] != case:
                case, busy = shared[0], cpu_seconds(worker.pid)
            spent = cpu_seconds(worker.pid) - busy
            waited = time.monotonic() - shared[1] / 1000
            late = spent > SECONDS or waited > WAITING * SECONDS
            if case >= 0 and late and shared[0] == case and worker.is_alive():
                hung = True
                worker.kill()
                worker.join()
        if shared[0] >= count:
            break
        if shared[0] < 0:
            raise SystemExit(
                f"the worker of {name!r} ends before its first case: {worker.exitcode}"
            )
        first = int(shared[0])
        if hung and spent <= SECONDS and first not in waited_for:
            waited_for.append(first)  # it had no processor; once more
            continue
        (hangs if hung else crashes).append(first)
        first += 1
        print(
            f"{name}: case {shared[0]} {'hangs' if hung else f'ends with {worker.exitcode}'}",
            flush=True,
        )
    found = {key: int(shared[4 + i]) for i, key in enumerate(COUNTS)}
    return {
        "cases": count,
        "read": found["read"],
        "refused": found["refused"],
        "unexpected": found["unexpected"],
        "outside": found["outside"],
        "crashes": len(crashes),
        "hangs": len(hangs),
        "failing_cases": {"crash": crashes, "hang": hangs},
        "repeated_for_lack_of_processor": waited_for,
        "slowest_ms": int(shared[2]),
        "memory_mb": round(shared[3] / 2**20, 1),
        "seconds": round(time.monotonic() - begin, 1),
    }


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line says; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=100_000, help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", choices=list(READERS), help="only this one")
    parser.add_argument(
        "--case", type=int, help="run this case of the reader and show what happens"
    )
    parser.add_argument("--each", type=int, help="cases of each reader, instead of its share")
    parser.add_argument("--keep", type=Path, help="with --case: where to keep the files")
    parser.add_argument(
        "--update", action="store_true", help="keep the figures of other readers in the output"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    names = options.reader or list(READERS)
    output = options.output.absolute()
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if os.path.isdir("/dev/shm") else None
    ) as folder:
        if options.case is not None:
            (name,) = names
            sandbox = Sandbox(Path(folder))
            make_seeds(name, sandbox)
            prepare(READERS[name].tensorflow, sandbox)
            outcome, note = run_case(name, options.case, options.seed, sandbox)
            print(outcome, note, sep="\n")
            if options.keep is not None:
                shutil.copytree(sandbox.case, options.keep, dirs_exist_ok=True)
            os._exit(outcome in ("unexpected", "outside"))
        notes = Path(folder, "notes.jsonl")
        readers = {}
        shares = sum(reader.share for reader in READERS.values())
        for name in names:
            count = options.each or max(1, round(options.cases * READERS[name].share / shares))
            root = Path(folder, name.replace(" ", "-"))
            readers[name] = run_reader(name, count, options.seed, root, notes)
            facts = {key: value for key, value in readers[name].items() if key != "failing_cases"}
            print(name, json.dumps(facts), flush=True)
        lines = notes.read_text().splitlines() if notes.exists() else []
    before = json.loads(output.read_text()) if options.update and output.exists() else {}
    readers = {**before.get("readers", {}), **readers}
    failures = [f for f in before.get("failures", ()) if f["reader"] not in names]
    failures += [json.loads(line) for line in lines]
    report = {
        "command": f"python benchmarks/fuzz.py --cases {options.cases} --seed {options.seed}",
        "limits": LIMITS,
        "memory_limit_mb": MEMORY // 2**20,
        "time_limit_s": SECONDS,
        "total": {
            key: sum(row[key] for row in readers.values())
            for key in ("cases", "read", "refused", "unexpected", "outside", "crashes", "hangs")
        },
        "readers": {name: readers[name] for name in READERS if name in readers},
        "failures": failures[:50],
        "environment": _environment(),
    }
    output.write_text(json.dumps(report, indent=1) + "\n")
    if output == Path(__file__).absolute().with_suffix(".json"):
        write_page(report)
    print(json.dumps(report["total"]))
    bad = ("unexpected", "outside", "crashes", "hangs")
    return int(any(report["total"][key] for key in bad))


def table(report: dict) -> str:
    """The report in Markdown, as docs/limits.md shows it."""
    lines = [
        "| reader | cases | read | refused | other errors | crashes | hangs | files elsewhere "
        "| memory, MB |",
        "| --- |" + " ---: |" * 8,
    ]
    rows = {**report["readers"], "all": report["total"]}
    for name, row in rows.items():
        memory = row.get("memory_mb", max(r["memory_mb"] for r in report["readers"].values()))
        keys = ("cases", "read", "refused", "unexpected", "crashes", "hangs", "outside")
        figures = [f"{row[key]:,}".replace(",", " ") for key in keys]
        lines.append(f"| {name} | {' | '.join(figures)} | {memory:.0f} |")
    return "\n".join(lines)


def write_page(report: dict) -> None:
    """Puts the table into docs/limits.md."""
    page = Path(__file__).parents[1] / "docs" / "limits.md"
    start, end = "<!-- fuzz -->", "<!-- /fuzz -->"
    head, _, rest = page.read_text().partition(start)
    page.write_text(f"{head}{start}\n{table(report)}\n{end}{rest.partition(end)[2]}")


def _environment() -> dict[str, str]:
    from importlib import metadata

    names = ("tfstyle", "pydicom", "nibabel", "highdicom", "tensorflow", "keras", "numpy")
    names += ("python-gdcm", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pillow")
    found = {"python": sys.version.split()[0]}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "-"
    return found


if __name__ == "__main__":
    sys.exit(main())
