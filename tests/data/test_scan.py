import dataclasses

import numpy as np
import pytest

from tfstyle.data import Scan, Window
from tfstyle.errors import ArgumentError


def make(**changes):
    arguments = {
        "pixels": np.arange(60, dtype=np.int16).reshape(5, 4, 3),
        "spacing": (2.0, 1.0, 0.5),
        "affine": np.array([[0, 0, 0.5, -7], [0, 1, 0, -8], [2, 0, 0, 100], [0, 0, 0, 1.0]]),
        "files": tuple("abcde"),
        "name": "five",
        "header_window": Window(40, 400),
    }
    return Scan(**{**arguments, **changes})


def test_is_immutable():
    array = np.zeros((1, 2, 2), np.int16)
    scan = make(pixels=array, files=())
    with pytest.raises(ValueError, match="read-only"):
        scan.pixels[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        scan.affine[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        scan.name = "other"
    array[0, 0, 0] = 5  # the caller's own array stays writable


def test_one_slice_keeps_place_and_file():
    scan = make()
    part = scan[-2]
    assert len(scan) == 5
    assert part.pixels.shape == (1, 4, 3)
    np.testing.assert_array_equal(part.pixels[0], scan.pixels[3])
    np.testing.assert_array_equal(part.affine @ [0, 1, 2, 1], scan.affine @ [3, 1, 2, 1])
    assert part.files == ("d",)
    assert part.spacing == scan.spacing
    assert part.header_window == scan.header_window


@pytest.mark.parametrize("chosen", [slice(1, 4), slice(None, None, -2)])
def test_slices_keep_their_places(chosen):
    scan = make()
    part = scan[chosen]
    for new, old in enumerate(range(5)[chosen]):
        np.testing.assert_array_equal(part.pixels[new], scan.pixels[old])
        np.testing.assert_allclose(part.affine @ [new, 1, 2, 1], scan.affine @ [old, 1, 2, 1])
        assert part.files[new] == scan.files[old]
    assert part.spacing[0] == 2.0 * abs(chosen.step or 1)


def test_bad_slices():
    with pytest.raises(IndexError):
        make()[5]
    with pytest.raises(ArgumentError, match="selects none of the 5"):
        make()[9:]


def test_bad_arguments():
    for changes, message in (
        ({"pixels": np.zeros((4, 4), np.int16)}, r"non-empty .* shape \(4, 4\)"),
        ({"pixels": np.zeros((1, 4, 4), np.float32)}, "must be int16"),
        ({"pixels": np.full((1, 4, 4), np.nan), "units": "US"}, "NaN"),
        ({"units": "Hounsfield"}, "units: must be one of"),
        ({"spacing": (1, 1, 0)}, "positive"),
        ({"affine": np.eye(3)}, "4x4"),
    ):
        with pytest.raises(ArgumentError, match=message):
            make(**changes)
