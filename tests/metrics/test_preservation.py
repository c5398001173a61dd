"""Structure, edges and distances of histograms against their definitions and SciPy."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from tfstyle.metrics import (
    edge_displacement,
    histogram_distance,
    structure_similarity,
    style_distance_ratio,
)


def noise(seed, shape=(24, 30)):
    return np.random.default_rng(seed).uniform(0.2, 0.8, shape)


def term(a, b):
    """The structure term of SSIM at one window, by its equation."""
    t = np.arange(11) - 5
    w = np.exp(-(t[:, None] ** 2 + t[None] ** 2) / (2 * 1.5**2))
    w /= w.sum()
    ma, mb = (w * a).sum(), (w * b).sum()
    sa, sb = np.sqrt((w * (a - ma) ** 2).sum()), np.sqrt((w * (b - mb) ** 2).sum())
    c = 0.03**2 / 2
    return ((w * (a - ma) * (b - mb)).sum() + c) / (sa * sb + c)


class TestStructure:
    def test_equation(self):
        x, y = noise(0), noise(1)
        two = np.zeros(x.shape, bool)
        two[8, 12:14] = True
        expected = [term(x[3:14, j : j + 11], y[3:14, j : j + 11]) for j in (7, 8)]
        assert structure_similarity(x, y, two) == pytest.approx(np.mean(expected), rel=1e-9)
        every = [term(x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11])
                 for i in range(14) for j in range(20)]  # fmt: skip
        assert structure_similarity(x, y) == pytest.approx(np.mean(every), rel=1e-9)

    @pytest.mark.parametrize(
        ("change", "low", "high"),
        [
            (lambda x: 0.4 * x + 0.3, 0.999, 1),  # contrast and brightness
            (lambda x: noise(4), -0.3, 0.3),
            (lambda x: 1 - x, -1, -0.8),
            (lambda x: 0.5 + 0.001 * x, 0, 0),  # a blank image keeps nothing
            (lambda x: 0.5 + 0.02 * x, 0.9, 1),
        ],
    )
    def test_what_it_tells_apart(self, change, low, high):
        x = noise(3)
        assert low <= structure_similarity(x, change(x)) <= high + 1e-9

    @pytest.mark.parametrize("content", [0.5, 1.0])
    def test_flat_and_clipped_windows_do_not_count(self, content):
        x = noise(5, (24, 48))
        y = x.copy()
        x[:, 24:], y[:, 24:] = content, noise(6, (24, 24))
        assert structure_similarity(x, y) > 0.85
        assert np.isnan(structure_similarity(x[:, 24:], y[:, 24:]))


class TestEdges:
    def disc(self, row, column, size=64):
        y, x = np.mgrid[:size, :size]
        return 0.2 + 0.6 / (1 + np.exp(np.hypot(y - row, x - column) - 18.0))

    def test_same_edges_in_another_gray_scale(self):
        x = self.disc(32, 32)
        assert edge_displacement(x, x) == 0
        assert edge_displacement(x, 0.9 - 0.5 * x) == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("shift", [0.5, 1.0])
    def test_shift(self, shift):
        # The mean of |shift · cos| over all directions is 2/π of the shift.
        x, y = self.disc(32, 32), self.disc(32, 32 + shift)
        expected = 0.7 * shift * 2 / np.pi
        assert edge_displacement(x, y, 0.7) == pytest.approx(expected, rel=0.1)

    def test_spacing_by_axis_and_mask(self):
        x = np.tile(1 / (1 + np.exp(20.0 - np.arange(48.0)[:, None])), (1, 40))
        y = np.tile(1 / (1 + np.exp(21.0 - np.arange(48.0)[:, None])), (1, 40))
        assert edge_displacement(x, y, (2.0, 0.5)) == pytest.approx(2.0, rel=0.05)
        assert np.isnan(edge_displacement(x, y, mask=np.zeros_like(x, bool)))


class TestHistograms:
    def test_shift_and_different_sizes(self):
        x = np.random.default_rng(0).random((24, 30))
        assert histogram_distance(x, x + 0.125) == pytest.approx(0.125)
        assert histogram_distance(np.zeros(10), np.ones(25)) == pytest.approx(1.0)
        assert histogram_distance(x, np.tile(x, (1, 3))) == pytest.approx(0, abs=1e-12)
        y = np.random.default_rng(1).random(50)
        assert histogram_distance(x, y) == pytest.approx(wasserstein_distance(x.ravel(), y))

    def test_ratio(self):
        content, style = np.zeros((4, 4)), np.ones((4, 4))
        assert style_distance_ratio(content, style, style) == 0
        assert style_distance_ratio(content, style, content) == 1
        assert style_distance_ratio(content, style, style * 0.75) == pytest.approx(0.25)
        assert style_distance_ratio(style, style, content) == np.inf
