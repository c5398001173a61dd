# ruff: noqa: D103 - seeds and readers are told by their names
"""The readers that ``fuzz.py`` tries: files to start from, and what reads them."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import pkgutil
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Files = dict[str, bytes]
SMALL = 64 * 1024


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        runs: Cases.
        seeds: Gives the files of each case to start from.
        read: Reads a case: (its folder, output folder).
        libraries: What lies behind it and tells of new code, beside tfstyle.
        tensorflow: Whether reading takes TensorFlow.
    """

    runs: int
    seeds: Callable[[], Iterator[Files]]
    read: Callable[[Path, Path], None]
    libraries: tuple[str, ...] = ()
    tensorflow: bool = False

    def prepare(self) -> None:
        """Imports what is instrumented."""
        import tfstyle.data
        import tfstyle.runs.outputs
        import tfstyle.style_bank  # noqa: F401

        if self.tensorflow:
            import tensorflow as tf

            tf.config.threading.set_inter_op_parallelism_threads(1)
            tf.config.threading.set_intra_op_parallelism_threads(1)


def draw(folder: Path) -> random.Random:
    """Choices of a case, the same for the same files."""
    return random.Random(sum(zlib.crc32(f.read_bytes()) for f in folder.iterdir() if f.is_file()))


def reads(name: str, file: str = "") -> Callable[[Path, Path], None]:
    """What calls a reader with a file of the case."""

    def read(folder: Path, out: Path) -> None:
        pkgutil.resolve_name(name)(folder / file)

    return read


def files_of(write: Callable[[Path], None], suffix: str = "") -> Files:
    """What a function writes into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        found = sorted(p for p in Path(folder).rglob(f"*{suffix}") if p.is_file())
        return {path.name: path.read_bytes() for path in found}


# -- DICOM ---------------------------------------------------------------------------------


def series(count: int = 3) -> list:
    """Slices of a CT of 96 x 96 pixels."""
    import pydicom
    from pydicom.data import get_testdata_file

    slices = []
    for number in range(count):
        dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
        del dataset[0x00431029:0x7FE00000]
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        dataset.ImagePositionPatient, dataset.Rows, dataset.Columns = [0, 0, 2.0 * number], 12, 10
        dataset.SliceThickness = dataset.SpacingBetweenSlices = 2
        dataset.PixelData = dataset.PixelData[:240]
        slices.append(dataset)
    return slices


def saved(dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def dicom_seeds() -> Iterator[Files]:
    """Pydicom's own test files, those of pydicom-data, a series, and a deflated slice."""
    import pydicom
    from pydicom.data import get_testdata_files

    for file in sorted(map(Path, get_testdata_files("*.dcm"))):
        if file.is_file() and file.stat().st_size <= SMALL:
            yield {"case.dcm": file.read_bytes()}
    slices = series()
    yield {f"{number}.dcm": saved(dataset) for number, dataset in enumerate(slices)}
    slices[0].file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    yield {"case.dcm": saved(slices[0])}


def read_dicom(folder: Path, out: Path) -> None:
    from tfstyle.data import list_scans, read_scans, resolve_window
    from tfstyle.runs.outputs import write_generated

    rng = draw(folder)
    if rng.random() < 0.2:
        found, damaged = list_scans(folder)
        scans = [scan for one in found for scan in one.read()]
        if damaged and not scans:
            raise damaged[0]
    else:
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

    slices = series()
    mask = np.zeros((3, 12, 10), np.uint8)
    mask[1:, 3:9, 2:7] = 1
    about = SegmentDescription(1, "segment", codes.SCT.Tissue, codes.SCT.Bone, "MANUAL")
    for kind in ("BINARY", "FRACTIONAL", "LABELMAP"):
        pixels = mask.astype(np.float32) if kind == "FRACTIONAL" else mask
        names = ("1.2.7", 1, "1.2.8", 1, "tfstyle", "fuzz", "1", "0")
        yield {"case.dcm": saved(Segmentation(slices, pixels, kind, [about], *names))}


def read_seg(folder: Path, out: Path) -> None:
    from tfstyle.data.dicom.segmentation import read_dicom_seg
    from tfstyle.data.nifti import resample_labels

    resample_labels(scan(), *read_dicom_seg(folder / "case.dcm"))


def scan():
    from tfstyle.data import Scan

    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]], float)
    return Scan(np.zeros((3, 12, 10), np.int16), (2.0, 1.0, 1.0), affine=affine)


# -- NIfTI, tables, PNG, arrays ---------------------------------------------------------------


def nifti_seeds() -> Iterator[Files]:
    import nibabel as nib

    hu = np.random.default_rng(0).integers(-1024, 1500, (5, 6, 4)).astype(np.int16)
    for kind, voxels in itertools.product(
        (nib.Nifti1Image, nib.Nifti2Image), (hu, (hu > 0).astype(np.uint8), hu / 3, hu[..., None])
    ):
        data = kind(voxels, np.diag([-1.0, -1, 2, 1])).to_bytes()
        yield {"case.nii": data}
        yield {"case.nii.gz": gzip.compress(data, 1)}
    big = nib.Nifti1Image(hu.astype(">i2"), np.eye(4), nib.Nifti1Header(endianness=">"))
    yield {"case.nii": big.to_bytes()}


