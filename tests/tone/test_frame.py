"""The frame of an image: what it shows, in one size."""

import numpy as np
import pytest

from tfstyle.tone.frame import frame, resample


def resampled(x, rows, columns, size):
    edges = ([np.float32([edge]) for edge in pair] for pair in (rows, columns))
    return np.asarray(resample(x[None].astype(np.float32), *edges, size))[0]


def test_resampling_keeps_a_ramp_in_both_directions():
    ramp = np.tile(np.arange(64.0), (64, 1))
    inner = slice(2, -2)  # at the border the triangles are cut
    for first, last, size in ((0, 64, 16), (0, 64, 128), (10, 42, 16)):
        step = (last - first) / size
        expected = first + (np.arange(size) + 0.5) * step - 0.5
        found = resampled(ramp, (0, 64), (first, last), size)
        expected = np.tile(expected, (size, 1))
        np.testing.assert_allclose(found[:, inner], expected[:, inner], rtol=1e-5)


def test_air_around_is_cut_off():
    image = np.zeros((1, 120, 200, 1), np.float32)
    image[0, 20:80, 100:180] = 0.5  # 60 rows, 80 columns
    found = np.asarray(frame(image, 48))[0, ..., 0]
    assert found.shape == (48, 48)
    assert (found > 0.25).mean() > 0.8
    assert found.max() == pytest.approx(0.5, abs=1e-5)


def test_noise_of_air_is_not_taken_for_a_body():
    rng = np.random.default_rng(0)
    image = 0.2 + rng.normal(0, 0.02, (1, 192, 192, 1))
    image[0, 60:150, 60:150] += 0.4
    assert (np.asarray(frame(image.astype(np.float32), 48)) > 0.4).mean() > 0.85


def test_an_empty_image_is_kept_whole():
    for level in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(frame(np.full((2, 50, 70, 1), level), 32), level, atol=1e-6)
