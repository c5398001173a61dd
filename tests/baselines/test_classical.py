"""Histogram matching, CLAHE, random gamma and window jitter against their equations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfstyle.baselines import CLAHE, HistogramMatching, RandomGamma, WindowJitter
from tfstyle.data import Window
from tfstyle.metrics import histogram_distance

from ..models import image


class TestHistogramMatching:
    def test_rank_by_rank(self):
        """T(r) = F_style⁻¹(F_content(r)): the k-th darkest pixel gets the k-th darkest level."""
        rng = np.random.default_rng(0)
        content, style = rng.random((20, 30)), rng.random((25, 24)) ** 3
        generated = HistogramMatching().stylize(content, style)
        ranks = content.ravel().argsort().argsort()
        expected = np.sort(style.ravel())[ranks].reshape(content.shape)
        np.testing.assert_allclose(generated, expected, atol=1e-6)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.floats(0.1, 5.0))
    def test_takes_the_histogram_and_never_falls(self, seed, power):
        content = image(seed, (24, 20))
        style = image(seed + 1, (31, 17)) ** power
        generated = HistogramMatching().stylize(content, style)
        assert histogram_distance(generated, style) < 0.01
        order = content.ravel().argsort()
        assert (np.diff(generated.ravel()[order]) >= -1e-6).all()

    def test_several_styles_have_the_barycenter(self):
        rng = np.random.default_rng(1)
        content, a, b = rng.random((16, 16)), rng.random((16, 16)) ** 2, rng.random((16, 16)) ** 0.5
        generated = HistogramMatching().stylize(content, [a, b], style_weights=[1, 3])
        quantiles = 0.25 * np.sort(a.ravel()) + 0.75 * np.sort(b.ravel())
        np.testing.assert_allclose(np.sort(generated.ravel()), quantiles, atol=1e-6)


class TestCLAHE:
    def equalised(self, content, limit):
        """One tile: the cumulative histogram, clipped, with the excess shared out."""
        levels, index, counts = np.unique(content, return_inverse=True, return_counts=True)
        bins = np.zeros(256)
        places = np.round(levels * 16383).astype(int) // 65
        assert len(set(places)) == len(places)
        bins[places] = counts
        full = bins > limit
        excess = (bins[full] - limit).sum()
        bins = np.where(full, limit, bins + excess / (~full).sum())
        mapped = (bins.cumsum() / content.size)[places]
        mapped = (mapped - mapped.min()) / (mapped.max() - mapped.min())
        return mapped[index].reshape(content.shape)

    @pytest.mark.parametrize("limit", [4096, 394])
    def test_one_tile(self, limit):
        levels = np.array([0.0, 0.1, 0.55, 1.0])
        content = levels[np.random.default_rng(0).permutation(4096) % 4].reshape(64, 64)
        generated = CLAHE(kernel_size=64, clip_limit=(limit + 0.5) / 4096 if limit < 4096 else 1.0)
        np.testing.assert_allclose(
            generated.stylize(content), self.equalised(content, limit), atol=2e-3
        )

    def test_is_local_and_limited(self):
        content = 0.4 + 0.02 * image(0, (64, 64))
        content[:, 32:] += 0.3
        spread = [CLAHE(clip_limit=c).stylize(content)[:, :24].std() for c in (0.005, 0.05, 1.0)]
        assert content[:, :24].std() < spread[0] < spread[1] < spread[2]


class TestRandomGamma:
    def test_power_law(self):
        contents = 0.05 + 0.9 * image(0, (5, 16, 16, 1))
        method = RandomGamma(0.5, 2.0, seed=9)
        expected = [
            np.exp(np.random.default_rng([9, n]).uniform(np.log(0.5), np.log(2.0)))
            for n in range(5)
        ]
        assert [method.gamma(n) for n in range(5)] == pytest.approx(expected)
        generated = method.stylize(contents)
        for n in range(5):
            np.testing.assert_allclose(generated[n], contents[n] ** expected[n], atol=1e-6)

    def test_spread_is_even_in_log(self):
        method = RandomGamma(0.25, 4.0)
        logs = np.log([method.gamma(n) for n in range(2000)])
        assert np.abs(logs).max() <= np.log(4.0)
        assert abs(logs.mean()) < 0.1
        assert logs.std() == pytest.approx(2 * np.log(4.0) / np.sqrt(12), rel=0.05)


@pytest.mark.parametrize("kind", [RandomGamma, WindowJitter])
class TestSeeds:
    def test_sequence(self, kind):
        contents = image(0, (6, 12, 12, 1))
        whole = kind(seed=3).stylize(contents)
        parts = kind(seed=3)
        split = np.concatenate([parts.stylize(contents[:2]), parts.stylize(contents[2:])])
        np.testing.assert_array_equal(split, whole)
        assert np.abs(kind(seed=4).stylize(contents) - whole).max() > 1e-3
        same = kind(seed=3).stylize(np.repeat(contents[:1], 6, axis=0))
        assert np.abs(same[1:] - same[0]).max(axis=(1, 2, 3)).min() > 1e-4

    def test_fixed(self, kind):
        contents = np.repeat(image(0, (1, 12, 12, 1)), 4, axis=0)
        method = kind(seed=3, fixed=True)
        generated = method.stylize(contents)
        np.testing.assert_array_equal(generated, np.repeat(generated[:1], 4, axis=0))
        np.testing.assert_array_equal(method.stylize(contents[:1]), generated[:1])


class TestWindowJitter:
    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 1000), st.floats(-600, 600), st.floats(50, 3000))
    def test_is_a_window_in_hu(self, seed, centre, width):
        """From HU through the random window, wherever the content's own had not clipped."""
        window = Window(centre, width)
        hu = np.linspace(window.lower, window.upper, 400).reshape(20, 20)
        first, second = np.random.default_rng([seed, 0]).uniform(-0.4, 0.4, 2)
        wide = width * np.exp(first)
        expected = np.clip((hu - (centre + second * width / 2)) / wide + 0.5, 0, 1)
        method = WindowJitter(0.4, seed=seed)
        found = method.window(window)
        assert (found.center, found.width) == pytest.approx((centre + second * width / 2, wide))
        np.testing.assert_allclose(method.stylize(window.to_unit(hu)), expected, atol=1e-4)

    def test_none(self):
        content = image(0, (12, 12))
        np.testing.assert_allclose(WindowJitter(0.0).stylize(content), content, atol=1e-6)
