"""Synthetic axial CT of the lumbar spine in HU with exact masks, and gray-scale protocols.

Everything is drawn by formula from a seed: a body on a table, with skin, fat, muscle, vessels,
kidneys, bowel, and a lumbar vertebra with cortical shell, trabecular texture, pedicles, laminae,
transverse, articular and spinous processes round the spinal canal. No data are needed or used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from tfstyle.data.scan import Scan
from tfstyle.data.windows import Window
from tfstyle.errors import ArgumentError

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

_LEVEL = 36.0  # mm from one vertebra to the next


@dataclass(frozen=True, eq=False)
class Phantom:
    """A phantom scan with its mask.

    Attributes:
        scan: The scan in HU.
        mask: uint8 (slices, rows, columns), values of :data:`LABELS`, on the grid of the scan: the
            label of the structure at each pixel's centre, before blur and noise.
    """

    scan: Scan
    mask: np.ndarray


def spine_phantom(
    seed: int,
    size: int | tuple[int, int] = 256,
    *,
    spacing_mm: float | None = None,
    slices: int = 1,
    slice_spacing_mm: float = 3.0,
    noise_hu: float | None = None,
) -> Phantom:
    """Draws a phantom of an axial CT slice, or a stack of slices, of the lumbar spine.

    Example:
        >>> phantom = spine_phantom(seed=1, size=128)
        >>> phantom.scan.pixels.shape, phantom.mask.shape
        ((1, 128, 128), (1, 128, 128))
        >>> vertebra = phantom.mask == LABELS["vertebral_body"]

    Args:
        seed: Decides anatomy, position, contrast agent, texture and noise.
        size: Rows and columns, one number for square slices, at least 16.
        spacing_mm: Pixel spacing; drawn so that the body fits the field of view unless given.
        slices: Number of slices, upward. A single slice passes through the pedicles; stacks pass
            through vertebrae and discs.
        slice_spacing_mm: Distance between slices.
        noise_hu: Standard deviation of the noise; drawn from 6 to 18 unless given.

    Returns:
        The phantom: HU from -1024, int16, and the mask.

    Raises:
        ArgumentError: If a number is out of its range.
    """
    rows, columns = (size, size) if isinstance(size, (int, np.integer)) else size
    if min(rows, columns) < 16 or max(rows, columns) > 4096:
        raise ArgumentError(f"size must lie in 16 to 4096. Received {size!r}.")
    if slices < 1:
        raise ArgumentError(f"slices must be at least 1. Received {slices!r}.")
    for name, value in (("spacing_mm", spacing_mm), ("slice_spacing_mm", slice_spacing_mm)):
        if value is not None and not 0.05 <= value <= 50:
            raise ArgumentError(f"{name} must lie in 0.05 to 50 mm. Received {value!r}.")
    if noise_hu is not None and not 0 <= noise_hu <= 500:
        raise ArgumentError(f"noise_hu must lie in 0 to 500. Received {noise_hu!r}.")
    if seed < 0:
        raise ArgumentError(f"seed must not be negative. Received {seed!r}.")
    rng = np.random.default_rng([int(seed), 0x51])
    body = _Body(rng)
    view = 2 * max(body.width, body.height + 12) * rng.uniform(1.06, 1.22) / min(rows, columns)
    drawn_noise = rng.uniform(6, 18)
    spacing = float(view if spacing_mm is None else spacing_mm)
    noise = float(drawn_noise if noise_hu is None else noise_hu)
    centre = rng.uniform(-8, 8), rng.uniform(-6, 6) + 10
    start = rng.uniform(0.2, 0.5) * _LEVEL
    pixels = np.empty((slices, rows, columns), np.int16)
    mask = np.empty((slices, rows, columns), np.uint8)
    for number in range(slices):
        canvas = _Canvas(rows, columns, spacing, centre, np.random.default_rng([int(seed), number]))
        body.draw(canvas, start + number * slice_spacing_mm)
        pixels[number] = canvas.scan(noise)
        mask[number] = canvas.labels
    affine = np.diag([slice_spacing_mm, spacing, spacing, 1.0])[[2, 1, 0, 3]]
    affine[:3, 3] = centre[0] - (columns - 1) / 2 * spacing, centre[1] - (rows - 1) / 2 * spacing, 0
    mask.setflags(write=False)
    scan = Scan(
        pixels=pixels,
        spacing=(float(slice_spacing_mm), spacing, spacing),
        units="HU",
        name=f"phantom-{seed}",
        affine=affine,
    )
    return Phantom(scan, mask)


# ---------------------------------------------------------------------------------------------
# Protocols


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
        noise_hu: Standard deviation of the added noise.
        inverted: Whether dense tissue is dark.
    """

    window: Window
    contrast: float = 1.0
    gamma: float = 1.0
    sharpness: float = 0.0
    noise_hu: float = 0.0
    inverted: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("contrast", 0.1, 10),
            ("gamma", 0.1, 10),
            ("sharpness", -20, 10),
            ("noise_hu", 0, 1000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ArgumentError(f"{name} must lie in {low} to {high}. Received {value!r}.")


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
    source: Phantom | Scan, protocol: str | Protocol = "standard", seed: int = 0
) -> np.ndarray:
    """A scan in HU as it would look under another protocol.

    Example:
        >>> image = apply_protocol(spine_phantom(0, 64), "bone_sharp")
        >>> image.shape
        (1, 64, 64, 1)

    Args:
        source: A phantom or a scan in HU.
        protocol: A name in :data:`PROTOCOLS` (with '-' or '_') or a :class:`Protocol`.
        seed: Seed of the added noise.

    Returns:
        float32 array (slices, rows, columns, 1) in [0, 1].

    Raises:
        ArgumentError: If the name is unknown, the seed negative or the scan not in HU.
    """
    scan = source.scan if isinstance(source, Phantom) else source
    if scan.units != "HU":
        raise ArgumentError(f"{scan.name} is in units {scan.units!r}; a protocol needs HU.")
    if isinstance(protocol, str):
        name = protocol.strip().lower().replace("-", "_")
        if name not in PROTOCOLS:
            raise ArgumentError(
                f"Unknown protocol {protocol!r}. Use one of {', '.join(sorted(PROTOCOLS))}."
            )
        protocol = PROTOCOLS[name]
    if seed < 0:
        raise ArgumentError(f"seed must not be negative. Received {seed!r}.")
    images = np.empty(scan.pixels.shape, np.float32)
    spacing = scan.spacing[1:]
    for number, plane in enumerate(scan.pixels):
        hu = plane.astype(np.float64)
        hu = np.where(hu > 0, hu * (1 + (protocol.contrast - 1) * np.minimum(hu / 150, 1)), hu)
        if protocol.sharpness or protocol.noise_hu:
            rng = np.random.default_rng([int(seed), number, 0x7C])
            hu = _reconstruct(hu, spacing, protocol, rng)
        unit = protocol.window.to_unit(hu)
        if protocol.gamma != 1:
            unit = unit**protocol.gamma
        images[number] = 1 - unit if protocol.inverted else unit
    return images[..., None]


