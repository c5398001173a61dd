"""Models on whole scans: one curve for a scan, and what they take from style scans."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

import numpy as np

from tfstyle.data import Scan, Window, read_scan, resolve_window
from tfstyle.data.dicom import read_frame
from tfstyle.data.scan import upright
from tfstyle.errors import ArgumentError, ServingError
from tfstyle.tone import ToneCurve
from tfstyle.tone.model import SLICES, ToneTransfer, confidence_of, evenly


class Stylizer(Protocol):
    """What ``tfstyle.runs.stylize.stylize_scans`` needs: a model, or a client of a served one."""

    def stylize(
        self,
        content: np.ndarray,
        style: np.ndarray | Sequence[np.ndarray],
        strength: float = 1.0,
        style_weights: Sequence[float] | None = None,
        batch_size: int = 8,
    ) -> np.ndarray:
        """See :meth:`tfstyle.StyleTransfer.stylize`."""


#: Why a scan comes out as it is, and what to do.
ONE_GRAY_SCALE = (
    "content and style have the same gray scale already; where both are in HU, give the style "
    "another window than the content's."
)


class ScanTransfer:
    """A model on the slices of one scan: a ``ToneTransfer`` by one curve, others slice by slice.

    `read` goes from slice numbers to images (S, H, W, 1) in [0, 1]. A curve is taken from up to
    ``tfstyle.tone.model.SLICES`` of them, evenly spread; those that show one gray level alone are
    left out. It depends on the scan and the styles, and on nothing else. For the other arguments
    see :meth:`tfstyle.ToneTransfer.stylize`.

    Attributes:
        confidence: How well the styles show what the scan shows, from 0 to 1; None for models
            that do not tell.
        seconds: Time in the model so far.
        changed: Whether any generated image differs from its content so far; true for strength 0,
            which shall change none.
    """

    def __init__(
        self,
        stylizer: Stylizer,
        slices: int,
        read: Callable[[Sequence[int]], np.ndarray],
        style: Any,
        strength: float = 1.0,
        style_weights: Sequence[float] | None = None,
        batch_size: int = 8,
    ):
        self.stylizer, self.style, self.style_weights = stylizer, style, style_weights
        self.strength, self.batch_size = strength, batch_size
        self.curve: ToneCurve | None = None
        self.confidence: float | None = None
        self.seconds = 0.0
        self.changed = strength == 0
        self._tone = stylizer if isinstance(stylizer, ToneTransfer) else None
        if self._tone is not None:
            images = showing(read(evenly(slices, SLICES).tolist()))
            begin = time.perf_counter()
            self.curve = self._tone.estimate(images, self.style, style_weights, one_curve=True)
            self.seconds += time.perf_counter() - begin
            self.confidence = float(confidence_of(self.curve)[0])

    def __call__(self, content: np.ndarray) -> np.ndarray:
        """Generated images like `content`, float32 (B, H, W, 1) in [0, 1]."""
        begin = time.perf_counter()
        if self._tone is not None and self.curve is not None:
            generated = self._tone.apply_curve(content, self.curve, self.strength)
        else:
            generated = self.stylizer.stylize(
                content,
                self.style,
                strength=self.strength,
                style_weights=self.style_weights,
                batch_size=self.batch_size,
            )
        self.seconds += time.perf_counter() - begin
        self.changed = self.changed or not np.allclose(generated, content, atol=1e-4)
        return generated


def encode_style(
    stylizer: Stylizer,
    path: str | os.PathLike,
    window: str | Window = "auto",
    index: int | None = None,
    series: str | None = None,
) -> tuple[np.ndarray, np.ndarray, Window]:
    """What a model takes from a style scan.

    A :class:`tfstyle.ToneTransfer` takes one code from several slices, others the code of one
    slice, or that slice itself where they have no codes. Gives the code or image, the images
    (S, H, W) in [0, 1] it is of, and their window. See :func:`style_images` for arguments and
    errors.
    """
    most = SLICES if isinstance(stylizer, ToneTransfer) else 1
    images, used = style_images(path, window, index, series, most)
    if isinstance(stylizer, ToneTransfer):
        images = showing(images)
        return stylizer.encode_style(images[..., None], one_code=True), images, used
    code = images[0]
    if (encode := getattr(stylizer, "encode_style", None)) is not None:
        try:
            code = encode(code)
        except ServingError as error:  # the served model may have been exported without codes
            if error.code not in ("FAILED_PRECONDITION", "INVALID_ARGUMENT"):
                raise
    return code, images, used


def style_images(
    path: str | os.PathLike,
    window: str | Window = "auto",
    index: int | None = None,
    series: str | None = None,
    most: int = 1,
) -> tuple[np.ndarray, Window]:
    """Slices of a scan as style images; no others are read.

    Takes the slice `index`, from 0 or negative from the end, or up to `most`, evenly spread, of
    which one is the middle one. Percentiles of a window are of the whole scan.

    Gives float32 images (S, H, W) in [0, 1], axial ones upright, and the window that made them.
    Raises an ArgumentError if there is no such slice, an InputFileError if the scan cannot be read.
    """
    scan = read_scan(path, series=series, lazy=True)
    count = len(scan)
    chosen = evenly(count, most).tolist() if index is None else [index]
    if not -count <= chosen[0] < count:
        raise ArgumentError(
            f"style_slice: {index} is not in {path}, which has {count} slices, 0 to {count - 1}."
        )
    used = resolve_window(window, scan)
    return used.to_unit(upright(scan, read_slices(scan, chosen))), used


def read_slices(scan: Scan, indices: Sequence[int], pool: Executor | None = None) -> np.ndarray:
    """Pixels (S, rows, columns) of some slices of a scan, in its units, read by `pool` if given.

    Where slices lie in files of their own, no other is read. Raises an InputFileError if one is
    damaged.
    """
    if not scan.by_slice:
        return scan.pixels[list(indices)]
    frames = [scan.frames[i] for i in indices]
    return np.stack(list((map if pool is None else pool.map)(read_frame, frames)))


def showing(images: np.ndarray) -> np.ndarray:
    """Those images of (S, …) that show more than one gray level; all of them if none does."""
    kept = [image.min() < image.max() for image in images]
    return images[kept] if any(kept) else images
