"""A scan carries its own frames, from reading to writing, also where a file holds several scans."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pydicom
import pytest

from tests.data.conftest import item
from tests.models import image, small_model
from tfstyle.data import (
    Window,
    read_scan,
    read_scans,
    scan_to_unit,
    write_derived_series,
    write_png,
)
from tfstyle.errors import ArgumentError
from tfstyle.runs import augment_scans, stylize_scans
from tfstyle.style_bank import StyleBank

WINDOW = Window.from_limits(-1024, 1024)


@pytest.fixture
def two_times(enhanced_ct):
    """Frames at 0, 3, 6 and 9 mm, and later at 6 and 9 mm again; frame i holds 1000 + i."""
    path = enhanced_ct([0, 3, 6, 9, 6, 9])
    dataset = pydicom.dcmread(path)
    for i, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.PixelValueTransformationSequence[0].RescaleIntercept = -1024
        group.FrameContentSequence = [item(TemporalPositionIndex=1 if i < 4 else 2)]
    dataset.save_as(path)
    return path


@pytest.fixture
def two_echoes(enhanced_ct):
    """An enhanced MR of three slices and two echoes, which alternate."""
    path = enhanced_ct([0, 0, 4, 4, 8, 8])
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    dataset.Modality, dataset.EchoPulseSequence = "MR", "GRADIENT"
    for i, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        del group.PixelValueTransformationSequence
        group.MREchoSequence = [item(EffectiveEchoTime=10.0 if i % 2 == 0 else 30.0)]
    dataset.save_as(path)
    return path


def facts(folder):
    """What the files of a derived series say: place, source frame, echo time."""
    datasets = sorted(
        (pydicom.dcmread(path) for path in folder.glob("*.dcm")), key=lambda d: d.InstanceNumber
    )
    return [
        (
            float(d.ImagePositionPatient[2]),
            d.SourceImageSequence[0].ReferencedFrameNumber,
            d.get("EchoTime"),
        )
        for d in datasets
    ]


FIRST = [(0, 1, None), (3, 2, None), (6, 3, None), (9, 4, None)]
SECOND = [(6, 5, None), (9, 6, None)]


def test_stacks_of_a_file(two_times):
    first, second = read_scans(two_times)
    assert [frame.index for frame in first.frames] == [0, 1, 2, 3]
    assert [frame.index for frame in second.frames] == [4, 5]
    assert second.affine[2, 3] == 6
    assert [int(p[0, 0]) + 1024 for p in second.pixels] == [1004, 1005]


def test_written_from_the_scan(two_times, tmp_path):
    for number, (scan, expected) in enumerate(zip(read_scans(two_times), (FIRST, SECOND))):
        unit = scan_to_unit(scan, WINDOW)
        files = write_derived_series(scan, unit, WINDOW, tmp_path / str(number))
        assert len(files) == len(expected)
        assert facts(tmp_path / str(number)) == expected
        back = read_scan(tmp_path / str(number))
        np.testing.assert_array_equal(back.pixels, scan.pixels)
        np.testing.assert_allclose(back.affine, scan.affine)


def test_a_part_of_a_scan_keeps_its_frames(two_times, tmp_path):
    first, _ = read_scans(two_times)
    part = first[::-1][1:3]
    write_derived_series(part, scan_to_unit(part, WINDOW), WINDOW, tmp_path / "out")
    assert facts(tmp_path / "out") == [(6, 3, None), (3, 2, None)]


def test_echoes(two_echoes, tmp_path):
    for number, (scan, echo) in enumerate(zip(read_scans(two_echoes), (10, 30))):
        write_derived_series(scan, scan_to_unit(scan, WINDOW), WINDOW, tmp_path / str(number))
        assert facts(tmp_path / str(number)) == [
            (z, 2 * i + 1 + number, echo) for i, z in enumerate((0.0, 4.0, 8.0))
        ]


def test_frames_must_be_one_a_slice(two_times):
    first, _ = read_scans(two_times)
    with pytest.raises(ArgumentError, match=r"frames must be one a slice, 3\. Received 4"):
        dataclasses.replace(first, pixels=first.pixels[:3])


class Same:
    """A stand-in for a model, which changes nothing."""

    def stylize(self, content, style, strength=1.0, style_weights=None, **options):
        return np.asarray(content, np.float32)


@pytest.fixture
def style(tmp_path):
    path = tmp_path / "style.png"
    write_png(np.linspace(0, 1, 64).reshape(8, 8), path)
    return path


ECHOES = [[(4.0 * i, 2 * i + 1 + e, (10, 30)[e]) for i in range(3)] for e in (0, 1)]


@pytest.mark.parametrize(
    ("source", "expected"), [("two_times", [FIRST, SECOND]), ("two_echoes", ECHOES)]
)
@pytest.mark.parametrize("deidentify", ["keep", "basic"])
def test_stylize(source, expected, deidentify, request, style, tmp_path):
    path = request.getfixturevalue(source)
    out, word = tmp_path / "out", "phase" if source == "two_times" else "echo"
    results = stylize_scans(Same(), [path], [style], out, window=WINDOW, deidentify=deidentify)
    names = [f"enhanced_{word}1", f"enhanced_{word}2"]
    if deidentify == "basic":
        names = [f"scan-0001_{word}1", f"scan-0002_{word}2"]
    assert sorted(file.name for file in out.iterdir() if file.name[0] != ".") == names
    assert [result.slices for result in results] == [len(one) for one in expected]
    for result, one in zip(results, expected):
        (folder,) = {Path(file).parent for file in result.files}
        assert len(result.files) == len(list(folder.iterdir())) == len(one)
        assert facts(folder) == one


@pytest.mark.parametrize(
    ("source", "expected"), [("two_times", [FIRST, SECOND]), ("two_echoes", ECHOES)]
)
def test_augment(source, expected, request, tmp_path):
    path = request.getfixturevalue(source)
    model = small_model("relu1_1")
    styles = StyleBank.encode(model, [image(20, (24, 24)), image(21, (24, 24))])
    done = augment_scans(model, path, tmp_path / "out", styles, per_image=2, gate=None)
    assert (done.written, done.failed) == (4, {})
    word = "phase" if source == "two_times" else "echo"
    for part, one in enumerate(expected, start=1):
        for copy in (1, 2):
            folder = tmp_path / "out" / "images" / f"enhanced_{word}{part}-{copy}"
            assert facts(folder) == one


def test_tilt_is_said_once(write_ct, style, tmp_path, caplog):
    for i in range(3):
        write_ct(
            f"tilted/{i}.dcm",
            np.full((12, 12), 1000 + i, np.int16),
            ImageOrientationPatient=[1, 0, 0, 0, 0.965926, 0.258819],
            ImagePositionPatient=[0, 0, 5 * i],
        )
    with caplog.at_level(logging.WARNING):
        out = tmp_path / "out.nii.gz"
        stylize_scans(Same(), [tmp_path / "tilted"], [style], out, output_format="nifti")
    assert caplog.text.count("gantry tilt") == 1
