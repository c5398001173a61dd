"""Metrics against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfstyle import metrics
from tfstyle.errors import ArgumentError


def noise(seed, shape=(24, 30)):
    return np.random.default_rng(seed).uniform(0.2, 0.8, shape)


class TestHistogramDistance:
    def test_shift(self):
        x = noise(0) * 0.5
        assert metrics.histogram_distance(x, x + 0.125) == pytest.approx(0.125)

    def test_different_sizes(self):
        assert metrics.histogram_distance(np.zeros(10), np.ones(25)) == pytest.approx(1.0)
        x = noise(1)
        assert metrics.histogram_distance(x, np.tile(x, (1, 3))) == pytest.approx(0, abs=1e-12)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 10**6), st.integers(1, 50), st.integers(1, 50))
    def test_is_a_metric(self, seed, n, m):
        rng = np.random.default_rng(seed)
        a, b, c = rng.random(n), rng.random(m), rng.random(7)
        d = metrics.histogram_distance
        assert d(a, b) == pytest.approx(d(b, a))
        assert d(a, b) <= d(a, c) + d(c, b) + 1e-9
        assert 0 <= d(a, b) <= 1

    def test_ratio(self):
        content, style = np.zeros((4, 4)), np.ones((4, 4))
        assert metrics.style_distance_ratio(content, style, style) == 0
        assert metrics.style_distance_ratio(content, style, content) == 1
        assert metrics.style_distance_ratio(content, style, style * 0.75) == pytest.approx(0.25)
        assert metrics.style_distance_ratio(style, style, content) == np.inf

    def test_bad_input(self):
        with pytest.raises(ArgumentError, match="b:"):
            metrics.histogram_distance(np.ones(3), np.array([np.nan]))


class TestStructure:
    def test_equation_at_one_window(self):
        x, y = noise(0), noise(1)
        structure, counts = metrics.structure_map(x, y)
        assert structure.shape == counts.shape == (14, 20)
        t = np.arange(11) - 5
        w = np.exp(-(t[:, None] ** 2 + t[None] ** 2) / (2 * 1.5**2))
        w /= w.sum()
        a, b = x[3:14, 7:18], y[3:14, 7:18]
        ma, mb = (w * a).sum(), (w * b).sum()
        sa, sb = np.sqrt((w * (a - ma) ** 2).sum()), np.sqrt((w * (b - mb) ** 2).sum())
        c = 0.03**2 / 2
        expected = ((w * (a - ma) * (b - mb)).sum() + c) / (sa * sb + c)
        assert structure[3, 7] == pytest.approx(expected, rel=1e-9)

    def test_ignores_contrast_and_brightness(self):
        x = noise(2)
        assert metrics.structure_similarity(x, 0.4 * x + 0.3) == pytest.approx(1, abs=1e-3)

    def test_falls_with_noise_and_turns_with_inversion(self):
        x = noise(3)
        assert metrics.structure_similarity(x, noise(4)) < 0.3
        assert metrics.structure_similarity(x, 1 - x) < -0.8

    def test_a_blank_image_keeps_nothing(self):
        x = noise(3)
        assert metrics.structure_similarity(x, np.full_like(x, 0.5)) == 0
        assert metrics.structure_similarity(x, 0.5 + 0.001 * x) == 0
        assert metrics.structure_similarity(x, 0.5 + 0.02 * x) > 0.9

    def test_flat_and_clipped_windows_do_not_count(self):
        x = noise(5, (24, 48))
        x[:, :16] = 0.5
        x[:, 32:] = 1.0
        _, counts = metrics.structure_map(x, x)
        assert not counts[:, 0].any()
        assert not counts[:, -1].any()
        assert counts[:, 18].all()
        assert np.isnan(metrics.structure_similarity(np.full((20, 20), 0.5), noise(0, (20, 20))))

    def test_mask(self):
        x = noise(6, (40, 40))
        y = x.copy()
        y[:, 20:] = noise(7, (40, 20))
        left = np.zeros((40, 40), bool)
        left[:, :14] = True
        assert metrics.structure_similarity(x, y, left) == pytest.approx(1)
        assert metrics.structure_similarity(x, y) < 0.8

    @pytest.mark.parametrize("shape", [(10, 30), (30, 30, 2)])
    def test_bad_shapes(self, shape):
        with pytest.raises(ArgumentError, match="at least 11"):
            metrics.structure_map(np.zeros(shape), np.zeros(shape))


class TestEdges:
    def disc(self, row, column, size=64):
        y, x = np.mgrid[:size, :size]
        return 0.2 + 0.6 / (1 + np.exp(np.hypot(y - row, x - column) - 18.0))

    def test_same_edges_in_another_gray_scale(self):
        x = self.disc(32, 32)
        assert metrics.edge_displacement(x, x) == 0
        assert metrics.edge_displacement(x, 0.9 - 0.5 * x) == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("shift", [0.5, 1.0])
    def test_shift(self, shift):
        # The mean of |shift · cos| over all directions is 2/π of the shift.
        x, y = self.disc(32, 32), self.disc(32, 32 + shift)
        expected = 0.7 * shift * 2 / np.pi
        assert metrics.edge_displacement(x, y, 0.7) == pytest.approx(expected, rel=0.1)

    def test_spacing_by_axis_and_mask(self):
        x = np.tile(1 / (1 + np.exp(20.0 - np.arange(48.0)[:, None])), (1, 40))
        y = np.tile(1 / (1 + np.exp(21.0 - np.arange(48.0)[:, None])), (1, 40))
        assert metrics.edge_displacement(x, y, (2.0, 0.5)) == pytest.approx(2.0, rel=0.05)
        assert np.isnan(metrics.edge_displacement(x, y, mask=np.zeros_like(x, bool)))

    def test_bad_shapes(self):
        with pytest.raises(ArgumentError, match="at least 16"):
            metrics.edge_displacement(np.zeros((15, 30)), np.zeros((15, 30)))
