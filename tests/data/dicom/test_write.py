"""Derived series: pixels within half a step, identity, single frames out of multi-frame files."""

import logging
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest

from tests.data.conftest import item
from tfstyle.data import WINDOWS, Scan, Window, read_scan, scan_to_unit, write_derived_series
from tfstyle.data.layouts import DESCRIPTION
from tfstyle.errors import ArgumentError, InputFileError, OutputError

WINDOW = WINDOWS["soft_tissue"]
WIDE = Window.from_limits(-1024, 1024)


def unit_of(files, window):
    """Gray levels as a viewer shows them: rescale (PS3.3 C.11.1.1.2), then the window."""
    planes = []
    for path in files:
        dataset = pydicom.dcmread(path)
        values = dataset.pixel_array * float(dataset.RescaleSlope)
        planes.append(values + float(dataset.RescaleIntercept))
    return (np.stack(planes) - window.lower) / window.width


def derived(path, out, window=WINDOW):
    """What was written of a scan that was not changed, as data sets."""
    scan = read_scan(path)
    files = write_derived_series(scan, scan_to_unit(scan, window), window, out)
    return [pydicom.dcmread(file) for file in files]


@pytest.fixture
def series(write_series, tmp_path):
    write_series([4, 0, 2])
    return read_scan(tmp_path / "series")


@pytest.fixture
def images():
    return np.random.default_rng(0).random((3, 8, 6), np.float32)


def test_reads_back_as_generated(series, images, tmp_path, caplog):
    before = [Path(path).read_bytes() for path in series.files]
    with caplog.at_level(logging.WARNING):
        files = write_derived_series(series, images, WINDOW, tmp_path / "out")
    assert caplog.records == []
    assert [path.name for path in files] == ["IM_0001.dcm", "IM_0002.dcm", "IM_0003.dcm"]
    assert np.abs(unit_of(files, WINDOW) - images).max() <= 0.501 / 65535
    back = read_scan(tmp_path / "out")
    assert (back.units, back.spacing, back.header_window) == ("HU", series.spacing, WINDOW)
    np.testing.assert_array_equal(back.affine, series.affine)
    np.testing.assert_allclose(scan_to_unit(back, "header")[..., 0], images, atol=0.51 / 400)
    assert [Path(path).read_bytes() for path in series.files] == before


@pytest.mark.parametrize("window", [Window(-873.123456789, 1.0003), Window(1 / 3, 2 / 3 * 1e4)])
def test_half_a_step_for_every_window(write_ct, tmp_path, window):
    image = np.random.default_rng(0).uniform(-0.1, 1.1, (1, 8, 6))  # beyond is clipped
    files = write_derived_series(read_scan(write_ct()), image, window, tmp_path / "out")
    # Header numbers have 16 characters, which moves the ends of the window by a hair.
    assert np.abs(unit_of(files, window) - image.clip(0, 1)).max() <= 0.51 / 65535


def test_identity_and_description(series, images, tmp_path):
    files = write_derived_series(series, images, WINDOW, tmp_path / "out")
    sources = [pydicom.dcmread(path) for path in series.files]
    found = [pydicom.dcmread(path) for path in files]
    assert len({d.SeriesInstanceUID for d in found} | {s.SeriesInstanceUID for s in sources}) == 2
    assert len({d.SOPInstanceUID for d in found} | {s.SOPInstanceUID for s in sources}) == 6
    for source, dataset in zip(sources, found, strict=True):
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert dataset.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
        for keyword in (
            *("SOPClassUID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientID"),
            *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "InstanceNumber"),
        ):
            assert dataset[keyword].value == source[keyword].value
        assert dataset.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert dataset.SeriesNumber == source.SeriesNumber + 1000
        assert dataset.SeriesDescription == "(tfstyle)"
        assert (dataset.RescaleType, dataset.VOILUTFunction) == ("HU", "LINEAR_EXACT")
        assert (dataset.WindowCenter, dataset.WindowWidth) == (40, 400)
        assert dataset.DerivationDescription.startswith(f"{DESCRIPTION}. Values are gray levels")
        assert "clipped to -160 to 240" in dataset.DerivationDescription
        assert dataset.DerivationCodeSequence[0].CodeMeaning == "Gray scale style transfer"
        reference = dataset.SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        assert dataset.ContributingEquipmentSequence[0].Manufacturer == "tfstyle"


