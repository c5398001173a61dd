# ruff: noqa: D103 - seeds and readers are told by their names
"""The readers that ``fuzz.py`` tries: files to start from, and what reads them."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import pickle
import pkgutil
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

Files = dict[str, bytes]


class Reader(NamedTuple):
    """A reader.

    Attributes:
        runs: Cases.
        seeds: Gives the files of each case to start from.
        read: Reads a case: its folder, output folder.
        modules: Of tfstyle, imported before, so that no case waits for them.
    """

    runs: int
    seeds: Callable[[], Iterator[Files]]
    read: Callable[[Path, Path], object]
    modules: tuple[str, ...] = ("export.servable", "presets", "runs.augment", "segmentation")


def reads(name: str, file: str = "") -> Callable[[Path, Path], object]:
    """What calls a function with a file of the case."""
    return lambda folder, out: pkgutil.resolve_name(name)(folder / file)


def draw(folder: Path) -> random.Random:
    """Choices of a case, the same for the same files."""
    return random.Random(sum(zlib.crc32(file.read_bytes()) for file in folder.iterdir()))


def files_of(write: Callable[[Path], object]) -> Files:
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
    from tfstyle.data import read_scans, resolve_window
    from tfstyle.runs.outputs import write_generated

    rng = draw(folder)
    scans = read_scans(folder, lazy=rng.random() < 0.3)
    scans = [scan.load() if hasattr(scan, "load") else scan for scan in scans]
    for scan in scans[:2] if rng.random() < 0.15 else ():
        window = resolve_window(rng.choice(("auto", "range", "percentile")), scan)
        kind = rng.choice(("dicom", "nifti"))
        target = out / (scan.name + (".nii" if kind == "nifti" else ""))
        write_generated(scan, window.to_unit(scan.pixels), window, kind, target)


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

    hu = np.random.default_rng(0).integers(-1024, 1500, (5, 6, 4))
    for kind, dtype in itertools.product(
        (nib.Nifti1Image, nib.Nifti2Image), (np.int16, np.uint8, np.float64, ">i2")
    ):
        data = kind(hu.clip(0).astype(dtype), np.diag([-1.0, -1, 2, 1])).to_bytes()
        yield from ({"case.nii": data}, {"case.nii.gz": gzip.compress(data, 1)})


def read_nifti(folder: Path, out: Path) -> None:
    from tfstyle.data import match_labels, read_scan

    (file,), rng = folder.iterdir(), draw(folder)
    if rng.random() < 0.3:
        match_labels(scan(), file)
    else:
        read_scan(file, units=rng.choice(("auto", "HU", "US")))


def png_seeds() -> Iterator[Files]:
    from PIL import Image, PngImagePlugin

    gray = Image.fromarray((np.arange(70).reshape(7, 10) * 3).astype(np.uint8))
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "x" * 1000, zip=True)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        more = {"pnginfo": info, "icc_profile": bytes(300)}
        yield {"case.png": saved(gray.convert(mode).save, "png", **more)}


def bank_seeds() -> Iterator[Files]:
    from tfstyle import StyleBank

    rng = np.random.default_rng(0)
    quantiles = np.sort(rng.random((3, 256), np.float32))
    bank = StyleBank(rng.random((3, 2, 6), np.float32), names=("a", "b", "c"), quantiles=quantiles)
    yield files_of(lambda folder: bank.save(folder / "case.npz"))
    yield {"case.npz": saved(np.savez, codes=np.array([{"a": 1}], object))}


def weight_seeds() -> Iterator[Files]:
    arrays = {"kernel": np.ones((3, 3, 3, 4), np.float32), "bias": np.zeros(4)}
    for protocol in (2, 4, 5):
        yield {"case.pickle": pickle.dumps({"VGG16_0": {"Conv_0": arrays}}, protocol)}
    yield {"case.pickle": b"cposix\nsystem\n(S'touch elsewhere'\ntR."}
    yield {"case.npz": saved(np.savez, **{"conv/kernel": np.ones((3, 3), np.float32)})}


def read_weights(folder: Path, out: Path) -> None:
    from tfstyle.encoders.weights import load_arrays, load_npz

    (file,) = folder.iterdir()
    if file.suffix == ".npz":
        load_npz(file)
    else:
        load_arrays(file.read_bytes())


def preset_seeds() -> Iterator[Files]:
    from tfstyle import presets

    folder = presets.folder("vgg16_ct")
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
    files = files_of(lambda folder: tf.saved_model.save(model, str(folder), signatures=signatures))
    facts = {"format": "tfstyle-servable/1", "signatures": {"a": {}}, "operations": ["Add"]}
    yield {**files, "tfstyle.json": json.dumps(facts).encode()}


def place_model(folder: Path, out: Path) -> Path:
    for file in folder.iterdir():
        part = {"tfstyle.json": "assets.extra"}.get(file.name, "")
        target = out / "1" / ("variables" if file.name.startswith("variables") else part)
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return out / "1"


def read_model(folder: Path, out: Path) -> None:
    from tfstyle.export import read_metadata
    from tfstyle.export.saved_model import graph_operations

    path = place_model(folder, out)
    graph_operations(path)
    read_metadata(path)


def load_model(folder: Path, out: Path) -> None:
    from tfstyle.export import Servable

    Servable(place_model(folder, out), threads=1).close()


def keras_seeds() -> Iterator[Files]:
    """A small U-Net, and an archive with a Lambda layer."""
    import keras

    from tfstyle.segmentation import UNet

    twice = keras.layers.Lambda(lambda x: x * 2, output_shape=(4,))
    for model in (UNet(2, depth=1, width=2), keras.Sequential([keras.Input((4,)), twice])):
        yield files_of(lambda folder, model=model: model.save(folder / "case.keras"))


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
