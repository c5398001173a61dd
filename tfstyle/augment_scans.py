"""Augmented sets on disk: every scan of a folder several times, in the gray scale of others.

The command ``tfstyle augment`` is a thin layer over :func:`augment_scans`. For augmentation while
training see :class:`tfstyle.StyleAugmentation`.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import shutil
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import TextIO

import numpy as np

from tfstyle.augment import number_range
from tfstyle.data import Scan, ScanFiles, Window, list_scans, resolve_window
from tfstyle.data.dicom import is_dicom
from tfstyle.data.dicom.deidentify import check_profile, new_key
from tfstyle.data.layouts import is_label_name, key_of, stem_of
from tfstyle.data.privacy import mark_of, reason_of
from tfstyle.data.read import find_files, no_scans
from tfstyle.errors import (
    ArgumentError,
    InputFileError,
    OutputError,
    StorageError,
    TfstyleError,
)
from tfstyle.files import (
    is_inside,
    is_unused,
    parse_json,
    read_json,
    read_limited,
    remove_abandoned,
    temporary_beside,
    write_atomically,
)
from tfstyle.limits import limits
from tfstyle.outputs import measure_scan, write_generated
from tfstyle.style_bank import StyleBank
from tfstyle.style_transfer import StyleTransfer
from tfstyle.stylize import Progress, source_kind
from tfstyle.stylizers import ScanTransfer
from tfstyle.tone import ToneTransfer

log = logging.getLogger(__name__)

#: In the output folder: one JSON object a line for each image written or failed.
MANIFEST = "manifest.jsonl"
#: In the output folder while it is written by several machines: the rows of each attempt at a part
#: of the work, for :data:`MANIFEST`; see :mod:`tfstyle.beam`.
JOURNALS = ".beam/rows"
#: Beside the journals; locked as long as such a run lasts.
LOCK = ".beam/lock"
#: In the output folder: what all images have in common, so that a run goes on as it began.
SETTINGS = "settings.json"

_FORMAT = 1


@dataclass(frozen=True)
class AugmentedSet:
    """What :func:`augment_scans` did.

    Attributes:
        manifest: The file that tells of every image; see :func:`augment_scans`.
        written: Images written by this run.
        kept: Images that an earlier run had finished.
        gated: Of all these, those that are the original, since too little structure was kept.
        failed: Inputs that could not be read, and why.
        left_out: Inputs that hold no scan: scout images, reports, label maps.
        without_mask: Inputs for which there was no mask.
    """

    manifest: str
    written: int
    kept: int
    gated: int
    failed: dict[str, str]
    left_out: tuple[str, ...]
    without_mask: tuple[str, ...]

    def as_dict(self) -> dict:
        """The same as plain types for JSON."""
        return asdict(self)


def augment_scans(
    network: ToneTransfer | StyleTransfer,
    inputs: str | os.PathLike,
    output: str | os.PathLike,
    styles: StyleBank,
    *,
    per_image: int = 1,
    masks: str | os.PathLike | None = None,
    link_masks: bool = False,
    strength: tuple[float, float] = (0.5, 1.0),
    gate: float | None = 0.8,
    window: str | Window = "auto",
    seed: int = 0,
    workers: int = 2,
    batch_size: int = 8,
    deidentify: str = "keep",
    progress: Progress | None = None,
) -> AugmentedSet:
    """Writes every scan of a folder `per_image` times, each time in the gray scale of a style.

    ``output/images/`` mirrors the input folder, with the number of the copy behind each name:
    ``a/b.png`` becomes ``images/a/b-1.png``, …; a NIfTI volume keeps its ending, and a DICOM
    series becomes a folder with a derived series. Whole scans get one style. Masks go to
    ``output/masks/`` under the same names, byte for byte, since no pixel moves.

    Style and strength of a copy depend on `seed`, on where its source lies in the input folder
    (for a series on its folder and UID) and on the number of the copy alone: not on the order, the
    other inputs, `workers`, or interruptions. A scan is never given a style made of its own files.

    The same call goes on after an interruption, or with more inputs or copies: what is finished is
    not done again. Files are either whole or not there. An input that cannot be read is noted in
    the manifest and the others go on; a later run tries it again.

    ``output/manifest.jsonl`` has one JSON object a line, in the end sorted by source and copy:

    - ``status``: ``"done"``, ``"failed"`` with its ``reason``, or ``"left out"`` for what holds no
      scan;
    - ``source``, ``part`` (from 0, where a DICOM series repeats its positions), ``parts``,
      ``copy`` (from 1);
    - ``image`` and ``mask``, paths in `output`; ``mask`` is null where there is none;
    - ``style``, its name in the bank, and ``strength``;
    - ``window``, centre and width through which the scan became gray levels and back;
    - ``confidence``, how well the style shows what the scan shows, see
      :meth:`tfstyle.ToneTransfer.confidence`; null for other models;
    - ``structure``, the structure term of SSIM; ``distance_before`` and ``distance_after``, the
      Wasserstein distance of the gray levels to those of the style, without and with it: medians
      over up to 16 slices, null where there is nothing to measure;
    - ``gated``: true where ``structure`` is below `gate`, and the image is the original in its
      window, written like the others. The scores are those of what was refused.

    Memory holds up to ``2 · workers + 2`` scans.

    Args:
        network: The model.
        inputs: A folder of DICOM series, NIfTI and PNG, or one file. Label maps among NIfTI files
            are left out as by :func:`tfstyle.data.read_scans`.
        output: A new folder, or that of an earlier run.
        styles: The styles, encoded by `network`.
        per_image: Copies of each scan.
        masks: Folder of masks with the names of the inputs, but for endings and words such as
            ``_ct``, ``_seg`` or nnU-Net's ``_0000``; for a series the name of its folder. Any kind
            of file, or a folder. May lie in `inputs`.
        link_masks: Make hard links to masks where the file system can, instead of copies.
        strength: ``(low, high)`` within [0, 1], drawn evenly.
        gate: Least structure term of SSIM; None lets everything pass.
        window: Window of the inputs, see :func:`tfstyle.data.resolve_window`.
        seed: Seed of all draws, at least 0.
        workers: Threads that read and write beside the model.
        batch_size: Slices a call of the model.
        deidentify: ``"keep"``: derived DICOM carries the source's attributes of patient, study,
            place and staff. ``"basic"``: it goes through
            :mod:`tfstyle.data.dicom.deidentify`, images and masks have random names in one
            folder, and DICOM masks are refused; text in the headers of other masks is not looked
            at. The manifest still names the sources, and
            ``settings.json`` holds the key of UIDs and names: keep both where the sources are.
        progress: Called as ``progress(done, total, label)``, counting images.

    Returns:
        An account.

    Raises:
        ArgumentError: An option that cannot be used, or differs from what `output` began with.
        InputFileError: If the input folder or that of the masks cannot be listed, the one holds no
            scan, or the other no mask of any.
        OutputError: If `output` holds something else or cannot be written.
        WeightsError: If the styles are of another model.

    Example:
        >>> model = tfstyle.from_preset()
        >>> bank = tfstyle.StyleBank.from_scans(model, "other_scanners/")
        >>> augment_scans(model, "train/images", "augmented/", bank, masks="train/masks")
    """
    options = AugmentOptions(
        per_image=per_image,
        masks=masks,
        link_masks=link_masks,
        strength=strength,
        gate=gate,
        window=window,
        seed=seed,
        batch_size=batch_size,
        deidentify=deidentify,
    )
    check_whole("workers", workers, 1)
    work, sources, damaged = begin_augmentation(network, inputs, output, styles, options)
    inputs, output = Path(inputs), Path(output)
    total, done, written = len(sources) * per_image, 0, 0

    def report(label: str, count: int) -> None:
        nonlocal done
        done = min(done + count, total)
        if progress is not None:
            progress(done, total, label)

    with Manifest(output) as manifest, ThreadPoolExecutor(workers) as pool:
        # A run of tfstyle.beam that was stopped goes on here; its rows are in the manifest.
        shutil.rmtree(output / Path(JOURNALS).parent, ignore_errors=True)
        for error in damaged:
            manifest.add(failure_row(relative_path(error.path, inputs), error, inputs))
        todo = [source for source in sources if not manifest.complete(source.name, per_image)]
        report("", total - len(todo) * per_image)
        kept = manifest.count({source.name for source in sources}, per_image)
        pending: dict[Future, str] = {}

        def collect(limit: int) -> None:
            """Waits until no more than `limit` images are being written."""
            nonlocal written
            while len(pending) > limit:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    name = pending.pop(future)
                    try:
                        future.result()
                        written += 1
                    except (ArgumentError, InputFileError) as error:
                        manifest.add(failure_row(name, error, inputs))
                    report(name, 1)

        try:
            for source, scans, error in _read_ahead(pool, todo, work.read, workers):
                if error is not None:
                    manifest.add(failure_row(source.name, error, inputs))
                elif not scans:
                    manifest.add({"status": "left out", "source": source.name})
                if not scans:
                    report(source.name, per_image)
                for part, (scan, used) in enumerate(scans):
                    for copy in range(1, per_image + 1):
                        if manifest.has(source.name, part, copy):
                            report(source.name, 1)
                            continue
                        try:
                            job = work.draw(source, part, len(scans), copy, scan, used)
                        except ArgumentError as error:
                            manifest.add(failure_row(source.name, error, inputs))
                            report(source.name, 1)
                            continue
                        collect(workers)
                        future = pool.submit(_finish, work, job, work.generate(job), manifest)
                        pending[future] = source.name
            collect(0)
        except BaseException:
            # What is being written is finished; what waits is not begun.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        rows = manifest.tidy()
    return account(manifest, rows, sources, options, written, kept)


def _finish(
    work: Augmentation, job: _Job, generated: tuple[np.ndarray, float | None], manifest: Manifest
) -> None:
    manifest.add(work.write(job, generated))


def account(
    manifest: Manifest,
    rows: Sequence[dict],
    sources: Sequence[Source],
    options: AugmentOptions,
    written: int,
    kept: int,
) -> AugmentedSet:
    """What a run did, by the rows of its manifest."""
    per_image, masks = options.per_image, options.masks
    done_rows = [row for row in rows if row["status"] == "done" and row.get("copy", 1) <= per_image]
    here = {source.name for source in sources}
    return AugmentedSet(
        manifest=str(manifest.path),
        written=written,
        kept=kept,
        gated=sum(bool(row.get("gated")) for row in done_rows if row["source"] in here),
        failed={row["source"]: row["reason"] for row in rows if row["status"] == "failed"},
        left_out=tuple(row["source"] for row in rows if row["status"] == "left out"),
        without_mask=tuple(
            dict.fromkeys(
                row["source"]
                for row in done_rows
                if masks is not None and row.get("mask") is None and row["source"] in here
            )
        ),
    )


# -- what there is to do -------------------------------------------------------------------


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


@dataclass(frozen=True)
class _Job:
    """One image that is to be written."""

    source: Source
    part: int
    parts: int
    copy: int
    scan: Scan
    window: Window
    style: int
    strength: float


@dataclass(frozen=True)
class AugmentOptions:
    """The options of :func:`augment_scans` that say what is done, and not by how many workers.

    Raises:
        ArgumentError: If one cannot be used.
    """

    per_image: int = 1
    masks: str | os.PathLike | None = None
    link_masks: bool = False
    strength: tuple[float, float] = (0.5, 1.0)
    gate: float | None = 0.8
    window: str | Window = "auto"
    seed: int = 0
    batch_size: int = 8
    deidentify: str = "keep"

    def __post_init__(self) -> None:
        check_profile(self.deidentify)
        check_whole("per_image", self.per_image, 1)
        check_whole("batch_size", self.batch_size, 1)
        check_whole("seed", self.seed, 0)
        if self.gate is not None and not -1 <= self.gate <= 1:
            raise ArgumentError(f"gate: must lie in [-1, 1] or be None, received {self.gate!r}.")
        object.__setattr__(self, "strength", number_range("strength", self.strength, 0.0, 1.0))

    def mask_folder(self) -> _Masks | None:
        """The masks, if there are any."""
        if self.masks is None:
            return None
        return _Masks(self.masks, self.link_masks, dicom=self.deidentify == "keep")

    def settings(self, network: ToneTransfer | StyleTransfer, styles: StyleBank) -> dict:
        """What all images of a set have in common, for :data:`SETTINGS`."""
        window = self.window
        return {
            "format": _FORMAT,
            "seed": int(self.seed),
            "strength": list(self.strength),
            "gate": None if self.gate is None else float(self.gate),
            "window": f"{window.centre:g},{window.width:g}"
            if isinstance(window, Window)
            else window,
            "masks": self.masks is not None,
            "deidentify": self.deidentify,
            "model_and_styles": _fingerprint(network, styles),
        }


def check_whole(name: str, value: float, least: int) -> None:
    """Raises an ArgumentError unless `value` is a whole number from `least`."""
    if int(value) != value or value < least:
        raise ArgumentError(f"{name}: must be a whole number from {least}, received {value!r}.")


def begin_augmentation(
    network: ToneTransfer | StyleTransfer,
    inputs: str | os.PathLike,
    output: str | os.PathLike,
    styles: StyleBank,
    options: AugmentOptions,
) -> tuple[Augmentation, list[Source], list[InputFileError]]:
    """Checks everything, finds what there is to do, and makes the output folder.

    Returns:
        The work, the sources, and an error for each file whose header cannot be read.

    Raises:
        ArgumentError, InputFileError, OutputError, WeightsError: See :func:`augment_scans`.
    """
    styles.check(network)
    places = check_places(Path(inputs), Path(output), options.masks)
    sources, damaged = find_sources(Path(inputs), places)
    masks = options.mask_folder()
    if masks is not None and sources and not any(map(masks.fit, sources)):
        raise InputFileError(
            options.masks,
            f"holds no mask for any of the {len(sources)} inputs, of which the first is "
            f"{sources[0].label}. A mask has the name and subfolder of its input, but for endings "
            "and words such as _ct, _0000 and _seg. In the folder of the inputs themselves, names "
            "of masks need such a word: case_seg.nii.gz beside case.nii.gz.",
        )
    key = begin_set(Path(output), options.settings(network, styles))
    if key is not None:
        sources = [replace(source, stem=_random_stem(source.name, key)) for source in sources]
    return Augmentation(network, Path(output), styles, options, key), sources, damaged


class Augmentation:
    """What is done to each scan; the same in one process and on many machines.

    Args:
        network: The model.
        output: Folder of the set.
        styles: The styles.
        options: Options.
        uid_key: Key of UIDs and names, of :func:`begin_set`; None where attributes are kept.
    """

    def __init__(
        self,
        network: ToneTransfer | StyleTransfer,
        output: Path,
        styles: StyleBank,
        options: AugmentOptions,
        uid_key: str | None = None,
    ):
        self.network, self.styles, self.options = network, styles, options
        self._writer = _Writer(output, styles, options.gate, options.mask_folder(), uid_key)
        self._draw = _Draw(styles, *options.strength, options.seed)

    def read(self, source: Source) -> list[tuple[Scan, Window]]:
        """The scans of a source, with the windows through which they are seen."""
        return [(scan, resolve_window(self.options.window, scan)) for scan in source.files.read()]

    def draw(
        self, source: Source, part: int, parts: int, copy: int, scan: Scan, window: Window
    ) -> _Job:
        """Chooses style and strength of one copy."""
        style, share = self._draw(source.name, part, copy, scan)
        return _Job(source, part, parts, copy, scan, window, style, share)

    def generate(self, job: _Job) -> tuple[np.ndarray, float | None]:
        """Generated images, float32 (slices, rows, columns) in [0, 1], and the confidence."""
        unit = job.window.to_unit(job.scan.pixels)[..., None]
        transfer = ScanTransfer(
            self.network,
            len(unit),
            unit.__getitem__,
            self.styles.codes[job.style][None],
            job.strength,
            batch_size=self.options.batch_size,
        )
        return transfer(unit)[..., 0], transfer.confidence

    def write(self, job: _Job, generated: tuple[np.ndarray, float | None]) -> dict:
        """Judges and writes one image with its mask; returns its row for the manifest."""
        return self._writer.write(job, *generated)

    def rows(self, source: Source, done: Collection[tuple[int, int]] = ()) -> Iterator[dict]:
        """Does one source, image by image.

        Args:
            source: The source.
            done: (part, copy) of the images that are there.

        Yields:
            The row of each image as soon as it is written; one row if the source holds no scan.

        Raises:
            ArgumentError, InputFileError: If the source cannot be used.
            OutputError: If something cannot be written.
        """
        scans = self.read(source)
        if not scans:
            yield {"status": "left out", "source": source.name}
        for part, (scan, window) in enumerate(scans):
            for copy in range(1, self.options.per_image + 1):
                if (part, copy) not in done:
                    job = self.draw(source, part, len(scans), copy, scan, window)
                    yield self.write(job, self.generate(job))


def check_places(inputs: Path, output: Path, masks) -> list[Path]:
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
    sources, taken = [], set()
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
        label, number = stem, 1
        while label + ending in taken:
            number += 1
            label = f"{stem}-{number}"
        taken.add(label + ending)
        sources.append(Source(name, files, label, ending, path))
    return sources, damaged


def _common(files: ScanFiles) -> str:
    if len(files.files) == 1:
        return files.files[0]
    return os.path.commonpath([os.path.dirname(file) for file in files.files])


def relative_path(path: str, root: Path) -> str:
    """A path in the input folder, or beside the one input file, as the manifest has it."""
    root = root if root.is_dir() else root.parent
    return Path(os.path.relpath(path, root)).as_posix()


def _split_ending(path: str) -> tuple[str, str]:
    """The path without the endings of image files, and the ending; others are part of the name."""
    for ending in (".nii.gz", ".nii", ".png", ".dcm", ".dicom"):
        if path.lower().endswith(ending) and not path.lower().endswith("/" + ending):
            return path[: -len(ending)], path[-len(ending) :]
    return path, ""


def _fingerprint(network: ToneTransfer | StyleTransfer, styles: StyleBank) -> str:
    digest = hashlib.sha256(json.dumps([network.fingerprint(), styles.names]).encode())
    for array in (styles.codes, styles.weights):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _random_stem(name: str, key: str) -> str:
    digest = hmac.new(key.encode(), os.fsencode(name), hashlib.sha256).hexdigest()
    return f"scan-{digest[:12]}"


def begin_set(output: Path, common: dict) -> str | None:
    """Makes the folder, or sees to it that it was begun in the same way.

    Returns:
        The key of UIDs and names, unless attributes are kept.
    """
    refuse_running(output)
    basic = common.get("deidentify") == "basic"
    settings = output / SETTINGS
    try:
        before = read_json(settings)
    except FileNotFoundError:
        if output.exists() and not (output.is_dir() and is_unused(output)):
            raise OutputError(
                output, "exists and is no augmented set; choose a new or empty folder."
            ) from None
        return _write_settings(settings, common, basic)
    except (OSError, ValueError) as error:
        raise OutputError(settings, f"cannot be read ({error}).") from error
    # A run that was killed may have left what it had under a temporary name.
    remove_abandoned(output, deep=True)
    before = before if isinstance(before, dict) else {}
    changed = [key for key, value in common.items() if before.get(key) != value]
    if changed and before.keys() - {"uid_key"} == common.keys() and not _any_done(output):
        return _write_settings(settings, common, basic)  # nothing came of the other settings
    for key in changed:
        what = f"{key}: {common[key]!r}, but {output} was begun with {before.get(key)!r}"
        if key == "model_and_styles":
            what = f"{output} was begun with another model or other styles"
        raise ArgumentError(f"{what}; go on with the same settings, or choose another folder.")
    if not basic:
        return None
    if not isinstance(before.get("uid_key"), str):
        raise OutputError(settings, "has lost its uid_key; choose another folder.")
    return before["uid_key"]


def _write_settings(settings: Path, common: dict, basic: bool) -> str | None:
    try:
        settings.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError.of(settings.parent, error) from error
    begun = common | {"uid_key": new_key()} if basic else common
    write_atomically(settings, (json.dumps(begun, indent=2) + "\n").encode())
    return begun.get("uid_key")


def _any_done(output: Path) -> bool:
    rows = chain(read_rows(output / MANIFEST), journal_rows(output))
    return any(row["status"] == "done" for row in rows)


def uid_key(output: Path) -> str | None:
    """The key of UIDs and names that a set began with; None where attributes are kept."""
    return read_json(output / SETTINGS).get("uid_key")


def take_lock(lock: TextIO, output: Path) -> None:
    """Makes an open lock file one's own until it is closed.

    Raises:
        OutputError: If another run has it; the file is closed then.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise OutputError(output, "is being written by another run.") from None