def _reconstruct(
    hu: np.ndarray, spacing: tuple[float, float], protocol: Protocol, rng: np.random.Generator
) -> np.ndarray:
    """Applies the kernel and adds noise that has passed through it, with mirrored borders."""
    rows, columns = hu.shape
    margin = min(16, rows), min(16, columns)
    image = np.pad(hu, [(m, m) for m in margin], mode="symmetric")
    fy = np.fft.fftfreq(image.shape[0], spacing[0])[:, None]
    fx = np.fft.rfftfreq(image.shape[1], spacing[1])[None]
    f2 = fy**2 + fx**2
    if protocol.sharpness < 0:
        gain = np.exp(-2 * np.pi**2 * protocol.sharpness**2 * f2)
    else:  # unsharp mask with a Gaussian of 1 mm
        gain = 1 + protocol.sharpness * (1 - np.exp(-2 * np.pi**2 * f2))
    spectrum = np.fft.rfft2(image) * gain
    if protocol.noise_hu:
        grain = np.fft.rfft2(rng.standard_normal(image.shape)) * np.sqrt(f2) * np.exp(-f2 / 0.15)
        grain = np.fft.irfft2(grain, image.shape)
        spread = grain.std()
        grain *= protocol.noise_hu / spread if spread > 0 else 0
        spectrum += np.fft.rfft2(grain)
    image = np.fft.irfft2(spectrum, image.shape)
    return image[margin[0] : margin[0] + rows, margin[1] : margin[1] + columns]


# ---------------------------------------------------------------------------------------------
# Drawing


def _band_noise(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float, low: float, high: float
) -> np.ndarray:
    """Noise of unit variance with wavelengths between ``low`` and ``high`` mm."""
    fy = np.fft.fftfreq(shape[0], spacing)[:, None]
    fx = np.fft.rfftfreq(shape[1], spacing)[None]
    f = np.sqrt(fy**2 + fx**2)
    gain = np.exp(-((f * low) ** 2)) - np.exp(-((f * high) ** 2))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * gain, shape)
    spread = field.std()
    return field / spread if spread > 1e-9 else field


