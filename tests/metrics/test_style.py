"""Distances of histograms against their definition and SciPy."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from tfstyle.metrics import histogram_distance, style_distance_ratio


def test_shift_and_different_sizes():
    x = np.random.default_rng(0).random((24, 30))
    assert histogram_distance(x, x + 0.125) == pytest.approx(0.125)
    assert histogram_distance(np.zeros(10), np.ones(25)) == pytest.approx(1.0)
    assert histogram_distance(x, np.tile(x, (1, 3))) == pytest.approx(0, abs=1e-12)
    y = np.random.default_rng(1).random(50)
    assert histogram_distance(x, y) == pytest.approx(wasserstein_distance(x.ravel(), y))


def test_ratio():
    content, style = np.zeros((4, 4)), np.ones((4, 4))
    assert style_distance_ratio(content, style, style) == 0
    assert style_distance_ratio(content, style, content) == 1
    assert style_distance_ratio(content, style, style * 0.75) == pytest.approx(0.25)
    assert style_distance_ratio(style, style, content) == np.inf
