# ruff: noqa: D103 - seeds and readers are told by their names
"""The readers that ``fuzz.py`` tries: sets of files to start from, and what reads them."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import pkgutil
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

#: Files by name; ``a.npz/b`` is the member b of an archive, ``a.gz/`` what is packed in a stream.
Files = dict[str, bytes]


class Reader(NamedTuple):
    """A reader.

    Attributes:
        runs: Cases.
        seeds: Gives the sets of files to start from, 256 at most.
        read: Reads a set: its folder, output folder.
        modules: Of tfstyle, imported before, so that no case waits for them.
    """

    runs: int
    seeds: Callable[[], Iterator[Files]]
    read: Callable[[Path, Path], object]
    modules: tuple[str, ...] = ("export.servable", "presets", "runs.augment", "segmentation")


def place(files: Files, folder: Path) -> None:
    """Writes files into a folder, archives and streams packed."""
    for name, data in files.items():
        path, packed, member = name.partition("/")
        if not packed:
            (folder / path).write_bytes(data)
        elif not member:
            (folder / path).write_bytes(gzip.compress(data, 1))
        else:
            with zipfile.ZipFile(folder / path, "a") as archive:
                archive.writestr(member, data)


def with_members(name: str, data: bytes) -> Iterator[Files]:
    """An archive as it is, and by its members."""
    yield {name: data}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        yield {f"{name}/{member}": archive.read(member) for member in archive.namelist()}


def reads(name: str, file: str = "") -> Callable[[Path, Path], object]:
    """What calls a function with a file of the case."""
    return lambda folder, out: pkgutil.resolve_name(name)(folder / file)


def written(write: Callable[[Path], object]) -> Files:
    """What a function writes into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def saved(write: Callable, *given, **named) -> bytes:
    """What a function writes into an open file."""
    buffer = io.BytesIO()
    write(buffer, *given, **named)
    return buffer.getvalue()


def series() -> Iterator:
    """Slices of a CT of 12 x 10 pixels."""
    import pydicom
    from pydicom.data import get_testdata_file

    for number in range(3):
        dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
        del dataset[0x00431029:0x7FE00000]
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        dataset.ImagePositionPatient, dataset.Rows, dataset.Columns = [0, 0, 2.0 * number], 12, 10
        dataset.SliceThickness = dataset.SpacingBetweenSlices = 2
        dataset.PixelData = dataset.PixelData[:240]
        yield dataset


def scan():
    from tfstyle.data import Scan

    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]], float)
    return Scan(np.zeros((3, 12, 10), np.int16), (2.0, 1.0, 1.0), affine=affine)


def dicom_seeds() -> Iterator[Files]:
    """A series, and the small test files of pydicom and pydicom-data."""
    from pydicom.data import get_testdata_files

    yield {f"{number}.dcm": saved(dataset.save_as) for number, dataset in enumerate(series())}
    for file in sorted(map(Path, get_testdata_files("*.dcm"))):
        if file.is_file() and file.stat().st_size <= 2**16:
            yield {"case.dcm": file.read_bytes()}


def read_dicom(folder: Path, out: Path) -> None:
    from tfstyle.data import WINDOWS, read_scans
    from tfstyle.runs.outputs import write_generated

    window = WINDOWS["full"]
    for lazy in (True, False):
        scans = [scan.load() for scan in read_scans(folder, lazy=lazy)]
    for kind, end in (("dicom", ""), ("nifti", ".nii")):
        write_generated(scans[0], window.to_unit(scans[0].pixels), window, kind, out / f"x{end}")


def seg_seeds() -> Iterator[Files]:
    """Segmentations of a series as highdicom writes them."""
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    mask = np.zeros((3, 12, 10), np.uint8)
    mask[1:, 3:9, 2:7] = 1
    about = SegmentDescription(1, "segment", codes.SCT.Tissue, codes.SCT.Bone, "MANUAL")
    for kind in ("BINARY", "FRACTIONAL", "LABELMAP"):
        pixels = mask.astype(np.float32) if kind == "FRACTIONAL" else mask
        names = ("1.2.7", 1, "1.2.8", 1, "tfstyle", "fuzz", "1", "0")
        yield {"case.dcm": saved(Segmentation([*series()], pixels, kind, [about], *names).save_as)}


def read_seg(folder: Path, out: Path) -> None:
    from tfstyle.data.dicom.segmentation import read_dicom_seg
    from tfstyle.data.nifti import resample_labels

    resample_labels(scan(), *read_dicom_seg(folder / "case.dcm"))


def nifti_seeds() -> Iterator[Files]:
    import nibabel as nib

    hu = np.random.default_rng(0).integers(0, 1500, (5, 6, 4))
    for kind, dtype in ((nib.Nifti1Image, np.int16), (nib.Nifti2Image, ">i2")):
        data = kind(hu.astype(dtype), np.diag([-1.0, -1, 2, 1])).to_bytes()
        packed = gzip.compress(data, 1)
        yield from ({"case.nii": data}, {"case.nii.gz/": data}, {"case.nii.gz": packed})


def read_nifti(folder: Path, out: Path) -> None:
    from tfstyle.data import match_labels, read_scan

    (file,) = folder.iterdir()
    read_scan(file)
    match_labels(scan(), file)


