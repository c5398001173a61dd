"""The body of a slice: lungs and gas belong to it, air, table and thin things do not."""

import numpy as np
import pytest

from tfstyle.data import body_mask
from tfstyle.errors import ArgumentError


def square(air=-1000):
    hu = np.full((80, 80), air)
    hu[16:64, 16:64] = 40
    return hu


def test_lungs_belong_to_it():
    hu = square()
    hu[28:40, 24:36] = -850
    hu[50:54, 50:54] = -1000  # gas
    assert body_mask(hu, (2.0, 2.0)).sum() == 48 * 48
    assert body_mask(hu).sum() == 48 * 48


def test_thin_things_are_left_out_by_their_size_in_mm():
    hu = square()
    hu[72:75] = 100
    assert not body_mask(hu, (1.0, 1.0))[70:].any()  # 3 mm
    assert body_mask(hu, (5.0, 5.0))[72:75].all()  # 15 mm


def test_lung_at_the_border_belongs_to_a_crop():
    hu = np.full((64, 64), 40.0)
    hu[:, :20] = -850
    assert body_mask(hu).all()
    hu[:, :20] = -1000  # air
    assert not body_mask(hu)[:, :18].any()
    assert body_mask(hu)[:, 22:].all()


def test_nothing():
    assert not body_mask(np.full((64, 64), -1000.0)).any()
    with pytest.raises(ArgumentError, match=r"hu: must be an array \(H, W\)"):
        body_mask(np.zeros((2, 64, 64)))
