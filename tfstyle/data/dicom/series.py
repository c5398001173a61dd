"""Reading DICOM series as scans in Hounsfield units.

Slices are grouped by series and sorted by their position along the slice normal, Image Position
(Patient) (0020,0032) and Image Orientation (Patient) (0020,0037), never by file name where there is
anything better. Single-frame and enhanced multi-frame objects give the same scans.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from tfstyle._private.files import safe_name
from tfstyle.data.dicom.files import NoPictureError, NoSizeError, read_dataset
from tfstyle.data.dicom.headers import Frame, Identity, frames_of
from tfstyle.data.dicom.pixels import DicomPixels, OpenFiles
from tfstyle.data.dicom.stacks import ORIENTATION, clusters_of, locations_of, say, stacks_of, unlike
from tfstyle.data.privacy import mark_of
from tfstyle.data.scan import Scan
from tfstyle.errors import InputFileError

logger = logging.getLogger(__name__)

_Key = tuple[str, ...]


def read_dicom(
    paths: Sequence[str | os.PathLike],
    *,
    series: str | None = None,
    as_given: bool = False,
    lazy: bool = False,
) -> list[Scan]:
    """Reads the series that DICOM files hold, in any order, as :func:`scans_of` gives them.

    With `as_given` these very files were asked for: scouts are read like slices, and an object
    without a picture is an InputFileError, as is any file that cannot be used.
    """
    found, others = [], []
    for path in sorted(os.fspath(path) for path in paths):
        try:
            found.append(frames_of(path, read_dataset(path, pixels=False)))
        except NoPictureError as error:
            if as_given:
                raise
            others.append(error)
    say_without_picture(others, beside=bool(found))
    scans = scans_of(found, series=series, as_given=as_given)
    return scans if lazy else load_all(scans)


def load_all(scans: Iterable[Scan]) -> list[Scan]:
    """DICOM scans with their pixels in memory; a file of several stacks is decoded once."""
    files = OpenFiles()
    return [
        replace(scan, pixels=DicomPixels(scan.frames).read(range(len(scan)), files))
        for scan in scans
    ]


def say_without_picture(errors: Sequence[NoPictureError], *, beside: bool) -> None:
    """Says what was left out beside pictures: reports are normal, slices without size not."""
    lost = [error for error in errors if isinstance(error, NoSizeError)]
    if lost:
        logger.warning("Left out: %s%s: %s", lost[0].path, _more(len(lost)), lost[0].problem)
    if beside and (count := len(errors) - len(lost)):
        logger.warning("Left out: %d DICOM objects without pictures, such as reports.", count)


def scans_of(
    found: Sequence[list[Frame]],
    *,
    series: str | None = None,
    as_given: bool = False,
) -> list[Scan]:
    """The scans that files make up, by their headers; pixels come when asked.

    One a series, several where it repeats its positions or holds several orientations, in the order
    of folder and Series Number. What does not fit its series (scouts, color pictures, slices of
    another size or pixel spacing, a single slice of another orientation) is left out with a warning
    in the log.

    Args:
        found: The frames of each file, sorted by path.
        series: See :func:`tfstyle.data.read_scans`.
        as_given: See :func:`read_dicom`, as for errors.
    """
    groups = _grouped(found)
    names = _names(groups)
    places = {key: (f.path.rpartition(os.sep)[0], f.SeriesNumber, f.path)
              for key, (f, *_) in groups.items()}  # fmt: skip
    chosen = order = sorted(groups, key=lambda key: places[key])
    if series is not None:
        chosen = [key for key in order if _is_meant(series, key[0], names[key], groups[key][0])]
        # Else the name of one of several scans of a series.
        order = chosen or [key for key in order if series.startswith(f"{names[key]}_")]
    scans: list[Scan] = []
    for key in order:
        frames, name = groups[key], names[key]
        if not as_given and not (series is not None and all(f.scout for f in frames)):
            frames = _fitting(frames, name)
        elif frames[0].color:
            problem = "a color image; scans have one gray value a pixel. Give the gray original."
            raise InputFileError(frames[0].where, problem)
        clusters = _without_odd(clusters_of(frames), name)
        taken: Counter = Counter()
        for number, cluster in enumerate(clusters, start=1):
            for stack, labels in stacks_of(cluster, name):
                plane = (f"plane{number}",) if len(clusters) > 1 else ()
                label = "_".join((*plane, *labels))
                taken[label] += 1
                again = f"-{taken[label]}" if taken[label] > 1 else ""
                scans.append(_scan(stack, name, label + again))
    return scans if chosen or series is None else [s for s in scans if s.name == series]


def _scan(frames: list[Frame], name: str, stack: str) -> Scan:
    affine, step = _geometry(frames, name)
    paths = [frame.path for frame in frames]
    unspaced = next((frame.where for frame in frames if not frame.spaced), None)
    if unspaced is not None:
        what = "has no Pixel Spacing (0028,0030); its pixels are taken as 1 mm"
        say(name, f"with {unspaced} {what}")
    one = frames[0].NumberOfFrames > 1 and len(set(paths)) == 1
    windows = (frames[len(frames) // 2].window, *(frame.window for frame in frames))
    return Scan(
        cast("np.ndarray", DicomPixels(tuple(frames))),
        spacing=(step, *frames[0].PixelSpacing),
        units=frames[0].units,
        name=f"{name}_{stack}" if stack else name,
        affine=affine,
        header_window=next(filter(None, windows), None),
        files=(paths[0],) if one else tuple(paths),
        frames=tuple(frames),
        stack=stack,
    )


def _grouped(found: Sequence[list[Frame]]) -> dict[_Key, list[Frame]]:
    """The frames of each series."""
    groups: dict[_Key, list[Frame]] = {}
    keys = series_keys([(frames[0].path, frames[0].identity) for frames in found])
    for key, frames in zip(keys, found):
        groups.setdefault(key, []).extend(frames)
    uids = Counter(key[0] for key in groups if key[0])
    for key, frames in groups.items():
        if uids[key[0]] > 1:
            logger.warning(
                "One Series Instance UID stands for %d series of different patients, studies or "
                "frames of reference; the one that begins with %s is read as a scan of its own.",
                *(uids[key[0]], frames[0].path),
            )
    return groups


def series_keys(files: Sequence[tuple[str, Identity]]) -> list[tuple[str, ...]]:
    """One key a file, by its path and identity, the same for files of one series.

    Equal Series Instance UIDs, with which keys begin, do not suffice: study, frame of reference and
    patient must not differ either. What a file leaves empty counts as that of its series where
    there is but one; the folder counts where the UID is blank.
    """
    starts = [(uid, "" if uid else os.path.dirname(path)) for path, (uid, *_) in files]
    keys: list[tuple[str, ...]] = list(starts)
    for number in range(1, 5):
        known: dict[tuple[str, str], Counter] = {start: Counter() for start in starts}
        for start, (_, identity) in zip(starts, files):
            known[start][identity[number]] += 1
        for i, (start, (_, identity)) in enumerate(zip(starts, files)):
            named = [name for name in known[start] if name]
            # A frame of reference of its own for each file is none: some tools invent them.
            invented = number == 2 and len(named) > 2 and len(named) == known[start].total()
            keys[i] += ("" if invented or len(named) < 2 else identity[number],)
    return keys


def _is_meant(text: str, uid: str, name: str, frame: Frame) -> bool:
    """Whether a series is the one that a user names."""
    if text in (name, uid):
        return bool(text)
    return text.removeprefix("-").isdecimal() and int(text) == frame.SeriesNumber


def _names(groups: dict[_Key, list[Frame]]) -> dict[_Key, str]:
    """A short label a series: file stem, folder, or folder and a mark made of the UID."""
    labels: dict[_Key, str] = {}
    for key, frames in groups.items():
        paths = {os.path.abspath(f.path) for f in frames}
        if len(paths) == 1:
            labels[key] = os.path.splitext(os.path.basename(*paths))[0]
        else:
            labels[key] = os.path.basename(os.path.commonpath([*map(os.path.dirname, paths)]))
    taken = Counter(labels.values())
    for key, label in labels.items():
        if taken[label] > 1:
            mark = series_mark(key, groups)
            labels[key] += f"-{mark_of(mark) if mark else groups[key][0].SeriesNumber}"
    return {key: safe_name(label, "series") for key, label in labels.items()}


def series_mark(key: _Key, keys: Sequence[_Key] | dict) -> str:
    """What tells a series from others: its UID, and more where other keys share that."""
    shared = sum(other[:2] == key[:2] for other in set(keys)) > 1
    return "/".join(key) if shared else key[0]


def _more(count: int) -> str:
    return f" and {count - 1} more" if count > 1 else ""


def _say_odd(frames: Sequence[Frame], reason: str, name: str) -> None:
    if frames:
        say(name, f"is read without {frames[0].where}{_more(len(frames))}: {reason}")


def _fitting(frames: list[Frame], name: str) -> list[Frame]:
    """Drops scouts and color pictures."""
    if all(f.scout for f in frames):
        # A separate series of scouts is usual in a study and nothing wrong with it.
        logger.warning("Left out: series %s holds only scout images (%s).", name, frames[0].where)
        return []
    _say_odd([f for f in frames if f.scout], "a scout image (Image Type LOCALIZER)", name)
    _say_odd([f for f in frames if f.color and not f.scout], "a color image", name)
    return [f for f in frames if not f.scout and not f.color]


def _without_odd(clusters: list[list[Frame]], name: str) -> list[list[Frame]]:
    """Drops what does not fit the main part of a series and is not a stack of its own."""
    main = max(clusters, key=len, default=[])
    kept = []
    for cluster in clusters:
        reason = unlike(cluster[0], main[0])
        if reason == ORIENTATION and len(cluster) > 1:
            reason = ""
            what = f"{len(cluster)} images of another orientation ({cluster[0].where})"
            say(name, f"holds {what}; read as a scan of their own")
        if reason:
            _say_odd(cluster, reason, name)
        else:
            kept.append(cluster)
    return kept


def _geometry(frames: Sequence[Frame], name: str) -> tuple[np.ndarray | None, float]:
    """Affine (PS3.3 C.7.6.2.1.1) and slice spacing of a sorted stack; warns of gaps and tilt."""
    first = frames[0]
    step = first.step or 1.0
    if not first.placed:
        places = locations_of(frames)
        return None, step if places is None else abs(float(np.median(np.diff(places)))) or step
    normal = first.normal
    vector = normal * step
    if len(frames) > 1:
        positions = np.array([f.ImagePositionPatient for f in frames])
        steps = np.diff(positions @ normal)
        step = float(np.median(steps))
        gaps = np.flatnonzero(np.abs(steps - step) > 0.25 * step)
        if len(gaps):
            first_gap = f"{steps[gaps[0]]:.3g} mm) after {frames[gaps[0]].where}"
            what = f"{len(gaps)} of {len(steps)} steps differ from {step:.3g} mm"
            say(name, f"is unevenly spaced: {what}, the first ({first_gap}; slices may be missing")
        direction = positions[-1] - positions[0]
        vector = direction * (step / float(direction @ normal))
        tilt = np.degrees(np.arctan2(np.linalg.norm(vector - normal * step), step))
        if tilt > 0.5:
            what = f"{tilt:.1f} degrees (gantry tilt)"
            say(name, f"is sheared by {what}; slices are read as they are")
    affine = np.eye(4)
    affine[:3, 0] = vector
    affine[:3, 1] = first.cosines[1] * first.PixelSpacing[0]
    affine[:3, 2] = first.cosines[0] * first.PixelSpacing[1]
    affine[:3, 3] = first.ImagePositionPatient
    return affine, step
