"""What there is to do in an input folder: its scans, the names of their results, their masks."""

from __future__ import annotations

import os
import re
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel as nib

from tfstyle._private.files import remove, temporary_beside
from tfstyle.data.dicom import is_dicom
from tfstyle.data.layouts import is_label_name, key_of, stem_of
from tfstyle.data.privacy import mark_of
from tfstyle.data.read import ScanFiles, find_files, list_scans, no_scans
from tfstyle.errors import InputFileError, OutputError, StorageError
from tfstyle.runs.folder import inside
from tfstyle.runs.manifest import relative_path


@dataclass(frozen=True)
class Source:
    """One entry of the input folder.

    Attributes:
        name: What the manifest calls it and draws depend on: its path in the input folder; for a
            DICOM series of several files its folder and a mark made of the UID.
        files: The files, not read yet.
        stem: Path in the output, without number and ending.
        ending: Of the output.
        label: Path by which its mask is found.
    """

    name: str
    files: ScanFiles
    stem: str
    ending: str
    label: PurePosixPath


def check_places(inputs: Path, output: Path, masks: str | os.PathLike | None) -> list[Path]:
    """Refuses folders that hold each other; returns what to pass over among the inputs."""
    source, target = inputs.resolve(), output.resolve()
    if target == source or source in target.parents:
        raise OutputError(output, f"lies in the input folder {inputs}; choose another place.")
    if target in source.parents:
        raise OutputError(output, f"holds the input folder {inputs}; choose another place.")
    if masks is None:
        return []
    folder = Path(masks).resolve()
    if not folder.is_dir():
        raise InputFileError(masks, "no such folder of masks.")
    return [folder] if source in folder.parents else []


def find_sources(
    inputs: Path, without: Sequence[Path] = ()
) -> tuple[list[Source], list[InputFileError]]:
    """The scans of a folder, with the names that they and their results get.

    Args:
        inputs: The folder, or one file.
        without: Folders in it to pass over.

    Returns:
        The sources, and an error for each DICOM file whose header cannot be read.

    Raises:
        InputFileError: If the folder cannot be listed or holds nothing to read.
    """
    found, damaged = list_scans(inputs, without=without)
    if not found and not damaged:
        raise no_scans(inputs)
    root = inputs if inputs.is_dir() else inputs.parent
    places = [relative_path(_common(files), root) for files in found]
    series = Counter(place for files, place in zip(found, places) if len(files.files) > 1)
    sources: list[Source] = []
    taken: set[str] = set()
    for files, place in zip(found, places):
        path = PurePosixPath(place)
        if len(files.files) > 1:
            name = f"{place}#{mark_of(files.series)}" if files.series else place
            stem = place if place != "." else root.resolve().name or "series"
            if series[place] > 1:
                stem += f"-{mark_of(files.series)}"
            path = PurePosixPath(stem)
            ending = ""
        else:
            name = place
            stem, ending = _split_ending(place)
            ending = {"dicom": "", "png": ".png"}.get(files.kind, ending)
        label = free_name(stem, taken, ending)
        taken.add(label + ending)
        sources.append(Source(name, files, label, ending, path))
    return sources, damaged


def free_name(name: str, taken: Collection[str], ending: str = "") -> str:
    """The name, with a number behind it where with its ending it is taken."""
    free, number = name, 1
    while free + ending in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _common(files: ScanFiles) -> str:
    if len(files.files) == 1:
        return files.files[0]
    return os.path.commonpath([os.path.dirname(file) for file in files.files])


def _split_ending(path: str) -> tuple[str, str]:
    """The path without the endings of image files, and the ending; others are part of the name."""
    for ending in (".nii.gz", ".nii", ".png", ".dcm", ".dicom"):
        if path.lower().endswith(ending) and not path.lower().endswith("/" + ending):
            return path[: -len(ending)], path[-len(ending) :]
    return path, ""


#: Endings of what lies beside masks and is none.
_NO_MASKS = (".json", ".csv", ".tsv", ".txt", ".md", ".xml")


