"""The one type that carries image data outside the models: pixels with their geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tfstyle.errors import ArgumentError

if TYPE_CHECKING:
    from tfstyle.data.dicom import Frame
    from tfstyle.data.windows import Window

UNITS = ("HU", "US", "gray")


@dataclass(frozen=True, eq=False)
class Scan:
    """A stack of parallel slices with spacing and position, immutable.

    Example:
        >>> scan = Scan(np.zeros((3, 4, 5), np.int16), spacing=(2.0, 1.0, 1.0), units="HU")
        >>> len(scan), scan[1].pixels.shape
        (3, (1, 4, 5))

    Attributes:
        pixels: Array (slices, rows, columns), read-only. int16 Hounsfield units when ``units`` is
            ``"HU"``; uint8 or uint16 for gray pictures; int16, int32 or float32 otherwise.
        spacing: Distances in mm between slices (along their normal), rows and columns.
        units: ``"HU"``, ``"US"`` (unspecified, the DICOM term, for example MR) or ``"gray"``.
        name: A short label made of the file or folder name, never of patient data.
        affine: 4x4 float64 that takes (slice, row, column, 1) to patient coordinates in mm, axes
            to the left, posterior and superior (DICOM PS3.3 C.7.6.2.1.1), or None where the file
            has no position.
        header_window: The first window of the DICOM header (0028,1050) and (0028,1051), as a
            linear exact window, or None.
        files: Source files, one a slice for a DICOM series, one in all for other formats.
        frames: For DICOM the source of each slice, by which derived images are written.

    Raises:
        ArgumentError: If pixels are not a non-empty numeric 3-D array, the spacing is not three
            positive numbers, the units are unknown, the affine is not a finite 4x4 matrix, or
            there are frames and not one a slice.
    """

    pixels: np.ndarray
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    units: str = "HU"
    name: str = "scan"
    affine: np.ndarray | None = None
    header_window: Window | None = None
    files: tuple[str, ...] = ()
    frames: tuple[Frame, ...] = ()

    def __post_init__(self) -> None:
        pixels = np.asarray(self.pixels)
        if pixels.ndim != 3 or pixels.size == 0:
            raise ArgumentError(
                "pixels must be a non-empty array (slices, rows, columns). "
                f"Received shape {pixels.shape}."
            )
        if pixels.dtype.kind not in "iuf":
            raise ArgumentError(f"pixels must be numbers. Received dtype {pixels.dtype}.")
        if self.units not in UNITS:
            raise ArgumentError(f"units must be one of {UNITS}. Received {self.units!r}.")
        if self.units == "HU" and pixels.dtype != np.int16:
            raise ArgumentError(
                "pixels in HU must be int16; round and convert them first. "
                f"Received dtype {pixels.dtype}."
            )
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise ArgumentError("pixels must be finite. Received NaN or infinite values.")
        if self.frames and len(self.frames) != len(pixels):
            raise ArgumentError(
                f"frames must be one a slice, {len(pixels)}. Received {len(self.frames)}."
            )
        # A read-only view: the caller's own array stays writable, the scan's does not.
        pixels = pixels.view()
        pixels.setflags(write=False)
        spacing = tuple(float(s) for s in self.spacing)
        if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
            raise ArgumentError(
                "spacing must be three positive numbers in mm (slices, rows, columns). "
                f"Received {self.spacing}."
            )
        affine = self.affine
        if affine is not None:
            affine = np.array(affine, np.float64)
            if affine.shape != (4, 4) or not np.isfinite(affine).all():
                raise ArgumentError(f"affine must be a finite 4x4 matrix. Received {affine}.")
            affine.setflags(write=False)
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "spacing", spacing)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "files", tuple(str(f) for f in self.files))
        object.__setattr__(self, "frames", tuple(self.frames))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns."""
        return self.pixels.shape

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.pixels)

    def __getitem__(self, index: int | slice) -> Scan:
        """A scan of the chosen slices, with its affine and files kept in step.

        Args:
            index: A slice number (negative counts from the end) or a ``slice``.

        Raises:
            IndexError: If the slice number is out of range.
            ArgumentError: If a ``slice`` selects nothing.
        """
        count = len(self)
        if isinstance(index, slice):
            chosen = range(count)[index]
            if len(chosen) == 0:
                raise ArgumentError(f"{index} selects none of the {count} slices of {self.name}.")
        else:
            number = range(count)[index]  # IndexError and negative numbers as for a list
            chosen = range(number, number + 1)
        affine = None
        if self.affine is not None:
            affine = self.affine.copy()
            affine[:, 3] += affine[:, 0] * chosen.start
            if len(chosen) > 1:
                affine[:, 0] *= chosen.step
        files = self.files
        if len(files) == count:
            files = tuple(files[i] for i in chosen)
        step = abs(chosen.step) if len(chosen) > 1 else 1
        return Scan(
            pixels=self.pixels[index] if isinstance(index, slice) else self.pixels[number][None],
            spacing=(self.spacing[0] * step, self.spacing[1], self.spacing[2]),
            units=self.units,
            name=self.name,
            affine=affine,
            header_window=self.header_window,
            files=files,
            frames=tuple(self.frames[i] for i in chosen) if self.frames else (),
        )

    def __repr__(self) -> str:
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing)
        low, high = self.pixels.min(), self.pixels.max()
        return (
            f"Scan({self.name!r}, {' x '.join(map(str, self.pixels.shape))} pixels, "
            f"{spacing} mm, {low}..{high} {self.units})"
        )
