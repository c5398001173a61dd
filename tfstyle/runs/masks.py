"""The masks of a set's images: found by name, checked, and handed on as they are."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath

from tfstyle._private.files import remove, temporary_beside
from tfstyle.data.dicom import is_dicom
from tfstyle.data.folders import find_files
from tfstyle.data.layouts import PICTURES, is_label_name, key_of, stem_of
from tfstyle.data.read import read_scan
from tfstyle.errors import InputFileError, writing
from tfstyle.runs.folder import inside
from tfstyle.runs.sources import Source

#: Endings of what lies beside masks and is none.
_NO_MASKS = (".json", ".csv", ".tsv", ".txt", ".md", ".xml")


def _shape(path: str | os.PathLike) -> tuple[int, ...] | None:
    """Slices, rows and columns of a NIfTI volume or a PNG picture; None for what is not one."""
    with suppress(InputFileError):  # masks are handed on as they are, readable or not
        if str(path).lower().endswith(PICTURES):
            return read_scan(path, units="US", lazy=True).shape
    return None


class Masks:
    """The folder of masks, looked into once a folder; `dicom` says whether DICOM masks may pass."""

    def __init__(self, folder: str | os.PathLike, dicom: bool):
        self.folder, self.dicom = Path(folder), dicom
        self.names: dict[PurePosixPath, dict[str, list[str]]] = {}

    def hand_on(self, image: Source, output: Path, stem: str) -> str | None:
        """Copies the mask of an input to `output`, if there is one; its path from the parent."""
        source = self._find(image)
        if source is None:
            return None
        if not self.dicom:
            for file in find_files(source) if source.is_dir() else [source]:
                if is_dicom(file) or str(file).lower().endswith((".dcm", ".dicom")):
                    what = "a DICOM mask names its patient, and masks are copied as they are"
                    how = "convert it to NIfTI or PNG, or use deidentify='keep'."
                    raise InputFileError(file, f"{what}; {how}")
        if len(image.files.files) == 1 and source.is_file():
            shape, own = _shape(image.files.files[0]), _shape(source)
            if shape and own and shape != own:
                raise InputFileError(
                    source, f"has the shape {own} and its image {shape}, so they share no voxels."
                )
        ending = source.name[len(stem_of(source.name)) :] if source.is_file() else ""
        target = output / f"{stem}{ending}"
        inside(output.parent, target.parent)
        with writing(target), temporary_beside(target, folder=True) as temporary:
            if source.is_dir():
                shutil.copytree(source, temporary / target.name)
                remove(target)
            else:
                shutil.copy2(source, temporary / target.name)
            os.replace(temporary / target.name, target)
        return target.relative_to(output.parent).as_posix()

    def fit(self, image: Source) -> bool:
        """Whether there is a mask for an input, or too many."""
        try:
            return self._find(image) is not None
        except InputFileError:
            return True

    def _find(self, image: Source) -> Path | None:
        """The mask of an input: of its name, but for the ending, or for words such as ``_seg``."""
        label, name = image.label, image.label.name
        place = self.folder / label.parent
        if label.parent not in self.names:  # names by what images and masks have in common
            table = self.names[label.parent] = {}
            for one in sorted(os.listdir(place)) if place.is_dir() else []:
                if not one.startswith(".") and not one.lower().endswith(_NO_MASKS):
                    table.setdefault(key_of(one), []).append(one)
        # Among the inputs themselves, a mask is known by its name alone.
        own = os.path.dirname(image.files.place)
        beside = os.path.realpath(own) == os.path.realpath(place)
        # nnU-Net has one mask for the channels case_0000, case_0001, …
        for key in (key_of(name), re.sub(r"_\d{4}$", "", stem_of(name))):
            alike = self.names[label.parent].get(key, [])
            fitting = [one for one in alike if not beside or is_label_name(one)]
            near = [one for one in fitting if stem_of(one) == stem_of(name)]
            if found := [one for one in near if one == name] or near or fitting:
                if len(found) > 1:
                    raise InputFileError(place, f"holds several masks for {label}: {found}.")
                return place / found[0]
        return None
