"""Gray-scale protocols: how a scanner and a workstation turn tissue into gray levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from tfstyle._private.images import number, one_of
from tfstyle.data._canvas import smoothed
from tfstyle.data.labelled import LabelledScan
from tfstyle.data.scan import Scan
from tfstyle.data.windows import Window
from tfstyle.errors import ArgumentError


@dataclass(frozen=True)
class Protocol:
    """How a scanner and a workstation turn tissue into gray levels.

    Attributes:
        window: The window.
        contrast: Factor of all HU above 0 that grows with the density: low tube voltage shows bone
            and iodine brighter (above 1), high voltage darker (below 1). Air and water stay.
        gamma: Exponent of the gray levels after the window; below 1 is brighter.
        sharpness: Of the reconstruction kernel: mm of Gaussian blur below 0, strength of edge
            enhancement above.
        noise_hu: Standard deviation of the added noise, before the kernel.
        inverted: Whether dense tissue is dark.
    """

    window: Window
    contrast: float = 1.0
    gamma: float = 1.0
    sharpness: float = 0.0
    noise_hu: float = 0.0
    inverted: bool = False

    def __post_init__(self) -> None:
        number("contrast", self.contrast, 0.1, 10)
        number("gamma", self.gamma, 0.1, 10)
        number("sharpness", self.sharpness, -20, 10)
        number("noise_hu", self.noise_hu, 0, 1000)


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "standard": Protocol(Window(40, 400)),
        "soft_smooth": Protocol(Window(50, 350), sharpness=-1.2),
        "bone_sharp": Protocol(Window(400, 1800), sharpness=1.2, noise_hu=12),
        "bone_narrow": Protocol(Window(250, 900), sharpness=0.6),
        "low_kv": Protocol(Window(90, 500), contrast=1.35, noise_hu=8),
        "high_kv": Protocol(Window(20, 450), contrast=0.8),
        "low_dose": Protocol(Window(40, 400), noise_hu=35, sharpness=-0.5),
        "bright": Protocol(Window(-20, 420), gamma=0.75),
        "dark": Protocol(Window(110, 500), gamma=1.35),
        "wide": Protocol(Window(200, 2400), gamma=0.85),
        "inverted": Protocol(Window(40, 500), inverted=True),
    }
)
"""Gray-scale protocols by name."""


def apply_protocol(
    source: LabelledScan | Scan, protocol: str | Protocol = "standard", seed: int = 0
) -> np.ndarray:
    """A scan in HU as it would look under another protocol.

    Example:
        >>> apply_protocol(tfstyle.data.spine_phantom(0, 64), "bone_sharp").shape
        (1, 64, 64, 1)

    Args:
        source: A scan in HU, perhaps with its mask, such as a phantom.
        protocol: A name in :data:`PROTOCOLS` (with '-' or '_') or a :class:`Protocol`.
        seed: Seed of the added noise.

    Returns:
        float32 array (slices, rows, columns, 1) in [0, 1].

    Raises:
        ArgumentError: If the name is unknown, the seed negative or the scan not in HU.
    """
    scan = source.scan if isinstance(source, LabelledScan) else source
    if scan.units != "HU":
        raise ArgumentError(f"{scan.name} is in units {scan.units!r}; a protocol needs HU.")
    if isinstance(protocol, str):
        name = protocol.strip().lower().replace("-", "_")
        one_of("protocol", name, PROTOCOLS)
        protocol = PROTOCOLS[name]
    if seed < 0:
        raise ArgumentError(f"seed: must not be negative, received {seed!r}.")
    images = np.empty(scan.pixels.shape, np.float32)
    spacing = scan.spacing[1:]
    for i, plane in enumerate(scan.pixels):
        hu = plane * (1 + (protocol.contrast - 1) * np.clip(plane / 150, 0, 1))
        if protocol.sharpness or protocol.noise_hu:
            rng = np.random.default_rng([int(seed), i, 0x7C])
            hu = _reconstruct(hu, spacing, protocol, rng)
        unit = protocol.window.to_unit(hu)
        if protocol.gamma != 1:
            unit = unit**protocol.gamma
        images[i] = 1 - unit if protocol.inverted else unit
    return images[..., None]


def _reconstruct(
    hu: np.ndarray, spacing: tuple[float, float], protocol: Protocol, rng: np.random.Generator
) -> np.ndarray:
    """Adds noise without long waves, and applies the kernel to both."""
    if protocol.noise_hu:
        white = rng.standard_normal(hu.shape)
        sigma = max(0.6, 0.9 * min(spacing))
        grain = smoothed(white, sigma, spacing) - smoothed(white, 1.4 * sigma, spacing)
        spread = grain.std()
        hu = hu + grain * (protocol.noise_hu / spread if spread > 0 else 0)
    if protocol.sharpness < 0:
        return smoothed(hu, -protocol.sharpness, spacing)
    # Unsharp mask with a Gaussian of 1 mm, wide enough for coarse pixels.
    return hu + protocol.sharpness * (hu - smoothed(hu, max(1.0, 0.6 * min(spacing)), spacing))