class _Canvas:
    """HU and labels of one slice; shapes are painted by signed distance in mm, inside negative."""

    def __init__(
        self,
        rows: int,
        columns: int,
        spacing: float,
        centre: tuple[float, float],
        rng: np.random.Generator,
    ):
        self.shape = rows, columns
        self.spacing = spacing
        self.rng = rng
        self.x = ((np.arange(columns) - (columns - 1) / 2) * spacing + centre[0])[None]
        self.y = ((np.arange(rows) - (rows - 1) / 2) * spacing + centre[1])[:, None]
        self.x = np.broadcast_to(self.x, self.shape)
        self.y = np.broadcast_to(self.y, self.shape)
        self.hu = np.full(self.shape, -1000.0)
        self.labels = np.zeros(self.shape, np.uint8)
        self.fine = _band_noise(rng, self.shape, spacing, 1.2, 4)
        self.medium = _band_noise(rng, self.shape, spacing, 2.5, 9)
        self.coarse = _band_noise(rng, self.shape, spacing, 8, 40)
        self.strand = _band_noise(rng, self.shape, spacing, 4.5, 22)

    def box(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """The part of the canvas within ``reach`` mm of a point; may be empty."""
        row = np.searchsorted(self.y[:, 0], [y - reach, y + reach])
        column = np.searchsorted(self.x[0], [x - reach, x + reach])
        return slice(*row), slice(*column)

    def paint(
        self,
        distance: np.ndarray,
        hu: np.ndarray | float,
        label: str | None = None,
        part: tuple[slice, slice] | None = None,
        opacity: float | np.ndarray = 1.0,
    ) -> None:
        """Fills where the distance is below 0, with partial volume at the border."""
        part = (slice(None), slice(None)) if part is None else part
        cover = np.clip(0.5 - distance / self.spacing, 0, 1) * opacity
        self.hu[part] += cover * (hu - self.hu[part])
        if label is not None:
            self.labels[part][distance < 0] = LABELS[label]

    def scan(self, noise: float) -> np.ndarray:
        """Blurred by the scanner, with noise: int16 HU."""
        fy = np.fft.fftfreq(self.shape[0], self.spacing)[:, None]
        fx = np.fft.rfftfreq(self.shape[1], self.spacing)[None]
        f2 = fy**2 + fx**2
        sigma = 0.55  # mm, of the point spread function
        blur = np.exp(-2 * np.pi**2 * sigma**2 * f2)
        # The noise of filtered back projection: a ramp that the kernel rounds off.
        f = np.sqrt(f2)
        cut = min(0.5 / self.spacing, 0.75)
        ramp = f * np.exp(-((f / (0.62 * cut)) ** 4))
        grain = np.fft.irfft2(np.fft.rfft2(self.rng.standard_normal(self.shape)) * ramp, self.shape)
        grain /= max(grain.std(), 1e-9)
        image = np.fft.irfft2(np.fft.rfft2(self.hu) * blur, self.shape)
        # More noise in the middle of the body, where fewer photons arrive.
        body = np.exp(-((self.x / 120) ** 2) - ((self.y - 10) / 95) ** 2)
        image += noise * grain * (0.55 + 0.65 * body)
        return np.clip(np.rint(image), -1024, 3071).astype(np.int16)


def _ellipse(
    x: np.ndarray, y: np.ndarray, cx: float, cy: float, a: float, b: float, angle: float = 0.0
) -> np.ndarray:
    """Distance to an ellipse with half axes a (along x before turning) and b, first order."""
    x, y = x - cx, y - cy
    if angle:
        c, s = np.cos(angle), np.sin(angle)
        x, y = c * x + s * y, c * y - s * x
    k0 = np.hypot(x / a, y / b)
    k1 = np.hypot(x / a**2, y / b**2)
    return k0 * (k0 - 1) / np.maximum(k1, 1e-9) - np.where(k0 < 1e-6, min(a, b), 0)


def _superellipse(
    x: np.ndarray, y: np.ndarray, cx: float, cy: float, a: float, b: float, power: float
) -> np.ndarray:
    """Distance to a rounded box with half axes a and b, first order."""
    u, v = np.abs(x - cx) / a, np.abs(y - cy) / b
    k = np.maximum(u**power + v**power, 1e-12) ** (1 / power)
    slope = np.hypot((u / k) ** (power - 1) / a, (v / k) ** (power - 1) / b)
    return (k - 1) / np.maximum(slope, 1e-9)


def _capsule(
    x: np.ndarray,
    y: np.ndarray,
    start: tuple[float, float],
    end: tuple[float, float],
    r0: float,
    r1: float,
) -> np.ndarray:
    """Distance to a thick line whose radius goes from r0 to r1."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = ((x - start[0]) * dx + (y - start[1]) * dy) / max(dx * dx + dy * dy, 1e-9)
    along = np.clip(along, 0, 1)
    away = np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)
    return away - (r0 + along * (r1 - r0))


def _union(first: np.ndarray, second: np.ndarray, blend: float) -> np.ndarray:
    """Smooth minimum of two distances, rounding the seam over ``blend`` mm."""
    h = np.maximum(blend - np.abs(first - second), 0) / blend
    return np.minimum(first, second) - h * h * blend / 4


class _Wave:
    """A smooth random field of x, y and z, a sum of a few plane waves."""

    def __init__(self, rng: np.random.Generator, amplitude: float, low: float, high: float):
        count = 5
        angle = rng.uniform(0, 2 * np.pi, count)
        k = 2 * np.pi / rng.uniform(low, high, count)
        self.kx, self.ky = k * np.cos(angle), k * np.sin(angle)
        self.kz = rng.uniform(-1, 1, count) * 2 * np.pi / 120
        self.phase = rng.uniform(0, 2 * np.pi, count)
        self.amplitude = amplitude * np.sqrt(2 / count)

    def __call__(self, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
        # x varies along rows only and y along columns only, so exponentials are outer products.
        along_x = np.exp(1j * np.outer(self.kx, x[0]))
        along_y = np.exp(1j * (np.outer(self.ky, y[:, 0]) + (self.kz * z + self.phase)[:, None]))
        return self.amplitude * (along_y.T @ along_x).real


def _bump(z: float, centre: float, half: float) -> float:
    """Radius of an ellipsoid at height z, from 1 at its centre to 0; repeats every level."""
    away = (z - centre + _LEVEL / 2) % _LEVEL - _LEVEL / 2
    return float(np.sqrt(max(0.0, 1 - (away / half) ** 2)))


class _Body:
    """The anatomy of one phantom: every size and place, drawn once from the seed."""

    def __init__(self, rng: np.random.Generator):
        u = rng.uniform
        scale = u(0.93, 1.07)
        self.s = scale
        self.width = u(142, 176)
        self.height = u(98, 122)
        self.fat = u(0.35, 1.0)
        self.skin_fat = 7 + 20 * self.fat  # mm, at the sides
        self.back_fat = 8 + 13 * self.fat
        self.front_fat = 7 + 22 * self.fat
        self.warp_x = _Wave(rng, 2.0, 60, 130)
        self.warp_y = _Wave(rng, 2.0, 60, 130)
        self.outline = _Wave(rng, 1.5, 140, 320)
        self.contrast = bool(u() < 0.6)
        self.spine_x = u(-4, 4)
        self.spine_y = self.height - self.back_fat - u(62, 68) * scale
        self.turn = np.radians(u(-4, 4))
        self.body_a = u(23.5, 27.5) * scale
        self.body_b = u(17, 20) * scale
        self.cortex = u(0.9, 1.5)
        self.cortex_hu = u(520, 860)
        self.trabecular = u(110, 230)
        self.trabecular_texture = u(25, 55)
        self.canal_a = u(11, 13) * scale
        self.canal_b = u(7.5, 9.5) * scale
        self.spinous = u(27, 34) * scale
        self.transverse = u(22, 33) * scale
        self.transverse_angle = u(-0.25, 0.4)
        self.lamina_slope = u(0.85, 1.1)
        self.facet = u(6.5, 8.2) * scale
        self.psoas = u(15, 22) * scale
        self.muscle_hu = u(48, 64)
        self.fat_hu = u(-112, -98)
        self.streaks = u(0.5, 1.5)
        self.aorta = u(8, 11.5) * scale
        self.aorta_x = u(4, 14)
        self.calcified = bool(u() < 0.5)
        self.plaque = u(0, 2 * np.pi)
        self.vessel_hu = u(150, 300) if self.contrast else u(38, 48)
        self.vein_hu = u(110, 190) if self.contrast else u(36, 46)
        self.kidneys = [
            {
                "x": side * u(64, 78),
                "y": self.spine_y - u(-6, 10),
                "a": u(22, 28) * scale,
                "b": u(26, 33) * scale,
                "angle": side * u(0.2, 0.7),
                "z": u(-20, 40),
            }
            for side in (-1, 1)
        ]
        self.has_kidneys = bool(u() < 0.7)
        self.kidney_hu = u(140, 210) if self.contrast else u(28, 38)
        self.has_liver = bool(u() < 0.55)
        self.liver = u(0.75, 1.05)
        self.liver_hu = u(95, 125) if self.contrast else u(48, 64)
        self.bowel = self._loops(rng)
        self.table_gap = u(2, 6)
        self.table_radius = u(330, 520)
        self.table_half = u(190, 230)
        self.table_hu = u(-60, 160)
        self.foam_hu = u(-960, -900)
        self.mattress_hu = u(-940, -860)
        vessels = int(rng.integers(25, 60))
        self.vessels = np.stack(
            [u(-1, 1, vessels), u(-1, 0.55, vessels), u(0.8, 2.6, vessels)], axis=1
        )

    def _loops(self, rng: np.random.Generator) -> list[dict]:
        """Bowel: the colon at both sides, small bowel in front."""
        u = rng.uniform
        inner = self.width - self.skin_fat - 14
        front = self.height - self.front_fat - 12
        loops = []
        for side in (-1, 1):
            loops.append(
                {
                    "x": side * (inner - u(20, 26)),
                    "y": u(-18, 12),
                    "a": u(17, 22),
                    "b": u(19, 26),
                    "kind": "colon",
                }
            )
        for _ in range(60):
            if len(loops) >= 13:
                break
            a, b = u(10, 19), u(9, 15)
            t, r = u(-np.pi, 0.12 * np.pi), np.sqrt(u(0.05, 1))
            x, y = r * (inner - a - 4) * np.cos(t), r * (front - b - 6) * np.sin(t) - 2
            if y > self.spine_y - 52 and abs(x) < 45:
                continue
            near = min(
                np.hypot((x - o["x"]) / (a + o["a"]), (y - o["y"]) / (b + o["b"])) for o in loops
            )
            if near < 0.92:
                continue
            loops.append({"x": x, "y": y, "a": a, "b": b, "kind": "small"})
        for loop in loops:
            loop["angle"] = u(-0.6, 0.6)
            loop["gas"] = u(-0.2, 0.75) if loop["kind"] == "colon" else u(-1.6, 0.7)
            loop["hu"] = u(5, 45) if u() < 0.75 else u(120, 320)  # some hold oral contrast
            loop["z"] = u(-30, 30)
            loop["phase"] = u(0, 2 * np.pi)
        return loops

    def draw(self, canvas: _Canvas, z: float) -> None:
        """Paints the slice at height z (mm), from the outside in."""
        self._table(canvas)
        x = canvas.x + self.warp_x(canvas.x, canvas.y, z)
        y = canvas.y + self.warp_y(canvas.x, canvas.y, z)
        self._trunk(canvas, x, y, z)
        self._abdomen(canvas, x, y, z)
        self._muscles(canvas, x, y, z)
        self._vertebra(canvas, z)

    # -- outside ------------------------------------------------------------------------------

    def _back(self) -> float:
        """Where the back lies, mm posterior: flattened by the table."""
        return self.height * 0.985

    def _table(self, canvas: _Canvas) -> None:
        top = self._back() + self.table_gap + 5
        # A shallow trough that carries the body, concave upward.
        distance = np.hypot(canvas.x, canvas.y - (top - self.table_radius)) - self.table_radius
        side = np.abs(canvas.x) - self.table_half
        shell = np.maximum(np.abs(distance - 9) - 9, side)
        pad = np.maximum(np.abs(distance + 3.0) - 4.0, side + 25)
        canvas.paint(pad, self.mattress_hu + 12 * canvas.medium, "table")
        canvas.paint(shell, self.table_hu, "table")
        canvas.paint(shell + 2.2, self.foam_hu)

    def _trunk(self, canvas: _Canvas, x: np.ndarray, y: np.ndarray, z: float) -> None:
        outline = self.outline(canvas.x, canvas.y, z)
        # Flatter behind than in front.
        front = _ellipse(x, y, 0, 0, self.width, self.height)
        back = _superellipse(x, y, 0, 0, self.width, self._back(), 2.7)
        blend = 1 / (1 + np.exp(-y / 18))
        skin = front * (1 - blend) + back * blend + outline
        self.skin = skin
        fat = self.fat_hu + 7 * canvas.coarse + 5 * canvas.medium
        canvas.paint(skin, 25.0, "soft_tissue")
        canvas.paint(skin + 1.8, fat, None)
        strands = np.clip(1 - np.abs(canvas.medium) / 0.06, 0, 1)
        canvas.paint(skin + 5, self.fat_hu + 45, None, opacity=0.55 * strands)

    def _abdomen(self, canvas: _Canvas, x: np.ndarray, y: np.ndarray, z: float) -> None:
        a, b = self.width - self.skin_fat, self.height - self.front_fat
        muscle = self.muscle_hu + 4 * canvas.coarse + 5 * canvas.fine
        back_limit = self.height - self.back_fat
        front = _ellipse(x, y, 0, 0, a, b)
        back = _superellipse(x, y, 0, 0, a, back_limit, 2.4)
        blend = 1 / (1 + np.exp(-(y - 5) / 12))
        wall = front * (1 - blend) + back * blend
        # The lateral wall has three layers with thin fat between; in front lie the recti.
        canvas.paint(wall, muscle)
        lateral = 1 / (1 + np.exp(-(np.abs(x) - 0.48 * a) / 5))
        for depth in (4.2, 8.4):
            layer = np.abs(wall + depth + 0.6 * canvas.coarse) - 0.45
            canvas.paint(layer, self.fat_hu + 40, opacity=0.75 * lateral)
        midline = np.maximum(np.abs(x - 1) - 2.4, y + 0.5 * b)
        thickness = 10 + 3 * lateral
        canvas.paint(np.maximum(midline, wall + 1), self.fat_hu + 60, opacity=0.8)
        gap = np.abs(np.abs(x) - 0.5 * a) - 3.5
        canvas.paint(np.maximum(np.maximum(gap, wall), y + 10), self.fat_hu, opacity=0.9)
        cavity = np.maximum(wall + thickness, y - (self.spine_y + 30))
        fat = self.fat_hu + 4 * canvas.coarse + 4 * canvas.medium
        canvas.paint(wall + thickness, fat)
        self.cavity = cavity
        inner_a, inner_b = a - 16, b - 14
        for vx, vy, radius in self.vessels:
            cx, cy = vx * inner_a, vy * inner_b
            part = canvas.box(cx, cy, 12)
            spot = np.hypot(x[part] - cx, y[part] - cy) - radius
            hu = 0.75 * self.vein_hu if self.contrast else 40.0
            canvas.paint(np.maximum(spot, cavity[part] + 2), hu, part=part, opacity=0.9)
        if self.has_liver:
            liver = _ellipse(
                x, y, -0.62 * inner_a, -0.05 * inner_b, 0.5 * inner_a, 0.8 * inner_b, 0.15
            )
            liver = np.maximum(liver + 6 * (1.05 - self.liver) + 1.2 * canvas.coarse, cavity + 1.5)
            canvas.paint(liver, self.liver_hu + 4 * canvas.coarse + 3 * canvas.medium)
            for vx, vy, radius in self.vessels[::4]:
                cx, cy = (-0.65 + 0.3 * vx) * inner_a, (-0.1 + 0.6 * vy) * inner_b
                part = canvas.box(cx, cy, 12)
                spot = np.maximum(
                    np.hypot(x[part] - cx, y[part] - cy) - 1.3 * radius, liver[part] + 3
                )
                canvas.paint(spot, self.liver_hu + (45 if self.contrast else -8), part=part)
        for loop in self.bowel:
            if self.has_liver and loop["x"] < -0.25 * inner_a:
                continue
            self._loop(canvas, x, y, z, loop)
        if self.has_kidneys:
            for kidney in self.kidneys:
                self._kidney(canvas, x, y, z, kidney)

    def _loop(self, canvas: _Canvas, x: np.ndarray, y: np.ndarray, z: float, loop: dict) -> None:
        """A bowel loop: wall, content, gas above a level or bubbles."""
        swell = 1 + 0.1 * np.cos(z / 25 + loop["phase"])
        a, b = loop["a"] * swell, loop["b"] * swell
        part = canvas.box(loop["x"], loop["y"], 1.6 * max(a, b) + 6)
        px, py = x[part], y[part]
        outer = _ellipse(px, py, loop["x"], loop["y"], a, b, loop["angle"])
        angle = np.arctan2(py - loop["y"], px - loop["x"])
        outer = outer + 1.4 * np.cos(4 * angle + loop["phase"]) + 1.0 * canvas.coarse[part]
        outer = np.maximum(outer, self.cavity[part] + 1.5)
        canvas.paint(outer, 42.0 + (18 if self.contrast else 0), "soft_tissue", part=part)
        inside = outer + 2.1
        content = loop["hu"] + 6 * canvas.medium[part]
        if loop["kind"] == "colon":
            # Stool: soft matter with small bubbles.
            canvas.paint(inside, 30 + 25 * canvas.medium[part], part=part)
            bubbles = np.maximum(inside + 1.5, 2.2 * (1.35 - canvas.medium[part]))
            canvas.paint(bubbles, -620.0, part=part, opacity=0.8)
        else:
            canvas.paint(inside, content, part=part)
        if loop["gas"] > -1:
            # Gas rises to the front, with a level or filling the loop.
            level = py - (loop["y"] + b * loop["gas"] - 0.3 * b)
            gas = np.maximum(inside + 0.4, level)
            canvas.paint(gas, -985.0, "air", part=part)

    def _kidney(self, canvas: _Canvas, x: np.ndarray, y: np.ndarray, z: float, k: dict) -> None:
        size = np.sqrt(max(0.0, 1 - ((z - k["z"]) / 75) ** 2))
        if size < 0.3:
            return
        part = canvas.box(k["x"], k["y"], 1.5 * max(k["a"], k["b"]) + 12)
        px, py = x[part], y[part]
        outer = _ellipse(px, py, k["x"], k["y"], k["a"] * size, k["b"] * size, k["angle"])
        outer = outer + 0.8 * canvas.coarse[part]
        canvas.paint(outer - 6, self.fat_hu + 3 * canvas.medium[part], "soft_tissue", part=part)
        inward = -np.sign(k["x"])
        hilum_x, hilum_y = k["x"] + inward * 0.62 * k["a"] * size, k["y"] - 3
        hilum = _ellipse(px, py, hilum_x, hilum_y, 0.62 * k["a"], 0.34 * k["b"], k["angle"])
        hilum = hilum + 1.5 * canvas.coarse[part]
        kidney = np.maximum(outer, -hilum)
        cortex = self.kidney_hu + 5 * canvas.medium[part]
        canvas.paint(kidney, cortex, part=part)
        if self.contrast:
            medulla = np.maximum(outer + 7, -hilum + 2) + 3 * canvas.coarse[part]
            canvas.paint(medulla, self.kidney_hu - 35, part=part, opacity=0.7)
        pelvis = _ellipse(px, py, hilum_x, hilum_y, 0.22 * k["a"], 0.12 * k["b"], k["angle"])
        canvas.paint(pelvis, 15.0, part=part)

    # -- round the spine ------------------------------------------------------------------------

    def _muscles(self, canvas: _Canvas, x: np.ndarray, y: np.ndarray, z: float) -> None:
        """Psoas, quadratus lumborum, erector spinae and multifidus; aorta and vena cava."""
        s, sx, sy = self.s, self.spine_x, self.spine_y
        part = canvas.box(sx, sy + 25, 100 * s)
        px, py = x[part], y[part]
        fine, medium, coarse = canvas.fine[part], canvas.medium[part], canvas.coarse[part]
        muscle = self.muscle_hu + 3 * coarse + 5 * fine
        # A fat bed behind the cavity, in which the muscles lie.
        bed = _superellipse(px, py, sx, sy + 31 * s, 66 * s, 37 * s, 2.6)
        bed = np.maximum(bed, self.skin[part] + self.back_fat * 0.8)
        canvas.paint(bed, self.fat_hu + 4 * medium, "soft_tissue", part)
        # Fat between the bundles: thin curves where a smooth field changes sign, thicker in places.
        curve = np.abs(canvas.strand[part]) / np.maximum(0.30 + 0.10 * coarse, 0.05)
        patch = np.clip(0.4 + 0.5 * coarse + 0.3 * medium, 0, 1)
        septa = min(0.8 * self.streaks, 1) * np.clip(1 - curve, 0, 1) * patch
        for side in (-1, 1):
            psoas_x = sx + side * (self.body_a + 0.72 * self.psoas)
            psoas = _ellipse(px, py, psoas_x, sy + 3, self.psoas, 1.28 * self.psoas, side * 0.35)
            canvas.paint(psoas + 0.7 * coarse, muscle, "soft_tissue", part)
            lumborum_x, lumborum_y = sx + side * 62 * s, sy + 20 * s
            lumborum = _ellipse(px, py, lumborum_x, lumborum_y, 17 * s, 8.5 * s, side * 0.75)
            canvas.paint(lumborum + 0.6 * coarse, muscle, "soft_tissue", part)
            erector_x, multifidus_x = sx + side * 34 * s, sx + side * 12.5 * s
            for mass in (
                _superellipse(px, py, erector_x, sy + 44 * s, 27 * s, 19.5 * s, 2.3),
                _ellipse(px, py, multifidus_x, sy + 47 * s, 11 * s, 17 * s, side * 0.12),
            ):
                canvas.paint(mass + 0.9 * coarse, muscle, "soft_tissue", part)
                canvas.paint(mass + 0.9 * coarse + 1, self.fat_hu + 20, part=part, opacity=septa)
        # Great vessels in front of the spine: aorta to the left, vena cava to the right.
        front = sy - self.body_b
        cx, cy = sx + self.aorta_x, front - self.aorta - 2.5
        part = canvas.box(cx, cy, self.aorta + 12)
        aorta = np.hypot(x[part] - cx, y[part] - cy) - self.aorta
        canvas.paint(aorta, 48.0, "soft_tissue", part=part)
        canvas.paint(aorta + 1.3, self.vessel_hu + 3 * canvas.fine[part], part=part)
        if self.calcified:
            angle = np.arctan2(y[part] - cy, x[part] - cx) - self.plaque - z / 40
            angle = np.abs((angle + np.pi) % (2 * np.pi) - np.pi)
            plaque = np.maximum(np.abs(aorta + 0.8) - 1.1, (angle - 0.5) * self.aorta)
            canvas.paint(plaque, 620.0, part=part, opacity=0.9)
        cava_x, cava_y = sx - 16 * s, front - 8 * s
        part = canvas.box(cava_x, cava_y, 30)
        cava = _ellipse(x[part], y[part], cava_x, cava_y, 12.5 * s, 8.5 * s, -0.3)
        canvas.paint(cava, self.vein_hu + 3 * canvas.fine[part], "soft_tissue", part=part)

    def _vertebra(self, canvas: _Canvas, z: float) -> None:
        """The vertebra or disc at this height, drawn upright in its own turned coordinates."""
        s = self.s
        reach = self.transverse + self.body_a + 22
        part = canvas.box(self.spine_x, self.spine_y + 18, reach)
        if canvas.x[part].size == 0:
            return
        px, py = canvas.x[part] - self.spine_x, canvas.y[part] - self.spine_y
        wobble_x, wobble_y = (
            w(canvas.x[part], canvas.y[part], z) for w in (self.warp_x, self.warp_y)
        )
        c, t = np.cos(self.turn), np.sin(self.turn)
        x = c * px + t * py + 0.45 * wobble_x + 0.35 * canvas.coarse[part]
        y = c * py - t * px + 0.45 * wobble_y + 0.35 * canvas.coarse[part]
        side = np.abs(x)
        fine, medium = canvas.fine[part], canvas.medium[part]
        a, b = self.body_a, self.body_b
        # Height within the level: 0 the lower end plate, 27 mm the upper one, disc above.
        height = z % _LEVEL
        bone_top = 27.0
        waist = 1 - 0.07 * np.sin(np.pi * min(height / bone_top, 1))
        body = _superellipse(x, y, 0, 0, a * waist, b * waist, 2.35)
        dent = _ellipse(x, y, 0, b * waist + 7.0, 13 * s, 8.8 * s)
        body = np.maximum(body, -dent)
        canal_y = b * waist + self.canal_b * 0.62
        canal = _union(
            _ellipse(x, y, 0, canal_y, self.canal_a, self.canal_b),
            _ellipse(x, y, 0, canal_y + 3.5 * s, 6 * s, 7.5 * s),
            4.0,
        )
        # Posterior elements: each part is thickest at its own height.
        pedicle = _bump(height, 17, 8.5)
        transverse = _bump(height, 15, 7)
        lamina = _bump(height, 7, 13)
        spinous = _bump(height, 5, 12.5)
        upper_facet = _bump(height, 25, 12)
        lower_facet = _bump(height, 33, 10)
        parts = []
        hub = (self.canal_a + 4.5 * s, canal_y + 1.5 * s)
        if pedicle > 0.15:
            root = (0.72 * a, b * 0.55)
            parts.append(_capsule(side, y, root, hub, 6.0 * s * pedicle, 5.6 * s * pedicle))
        if transverse > 0.15:
            length = self.transverse
            tip = (
                hub[0] + length * np.cos(self.transverse_angle),
                hub[1] + 2 * s - length * np.sin(self.transverse_angle),
            )
            start = (hub[0] + 1, hub[1] + 2 * s)
            parts.append(_capsule(side, y, start, tip, 4.8 * s * transverse, 3.0 * s * transverse))
        root_y = canal_y + self.canal_b + 6.5 * s * self.lamina_slope
        if lamina > 0.15:
            parts.append(_capsule(side, y, hub, (2.0, root_y), 5.0 * s * lamina, 4.2 * s * lamina))
        if spinous > 0.15:
            end = (0.0, root_y + self.spinous * spinous)
            parts.append(
                _capsule(side, y, (0.0, root_y), end, 4.0 * s * spinous, 3.2 * s * spinous)
            )
            parts.append(_ellipse(side, y, end[0], end[1], 5.2 * s * spinous, 4.4 * s * spinous))
        facet = (hub[0] + 3.5 * s, hub[1] + 5.5 * s)
        if max(upper_facet, lower_facet) > 0.2:
            big = self.facet * max(upper_facet, lower_facet)
            joint = _ellipse(side, y, facet[0], facet[1], 0.95 * big, 1.05 * big, -0.5)
            parts.append(joint)
        posterior = None
        for shape in parts:
            posterior = shape if posterior is None else _union(posterior, shape, 3.5)
        # Epidural fat and nerve roots in the foramen where no pedicle closes it.
        canvas.paint(canal - 1.2, self.fat_hu + 20, "soft_tissue", part)
        if pedicle <= 0.5:
            foramen = _ellipse(side, y, self.canal_a + 4, canal_y - 2.5, 7 * s, 5.5 * s)
            canvas.paint(foramen, self.fat_hu + 12, "soft_tissue", part)
            nerve = np.hypot(side - self.canal_a - 5, y - canal_y + 3) - 2.6
            canvas.paint(nerve, 45.0, "soft_tissue", part)
        if height <= bone_top:
            self._bone(canvas, part, body, fine, medium, min(height, bone_top - height), body=True)
            canvas.labels[part][body < 0] = LABELS["vertebral_body"]
            vein = np.maximum(np.abs(x) - 1.6 - 0.3 * medium, np.abs(y - 0.45 * b) - 0.42 * b)
            middle = _bump(height, bone_top / 2, 5)
            if middle > 0.2:
                canvas.paint(np.maximum(vein, body + 0.5), 70.0, part=part, opacity=0.6 * middle)
        else:
            canvas.paint(body - 1.0, 100 + 6 * fine, "soft_tissue", part)
            canvas.paint(body + 6, 82 + 6 * fine, None, part)
        if posterior is not None:
            # Bone joins bone: the body keeps its own label where both claim a pixel.
            owned = canvas.labels[part] == LABELS["vertebral_body"]
            free = np.maximum(posterior, -(canal - 0.2))
            self._bone(canvas, part, free, fine, medium, 9.0, body=False, join=body)
            claimed = (free < 0) & ~owned
            canvas.labels[part][claimed] = LABELS["posterior_elements"]
            if max(upper_facet, lower_facet) > 0.55 and min(upper_facet, lower_facet) > 0.1:
                cx, cy = facet
                gap = np.abs((side - cx) * np.cos(0.75) - (y - cy) * np.sin(0.75)) - 0.75
                gap = np.maximum(gap, np.hypot(side - cx, y - cy) - 0.95 * self.facet)
                canvas.paint(gap, 60.0, "soft_tissue", part, opacity=0.8)
        # The canal: epidural fat at the rim, the dural sac inside.
        canvas.paint(canal, self.fat_hu + 25 + 5 * medium, "canal", part)
        sac = _ellipse(x, y, 0, canal_y - 0.6, 0.84 * self.canal_a, 0.84 * self.canal_b)
        canvas.paint(np.maximum(sac, canal + 0.6), 26 + 3 * fine, None, part)
        for cx, cy in ((-5, 1.5), (-3.2, 3), (-1, 3.6), (1.2, 3.6), (3.4, 3), (5, 1.4)):
            root = np.hypot(x - cx * s, y - canal_y - cy * s) - 0.8
            canvas.paint(root, 42.0, part=part, opacity=0.7)

    def _bone(
        self,
        canvas: _Canvas,
        part: tuple[slice, slice],
        shape: np.ndarray,
        fine: np.ndarray,
        medium: np.ndarray,
        end_distance: float,
        *,
        body: bool,
        join: np.ndarray | None = None,
    ) -> None:
        """Cortical shell, subcortical bone and marrow with trabecular texture."""
        thickness = self.cortex * (0.85 if body else 1.55) * (1 + 0.18 * medium)
        spongy = self.trabecular + self.trabecular_texture * (0.7 * fine + 0.8 * medium)
        if not body:
            spongy = spongy + 90
        if body:  # end plates: denser bone over the whole section
            spongy = spongy + 330 * np.exp(-((end_distance / 1.8) ** 2))
        cortex = self.cortex_hu * (0.85 if body else 1.05) * (1 + 0.1 * medium)
        inner = shape + thickness
        if join is not None:
            # No shell between pedicle and body: marrow runs through.
            inner = np.minimum(inner, np.maximum(join + 2.0, shape + 0.3))
        rim = np.clip(-inner / 2.5, 0, 1)
        spongy = spongy + (1 - rim) * 70
        if join is not None:
            into = np.clip((join + 1.6) / 1.6, 0, 1)
            canvas.paint(shape, cortex, None, part, opacity=into)
            canvas.paint(inner, spongy, None, part, opacity=into)
            neck = np.maximum(np.abs(join) - 2.2, shape + 1.6 * thickness)
            canvas.paint(neck, spongy, None, part, opacity=0.9)
        else:
            canvas.paint(shape, cortex, None, part)
            canvas.paint(inner, spongy, None, part)
