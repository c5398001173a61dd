"""Distances of histograms against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfstyle.metrics import histogram_distance, style_distance_ratio


def test_shift_and_different_sizes():
    x = np.random.default_rng(0).random((24, 30))
    assert histogram_distance(x, x + 0.125) == pytest.approx(0.125)
    assert histogram_distance(np.zeros(10), np.ones(25)) == pytest.approx(1.0)
    assert histogram_distance(x, np.tile(x, (1, 3))) == pytest.approx(0, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 50), st.integers(1, 50))
def test_is_a_metric(seed, n, m):
    rng = np.random.default_rng(seed)
    a, b, c = rng.random(n), rng.random(m), rng.random(7)
    d = histogram_distance
    assert d(a, b) == pytest.approx(d(b, a))
    assert d(a, b) <= d(a, c) + d(c, b) + 1e-9
    assert 0 <= d(a, b) <= 1


def test_ratio():
    content, style = np.zeros((4, 4)), np.ones((4, 4))
    assert style_distance_ratio(content, style, style) == 0
    assert style_distance_ratio(content, style, content) == 1
    assert style_distance_ratio(content, style, style * 0.75) == pytest.approx(0.25)
    assert style_distance_ratio(style, style, content) == np.inf
