"""Data sets with masks: kinds of masks, their place on the scan."""

import sys

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from tests.data.conftest import save_nifti, save_segmentation, save_series
from tfstyle.data import find_labelled, match_labels, merge_classes, write_png
from tfstyle.errors import ArgumentError, InputFileError, MissingPackageError

AFFINE = np.diag([-0.8, -0.8, 2.0, 1.0])  # columns to the left, rows to the back, slices up


def read_labelled(*folders):
    """All scans of a data set."""
    return [record.read() for record in find_labelled(*folders)]


def nifti(path, voxels, affine=AFFINE):
    """Writes a volume given as (slices, rows, columns)."""
    return save_nifti(path, np.asarray(voxels).transpose(2, 1, 0), None, affine)


def volume(shape=(4, 6, 5)):
    """A CT that differs in every voxel, and labels 0, 20 and 21 that follow from it."""
    ct = np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape).astype(np.int16)
    labels = np.where(ct > 80, 20, np.where(ct > 60, 21, 0)).astype(np.uint8)
    return ct * 10 - 1000, labels


def pair(image, mask):
    ct, labels = volume()
    nifti(image, ct)
    nifti(mask, labels)
    return ct, labels


def series(folder, slices=3, **changes):
    """Writes a series of its own; returns the data sets from bottom to top."""
    stored = np.random.default_rng(0).integers(0, 2000, (slices, 8, 6)).astype(np.int16)
    return save_series(folder, stored, SeriesInstanceUID=generate_uid(), **changes)


@pytest.fixture
def folders(tmp_path):
    """``images/`` and ``masks/``."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    return tmp_path / "images", tmp_path / "masks"


@pytest.fixture
def labels():
    return np.random.default_rng(5).integers(0, 3, (3, 8, 6))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("site/a_ct.nii.gz", "site/a-mask.nii"),
        ("sub-v4/sub-v4_dir-ax_ct.nii.gz", "sub-v4/sub-v4_dir-ax_seg-vert_msk.nii.gz"),  # VerSe
        ("case_01_0000.nii.gz", "case_01.nii.gz"),  # nnU-Net
    ],
)
def test_names(folders, image, mask):
    images, masks = folders
    ct, labels = pair(images / image, masks / mask)
    nifti(images / "other.nii.gz", ct)
    (labelled,) = read_labelled(images, masks)
    np.testing.assert_array_equal(labelled.scan.pixels, ct)
    np.testing.assert_array_equal(labelled.mask, labels)
    assert labelled.covered.all()


def test_matched_by_affine_on_any_grid(folders):
    images, masks = folders
    ct, labels = volume()
    nifti(images / "a.nii.gz", ct)
    # Two slices of the mask, upside down and from front to back.
    turned = AFFINE @ np.array([[1, 0, 0, 0], [0, -1, 0, 5], [0, 0, -1, 2], [0, 0, 0, 1.0]])
    nifti(masks / "a.nii.gz", labels[2:0:-1, ::-1], turned)
    (labelled,) = read_labelled(images, masks)
    assert labelled.covered.tolist() == [False, True, True, False]
    np.testing.assert_array_equal(labelled.mask[1:3], labels[1:3])


def test_a_mask_of_the_same_size_and_another_affine(folders, caplog):
    images, masks = folders
    _, labels = pair(images / "a.nii.gz", masks / "a.nii.gz")
    read_labelled(images, masks)
    assert caplog.text == ""
    moved = AFFINE.copy()
    moved[0, 3] = -0.8  # by one column to the left
    nifti(masks / "a.nii.gz", labels, moved)
    (labelled,) = read_labelled(images, masks)
    np.testing.assert_array_equal(labelled.mask[..., 1:], labels[..., :-1])
    assert not labelled.mask[..., 0].any()
    expected, _ = match_labels(labelled.scan, masks / "a.nii.gz")
    np.testing.assert_array_equal(labelled.mask, expected)
    assert "a.nii.gz has the size of a and another affine" in caplog.text
    moved[2, 3] = 500
    nifti(masks / "a.nii.gz", labels, moved)
    with pytest.raises(InputFileError, match=r"masks.*lies nowhere on the scan"):
        read_labelled(images, masks)


def test_png(folders):
    images, masks = folders
    image = np.random.default_rng(0).random((6, 7))
    labels = np.arange(42).reshape(6, 7) % 3
    write_png(image, images / "a.png")
    write_png(labels / 255, masks / "a_mask.png")
    write_png(image, images / "b.png")
    write_png(labels > 1, masks / "b_mask.png")  # black and white
    first, second = read_labelled(images, masks)
    np.testing.assert_array_equal(first.mask[0], labels)
    np.testing.assert_array_equal(second.mask[0], labels > 1)
    write_png(labels[:3] / 255, masks / "a_mask.png")
    with pytest.raises(InputFileError, match=r"a_mask\.png.*3 x 7 pixels"):
        read_labelled(images, masks)
    (masks / "a_mask.png").unlink()
    nifti(masks / "a.nii.gz", labels[None].astype(np.uint8))
    with pytest.raises(InputFileError, match="no position in space"):
        read_labelled(images, masks)


def test_seg_beside_its_series_covers_its_slices(tmp_path, labels, monkeypatch):
    datasets = series(tmp_path / "one", slices=5)
    path = tmp_path / "one" / "seg.dcm"
    save_segmentation(datasets[1:4], np.maximum(labels, 1), path)
    (labelled,) = read_labelled(tmp_path)
    assert labelled.covered.tolist() == [False, True, True, True, False]
    np.testing.assert_array_equal(labelled.mask[1:4], np.maximum(labels, 1))
    dataset = pydicom.dcmread(path)
    del dataset.SegmentSequence
    dataset.save_as(path)
    with pytest.raises(InputFileError, match=r"seg\.dcm.*cannot be read as a DICOM segm"):
        read_labelled(tmp_path)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingPackageError, match=r"tfstyle\[dicom-seg\]"):
        read_labelled(tmp_path)


def test_a_png_a_slice(folders, labels):
    images, masks = folders
    datasets = series(images / "one")
    (masks / "one").mkdir()
    for i in (0, 2):
        name = datasets[i].filename.rsplit("/", 1)[1].replace(".dcm", ".png")
        write_png(labels[i] / 255, masks / "one" / name)
    (labelled,) = read_labelled(images, masks)
    assert labelled.covered.tolist() == [True, False, True]
    np.testing.assert_array_equal(labelled.mask[[0, 2]], labels[[0, 2]])
    assert not labelled.mask[1].any()


def test_classes():
    mask = np.array([0, 20, 21, 7])
    merged = merge_classes(mask, {1: range(20, 26), 2: [7]})
    np.testing.assert_array_equal(merged, [0, 1, 1, 2])
    np.testing.assert_array_equal(merge_classes(mask, "foreground"), [0, 1, 1, 1])
    assert merge_classes(mask, None) is mask
    for classes in ("background", {0: [1]}):
        with pytest.raises(ArgumentError, match="classes"):
            merge_classes(mask, classes)