def _shape(path: str | os.PathLike) -> tuple[int, ...] | None:
    """Voxels along the axes of a NIfTI volume or a PNG picture; None for what is not one."""
    lower = str(path).lower()
    with suppress(Exception):  # masks are handed on as they are, readable or not
        if lower.endswith((".nii", ".nii.gz")):
            volume: Any = nib.load(path)
            return tuple(map(int, volume.shape))[:3]
        if lower.endswith(".png"):
            with open(path, "rb") as file:  # width and height lead the first chunk
                return struct.unpack(">II", file.read(24)[16:])
    return None


class Masks:
    """The folder of masks, looked into once a folder.

    Args:
        folder: The folder.
        link: Make hard links where possible, in place of copies.
        dicom: Whether DICOM masks, which name their patient, are handed on.
    """

    def __init__(self, folder: str | os.PathLike, link: bool, dicom: bool):
        self.folder, self.link, self.dicom = Path(folder), link, dicom
        self.names: dict[PurePosixPath, list[dict[str, list[str]]]] = {}

    def hand_on(self, image: Source, output: Path, stem: str) -> str | None:
        """Copies or links the mask of an input to `output`, under the name `stem`.

        Returns:
            The path written, from the parent of `output`, or None if there is no mask.
        """
        source = self._find(image)
        if source is None:
            return None
        if not self.dicom:
            for file in find_files(source) if source.is_dir() else [source]:
                if is_dicom(file) or str(file).lower().endswith((".dcm", ".dicom")):
                    raise InputFileError(
                        file,
                        "a DICOM mask names its patient, and masks are copied as they are; convert "
                        "it to NIfTI or PNG, or use deidentify='keep'.",
                    )
        if len(image.files.files) == 1 and source.is_file():
            shape, own = _shape(image.files.files[0]), _shape(source)
            if shape and own and shape != own:
                raise InputFileError(
                    source, f"has the shape {own} and its image {shape}, so they share no voxels."
                )
        ending = source.name[len(stem_of(source.name)) :] if source.is_file() else ""
        target = output / f"{stem}{ending}"
        inside(output.parent, target.parent)
        copy: Callable[..., object] = self._link if self.link else shutil.copy2
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary_beside(target, folder=True) as temporary:
                if source.is_dir():
                    shutil.copytree(source, temporary / target.name, copy_function=copy)
                    remove(target)
                else:
                    copy(source, temporary / target.name)
                os.replace(temporary / target.name, target)
        except (OSError, shutil.Error) as error:
            known = OutputError.of(target, error)
            if isinstance(known, StorageError):
                raise known from error
            raise OutputError(target, f"cannot be made of {source} ({error}).") from error
        return target.relative_to(output.parent).as_posix()

    def fit(self, image: Source) -> bool:
        """Whether there is a mask for an input, or too many."""
        try:
            return self._find(image) is not None
        except InputFileError:
            return True

    def _find(self, image: Source) -> Path | None:
        """The mask of an input: of its name, but for the ending, or for words such as ``_seg``."""
        label = image.label
        place = self.folder / label.parent
        if label.parent not in self.names:
            # By name, by stem, and by what images and masks have in common.
            tables: list[dict[str, list[str]]] = [{}, {}, {}]
            for name in sorted(os.listdir(place)) if place.is_dir() else []:
                if not name.startswith(".") and not name.lower().endswith(_NO_MASKS):
                    for table, key in zip(tables, (name, stem_of(name), key_of(name))):
                        table.setdefault(key, []).append(name)
            self.names[label.parent] = tables
        names, stems, keys = self.names[label.parent]
        name, stem = label.name, stem_of(label.name)
        # Among the inputs themselves, a mask is known by its name alone.
        beside = os.path.realpath(os.path.dirname(_common(image.files))) == os.path.realpath(place)
        for table, key in (
            (names, name),
            (stems, stem),
            (keys, key_of(name)),
            # nnU-Net has one mask for the channels case_0000, case_0001, …
            (stems, re.sub(r"_\d{4}$", "", stem)),
        ):
            fitting = [one for one in table.get(key, []) if not beside or is_label_name(one)]
            if len(fitting) > 1:
                raise InputFileError(
                    place, f"holds several masks for {label}: {', '.join(fitting)}."
                )
            if fitting:
                return place / fitting[0]
        return None

    @staticmethod
    def _link(source: str, target: str) -> None:
        try:
            os.link(os.path.realpath(source), target)
        except OSError:  # another file system, or one without links
            shutil.copy2(source, target)
