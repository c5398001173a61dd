"""Augmented sets on disk. For augmentation while training see ``tfstyle.StyleAugmentation``."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfstyle._private.files import remove
from tfstyle._private.images import checked_whole
from tfstyle.data import Scan, Window, resolve_window
from tfstyle.data.dicom.deidentify import new_key
from tfstyle.data.scan import upright
from tfstyle.errors import ArgumentError, InputFileError, OutputError
from tfstyle.runs.folder import inside
from tfstyle.runs.manifest import ManifestFolder, failure_row, relative_path
from tfstyle.runs.masks import Masks
from tfstyle.runs.options import AugmentOptions
from tfstyle.runs.outputs import source_kind, structure_of, write_generated
from tfstyle.runs.results import Progress
from tfstyle.runs.sources import Source, check_places, find_sources
from tfstyle.style_bank import StyleBank
from tfstyle.style_transfer import StyleTransfer
from tfstyle.stylizers import ONE_GRAY_SCALE, ScanTransfer
from tfstyle.tone import ToneTransfer

log = logging.getLogger(__name__)

_FORMAT = 1


@dataclass(frozen=True)
class AugmentedSet:
    """What :func:`augment_scans` did.

    Attributes:
        manifest: The file that tells of every image; see :func:`augment_scans`.
        written: Images written by this run.
        kept: Images that an earlier run had finished.
        gated: Of all these, those that are the original, since too little structure was kept.
        unchanged: Of all these, those whose style has the gray scale that they have already.
        failed: Inputs that could not be read, and why.
        left_out: Inputs that hold no scan: scout images, reports, label maps.
        without_mask: Inputs for which there was no mask.
    """

    manifest: str
    written: int
    kept: int
    gated: int
    unchanged: int
    failed: dict[str, str]
    left_out: tuple[str, ...]
    without_mask: tuple[str, ...]


def augment_scans(
    network: ToneTransfer | StyleTransfer,
    inputs: str | os.PathLike,
    output: str | os.PathLike,
    styles: StyleBank,
    *,
    workers: int = 2,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> AugmentedSet:
    """Writes every scan of a folder several times, each time in the gray scale of a style.

    ``output/images/`` mirrors the input folder, with the number of the copy behind each name:
    ``a/b.png`` becomes ``images/a/b-1.png``, …; a NIfTI volume keeps its ending, and a DICOM
    series becomes a folder with a derived series. Whole scans get one style. Masks go to
    ``output/masks/`` under the same names, byte for byte, since no pixel moves.

    Style and strength of a copy depend on the seed, on where its source lies in the input folder
    (for a series on its folder and UID) and on the number of the copy alone. A scan is never given
    a style made of its own files. The same call resumes after an interruption, or with more inputs
    or copies. An input that cannot be read is noted, and the others continue.

    ``output/manifest.jsonl`` has one JSON object a line:

    - ``status``: ``"done"``, ``"failed"`` with its ``reason``, or ``"left out"`` for what holds no
      scan;
    - ``source``, ``part`` (from 0, where a DICOM series repeats its positions), ``parts``,
      ``copy`` (from 1);
    - ``image`` and ``mask``, paths in `output`; ``mask`` is null where there is none;
    - ``style``, its name in the bank, ``strength``, and ``window``, center and width;
    - ``confidence``, see :meth:`tfstyle.ToneTransfer.confidence`; null for other models;
    - ``structure``, the structure term of SSIM: the median over up to 16 slices, null where there
      is nothing to measure;
    - ``gated``: true where ``structure`` is below the gate, and the image is the original in its
      window;
    - ``changed``: false where the style has the gray scale that the image has already.

    Args:
        network: The model.
        inputs: A folder of DICOM series, NIfTI and PNG, or one file. Label maps among NIfTI files
            are left out as by :func:`tfstyle.data.read_scans`.
        output: A new folder, or that of an earlier run.
        styles: The styles, encoded by `network`.
        workers: Sources that are read and written at the same time, and that memory holds.
        overwrite: Remove the set that `output` holds and begin again, with any settings.
        progress: Called as ``progress(done, total, label)``, counting images.
        **options: See :class:`~tfstyle.runs.options.AugmentOptions`.

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
        >>> bank = tfstyle.StyleBank.from_scans(model, ["scanner_a/", "scanner_b/"])
        >>> augment_scans(model, "ct/", "augmented/", bank, masks="masks/").written
        1
    """
    chosen = AugmentOptions(**options)
    checked_whole("workers", workers, 1)
    with begin(network, inputs, output, styles, chosen, overwrite) as (manifest, work, sources):
        kept = manifest.count([source.name for source in sources], chosen.per_image)
        _run(manifest, work, sources, Path(inputs), workers, progress)
        return account(manifest, sources, chosen, kept)


@contextmanager
def begin(
    network: ToneTransfer | StyleTransfer,
    inputs: str | os.PathLike,
    output: str | os.PathLike,
    styles: StyleBank,
    options: AugmentOptions,
    overwrite: bool = False,
) -> Iterator[tuple[ManifestFolder, Augmentation, list[Source]]]:
    """Checks everything, opens the output folder; gives it, the work and the sources."""
    styles.check(network)
    inputs, output = Path(inputs), Path(output)
    sources, damaged = find_sources(inputs, check_places(inputs, output, options.masks))
    work = Augmentation(network, output, styles, options)
    work.check_masks(sources)
    basic = options.deidentify == "basic"
    with ManifestFolder(
        output,
        _settings(options, network, styles),
        what="augmented set",
        facts=lambda: {"uid_key": new_key()} if basic else {},
        overwrite=overwrite,
    ) as manifest:
        for error in damaged:
            manifest.add(failure_row(relative_path(error.path, inputs), error, inputs))
        if basic:
            work.uid_key = key = manifest.found.get("uid_key")
            if not isinstance(key, str):
                raise OutputError(manifest.record, "has lost its uid_key; choose another folder.")
            sources = [replace(source, stem=_random_stem(source.name, key)) for source in sources]
        yield manifest, work, sources


def account(
    manifest: ManifestFolder, sources: list[Source], options: AugmentOptions, kept: int
) -> AugmentedSet:
    """What a run did, by the rows of its manifest, which it sorts."""
    names, told = {source.name for source in sources}, manifest.tidy()
    rows = [
        row
        for row in told
        if row["status"] == "done" and row["source"] in names and row["copy"] <= options.per_image
    ]
    unchanged = sum(row.get("changed") is False for row in rows)
    if unchanged:
        log.warning("%d of %d images are as they were: %s", unchanged, len(rows), ONE_GRAY_SCALE)
    bare = [row["source"] for row in rows if options.masks is not None and row["mask"] is None]
    return AugmentedSet(
        manifest=str(manifest.journal),
        written=len(rows) - kept,
        kept=kept,
        gated=sum(bool(row.get("gated")) for row in rows),
        unchanged=unchanged,
        failed={row["source"]: row["reason"] for row in told if row["status"] == "failed"},
        left_out=tuple(row["source"] for row in told if row["status"] == "left out"),
        without_mask=tuple(dict.fromkeys(bare)),
    )


def _run(
    manifest: ManifestFolder,
    work: Augmentation,
    sources: list[Source],
    inputs: Path,
    workers: int,
    progress: Progress | None,
) -> None:
    """Does what is missing, several sources side by side; the model has one of them at a time."""
    copies = work.options.per_image
    todo = [source for source in sources if not manifest.complete(source.name, copies)]
    total, done = len(sources) * copies, 0
    counting, stopping = threading.Lock(), threading.Event()

    def report(label: str, count: int) -> None:
        nonlocal done
        with counting:
            done += count
            if progress is not None:
                progress(done, total, label)

    def do(source: Source) -> None:
        left = copies
        try:
            for row in work.rows(source, manifest.done.get(source.name, ())):
                manifest.add(row)
                if row.get("part") == 0:
                    left -= 1
                    report(source.name, 1)
                if stopping.is_set():
                    return
        except OutputError:
            raise
        except Exception as error:  # any failure of one source, and the others continue
            manifest.add(failure_row(source.name, error, inputs))
        report(source.name, left)

    report("", total - len(todo) * copies)
    with ThreadPoolExecutor(workers) as pool:
        try:
            for finished in as_completed([pool.submit(do, source) for source in todo]):
                finished.result()
        except BaseException:  # what is being written is finished; what waits is not begun
            stopping.set()
            pool.shutdown(cancel_futures=True)
            raise


def _settings(
    options: AugmentOptions, network: ToneTransfer | StyleTransfer, styles: StyleBank
) -> dict:
    """What all images of a set have in common."""
    window = options.window
    if isinstance(window, Window):
        window = f"{window.center:g},{window.width:g}"
    digest = hashlib.sha256(json.dumps([network.fingerprint(), styles.names]).encode())
    for array in (styles.codes, np.asarray(styles.weights)):
        digest.update(array.tobytes())
    return {
        "format": _FORMAT,
        "seed": int(options.seed),
        "strength": list(options.strength),
        "gate": None if options.gate is None else float(options.gate),
        "window": window,
        "masks": options.masks is not None,
        "deidentify": options.deidentify,
        "model_and_styles": digest.hexdigest(),
    }


def _random_stem(name: str, key: str) -> str:
    digest = hmac.new(key.encode(), os.fsencode(name), hashlib.sha256).hexdigest()
    return f"scan-{digest[:12]}"


@dataclass
class Augmentation:
    """What is done to each scan; `uid_key` is None where attributes are kept."""

    network: ToneTransfer | StyleTransfer
    output: Path
    styles: StyleBank
    options: AugmentOptions
    uid_key: str | None = None

    def __post_init__(self) -> None:
        self.masks: Masks | None = None
        if self.options.masks is not None:
            self.masks = Masks(self.options.masks, dicom=self.options.deidentify == "keep")
        self._turn = threading.Lock()
        self.style_files = [set(map(os.path.realpath, files)) for files in self.styles.files]

    def check_masks(self, sources: list[Source]) -> None:
        """Refuses a folder of masks that has none for any source."""
        if self.masks is None or not sources or any(map(self.masks.fit, sources)):
            return
        raise InputFileError(
            self.masks.folder,
            f"holds no mask for any input, such as {sources[0].label}. A mask has the name and "
            "subfolder of its input, but for endings and words such as _ct, _0000 and _seg; beside "
            "its input it needs such a word: case_seg.nii.gz beside case.nii.gz.",
        )

    def rows(self, source: Source, there: Collection[tuple[int, int]]) -> Iterator[dict]:
        """Does what is missing of a source, of which some (part, copy) are there.

        Gives rows of the manifest. Threads take turns with the model.
        """
        there = set(there)
        scans = source.files.read()
        if not scans:
            yield {"status": "left out", "source": source.name}
        for part, scan in enumerate(scans):
            window = resolve_window(self.options.window, scan)
            for copy in range(1, self.options.per_image + 1):
                if (part, copy) not in there:
                    yield self._row(source, scan, window, part, len(scans), copy)

    def _row(
        self, source: Source, scan: Scan, window: Window, part: int, parts: int, copy: int
    ) -> dict:
        """Makes, judges and writes one image with its mask; the row of the manifest."""
        style, strength = self._draw(source.name, part, copy, scan)
        with self._turn:
            unit, confidence, changed = self._generate(scan, window, style, strength)
        gate, structure = self.options.gate, structure_of(scan, window, unit)
        gated = gate is not None and structure is not None and structure < gate
        if gated:
            unit = window.to_unit(scan.pixels)
        name = f"{source.stem}{f'_{scan.stack}' if parts > 1 else ''}-{copy}"
        target = inside(self.output, self.output / "images" / f"{name}{source.ending}")
        mask = None
        if self.masks is not None:
            mask = self.masks.hand_on(source, self.output / "masks", name)
        if target.is_dir():  # of a run that was stopped before it could note it
            remove(target)
        profile = "keep" if self.uid_key is None else "basic"
        write_generated(scan, unit, window, source_kind(scan), target, profile, self.uid_key)
        return {
            "status": "done",
            "source": source.name,
            "part": part,
            "parts": parts,
            "copy": copy,
            "changed": changed,
            "image": target.relative_to(self.output).as_posix(),
            "mask": mask,
            "style": self.styles.names[style],
            "window": [window.center, window.width],
            "structure": _rounded(structure),
            "gated": gated,
            "strength": _rounded(strength),
            "confidence": _rounded(confidence),
        }

    def _draw(self, name: str, part: int, copy: int, scan: Scan) -> tuple[int, float]:
        """Style and strength of a copy, by what it is and nothing else."""
        own = set(map(os.path.realpath, scan.files))
        others = [not files & own for files in self.style_files] or [True]  # files may be unknown
        weights = np.asarray(self.styles.weights) * others
        if not weights.any():
            raise ArgumentError(f"styles: all of them are of {name} itself; give others.")
        digest = hashlib.sha256(os.fsencode(f"{part}:{name}")).digest()
        seed = [int(self.options.seed), copy, *np.frombuffer(digest, np.uint32).tolist()]
        rng = np.random.default_rng(seed)
        style = int(rng.choice(len(weights), p=weights / weights.sum()))
        low, high = self.options.strength
        return style, low + (high - low) * float(rng.random())

    def _generate(
        self, scan: Scan, window: Window, style: int, strength: float
    ) -> tuple[np.ndarray, float | None, bool]:
        """Slices, float32 (slices, rows, columns) in [0, 1]; confidence; whether they changed."""
        unit = window.to_unit(scan.pixels)[..., None]
        transfer = ScanTransfer(
            self.network,
            len(unit),
            lambda which: upright(scan, unit[which, ..., 0])[..., None],
            self.styles.codes[style][None],
            strength,
            batch_size=self.options.batch_size,
        )
        return transfer(unit)[..., 0], transfer.confidence, transfer.changed


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