def refuse_running(output: Path) -> None:
    """Raises an OutputError while :mod:`tfstyle.beam` is writing a folder."""
    with suppress(FileNotFoundError, NotADirectoryError), open(output / LOCK, "r+") as lock:
        take_lock(lock, output)


class _Draw:
    """Style and strength of each copy, by what it is and nothing else."""

    def __init__(self, styles: StyleBank, low: float, high: float, seed: int):
        self.weights = styles.weights
        self.files = [{os.path.realpath(file) for file in files} for files in styles.files]
        self.low, self.high, self.seed = low, high, int(seed)

    def __call__(self, name: str, part: int, copy: int, scan: Scan) -> tuple[int, float]:
        """Draws.

        Raises:
            ArgumentError: If every style is of the scan's own files.
        """
        weights = self.weights.copy()
        own = {os.path.realpath(file) for file in scan.files}
        for index, files in enumerate(self.files):
            if files & own:
                weights[index] = 0.0
        if not weights.any():
            raise ArgumentError(f"styles: all of them are of {name} itself; give others.")
        digest = hashlib.sha256(os.fsencode(f"{part}:{name}")).digest()
        rng = np.random.default_rng([self.seed, copy, *np.frombuffer(digest, np.uint32).tolist()])
        shares = np.cumsum(weights / weights.sum())
        style = int(np.searchsorted(shares, rng.random(), side="right"))
        style = min(style, int(np.flatnonzero(weights)[-1]))
        return style, self.low + (self.high - self.low) * float(rng.random())


