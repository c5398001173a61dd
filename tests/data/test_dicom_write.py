import logging
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000

from tfstyle.data import (
    WINDOWS,
    Scan,
    Window,
    read_scan,
    read_scans,
    scan_to_unit,
    write_derived_series,
)
from tfstyle.errors import ArgumentError, InputFileError, OutputError

WINDOW = WINDOWS["soft_tissue"]


def unit_of(files, window):
    """Gray levels as a viewer shows them: rescale (PS3.3 C.11.1.1.2), then the window."""
    planes = []
    for path in files:
        dataset = pydicom.dcmread(path)
        values = dataset.pixel_array * float(dataset.RescaleSlope)
        planes.append(values + float(dataset.RescaleIntercept))
    return (np.stack(planes) - window.lower) / window.width


@pytest.fixture
def series(write_series, tmp_path):
    write_series([4, 0, 2])
    return read_scan(tmp_path / "series")


@pytest.fixture
def images():
    return np.random.default_rng(0).random((3, 8, 6), np.float32)


def test_reads_back_as_generated(series, images, tmp_path):
    files = write_derived_series(series, images, WINDOW, tmp_path / "out")
    assert [path.name for path in files] == ["IM_0001.dcm", "IM_0002.dcm", "IM_0003.dcm"]
    step = 1 / 65535
    assert np.abs(unit_of(files, WINDOW) - images).max() <= 0.501 * step
    derived = read_scan(tmp_path / "out")
    assert derived.units == "HU"
    assert derived.spacing == series.spacing
    np.testing.assert_array_equal(derived.affine, series.affine)
    assert derived.header_window == WINDOW
    np.testing.assert_allclose(scan_to_unit(derived, "header")[..., 0], images, atol=0.51 / 400)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(center=st.floats(-900, 3000), width=st.floats(1, 5000), seed=st.integers(0, 2**32 - 1))
def test_half_a_step_for_every_window(write_ct, tmp_path_factory, center, width, seed):
    window = Window(center, width)
    image = np.random.default_rng(seed).random((1, 8, 6))
    image[0, 0, :2] = 0, 1
    out = tmp_path_factory.mktemp("series") / "out"
    files = write_derived_series(read_scan(write_ct()), image, window, out)
    # Header numbers have 16 characters, which moves the ends of the window by a hair.
    assert np.abs(unit_of(files, window) - image).max() <= 0.51 / 65535


