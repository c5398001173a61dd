"""Tone curves: monotone, straight beyond their ends, applied through a table."""

import numpy as np

from tfstyle.tone.curve import ToneCurve, apply_curve, evaluate, look_up, rising, tabulate


def curve(levels, values):
    levels, values = (np.asarray([x], np.float32) for x in (levels, values))
    return ToneCurve(levels, values, np.zeros_like(values), *[np.zeros((1, 1), np.float32)] * 3)


def test_rising_is_between_the_curves_below_and_above():
    values = np.array([[0.1, 0.5, 0.3, 0.4, 0.9], [5, 4, 3, 2, 1]], np.float32)
    found = np.asarray(rising(values))
    assert (np.diff(found, axis=1) >= 0).all()
    np.testing.assert_allclose(found[0], [0.1, 0.4, 0.4, 0.45, 0.9], atol=1e-6)
    np.testing.assert_allclose(found[1], 3.0)
    np.testing.assert_allclose(rising(found), found)


def test_evaluate_is_piecewise_linear():
    levels = np.array([[0.0, 0.2, 0.5, 0.9, 1.0]], np.float32)
    values = np.array([[0.1, 0.1, 0.4, 0.8, 0.8]], np.float32)
    x = np.linspace(0, 1, 101, dtype=np.float32)[None]
    np.testing.assert_allclose(
        evaluate(levels, values, x), [np.interp(x[0], levels[0], values[0])], atol=1e-6
    )


def test_beyond_the_ends_it_goes_on_with_its_slope():
    levels = np.linspace(0.4, 0.6, 9, dtype=np.float32)[None]
    values = 2 * levels - 0.3
    x = np.array([[0.0, 0.1, 0.9, 1.0]], np.float32)
    np.testing.assert_allclose(evaluate(levels, values, x), 2 * x - 0.3, atol=1e-5)


def test_table_is_clipped_and_looked_up_between_its_entries():
    one = curve(np.linspace(0.2, 0.8, 9), 3 * np.linspace(0.2, 0.8, 9) - 1)
    table = tabulate(one)
    x = np.random.default_rng(0).random((1, 7, 9, 1), dtype=np.float32)
    np.testing.assert_allclose(look_up(x, table), np.clip(3 * x - 1, 0, 1), atol=2e-3)


def test_arrays_as_in_graphs():
    rng = np.random.default_rng(0)
    levels = np.sort(rng.uniform(0.1, 0.8, (2, 16)), axis=1).astype(np.float32)
    values = np.sort(rng.uniform(-0.2, 1.2, (2, 16)), axis=1).astype(np.float32)
    two = ToneCurve(levels, values, 0 * values, *[np.zeros((2, 1), np.float32)] * 3)
    x = rng.random((2, 20, 30, 1), dtype=np.float32)
    for strength in (1.0, 0.4):
        found = apply_curve(x, two, strength)
        np.testing.assert_allclose(found, look_up(x, tabulate(two), strength), atol=1e-4)
    one = ToneCurve(*[part[:1] for part in two])
    np.testing.assert_array_equal(apply_curve(x, one)[0], apply_curve(x, two)[0])
