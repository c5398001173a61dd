"""Reading DICOM series as scans in Hounsfield units.

Slices are grouped by series and sorted by their position along the slice normal, Image Position
(Patient) (0020,0032) and Image Orientation (Patient) (0020,0037), never by file name where there is
anything better. Single-frame and enhanced multi-frame objects give the same scans.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from tfstyle._private.files import safe_name
from tfstyle.data.dicom.files import (
    NoPictureError,
    NoSizeError,
    NotDicomError,
    damage_is_input_error,
    read_dataset,
)
from tfstyle.data.dicom.headers import HEADER_TAGS, Frame, frames_of
from tfstyle.data.dicom.pixels import compact, decode, plane_of, read_frame
from tfstyle.data.dicom.stacks import (
    clusters_of,
    same_orientation,
    same_spacing,
    series_keys,
    slice_places,
    stacks_of,
)
from tfstyle.data.privacy import mark_of
from tfstyle.data.scan import Scan
from tfstyle.data.windows import Window
from tfstyle.errors import ArgumentError, InputFileError
from tfstyle.limits import check

logger = logging.getLogger(__name__)

_Key = tuple[str, ...]


def read_dicom(
    paths: Sequence[str | os.PathLike],
    *,
    series: str | None = None,
    on_odd: str = "skip",
    as_given: bool = False,
    lazy: bool = False,
) -> list[Scan | DicomSeries]:
    """Reads the series that a set of DICOM files holds.

    Args:
        paths: DICOM files, in any order.
        series: Keep only the series whose Series Number, name, Series Instance UID or mark
            (:func:`tfstyle.data.privacy.mark_of`) equals this text, or whose UID ends with it, from
            a dot on or with six digits at least.
        on_odd: What to do with files that do not fit their series (scouts, color pictures, slices
            of another size or pixel spacing, a single slice of another orientation): ``"skip"``
            leaves them out with a warning in the log that names them, ``"error"`` raises.
        as_given: Whether these very files were asked for: then scouts are read like slices, and an
            object without a picture is an error.
        lazy: Give a :class:`DicomSeries` where slices can be read one by one.

    Returns:
        One scan a series (several, where a series repeats its positions or holds several
        orientations), in the order of folder and Series Number.

    Raises:
        InputFileError: If a file cannot be used; the message names it.
    """
    groups = _series(sorted(os.fspath(path) for path in paths), as_given)
    names = _names(groups)
    order = sorted(
        groups,
        key=lambda key: (
            os.path.dirname(groups[key][0].path),
            groups[key][0].SeriesNumber,
            groups[key][0].path,
        ),
    )
    if series is not None:
        order = [key for key in order if _is_meant(series, key[0], names[key], groups[key][0])]
    scans: list[Scan | DicomSeries] = []
    for key in order:
        frames = groups[key]
        if as_given or (series is not None and all(f.scout for f in frames)):
            fitting = frames
            if frames[0].color:
                _raise_color(frames[0])
        else:
            fitting = _fitting(frames, names[key], on_odd)
        decoded: dict[str, tuple[Dataset, np.ndarray]] = {}  # once for all stacks
        for cluster in _without_odd(clusters_of(fitting), names[key], on_odd):
            for stack in stacks_of(cluster, names[key]):
                scan = DicomSeries(stack, names[key])
                scans.append(scan if lazy and scan.can_read else scan.load(decoded))
    return scans


def _series(paths: Sequence[str], as_given: bool) -> dict[_Key, list[Frame]]:
    """The frames of each series."""
    found: list[list[Frame]] = []
    lost: list[InputFileError] = []
    others: list[InputFileError] = []
    for path in paths:
        try:
            found.append(frames_of(path, read_dataset(path, pixels=False, tags=HEADER_TAGS)))
        except (NoPictureError, NotDicomError) as error:
            if as_given:
                raise
            # A report or a plan in the folder is normal, a slice that lost its size is not.
            normal = isinstance(error, NoPictureError) and not isinstance(error, NoSizeError)
            (others if normal else lost).append(error)
            logger.debug("Left out: %s", error)
    if lost:
        logger.warning("Left out: %s%s: %s", lost[0].path, _more(len(lost)), lost[0].problem)
    if found and others:
        logger.warning("Left out: %d DICOM objects without pictures, such as reports.", len(others))
    groups: dict[_Key, list[Frame]] = {}
    keys = series_keys([(frames[0].path, frames[0].identity) for frames in found])
    for key, frames in zip(keys, found):
        groups.setdefault(key, []).extend(frames)
    uids = [key[0] for key in groups if key[0]]
    for key in groups:
        if uids.count(key[0]) > 1:
            logger.warning(
                "One Series Instance UID stands for %d series of different patients, studies or "
                "frames of reference; the one that begins with %s is read as a scan of its own.",
                uids.count(key[0]),
                groups[key][0].path,
            )
    return groups


def _is_meant(text: str, uid: str, name: str, frame: Frame) -> bool:
    """Whether a series is the one that a user names."""
    if text in (name, uid) or (uid and text == mark_of(uid)):
        return bool(text)
    if text.removeprefix("-").isdecimal():
        # A few digits are a Series Number and no end of a UID, whatever UIDs end in them.
        return int(text) == frame.SeriesNumber or (len(text) > 5 and uid.endswith(text))
    return "." in text and uid.endswith("." + text.removeprefix("."))


def _names(groups: dict[_Key, list[Frame]]) -> dict[_Key, str]:
    """A short label a series: file stem, folder, or folder and a mark made of the UID."""
    labels: dict[_Key, str] = {}
    for key, frames in groups.items():
        paths = {f.path for f in frames}
        first = os.path.abspath(frames[0].path)
        if len(paths) == 1:
            labels[key] = os.path.splitext(os.path.basename(first))[0] or os.path.basename(first)
        else:
            common = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in paths])
            labels[key] = os.path.basename(common) or "series"
    taken = list(labels.values())
    marks = {key: series_mark(key, groups) for key in labels}
    for key, label in labels.items():
        if taken.count(label) > 1:
            tail = mark_of(marks[key]) if marks[key] else str(groups[key][0].SeriesNumber)
            labels[key] = f"{label}-{tail}"
    return {key: safe_name(label, "series") for key, label in labels.items()}


def series_mark(key: _Key, keys: Sequence[_Key] | dict) -> str:
    """What tells a series from others: its UID, and more where others share that; "" if blank.

    Args:
        key: One of :func:`tfstyle.data.dicom.stacks.series_keys`.
        keys: All keys.
    """
    shared = sum(other[:2] == key[:2] for other in set(keys)) > 1
    return "/".join(key) if shared else key[0]


def _raise_color(frame: Frame) -> None:
    raise InputFileError(
        frame.where, "a colour image; scans have one gray value a pixel. Give the gray original."
    )


def _more(count: int) -> str:
    return f" and {count - 1} more" if count > 1 else ""


def _odd(frames: Sequence[Frame], reason: str, name: str, on_odd: str) -> None:
    if on_odd == "error":
        raise InputFileError(
            frames[0].where, f"{reason}; take it out of series {name}, or read with on_odd='skip'."
        )
    where, more = frames[0].where, _more(len(frames))
    logger.warning("Left out of series %s: %s%s: %s.", name, where, more, reason)


def _fitting(frames: list[Frame], name: str, on_odd: str) -> list[Frame]:
    """Drops scouts and color pictures."""
    if all(f.scout for f in frames):
        # A separate series of scouts is usual in a study and nothing wrong with it.
        logger.warning("Left out: series %s holds only scout images (%s).", name, frames[0].where)
        return []
    scouts = [f for f in frames if f.scout]
    colored = [f for f in frames if f.color and not f.scout]
    if scouts:
        _odd(scouts, "a scout image (Image Type LOCALIZER)", name, on_odd)
    if colored:
        _odd(colored, "a colour image", name, on_odd)
    return [f for f in frames if not f.scout and not f.color]


def _without_odd(clusters: list[list[Frame]], name: str, on_odd: str) -> list[list[Frame]]:
    """Drops what does not fit the main part of a series and is not a stack of its own."""
    if not clusters:
        return []
    main = max(clusters, key=len)
    kept = []
    for cluster in clusters:
        expected, found = main[0], cluster[0]
        if cluster is main:
            reason = ""
        elif found.shape != expected.shape:
            reason = (
                f"{found.Rows} x {found.Columns} pixels, unlike the "
                f"{expected.Rows} x {expected.Columns} of its series"
            )
        elif not same_spacing(found, expected):
            reason = "another pixel spacing than its series"
        elif found.placed != expected.placed:
            reason = f"has no {_unknown(found)}, unlike its series"
        elif found.units != expected.units:
            reason = "other units than its series"
        elif len(cluster) > 1 and not same_orientation(found, expected):
            reason = ""
            logger.warning(
                "Series %s holds %d images of another orientation (%s); read as a scan of their "
                "own.",
                name,
                len(cluster),
                found.where,
            )
        else:
            reason = "another orientation than its series"
        if not reason:
            kept.append(cluster)
            continue
        _odd(cluster, reason, name, on_odd)
    return kept


def _unknown(frame: Frame) -> str:
    if frame.ImagePositionPatient is None:
        return "position" + " in numbers" * ("ImagePositionPatient" in frame.malformed)
    return "orientation" + " in numbers" * ("ImageOrientationPatient" in frame.malformed)


class DicomSeries:
    """A sorted series, described by its headers; pixels come when asked.

    It has the attributes of a :class:`tfstyle.data.Scan`, and its slices are those of the scan, so
    that a series of any length takes the memory of the slices in use. ``pixels`` reads all of
    them, again each time.

    Args:
        frames: The slices, sorted.
        name: Label of the series.

    Example:
        >>> (series,) = read_dicom(files, lazy=True)  # doctest: +SKIP
        >>> first = series.read(0)  # doctest: +SKIP
    """

    def __init__(self, frames: Sequence[Frame], name: str):
        self.frames = tuple(frames)
        self.name = name
        self.units = frames[0].units
        self.affine, step = _geometry(frames, name)
        self.spacing = (step, *frames[0].PixelSpacing)
        self.header_window = frames[len(frames) // 2].window or next(
            (frame.window for frame in frames if frame.window), None
        )
        paths = [frame.path for frame in frames]
        one = frames[0].NumberOfFrames > 1 and len(set(paths)) == 1
        self.files = (paths[0],) if one else tuple(paths)
        self.shape = (len(frames), *frames[0].shape)

    @property
    def can_read(self) -> bool:
        """Whether slices can be read on their own: in HU, and each in a file of its own.

        In other units the type of the pixels, and where low is bright, depends on all of them.
        """
        return self.units == "HU" and all(frame.NumberOfFrames == 1 for frame in self.frames)

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.frames)

    def read(self, index: int) -> np.ndarray:
        """Pixels of one slice: int16 HU (rows, columns).

        Raises:
            InputFileError: If the file is damaged.
        """
        return read_frame(self.frames[index])

    @property
    def pixels(self) -> np.ndarray:
        """All pixels, int16 HU (slices, rows, columns), read at each use."""
        return self.load().pixels

    def load(self, decoded: dict[str, tuple[Dataset, np.ndarray]] | None = None) -> Scan:
        """The whole series as a scan.

        Args:
            decoded: Files of several frames that other stacks have used; others are added.

        Raises:
            InputFileError: If a file is damaged.
        """
        pixels, window = self._decode(decoded), self.header_window
        if self.units != "HU":
            pixels = compact(pixels)
            if self.frames[0].inverted:  # low values are bright: turn them and the window round
                ends = pixels.min() + pixels.max()
                pixels = compact(pixels.astype(np.float64) * -1 + float(ends))
                if window is not None:
                    window = Window(float(ends) - window.centre, window.width)
        return Scan(
            pixels=pixels,
            spacing=self.spacing,
            units=self.units,
            name=self.name,
            affine=self.affine,
            header_window=window,
            files=self.files,
            frames=self.frames,
        )

    def _decode(self, decoded: dict[str, tuple[Dataset, np.ndarray]] | None) -> np.ndarray:
        count, rows, columns = self.shape
        check(
            self.frames[0].path,
            "scan_pixels",
            count * rows * columns,
            f"the first of {count} slices of {rows} x {columns} pixels",
        )
        datasets = {} if decoded is None else decoded
        last_use = {frame.path: i for i, frame in enumerate(self.frames)}
        planes = []
        for i, frame in enumerate(self.frames):
            if frame.path not in datasets:
                dataset = read_dataset(frame.path, pixels=True)
                with damage_is_input_error(frame.path):
                    datasets[frame.path] = dataset, decode(frame.path, dataset)
            with damage_is_input_error(frame.path):
                planes.append(plane_of(frame, *datasets[frame.path]))
            if last_use[frame.path] == i and (decoded is None or frame.NumberOfFrames == 1):
                del datasets[frame.path]
        return np.stack(planes)


def source_frames(paths: Sequence[str | os.PathLike]) -> tuple[Frame, ...]:
    """One frame for each slice of the one scan in these files, in its order.

    Raises:
        ArgumentError: If the files do not form one scan, or form several.
        InputFileError: If one cannot be read.
    """
    paths = [os.fspath(path) for path in paths]
    if not paths:
        raise ArgumentError("scan_sources is empty; give the scan, or its files.")
    frames: list[Frame] = []
    for path in dict.fromkeys(paths):
        frames.extend(frames_of(path, read_dataset(path, pixels=False, tags=HEADER_TAGS)))
    if len(frames) == len(paths) and all(frame.NumberOfFrames == 1 for frame in frames):
        return tuple(frames)
    stacks = [stack for cluster in clusters_of(frames) for stack in stacks_of(cluster)]
    fitting = [s for s in stacks if len(set(paths)) == 1 or [f.path for f in s] == paths]
    if len(fitting) == 1:
        return tuple(fitting[0])
    raise ArgumentError(
        f"scan_sources: the frames of these {len(set(paths))} files form {len(stacks)} stacks, not "
        f"one of {len(paths)} slices; give the scan itself, which knows its frames."
    )


def _geometry(frames: Sequence[Frame], name: str) -> tuple[np.ndarray | None, float]:
    """Affine (PS3.3 C.7.6.2.1.1) and slice spacing of a sorted stack; warns of gaps and tilt."""
    first = frames[0]
    step = first.step or 1.0
    if not first.placed:
        places = slice_places(frames) if len(frames) > 1 else None
        return None, step if places is None else abs(float(np.median(np.diff(places)))) or step
    normal = first.normal
    vector = normal * step
    if len(frames) > 1:
        positions = np.array([f.ImagePositionPatient for f in frames])
        steps = np.diff(positions @ normal)
        step = float(np.median(steps))
        gaps = np.flatnonzero(np.abs(steps - step) > 0.25 * step)
        if len(gaps):
            logger.warning(
                "Series %s is unevenly spaced: %d of %d steps differ from %.3g mm, the first "
                "(%.3g mm) after %s. Slices may be missing.",
                name,
                len(gaps),
                len(steps),
                step,
                steps[gaps[0]],
                frames[gaps[0]].where,
            )
        direction = positions[-1] - positions[0]
        vector = direction * (step / float(direction @ normal))
        tilt = np.degrees(np.arctan2(np.linalg.norm(vector - normal * step), step))
        if tilt > 0.5:
            logger.warning(
                "Series %s is sheared by %.1f degrees (gantry tilt); slices are read as they are.",
                name,
                tilt,
            )
    affine = np.eye(4)
    affine[:3, 0] = vector
    affine[:3, 1] = first.ImageOrientationPatient[3:] * first.PixelSpacing[0]
    affine[:3, 2] = first.ImageOrientationPatient[:3] * first.PixelSpacing[1]
    affine[:3, 3] = first.ImagePositionPatient
    return affine, step