def test_identity_and_description(series, images, tmp_path):
    files = write_derived_series(
        series, images, WINDOW, tmp_path / "out", description="Made by a test."
    )
    sources = [pydicom.dcmread(path) for path in series.files]
    derived = [pydicom.dcmread(path) for path in files]
    assert len({d.SeriesInstanceUID for d in derived} | {s.SeriesInstanceUID for s in sources}) == 2
    assert len({d.SOPInstanceUID for d in derived} | {s.SOPInstanceUID for s in sources}) == 6
    for source, dataset in zip(sources, derived, strict=True):
        assert dataset.SOPClassUID == source.SOPClassUID
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert dataset.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
        for keyword in (
            "StudyInstanceUID",
            "FrameOfReferenceUID",
            "PatientName",
            "PatientID",
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
            "SliceThickness",
            "InstanceNumber",
        ):
            assert dataset[keyword].value == source[keyword].value
        assert list(dataset.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert dataset.SeriesNumber == 1003
        assert dataset.DerivationDescription.startswith("Made by a test. Values are gray levels")
        assert "clipped to -160 to 240" in dataset.DerivationDescription
        assert dataset.DerivationCodeSequence[0].CodeMeaning == "Gray scale style transfer"
        reference = dataset.SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        assert dataset.ContributingEquipmentSequence[0].Manufacturer == "tfstyle"
        assert dataset.RescaleType == "HU"
        assert (dataset.WindowCenter, dataset.WindowWidth) == (40, 400)
        assert dataset.VOILUTFunction == "LINEAR_EXACT"
        assert (dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit) == (16, 16, 15)
        assert dataset.PixelRepresentation == 0
        assert dataset.SmallestImagePixelValue == dataset.pixel_array.min()
        assert dataset.LargestImagePixelValue == dataset.pixel_array.max()


def test_what_is_not_carried_over(write_ct, tmp_path):
    path = write_ct(
        PixelPaddingValue=-2000, PerformedProcedureStepID="7", WindowCenterWidthExplanation="ABD"
    )
    dataset = pydicom.dcmread(path)
    block = dataset.private_block(0x0009, "TEST", create=True)
    block.add_new(1, "LO", "secret")
    item = Dataset()
    item.private_block(0x0011, "TEST", create=True).add_new(1, "LO", "deep secret")
    item.ReferencedSOPInstanceUID = "1.2.3"
    dataset.ReferencedPerformedProcedureStepSequence = [item]
    dataset.ReferencedImageSequence = [item]
    dataset.add_new(0x60000010, "US", 8)
    dataset.add_new(0x60003000, "OW", b"\0" * 8)
    dataset.save_as(path)
    (file,) = write_derived_series(read_scan(path), np.zeros((1, 8, 6)), WINDOW, tmp_path / "out")
    derived = pydicom.dcmread(file)
    for keyword in (
        "PixelPaddingValue",
        "PerformedProcedureStepID",
        "WindowCenterWidthExplanation",
        "ReferencedPerformedProcedureStepSequence",
    ):
        assert keyword not in derived
    assert b"secret" not in file.read_bytes()
    assert 0x60003000 not in derived
    assert derived.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3"


def test_texts_and_numbers(series, images, tmp_path):
    (first, *_) = write_derived_series(
        series,
        images,
        WINDOW,
        tmp_path / "out",
        series_description="Mine",
        series_number=77,
    )
    dataset = pydicom.dcmread(first)
    assert (dataset.SeriesDescription, dataset.SeriesNumber) == ("Mine", 77)


def test_lossy_source_stays_lossy(write_ct, sample, tmp_path):
    def derived(path, name):
        scan = read_scan(path)
        (file,) = write_derived_series(scan, scan_to_unit(scan), WINDOW, tmp_path / name)
        return pydicom.dcmread(file)

    path = write_ct(LossyImageCompression="01", LossyImageCompressionRatio=10)
    told = derived(path, "told")
    assert (told.LossyImageCompression, told.LossyImageCompressionRatio) == ("01", 10)
    source = pydicom.dcmread(sample("JPEG2000.dcm"))
    assert source.file_meta.TransferSyntaxUID == JPEG2000
    assert derived(sample("JPEG2000.dcm"), "seen").LossyImageCompression == "01"
    assert "LossyImageCompression" not in derived(write_ct("plain.dcm"), "plain")


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_jp2klossless.dcm"]
)
def test_pydicoms_files(sample, tmp_path, name):
    scan = read_scan(sample(name))
    window = Window.from_limits(float(scan.pixels.min()), float(scan.pixels.max()))
    unit = scan_to_unit(scan, window)
    write_derived_series(scan, unit, window, tmp_path / "out")
    back = read_scan(tmp_path / "out")
    assert back.units == scan.units
    np.testing.assert_allclose(scan_to_unit(back, window), unit, atol=0.51 / window.width + 1e-5)
    np.testing.assert_allclose(back.affine, scan.affine)


def test_enhanced_source_becomes_single_frames(enhanced_ct, tmp_path):
    scan = read_scan(enhanced_ct([4, 0, 2]))
    unit = scan_to_unit(scan, WINDOW)
    files = write_derived_series(scan, unit, WINDOW, tmp_path / "out")
    derived = [pydicom.dcmread(path) for path in files]
    assert [d.ImagePositionPatient[2] for d in derived] == [0, 2, 4]
    assert [d.SourceImageSequence[0].ReferencedFrameNumber for d in derived] == [2, 3, 1]
    assert {d.SOPClassUID for d in derived} == {"1.2.840.10008.5.1.4.1.1.2"}
    assert "NumberOfFrames" not in derived[0]
    assert "SharedFunctionalGroupsSequence" not in derived[0]
    assert [d.InstanceNumber for d in derived] == [1, 2, 3]
    back = read_scan(tmp_path / "out")
    assert back.spacing == scan.spacing
    np.testing.assert_allclose(back.affine, scan.affine)
    np.testing.assert_allclose(scan_to_unit(back, WINDOW), unit, atol=0.51 / 400)


def test_blank_uids_are_filled(write_series, tmp_path):
    write_series([0, 2], StudyInstanceUID="", FrameOfReferenceUID="", SeriesInstanceUID="")
    scan = read_scan(tmp_path / "series")
    files = write_derived_series(scan, np.zeros((2, 8, 6)), WINDOW, tmp_path / "out")
    first, second = (pydicom.dcmread(path) for path in files)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert first[keyword].value == second[keyword].value
        assert pydicom.uid.UID(first[keyword].value).is_valid


def test_values_are_clipped(write_ct, tmp_path):
    image = np.linspace(-1, 2, 48).reshape(1, 8, 6)
    files = write_derived_series(read_scan(write_ct()), image, WINDOW, tmp_path / "out")
    np.testing.assert_allclose(unit_of(files, WINDOW), np.clip(image, 0, 1), atol=1e-5)


def test_source_files_do_not_change(series, images, tmp_path):
    before = [Path(path).read_bytes() for path in series.files]
    write_derived_series(series, images, WINDOW, tmp_path / "out")
    assert [Path(path).read_bytes() for path in series.files] == before


