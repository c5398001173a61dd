import sys

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from tests.canaries import leaks, plant
from tfstyle.data import read_scan, resolve_window, scan_to_unit, write_derived_series
from tfstyle.data.dicom.deidentify import PROFILES, check_profile, deidentify, new_key, new_uid
from tfstyle.errors import InputFileError, MissingPackageError

#: Geometry, technique and window stay.
KEPT = [
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "PatientPosition", "SeriesNumber", "InstanceNumber", "Modality", "Manufacturer",
    "ManufacturerModelName", "KVP", "ConvolutionKernel", "WindowCenter", "RescaleSlope",
]  # fmt: skip


@pytest.fixture
def source():
    return pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))


def derive(path, out, window="bone", **options):
    scan = read_scan(path)
    window = resolve_window(window, scan)
    return write_derived_series(scan, scan_to_unit(scan, window), window, out, **options)


def uids(dataset):
    """Every UID that names an instance, at every level."""
    return {
        str(element.value)
        for element in dataset.iterall()
        if element.VR == "UI" and not str(element.value).startswith("1.2.840.10008.")
    }


class TestProfile:
    def test_no_attribute_of_the_table_survives(self, source, tmp_path):
        source.pixel_array  # noqa: B018 - decoded while the header is as it was
        canaries = plant(source)
        assert len(canaries) > 700
        source.save_as(tmp_path / "ct.dcm", enforce_file_format=True)
        (kept,) = derive(tmp_path / "ct.dcm", tmp_path / "keep")
        (basic,) = derive(tmp_path / "ct.dcm", tmp_path / "basic", deidentify="basic")
        found = leaks(canaries.values(), kept)
        assert len(found) > 500  # the search finds what is there
        assert leaks(canaries.values(), basic) == []

    def test_what_stays_and_what_says_so(self, source, tmp_path):
        path = get_testdata_file("CT_small.dcm", download=False)
        keep, basic = (
            pydicom.dcmread(derive(path, tmp_path / profile, deidentify=profile)[0])
            for profile in PROFILES
        )
        for keyword in KEPT:
            assert basic.get(keyword) == keep.get(keyword), keyword
        np.testing.assert_array_equal(keep.pixel_array, basic.pixel_array)
        assert "PatientIdentityRemoved" not in keep
        assert basic.PatientIdentityRemoved == "YES"
        assert basic.LongitudinalTemporalInformationModified == "REMOVED"
        (code,) = basic.DeidentificationMethodCodeSequence
        assert (code.CodeValue, code.CodingSchemeDesignator) == ("113100", "DCM")
        assert basic.file_meta.MediaStorageSOPInstanceUID == basic.SOPInstanceUID
        for keyword in ("SeriesDate", "ContentDate", "InstanceCreationDate"):
            assert keyword not in basic  # the day of work may be the day of the examination
        assert "ContributionDateTime" not in basic.ContributingEquipmentSequence[0]

    def test_damaged_values_are_removed(self, source):
        tag = pydicom.tag.Tag("PatientWeight")
        raw = pydicom.dataelem.RawDataElement(tag, "DS", 6, b"CANARY", 0, False, True)
        source._dict[tag] = raw
        deidentify(source, new_key())
        assert "PatientWeight" not in source


class TestUids:
    def test_one_key_keeps_what_belongs_together(self, source, tmp_path):
        folder = tmp_path / "series"
        folder.mkdir()
        for i in range(3):
            source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{i}"
            source.ImagePositionPatient = [0, 0, 2 * i]
            source.InstanceNumber = i + 1
            source.save_as(folder / f"{i}.dcm")
        before = uids(source)
        key = new_key()
        first, again, other = (
            [pydicom.dcmread(file) for file in derive(folder, tmp_path / name, **options)]
            for name, options in (
                ("first", {"deidentify": "basic", "uid_key": key}),
                ("again", {"deidentify": "basic", "uid_key": key}),
                ("other", {"deidentify": "basic"}),
            )
        )
        for group in (first, again, other):
            assert len({d.SeriesInstanceUID for d in group}) == 1
            assert len({d.StudyInstanceUID for d in group}) == 1
            assert len({d.SOPInstanceUID for d in group}) == 3
            assert not set().union(*map(uids, group)) & before
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
            assert first[0][keyword].value == again[0][keyword].value
            assert first[0][keyword].value != other[0][keyword].value
        # The source of each slice is still told from the others, under its new UID.
        sources = [d.SourceImageSequence[0].ReferencedSOPInstanceUID for d in first]
        assert sources == [new_uid(f"1.2.3.{i}", key) for i in range(3)]

    def test_form(self):
        key = new_key()
        for uid in ("1.2.3", "not a uid"):
            made = pydicom.uid.UID(new_uid(uid, key))
            assert made.is_valid
            assert made.startswith("2.25.")
            assert made == new_uid(uid, key)
            assert made != new_uid(uid, new_key())
        assert new_uid("1.2.840.10008.5.1.4.1.1.2", key) == "1.2.840.10008.5.1.4.1.1.2"
        assert new_uid("", key) == ""


class TestRefusals:
    def test_text_in_the_pixels(self, source, tmp_path):
        source.BurnedInAnnotation = "YES"
        source.save_as(tmp_path / "ct.dcm")
        with pytest.raises(InputFileError, match=r"ct\.dcm: Burned In Annotation"):
            derive(tmp_path / "ct.dcm", tmp_path / "out", deidentify="basic")
        assert not (tmp_path / "out").exists()
        assert derive(tmp_path / "ct.dcm", tmp_path / "out")

    def test_without_the_package(self, monkeypatch, tmp_path):
        from tfstyle.data.dicom import deidentify as module

        module._rules.cache_clear()
        monkeypatch.setitem(sys.modules, "dicomanonymizer", None)
        check_profile("keep")
        with pytest.raises(MissingPackageError, match=r"pip install 'tfstyle\[deidentify\]'"):
            check_profile("basic")
