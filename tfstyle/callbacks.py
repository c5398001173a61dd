"""Keras callbacks for training runs."""

from __future__ import annotations

import os
from pathlib import Path

import keras
import numpy as np

from tfstyle.data.layouts import PICTURE
from tfstyle.data.png import write_pixels
from tfstyle.errors import ArgumentError


def image_grid(*columns: np.ndarray, gap: int = 2) -> np.ndarray:
    """Batches of images (B, H, W, 1) in [0, 1] side by side, a sample a row, uint8 (H', W', 1).

    `gap` is the width of the white lines between them. Raises an ArgumentError if shapes differ.
    """
    shapes = {np.shape(column) for column in columns}
    if len(shapes) != 1 or len(next(iter(shapes))) != 4:
        raise ArgumentError(f"columns: need one shape (B, H, W, 1), received {sorted(shapes)}.")
    stack = np.stack([np.asarray(column, np.float32) for column in columns], axis=1)
    count, width = stack.shape[:2]
    pad = ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0))
    stack = np.pad(np.clip(stack, 0, 1), pad, constant_values=1.0)
    _, _, h, w, _ = stack.shape
    grid = stack.transpose(0, 2, 1, 3, 4).reshape(count * h, width * w, 1)
    grid = grid[: count * h - gap, : width * w - gap]
    return np.round(grid * 255).astype(np.uint8)


class StyleImages(keras.callbacks.Callback):
    """Writes a grid of content, style and generated images after each epoch, a row a pair.

    Args:
        content: float array (B, H, W, 1) in [0, 1].
        style: float array (B, H, W, 1) in [0, 1].
        folder: Folder of ``epoch_0001.png``, …; made if missing.

    Raises:
        ArgumentError: if content and style differ in shape.

    Example:
        >>> model.compile(content_layers="relu1_1", style_layers="relu1_1", jit_compile=False)
        >>> grids = StyleImages(images, images, "grids")
        >>> history = model.fit(images, images, callbacks=[grids], verbose=0)
    """

    def __init__(self, content: np.ndarray, style: np.ndarray, folder: str | os.PathLike):
        super().__init__()
        if np.shape(content) != np.shape(style) or np.ndim(content) != 4:
            raise ArgumentError(
                "content and style: need the same shape (B, H, W, 1), received "
                f"{np.shape(content)} and {np.shape(style)}."
            )
        self.content = np.asarray(content, np.float32)
        self.style = np.asarray(style, np.float32)
        self.folder = Path(folder)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes the grid of this epoch."""
        generated = self.model.stylize(self.content, self.style)
        grid = image_grid(self.content, self.style, generated)
        write_pixels(grid, self.folder / f"epoch_{epoch + 1:04d}.png", PICTURE)


__all__ = ["StyleImages", "image_grid"]
