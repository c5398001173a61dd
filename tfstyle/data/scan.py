"""The one type that carries image data outside the models: pixels with their geometry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tfstyle._private.images import one_of
from tfstyle.errors import ArgumentError

if TYPE_CHECKING:
    from tfstyle.data.dicom import Frame
    from tfstyle.data.windows import Window

UNITS = ("HU", "US", "gray")


@dataclass(frozen=True, eq=False)
class Scan:
    """A stack of parallel slices with spacing and position, immutable.

    Pixels of a lazy scan are decoded when they are asked for: all of them by ``pixels``, which
    keeps them, or one slice by :meth:`read`, which does not.

    Example:
        >>> scan = Scan(np.zeros((3, 4, 5), np.int16), spacing=(2.0, 1.0, 1.0), units="HU")
        >>> len(scan), scan[1].pixels.shape
        (3, (1, 4, 5))

    Attributes:
        pixels: Array (slices, rows, columns), read-only. int16 Hounsfield units when ``units`` is
            ``"HU"``; uint8 or uint16 for gray pictures; int16, int32 or float32 otherwise. May be
            given as an object with ``shape``, ``by_slice`` (whether slices can be read one by one)
            and ``read(indices)``, which gives the pixels of some slices when they are asked for.
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
        stack: What tells the scan from others of its DICOM series, such as ``"phase2_echo1"``, the
            end of its name too; "" for the only one.

    Raises:
        ArgumentError: If an attribute is not as above; for pixels that are read later, then.
    """

    pixels: np.ndarray
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    units: str = "HU"
    name: str = "scan"
    affine: np.ndarray | None = None
    header_window: Window | None = None
    files: tuple[str, ...] = ()
    frames: tuple[Frame, ...] = ()
    stack: str = ""

    def __post_init__(self) -> None:
        one_of("units", self.units, UNITS)
        pixels = self.__dict__.pop("pixels")
        lazy = hasattr(pixels, "by_slice")
        self._set("_source", pixels if lazy else None)
        if not lazy:
            self._set("pixels", self._checked(pixels))
        if self.frames and len(self.frames) != len(self):
            raise ArgumentError(f"frames: must be one a slice, received {len(self.frames)}.")
        spacing = tuple(float(s) for s in self.spacing)
        if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
            raise ArgumentError(f"spacing: must be three positive numbers, received {spacing}.")
        affine = self.affine
        if affine is not None:
            affine = np.array(affine, np.float64)
            if affine.shape != (4, 4) or not np.isfinite(affine).all():
                raise ArgumentError(f"affine: must be a finite 4x4 matrix, received {affine}.")
            affine.setflags(write=False)
        self._set("spacing", spacing)
        self._set("affine", affine)
        self._set("files", tuple(str(f) for f in self.files))
        self._set("frames", tuple(self.frames))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _checked(self, pixels: np.ndarray) -> np.ndarray:
        pixels = np.asarray(pixels)
        for good, needed in (
            (pixels.ndim == 3 and pixels.size > 0, "a non-empty array (slices, rows, columns)"),
            (pixels.dtype.kind in "iuf", "numbers"),
            (self.units != "HU" or pixels.dtype == np.int16, "int16 in HU (round them first)"),
            (pixels.dtype.kind != "f" or np.isfinite(pixels).all(), "without NaN and infinity"),
        ):
            if not good:
                found = f"{pixels.dtype} of shape {pixels.shape}"
                raise ArgumentError(f"pixels: must be {needed}, received {found}.")
        # A read-only view: the caller's own array stays writable, the scan's does not.
        pixels = pixels.view()
        pixels.setflags(write=False)
        return pixels

    def __getattr__(self, name: str) -> Any:
        """Reads the pixels at their first use."""
        if name != "pixels" or self.__dict__.get("_source") is None:
            raise AttributeError(f"'Scan' object has no attribute {name!r}")
        self._set("pixels", self._checked(self._source.read(range(len(self)))))
        return self.pixels

    @property
    def loaded(self) -> bool:
        """Whether the pixels are in memory."""
        return "pixels" in self.__dict__

    @property
    def by_slice(self) -> bool:
        """Whether a slice can be read without the others, and its pixels are not in memory."""
        return not self.loaded and self._source.by_slice

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns."""
        return tuple((self.pixels if self.loaded else self._source).shape)

    def __len__(self) -> int:
        """Number of slices."""
        return self.shape[0]

    def read(self, index: int) -> np.ndarray:
        """Pixels (rows, columns) of one slice, of which a lazy scan keeps nothing.

        The type is that of ``pixels``, or in units ``"US"`` a smaller one that holds this slice.
        Raises an IndexError beyond the slices, an InputFileError if the file is damaged.
        """
        index = range(len(self))[index]
        return self._source.read([index])[0] if self.by_slice else self.pixels[index]

    def load(self) -> Scan:
        """The same scan with its pixels in memory; an InputFileError if a file is damaged."""
        return self if self.loaded else replace(self, pixels=self._source.read(range(len(self))))

    def __getitem__(self, index: int | slice) -> Scan:
        """A scan of the chosen slices, in memory, with its affine and files kept in step.

        Raises an IndexError for a number beyond the slices, an ArgumentError for none of them.
        """
        count = len(self)
        if not isinstance(index, slice):
            number = range(count)[index]  # IndexError and negative numbers as for a list
            index = slice(number, number + 1)
        chosen = range(count)[index]
        if len(chosen) == 0:
            raise ArgumentError(f"{index} selects none of the {count} slices of {self.name}.")
        step = chosen.step if len(chosen) > 1 else 1
        affine = self.affine
        if affine is not None:
            move = np.diag([step, 1.0, 1.0, 1.0])
            move[0, 3] = chosen.start
            affine = affine @ move
        return replace(
            self,
            pixels=self._source.read(chosen) if self.by_slice else self.pixels[index],
            spacing=(self.spacing[0] * abs(step), self.spacing[1], self.spacing[2]),
            affine=affine,
            files=self.files[index] if len(self.files) == count else self.files,
            frames=self.frames[index],
        )

    def __repr__(self) -> str:
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing)
        values = f"{self.pixels.min()}..{self.pixels.max()} " if self.loaded else ""
        return (
            f"Scan({self.name!r}, {' x '.join(map(str, self.shape))} pixels, "
            f"{spacing} mm, {values}{self.units})"
        )


def upright(scan: Scan, images: np.ndarray) -> np.ndarray:
    """Slices (…, rows, columns) as viewers show axial ones, in a view flipped by the affine."""
    if scan.affine is None:
        return images
    down, across = (-1 if scan.affine[w, axis] < 0 else 1 for axis, w in ((1, 1), (2, 0)))
    return images[..., ::down, ::across]
