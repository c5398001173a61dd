"""Models of a few operations that export and load in no time; small scans, and what runs made."""

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import tensorflow as tf
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from tests.models import image


class MeanTone:
    """Moves the content's gray levels to the style's mean and spread.

    A style's code is (B, 2, 3): mean, spread and a constant, twice.
    """

    code_shape = (2, 3)

    def __init__(self):
        self.gain = tf.Variable(0.9)

    def code_of(self, style):
        mean, variance = tf.nn.moments(style, (1, 2, 3))
        row = tf.stack([mean, tf.sqrt(variance), tf.ones_like(mean)], axis=1)
        return tf.stack([row, row], axis=1)

    def generate_from_code(self, content, code, strength=None):
        mean, spread = code[:, 0, 0, None, None, None], code[:, 1, 1, None, None, None]
        toned = tf.clip_by_value(self.gain * (mean + spread * (2.0 * content - 1.0)), 0.0, 1.0)
        return toned if strength is None else content + strength * (toned - content)

    def generate(self, content, style, strength=None):
        return self.generate_from_code(content, self.code_of(style), strength)

    def stylize(self, content, style, strength=1.0):
        """What a served model is to give, for arrays of one image or of a batch."""
        content, style = (np.asarray(x, np.float32) for x in (content, style))
        batch = content.reshape(-1, *content.shape[-2:], 1) if content.ndim == 2 else content
        style = style[None, ..., None] if style.ndim == 2 else style
        return np.asarray(self.generate(batch, style, np.float32(strength))).reshape(content.shape)


def ct_slice(path: Path, uid: str | None = None, number: int = 0) -> Path:
    """A CT slice, of a series of its own unless it is told one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    dataset.SeriesInstanceUID = uid or generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.InstanceNumber = number + 1
    x, y, _ = dataset.ImagePositionPatient
    dataset.ImagePositionPatient = [x, y, 2.0 * number]
    dataset.SliceLocation = 2.0 * number
    dataset.save_as(path)
    return path


def ct_series(folder: Path, slices: int = 2) -> str:
    """A series of one CT slice again and again, 2 mm apart; gives its UID.

    The order of the files' names is not that of the positions.
    """
    uid = generate_uid()
    for number in range(slices):
        ct_slice(folder / f"{uid[-6:]}-{9 - number}.dcm", uid, number)
    return uid


def ct_volume(path: Path, slices: int = 3, seed: int = 3, flat: tuple[int, ...] = ()) -> Path:
    """A NIfTI volume in HU, some slices of which show one gray level."""
    values = 1500 * image(seed, (slices, 20, 16, 1))[..., 0] - 700
    values[list(flat)] = 0
    values[slices // 2, 0, 0] = -1000
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.0, -1, 2, 1])
    nib.save(nib.Nifti1Image(values.transpose(2, 1, 0).astype(np.int16), affine), path)
    return path


def contents(folder: str | Path) -> dict[str, str]:
    """Every file, hidden ones too, by the hash of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def visible(folder: Path) -> list[str]:
    """The names of what a folder holds, sorted; none where there is no folder."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def rows_of(folder: str | Path) -> list[dict]:
    """The rows of a set's manifest."""
    return [json.loads(line) for line in (Path(folder) / "manifest.jsonl").read_text().splitlines()]


def empty_versions(base: Path, *versions: str) -> Path:
    """Version folders as TensorFlow Serving knows them, with nothing in their models."""
    for version in versions:
        (base / version).mkdir(parents=True)
        (base / version / "saved_model.pb").touch()
    return base
