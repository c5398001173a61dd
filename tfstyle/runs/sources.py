"""What there is to do: the scans among the inputs, and the names of their results."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from tfstyle._private.files import free_name, is_inside
from tfstyle.data.layouts import is_result, stem_of
from tfstyle.data.privacy import mark_of
from tfstyle.data.read import ScanFiles, list_scans, named, no_scans
from tfstyle.data.scan import Scan
from tfstyle.errors import ArgumentError, InputFileError, OutputError
from tfstyle.runs.manifest import relative_path

log = logging.getLogger(__name__)

#: Endings of results by their kind; DICOM becomes a folder.
ENDINGS = {"dicom": "", "nifti": ".nii.gz", "png": ".png"}

#: Called as ``on_failure(path, error)`` with an input that cannot be read; the others continue.
OnFailure = Callable[[str, InputFileError], None]


def raising(path: str, error: InputFileError) -> None:
    """Raises the error: what is done by default."""
    raise error


@dataclass(frozen=True)
class Source:
    """One entry of an input, not read yet.

    `name`, by which the manifest and draws know it, is its path in the input folder; for a DICOM
    series its folder and a mark made of the UID. `stem` is its path in the output, without number
    and `ending`; `label` the path by which its mask is found.
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
    """The scans of a folder or file but for folders `without`, and an error for each damaged file.

    Raises an InputFileError if the folder cannot be listed or holds nothing to read.
    """
    found, damaged = list_scans(inputs, without=without)
    if not found and not damaged:
        raise no_scans(inputs)
    root = inputs if inputs.is_dir() else inputs.parent
    places = [relative_path(files.place, root) for files in found]
    series = Counter(place for files, place in zip(found, places) if len(files.files) > 1)
    sources = []
    for files, place in zip(found, places):
        if len(files.files) > 1:
            mark = mark_of(files.series)
            name = f"{place}#{mark}" if files.series else place
            stem = place if place != "." else root.resolve().name or "series"
            if series[place] > 1:
                stem += f"-{mark}"
            label, ending = stem, ""
        else:
            name, label, stem = place, place, stem_of(place)
            ending = place[len(stem) :] if files.kind == "nifti" else ENDINGS[files.kind]
        sources.append(Source(name, files, stem, ending, PurePosixPath(label)))
    return name_results(sources), damaged


def find_all(
    inputs: Sequence[Path], output_format: str = "auto"
) -> tuple[list[Source], list[InputFileError]]:
    """The sources of several inputs, each once, and errors of files and inputs without any.

    Where several folders are given, results lie in a folder of the name of each. Raises an
    InputFileError if an input does not exist, or the only one holds nothing to read.
    """
    known: dict[tuple[str, ...], Source] = {}
    damaged: list[InputFileError] = []
    labels: set[str] = set()
    several = sum(root.is_dir() for root in set(inputs)) > 1
    for root in dict.fromkeys(inputs):
        try:
            found, errors = find_sources(root)
        except InputFileError as error:
            if len(inputs) == 1 or not root.exists():
                raise
            found, errors = [], [error]
        damaged += errors
        label = ""
        if several and root.is_dir():
            label = free_name(root.resolve().name or "input", labels)
            labels.add(label)
        for one in found:
            whole = os.path.realpath(one.files.place) == os.path.realpath(root)
            stem = f"{label}/{one.stem}" if label and not whole else one.stem
            ending = ENDINGS[one.files.kind if output_format == "auto" else output_format]
            known.setdefault(one.files.files, replace(one, stem=stem, ending=ending))
    return name_results(list(known.values())), damaged


def name_results(sources: Sequence[Source]) -> list[Source]:
    """Gives sources stems under which no result lies in the place, or inside, of another."""
    taken = {str(path) for one in sources for path in PurePosixPath(one.stem).parents}
    named = []
    for source in sources:
        stem = free_name(source.stem, taken, source.ending)
        taken.add(stem + source.ending)
        named.append(replace(source, stem=stem))
    return named


def read_inputs(
    inputs: Sequence[str | os.PathLike],
    output: Path,
    series: str | None = None,
    on_failure: OnFailure = raising,
) -> list[tuple[Scan, str]]:
    """The scans of all inputs, not read yet, with the paths of their results, without ending.

    What tfstyle made in `output` is left out. Raises an ArgumentError for no inputs, an
    InputFileError if one does not exist or nothing can be read.
    """
    places = list(map(Path, _without_own_results(inputs, output)))
    if not places:
        raise ArgumentError("inputs: at least one input scan is needed.")
    sources, failed = find_all(places)
    scans: list[tuple[Scan, str]] = []
    for source in sources:
        try:
            scans += [(scan, name_of(scan, source.stem)) for scan in _scans_of(source, series)]
        except InputFileError as error:
            failed.append(error)
    if not scans and not failed:
        what = "no scan that can be read" if series is None else f"no series {series!r}"
        raise InputFileError(", ".join(map(str, places)), f"holds {what}.")
    for problem in failed:
        if not scans:
            raise problem
        on_failure(problem.path, problem)
    return scans


def name_of(scan: Scan, stem: str) -> str:
    """Path of a scan's result without ending: the stem of its source, and its stack's name."""
    return f"{stem}_{scan.stack}" if scan.stack else stem


def _scans_of(source: Source, series: str | None) -> list[Scan]:
    """The scans of a source that `series` means; by the name of the result too."""
    scans, name = source.files.read(lazy=True), PurePosixPath(source.stem).name
    if series is None or series == name:
        return scans
    return named(scans, series) or [scan for scan in scans if series == f"{name}_{scan.stack}"]


def _without_own_results(
    inputs: Sequence[str | os.PathLike], output: Path
) -> Sequence[str | os.PathLike]:
    """Leaves out what an earlier run wrote, as the shell makes it of ``ct/*`` for ``-o ct/out``."""
    own = [
        path
        for path in inputs
        if is_inside(output, os.path.abspath(path))
        and (Path(path).resolve() == output.resolve() or is_result(path))
    ]
    if not own or len(own) == len(inputs):
        return inputs
    log.warning("Left out: %s, which tfstyle made.", ", ".join(map(str, own)))
    return [path for path in inputs if path not in own]
