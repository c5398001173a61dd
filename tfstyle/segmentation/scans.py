"""Segmentation of whole scans: from a scan to labels on its grid."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import nibabel as nib
import numpy as np
import tensorflow as tf

from tfstyle import presets
from tfstyle._private.images import check_batch_size
from tfstyle._private.keras_files import load_model
from tfstyle.data import Scan, Window, read_scan, resolve_window
from tfstyle.encoders.weights import load_npz
from tfstyle.errors import ArgumentError, WeightsError
from tfstyle.segmentation.unet import UNet
from tfstyle.stylizers import ScanTransfer, encode_style
from tfstyle.tone import ToneTransfer
from tfstyle.tone.model import LOW_CONFIDENCE

log = logging.getLogger(__name__)

#: The preset that is meant where none is named.
DEFAULT = "unet_spine"
#: In the folder of a preset: the style code of the gray scale that it was trained on.
STYLE_CODE = "style_code.npz"
#: Images are extended to multiples of it for models that do not say what they take.
STRIDE = 32
_SCAN_AXES = nib.orientations.axcodes2ornt(("S", "P", "L"))


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A segmentation model, and what it wants of a scan.

    Slices are turned to axial ones in radiological orientation, brought to the pixel spacing and
    the gray scale that the model was trained on, and segmented one by one; the scores go back to
    the scan's own grid, where the most probable class is taken.

    Attributes:
        model: A :class:`UNet`, or any Keras model from images (B, H, W, 1) in [0, 1] to scores
            (B, H, W, classes) of at least 2 classes, or to the probability (B, H, W, 1) of one.
        window: Window of scans in HU, see :func:`tfstyle.data.resolve_window`. Scans of other units
            get ``"auto"``.
        spacing_mm: Pixel spacing that the model wants; None leaves the scan's.
        labels: Names of the classes from 1 on.
        style: Style code of the gray scale that the model was trained on, of :attr:`tone`; or None.
        tone: The tone transfer that harmonizes; or None.
        name: Name of the model.

    Example:
        >>> segmenter = Segmenter.open("unet_spine")
        >>> labels = segmenter(tfstyle.data.read_scan("ct/"))      # uint8 (slices, rows, columns)
    """

    model: keras.Model
    window: str | Window = "auto"
    spacing_mm: float | None = None
    labels: Mapping[int, str] = field(default_factory=dict)
    style: np.ndarray | None = None
    tone: ToneTransfer | None = None
    name: str = "model"

    def __post_init__(self) -> None:
        spacing = self.spacing_mm
        if spacing is not None and not (np.isfinite(spacing) and spacing > 0):
            raise ArgumentError(f"spacing_mm: must be above 0, received {spacing!r}.")

    @classmethod
    def open(
        cls,
        source: str | os.PathLike = DEFAULT,
        *,
        reference: str | os.PathLike | None = None,
        window: str | Window | None = None,
        spacing_mm: float | None = None,
    ) -> Segmenter:
        """Loads a model with what its card says of the input.

        Args:
            source: Name of a preset of :class:`UNet`, its folder, or a ``.keras`` file of any
                model that takes one gray image.
            reference: A scan in the gray scale that the model was trained on, to harmonize to.
                Defaults to what the preset keeps.
            window: Window of scans in HU. Defaults to that of the preset, or ``"auto"``.
            spacing_mm: Pixel spacing the model wants. Defaults to that of the preset, or the
                scan's.

        Raises:
            InputFileError: a ``.keras`` file or a reference that cannot be read.
            WeightsError: no such preset, or one that does not segment.
            ArgumentError: a model that does not take one gray image.
        """
        given: dict[str, Any] = {}
        if str(source).endswith(".keras"):
            model = load_model(source, keras.Model)
        else:
            model = presets.load(source, UNet)
            given = presets.card(source).get("input", {})
        _check_model(model)
        own = Window(*given["window"]) if "window" in given else "auto"
        segmenter = cls(
            model,
            own if window is None else window,
            given.get("spacing_mm") if spacing_mm is None else spacing_mm,
            {int(number): name for number, name in given.get("labels", {}).items()},
            name=Path(source).stem,
        )
        if reference is not None:
            tone = ToneTransfer.from_preset()
            hounsfield = read_scan(reference, lazy=True).units == "HU"
            code, _, _ = encode_style(tone, reference, segmenter.window if hounsfield else "auto")
            return replace(segmenter, tone=tone, style=code)
        file = None if str(source).endswith(".keras") else presets.folder(source) / STYLE_CODE
        if file is None or not file.is_file():
            return segmenter
        tone, kept = ToneTransfer.from_preset(), load_npz(file).get("code")
        if kept is None or kept.shape != (1, *tone.code_shape):
            raise WeightsError(f"{file}: holds no style code of {presets.DEFAULT}.")
        if given.get("style_model") != tone.fingerprint():
            raise WeightsError(
                f"{file}: was made by another version of {presets.DEFAULT}; make it again with "
                "scripts/train_unet.py, or give a reference."
            )
        return replace(segmenter, tone=tone, style=kept.astype(np.float32))

    @cached_property
    def digest(self) -> str:
        """Tells what this segments from what others do."""
        found = hashlib.sha256(repr((str(self.window), self.spacing_mm)).encode())
        arrays = [*self.model.get_weights(), *([] if self.style is None else [self.style])]
        for array in arrays:
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def harmonizes(self, scan: Scan, harmonize: bool | None = None) -> bool:
        """Whether a scan is harmonized; see :meth:`__call__`.

        Raises:
            ArgumentError: if it is to be, and nothing says to which gray scale.
        """
        if harmonize and self.style is None:
            raise ArgumentError(
                f"harmonize: {self.name} keeps no style; give a reference, a scan in the gray "
                "scale that it was trained on."
            )
        if harmonize is None:
            return self.style is not None and scan.units != "HU"
        return harmonize

    def __call__(
        self, scan: Scan, *, harmonize: bool | None = None, batch_size: int = 8
    ) -> np.ndarray:
        """Segments a scan: uint8 labels of its shape, 0 for background.

        Args:
            scan: The scan; all of it is read.
            harmonize: Whether the gray scale is brought to that of the training by the tone
                transfer, one curve for the scan. Defaults to doing so where the scan is not in
                HU: for HU the window does the same exactly.
            batch_size: Slices a call of the model.

        Raises an ArgumentError for a window or a model that does not suit the scan, an
        InputFileError for a damaged file of it.
        """
        return self.segment(scan, harmonize, batch_size)[0]

    def segment(
        self, scan: Scan, harmonize: bool | None = None, batch_size: int = 8
    ) -> tuple[np.ndarray, Window, float | None]:
        """:meth:`__call__`, with the window used and the confidence of the harmonization."""
        check_batch_size(batch_size)
        harmonized = self.harmonizes(scan, harmonize)
        window = resolve_window(self.window if scan.units == "HU" else "auto", scan)
        turn, back = _turns(scan)
        pixels = nib.orientations.apply_orientation(scan.pixels, turn)
        spacing = np.empty(3)
        spacing[turn[:, 0].astype(int)] = scan.spacing
        shape = pixels.shape[1:]
        if self.spacing_mm is not None and scan.units != "gray":
            shape = tuple(
                max(1, round(n * s / self.spacing_mm)) for n, s in zip(shape, spacing[1:])
            )
        parts = [slice(i, i + batch_size) for i in range(0, len(pixels), batch_size)]
        gray = np.concatenate(
            [window.to_unit(_resized(pixels[part, ..., None], shape)) for part in parts]
        )
        confidence = None
        if harmonized and self.tone is not None:
            transfer = ScanTransfer(self.tone, len(gray), lambda which: gray[which], self.style)
            gray, confidence = transfer(gray), transfer.confidence
            if confidence is not None and confidence < LOW_CONFIDENCE:
                log.warning(
                    "%s: harmonized with low confidence (%.2f): it shows little that is comparable "
                    "with the scan that the model was trained on; do not rely on the mask.",
                    scan.name,
                    confidence,
                )
        labels = np.empty(pixels.shape, np.uint8)
        for part in parts:
            scores = _resized(self._scores(gray[part]), pixels.shape[1:])
            several = scores.shape[-1] > 1
            labels[part] = np.argmax(scores, -1) if several else scores[..., 0] >= 0.5
        labels = np.ascontiguousarray(nib.orientations.apply_orientation(labels, back))
        return labels, window, confidence

    def _scores(self, images: np.ndarray) -> np.ndarray:
        """Scores (B, H, W, classes) of images (B, H, W, 1)."""
        rows, columns = images.shape[1:3]
        if not isinstance(self.model, UNet):
            size = [-(-n // STRIDE) * STRIDE for n in (rows, columns)]
            fixed = self.model.input_shape[1:3]
            size = [own or extended for own, extended in zip(fixed, size)]
            if size[0] < rows or size[1] < columns:
                raise ArgumentError(
                    f"model: takes images of {size[0]} x {size[1]} pixels, but slices have {rows} "
                    f"x {columns}; give the pixel spacing that it was trained on."
                )
            images = np.pad(images, [(0, 0), (0, size[0] - rows), (0, size[1] - columns), (0, 0)])
        scores = np.asarray(self.model.predict_on_batch(images), np.float32)
        if scores.ndim != 4 or scores.shape[:3] != images.shape[:3] or scores.shape[3] > 256:
            raise ArgumentError(
                f"model: must give (B, H, W, classes) of the images' size and at most 256 classes, "
                f"received {scores.shape} for {images.shape}."
            )
        if not np.isfinite(scores).all():
            raise ArgumentError("model: gives NaN or infinite values.")
        if scores.shape[3] == 1 and not 0 <= scores.min() <= scores.max() <= 1:
            raise ArgumentError(
                "model: one channel must be a probability in [0, 1]; end it with a sigmoid."
            )
        return scores[:, :rows, :columns]


def _check_model(model: keras.Model) -> None:
    """Refuses models that do not take one gray image."""
    if isinstance(model, UNet):
        return
    shape = getattr(model, "input_shape", None)
    if isinstance(model, presets.PresetModel) or not (
        isinstance(shape, tuple) and len(shape) == 4 and shape[3] in (1, None)
    ):
        raise ArgumentError(
            "model: must take gray images (B, H, W, 1), as a U-Net does, received a "
            f"{type(model).__name__} for {shape}."
        )


def _turns(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """What turns axes to slices upward, rows to the back, columns to the left; and back again."""
    own = _SCAN_AXES
    if scan.affine is not None:
        own = nib.orientations.io_orientation(np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine)
        if not np.isfinite(own).all():
            own = _SCAN_AXES
    turn = nib.orientations.ornt_transform
    return turn(own, _SCAN_AXES), turn(_SCAN_AXES, own)


def _resized(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Images (B, H, W, C) bilinear, over all pixels that an output pixel covers; float32."""
    images = np.asarray(images, np.float32)
    if images.shape[1:3] == tuple(shape):
        return images
    return tf.image.resize(images, shape, antialias=True).numpy()
