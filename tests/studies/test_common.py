"""What the studies share."""

from __future__ import annotations

import numpy as np

from studies import common


def test_grid_keeps_shape_and_place():
    wide, square = np.full((2, 4), 0.5), np.arange(4.0).reshape(2, 2) / 4
    canvas = common.grid([[wide, square]], side=8, gap=2)
    assert canvas.shape == (8, 18)
    np.testing.assert_array_equal(canvas[2:6, :8], 0.5)
    np.testing.assert_array_equal(canvas[:2, :8], 0)
    np.testing.assert_array_equal(canvas[:, 8:10], 1)
    np.testing.assert_allclose(canvas[:, 10:], np.kron(square, np.ones((4, 4))))
