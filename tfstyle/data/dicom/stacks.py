"""Which frames of a series belong together: stacks of one image a place, told by their headers."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import groupby, pairwise

import numpy as np

from tfstyle.data.dicom.headers import CONTRASTS, Frame
from tfstyle.errors import InputFileError

logger = logging.getLogger(__name__)

_SAME_PLACE = 0.01  # mm


def say(name: str, what: str) -> None:
    """Warns of something in a series."""
    logger.warning("Series %s %s.", name, what)


def clusters_of(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Groups frames of equal size, orientation, pixel spacing and units."""
    clusters: list[list[Frame]] = []
    for frame in frames:
        for cluster in clusters:
            if not unlike(frame, cluster[0]):
                cluster.append(frame)
                break
        else:
            clusters.append([frame])
    return clusters


def unlike(frame: Frame, other: Frame) -> str:
    """In what a frame is unlike another one of its series, "" where they may be of one stack."""
    if frame.shape != other.shape:
        return "size"
    if not np.allclose(frame.PixelSpacing, other.PixelSpacing, rtol=1e-3):
        return "pixel spacing"
    if (frame.units, frame.scout, frame.inverted) != (other.units, other.scout, other.inverted):
        return "units"
    if (frame.ImagePositionPatient is None) != (other.ImagePositionPatient is None):
        return "position"
    one, two = frame.ImageOrientationPatient, other.ImageOrientationPatient
    if one is None or two is None:
        return "" if one is two else "position"
    return "" if np.allclose(one, two, atol=2e-3) else "orientation"


def stacks_of(frames: Sequence[Frame], name: str) -> list[tuple[list[Frame], tuple[str, ...]]]:
    """Sorts frames of one series, size and orientation along their normal, into stacks.

    There are several where places repeat, each with what tells it apart, such as ``("phase1",
    "echo2")``: numbers and no values of the header, which may be private.
    """
    frames = _without_copies(frames, name)
    places, frames = _places(frames, name)
    if places is None:
        return [(frames, ())]
    stacks = _separate(list(zip(places, frames)), _contrasts(frames))
    if len(stacks) > 1:
        repeated = _repeated(zip(places, frames))
        what = f"up to {repeated} images at one position" if repeated > 1 else "several stacks"
        how = ", ".join("_".join(labels) for _, labels in stacks)
        say(name, f"holds {what}; read as {len(stacks)} scans, told apart as {how}")
    return [
        ([frame for _, frame in sorted(stack, key=lambda item: item[0])], labels)
        for stack, labels in stacks
    ]


def _without_copies(frames: Sequence[Frame], name: str) -> list[Frame]:
    """Frames in the order of Instance Number, each once."""
    unique: dict[tuple, Frame] = {}
    for frame in sorted(frames, key=_order):
        place = str(frame.ImagePositionPatient)
        key = frame.SOPInstanceUID or frame.path, frame.index, frame.InstanceNumber, place
        first = unique.setdefault(key, frame)
        if first is not frame:
            say(name, f"is read without {frame.where}, which is a copy of {first.where}")
    return list(unique.values())


def _natural(path: str) -> list[tuple[int, str]]:
    """Sorts names with their numbers as numbers: IM2 before IM10."""
    return [(int(n) if n else -1, text) for n, text in re.findall(r"(\d*)(\D*)", path)]


def _order(frame: Frame) -> tuple:
    number = frame.InstanceNumber
    return number is None, number or 0, _natural(frame.path), frame.index


def _places(frames: list[Frame], name: str) -> tuple[list[float] | None, list[Frame]]:
    """Places along the stack, equal ones exactly so, or None; and the frames in some order."""
    if len(frames) == 1:
        return None, frames
    if all(frame.placed for frame in frames):
        positions = np.array([frame.ImagePositionPatient for frame in frames])
        # Whether each frame has a header or functional groups of its own.
        apart = len({id(frame.contrasts) for frame in frames}) == len(frames)
        if positions.any() or not apart:
            return _snapped((positions @ frames[0].normal).tolist()), frames
        frames = [replace(frame, ImagePositionPatient=None) for frame in frames]
    numbers, how = [frame.InstanceNumber for frame in frames], "Instance Number"
    if None in numbers or len({f.path for f in frames}) > len(set(numbers)):
        how = "file name"
        frames = sorted(frames, key=lambda frame: (_natural(frame.path), frame.index))
    say(name, f"does not say where its images lie (Image Position, Orientation); sorted by {how}")
    return None, frames


