"""The guided mode's tone grids: own pixels alone, exact identity, no invented structure."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfstyle.errors import ArgumentError
from tfstyle.layers import (
    apply_tone_grid,
    fit_tone_grid,
    gray_levels,
    match_levels,
    reduce_size,
    smooth_slices,
)
from tfstyle.layers.guided import (
    LARGEST_BEND,
    LARGEST_GAIN,
    LEVELS,
    ROUNDS,
    SAMPLE,
    SHARES,
    slice_reach,
)
from tfstyle.metrics import histogram_distance

from ..models import image


def run(content, generated, full=None, **options):
    grid = fit_tone_grid(content, generated, **options)
    return np.asarray(apply_tone_grid(content if full is None else full, grid))


class TestReduce:
    @pytest.mark.parametrize("shape", [(1, 512, 400, 1), (2, 37, 300, 1), (1, 1, 900, 1)])
    def test_longest_side_and_mean(self, shape):
        x = image(0, shape)
        small = np.asarray(reduce_size(x, 64))
        assert max(small.shape[1:3]) == 64
        np.testing.assert_allclose(small.mean((1, 2)), x.mean((1, 2)), atol=1e-5)

    def test_whole_factor_is_the_mean_of_blocks(self):
        x = image(1, (2, 24, 24, 1))
        expected = x.reshape(2, 8, 3, 8, 3, 1).mean((2, 4))
        np.testing.assert_allclose(reduce_size(x, 8), expected, atol=1e-6)

    def test_small_images_stay(self):
        x = image(2, (1, 20, 31, 1))
        np.testing.assert_array_equal(reduce_size(x, 31), x)
        images = tf.TensorSpec((None, None, None, 1), tf.float32)
        traced = tf.function(lambda y: reduce_size(y, 31), input_signature=[images])
        np.testing.assert_allclose(traced(x), x, atol=1e-6)

    def test_bad_size(self):
        with pytest.raises(ArgumentError, match="longest"):
            reduce_size(image(0, (1, 4, 4, 1)), 0)


class TestTone:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3), (40, 40), (37, 61)])
    @pytest.mark.parametrize("monotone", [True, False])
    def test_identity(self, shape, monotone):
        x = image(0, (2, *shape, 1))
        np.testing.assert_allclose(run(x, x, monotone=monotone), x, atol=1e-5)

    @pytest.mark.parametrize(("a", "b"), [(0.5, 0.3), (1.6, -0.2), (0.0, 0.4)])
    def test_affine_maps(self, a, b):
        x = np.random.default_rng(1).uniform(0.2, 0.7, (1, 80, 64, 1)).astype(np.float32)
        np.testing.assert_allclose(run(x, a * x + b), a * x + b, atol=0.01)

    def test_is_a_function_of_the_own_pixel(self):
        content, generated = image(2, (1, 48, 40, 1)), image(3, (1, 48, 40, 1))
        grid = fit_tone_grid(content, generated)
        before = np.asarray(apply_tone_grid(content, grid))
        changed = content.copy()
        changed[0, 17, 21, 0] = 1 - changed[0, 17, 21, 0]
        after = np.asarray(apply_tone_grid(changed, grid))
        different = np.argwhere(np.abs(after - before) > 0)
        assert len(different) <= 1
        assert (different[:, 1:3] == (17, 21)).all()

    def test_constant_image(self):
        for level in (0.0, 0.37, 1.0):
            x = np.full((1, 30, 30, 1), level, np.float32)
            np.testing.assert_allclose(run(x, np.full_like(x, 0.6)), 0.6, atol=1e-3)

    def test_no_structure_where_the_content_is_flat(self):
        x = np.full((1, 120, 120, 1), 0.43, np.float32)
        board = (np.indices((120, 120)).sum(0) % 2).astype(np.float32)[None, ..., None]
        y = run(x, board)
        assert np.abs(np.diff(y, axis=1)).max() < 2e-3
        assert np.abs(np.diff(y, axis=2)).max() < 2e-3

    def test_rising_curves(self):
        content = np.random.default_rng(4).random((1, 64, 64, 1)).astype(np.float32)
        grid = np.asarray(fit_tone_grid(content, 1 - content))
        curves = grid + np.linspace(0, 1, LEVELS)[None, :, None, None]
        assert np.diff(curves, axis=1).min() >= -1e-6
        falling = np.asarray(fit_tone_grid(content, 1 - content, monotone=False))
        curves = falling + np.linspace(0, 1, LEVELS)[None, :, None, None]
        assert np.diff(curves, axis=1).max() < 0.01

    def test_follows_a_change_over_the_image(self):
        x = np.random.default_rng(5).uniform(0.1, 0.6, (1, 96, 96, 1)).astype(np.float32)
        ramp = np.linspace(0, 0.3, 96, dtype=np.float32)[None, None, :, None]
        local, one = (run(x, x + ramp, cells=c, pull=0.01) for c in (12, 1))
        assert np.abs(local - x - ramp).mean() < 0.03 < np.abs(one - x - ramp).mean()

    def test_batch_equals_single(self):
        content, generated = image(6, (3, 33, 47, 1)), image(7, (3, 33, 47, 1))
        batch = run(content, generated)
        for i in range(3):
            one = run(content[i : i + 1], generated[i : i + 1])
            np.testing.assert_allclose(batch[i : i + 1], one, atol=1e-5)

    def test_sixteen_bits_stay_distinct(self):
        levels = (np.arange(2**16) / (2**16 - 1)).astype(np.float32).reshape(1, 256, 256, 1)
        small = image(8, (1, 64, 64, 1))
        y = run(small, 0.2 + 0.5 * small, full=levels, cells=1).ravel()
        assert (np.diff(y) > 0).all()

    def test_traced_and_compiled(self):
        content, generated = image(9, (2, 40, 31, 1)), image(10, (2, 40, 31, 1))
        expected = run(content, generated)
        images = tf.TensorSpec((None, None, None, 1), tf.float32)

        def both(x, g):
            return apply_tone_grid(x, fit_tone_grid(x, g))

        traced = tf.function(both, input_signature=(images, images))
        np.testing.assert_allclose(traced(content, generated), expected, atol=1e-5)
        compiled = tf.function(both, jit_compile=True)
        np.testing.assert_allclose(compiled(content, generated), expected, atol=1e-5)

    @pytest.mark.parametrize("options", [{"cells": 0}, {"levels": 1}])
    def test_bad_options(self, options):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            fit_tone_grid(image(0, (1, 8, 8, 1)), image(1, (1, 8, 8, 1)), **options)


class TestSlices:
    def test_smooths_along_slices(self):
        grid = np.random.default_rng(0).normal(size=(9, 4, 3, 3)).astype(np.float32)
        smooth = np.asarray(smooth_slices(grid, 1.0))
        assert np.abs(np.diff(smooth, axis=0)).mean() < 0.5 * np.abs(np.diff(grid, axis=0)).mean()
        np.testing.assert_array_equal(smooth_slices(grid, 0.0), grid)
        np.testing.assert_allclose(smooth_slices(np.ones_like(grid), 2.0), 1, atol=1e-6)

    def test_reach(self):
        grid = np.zeros((21, 2, 1, 1), np.float32)
        grid[10] = 1
        smooth = np.asarray(smooth_slices(grid, 1.5))[:, 0, 0, 0]
        assert np.flatnonzero(smooth).min() == 10 - slice_reach(1.5)

    def test_bad_sigma(self):
        with pytest.raises(ArgumentError, match="sigma"):
            smooth_slices(np.zeros((2, 2, 1, 1), np.float32), -1.0)


class TestLevels:
    @pytest.mark.parametrize("shape", [(2, 96, 96, 1), (1, 7, 300, 1), (1, 1, 1, 1)])
    def test_they_are_the_histogram(self, shape):
        x = np.random.default_rng(0).random(shape).astype(np.float32)
        found = np.asarray(gray_levels(x))
        assert found.shape == (shape[0], SHARES)
        assert (np.diff(found) >= 0).all()
        if shape[1:3] == (SAMPLE, SAMPLE):
            expected = np.sort(x.reshape(shape[0], -1)).reshape(shape[0], SHARES, -1)
            np.testing.assert_allclose(found, expected.mean(2), atol=1e-6)
        else:
            assert abs(found.mean() - x.mean()) < 0.05

    def test_traced_with_unknown_size(self):
        images = tf.TensorSpec((None, None, None, 1), tf.float32)
        traced = tf.function(gray_levels, input_signature=[images])
        x = image(1, (2, 130, 77, 1))
        np.testing.assert_allclose(traced(x), gray_levels(x), atol=1e-6)

    def test_own_levels_change_nothing(self):
        x = np.random.default_rng(2).random((2, 60, 70, 1)).astype(np.float32)
        grid = fit_tone_grid(x, x)
        matched = match_levels(grid, x, gray_levels(x))
        np.testing.assert_allclose(apply_tone_grid(x, matched), x, atol=2e-3)

    def test_histogram_of_the_style_is_reached(self):
        x = np.random.default_rng(3).uniform(0.2, 0.8, (2, 90, 90, 1)).astype(np.float32)
        style = 0.25 + 0.7 * x[:1] ** 1.3
        matched = match_levels(fit_tone_grid(x, x), x, gray_levels(style))
        for one in np.asarray(apply_tone_grid(x, matched)):
            assert histogram_distance(one, style) < 0.05 * histogram_distance(x[0], style)

    def test_slopes_are_bounded_and_rise(self):
        x = np.random.default_rng(4).random((1, 96, 96, 1)).astype(np.float32)
        style = np.where(x > 0.5, 1.0, 0.0)  # asks for a step
        grid = match_levels(fit_tone_grid(x, x), x, gray_levels(style))
        curve = np.asarray(grid)[0].transpose(1, 2, 0) + np.linspace(0, 1, LEVELS)
        slopes = np.diff(curve) * (LEVELS - 1)
        limit = (LARGEST_GAIN * LARGEST_BEND) ** ROUNDS
        assert slopes.min() >= 1 / limit - 1e-4
        assert 1.5 < slopes.max() <= limit + 1e-4

    @pytest.mark.parametrize("strength", [0.0, np.zeros((2, 1, 1, 1), np.float32)])
    def test_strength_keeps_the_content(self, strength):
        x = np.random.default_rng(5).random((2, 50, 50, 1)).astype(np.float32)
        grid = match_levels(fit_tone_grid(x, x), x, gray_levels(0.5 * x[:1]), strength)
        np.testing.assert_allclose(apply_tone_grid(x, grid), x, atol=2e-3)

    def test_flat_images_stay_finite(self):
        flat = np.full((1, 20, 20, 1), 0.3, np.float32)
        for style in (flat, np.zeros_like(flat), image(6, (1, 30, 30, 1))):
            grid = match_levels(fit_tone_grid(flat, flat), flat, gray_levels(style))
            assert np.isfinite(np.asarray(grid)).all()
            np.testing.assert_allclose(
                apply_tone_grid(flat, grid).numpy().mean(), style.mean(), atol=0.02
            )
