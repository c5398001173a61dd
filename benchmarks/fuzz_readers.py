# ruff: noqa: D103 - seeds and readers are told by their names
"""The readers that ``fuzz.py`` tries: sets of files to start from, and what reads them."""

from __future__ import annotations

import functools
import gzip
import io
import json
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import nibabel as nib
import numpy as np
import pydicom
import tensorflow as tf
from highdicom.seg import Segmentation, SegmentDescription
from PIL import Image
from pydicom.data import get_testdata_file, get_testdata_files
from pydicom.sr.codedict import codes

from tfstyle import StyleBank, presets
from tfstyle.data import WINDOWS, Scan, match_labels, read_png, read_scan, read_scans
from tfstyle.data.dicom.segmentation import read_dicom_seg
from tfstyle.data.nifti import resample_labels
from tfstyle.encoders.weights import load_arrays
from tfstyle.export import Servable, read_metadata
from tfstyle.export.saved_model import graph_operations
from tfstyle.runs.manifest import ManifestFolder
from tfstyle.runs.outputs import write_generated
from tfstyle.segmentation import UNet

#: Files by path; ``a.npz!b`` is the member b of an archive, ``a.gz!`` what is packed in a stream.
Files = dict[str, bytes]


class Reader(NamedTuple):
    """Number of cases; what gives at most 256 sets of files; what reads one, with its outputs."""

    runs: int
    seeds: Callable[[], Iterator[Files]]
    read: Callable[[Path, Path], object]


def written(write: Callable[[Path], object], name: str = "") -> Files:
    """What a function writes into a folder, or to a file of this name there."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root / name)
        files = (path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def with_members(files: Files) -> Iterator[Files]:
    """An archive as it is, and by its members."""
    yield files
    ((name, data),) = files.items()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        yield {f"{name}!{member}": archive.read(member) for member in archive.namelist()}


def series() -> Iterator[pydicom.Dataset]:
    """Slices of a CT of 12 x 10 pixels."""
    for number in range(3):
        dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
        del dataset[0x00431029:0x7FE00000]
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        dataset.ImagePositionPatient, dataset.Rows, dataset.Columns = [0, 0, 2.0 * number], 12, 10
        dataset.SliceThickness = dataset.SpacingBetweenSlices = 2
        dataset.PixelData = dataset.PixelData[:240]
        yield dataset


AFFINE = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]], float)
SCAN = Scan(np.zeros((3, 12, 10), np.int16), (2.0, 1.0, 1.0), affine=AFFINE)


def dicom_seeds() -> Iterator[Files]:
    """A series, and the small test files of pydicom and pydicom-data."""
    yield written(lambda folder: [d.save_as(folder / f"{d.SOPInstanceUID}.dcm") for d in series()])
    for file in sorted(map(Path, get_testdata_files("*.dcm"))):
        if file.is_file() and file.stat().st_size <= 2**16:
            yield {"case.dcm": file.read_bytes()}


def read_dicom(folder: Path, out: Path) -> None:
    window = WINDOWS["full"]
    for lazy in (True, False):
        scans = [scan.load() for scan in read_scans(folder, lazy=lazy)]
    for kind, end in (("dicom", ""), ("nifti", ".nii")):
        write_generated(scans[0], window.to_unit(scans[0].pixels), window, kind, out / f"x{end}")


def seg_seeds() -> Iterator[Files]:
    """Segmentations of a series as highdicom writes them."""
    mask = np.zeros((3, 12, 10), np.uint8)
    mask[1:, 3:9, 2:7] = 1
    about = SegmentDescription(1, "segment", codes.SCT.Tissue, codes.SCT.Bone, "MANUAL")
    for kind in ("BINARY", "FRACTIONAL", "LABELMAP"):
        pixels = mask.astype(np.float32) if kind == "FRACTIONAL" else mask
        names = ("1.2.7", 1, "1.2.8", 1, "tfstyle", "fuzz", "1", "0")
        one = Segmentation([*series()], pixels, kind, [about], *names)
        yield written(one.save_as, "case.dcm")


def nifti_seeds() -> Iterator[Files]:
    hu = np.random.default_rng(0).integers(0, 1500, (5, 6, 4))
    for kind, dtype in ((nib.Nifti1Image, np.int16), (nib.Nifti2Image, ">i2")):
        data = kind(hu.astype(dtype), np.diag([-1.0, -1, 2, 1])).to_bytes()
        packed = gzip.compress(data, 1)
        yield from ({"case.nii": data}, {"case.nii.gz!": data}, {"case.nii.gz": packed})


def read_nifti(folder: Path, out: Path) -> None:
    (file,) = folder.iterdir()
    read_scan(file)
    match_labels(SCAN, file)


def png_seeds() -> Iterator[Files]:
    gray = Image.fromarray((np.arange(70).reshape(7, 10) * 3).astype(np.uint8))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        save = functools.partial(gray.convert(mode).save, icc_profile=bytes(300))
        yield written(save, "case.png")


def bank_seeds() -> Iterator[Files]:
    codes = np.random.default_rng(0).random((3, 2, 6), np.float32)
    bank = StyleBank(codes, names=("a", "b", "c"))
    yield from with_members(written(bank.save, "case.npz"))
    yield written(functools.partial(np.savez, codes=np.array([{"a": 1}], object)), "case.npz")


def weight_seeds() -> Iterator[Files]:
    arrays = {"kernel": np.ones((3, 3, 3, 4), np.float32), "bias": np.zeros(4)}
    for protocol in (2, 4, 5):
        yield {"case.pickle": pickle.dumps({"VGG16_0": {"Conv_0": arrays}}, protocol)}
    yield {"case.pickle": b"cposix\nsystem\n(S'touch elsewhere'\ntR."}


def preset_seeds() -> Iterator[Files]:
    folder = presets.folder("vgg16_ct_shallow")
    yield {name: (folder / name).read_bytes() for name in (presets.CONFIG, presets.WEIGHTS)}


RUN = {"seed": 1, "per_image": 2, "model": "x"}


def run_seeds() -> Iterator[Files]:
    row = {"status": "done", "source": "a.nii.gz", "part": 0, "parts": 1, "mask": None,
           "image": "images/a-1.nii.gz", "window": [40.0, 400.0], "structure": 0.9}  # fmt: skip
    rows = "".join(json.dumps({**row, "copy": copy}) + "\n" for copy in (1, 2))
    yield {"manifest.jsonl": rows.encode(), "settings.json": json.dumps(RUN).encode()}


def read_run(folder: Path, out: Path) -> None:
    shutil.copytree(folder, out, dirs_exist_ok=True)
    with ManifestFolder(out, RUN) as manifest:
        manifest.complete("a.nii.gz", 2)
        manifest.count({"a.nii.gz"}, 2)


def model_seeds() -> Iterator[Files]:
    """A small SavedModel with a variable, a function and the server's checks."""

    def generate(content):
        tf.debugging.assert_all_finite(content, "content")
        return {"generated": tf.nn.relu(content * model.gain)}

    model = tf.Module()
    model.gain = tf.Variable([1.0, 2.0])
    given = tf.TensorSpec([None, 2], tf.float32, name="content")
    signatures = {"stylize": tf.function(generate, input_signature=[given])}
    files = written(lambda folder: tf.saved_model.save(model, str(folder), signatures=signatures))
    facts = {"format": "tfstyle-servable/1", "signatures": {"a": {}}, "operations": ["Add"]}
    yield {**files, "assets.extra/tfstyle.json": json.dumps(facts).encode()}


