"""One scan out of each stack: all that tells stacks apart, and the order without positions."""

import numpy as np
import pytest

from tfstyle.data import read_scan, read_scans
from tfstyle.errors import InputFileError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def values(scan):
    """What each slice holds, as written by ``write``."""
    return [int(plane[0, 0]) + 1024 for plane in scan.pixels]


@pytest.fixture
def write(write_ct):
    """``write(slices)``: one file for each (value, z, attributes), under shuffled names."""

    def save(slices, folder="study"):
        names = np.random.default_rng(7).permutation(len(slices))
        for name, (value, z, attributes) in zip(names, slices):
            write_ct(
                f"{folder}/{name:03d}.dcm",
                np.full((4, 4), value, np.int16),
                **{"ImagePositionPatient": [0, 0, z], **attributes},
            )

    return save


def stack(first, places, **attributes):
    """Slices of values from `first` on, with their instance numbers."""
    return [(first + i, z, {"InstanceNumber": i + 1, **attributes}) for i, z in enumerate(places)]


FIVE = [0, 5, 10, 15, 20]


@pytest.mark.parametrize(
    ("keyword", "one", "other"),
    [
        ("AcquisitionNumber", 1, 2),
        ("NominalPercentageOfCardiacPhase", 40.0, 70.0),
        ("ConvolutionKernel", "B30f", "B70f"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]),
    ],
)
def test_anything_that_separates_two_images_of_a_place(write, tmp_path, keyword, one, other):
    short = stack(100, FIVE, **{keyword: one})
    del short[2]
    write(short + stack(200, FIVE, **{keyword: other}))
    first, second = read_scans(tmp_path)
    assert values(first) == [100, 101, 103, 104]
    assert values(second) == [200, 201, 202, 203, 204]


