"""Gray-scale windows: the only place where Hounsfield units become [0, 1] and back.

A window is the VOI function ``LINEAR_EXACT`` of DICOM PS3.3 C.11.2.1.3.2; of ``LINEAR``
(C.11.2.1.2.1), the default of DICOM headers, :meth:`Window.from_linear` makes the equal one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from tfstyle.data.scan import Scan
from tfstyle.errors import ArgumentError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Window:
    """A linear window: ``lower`` becomes 0, ``upper`` becomes 1, values beyond are clipped.

    Example:
        >>> Window(40, 400).to_unit([-160, 40, 240, 1000])
        array([0. , 0.5, 1. , 1. ], dtype=float32)

    Attributes:
        center: The value shown as middle gray, WindowCenter (0028,1050).
        width: Distance from black to white, above 0, WindowWidth (0028,1051).

    Raises:
        ArgumentError: If a number is not finite or the width is not above 0.
    """

    center: float
    width: float

    def __post_init__(self) -> None:
        try:
            center, width = float(self.center), float(self.width)
        except (TypeError, ValueError):
            center = width = float("nan")
        if not np.isfinite(center) or not np.isfinite(width) or width <= 0:
            found = f"center {self.center!r} and width {self.width!r}"
            what = "a finite center and a width above 0"
            raise ArgumentError(f"window: must have {what}, received {found}.")
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "width", width)

    @classmethod
    def from_limits(cls, lower: float, upper: float) -> Window:
        """The window that maps ``lower`` to 0 and ``upper`` to 1 (``lower < upper``)."""
        return cls((float(lower) + float(upper)) / 2, float(upper) - float(lower))

    @classmethod
    def from_linear(cls, center: float, width: float) -> Window:
        """The exact window equal to a DICOM ``LINEAR`` one (PS3.3 C.11.2.1.2.1), width above 1."""
        return cls(float(center) - 0.5, float(width) - 1.0)

    def jittered(self, jitter: float, rng: np.random.Generator) -> Window:
        """A random window near this one.

        The width changes by a factor up to ``exp(±jitter)``, the center by up to `jitter` half
        widths; two numbers are drawn, the first for the width.
        """
        width = self.width * float(np.exp(rng.uniform(-jitter, jitter)))
        shift = float(rng.uniform(-jitter, jitter)) * self.width / 2
        return Window(self.center + shift, width)

    @property
    def lower(self) -> float:
        """The value that becomes 0."""
        return self.center - self.width / 2

    @property
    def upper(self) -> float:
        """The value that becomes 1."""
        return self.center + self.width / 2

    def to_unit(self, values: np.ndarray | Sequence[float] | float) -> np.ndarray:
        """Values of a scan, of any shape, to gray levels in [0, 1], float32.

        They are ``(x - center) / width + 0.5``, clipped.
        """
        unit = np.array(values, dtype=np.float32)
        unit -= np.float32(self.lower)
        unit *= np.float32(1 / self.width)
        return np.clip(unit, 0, 1, out=unit)

    def to_hu(self, unit: np.ndarray | Sequence[float] | float) -> np.ndarray:
        """Gray levels in [0, 1] back to values, float32; what was clipped stays clipped."""
        values = np.array(unit, dtype=np.float32)
        values *= np.float32(self.width)
        values += np.float32(self.lower)
        return values


WINDOWS: Mapping[str, Window] = MappingProxyType(
    {
        "bone": Window(400, 1800),
        "soft_tissue": Window(40, 400),
        "lung": Window(-600, 1500),
        "brain": Window(40, 80),
        "stroke": Window(35, 40),
        "subdural": Window(75, 215),
        "temporal_bone": Window(600, 2800),
        "mediastinum": Window(50, 350),
        "abdomen": Window(60, 400),
        "liver": Window(60, 160),
        "spine": Window(50, 250),
        "spine_bone": Window(300, 1500),
        "fat": Window(-60, 240),
        "angio": Window(300, 600),
        "wide": Window(200, 2400),
        "full": Window.from_limits(-1024, 3071),
    }
)
"""Windows for CT by name, in HU; names may be written with '-' or '_', in any case."""

WindowSpec = Window | str | Sequence[float]

_SAMPLE = 4_000_000  # pixels that percentiles are taken over, at most


def _percentiles(scan: Scan, low: float, high: float, spec: object) -> Window:
    if not 0 <= low < high <= 100:
        raise ArgumentError(f"window: percentiles must rise within 0 to 100, received {spec!r}.")
    size = scan.shape[1] * scan.shape[2]
    step = max(1, len(scan) * size // _SAMPLE)
    parts = [scan.read(i).reshape(-1)[-i * size % step :: step].copy() for i in range(len(scan))]
    return _limits(*np.percentile(np.concatenate(parts), [low, high]))


def _limits(lower: float, upper: float) -> Window:
    """The window between; a constant image becomes middle gray."""
    return Window.from_limits(lower, upper) if lower < upper else Window(lower, 1.0)


def resolve_window(spec: WindowSpec, scan: Scan) -> Window:
    """The window that ``spec`` means for ``scan``, in its units.

    Example:
        >>> scan = Scan(np.zeros((1, 8, 8), np.int16))
        >>> resolve_window("soft-tissue", scan)
        Window(center=40.0, width=400.0)
        >>> resolve_window("300,1500", scan) == resolve_window((300, 1500), scan)
        True

    Args:
        spec: One of

            - a :class:`Window`, a pair ``(center, width)`` or the text ``"CENTER,WIDTH"``;
            - a name in :data:`WINDOWS` such as ``"bone"``, for scans in HU;
            - ``"header"``: the first window of the DICOM header;
            - ``"percentile"`` (1 and 99) or ``"percentile:LOW,HIGH"`` of the scan's pixels;
            - ``"range"``: the whole range of the data type for gray pictures, else minimum to
              maximum;
            - ``"auto"``: for HU the header's window or else ``"soft_tissue"``, for gray pictures
              ``"range"``, for other units the header's window or else ``"percentile"``.
        scan: The scan to be shown.

    Raises:
        ArgumentError: If the specification is unknown or does not suit the scan.
    """
    if isinstance(spec, Window):
        return spec
    if not isinstance(spec, str):
        return Window(*_two_numbers(spec, spec))
    name = spec.strip().lower().replace("-", "_").replace(" ", "_")
    if name == "auto":
        other = "soft_tissue" if scan.units == "HU" else "percentile"
        own = "header" if scan.header_window is not None else other
        spec = name = "range" if scan.units == "gray" else own
    if name in WINDOWS:
        if scan.units != "HU":
            what = f"{spec!r} is in Hounsfield units, but {scan.name} is in {scan.units}"
            raise ArgumentError(f"window: {what}; use 'percentile', 'range' or 'CENTER,WIDTH'.")
        return WINDOWS[name]
    if name == "header":
        if scan.header_window is None:
            raise ArgumentError(f"window: {scan.name} has no window in its header; use 'auto'.")
        return scan.header_window
    if name == "range":
        kind = scan.read(0).dtype
        if scan.units == "gray" and kind.kind == "u":
            return Window.from_limits(0, np.iinfo(kind).max)
        planes = map(scan.read, range(len(scan)))
        lows, highs = zip(*((float(plane.min()), float(plane.max())) for plane in planes))
        return _limits(min(lows), max(highs))
    head, _, tail = spec.strip().partition(":")
    if head.lower() == "percentile":
        return _percentiles(scan, *_two_numbers(tail.split(",") if tail else (1, 99), spec), spec)
    if "," in spec:
        return Window(*_two_numbers(spec.split(","), spec))
    raise ArgumentError(
        f"window: unknown window {spec!r}; use one of {', '.join(sorted(WINDOWS))}, or 'header', "
        "'auto', 'range', 'percentile', 'percentile:LOW,HIGH', 'CENTER,WIDTH'."
    )


def suitable(specs: Sequence[WindowSpec], scan: Scan) -> list[tuple[WindowSpec, Window]]:
    """Those of several windows that suit a scan; the ArgumentError of the last if none does."""
    found: list[tuple[WindowSpec, Window]] = []
    problem = ArgumentError("window: none was given.")
    for spec in specs:
        try:
            found.append((spec, resolve_window(spec, scan)))
        except ArgumentError as error:
            problem = error
    if not found:
        raise problem
    if len(found) < len(specs):
        logger.info("%s: a window is passed over: %s", scan.name, problem)
    return found


def _two_numbers(values: Sequence, spec: object) -> tuple[float, float]:
    try:
        first, second = map(float, values)
    except (TypeError, ValueError):
        what = "a name, a Window or two numbers (center, width)"
        raise ArgumentError(f"window: must be {what}, received {spec!r}.") from None
    return first, second


def scan_to_unit(scan: Scan, window: WindowSpec = "auto") -> np.ndarray:
    """A scan as gray images for the models: float32 (slices, rows, columns, 1) in [0, 1].

    Args:
        scan: Any scan.
        window: See :func:`resolve_window`, as for errors.
    """
    return resolve_window(window, scan).to_unit(scan.pixels)[..., None]