def _snapped(places: Sequence[float]) -> list[float]:
    """The same numbers, but those that lie closer together than rounding does made equal."""
    snapped, start = list(places), None
    for index in np.argsort(places, kind="stable"):
        if start is None or places[index] - start > _SAME_PLACE:
            start = places[index]
        snapped[index] = start
    return snapped


# -- what tells images of one place apart -------------------------------------------------------

#: What changes the gray values of one tissue, or says when it was seen, and so never changes
#: within a stack.
_OF_A_STACK = {
    *("echo", "b-value", "kVp", "kernel"),
    *("temporal position", "cardiac phase", "respiratory phase"),
}
#: Shorter words for contrasts in names of scans.
_SHORT = {
    **dict.fromkeys(("temporal position", "cardiac phase", "respiratory phase"), "phase"),
    **{"b-value": "b", "slice thickness": "thickness", "corner": "slab"},
}

_Item = tuple[float, Frame]
_Contrast = tuple[str, Callable[[Frame], object]]
_Stack = tuple[list[_Item], tuple[str, ...]]


def _contrasts(frames: Sequence[Frame]) -> list[_Contrast]:
    """What differs between the frames, in the order in which it is tried."""

    def said(name: str) -> Callable[[Frame], object]:
        return lambda frame: frame.contrasts.get(name)

    names = [*CONTRASTS, *sorted({n for f in frames for n in f.contrasts} - {*CONTRASTS})]
    found: list[_Contrast] = [(name, said(name)) for name in names]
    if frames[0].placed:
        cosines = frames[0].cosines
        found.append(
            ("corner", lambda f: tuple(np.rint(cosines @ f.ImagePositionPatient).tolist()))
        )
    found.append(("folder", lambda f: os.path.dirname(f.path)))
    return [one for one in found if len({one[1](frame) for frame in frames}) > 1]


def _separate(
    items: list[_Item], contrasts: Sequence[_Contrast], labels: tuple[str, ...] = ()
) -> list[_Stack]:
    """Splits by the first contrast that tells stacks apart, and each part by those behind it."""
    repeated = _repeated(items)
    for number, (name, value) in enumerate(contrasts, start=1):
        groups: dict[object, list[_Item]] = {}
        for item in items:
            groups.setdefault(value(item[1]), []).append(item)
        parts = [groups[key] for key in sorted(groups, key=_sortable)]
        # What changes from slice to slice has more values than there are images at a place.
        tells = len(parts) <= repeated and all(_repeated(part) < repeated for part in parts)
        whole = name in _OF_A_STACK and None not in groups and min(map(len, parts)) >= 3
        if len(parts) > 1 and (tells or whole):
            word = _SHORT.get(name, name).replace(" ", "-")
            return [
                stack
                for rank, part in enumerate(parts, start=1)
                for stack in _separate(part, contrasts[number:], (*labels, f"{word}{rank}"))
            ]
    if repeated == 1:
        return [(items, labels)]
    ranked = enumerate(_ranked(items, repeated), start=1)
    return [(stack, (*labels, f"part{rank}")) for rank, stack in ranked]


def _repeated(items: Iterable[_Item]) -> int:
    """How many images lie at one place, at most."""
    return max(Counter(place for place, _ in items).values())


def _sortable(value: object) -> tuple:
    """Missing values first, numbers before text."""
    values = value if isinstance(value, tuple) else (value,)
    return tuple(
        (0, 0.0, "") if v is None else (2, 0.0, v) if isinstance(v, str) else (1, float(v), "")
        for v in values
    )


def _ranked(items: list[_Item], repeated: int) -> list[list[_Item]]:
    """Stacks that Instance Number alone tells apart, or a few images too many, sent twice say."""
    counts = Counter(place for place, _ in items)
    items = sorted(items, key=lambda item: (item[0], _order(item[1])))
    numbered = len({(frame.InstanceNumber, frame.index) for _, frame in items}) == len(items)
    regular = numbered and set(counts.values()) == {repeated}
    spare = sum(count > 1 for count in counts.values())
    if not regular and spare > max(1, len(counts) // 10):
        first, second = next((a, b) for a, b in pairwise(items) if a[0] == b[0])
        raise InputFileError(
            second[1].where,
            f"lies at the place of {first[1].where}, as others of its series do, and nothing in "
            "the headers (phase, echo, acquisition, …) says which belong together. "
            "Put the files of each scan into a folder.",
        )
    places = [list(there) for _, there in groupby(items, key=lambda item: item[0])]
    return [[there[rank] for there in places if rank < len(there)] for rank in range(repeated)]
