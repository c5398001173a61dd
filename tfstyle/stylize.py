"""Whole scans in, whole scans out: read, window, stylize in batches, write, and give account.

The command ``tfstyle stylize`` is a thin layer over :func:`stylize_scans`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tfstyle.data import (
    Scan,
    Window,
    read_scan,
    read_scans,
    resolve_window,
    write_derived_series,
    write_nifti,
    write_png,
)
from tfstyle.errors import ArgumentError, OutputError, ServingError
from tfstyle.layers.guided import slice_reach
from tfstyle.style_transfer import DETAILS

log = logging.getLogger(__name__)

FORMATS = ("auto", "dicom", "nifti", "png")

#: Slices of a scan that are measured, at most, evenly spread.
MEASURED_SLICES = 16

#: Slices a call at least, where tone curves are smoothed along the slices: the neighbours at both
#: ends are generated twice.
SMOOTHED_SLICES = 16

#: Called as ``progress(done, total, label)`` after each batch, counting slices.
Progress = Callable[[int, int, str], None]


class Stylizer(Protocol):
    """What :func:`stylize_scans` needs: a ``StyleTransfer``, or :class:`ServedStylizer`."""

    def stylize(
        self,
        content: np.ndarray,
        style: np.ndarray | Sequence[np.ndarray],
        strength: float = 1.0,
        style_weights: Sequence[float] | None = None,
        *,
        detail: str = "guided",
        slice_sigma: float = 0.0,
    ) -> np.ndarray:
        """See :meth:`tfstyle.StyleTransfer.stylize`."""


class ServedStylizer:
    """A served model behind the interface of ``StyleTransfer.stylize``.

    Args:
        client: A :class:`tfstyle.serving.Client`.

    Example:
        >>> stylizer = ServedStylizer(tfstyle.serving.Client("127.0.0.1:8500"))
        >>> stylize_scans(stylizer, ["ct/"], ["style.dcm"], "out/")
    """

    def __init__(self, client):
        self.client = client

    def encode_style(self, style: np.ndarray, detail: str = "guided") -> np.ndarray:
        """The code of a style, so that the server looks at it once and not with every slice.

        Args:
            style: One float32 image (H', W') in [0, 1].
            detail: The mode in which it will be used.

        Returns:
            float32 array (1, 2, C + 1); the image itself where the served model was exported
            without codes.

        Raises:
            ServingError: If the server cannot be reached or refuses.
        """
        try:
            return self.client.encode_style(style, detail)
        except ServingError as error:
            if error.code not in ("FAILED_PRECONDITION", "INVALID_ARGUMENT"):
                raise
        return style

    def stylize(
        self,
        content: np.ndarray,
        style: np.ndarray | Sequence[np.ndarray],
        strength: float = 1.0,
        style_weights: Sequence[float] | None = None,
        *,
        detail: str = "guided",
        slice_sigma: float = 0.0,
    ) -> np.ndarray:
        """Calls the server.

        Args:
            content: float32 array (B, H, W, 1) in [0, 1].
            style: One float32 image (H', W') or code, or a list of them to blend.
            strength: Sent to the signatures ``…_strength`` unless 1.
            style_weights: One weight for each style of a list.
            detail: ``"plain"`` uses the signatures ``…_plain…``.
            slice_sigma: Not available: a server sees slices one by one.

        Returns:
            float32 array (B, H, W, 1) in [0, 1].

        Raises:
            ArgumentError: If styles or weights cannot be used.
            ServingError: If the server cannot be reached or refuses.
        """
        options = {} if strength == 1.0 else {"strength": strength}
        if style_weights is not None:
            options["style_weights"] = style_weights
        if detail != "guided":
            options["detail"] = detail
        return self.client.stylize(content, style, **options)


@dataclass(frozen=True)
class StylizedScan:
    """What was done to one scan.

    Attributes:
        source: Name of the scan read.
        files: Files written, in slice order.
        slices: Number of slices.
        size: Rows and columns.
        units: ``"HU"``, ``"US"`` or ``"gray"``; see :class:`tfstyle.data.Scan`.
        window: Window of the content, in `units`: what became [0, 1] and back.
        clipped_below: Share of the source's pixels below the window, which became black.
        clipped_above: Share of the source's pixels above the window, which became white.
        quantisation: Distance between two neighbouring values that the output can hold, in
            `units`.
        round_trip: Largest difference between the generated gray levels and those read back
            from the written files through `window`, in [0, 1].
        style_windows: Windows of the styles, in their own units.
        distance_before: Wasserstein distance between the histograms of content and style, the
            median over up to 16 slices; None for several styles.
        distance_after: The same between generated and style.
        structure: Structure term of SSIM between content and generated, the median over up to
            16 slices; None where no slice has anything to compare.
        seconds: Time of the model or the server, without reading and writing.
    """

    source: str
    files: tuple[str, ...]
    slices: int
    size: tuple[int, int]
    units: str
    window: Window
    clipped_below: float
    clipped_above: float
    quantisation: float
    round_trip: float
    style_windows: tuple[Window, ...]
    distance_before: float | None
    distance_after: float | None
    structure: float | None
    seconds: float

    def as_dict(self) -> dict:
        """The same as plain types for JSON."""
        return asdict(self)


def stylize_scans(
    stylizer: Stylizer,
    inputs: Sequence[str | os.PathLike],
    styles: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    window: str | Window = "auto",
    style_window: str | Window = "auto",
    series: str | None = None,
    style_series: str | None = None,
    style_slice: int | None = None,
    style_weights: Sequence[float] | None = None,
    strength: float = 1.0,
    output_format: str = "auto",
    batch_size: int = 8,
    detail: str = "guided",
    slice_sigma: float = 1.0,
    progress: Progress | None = None,
) -> list[StylizedScan]:
    """Gives scans the gray scale of other scans and writes the results.

    A DICOM series becomes a folder with a derived series, NIfTI a ``.nii.gz`` in the source's
    units, PNG a PNG of the source's depth. The generated gray levels go back to the source's
    units through the window of the content: they show as generated in that window, and are no
    measurement. Nothing is overwritten.

    Args:
        stylizer: A :class:`tfstyle.StyleTransfer` or :class:`ServedStylizer`.
        inputs: DICOM files or folders of series, NIfTI, PNG, or folders of them.
        styles: Scans with the gray scale wanted; one slice of each is used. Several are blended.
        output: Folder for the results; for one input that gives one file, that file's name.
        window: Window of the contents, see :func:`tfstyle.data.resolve_window`.
        style_window: Window of the styles.
        series: Only this series of the inputs: the end of its Series Instance UID, its number or
            its name.
        style_series: The series to take from a style folder that holds several.
        style_slice: Slice of the style scans, from 0 (negative counts from the end); the middle
            one unless given.
        style_weights: One weight for each style.
        strength: 0 keeps the content's gray scale, 1 takes the style's.
        output_format: ``"auto"`` (as the input), ``"dicom"`` (DICOM input only), ``"nifti"`` or
            ``"png"`` (8 bits, one file a slice, for viewing).
        batch_size: Slices a call.
        detail: ``"guided"`` keeps every pixel's own structure, ``"plain"`` is the decoder's
            image; see :meth:`tfstyle.StyleTransfer.stylize`.
        slice_sigma: In guided mode tone curves are smoothed along the slices of a scan with this
            standard deviation, in slices, so that neighbours do not flicker; 0 treats slices
            one by one, as a served model does.
        progress: Called after each batch.

    Returns:
        One account for each scan, in reading order.

    Raises:
        ArgumentError: An option that does not suit the scans.
        InputFileError: A file that cannot be read.
        OutputError: An output that exists already or cannot be written.
        ServingError: From a served model.

    Example:
        >>> model = tfstyle.StyleTransfer.from_preset("vgg16_ct")
        >>> stylize_scans(model, ["ct_series/"], ["reference.dcm"], "out/", window="soft_tissue")
    """
    if output_format not in FORMATS:
        raise ArgumentError(
            f"output_format: unknown value {output_format!r}; use one of {', '.join(FORMATS)}."
        )
    if not styles:
        raise ArgumentError("styles: at least one style scan is needed.")
    if style_weights is not None and len(style_weights) != len(styles):
        raise ArgumentError(
            f"style_weights: {len(style_weights)} weights for {len(styles)} styles; give one each."
        )
    if batch_size < 1:
        raise ArgumentError(f"batch_size: must be at least 1, received {batch_size}.")
    if not 0.0 <= strength <= 1.0:
        raise ArgumentError(f"strength: must lie in [0, 1], received {strength}.")
    if detail not in DETAILS:
        raise ArgumentError(
            f"detail: unknown value {detail!r}; use one of {', '.join(map(repr, DETAILS))}."
        )
    if not 0.0 <= slice_sigma < float("inf"):
        raise ArgumentError(f"slice_sigma: must be at least 0, received {slice_sigma}.")
    if detail == "plain" or isinstance(stylizer, ServedStylizer):
        slice_sigma = 0.0
    scans = [scan for path in inputs for scan in read_scans(path, series=series)]
    if not scans:
        raise ArgumentError("inputs: at least one input scan is needed.")
    windows = [resolve_window(window, scan) for scan in scans]
    style_images, style_windows = [], []
    for path in styles:
        image, used = style_image(path, style_window, style_slice, style_series)
        style_images.append(image)
        style_windows.append(used)
    codes = style_images
    if hasattr(stylizer, "encode_style"):
        codes = [stylizer.encode_style(image, detail=detail) for image in style_images]
    kinds = [_output_kind(scan, output_format) for scan in scans]
    targets = _plan(scans, kinds, Path(output))
    total = sum(len(scan) for scan in scans)
    done = 0
    results = []
    for scan, used, kind, target in zip(scans, windows, kinds, targets):
        generated, seconds = [], 0.0
        sigma = slice_sigma if len(scan) > 1 else 0.0
        reach = slice_reach(sigma)
        step = max(batch_size, SMOOTHED_SLICES) if sigma else batch_size
        for start in range(0, len(scan), step):
            stop = min(start + step, len(scan))
            # The neighbours that smoothing looks at come along and are dropped again.
            first = max(start - reach, 0)
            content = used.to_unit(scan.pixels[first : stop + reach])[..., None]
            begin = time.perf_counter()
            images = stylizer.stylize(
                content,
                codes[0] if len(codes) == 1 else codes,
                strength=strength,
                style_weights=style_weights if len(codes) > 1 else None,
                detail=detail,
                slice_sigma=sigma,
            )
            generated.append(images[start - first : stop - first, ..., 0])
            seconds += time.perf_counter() - begin
            done += stop - start
            if progress is not None:
                progress(done, total, scan.name)
        unit = np.concatenate(generated)
        files, step, error = _write(scan, unit, used, kind, target)
        log.info("%s: wrote %d files, %s", scan.name, len(files), target)
        before, after, structure = _figures(scan, used, unit, style_images)
        results.append(
            StylizedScan(
                source=scan.name,
                files=tuple(map(str, files)),
                slices=len(scan),
                size=tuple(scan.pixels.shape[1:]),
                units=scan.units,
                window=used,
                clipped_below=float(np.mean(scan.pixels < used.lower)),
                clipped_above=float(np.mean(scan.pixels > used.upper)),
                quantisation=step,
                round_trip=error,
                style_windows=tuple(style_windows),
                distance_before=before,
                distance_after=after,
                structure=structure,
                seconds=seconds,
            )
        )
    return results


def style_image(
    path: str | os.PathLike,
    window: str | Window = "auto",
    index: int | None = None,
    series: str | None = None,
) -> tuple[np.ndarray, Window]:
    """One slice of a scan as a style image.

    Args:
        path: The scan.
        window: See :func:`tfstyle.data.resolve_window`; percentiles are of the whole scan.
        index: Slice, from 0; the middle one unless given.
        series: The series to take where the path holds several.

    Returns:
        float32 image (H, W) in [0, 1], and the window that made it.

    Raises:
        ArgumentError: If there is no such slice.
        InputFileError: If the scan cannot be read.
    """
    scan = read_scan(path, series=series)
    count = len(scan)
    chosen = count // 2 if index is None else index
    if not -count <= chosen < count:
        raise ArgumentError(
            f"style_slice: {index} is not in {path}, which has {count} slices, 0 to {count - 1}."
        )
    used = resolve_window(window, scan)
    return used.to_unit(scan.pixels[chosen]), used


def source_kind(scan: Scan) -> str:
    """``"png"``, ``"nifti"`` or ``"dicom"``, by the files that a scan came from."""
    if scan.units == "gray":
        return "png"
    first = scan.files[0].lower() if scan.files else ""
    return "nifti" if first.endswith((".nii", ".nii.gz")) else "dicom"


def _output_kind(scan: Scan, output_format: str) -> str:
    source = source_kind(scan)
    kind = source if output_format == "auto" else output_format
    if kind == "dicom" and source != "dicom":
        raise ArgumentError(
            f"output_format: {scan.name} is no DICOM, so there is no header to derive one from; "
            "use 'auto', 'nifti' or 'png'."
        )
    if kind == "nifti" and source == "png":
        raise ArgumentError(
            f"output_format: {scan.name} is a picture without units and geometry; use 'png'."
        )
    return kind


_SUFFIXES = {"nifti": (".nii", ".nii.gz"), "png": (".png",), "dicom": ()}


def _plan(scans: Sequence[Scan], kinds: Sequence[str], output: Path) -> list[Path]:
    """Chooses every output path before any work, and refuses those that exist."""
    name = output.name.lower()
    as_file = name.endswith((".nii", ".nii.gz", ".png", ".dcm")) and not output.is_dir()
    if as_file:
        if len(scans) > 1:
            raise OutputError(
                output, f"is one file, but there are {len(scans)} scans; give a folder."
            )
        if not name.endswith(_SUFFIXES[kinds[0]] or "\0"):
            what = "a DICOM series is written into a folder; give a folder"
            if kinds[0] != "dicom":
                what = f"the name does not end in {' or '.join(_SUFFIXES[kinds[0]])}"
            raise OutputError(output, f"{what}, or choose another format.")
        if kinds[0] == "png" and len(scans[0]) > 1:
            raise OutputError(
                output,
                f"is one picture, but {scans[0].name} has {len(scans[0])} slices; give a folder.",
            )
        targets = [output]
    else:
        targets, taken = [], set()
        for scan, kind in zip(scans, kinds):
            base = _file_name(scan.name)
            label, number = base, 1
            while label in taken:
                number += 1
                label = f"{base}-{number}"
            taken.add(label)
            suffix = {"dicom": "", "nifti": ".nii.gz", "png": ".png" if len(scan) == 1 else ""}
            targets.append(output / f"{label}{suffix[kind]}")
    for target in targets:
        if target.is_dir() and not any(target.iterdir()):
            continue
        if target.exists():
            raise OutputError(target, "exists already and is not overwritten; choose another name.")
    folder = output.parent if as_file else output
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(folder, f"cannot be created ({error.strerror or error}).") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(folder, "is not writable; choose another folder.")
    return targets


def _file_name(name: str) -> str:
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".")
    return safe or "scan"


def _write(
    scan: Scan, unit: np.ndarray, window: Window, kind: str, target: Path
) -> tuple[list[Path], float, float]:
    """Writes one scan; returns files, quantisation step and round-trip error."""
    if kind == "dicom":
        files = write_derived_series(
            scan.files,
            unit,
            window,
            target,
            description="Gray scale changed by tfstyle style transfer; not for diagnosis",
        )
        step, back = _read_stored(files)
        return files, step, float(np.abs(window.to_unit(back) - unit).max())
    if kind == "nifti":
        write_nifti(unit, scan, window, target)
        back = read_scans(target)[0].pixels
        step = 1.0 if back.dtype.kind in "iu" else 0.0
        return [target], step, float(np.abs(window.to_unit(back) - unit).max())
    bits = 16 if scan.units == "gray" and scan.pixels.dtype == np.uint16 else 8
    if len(unit) == 1:
        files = [target]
    else:
        target.mkdir(parents=True, exist_ok=True)
        width = max(4, len(str(len(unit))))
        files = [target / f"{i:0{width}d}.png" for i in range(1, len(unit) + 1)]
    levels = 2**bits - 1
    for image, file in zip(unit, files):
        write_png(image, file, bits=bits)
    return files, window.width / levels, 0.5 / levels


def _read_stored(files: Sequence[Path]) -> tuple[float, np.ndarray]:
    """Rescale slope and values of a written series, as a viewer would read them."""
    import pydicom

    slopes, slices = [], []
    for file in files:
        dataset = pydicom.dcmread(file)
        slope = float(dataset.RescaleSlope)
        slopes.append(slope)
        slices.append(dataset.pixel_array * slope + float(dataset.RescaleIntercept))
    return max(slopes), np.stack(slices)


def _figures(
    scan: Scan, window: Window, unit: np.ndarray, styles: Sequence[np.ndarray]
) -> tuple[float | None, float | None, float | None]:
    from tfstyle.metrics import body_mask, histogram_distance, structure_similarity

    before, after, structure = [], [], []
    for i in np.unique(np.linspace(0, len(scan) - 1, MEASURED_SLICES).round().astype(int)):
        pixels, generated = scan.pixels[i], unit[i]
        content = window.to_unit(pixels)
        if min(content.shape) >= 11:
            mask = body_mask(pixels) if scan.units == "HU" else None
            structure.append(structure_similarity(content, generated, mask))
        if len(styles) == 1:
            before.append(histogram_distance(content, styles[0]))
            after.append(histogram_distance(generated, styles[0]))
    return _median(before), _median(after), _median(structure)


def _median(values: Sequence[float | None]) -> float | None:
    finite = [float(v) for v in values if v is not None and np.isfinite(v)]
    return float(np.median(finite)) if finite else None
