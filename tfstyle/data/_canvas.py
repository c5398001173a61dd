"""A slice to paint on: HU and labels, and the distances by which shapes are given."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

LABELS: Mapping[str, int] = MappingProxyType(
    {
        "air": 0,
        "soft_tissue": 1,
        "vertebral_body": 2,
        "posterior_elements": 3,
        "canal": 4,
        "table": 5,
    }
)
"""Values of the masks. Bowel gas counts as air, discs as soft tissue."""


def smoothed(
    image: np.ndarray, sigma: float, spacing: float | tuple[float, float], mode: str = "reflect"
) -> np.ndarray:
    """An image after a Gaussian of `sigma` mm; `mode` says how it goes on beyond its borders."""
    from scipy import ndimage

    return ndimage.gaussian_filter(image, sigma / np.asarray(spacing), mode=mode)


def band_noise(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float, low: float, high: float
) -> np.ndarray:
    """Noise of unit variance with wavelengths between ``low`` and ``high`` mm."""
    white = rng.standard_normal(shape)
    # A Gaussian of this many mm for each mm of wavelength halves what is shorter, and more.
    fine, coarse = (smoothed(white, 0.225 * mm, spacing, mode="wrap") for mm in (low, high))
    field = fine - coarse
    spread = field.std()
    return field / spread if spread > 1e-9 else field


class Canvas:
    """HU and labels of one slice; shapes are painted by signed distance in mm, inside negative.

    ``x`` and ``y`` are the places of the pixels in mm; ``fine`` to ``strand`` textures of tissue.
    """

    def __init__(
        self, shape: tuple[int, int], spacing: float, center: tuple, rng: np.random.Generator
    ):
        rows, columns = shape
        self.spacing, self.rng = spacing, rng
        self.x = ((np.arange(columns) - (columns - 1) / 2) * spacing + center[0])[None]
        self.y = ((np.arange(rows) - (rows - 1) / 2) * spacing + center[1])[:, None]
        self.hu = np.full(shape, -1000.0)
        self.labels = np.zeros(shape, np.uint8)
        self.fine = band_noise(rng, shape, spacing, 1.2, 4)
        self.medium = band_noise(rng, shape, spacing, 2.5, 9)
        self.coarse = band_noise(rng, shape, spacing, 8, 40)
        self.strand = band_noise(rng, shape, spacing, 4.5, 22)

    def paint(
        self,
        distance: np.ndarray,
        hu: np.ndarray | float,
        label: str | None = None,
        opacity: float | np.ndarray = 1.0,
    ) -> None:
        """Fills where the distance is below 0, with partial volume at the border."""
        cover = np.clip(0.5 - distance / self.spacing, 0, 1) * opacity
        self.hu += cover * (hu - self.hu)
        if label is not None:
            self.labels[distance < 0] = LABELS[label]

    def scan(self, noise: float) -> np.ndarray:
        """Blurred by the scanner, with noise: int16 HU."""
        image = smoothed(self.hu, 0.55, self.spacing)
        # The noise of filtered back projection has few long waves, and the kernel no short ones.
        wave = max(3.2, 4.5 * self.spacing)
        grain = band_noise(self.rng, self.hu.shape, self.spacing, wave, 1.25 * wave)
        # More noise in the middle of the body, where fewer photons arrive.
        body = np.exp(-((self.x / 120) ** 2) - ((self.y - 10) / 95) ** 2)
        image += noise * grain * (0.55 + 0.65 * body)
        return np.clip(np.rint(image), -1024, 3071).astype(np.int16)


def ellipse(x, y, cx: float, cy: float, a: float, b: float, angle: float = 0.0) -> np.ndarray:
    """Distance to an ellipse with half axes a (along x before turning) and b, first order."""
    x, y = x - cx, y - cy
    if angle:
        c, s = np.cos(angle), np.sin(angle)
        x, y = c * x + s * y, c * y - s * x
    k0 = np.hypot(x / a, y / b)
    k1 = np.hypot(x / a**2, y / b**2)
    return k0 * (k0 - 1) / np.maximum(k1, 1e-9) - np.where(k0 < 1e-6, min(a, b), 0)


def superellipse(x, y, cx: float, cy: float, a: float, b: float, power: float) -> np.ndarray:
    """Distance to a rounded box with half axes a and b, first order."""
    u, v = np.abs(x - cx) / a, np.abs(y - cy) / b
    k = np.maximum(u**power + v**power, 1e-12) ** (1 / power)
    slope = np.hypot((u / k) ** (power - 1) / a, (v / k) ** (power - 1) / b)
    return (k - 1) / np.maximum(slope, 1e-9)


def capsule(x, y, start: tuple, end: tuple, r0: float, r1: float) -> np.ndarray:
    """Distance to a thick line whose radius goes from r0 to r1."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = ((x - start[0]) * dx + (y - start[1]) * dy) / max(dx * dx + dy * dy, 1e-9)
    along = np.clip(along, 0, 1)
    away = np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)
    return away - (r0 + along * (r1 - r0))


def union(first: np.ndarray, second: np.ndarray, blend: float) -> np.ndarray:
    """Smooth minimum of two distances, rounding the seam over ``blend`` mm."""
    h = np.maximum(blend - np.abs(first - second), 0) / blend
    return np.minimum(first, second) - h * h * blend / 4
