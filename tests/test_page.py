from __future__ import annotations

import base64
import re

import numpy as np
import tensorflow as tf

from tfstyle.experiments import page


def test_image_holds_its_pixels():
    unit = np.linspace(0, 1, 12).reshape(3, 4)
    html = page.image(unit, "A <b>", "caption & more")
    assert "A &lt;b&gt;" in html
    assert "caption &amp; more" in html
    data = base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])
    np.testing.assert_array_equal(
        tf.io.decode_png(data).numpy()[..., 0], np.rint(unit * 255).astype(np.uint8)
    )


def test_table_escapes_and_aligns():
    html = page.table(["<x>", "n"], [["a&b", 1.5]], numbers=(1,))
    assert "<th>&lt;x&gt;</th>" in html
    assert '<td class="n">1.5</td>' in html
    assert "a&amp;b" in html


def test_histograms_draw_one_line_an_image():
    html = page.histograms({"One": np.zeros((4, 4)), "Two": np.full((4, 4), 1.0)}, bins=8)
    lines = re.findall(r'points="([^"]+)"', html)
    assert len(lines) == 2
    heights = [[float(point.split(",")[1]) for point in line.split()] for line in lines]
    assert np.argmin(heights[0]) == 0  # all black: the peak is on the left
    assert np.argmin(heights[1]) == 7


def test_grid_keeps_shape_and_place():
    wide, square = np.full((2, 4), 0.5), np.ones((3, 3))
    canvas = page.grid([[wide, square]], side=8, gap=2)
    assert canvas.shape == (8, 18)
    np.testing.assert_array_equal(canvas[2:6, :8], 0.5)
    np.testing.assert_array_equal(canvas[:2, :8], 0)
    np.testing.assert_array_equal(canvas[:, 8:10], 1)
    np.testing.assert_array_equal(canvas[:, 10:], 1)


def test_grid_scales_by_whole_pixels():
    unit = np.arange(4.0).reshape(2, 2) / 4
    np.testing.assert_array_equal(page.grid([[unit]], side=4), np.kron(unit, np.ones((2, 2))))


def test_page_loads_nothing():
    html = page.page("T & t", "<p>x</p>")
    assert html.startswith("<!doctype html>")
    assert "<title>T &amp; t</title>" in html
    assert not re.search(r"(src|href)\s*=|url\(|@import", html)
