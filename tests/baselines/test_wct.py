"""Whitening and coloring against equations 2 to 4 of Li et al. (2017), with SciPy's roots."""

import numpy as np
import pytest
from scipy.linalg import pinvh, sqrtm

from tfstyle.baselines import WCT, color, whiten

from ..models import image, small_model


def features(seed, shape, rank=None):
    """Correlated features with a mean of their own."""
    rng = np.random.default_rng(seed)
    channels = shape[-1]
    mixing = rng.normal(size=(rank or channels, channels))
    values = rng.normal(size=(*shape[:-1], rank or channels)) @ mixing + rng.normal(size=channels)
    return values.astype(np.float32)


def rows(maps):
    return np.asarray(maps, np.float64).reshape(-1, np.shape(maps)[-1])


def test_covariance_becomes_the_styles():
    content, style = features(0, (3, 14, 12, 9)), features(1, (3, 10, 17, 9))
    white = whiten(content)
    result = color(white, style)
    assert result.shape == content.shape
    for one, generated, target in zip(np.asarray(white), np.asarray(result), style):
        np.testing.assert_allclose(np.cov(rows(one).T), np.eye(9), atol=1e-8)
        np.testing.assert_allclose(rows(one).mean(0), 0, atol=1e-8)
        np.testing.assert_allclose(np.cov(rows(generated).T), np.cov(rows(target).T), atol=1e-8)
        np.testing.assert_allclose(rows(generated).mean(0), rows(target).mean(0), atol=1e-8)


def test_equations_2_and_3():
    content, style = features(2, (1, 11, 13, 6)), features(3, (1, 8, 9, 6))
    x, y = rows(content), rows(style)
    white = (x - x.mean(0)) @ np.linalg.inv(sqrtm(np.cov(x.T)).real)
    expected = white @ sqrtm(np.cov(y.T)).real + y.mean(0)
    np.testing.assert_allclose(rows(whiten(content)), white, atol=1e-7)
    np.testing.assert_allclose(rows(color(whiten(content), style)), expected, atol=1e-6)


def test_directions_without_variance_are_left_out():
    """More channels than positions, as deep maps of small images have."""
    content, style = features(4, (1, 3, 3, 20)), features(5, (1, 4, 4, 20), rank=5)
    x, y = rows(content), rows(style)
    root = sqrtm(np.cov(x.T) + 0j).real
    white = (x - x.mean(0)) @ pinvh(root, rtol=1e-6)
    np.testing.assert_allclose(rows(whiten(content)), white, atol=1e-5)
    result = rows(color(whiten(content), style))
    assert np.isfinite(result).all()
    assert np.abs(result).max() < 10 * np.abs(y).max()
    constant = np.full((1, 4, 4, 20), 0.7, np.float32)
    np.testing.assert_allclose(
        rows(color(whiten(constant), style)), np.tile(y.mean(0), (16, 1)), atol=1e-6
    )


@pytest.mark.parametrize("layer", ["relu1_2", "relu3_1"])
def test_decodes_the_blend_of_equation_4(layer):
    model = small_model(layer)
    content, style = image(0, (2, 32, 24, 1)), image(1, (1, 24, 32, 1)) * 0.6
    x, y = (np.asarray(model.encode(one)) for one in (content, style))
    colored = np.asarray(color(whiten(x), y))
    for strength in (0.0, 0.6, 1.0):
        mixed = strength * colored + (1 - strength) * x
        expected = np.clip(model.decoder(mixed.astype(np.float32)), 0, 1)
        found = WCT(model).stylize(content, style[0], strength=strength)
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_several_levels_one_after_the_other():
    deep, shallow = small_model("relu2_1"), small_model("relu1_2", seed=1)
    content, style = image(0, (24, 24)), image(1, (24, 24)) * 0.5
    first = WCT(deep).stylize(content, style, 0.8)
    expected = WCT(shallow).stylize(first, style, 0.8)
    both = WCT([deep, shallow])
    np.testing.assert_allclose(both.stylize(content, style, 0.8), expected, atol=2e-5)
