"""One scan in, one scan out: stylize in batches, write, and give account."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfstyle import __version__
from tfstyle.baselines import Baseline
from tfstyle.data import Scan, Window
from tfstyle.data.dicom import read_frame
from tfstyle.data.scan import upright
from tfstyle.errors import ArgumentError
from tfstyle.runs import outputs
from tfstyle.runs.folder import files_digest
from tfstyle.runs.options import StylizeOptions
from tfstyle.runs.results import Account, Task
from tfstyle.stylizers import ONE_GRAY_SCALE, ScanTransfer, Stylizer, encode_style, read_slices
from tfstyle.tone.model import LOW_CONFIDENCE

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StylizedScan(Account):
    """What was done to one scan.

    Attributes:
        files: Files written, in slice order.
        units: ``"HU"``, ``"US"`` or ``"gray"``; see :class:`tfstyle.data.Scan`.
        clipped_below: Share of the source's pixels below the window, which became black.
        clipped_above: Share of the source's pixels above the window, which became white.
        quantization: Distance between two neighboring values that the output can hold, in
            `units`.
        style_windows: Windows of the styles, in their own units.
        confidence: How well the styles show what the scan shows, from 0 to 1, see
            :meth:`tfstyle.ToneTransfer.confidence`; None for models that do not tell.
        structure: Structure term of SSIM between content and generated, the median over up to
            16 slices; None where no slice has anything to compare.
        seconds: Time of the model or the server, without reading and writing.
    """

    files: tuple[str, ...]
    units: str
    clipped_below: float
    clipped_above: float
    quantization: float
    style_windows: tuple[Window, ...]
    confidence: float | None
    structure: float | None
    seconds: float

    @property
    def paths(self) -> tuple[str, ...]:
        return self.files


@dataclass(frozen=True)
class StylizeWork:
    """What is the same for all scans of a run; codes and windows are those of the styles.

    `model` is its fingerprint, None where it cannot be told; `uid_key` is not part of the job.
    """

    stylizer: Stylizer | None
    options: StylizeOptions
    codes: list[np.ndarray]
    style_windows: tuple[Window, ...]
    model: str | None
    uid_key: str | None = None

    @classmethod
    def begin(cls, stylizer: Stylizer, styles: Sequence, options: StylizeOptions) -> StylizeWork:
        """Reads and encodes the styles; an ArgumentError or InputFileError if one is unusable."""
        if not styles and not (isinstance(stylizer, Baseline) and not stylizer.needs_style):
            raise ArgumentError("styles: at least one style scan is needed.")
        weights = options.style_weights
        if weights is not None and len(weights) != len(styles):
            raise ArgumentError(
                f"style_weights: {len(weights)} weights for {len(styles)} styles; give one each."
            )
        chosen = options.style_window, options.style_slice, options.style_series
        taken = [encode_style(stylizer, path, *chosen) for path in styles]
        return cls(
            stylizer=stylizer,
            options=options,
            codes=[code for code, _, _ in taken],
            style_windows=tuple(window for _, _, window in taken),
            model=stylizer.fingerprint() if hasattr(stylizer, "fingerprint") else None,
        )

    @property
    def style_weights(self) -> Sequence[float] | None:
        """Weights of several styles."""
        return self.options.style_weights if len(self.codes) > 1 else None

    def job(self, scan: Scan, kind: str, window: Window) -> str | None:
        """Tells this work on a scan from any other; None where the model cannot be told."""
        if self.model is None:
            return None
        return files_digest(
            scan.files,
            __version__,
            self.model,
            [hashlib.sha256(code.tobytes()).hexdigest() for code in self.codes],
            None if self.style_weights is None else list(map(float, self.style_weights)),
            [self.options.strength, window.center, window.width, kind],
            self.options.deidentify,
            [frame.index for frame in scan.frames],
        )

    def run(
        self, task: Task, folder: Path, pool: Executor, advance: Callable[[int], None]
    ) -> tuple[Path, StylizedScan]:
        """Stylizes one scan in an empty folder; gives the file or folder made, and the account."""
        window, one_file = task.window, outputs.is_one_file(task.scan, task.kind)
        assert window is not None
        scan = task.scan if task.scan.by_slice and not one_file else task.scan.load()
        transfer = self._transfer(scan, window, pool)
        if one_file:
            made, files = folder / task.target.name, [task.target]
            unit, facts = self._generate(scan, window, transfer, pool, advance)
            outputs.write_generated(scan, unit, window, task.kind, made)
        else:
            made = folder / "slices"
            made.mkdir()
            writers = outputs.slice_writers(
                scan, window, task.kind, self.options.deidentify, self.uid_key
            )
            files = [task.target / name for name, _ in writers]
            to = [(write, made / name) for name, write in writers]
            _, facts = self._generate(scan, window, transfer, pool, advance, to)
        if not transfer.changed:
            log.warning("%s: nothing is changed: %s", scan.name, ONE_GRAY_SCALE)
        return made, StylizedScan(
            source=scan.name,
            slices=len(scan),
            size=(scan.shape[1], scan.shape[2]),
            window=window,
            files=tuple(map(str, files)),
            units=scan.units,
            clipped_below=float(np.mean([one["below"] for one in facts])),
            clipped_above=float(np.mean([one["above"] for one in facts])),
            quantization=outputs.step_of(scan, window, task.kind),
            style_windows=self.style_windows,
            confidence=transfer.confidence,
            structure=outputs.median_structure(facts),
            seconds=transfer.seconds,
        )

    def _transfer(self, scan: Scan, window: Window, pool: Executor) -> ScanTransfer:
        assert self.stylizer is not None
        transfer = ScanTransfer(
            self.stylizer,
            len(scan),
            lambda which: window.to_unit(upright(scan, read_slices(scan, which, pool)))[..., None],
            self.codes[0] if len(self.codes) == 1 else self.codes or None,
            self.options.strength,
            self.style_weights,
            self.options.batch_size,
        )
        if transfer.confidence is not None and transfer.confidence < LOW_CONFIDENCE:
            what = "the style shows little that is comparable with it; choose another slice or scan"
            log.warning(
                "%s: low confidence (%.2f): %s as style.", scan.name, transfer.confidence, what
            )
        return transfer

    def _generate(
        self,
        scan: Scan,
        window: Window,
        transfer: ScanTransfer,
        pool: Executor,
        advance: Callable[[int], None],
        to: Sequence[tuple[outputs.Writer, Path]] = (),
    ) -> tuple[np.ndarray, list[dict[str, float]]]:
        """Generated images in [0, 1], none where `to` says how to write each; facts of each."""
        size, measured = self.options.batch_size, outputs.measured_slices(len(scan))
        unit = np.empty((0,) if to else scan.shape, np.float32)
        facts: list[dict[str, float]] = []
        working: list[Future] = []
        try:
            for part, pixels in _read_ahead(scan, size, pool):
                generated = transfer(window.to_unit(pixels)[..., None])[..., 0]
                # What is written lags behind by one part at most, and so does the memory.
                for future in working[-size:]:
                    future.result()
                for i, content, image in zip(part, pixels, generated):
                    details = content, window, scan.units, i in measured
                    if to:
                        working.append(pool.submit(outputs.finish_slice, *to[i], image, *details))
                    else:
                        unit[i] = image
                        facts.append(outputs.facts_of(image, *details))
                advance(len(part))
            return unit, facts + [future.result() for future in working]
        except BaseException:
            for future in working:
                future.cancel()
            wait([future for future in working if not future.cancelled()], timeout=60)
            raise


def _read_ahead(scan: Scan, size: int, pool: Executor) -> Iterator[tuple[range, np.ndarray]]:
    """Parts of so many slices with their pixels; while one is in use, the next is read."""
    parts = [range(i, min(i + size, len(scan))) for i in range(0, len(scan), size)]
    if not scan.by_slice:
        for part in parts:
            yield part, scan.pixels[part.start : part.stop]
        return
    following = [pool.submit(read_frame, scan.frames[i]) for i in parts[0]]
    for part, after in zip(parts, [*parts[1:], range(0)]):
        reading, following = following, [pool.submit(read_frame, scan.frames[i]) for i in after]
        yield part, np.stack([future.result() for future in reading])
