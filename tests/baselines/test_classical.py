"""Histogram matching, mean and spread, and Nyúl's landmarks against their equations."""

import numpy as np
import pytest

from tfstyle.baselines import ForegroundHistogramMatching, HistogramMatching, MeanAndSpread, Nyul

from ..models import image

KINDS = [ForegroundHistogramMatching, Nyul, lambda: MeanAndSpread(foreground=True)]


class TestHistogramMatching:
    @pytest.mark.parametrize("kind", [HistogramMatching, ForegroundHistogramMatching])
    def test_rank_by_rank(self, kind):
        """T(r) = F_style⁻¹(F_content(r)): the k-th darkest pixel gets the k-th darkest level."""
        content, style = levels(0, 0.1, 0.9), levels(1, 0.2, 1.0, (25, 24)) ** 2
        generated = kind().stylize(content, style)
        ranks = content.ravel().argsort().argsort()
        expected = np.sort(style.ravel())[ranks].reshape(content.shape)
        np.testing.assert_allclose(generated, expected, atol=1e-6)

    def test_several_styles_have_the_barycenter(self):
        rng = np.random.default_rng(1)
        content, a, b = rng.random((16, 16)), rng.random((16, 16)) ** 2, rng.random((16, 16)) ** 0.5
        generated = HistogramMatching().stylize(content, [a, b], style_weights=[1, 3])
        quantiles = 0.25 * np.sort(a.ravel()) + 0.75 * np.sort(b.ravel())
        np.testing.assert_allclose(np.sort(generated.ravel()), quantiles, atol=1e-6)


def framed(values, share=0.5):
    """The image with air below it, `share` of the rows."""
    rows = round(len(values) * share)
    return np.concatenate([values, np.zeros((rows, values.shape[1]), values.dtype)])


def levels(seed, low, high, shape=(30, 20)):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
class TestForeground:
    def test_air_does_not_matter(self, kind):
        content, style = levels(0, 0.2, 0.6), levels(1, 0.5, 0.9)
        expected = kind().stylize(content, style)
        assert np.abs(expected - content).max() > 0.1
        for share in (0.3, 2.0):
            generated = kind().stylize(framed(content, share), framed(style, 1 / share))
            np.testing.assert_allclose(generated[:30], expected, atol=1e-6)
            np.testing.assert_array_equal(generated[30:], 0)

    def test_floor_stays(self, kind):
        content = levels(0, 0.2, 0.6)
        content[:3] = 0.01
        generated = kind().stylize(content, levels(1, 0.5, 0.9))
        np.testing.assert_array_equal(generated[:3], content[:3])
        assert generated[3:].min() > 0.4


def test_mean_and_spread_equation():
    for content in (levels(0, 0.2, 0.6), framed(levels(0, 0.2, 0.6))):  # of all pixels
        style = 0.5 + 0.1 * image(1, (25, 24))
        generated = MeanAndSpread().stylize(content, style)
        expected = (content - content.mean()) / content.std() * style.std() + style.mean()
        np.testing.assert_allclose(generated, expected, atol=1e-6)
        assert generated.std() == pytest.approx(style.std(), rel=1e-4)


class TestNyul:
    def test_equation(self):
        content, style = levels(0, 0.2, 0.6), levels(1, 0.3, 1.0, (25, 24)) ** 2
        generated = Nyul().stylize(content, style)
        percentiles = [1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99]
        c = np.percentile(content.astype(np.float64), percentiles)
        s = np.percentile(style.astype(np.float64), percentiles)
        for x, y in zip(content.ravel(), generated.ravel()):
            k = min(max(sum(x > c) - 1, 0), 9)
            expected = s[k] + (x - c[k]) * (s[k + 1] - s[k]) / (c[k + 1] - c[k])
            assert y == pytest.approx(np.clip(expected, 0, 1), abs=1e-5)

    def test_a_straight_line_is_found(self):
        """The same picture at another contrast, the outermost percent included."""
        content = levels(0, 0.2, 0.6)
        generated = Nyul().stylize(content, 0.5 * content + 0.3)
        np.testing.assert_allclose(generated, 0.5 * content + 0.3, atol=1e-6)

    def test_landmarks_that_coincide(self):
        content = np.full((20, 20), 0.4)
        content[:3], content[-3:] = 0.2, 0.6
        style = np.where(content == 0.4, 0.5, content)
        generated = Nyul().stylize(content, style)
        np.testing.assert_allclose(generated, style, atol=1e-6)
        constant = Nyul().stylize(np.full((8, 8), 0.4), style)
        np.testing.assert_allclose(
            constant, np.percentile(style, [1, *range(10, 100, 10), 99]).mean(), atol=1e-6
        )
