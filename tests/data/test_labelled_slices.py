"""One scan with its mask in one call, and batches for a segmenter."""

import numpy as np
import pytest
import tensorflow as tf

from tests.data.conftest import save_nifti
from tests.minis import ct_series
from tfstyle.data import LabelledScan, Scan, labelled_dataset, read_labelled, read_scan
from tfstyle.errors import ArgumentError, InputFileError


@pytest.fixture
def series(tmp_path):
    """The folder of a DICOM series, and labels on its grid."""
    ct_series(tmp_path / "ct", slices=3)
    scan = read_scan(tmp_path / "ct")
    return tmp_path / "ct", (scan.pixels > np.median(scan.pixels)).astype(np.uint8)


def nifti(path, scan, values):
    """Writes a volume on the grid of a scan."""
    affine = np.diag([-1.0, -1, 1, 1]) @ scan.affine @ np.eye(4)[[2, 1, 0, 3]]
    return save_nifti(path, values.T, values.dtype, affine)


class TestReadLabelled:
    def test_series_with_nifti_and_both_as_nifti(self, series, tmp_path):
        folder, labels = series
        scan = read_scan(folder)
        nifti(tmp_path / "mask.nii.gz", scan, labels)
        nifti(tmp_path / "image.nii.gz", scan, scan.pixels)
        for image in (folder, tmp_path / "image.nii.gz"):
            labelled = read_labelled(image, tmp_path / "mask.nii.gz")
            np.testing.assert_array_equal(labelled.pixels, scan.pixels)
            np.testing.assert_array_equal(labelled.mask, labels)
            assert labelled.spacing == pytest.approx(scan.spacing)

    def test_bad_arguments(self, series, tmp_path):
        folder, _ = series
        with pytest.raises(ArgumentError, match="mask: must be at least one file"):
            read_labelled(folder, [])
        with pytest.raises(InputFileError, match="is a folder; name the mask's file"):
            read_labelled(folder, tmp_path)
        with pytest.raises(InputFileError, match="no such file"):
            read_labelled(folder, tmp_path / "missing.nii.gz")


def hu(height, width, value):
    return Scan(np.full((2, height, width), value, np.int16), (2.0, 1.0, 1.0))


def labelled(scan, covered=(True, True)):
    mask = np.zeros(scan.shape, np.uint8)
    mask[:, : scan.shape[1] // 2] = 20
    return LabelledScan(scan, mask, np.array(covered))


class TestDataset:
    def test_window_classes_and_covered_slices(self):
        records = [labelled(hu(8, 6, 40)), labelled(hu(8, 6, 240), (False, True))]
        data = labelled_dataset(records, (40, 400), batch_size=4, classes={1: [20]})
        assert data.cardinality() == 1
        ((images, masks),) = data
        assert images.shape == (3, 8, 6, 1)
        assert images.dtype == tf.float32
        np.testing.assert_allclose(images[:, 0, 0, 0], [0.5, 0.5, 1.0])
        assert masks.dtype == tf.int32
        np.testing.assert_array_equal(masks[0], np.repeat([1, 0], 4)[:, None] * np.ones((1, 6)))

    def test_order(self):
        records = [labelled(hu(4, 4, value)) for value in range(-160, 240, 20)]

        def seen(seed=None):
            data = labelled_dataset(records, (40, 400), batch_size=1, seed=seed)
            return [float(images[0, 0, 0, 0]) for images, _ in data]

        assert seen() == sorted(seen(seed=3)) != seen(seed=3) == seen(seed=3)

    def test_sizes(self):
        records = [labelled(hu(8, 6, 40)), labelled(hu(4, 4, 40))]
        ((images, masks),) = labelled_dataset(records, (40, 400), batch_size=4)
        assert images.shape == (4, 8, 6, 1)  # padded with black and background
        assert not np.any(images[3, 4:])
        assert not np.any(masks[3, 4:])
        data = labelled_dataset(records, (40, 400), batch_size=4, size=16)
        assert data.element_spec[0].shape == (None, 16, 16, 1)
        ((images, masks),) = data
        np.testing.assert_allclose(images[0, :, 2:14], 0.5)
        assert not np.any(images[0, :, :2])
        assert sorted(np.unique(masks)) == [0, 20]
        np.testing.assert_array_equal(masks[0, :8, 2:14], 20)
        np.testing.assert_array_equal(masks[0, 8:], 0)

    def test_bad_arguments(self):
        for options, message in (
            ({"records": []}, "records: must be at least one"),
            ({"size": 2.5}, "size: must be a whole number of at least 1, received 2.5"),
        ):
            with pytest.raises(ArgumentError, match=message):
                labelled_dataset(**{"records": [labelled(hu(4, 4, 0))], **options})
