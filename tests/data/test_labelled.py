"""Data sets with masks: layouts on small made-up trees, kinds of masks, domains."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from tests.data.conftest import make_ct, save_nifti, save_segmentation
from tfstyle.data import find_labelled, merge_classes, read_scan, write_png
from tfstyle.data.labelled import TOTALSEGMENTATOR_SPINE
from tfstyle.errors import ArgumentError, InputFileError

AFFINE = np.diag([-0.8, -0.8, 2.0, 1.0])  # columns to the left, rows to the back, slices up


def read_labelled(*folders, classes=None, **options):
    """All scans of a data set."""
    return [record.read(classes) for record in find_labelled(*folders, **options)]


def nifti(path, voxels, affine=AFFINE):
    """Writes a volume given as (slices, rows, columns)."""
    return save_nifti(path, np.asarray(voxels).transpose(2, 1, 0), None, affine)


def volume(seed=0, shape=(4, 6, 5)):
    """A CT that differs in every voxel, and labels 0, 20 and 21 that follow from it."""
    ct = np.random.default_rng(seed).permutation(np.prod(shape)).reshape(shape).astype(np.int16)
    labels = np.where(ct > 80, 20, np.where(ct > 60, 21, 0)).astype(np.uint8)
    return ct * 10 - 1000, labels


def pair(image, mask, seed=0):
    ct, labels = volume(seed)
    nifti(image, ct)
    nifti(mask, labels)
    return ct, labels


def assert_holds(labelled, ct, labels):
    np.testing.assert_array_equal(labelled.scan.pixels, ct)
    np.testing.assert_array_equal(labelled.mask, labels)
    assert labelled.covered.all()


class TestVerSe:
    def test_archives_side_by_side(self, tmp_path):
        expected = {}
        for archive, subject, name in (
            ("dataset-verse19training", "sub-verse004", "sub-verse004"),
            ("dataset-verse20test", "sub-gl003", "sub-gl003_dir-ax"),
            ("dataset-verse20test", "sub-gl003", "sub-gl003_dir-sag"),
        ):
            base = tmp_path / archive
            expected[name] = pair(
                base / "rawdata" / subject / f"{name}_ct.nii.gz",
                base / "derivatives" / subject / f"{name}_seg-vert_msk.nii.gz",
                seed=len(expected),
            )
            (base / "derivatives" / subject / f"{name}_seg-subreg_ctd.json").write_text("[]")
        found = find_labelled(tmp_path)
        assert [(r.subject, r.domain) for r in found] == [
            ("sub-verse004", "dataset-verse19training"),
            ("sub-gl003", "dataset-verse20test"),
            ("sub-gl003", "dataset-verse20test"),
        ]
        for record, volumes in zip(found, expected.values()):
            assert_holds(record.read(), *volumes)

    def test_one_archive_and_the_challenges_flat_files(self, tmp_path):
        one = tmp_path / "dataset-verse19test"
        pair(
            one / "rawdata" / "sub-verse013" / "sub-verse013_ct.nii.gz",
            one / "derivatives" / "sub-verse013" / "sub-verse013_seg-vert_msk.nii.gz",
        )
        record = find_labelled(one, layout="verse")[0]
        assert (record.subject, record.domain) == ("sub-verse013", "dataset-verse19test")
        flat = tmp_path / "flat"
        volumes = pair(flat / "verse004.nii.gz", flat / "verse004_seg.nii.gz")
        labelled = read_labelled(flat, layout="verse")[0]
        assert labelled.subject == "verse004"
        assert_holds(labelled, *volumes)

    def test_image_that_is_missing(self, tmp_path, caplog):
        path = tmp_path / "derivatives" / "sub-verse1" / "sub-verse1_seg-vert_msk.nii.gz"
        nifti(path, volume()[1])
        with pytest.raises(InputFileError, match="no scan with a mask in the layout 'verse'"):
            find_labelled(tmp_path, layout="verse")
        assert "sub-verse1_seg-vert_msk.nii.gz has no image" in caplog.text


@pytest.mark.parametrize(
    ("top", "volumes", "labels"), [("rawdata", "volumes", "labels"), ("", "data", "label")]
)
def test_ctspine1k(tmp_path, top, volumes, labels):
    expected = [
        pair(
            tmp_path / top / volumes / source / f"{name}.nii.gz",
            tmp_path / top / labels / source / f"{name}_seg.nii.gz",
            seed=i,
        )
        for i, (source, name) in enumerate(
            [("COLONOG", "1.3.6.1.4.1.9328.50.4.0004"), ("liver", "liver_106")]
        )
    ]
    found = find_labelled(tmp_path)
    assert [(r.subject, r.domain) for r in found] == [
        ("1.3.6.1.4.1.9328.50.4.0004", "COLONOG"),
        ("liver_106", "liver"),
    ]
    for record, pixels in zip(found, expected):
        assert_holds(record.read(), *pixels)


class TestTotalSegmentator:
    @pytest.fixture
    def tree(self, tmp_path):
        ct, labels = volume()
        for subject in ("s0000", "s0001"):
            folder = tmp_path / subject
            nifti(folder / "ct.nii.gz", ct)
            parts = {"vertebrae_L5": labels == 20, "sacrum": labels == 21, "liver": labels == 0}
            for name, part in parts.items():
                nifti(folder / "segmentations" / f"{name}.nii.gz", part.astype(np.uint8))
        (tmp_path / "meta.csv").write_text(
            "image_id;age;manufacturer\ns0000;64;siemens\ns0001;40;\n", encoding="utf-8-sig"
        )
        return tmp_path, ct, labels

    def test_spine_with_its_own_numbers(self, tree, caplog):
        root, ct, labels = tree
        found = find_labelled(root, domain_from="csv:meta.csv:manufacturer")
        assert [(r.subject, r.domain) for r in found] == [
            ("s0000", "siemens"),
            ("s0001", "unknown"),
        ]
        assert "s0001" in caplog.text
        expected = np.where(labels == 20, 27, np.where(labels == 21, 25, 0))
        assert_holds(found[0].read(), ct, expected)
        np.testing.assert_array_equal(found[0].read(classes="foreground").mask, labels > 0)

    def test_chosen_structures_are_numbered_in_order(self, tree):
        root, ct, labels = tree
        found = find_labelled(root, structures=["liver", "vertebrae_*"])
        assert_holds(found[0].read(), ct, np.where(labels == 20, 2, np.where(labels == 0, 1, 0)))

    def test_structures_that_are_not_there(self, tree):
        with pytest.raises(InputFileError, match="no scan with a mask"):
            find_labelled(tree[0], layout="totalsegmentator", structures=["spleen"])
        with pytest.raises(ArgumentError, match="structures"):
            find_labelled(tree[0], layout="totalsegmentator", structures=[])

    def test_numbers_of_the_spine(self):
        known = {
            "sacrum": 25,
            "vertebrae_S1": 26,
            "vertebrae_L5": 27,
            "vertebrae_L1": 31,
            "vertebrae_T12": 32,
            "vertebrae_T1": 43,
            "vertebrae_C7": 44,
            "vertebrae_C1": 50,
        }
        assert {name: TOTALSEGMENTATOR_SPINE[name] for name in known} == known
        assert sorted(TOTALSEGMENTATOR_SPINE.values()) == list(range(25, 51))


class TestFolders:
    @pytest.mark.parametrize(
        ("image", "mask"),
        [
            ("a.nii.gz", "a.nii.gz"),
            ("a.nii", "a_seg.nii.gz"),
            ("site/a_ct.nii.gz", "site/a-mask.nii"),
            ("case_01_0000.nii.gz", "case_01.nii.gz"),
            ("A_image.nii.gz", "A_labels.nii.gz"),
        ],
    )
    def test_names(self, tmp_path, image, mask):
        volumes = pair(tmp_path / "images" / image, tmp_path / "masks" / mask)
        nifti(tmp_path / "images" / "other.nii.gz", volumes[0])
        labelled = read_labelled(tmp_path / "images", tmp_path / "masks")
        assert len(labelled) == 1
        assert_holds(labelled[0], *volumes)
        assert labelled[0].domain == ("site" if "/" in image else "images")

    def test_images_and_masks_in_one_folder(self, tmp_path):
        volumes = pair(tmp_path / "a.nii.gz", tmp_path / "a_seg.nii.gz")
        labelled = read_labelled(tmp_path)
        assert [item.subject for item in labelled] == ["a"]
        assert_holds(labelled[0], *volumes)

    def test_matched_by_affine_on_any_grid(self, tmp_path):
        ct, labels = volume()
        nifti(tmp_path / "images" / "a.nii.gz", ct)
        # Two slices of the mask, upside down and from front to back.
        turned = AFFINE @ np.array([[1, 0, 0, 0], [0, -1, 0, 5], [0, 0, -1, 2], [0, 0, 0, 1.0]])
        nifti(tmp_path / "masks" / "a.nii.gz", labels[2:0:-1, ::-1], turned)
        labelled = read_labelled(tmp_path / "images", tmp_path / "masks")[0]
        assert labelled.covered.tolist() == [False, True, True, False]
        np.testing.assert_array_equal(labelled.mask[1:3], labels[1:3])
        scan, mask = labelled.labelled_slices()
        np.testing.assert_array_equal(scan.pixels, ct[1:3])
        np.testing.assert_array_equal(mask, labels[1:3])

    def test_mask_of_another_place(self, tmp_path):
        ct, labels = volume()
        nifti(tmp_path / "images" / "a.nii.gz", ct)
        away = AFFINE.copy()
        away[2, 3] = 500
        nifti(tmp_path / "masks" / "a.nii.gz", labels, away)
        with pytest.raises(InputFileError, match=r"masks.*lies nowhere on the scan"):
            read_labelled(tmp_path / "images", tmp_path / "masks")

    def test_png(self, tmp_path):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir()
        image = np.random.default_rng(0).random((6, 7))
        labels = np.arange(42).reshape(6, 7) % 3
        write_png(image, tmp_path / "images" / "a.png")
        write_png(labels / 255, tmp_path / "masks" / "a_mask.png")
        write_png(image, tmp_path / "images" / "b.png")
        write_png(labels > 1, tmp_path / "masks" / "b_mask.png")  # black and white
        first, second = read_labelled(tmp_path / "images", tmp_path / "masks")
        np.testing.assert_array_equal(first.mask[0], labels)
        np.testing.assert_array_equal(second.mask[0], labels > 1)
        write_png(labels[:3] / 255, tmp_path / "masks" / "a_mask.png")
        with pytest.raises(InputFileError, match=r"a_mask\.png.*3 x 7 pixels"):
            read_labelled(tmp_path / "images", tmp_path / "masks")

    def test_nifti_mask_on_a_picture(self, tmp_path):
        (tmp_path / "images").mkdir()
        write_png(np.zeros((6, 5)), tmp_path / "images" / "a.png")
        nifti(tmp_path / "masks" / "a.nii.gz", volume()[1][:1])
        with pytest.raises(InputFileError, match="no position in space"):
            read_labelled(tmp_path / "images", tmp_path / "masks")


class TestDicom:
    def series(self, folder, uid=None, slices=3, **changes):
        """Writes a series with shuffled names; returns the data sets from bottom to top."""
        uid = uid or generate_uid()
        folder.mkdir(parents=True, exist_ok=True)
        order = np.random.default_rng(1).permutation(slices)
        datasets = []
        for i in range(slices):
            stored = np.random.default_rng(i).integers(0, 2000, (8, 6)).astype(np.int16)
            dataset = make_ct(
                stored,
                SeriesInstanceUID=uid,
                ImagePositionPatient=[-10.0, -20.0, 2.0 * i],
                InstanceNumber=i + 1,
                **changes,
            )
            dataset.filename = str(folder / f"IM{order[i]:03d}.dcm")
            dataset.save_as(dataset.filename, enforce_file_format=True)
            datasets.append(dataset)
        return datasets

    @pytest.fixture
    def labels(self):
        return np.random.default_rng(5).integers(0, 3, (3, 8, 6))

    @pytest.mark.parametrize("place", ["masks/one.dcm", "masks/one/seg.dcm"])
    def test_seg(self, tmp_path, labels, place):
        datasets = self.series(tmp_path / "images" / "one", Manufacturer="ACME")
        save_segmentation(datasets, labels, tmp_path / place)
        found = read_labelled(
            tmp_path / "images", tmp_path / "masks", domain_from="tag:Manufacturer"
        )
        assert [(item.domain, item.subject) for item in found] == [("ACME", "one")]
        np.testing.assert_array_equal(found[0].mask, labels)
        assert len(found[0].scan) == 3

    def test_seg_beside_its_series_covers_its_slices(self, tmp_path, labels):
        datasets = self.series(tmp_path / "one", slices=5)
        save_segmentation(datasets[1:4], np.maximum(labels, 1), tmp_path / "one" / "seg.dcm")
        labelled = read_labelled(tmp_path)[0]
        assert labelled.covered.tolist() == [False, True, True, True, False]
        np.testing.assert_array_equal(labelled.mask[1:4], np.maximum(labels, 1))

    def test_damaged_seg(self, tmp_path, labels):
        datasets = self.series(tmp_path / "one")
        path = tmp_path / "one" / "seg.dcm"
        save_segmentation(datasets, labels, path)
        dataset = pydicom.dcmread(path)
        del dataset.SegmentSequence
        dataset.save_as(path)
        with pytest.raises(InputFileError, match=r"seg\.dcm.*cannot be read as a DICOM segm"):
            read_labelled(tmp_path)

    def test_without_highdicom(self, tmp_path, labels, monkeypatch):
        save_segmentation(self.series(tmp_path / "one"), labels, tmp_path / "one" / "seg.dcm")
        monkeypatch.setitem(sys.modules, "highdicom.seg", None)
        with pytest.raises(ArgumentError, match=r"tfstyle\[dicom-seg\]"):
            read_labelled(tmp_path)

    def test_nifti_mask_of_a_series(self, tmp_path):
        self.series(tmp_path / "images" / "one")
        scan = read_scan(tmp_path / "images" / "one")
        labels = (scan.pixels > 0).astype(np.uint8)
        # Axes of the file: columns, rows, slices; NIfTI's go to the right and to the front.
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine[:, [2, 1, 0, 3]]
        nifti(tmp_path / "masks" / "one.nii.gz", labels, affine)
        labelled = read_labelled(tmp_path / "images", tmp_path / "masks")[0]
        assert_holds(labelled, scan.pixels, labels)

    def test_a_png_a_slice(self, tmp_path, labels):
        datasets = self.series(tmp_path / "images" / "one")
        (tmp_path / "masks" / "one").mkdir(parents=True)
        for i in (0, 2):
            name = datasets[i].filename.rsplit("/", 1)[1].replace(".dcm", ".png")
            write_png(labels[i] / 255, tmp_path / "masks" / "one" / name)
        labelled = read_labelled(tmp_path / "images", tmp_path / "masks")[0]
        assert labelled.covered.tolist() == [True, False, True]
        np.testing.assert_array_equal(labelled.mask[[0, 2]], labels[[0, 2]])
        assert not labelled.mask[1].any()

    def test_single_slices_in_one_folder(self, tmp_path, labels):
        (tmp_path / "masks").mkdir()
        for i, name in enumerate("ab"):
            self.series(tmp_path / "images", slices=1)
            (tmp_path / "images" / "IM000.dcm").rename(tmp_path / "images" / f"{name}.dcm")
            write_png(labels[i] / 255, tmp_path / "masks" / f"{name}.png")
        found = read_labelled(tmp_path / "images", tmp_path / "masks")
        assert [item.subject for item in found] == ["a", "b"]
        for item, expected in zip(found, labels):
            np.testing.assert_array_equal(item.mask[0], expected)

    def test_subject_by_tag(self, tmp_path, labels):
        for name, patient in (("first", "42"), ("other", "7"), ("second", "42")):
            self.series(tmp_path / "images" / name, PatientID=patient)
            scan = read_scan(tmp_path / "images" / name)
            affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine[:, [2, 1, 0, 3]]
            nifti(tmp_path / "masks" / f"{name}.nii.gz", labels.astype(np.uint8), affine)
        found = find_labelled(tmp_path / "images", tmp_path / "masks", subject_from="tag:PatientID")
        subjects = [record.subject for record in found]
        assert subjects == ["PatientID-1", "PatientID-2", "PatientID-1"]


class TestDomains:
    @pytest.fixture
    def tree(self, tmp_path):
        for name in ("a", "b"):
            pair(tmp_path / "images" / f"{name}_ct.nii.gz", tmp_path / "masks" / f"{name}.nii.gz")
        return tmp_path

    def domains(self, tree, spec):
        found = find_labelled(tree / "images", tree / "masks", domain_from=spec)
        return [record.domain for record in found]

    @pytest.mark.parametrize(
        "text",
        [
            "name,site\nb,two\na,one\n",
            "age;Subject;site\n3;a;one\n4;b;two\n",
            "file\tsite\na_ct.nii.gz\tone\nb_ct.nii.gz\ttwo\n",
            'who,"site"\na,"one"\nb,two\n',
        ],
    )
    def test_csv(self, tree, text):
        (tree / "table.csv").write_text(text)
        assert self.domains(tree, f"csv:{tree / 'table.csv'}:site") == ["one", "two"]

    def test_bids_sidecar(self, tree, caplog):
        (tree / "images" / "a_ct.json").write_text(json.dumps({"Manufacturer": "ACME"}))
        assert self.domains(tree, "tag:Manufacturer") == ["ACME", "unknown"]
        assert "b_ct.nii.gz" in caplog.text
        (tree / "images" / "b_ct.json").write_text("{")
        with pytest.raises(InputFileError, match=r"b_ct\.json"):
            self.domains(tree, "tag:Manufacturer")

    @pytest.mark.parametrize(
        ("spec", "error", "message"),
        [
            ("site", ArgumentError, "'folder', 'tag:KEYWORD' or 'csv:FILE:COLUMN'"),
            ("tag:Maker", ArgumentError, "'Maker' is not a DICOM keyword"),
            ("csv:none.csv:site", InputFileError, "no such table"),
            ("csv:table.csv:scanner", InputFileError, "its columns are name, site"),
        ],
    )
    def test_bad_sources(self, tree, spec, error, message):
        (tree / "images" / "table.csv").write_text("name,site\na,one\n")
        with pytest.raises(error, match=message):
            self.domains(tree, spec)


class TestClasses:
    def test_merged(self):
        mask = np.array([0, 20, 21, 7])
        merged = merge_classes(mask, {1: range(20, 26), 2: [7]})
        np.testing.assert_array_equal(merged, [0, 1, 1, 2])
        np.testing.assert_array_equal(merge_classes(mask, {3: 7}), [0, 0, 0, 3])
        np.testing.assert_array_equal(merge_classes(mask, "foreground"), [0, 1, 1, 1])
        assert merge_classes(mask, None) is mask

    @pytest.mark.parametrize("classes", ["background", {}, {0: [1]}, {"a": [1]}, 3])
    def test_bad(self, classes):
        with pytest.raises(ArgumentError, match="classes"):
            merge_classes(np.zeros(3, np.uint8), classes)

    def test_large_labels_keep_their_numbers(self, tmp_path):
        ct, labels = volume()
        nifti(tmp_path / "a.nii.gz", ct)
        nifti(tmp_path / "a_seg.nii.gz", labels.astype(np.int16) * 15)
        mask = read_labelled(tmp_path)[0].mask
        assert mask.dtype == np.int16
        assert mask.max() == 315


def test_records_are_immutable(tmp_path):
    pair(tmp_path / "a.nii.gz", tmp_path / "a_seg.nii.gz")
    record = find_labelled(tmp_path)[0]
    labelled = record.read()
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.domain = "other"
    with pytest.raises(ValueError, match="read-only"):
        labelled.mask[0] = 1
    with pytest.raises(ArgumentError, match="mask"):
        dataclasses.replace(labelled, mask=labelled.mask[:1])


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(InputFileError, match="is not a folder"):
        find_labelled(tmp_path / "none")
    with pytest.raises(InputFileError, match="no scan with a mask in any layout"):
        find_labelled(tmp_path)
    with pytest.raises(ArgumentError, match="layout"):
        find_labelled(tmp_path, layout="bids")
