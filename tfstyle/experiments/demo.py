"""The main job on real CT in a few minutes: stylize, write DICOM, export, serve, call, show.

``make demo`` calls :func:`run_demo`. The scans are slices that pydicom and the package
``pydicom-data`` ship for tests; nothing else is fetched.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from tfstyle.data import Window, apply_protocol, spine_phantom, write_png
from tfstyle.data.layouts import DESCRIPTION, PICTURE
from tfstyle.errors import InputFileError, OutputError, ServingError, WeightsError
from tfstyle.experiments import page
from tfstyle.stylize import StylizedScan, Stylizer, style_image, stylize_scans
from tfstyle.training import environment

log = logging.getLogger(__name__)

MARKER = "demo.json"


@dataclass(frozen=True)
class Sample:
    """One image of the demo.

    Attributes:
        label: Short name, also of its files.
        file: File name within pydicom's test data, or ``"phantom:PROTOCOL"`` for a drawn one.
        window: Window that makes it a gray image.
        text: What it shows.
        spacing_mm: Pixel spacing of a phantom; small ones show the spine alone.
    """

    label: str
    file: str
    window: str
    text: str
    spacing_mm: float | None = None

    @property
    def protocol(self) -> str | None:
        """The protocol of a phantom, None for a scan."""
        head, _, tail = self.file.partition(":")
        return tail if head == "phantom" else None

    @property
    def name(self) -> str:
        """Name of the scan, without the suffix of its file."""
        return Path(self.file).stem

    @property
    def stored(self) -> str:
        """Name of its file in the demo's folder ``input``."""
        return f"{self.name}.dcm" if self.protocol is None else f"{self.label}.png"


_VERTEBRA = ("bad_sequence.dcm", "a vertebra, 512 × 512, 0.29 mm")
_ABDOMEN = ("explicit_VR-UN.dcm", "an abdomen with contrast, 512 × 512, 0.86 mm")
_THORAX = ("CT_small.dcm", "a thoracic vertebra, 128 × 128, 0.66 mm")
_HEAD = ("693_UNCR.dcm", "a head, 512 × 512, 0.48 mm")


def _sample(label: str, scan: tuple[str, str], window: str) -> Sample:
    return Sample(label, scan[0], window, scan[1])


def _spine(label: str, protocol: str) -> Sample:
    return Sample(label, f"phantom:{protocol}", "auto", "a drawn phantom, near the spine", 0.55)


_VERTEBRA_SOFT = _sample("vertebra", _VERTEBRA, "40,350")
_THORAX_BONE = _sample("thorax", _THORAX, "bone")
_ABDOMEN_WIDE = _sample("abdomen", _ABDOMEN, "wide")

#: Content and style of each image that the demo makes.
PAIRS: tuple[tuple[Sample, Sample], ...] = (
    (_VERTEBRA_SOFT, _sample("thorax-bone", _THORAX, "bone")),
    (_VERTEBRA_SOFT, _spine("phantom-dark", "dark")),
    (_THORAX_BONE, _sample("vertebra-soft", _VERTEBRA, "40,350")),
    (_THORAX_BONE, _spine("phantom-bright", "bright")),
    (_ABDOMEN_WIDE, _sample("head-soft", _HEAD, "soft_tissue")),
    (_ABDOMEN_WIDE, Sample("phantom-body", "phantom:bright", "auto", "a drawn phantom")),
)


@dataclass(frozen=True)
class Pair:
    """One stylized image with everything that the page shows of it."""

    content: Sample
    style: Sample
    content_image: np.ndarray
    style_image: np.ndarray
    generated: np.ndarray
    account: StylizedScan