# -- reading and writing, in threads -------------------------------------------------------


def _read_ahead(
    pool: ThreadPoolExecutor,
    sources: Sequence[Source],
    read: Callable[[Source], list[tuple[Scan, Window]]],
    ahead: int,
) -> Iterator[tuple[Source, list[tuple[Scan, Window]], Exception | None]]:
    """Reads sources in order, a few before they are needed."""
    waiting = iter(sources)
    reading: deque[tuple[Source, Future]] = deque()
    while True:
        for source in islice(waiting, ahead - len(reading)):
            reading.append((source, pool.submit(read, source)))
        if not reading:
            return
        source, future = reading.popleft()
        try:
            scans, error = future.result(), None
        except Exception as problem:  # whatever one file has in store, the others go on
            scans, error = [], problem
        yield source, scans, error


class _Writer:
    """Judges and writes one image; called from several threads."""

    def __init__(
        self,
        output: Path,
        styles: StyleBank,
        gate: float | None,
        masks: _Masks | None,
        uid_key: str | None,
    ):
        self.output, self.styles, self.gate, self.masks = output, styles, gate, masks
        self.uid_key = uid_key

    def write(self, job: _Job, unit: np.ndarray, confidence: float | None) -> dict:
        """Writes mask and image; returns the row that says so.

        Raises:
            InputFileError: If the source or its mask cannot be read.
            OutputError: If something cannot be written.
        """
        levels = self.styles.quantiles
        styles = [] if levels is None else [levels[job.style]]
        figures = measure_scan(job.scan, job.window, unit, styles)
        structure = figures["structure"]
        gated = self.gate is not None and structure is not None and structure < self.gate
        if gated:
            unit = job.window.to_unit(job.scan.pixels)
        stem = job.source.stem + (f"_{job.scan.stack}" if job.parts > 1 else "")
        target = self.output / "images" / f"{stem}-{job.copy}{job.source.ending}"
        mask = None
        if self.masks is not None:
            mask = self.masks.hand_on(job.source, self.output / "masks", f"{stem}-{job.copy}")
        if not is_inside(self.output, target):
            raise OutputError(target, f"a link leads out of {self.output}; remove it.")
        try:
            if target.is_dir():  # of a run that was stopped before it could note it
                shutil.rmtree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError.of(target, error) from error
        write_generated(
            job.scan,
            unit,
            job.window,
            source_kind(job.scan),
            target,
            "keep" if self.uid_key is None else "basic",
            self.uid_key,
        )
        return {
            "status": "done",
            "source": job.source.name,
            "part": job.part,
            "parts": job.parts,
            "copy": job.copy,
            "image": target.relative_to(self.output).as_posix(),
            "mask": mask,
            "style": self.styles.names[job.style],
            "strength": round(job.strength, 6),
            "window": [job.window.centre, job.window.width],
            "confidence": _rounded(confidence),
            "structure": _rounded(structure),
            "distance_before": _rounded(figures["before"]),
            "distance_after": _rounded(figures["after"]),
            "gated": gated,
        }