def read_nifti(folder: Path, out: Path) -> None:
    from tfstyle.data import match_labels, read_scan

    (file,), rng = folder.iterdir(), draw(folder)
    if rng.random() < 0.3:
        match_labels(scan(), file)
    else:
        read_scan(file, units=rng.choice(("auto", "HU", "US")))


def table_seeds() -> Iterator[Files]:
    rows = "".join(f"case{i},scanner {i % 3},{i}\n" for i in range(12))
    yield {"table.csv": b"subject_id,scanner,age\n" + rows.encode()}
    yield {"table.tsv": b"participant_id\tscanner\n" + rows.replace(",", "\t").encode()}
    yield {"case.json": json.dumps({"Manufacturer": "A", "KVP": 120, "x": [1, {}]}).encode()}


def read_table(folder: Path, out: Path) -> None:
    from tfstyle.data import domains

    (file,) = folder.iterdir()
    if file.suffix == ".json":
        domains.tag_or_sidecar(str(folder / "case.nii.gz"), "Manufacturer")
    else:
        domains.read_table(str(file), "scanner", folder)


def png_seeds() -> Iterator[Files]:
    from PIL import Image, PngImagePlugin

    gray = Image.fromarray((np.arange(70).reshape(7, 10) * 3).astype(np.uint8))
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "x" * 1000, zip=True)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        buffer = io.BytesIO()
        gray.convert(mode).save(buffer, "png", pnginfo=info, icc_profile=bytes(300))
        yield {"case.png": buffer.getvalue()}


def saved_arrays(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def bank_seeds() -> Iterator[Files]:
    from tfstyle.style_bank import StyleBank

    codes = np.abs(np.random.default_rng(0).normal(size=(3, 2, 6))).astype(np.float32)
    quantiles = np.sort(np.random.default_rng(1).random((3, 256), np.float32))
    bank = StyleBank(codes, names=("a", "b", "c"), quantiles=quantiles)
    yield {"case.npz": files_of(lambda folder: bank.save(folder / "bank.npz"))["bank.npz"]}
    yield {"case.npz": saved_arrays(codes=np.array([{"a": 1}], object))}


# -- weights, presets, models, what earlier runs left -----------------------------------------


def weight_seeds() -> Iterator[Files]:
    import pickle

    arrays = {"kernel": np.ones((3, 3, 3, 4), np.float32), "bias": np.zeros(4)}
    for protocol in (2, 4, 5):
        yield {"case.pickle": pickle.dumps({"VGG16_0": {"Conv_0": arrays}}, protocol)}
    yield {"case.pickle": b"cposix\nsystem\n(S'touch elsewhere'\ntR."}
    yield {"case.npz": saved_arrays(**{"conv/kernel": np.ones((3, 3), np.float32)})}


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
    from tfstyle.runs.manifest import MANIFEST, SETTINGS, ManifestFolder

    shutil.copy(folder / "manifest.jsonl", out / MANIFEST)
    shutil.copy(folder / "settings.json", out / SETTINGS)
    with ManifestFolder(out, {"seed": 1, "per_image": 2, "model": "x"}) as manifest:
        manifest.complete("a.nii.gz", 2)
        manifest.count({"a.nii.gz"}, 2)
        manifest.tidy()


def model_seeds() -> Iterator[Files]:
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
    signatures = {"stylize": model.generate}
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
    from tfstyle.export import read_metadata, saved_model_folder
    from tfstyle.export.saved_model import graph_operations

    place_model(folder, out)
    path = saved_model_folder(out)
    graph_operations(path)
    read_metadata(path)


def load_model(folder: Path, out: Path) -> None:
    from tfstyle.export import Servable

    Servable(place_model(folder, out), threads=1).close()


def keras_seeds() -> Iterator[Files]:
    """A small U-Net, and an archive with a Lambda layer."""
    import keras

    from tfstyle.segmentation import UNet

    inputs = keras.Input((4,))
    outputs = keras.layers.Lambda(lambda x: x * 2, output_shape=(4,))(inputs)
    for model in (UNet(2, depth=1, width=2), keras.Model(inputs, outputs)):
        files = files_of(lambda folder, model=model: model.save(folder / "case.keras"))
        yield {"case.keras": files["case.keras"]}


READERS = {
    "dicom": Reader(2_000, dicom_seeds, read_dicom, ("pydicom",)),
    "dicom-seg": Reader(500, seg_seeds, read_seg, ("pydicom",)),
    "nifti": Reader(2_500, nifti_seeds, read_nifti, ("nibabel",)),
    "tables": Reader(2_500, table_seeds, read_table),
    "png": Reader(2_500, png_seeds, reads("tfstyle.data:read_png", "case.png"), tensorflow=True),
    "style banks": Reader(
        2_000, bank_seeds, reads("tfstyle.style_bank:StyleBank.load", "case.npz")
    ),
    "weights": Reader(2_000, weight_seeds, read_weights, tensorflow=True),
    "presets": Reader(60, preset_seeds, reads("tfstyle.presets:load"), tensorflow=True),
    "runs": Reader(1_000, run_seeds, read_run, tensorflow=True),
    "model folders": Reader(500, model_seeds, read_model, tensorflow=True),
    "models loaded": Reader(60, model_seeds, load_model, tensorflow=True),
    "keras archives": Reader(
        40, keras_seeds, reads("tfstyle.segmentation:UNet.load", "case.keras"), tensorflow=True
    ),
}