def run_demo(
    output: str | os.PathLike = "demo",
    *,
    model: Stylizer | None = None,
    preset: str | None = None,
    pairs: Sequence[tuple[Sample, Sample]] = PAIRS,
    seed: int = 7,
    progress: Callable[[str], None] = log.info,
) -> Path:
    """Runs the whole path once and writes a page about it.

    Args:
        output: Folder; one of an earlier demo is replaced, any other must be empty or new.
        model: A model to use instead of the preset.
        preset: Name or folder of the preset. Defaults to the default preset.
        pairs: Content and style of each image to make; the contents are scans.
        seed: Of the phantoms.
        progress: Called with a sentence before each part.

    Returns:
        Path of ``index.html``.

    Raises:
        InputFileError: If pydicom's test data is not installed.
        OutputError: If the folder holds something else or cannot be written.
        ServingError: If the server does not start or answers otherwise.
    """
    begin = time.perf_counter()
    output = Path(output)
    _check_output(output)
    from tfstyle import presets

    preset = preset or presets.DEFAULT
    if model is None:
        progress(f"loading the preset {preset}")
        model = presets.load(preset)
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        os.chmod(work, 0o755)
        progress("reading real CT slices and drawing a phantom")
        _inputs(work, pairs, seed)
        progress("stylizing each slice with two styles, writing derived DICOM")
        made = _stylize(work, model, pairs)
        _write_grid(work, made)
        progress("exporting a SavedModel")
        from tfstyle.export import export_stylize

        export_stylize(model, work / "saved_models" / "stylize", preset=preset)
        progress("serving it and calling it by gRPC")
        served = _serve_and_compare(work, model, made)
        known = _trained_on(preset)
        facts = {
            "preset": preset,
            "seed": seed,
            "seconds": round(time.perf_counter() - begin, 1),
            "environment": environment(),
            "pairs": [
                {
                    "content": p.content.label,
                    "style": p.style.label,
                    "content_in_training": None if known is None else p.content.name in known,
                    **_relative(p.account, work),
                }
                for p in made
            ],
            "served": served,
        }
        (work / MARKER).write_text(json.dumps(facts, indent=2) + "\n")
        (work / "index.html").write_text(_page(facts, made, work, output), encoding="utf-8")
        _replace(work, output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return output / "index.html"


def sample_file(name: str) -> Path:
    """Path of a file of pydicom's test data, without any download.

    Raises:
        InputFileError: If it is not installed.
    """
    from pydicom.data import get_testdata_file

    found = get_testdata_file(name, download=False)
    if found is None:
        raise InputFileError(
            name, "is part of the package pydicom-data; install it: pip install 'tfstyle[demo]'."
        )
    return Path(str(found))


def _check_output(output: Path) -> None:
    if output.is_dir():
        if any(output.iterdir()) and not (output / MARKER).is_file():
            raise OutputError(output, "is not empty and holds no earlier demo; choose another.")
    elif output.exists():
        raise OutputError(output, "is a file; choose a folder.")


def _replace(work: Path, output: Path) -> None:
    """Puts the finished folder in place of an earlier one."""
    try:
        if output.exists():
            old = output.with_name(f".{output.name}-old-{os.getpid()}")
            os.replace(output, old)
            os.replace(work, output)
            shutil.rmtree(old)
        else:
            os.replace(work, output)
    except OSError as error:
        raise OutputError.of(output, error) from error


def _inputs(work: Path, pairs: Sequence[tuple[Sample, Sample]], seed: int) -> None:
    """Puts every image of the demo into the folder ``input``."""
    folder = work / "input"
    folder.mkdir()
    for sample in {s.stored: s for pair in pairs for s in pair}.values():
        target = folder / sample.stored
        if sample.protocol is None:
            shutil.copyfile(sample_file(sample.file), target)
        else:
            phantom = spine_phantom(seed=seed, size=256, spacing_mm=sample.spacing_mm)
            write_png(apply_protocol(phantom, sample.protocol, seed=seed)[0], target)


def _stylize(work: Path, model: Stylizer, pairs: Sequence[tuple[Sample, Sample]]) -> list[Pair]:
    made = []
    for content, style in pairs:
        content_file, style_file = (work / "input" / s.stored for s in (content, style))
        (account,) = stylize_scans(
            model,
            [content_file],
            [style_file],
            work / "dicom" / f"{content.label}-as-{style.label}",
            window=content.window,
            style_window=style.window,
        )
        made.append(
            Pair(
                content=content,
                style=style,
                content_image=style_image(content_file, content.window)[0],
                style_image=style_image(style_file, style.window)[0],
                generated=_read_gray(account),
                account=account,
            )
        )
        log.info("%s as %s: %.1f s", content.label, style.label, account.seconds)
    return made


def _read_gray(account: StylizedScan) -> np.ndarray:
    """The generated image as any viewer gets it: from the DICOM file, through its window."""
    import pydicom

    dataset = pydicom.dcmread(account.files[0])
    values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    return account.window.to_unit(values)


def _write_grid(work: Path, pairs: Sequence[Pair]) -> None:
    folder = work / "png"
    folder.mkdir()
    for pair in pairs:
        target = folder / f"{pair.content.label}-as-{pair.style.label}.png"
        write_png(pair.generated, target, description=DESCRIPTION)
    rows = [[pair.content_image, pair.style_image, pair.generated] for pair in pairs]
    write_png(page.grid(rows), folder / "grid.png", description=PICTURE)


@contextmanager
def served_models(models: str | os.PathLike, timeout: float = 120.0) -> Iterator[dict]:
    """``tfstyle serve`` in a process of its own, on a free port.

    Args:
        models: Folder of models.
        timeout: Seconds that the start may take.

    Yields:
        What the server says of itself: ``"address"``, ``"backend"``, ``"models"``.

    Raises:
        ServingError: If it does not start.
    """
    command = [sys.executable, "-m", "tfstyle", "serve", "--models", str(models)]
    command += ["--port", "0", "--json"]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            line = _first_line(process, timeout)
            if not line:
                errors.seek(0)
                reason = errors.read().decode(errors="replace").strip().splitlines()
                raise ServingError(
                    f"tfstyle serve did not start: {reason[-1] if reason else 'no answer in time'}"
                )
            yield json.loads(line)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def _first_line(process: subprocess.Popen, timeout: float) -> str:
    import selectors

    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(timeout) else ""


def _serve_and_compare(work: Path, model: Stylizer, pairs: Sequence[Pair]) -> dict:
    from tfstyle.serving import Client

    results = []
    with (
        served_models(work / "saved_models") as server,
        Client(server["address"], timeout=120.0) as client,
    ):
        client.stylize(pairs[0].content_image, pairs[0].style_image)  # the first call is slow
        for pair in pairs:
            begin = time.perf_counter()
            answer = client.stylize(pair.content_image, pair.style_image)
            seconds = time.perf_counter() - begin
            local = model.stylize(pair.content_image, pair.style_image)
            results.append(
                {
                    "content": pair.content.label,
                    "style": pair.style.label,
                    "difference": float(np.abs(answer - local).max()),
                    "seconds": round(seconds, 3),
                }
            )
        status = client.status()
    return {
        "backend": server["backend"],
        "status": {str(version): state for version, state in status.items()},
        "largest_difference": max(result["difference"] for result in results),
        "calls": results,
    }


def _trained_on(preset: str) -> set[str] | None:
    """Names of the scans that a preset was trained on, None where its card does not say."""
    from tfstyle import presets

    try:
        data = presets.card(preset).get("data")
    except WeightsError:
        return None
    return set(data) if isinstance(data, (dict, list, tuple)) else None


def _relative(account: StylizedScan, work: Path) -> dict:
    facts = account.as_dict()
    facts["files"] = [str(Path(file).relative_to(work)) for file in account.files]
    return facts


# -- the page ------------------------------------------------------------------------------


def _page(facts: dict, pairs: Sequence[Pair], work: Path, output: Path) -> str:
    cards = []
    for pair in pairs:
        cards.append(
            f'<section class="card"><h3>{escape(pair.content.label.capitalize())} '
            f"in the gray scale of {escape(pair.style.label)}</h3>"
            '<div class="row">'
            + page.image(
                pair.content_image,
                "Content",
                f"{pair.content.text}; {_window_text(pair.content, pair.account.window)}.",
            )
            + page.image(
                pair.style_image,
                "Style",
                f"{pair.style.text}; {_window_text(pair.style, pair.account.style_windows[0])}.",
            )
            + page.image(
                pair.generated,
                "Generated",
                "read back from the derived DICOM file through its window.",
            )
            + "</div>"
            + page.histograms(
                {
                    "Content": pair.content_image,
                    "Style": pair.style_image,
                    "Generated": pair.generated,
                }
            )
            + "</section>"
        )
    served = facts["served"]
    calls = {(call["content"], call["style"]): call for call in served["calls"]}
    figures = page.table(
        [
            "Content",
            "Style",
            "Trained on it",
            "Distance before",
            "after",
            "Ratio",
            "Structure",
            "Time",
        ],
        [
            (
                p.content.label,
                p.style.label,
                {True: "yes", False: "no", None: "not known"}[fact["content_in_training"]],
                f"{p.account.distance_before:.3f}",
                f"{p.account.distance_after:.3f}",
                f"{p.account.distance_after / max(p.account.distance_before, 1e-9):.2f}",
                "–" if p.account.structure is None else f"{p.account.structure:.3f}",
                f"{p.account.seconds:.2f} s",
            )
            for p, fact in zip(pairs, facts["pairs"])
        ],
        numbers=range(3, 8),
    )
    round_trip = page.table(
        ["Content", "Style", "Window (HU)", "Below", "Above", "Step (HU)", "Largest error"],
        [
            (
                p.content.label,
                p.style.label,
                f"{p.account.window.lower:g} … {p.account.window.upper:g}",
                f"{p.account.clipped_below:.1%}",
                f"{p.account.clipped_above:.1%}",
                f"{p.account.quantisation:.4f}",
                f"{p.account.round_trip:.1e}",
            )
            for p in pairs
        ],
        numbers=range(2, 7),
    )
    grpc = page.table(
        ["Content", "Style", "Largest difference", "Call"],
        [
            (
                p.content.label,
                p.style.label,
                f"{call['difference']:.1e}",
                f"{call['seconds']:.2f} s",
            )
            for p in pairs
            for call in [calls[p.content.label, p.style.label]]
        ],
        numbers=(2, 3),
    )
    versions = ", ".join(f"{k} {v}" for k, v in facts["environment"].items() if k != "git")
    return page.page(
        "tfstyle demo",
        "<header><h1>CT in another gray scale</h1>"
        '<p class="lead">Real CT slices take on the gray scale of another image and keep their '
        "anatomy. Everything on this page was computed by <code>make demo</code> in "
        f"{facts['seconds']:.0f} seconds.</p></header>"
        '<div class="notice"><b>Not for diagnosis.</b> Generated images are pictures, not '
        "measurements: their values are no Hounsfield units of tissue, and detail may be lost or "
        "changed. tfstyle is not a medical device.</div>",
        "<h2>Images</h2><p>Left: the slice to change. Middle: the image whose gray scale is "
        "wanted. Right: the result. The curves are the histograms: where it worked, the curve of "
        "the generated image lies near that of the style, while its shapes stay those of the "
        "content.</p>",
        *cards,
        "<h2>Figures</h2><p>Distance: Wasserstein distance between histograms of gray levels in "
        "[0, 1], content to style (before) and generated to style (after); lower is nearer. "
        "Structure: structure term of SSIM between content and generated, 1 when every edge is "
        "kept; it ignores contrast, which is what the style may change.</p>"
        + figures
        + '<p class="soft">Whether the preset was trained on a content scan is taken from its '
        "model card, which also gives its figures on a series that it never saw: <code>tfstyle "
        f"info {escape(str(facts['preset']))}</code>.</p>",
        "<h2>Hounsfield units and back</h2><p>A window turns Hounsfield units into [0, 1] for the "
        "model; the same window turns the generated image back for the derived DICOM files. Values "
        "of the source outside the window were clipped. Step is the rescale slope of the written "
        "file, error the largest difference of gray levels after writing and reading.</p>"
        + round_trip
        + _dicom_section(pairs, work),
        "<h2>Served</h2><p>The model was exported as a SavedModel, served by "
        f"<code>tfstyle serve</code> (backend: {escape(served['backend'])}) and called by gRPC "
        "with TensorFlow Serving's protocol. Differences are between the answer and the model in "
        f"this process; the largest is <b>{_number(served['largest_difference'])}</b>.</p>" + grpc,
        "<h2>The same by hand</h2><pre><code>" + escape(_commands(pairs, output)) + "</code></pre>",
        f'<p class="soft">Seed and settings are in <code>{MARKER}</code>. {escape(versions)}. '
        "Method: Xu, Li and Shin, Medical image processing with contextual style transfer, "
        "Hum. Cent. Comput. Inf. Sci. 10:46 (2020). CT slices: test data of pydicom.</p>",
    )


def _number(difference: float) -> str:
    return f"{difference:.1e}" if difference else "0 (the same bits)"


def _window_text(sample: Sample, window: Window) -> str:
    if sample.protocol is not None:
        return f"protocol {sample.protocol}"
    return f"window {window.lower:g} to {window.upper:g} HU"


_TAGS = (
    "ImageType",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "DerivationDescription",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "BitsStored",
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
)


def _dicom_section(pairs: Sequence[Pair], work: Path) -> str:
    """Source and derived header of one pair, side by side."""
    import pydicom

    def source_of(pair: Pair) -> pydicom.Dataset:
        return pydicom.dcmread(work / "input" / pair.content.stored, stop_before_pixels=True)

    # Some files of pydicom's test data have scrambled identifiers on purpose; show a sound one.
    pair = next((p for p in pairs if source_of(p).SOPInstanceUID.is_valid), pairs[0])
    source = source_of(pair)
    derived = pydicom.dcmread(pair.account.files[0], stop_before_pixels=True)
    rows = [
        (tag, _short(source.get(tag)), _short(derived.get(tag)))
        for tag in _TAGS
        if tag in source or tag in derived
    ]
    reference = derived.get("SourceImageSequence")
    if reference:
        rows.append(("SourceImageSequence", "–", _short(reference[0].ReferencedSOPInstanceUID)))
    return (
        "<details open><summary>Source and derived file side by side: "
        f"{escape(pair.content.label)} in the gray scale of {escape(pair.style.label)}</summary>"
        + page.table(["Attribute", "Source", "Derived"], rows)
        + "</details>"
    )


def _short(value: object) -> str:
    if value is None:
        return "–"
    text = (
        "\\".join(map(str, value)) if not isinstance(value, str) and _listed(value) else str(value)
    )
    return text if len(text) <= 64 else f"{text[:14]} … {text[-28:]}"


def _listed(value: object) -> bool:
    return isinstance(value, Sequence) or hasattr(value, "__iter__")


def _commands(pairs: Sequence[Pair], output: Path) -> str:
    first = pairs[0]
    content = output / "input" / first.content.stored
    style = output / "input" / first.style.stored
    options = f"--style {style} --window {first.content.window}"
    options += f" --style-window {first.style.window}"
    models = output / "saved_models"
    return (
        ". .venv/bin/activate\n"
        f"tfstyle stylize {content} {options} -o stylized\n"
        f"tfstyle stylize {content} {options} --format png -o stylized.png\n"
        f"tfstyle export -o {models / 'stylize'}\n"
        f"tfstyle serve --models {models} &\n"
        f"tfstyle stylize {content} {options} \\\n    --server 127.0.0.1:8500 -o served\n"
        f"tfstyle info {content}\n"
    )
