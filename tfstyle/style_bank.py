"""Style banks: styles encoded once, to draw from while augmenting."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfstyle._private.files import free_name, parse_json, read_arrays
from tfstyle.data import Scan, list_scans, read_scans
from tfstyle.data.scan import upright
from tfstyle.data.windows import WindowSpec, suitable
from tfstyle.errors import ArgumentError, InputFileError, OutputError, WeightsError

if TYPE_CHECKING:
    from tfstyle.style_transfer import StyleTransfer
    from tfstyle.tone import ToneTransfer

log = logging.getLogger(__name__)

FORMAT = 1

#: Slices whose gray levels have a smaller standard deviation show nothing.
FLAT = 0.01


@dataclass(frozen=True, eq=False)
class StyleBank:
    """Styles as codes of one model, with what is needed to name and weight them.

    It holds no image: a code is the mean and standard deviation of each feature channel, or the
    gray levels and features of some pixels, without their places.

    Attributes:
        codes: float32 (N, …), see ``encode_style`` of :class:`tfstyle.ToneTransfer` and
            :class:`tfstyle.StyleTransfer`.
        names: One label a style; equal ones become different by a number. Defaults to
            ``style-0`` ….
        weights: float64 (N,), how often each is drawn, relative to the others. Defaults to equal.
        probe: float32 code of a fixed test image, by which :meth:`check` knows the encoder again;
            or None.
        files: The files that each style came from, as far as known; not saved.

    Raises:
        ArgumentError: if the arrays do not fit each other or hold values that cannot be used.

    Example:
        >>> bank = StyleBank.from_scans(model, ["scanner_a/", "scanner_b/"], windows=["bone"])
        >>> bank.save("styles.npz")
        >>> layer = tfstyle.StyleAugmentation(model, StyleBank.load("styles.npz"))
    """

    codes: np.ndarray
    names: tuple[str, ...] = ()
    weights: np.ndarray | None = None
    probe: np.ndarray | None = None
    files: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        codes = _numbers(self.codes, "codes", np.float32)
        if codes.ndim != 3 or 0 in codes.shape:
            raise ArgumentError(
                "codes: need the shape (N, rows, columns) of encode_style with at least one style, "
                f"received {codes.shape}."
            )
        if codes.shape[1] == 2 and (codes[:, 1] < 0).any():
            raise ArgumentError("codes: standard deviations, codes[:, 1], must not be negative.")
        count = len(codes)
        names = tuple(map(str, self.names)) or tuple(f"style-{i}" for i in range(count))
        weights = np.ones(count) if self.weights is None else self.weights
        weights = _numbers(weights, "weights", np.float64)
        if len(names) != count or weights.shape != (count,):
            raise ArgumentError(
                f"names and weights: need one for each of {count} styles, received {len(names)} "
                f"names and weights of shape {weights.shape}."
            )
        if (weights < 0).any() or not weights.sum() > 0:
            raise ArgumentError("weights: must be at least 0, and not all 0.")
        if self.files and len(self.files) != count:
            raise ArgumentError(f"files: need one entry for each of {count} styles.")
        found: dict[str, Any] = {"codes": codes, "names": _distinct(names), "weights": weights}
        found["files"] = tuple(tuple(map(str, files)) for files in self.files)
        if self.probe is not None:
            found["probe"] = probe = _numbers(self.probe, "probe", np.float32)
            if probe.shape != codes.shape[1:]:
                what = f"need the shape {codes.shape[1:]}, received {probe.shape}"
                raise ArgumentError(f"probe: {what}.")
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """Number of styles."""
        return len(self.codes)

    def __repr__(self) -> str:
        rows, columns = self.codes.shape[1:]
        return f"StyleBank({len(self)} styles, codes of {rows}x{columns})"

    # -- making ----------------------------------------------------------------------------
    @classmethod
    def encode(
        cls,
        network: ToneTransfer | StyleTransfer,
        images: Sequence[np.ndarray],
        *,
        names: Sequence[str] = (),
        weights: Sequence[float] | None = None,
        files: Sequence[Sequence[str]] = (),
    ) -> StyleBank:
        """Encodes images, float (H, W) or (H, W, 1) in [0, 1], which may differ in size.

        For a ``ToneTransfer`` an image may also be slices of one scan (S, H, W, 1), which make one
        style. See the class for the other arguments. Raises an ArgumentError if there is no image,
        or one cannot be used.
        """
        if len(images) == 0:
            raise ArgumentError("images: a style bank needs at least one image.")
        codes = [
            network.encode_style(image, **({"one_code": True} if np.ndim(image) == 4 else {}))
            for image in images
        ]
        return cls(
            codes=np.concatenate(codes),
            names=tuple(names),
            weights=None if weights is None else np.asarray(weights),
            probe=_probe(network),
            files=tuple(map(tuple, files)),
        )

    @classmethod
    def from_scans(
        cls,
        network: ToneTransfer | StyleTransfer,
        paths: str | os.PathLike | Sequence[str | os.PathLike],
        *,
        windows: Sequence[WindowSpec] = ("auto",),
        slices: int | None = None,
    ) -> StyleBank:
        """Encodes slices of scans, each through each window, and joins saved banks.

        Args:
            network: The model that will use the codes.
            paths: One or several of: a DICOM, NIfTI or PNG file; a folder of them, of which each
                scan is taken that can be read; a bank that :meth:`save` wrote (``.npz``).
            windows: Windows of the styles, see :func:`tfstyle.data.resolve_window`. One that does
                not suit a scan (a name in HU for a picture) is passed over for that scan.
            slices: Slices to take of each scan, evenly spread, each of them a style; the middle
                one for 1. Defaults to one style a scan: of up to 16 slices for a ``ToneTransfer``,
                of the middle one for other models. Slices that show nothing through a window are
                left out.

        Returns:
            The bank, in the order of the paths.

        Raises:
            ArgumentError: no path, no window, no window that suits a scan, or nothing to see.
            InputFileError: a file that cannot be read.
            WeightsError: a saved bank of another model.
        """
        try:
            several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
            chosen = [os.fspath(path) for path in several]
        except TypeError as error:
            raise ArgumentError(f"paths: need paths of scans or banks ({error}).") from None
        windows = [windows] if isinstance(windows, str) else list(windows)
        if not chosen:
            raise ArgumentError("paths: a style bank needs at least one scan.")
        if not windows:
            raise ArgumentError("windows: at least one is needed; 'auto' is the default.")
        if slices is not None and slices < 1:
            raise ArgumentError(f"slices: must be at least 1, received {slices!r}.")
        from tfstyle.tone.model import SLICES, ToneTransfer

        together = slices is None and isinstance(network, ToneTransfer)
        slices = SLICES if together else slices or 1
        banks = []
        for path in chosen:
            if path.lower().endswith(".npz"):
                bank = cls.load(path)
                bank.check(network)
            else:
                images, names, files = [], [], []
                for scan in _scans(path):
                    for image, name in _views(scan, windows, slices, together):
                        images.append(image)
                        names.append(name)
                        files.append(scan.files)
                bank = cls.encode(network, images, names=names, files=files)
            banks.append(bank)
        return cls(
            codes=np.concatenate([bank.codes for bank in banks]),
            names=tuple(name for bank in banks for name in bank.names),
            weights=np.concatenate([bank.weights for bank in banks]),
            probe=next((bank.probe for bank in banks if bank.probe is not None), None),
            files=tuple(f for bank in banks for f in bank.files or ((),) * len(bank)),
        )

    def check(self, network: ToneTransfer | StyleTransfer) -> None:
        """Makes sure that `network` can use the codes.

        Raises:
            WeightsError: if they are of another model.
        """
        shape = network.code_shape
        if self.codes.shape[1:] != shape:
            raise WeightsError(
                "style bank: its codes have {} rows and {} columns, those of the model {} and {}; "
                "encode the styles again with this model.".format(*self.codes.shape[1:], *shape)
            )
        if self.probe is not None:
            now = _probe(network)
            if not np.allclose(now, self.probe, rtol=1e-2, atol=1e-2 * np.abs(now).max()):
                raise WeightsError(
                    "style bank: encoded by another encoder than the model's; encode the styles "
                    "again with this model."
                )

    # -- files -----------------------------------------------------------------------------
    def save(self, path: str | os.PathLike) -> None:
        """Writes the bank as one ``.npz`` of plain arrays.

        Args:
            path: Output file, ending in ``.npz``; an older one is replaced as a whole.

        Raises:
            OutputError: if it cannot be written or the name ends otherwise.
        """
        from tfstyle.encoders.weights import save_npz

        path = Path(path)
        if path.suffix != ".npz":
            raise OutputError(path, "style banks end in .npz; choose such a name.")
        about = {"format": FORMAT, "names": self.names}
        arrays: dict[str, Any] = {"about": np.array(json.dumps(about)), "codes": self.codes}
        for name in ("weights", "probe"):
            if getattr(self, name) is not None:
                arrays[name] = getattr(self, name)
        save_npz(path, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> StyleBank:
        """Reads a bank that :meth:`save` wrote.

        Raises:
            InputFileError: if the file is missing, damaged or something else.
        """
        path = os.fspath(path)
        try:
            arrays: dict[str, Any] = read_arrays(path)
            about = parse_json(str(arrays.pop("about")))
            if about["format"] != FORMAT:
                raise InputFileError(
                    path,
                    f"a style bank of format {about['format']!r}, not {FORMAT}; encode it again.",
                )
            arrays.pop("quantiles", None)  # of banks of before
            return cls(names=tuple(about["names"]), **arrays)
        except FileNotFoundError:
            raise InputFileError(path, "no such file.") from None
        except InputFileError:
            raise
        except Exception as error:
            raise InputFileError(path, f"not a readable style bank ({error}).") from error


def _scans(path: str) -> Iterator[Scan]:
    """The scans of a file or folder, one at a time; what is damaged in a folder is passed over."""
    if not os.path.isdir(path):
        yield from read_scans(path)
        return
    found, damaged = list_scans(path)
    count = 0
    for files in found:
        try:
            scans = files.read()
        except InputFileError as error:
            damaged.append(error)
            continue
        count += len(scans)
        yield from scans
    for each in damaged:
        log.warning("Left out of the styles: %s", each)
    if not count:
        raise InputFileError(path, "holds no scan that can be read; give other styles.")


def _views(
    scan: Scan, specs: Sequence[WindowSpec], slices: int, together: bool
) -> list[tuple[np.ndarray, str]]:
    """Slices of a scan through windows, with their names; if `together`, one view a window."""
    windows = suitable(specs, scan)
    count = len(scan)
    chosen = min(slices, count)
    indices = [int((i + 0.5) / chosen * count) for i in range(chosen)]
    views = []
    for group in [indices] if together else [[index] for index in indices]:
        for spec, window in windows:
            images = [window.to_unit(upright(scan, scan.pixels[index])) for index in group]
            name = scan.name if count == 1 or together else f"{scan.name}[{group[0]}]"
            if len(specs) > 1:
                shown = f"{window.center:g}/{window.width:g}"
                name += f" {spec if isinstance(spec, str) else shown}"
            images = [image for image in images if image.std() >= FLAT]
            if not images:
                log.warning("Left out: style %s shows nothing but one gray level.", name)
            else:
                views.append((np.stack(images)[..., None] if together else images[0], name))
    if not views:
        raise InputFileError(
            scan.files[0] if scan.files else scan.name,
            "shows nothing but one gray level through its window; choose another window.",
        )
    return views


def _probe(network: ToneTransfer | StyleTransfer) -> np.ndarray:
    """Code of a fixed image with edges at several scales, in which no gray level comes twice."""
    y, x = np.mgrid[:32, :32]
    image = ((x * y) % 17 / 16 + (x // 8 + y // 8) % 2).ravel()
    ranks = np.argsort(np.argsort(image, kind="stable")).reshape(32, 32)
    return network.encode_style((ranks / 1023).astype(np.float32))[0]


def _numbers(values, name: str, kind) -> np.ndarray:
    try:
        array = np.array(values, dtype=kind)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name}: not a numeric array ({error}).") from None
    if not np.isfinite(array).all():
        raise ArgumentError(f"{name}: holds NaN or infinite values.")
    array.setflags(write=False)
    return array


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    taken: dict[str, None] = {}
    for name in names:
        taken[free_name(name, taken)] = None
    return tuple(taken)
