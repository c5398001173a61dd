"""Grids of images while training."""

import numpy as np
import tensorflow as tf

from tfstyle.callbacks import StyleImages, image_grid

from .models import image, small_model


def test_grid_layout():
    a, b = np.zeros((2, 3, 4, 1)), np.ones((2, 3, 4, 1)) * 0.5
    grid = image_grid(a, b, gap=1)
    assert grid.shape == (7, 9, 1)
    assert grid.dtype == np.uint8
    for part, level in ((grid[:3, :4], 0), (grid[4:, 5:], 128), (grid[3], 255), (grid[:, 4], 255)):
        assert (part == level).all()


def test_writes_png(tmp_path):
    model = small_model("relu1_1")
    model.compile(content_layers=["relu1_1"], style_layers=["relu1_1"], jit_compile=False)
    content, style = image(0, (2, 16, 16, 1)), image(1, (2, 16, 16, 1))
    data = tf.data.Dataset.from_tensors({"content": content, "style": style})
    callback = StyleImages(content, style, tmp_path / "grids")
    model.fit(data, epochs=2, verbose=0, callbacks=[callback])
    names = sorted(p.name for p in (tmp_path / "grids").iterdir())
    assert names == ["epoch_0001.png", "epoch_0002.png"]
    grid = tf.io.decode_png((tmp_path / "grids" / "epoch_0002.png").read_bytes()).numpy()
    np.testing.assert_array_equal(grid, image_grid(content, style, model.stylize(content, style)))