def read_model(folder: Path, out: Path) -> None:
    graph_operations(folder)
    read_metadata(folder)


def keras_seeds() -> Iterator[Files]:
    """A small U-Net, and an archive with a Lambda layer."""
    twice = keras.layers.Lambda(lambda x: x * 2, output_shape=(4,))
    for model in (UNet(2, depth=1, width=2), keras.Sequential([keras.Input((4,)), twice])):
        yield from with_members(written(model.save, "case.keras"))


READERS = {
    "dicom": Reader(2_000, dicom_seeds, read_dicom),
    "dicom-seg": Reader(
        500, seg_seeds, lambda case, out: resample_labels(SCAN, *read_dicom_seg(case / "case.dcm"))
    ),
    "nifti": Reader(2_500, nifti_seeds, read_nifti),
    "png": Reader(2_500, png_seeds, lambda case, out: read_png(case / "case.png")),
    "style banks": Reader(2_000, bank_seeds, lambda case, out: StyleBank.load(case / "case.npz")),
    "weights": Reader(
        2_000, weight_seeds, lambda case, out: load_arrays((case / "case.pickle").read_bytes())
    ),
    "presets": Reader(60, preset_seeds, lambda case, out: presets.load(case)),
    "runs": Reader(1_000, run_seeds, read_run),
    "model folders": Reader(500, model_seeds, read_model),
    "models loaded": Reader(60, model_seeds, lambda case, out: Servable(case).close()),
    "keras archives": Reader(40, keras_seeds, lambda case, out: UNet.load(case / "case.keras")),
}