def test_empty_folder_is_used_and_a_full_one_refused(series, images, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write_derived_series(series, images, WINDOW, out)
    assert len(list(out.iterdir())) == 3
    with pytest.raises(OutputError, match="not empty"):
        write_derived_series(series, images, WINDOW, out)
    assert len(list(out.iterdir())) == 3


def test_folder_that_cannot_be_written(series, images, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("x")
    with pytest.raises(OutputError, match="is a file, where a folder is needed"):
        write_derived_series(series, images, WINDOW, blocker / "out")
    with pytest.raises(OutputError, match="not a folder"):
        write_derived_series(series, images, WINDOW, blocker)
    assert blocker.read_text() == "x"


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

    with pytest.raises(ArgumentError, match="must be a scan read from DICOM, received tuple"):
        write(series.files)
    with pytest.raises(ArgumentError, match="received scan without frames"):
        write(Scan(series.pixels))
    with pytest.raises(ArgumentError, match=r"shape \(2, 8, 6\), but the scan \(3, 8, 6\)"):
        write(generated=images[:2])
    with pytest.raises(ArgumentError, match="NaN"):
        write(generated=np.full_like(images, np.nan))
    with pytest.raises(ArgumentError, match="description"):
        write(description=" ")
    Path(series.files[1]).unlink()
    with pytest.raises(InputFileError, match="no such file"):
        write()
    assert not (tmp_path / "out").exists()


def test_no_warnings_of_its_own(series, images, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        write_derived_series(series, images, WINDOW, tmp_path / "out")
    assert caplog.records == []


def test_ultrasound_of_16_bits_is_secondary_capture(write_ct, tmp_path):
    path = write_ct(SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1", Modality="US")
    (file,) = write_derived_series(read_scan(path), np.zeros((1, 8, 6)), WINDOW, tmp_path / "out")
    dataset = pydicom.dcmread(file)
    assert dataset.SOPClassUID.name == "Secondary Capture Image Storage"
    assert dataset.SourceImageSequence[0].ReferencedSOPClassUID.name == "Ultrasound Image Storage"


@pytest.mark.parametrize("said", [True, False])
def test_frame_of_enhanced_mr(write_ct, tmp_path, said):
    timing, echo, plane, orientation, anatomy, group = (Dataset() for _ in range(6))
    timing.RepetitionTime, timing.EchoTrainLength, timing.FlipAngle = 500, 3, 90
    echo.EffectiveEchoTime = 12
    plane.ImagePositionPatient = [1, 2, 3]
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    anatomy.FrameLaterality = "L"
    group.MRTimingAndRelatedParametersSequence = [timing]
    group.MREchoSequence, group.FrameAnatomySequence = [echo], [anatomy]
    group.PlanePositionSequence, group.PlaneOrientationSequence = [plane], [orientation]
    path = write_ct(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1",
        Modality="MR",
        EchoPulseSequence="BOTH" if said else "",
        SharedFunctionalGroupsSequence=[group],
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
    )
    (file,) = write_derived_series(read_scan(path), np.zeros((1, 8, 6)), WINDOW, tmp_path / "out")
    dataset = pydicom.dcmread(file)
    name = "MR Image Storage" if said else "Secondary Capture Image Storage"
    assert dataset.SOPClassUID.name == name
    assert dataset.get("ScanningSequence") == (["SE", "GR"] if said else None)
    assert (dataset.RepetitionTime, dataset.EchoTrainLength, dataset.EchoTime) == (500, 3, 12)
    assert (dataset.SequenceVariant, dataset.ImageLaterality) == ("NONE", "L")
    assert dataset.ImagePositionPatient == [1, 2, 3]


def test_what_the_frames_of_enhanced_ct_differ_in(enhanced_ct, tmp_path):
    path = enhanced_ct([0, 3, 0, 3])
    source = pydicom.dcmread(path)
    for i, group in enumerate(source.PerFrameFunctionalGroupsSequence):
        details, reconstruction = Dataset(), Dataset()
        details.KVP, reconstruction.ConvolutionKernel = (80, "A") if i < 2 else (140, "B")
        group.CTXRayDetailsSequence = [details]
        group.CTReconstructionSequence = [reconstruction]
    source.save_as(path)
    for number, scan in enumerate(read_scans(path)):
        write_derived_series(scan, scan_to_unit(scan, WINDOW), WINDOW, tmp_path / str(number))
    written = [pydicom.dcmread(f) for f in sorted(tmp_path.glob("[01]/*"))]
    assert [(d.KVP, d.ConvolutionKernel) for d in written] == [(80, "A")] * 2 + [(140, "B")] * 2


def test_a_source_without_a_valid_uid_is_not_referenced(write_ct, tmp_path):
    path = write_ct()
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = "abc"
    dataset.save_as(path)
    (file,) = write_derived_series(read_scan(path), np.zeros((1, 8, 6)), WINDOW, tmp_path / "out")
    assert "SourceImageSequence" not in pydicom.dcmread(file)