@pytest.mark.parametrize("number", [lambda i: i // 3, lambda i: i % 2])
def test_acquisition_number_that_changes_along_z_alone_is_one_scan(write, tmp_path, number):
    write([(100 + i, 5 * i, {"AcquisitionNumber": int(number(i))}) for i in range(9)])
    assert values(read_scan(tmp_path)) == list(range(100, 109))


@pytest.mark.parametrize(
    ("keyword", "word", "shift"),
    [
        ("EchoTime", "echo", 0),
        ("EchoNumbers", "echo", 2.5),  # in each other
        ("KVP", "kVp", 25),  # slabs side by side
    ],
)
def test_images_of_other_contrast_never_make_one_stack(
    write, tmp_path, keyword, word, shift, caplog
):
    other = [z + shift for z in FIVE]
    write(stack(100, FIVE, **{keyword: 10}) + stack(200, other, **{keyword: 30}))
    scans = read_scans(tmp_path)
    assert [values(scan) for scan in scans] == [[*range(100, 105)], [*range(200, 205)]]
    assert [scan.name for scan in scans] == [f"study_{word}1", f"study_{word}2"]
    assert ("holds several stacks; read as 2" in caplog.text) == (shift > 0)


def test_thin_and_thick_slices(write, tmp_path):
    write(stack(100, FIVE) + stack(200, range(21), SliceThickness=1))
    assert sorted(values(scan) for scan in read_scans(tmp_path)) == [
        list(range(100, 105)),
        list(range(200, 221)),
    ]


def test_two_phases_by_their_numbers(write, tmp_path):
    numbers = {100: range(1, 6), 200: range(6, 11)}
    write([
        (first + i, 5 * i, {"InstanceNumber": number})
        for first, several in numbers.items()
        for i, number in enumerate(several)
    ])  # fmt: skip
    found = [values(scan) for scan in read_scans(tmp_path)]
    assert found == [[*range(100, 105)], [*range(200, 205)]]


def test_phases_and_echoes_together(write, tmp_path):
    slices = []
    for phase in (1, 2):
        for echo in (1, 2):
            first = 100 * phase + 10 * echo
            slices += stack(first, FIVE, TemporalPositionIdentifier=phase, EchoNumbers=echo)
    write(slices)
    scans = read_scans(tmp_path)
    assert [values(scan)[0] for scan in scans] == [110, 120, 210, 220]
    assert all(len(scan) == 5 for scan in scans)
    assert [scan.stack for scan in scans] == [
        *("phase1_echo1", "phase1_echo2", "phase2_echo1", "phase2_echo2")
    ]
    assert values(read_scan(tmp_path, series="study_phase2_echo1")) == values(scans[2])
    with pytest.raises(InputFileError, match=r"study_phase1_echo2 \(5 slices\)"):
        read_scan(tmp_path)


def test_folders_tell_images_apart_where_headers_do_not(write, tmp_path):
    write(stack(100, FIVE[:4]), "study/a")
    write(stack(200, FIVE), "study/b")
    assert [len(scan) for scan in read_scans(tmp_path)] == [4, 5]


def test_slabs_side_by_side(write, tmp_path):
    other = [(value, z, {"ImagePositionPatient": [150, 0, z]}) for value, z, _ in stack(200, FIVE)]
    write(stack(100, FIVE) + other)
    assert [values(scan)[0] for scan in read_scans(tmp_path)] == [100, 200]


def test_what_cannot_be_told_apart_is_an_error(write, tmp_path):
    write(stack(100, FIVE[:4]) + stack(200, FIVE))
    with pytest.raises(InputFileError, match=r"nothing in the headers.*Put the files of each"):
        read_scans(tmp_path)


def test_one_image_sent_twice_under_another_uid(write, tmp_path):
    write([*stack(100, FIVE), (200, 10, {"InstanceNumber": 3})])
    first, second = read_scans(tmp_path)
    assert len(first) == 5
    assert len(second) == 1


def test_orientations_are_scans_of_their_own(write, tmp_path, caplog):
    coronal = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    others = [(200 + i, 0, {"ImagePositionPatient": [0, 5 * i, 0], **coronal}) for i in range(3)]
    write([(100 + i, 5 * i, {}) for i in range(4)] + others)
    assert [values(s) for s in read_scans(tmp_path)] == [[100, 101, 102, 103], [200, 201, 202]]
    assert "3 images of another orientation" in caplog.text
    assert [s.stack for s in read_scans(tmp_path)] == ["plane1", "plane2"]


def bare(tmp_path, write_ct, count=12, *, without=(), **attributes):
    """Slices named IM1, IM2, … that lack attributes; others are functions of the number."""
    for i in range(count):
        changes = {key: value(i) for key, value in attributes.items()} | dict.fromkeys(without)
        write_ct(f"study/IM{i + 1}", np.full((4, 4), 100 + i, np.int16), **changes)
    return read_scan(tmp_path)


NO_PLACE = ("ImagePositionPatient", "ImageOrientationPatient")


@pytest.mark.parametrize(
    ("without", "attributes", "upward", "how"),
    [
        ((*NO_PLACE, "InstanceNumber"), {}, True, "sorted by file name"),
        (NO_PLACE, {"InstanceNumber": lambda i: 12 - i}, False, "sorted by Instance Number"),
        (("ImageOrientationPatient",), {"InstanceNumber": lambda i: i}, True,
         "sorted by Instance Number"),
    ],
)  # fmt: skip
def test_order(write_ct, tmp_path, caplog, without, attributes, upward, how):
    scan = bare(tmp_path, write_ct, without=without, **attributes)
    assert values(scan) == [*range(100, 112)][:: 1 if upward else -1]
    assert scan.affine is None
    assert scan.spacing[0] == 2
    assert how in caplog.text


def test_one_position_in_all_slices(write_ct, tmp_path, caplog):
    attributes = {"InstanceNumber": lambda i: 2 * i, "ImagePositionPatient": lambda i: [0, 0, 0]}
    scan = bare(tmp_path, write_ct, **attributes)
    assert values(scan) == list(range(100, 112))
    assert "does not say where its images lie" in caplog.text
