"""Reading DICOM series as scans: slices grouped, and sorted by position along their normal."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from tfstyle._private.files import safe_name
from tfstyle.data.dicom.files import NoPictureError, read_dataset
from tfstyle.data.dicom.headers import Frame, Identity, frames_of
from tfstyle.data.dicom.pixels import DicomPixels, OpenFiles
from tfstyle.data.dicom.stacks import clusters_of, say, stacks_of, unlike
from tfstyle.data.scan import Scan
from tfstyle.errors import InputFileError

logger = logging.getLogger(__name__)


def read_dicom(
    paths: Sequence[str | os.PathLike],
    *,
    name: str = "",
    as_given: bool = False,
    lazy: bool = False,
) -> list[Scan]:
    """Reads the files of one series, in any order: one scan, several, or none.

    There are several where the series repeats its positions or holds several orientations. What
    does not fit (scouts, color pictures, other sizes) is left out with a warning that names it.
    With `as_given` these very files were asked for: scouts are read like slices, and an object
    without a picture is an InputFileError.
    """
    files = sorted(os.fspath(path) for path in paths)
    name = name or series_name(files)
    frames: list[Frame] = []
    left = []
    for path in files:
        try:
            frames += frames_of(path, read_dataset(path, pixels=False))
        except NoPictureError as error:
            if as_given:
                raise
            left.append(error)
    if left:
        logger.warning("Left out: %s%s: %s", left[0].path, _more(len(left)), left[0].problem)
    if frames and not as_given:
        frames = _fitting(frames, name)
    elif frames and frames[0].color:
        problem = "a color image; scans have one gray value a pixel. Give the gray original."
        raise InputFileError(frames[0].where, problem)
    clusters = _without_odd(clusters_of(frames), name)
    taken: Counter = Counter()
    scans = []
    for number, cluster in enumerate(clusters, start=1):
        for stack, labels in stacks_of(cluster, name):
            plane = (f"plane{number}",) if len(clusters) > 1 else ()
            label = "_".join((*plane, *labels))
            taken[label] += 1
            again = f"-{taken[label]}" if taken[label] > 1 else ""
            scans.append(_scan(stack, name, label + again))
    return scans if lazy else load_all(scans)


def load_all(scans: Iterable[Scan]) -> list[Scan]:
    """Scans with their pixels in memory; a DICOM file of several of them is decoded once."""
    files = OpenFiles()
    return [
        replace(scan, pixels=DicomPixels(scan.frames).read(range(len(scan)), files))
        if scan.frames
        else scan.load()
        for scan in scans
    ]


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


def series_keys(files: Sequence[tuple[str, Identity]]) -> list[tuple[str, ...]]:
    """One key a file, by its path and identity, the same for files of one series.

    It begins with the Series Instance UID, or the folder where that is blank; study, frame of
    reference and patient must not differ either, but may be left empty by some of the files.
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


def series_name(files: Sequence[str]) -> str:
    """A short label of a series: the stem of its file, or the folder of several."""
    paths = [os.path.abspath(file) for file in files]
    if len(paths) == 1:
        label = os.path.splitext(os.path.basename(paths[0]))[0]
    else:
        label = os.path.basename(os.path.commonpath([*map(os.path.dirname, paths)]))
    return safe_name(label, "series")


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
        what = unlike(cluster[0], main[0])
        if what == "orientation" and len(cluster) > 1:
            images = f"{len(cluster)} images of another orientation ({cluster[0].where})"
            say(name, f"holds {images}; read as a scan of their own")
        elif what:
            _say_odd(cluster, f"unlike its series in {what}", name)
            continue
        kept.append(cluster)
    return kept


def _geometry(frames: Sequence[Frame], name: str) -> tuple[np.ndarray | None, float]:
    """Affine (PS3.3 C.7.6.2.1.1) and slice spacing of a sorted stack; warns of gaps and tilt."""
    first = frames[0]
    step = first.step or 1.0
    if not first.placed:
        return None, step
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