def png_seeds() -> Iterator[Files]:
    from PIL import Image

    gray = Image.fromarray((np.arange(70).reshape(7, 10) * 3).astype(np.uint8))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield {"case.png": saved(gray.convert(mode).save, "png", icc_profile=bytes(300))}


def bank_seeds() -> Iterator[Files]:
    from tfstyle import StyleBank

    codes = np.random.default_rng(0).random((3, 2, 6), np.float32)
    bank = StyleBank(codes, names=("a", "b", "c"))
    (data,) = written(lambda folder: bank.save(folder / "case.npz")).values()
    yield from with_members("case.npz", data)
    yield {"case.npz": saved(np.savez, codes=np.array([{"a": 1}], object))}


def weight_seeds() -> Iterator[Files]:
    arrays = {"kernel": np.ones((3, 3, 3, 4), np.float32), "bias": np.zeros(4)}
    for protocol in (2, 4, 5):
        yield {"case.pickle": pickle.dumps({"VGG16_0": {"Conv_0": arrays}}, protocol)}
    yield {"case.pickle": b"cposix\nsystem\n(S'touch elsewhere'\ntR."}


def read_weights(folder: Path, out: Path) -> None:
    from tfstyle.encoders.weights import load_arrays

    load_arrays((folder / "case.pickle").read_bytes())


def preset_seeds() -> Iterator[Files]:
    from tfstyle import presets

    folder = presets.folder("vgg16_ct_shallow")
    yield {name: (folder / name).read_bytes() for name in ("preset.json", "weights.npz")}


def run_seeds() -> Iterator[Files]:
    row = {"status": "done", "source": "a.nii.gz", "part": 0, "parts": 1, "copy": 1, "mask": None,
           "image": "images/a-1.nii.gz", "style": "s", "strength": 0.5, "window": [40.0, 400.0],
           "structure": 0.9}  # fmt: skip
    rows = "".join(json.dumps({**row, "copy": i}) + "\n" for i in (1, 2))
    settings = json.dumps({"seed": 1, "per_image": 2, "model": "x"})
    yield {"manifest.jsonl": rows.encode(), "settings.json": settings.encode()}


def read_run(folder: Path, out: Path) -> None:
    from tfstyle.runs.manifest import ManifestFolder

    shutil.copytree(folder, out, dirs_exist_ok=True)
    with ManifestFolder(out, {"seed": 1, "per_image": 2, "model": "x"}) as manifest:
        manifest.complete("a.nii.gz", 2)
        manifest.count({"a.nii.gz"}, 2)


def model_seeds() -> Iterator[Files]:
    """A small SavedModel with a variable, a function and the server's checks."""
    import tensorflow as tf

    def generate(content):
        tf.debugging.assert_all_finite(content, "content")
        return {"generated": tf.nn.relu(content * model.gain)}

    model = tf.Module()
    model.gain = tf.Variable([1.0, 2.0])
    given = tf.TensorSpec([None, 2], tf.float32, name="content")
    signatures = {"stylize": tf.function(generate, input_signature=[given])}
    files = written(lambda folder: tf.saved_model.save(model, str(folder), signatures=signatures))
    facts = {"format": "tfstyle-servable/1", "signatures": {"a": {}}, "operations": ["Add"]}
    yield {**files, "tfstyle.json": json.dumps(facts).encode()}


def model_in(folder: Path, out: Path) -> Path:
    for file in folder.iterdir():
        part = {"tfstyle.json": "assets.extra"}.get(file.name, "")
        target = out / "1" / ("variables" if file.name.startswith("variables") else part)
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return out / "1"


def read_model(folder: Path, out: Path) -> None:
    from tfstyle.export import read_metadata
    from tfstyle.export.saved_model import graph_operations

    path = model_in(folder, out)
    graph_operations(path)
    read_metadata(path)


def load_model(folder: Path, out: Path) -> None:
    from tfstyle.export import Servable

    Servable(model_in(folder, out), threads=1).close()


def keras_seeds() -> Iterator[Files]:
    """A small U-Net, and an archive with a Lambda layer."""
    import keras

    from tfstyle.segmentation import UNet

    twice = keras.layers.Lambda(lambda x: x * 2, output_shape=(4,))
    for model in (UNet(2, depth=1, width=2), keras.Sequential([keras.Input((4,)), twice])):
        (data,) = written(lambda folder, model=model: model.save(folder / "case.keras")).values()
        yield from with_members("case.keras", data)


READERS = {
    "dicom": Reader(2_000, dicom_seeds, read_dicom),
    "dicom-seg": Reader(500, seg_seeds, read_seg),
    "nifti": Reader(2_500, nifti_seeds, read_nifti),
    "png": Reader(2_500, png_seeds, reads("tfstyle.data:read_png", "case.png")),
    "style banks": Reader(2_000, bank_seeds, reads("tfstyle:StyleBank.load", "case.npz")),
    "weights": Reader(2_000, weight_seeds, read_weights),
    "presets": Reader(60, preset_seeds, reads("tfstyle.presets:load")),
    "runs": Reader(1_000, run_seeds, read_run),
    "model folders": Reader(500, model_seeds, read_model),
    "models loaded": Reader(60, model_seeds, load_model),
    "keras archives": Reader(
        40, keras_seeds, reads("tfstyle.segmentation:UNet.load", "case.keras")
    ),
}