#: Endings of what lies beside masks and is none.
_NO_MASKS = (".json", ".csv", ".tsv", ".txt", ".md", ".xml")


class _Masks:
    """The folder of masks, looked into once a folder."""

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
        ending = source.name[len(stem_of(source.name)) :] if source.is_file() else ""
        target = output / f"{stem}{ending}"
        if not is_inside(output.parent, target.parent):
            raise OutputError(target, f"a link leads out of {output.parent}; remove it.")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary_beside(target, folder=True) as temporary:
                copy = self._link if self.link else shutil.copy2
                if source.is_dir():
                    shutil.copytree(source, temporary / target.name, copy_function=copy)
                    if target.is_dir():
                        shutil.rmtree(target)
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
    def _link(source, target) -> None:
        try:
            os.link(os.path.realpath(source), target)
        except OSError:  # another file system, or one without links
            shutil.copy2(source, target)


def _is_done(row: dict) -> bool:
    """Whether a row of the manifest says, in full, that an image is finished."""
    return (
        row["status"] == "done"
        and isinstance(row.get("source"), str)
        and _is_below(row.get("image"))
        and (row.get("mask") is None or _is_below(row["mask"]))
        and all(type(row.get(key)) is int for key in ("part", "parts"))
        and type(row.get("copy", 1)) is int  # there is but one of a stylized scan
        and 0 <= row["part"] < row["parts"] <= limits().frames
    )