def test_what_is_not_carried_over(write_ct, tmp_path):
    path = write_ct(
        PixelPaddingValue=-2000, PerformedProcedureStepID="7", WindowCenterWidthExplanation="ABD"
    )
    dataset = pydicom.dcmread(path)
    dataset.private_block(0x0009, "TEST", create=True).add_new(1, "LO", "secret")
    one = item(ReferencedSOPInstanceUID="1.2.3")
    one.private_block(0x0011, "TEST", create=True).add_new(1, "LO", "deep secret")
    dataset.ReferencedPerformedProcedureStepSequence = [one]
    dataset.ReferencedImageSequence = [one]
    dataset.add_new(0x60000010, "US", 8)
    dataset.add_new(0x60003000, "OW", b"\0" * 8)
    dataset.save_as(path)
    (found,) = derived(path, tmp_path / "out")
    for keyword in (
        *("PixelPaddingValue", "PerformedProcedureStepID", "WindowCenterWidthExplanation"),
        "ReferencedPerformedProcedureStepSequence",
    ):
        assert keyword not in found
    assert b"secret" not in (tmp_path / "out" / "IM_0001.dcm").read_bytes()
    assert 0x60003000 not in found
    assert found.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3"


def test_lossy_source_stays_lossy(write_ct, sample, tmp_path):
    path = write_ct(LossyImageCompression="01", LossyImageCompressionRatio=10)
    (told,) = derived(path, tmp_path / "told")
    assert (told.LossyImageCompression, told.LossyImageCompressionRatio) == ("01", 10)
    (seen,) = derived(sample("JPEG2000.dcm"), tmp_path / "seen", Window(500, 1000))
    assert seen.LossyImageCompression == "01"
    assert "LossyImageCompression" not in derived(write_ct("plain.dcm"), tmp_path / "plain")[0]


def test_uids_that_are_blank_or_invalid(write_series, edit_dicom, tmp_path):
    blank = dict.fromkeys(("StudyInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID"), "")
    paths = write_series([0, 2], **blank)
    edit_dicom(paths[0], SOPInstanceUID="abc")
    first, second = derived(tmp_path / "series", tmp_path / "out")
    for keyword in blank:
        assert first[keyword].value == second[keyword].value
        assert pydicom.uid.UID(first[keyword].value).is_valid
    assert "SourceImageSequence" not in first
    assert "SourceImageSequence" in second


def test_what_takes_no_16_bits_or_frames_is_secondary_capture(
    write_ct, enhanced_ct, edit_dicom, tmp_path
):
    ultrasound = write_ct(SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1", Modality="US")
    edit_dicom(mr := enhanced_ct([0, 4]), SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1", Modality="MR")
    for path, source in ((ultrasound, "Ultrasound Image"), (mr, "Enhanced MR Image")):
        dataset = derived(path, tmp_path / source, WIDE)[-1]
        assert dataset.SOPClassUID.name == "Secondary Capture Image Storage"
        assert dataset.SourceImageSequence[0].ReferencedSOPClassUID.name == f"{source} Storage"


def test_enhanced_source_becomes_single_frames(enhanced_ct, tmp_path):
    path = enhanced_ct([4, 0, 2])
    found = derived(path, tmp_path / "out", WIDE)
    assert [d.ImagePositionPatient[2] for d in found] == [0, 2, 4]
    assert [d.SourceImageSequence[0].ReferencedFrameNumber for d in found] == [2, 3, 1]
    assert {d.SOPClassUID for d in found} == {"1.2.840.10008.5.1.4.1.1.2"}
    assert "SharedFunctionalGroupsSequence" not in found[0]
    scan, back = read_scan(path), read_scan(tmp_path / "out")
    assert back.spacing == scan.spacing
    np.testing.assert_allclose(back.affine, scan.affine)
    np.testing.assert_array_equal(back.pixels, scan.pixels)


def test_nothing_is_left_after_a_failure(series, images, tmp_path, monkeypatch):
    calls = []
    save = pydicom.dataset.Dataset.save_as

    def fail_at_second(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(self, *args, **kwargs)

    monkeypatch.setattr(pydicom.dataset.Dataset, "save_as", fail_at_second)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(OutputError, match="the disk is full"):
        write_derived_series(series, images, WINDOW, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == before


def test_bad_arguments(series, images, tmp_path):
    def write(scan=series, generated=images, **options):
        return write_derived_series(scan, generated, WINDOW, tmp_path / "out", **options)

    for options, message in (
        ({"scan": Scan(series.pixels)}, "scan: must be read from DICOM, received scan"),
        ({"generated": images[:2]}, r"shape \(3, 8, 6\), received \(2, 8, 6\)"),
        ({"generated": np.full_like(images, np.nan)}, "NaN"),
    ):
        with pytest.raises(ArgumentError, match=message):
            write(**options)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file, where a folder is needed"):
        write_derived_series(series, images, WINDOW, tmp_path / "file" / "out")
    for blocker in (tmp_path / "series", tmp_path / "file"):
        with pytest.raises(OutputError, match="exists and is not an empty folder"):
            write_derived_series(series, images, WINDOW, blocker)
    Path(series.files[1]).unlink()
    with pytest.raises(InputFileError, match="no such file"):
        write()
    assert not (tmp_path / "out").exists()