def _is_below(path: object) -> bool:
    """Whether a path of the manifest stays in the output folder."""
    if not isinstance(path, str) or "\0" in path:
        return False
    parts = PurePosixPath(path)
    return not parts.is_absolute() and ".." not in parts.parts


class Manifest:
    """The rows of :data:`MANIFEST`: those of finished images stay, others are found anew."""

    def __init__(self, output: Path):
        self.path, self.output = output / MANIFEST, output
        self._lock = threading.Lock()
        self._rows: list[dict] = []
        self._done: dict[tuple[str, int, int], dict] = {}
        for row in chain(read_rows(self.path), journal_rows(output)):
            if _is_done(row) and self._is_there(row):
                self._keep(row)
        self.tidy()
        shutil.rmtree(output / JOURNALS, ignore_errors=True)

    def _is_there(self, row: dict) -> bool:
        paths = [self.output / row[key] for key in ("image", "mask") if row.get(key)]
        return all(map(os.path.exists, paths))  # False too for a name that is too long

    def __enter__(self) -> Manifest:
        try:
            # Not buffered: what a full disk has refused must not come up again when it is closed.
            self._file = open(self.path, "ab", buffering=0)
        except OSError as error:
            raise OutputError.of(self.path, error) from error
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def _write(self) -> None:
        text = "".join(json.dumps(row) + "\n" for row in self._rows)
        write_atomically(self.path, text.encode())

    def _keep(self, row: dict) -> None:
        if row["status"] == "done":
            self._done[row["source"], row["part"], row.get("copy", 1)] = row
        self._rows.append(row)

    def add(self, row: dict) -> None:
        with self._lock:
            self._keep(row)
            try:
                line = json.dumps(row).encode() + b"\n"
                while line:
                    line = line[self._file.write(line) :]
            except OSError as error:
                raise OutputError.of(self.path, error) from error

    def absorb(self) -> None:
        """Takes in the rows of :data:`JOURNALS`, and sorts; the rows of one image count once."""
        for row in journal_rows(self.output):
            if row["status"] in ("done", "failed", "left out"):
                self._keep(row)
        self.tidy()
        shutil.rmtree(self.output / JOURNALS, ignore_errors=True)

    def has(self, source: str, part: int, copy: int) -> bool:
        return (source, part, copy) in self._done

    def finished(self) -> dict[str, set[tuple[int, int]]]:
        """(part, copy) of the images that are there, by source."""
        found: dict[str, set[tuple[int, int]]] = {}
        for source, part, copy in self._done:
            found.setdefault(source, set()).add((part, copy))
        return found

    def complete(self, source: str, copies: int) -> bool:
        """Whether every copy of every part of a source is there."""
        first = self._done.get((source, 0, 1))
        return first is not None and all(
            self.has(source, part, copy)
            for part in range(first["parts"])
            for copy in range(1, copies + 1)
        )

    def count(self, sources: set[str], copies: int) -> int:
        return sum(name in sources and copy <= copies for name, _, copy in self._done)

    def tidy(self) -> list[dict]:
        """Sorts the rows, one an image and one a failure, in place of the order of events."""
        with self._lock:
            rows = {
                (row["source"], row.get("part", -1), row.get("copy", 0)): row for row in self._rows
            }
            self._rows = [rows[key] for key in sorted(rows)]
            self._write()
        return self._rows


def read_rows(path: Path) -> list[dict]:
    """The rows of a manifest or journal; none if there is no such file.

    Raises:
        OutputError: If it cannot be read.
    """
    try:
        text = read_limited(path, "manifest_bytes").decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(path, f"cannot be read ({error.strerror}).") from error
    rows = []
    for line in text.splitlines():
        try:
            row = parse_json(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and "status" in row:
            rows.append(row)
        else:  # the end of a run that was stopped
            log.info("%s: passed over a line that is cut short.", path)
    return rows


def journal_rows(output: Path) -> Iterator[dict]:
    """The rows of all journals, in the order of the parts of the work."""
    for path in sorted((output / JOURNALS).glob("*/*.jsonl")):
        yield from read_rows(path)


def failure_row(name: str, error: Exception, inputs: Path) -> dict:
    """The row of the manifest for an input that cannot be used."""
    reason = str(error)
    if isinstance(error, InputFileError):  # relative, as all paths of the manifest
        path = relative_path(error.path, inputs)
        reason = error.problem if path == name else f"{path}: {error.problem}"
    elif not isinstance(error, (TfstyleError, OSError)):
        reason = f"{type(error).__name__}: {reason_of(error)}"
    return {"status": "failed", "source": name, "reason": reason}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
