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

from tfstyle.data import Scan, Window, read_scan, write_png
from tfstyle.data.layouts import DESCRIPTION, PICTURE
from tfstyle.errors import InputFileError, OutputError, ServingError
from tfstyle.experiments import page
from tfstyle.metrics import body_mask, tone_error
from tfstyle.stylize import StylizedScan, Stylizer, stylize_scans
from tfstyle.training import environment

log = logging.getLogger(__name__)

MARKER = "demo.json"


@dataclass(frozen=True)
class Sample:
    """One image of the demo.

    Attributes:
        label: Short name, also of its files.
        file: File name within pydicom's test data.
        window: Name of the window that makes it a gray image.
        text: What it shows.
    """

    label: str
    file: str
    window: str
    text: str


_VERTEBRA = ("vertebra", "bad_sequence.dcm", "a vertebra, 512 × 512, 0.29 mm")
_ABDOMEN = ("abdomen", "explicit_VR-UN.dcm", "an abdomen with contrast, 512 × 512, 0.86 mm")
_CHEST = ("chest", "CT_small.dcm", "a thoracic vertebra, 128 × 128, 0.66 mm")
_HEAD = ("head", "693_UNCR.dcm", "a head, 512 × 512, 0.48 mm")


def _sample(scan: tuple[str, str, str], window: str) -> Sample:
    label, file, text = scan
    return Sample(f"{label}-{window.replace('_', '-')}", file, window, text)


#: Content and style of each image that the demo makes: always two patients.
PAIRS: tuple[tuple[Sample, Sample], ...] = (
    (_sample(_ABDOMEN, "wide"), _sample(_VERTEBRA, "soft_tissue")),
    (_sample(_HEAD, "bone"), _sample(_ABDOMEN, "soft_tissue")),
    (_sample(_VERTEBRA, "abdomen"), _sample(_CHEST, "spine_bone")),
    (_sample(_CHEST, "wide"), _sample(_HEAD, "brain")),
)


@dataclass(frozen=True)
class Pair:
    """One stylized image with everything that the page shows of it.

    Attributes:
        content: What it was made of.
        style: Whose gray scale it has.
        content_image: float32 (H, W) in [0, 1].
        style_image: The same of the style.
        generated: The same, as read back from the derived file.
        right: The right answer: the content's HU in the style's window.
        error: :func:`tfstyle.metrics.tone_error` of the generated image, tissues weighed alike.
        error_before: The same of the content, for nothing done.
        account: What :func:`tfstyle.stylize.stylize_scans` says.
    """

    content: Sample
    style: Sample
    content_image: np.ndarray
    style_image: np.ndarray
    generated: np.ndarray
    right: np.ndarray
    error: float
    error_before: float
    account: StylizedScan


def run_demo(
    output: str | os.PathLike = "demo",
    *,
    model: Stylizer | None = None,
    preset: str | None = None,
    pairs: Sequence[tuple[Sample, Sample]] = PAIRS,
    progress: Callable[[str], None] = log.info,
) -> Path:
    """Runs the whole path once and writes a page about it.

    Args:
        output: Folder; one of an earlier demo is replaced, any other must be empty or new.
        model: A model to use instead of the preset.
        preset: Name or folder of the preset. Defaults to the default preset.
        pairs: Content and style of each image to make.
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
        progress("reading real CT slices")
        _inputs(work, pairs)
        progress("stylizing each slice, writing derived DICOM")
        made = _stylize(work, model, pairs)
        _write_grid(work, made)
        progress("exporting a SavedModel")
        from tfstyle.export import export_stylize

        export_stylize(model, work / "saved_models" / "stylize", preset=preset)
        progress("serving it and calling it by gRPC")
        served = _serve_and_compare(work, model, made)
        facts = {
            "preset": preset,
            "seconds": round(time.perf_counter() - begin, 1),
            "environment": environment(),
            "pairs": [
                {
                    "content": p.content.label,
                    "style": p.style.label,
                    "tone_error": round(p.error, 4),
                    "tone_error_of_the_content": round(p.error_before, 4),
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


def _inputs(work: Path, pairs: Sequence[tuple[Sample, Sample]]) -> None:
    """Puts every image of the demo into the folder ``input``."""
    folder = work / "input"
    folder.mkdir()
    for file in {sample.file for pair in pairs for sample in pair}:
        shutil.copyfile(sample_file(file), folder / file)


def _stylize(work: Path, model: Stylizer, pairs: Sequence[tuple[Sample, Sample]]) -> list[Pair]:
    made = []
    for content, style in pairs:
        content_file, style_file = (work / "input" / s.file for s in (content, style))
        (account,) = stylize_scans(
            model,
            [content_file],
            [style_file],
            work / "dicom" / f"{content.label}-as-{style.label}",
            window=content.window,
            style_window=style.window,
        )
        scan, style_scan = read_scan(content_file), read_scan(style_file)
        upright = _upright(scan)
        hu = scan.pixels[0][upright].astype(np.float32)
        content_image, right = account.window.to_unit(hu), account.style_windows[0].to_unit(hu)
        generated = _read_gray(account)[upright]
        shown = body_mask(hu) & (content_image > 0) & (content_image < 1)
        error, before = (
            tone_error(right, image, hu, shown)["balanced"] for image in (generated, content_image)
        )
        style_gray = account.style_windows[0].to_unit(style_scan.pixels[0])[_upright(style_scan)]
        made.append(
            Pair(
                content, style, content_image, style_gray, generated, right, error, before, account
            )
        )
        log.info("%s as %s: %.1f s", content.label, style.label, account.seconds)
    return made


def _upright(scan: Scan) -> tuple[slice, slice]:
    """What turns slices for the eye: rows to the back, columns to the patient's left."""
    if scan.affine is None:
        return slice(None), slice(None)
    steps = (-1 if scan.affine[world, axis] < 0 else 1 for axis, world in ((1, 1), (2, 0)))
    return tuple(slice(None, None, step) for step in steps)


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
    rows = [[p.content_image, p.style_image, p.generated, p.right] for p in pairs]
    write_png(page.grid(rows), folder / "grid.png", description=PICTURE)


@contextmanager
def served_models(models: str | os.PathLike, timeout: float = 600.0) -> Iterator[dict]:
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
                said = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
                reason = f"no answer in {timeout:g} s" if line is None else said[-1]
                raise ServingError(f"tfstyle serve did not start: {reason}")
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


def _first_line(process: subprocess.Popen, timeout: float) -> str | None:
    """What the process says first; empty where it ended, None where it said nothing in time."""
    import selectors

    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(timeout) else None


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


def _relative(account: StylizedScan, work: Path) -> dict:
    facts = account.as_dict()
    facts["files"] = [str(Path(file).relative_to(work)) for file in account.files]
    return facts


# -- the page ------------------------------------------------------------------------------


def _page(facts: dict, pairs: Sequence[Pair], work: Path, output: Path) -> str:
    cards = []
    for pair in pairs:
        content_window, style_window = (
            _window_text(sample, window)
            for sample, window in (
                (pair.content, pair.account.window),
                (pair.style, pair.account.style_windows[0]),
            )
        )
        sure = pair.account.confidence
        cards.append(
            f'<section class="card"><h3>{escape(_title(pair))}</h3><p class="soft">'
            f"Mean difference to the right answer {pair.error:.3f} gray levels, "
            f"{pair.error_before:.3f} with nothing done"
            + ("" if sure is None else f"; confidence {sure:.2f} of 1")
            + '.</p><div class="row">'
            + page.image(pair.content_image, "Content", f"{pair.content.text}; {content_window}.")
            + page.image(pair.style_image, "Style", f"{pair.style.text}; {style_window}.")
            + page.image(pair.generated, "Generated", "read back from the derived DICOM file.")
            + page.image(
                pair.right, "Right answer", f"the content's own Hounsfield units; {style_window}."
            )
            + "</div>"
            + page.histograms(
                {
                    "Content": pair.content_image,
                    "Right answer": pair.right,
                    "Generated": pair.generated,
                }
            )
            + "</section>"
        )
    served = facts["served"]
    calls = {(call["content"], call["style"]): call for call in served["calls"]}
    figures = page.table(
        ["Content", "Style", "Nothing done", "Error", "Confidence", "Structure", "Time"],
        [
            (
                p.content.label,
                p.style.label,
                f"{p.error_before:.3f}",
                f"{p.error:.3f}",
                *(
                    "–" if value is None else f"{value:.2f}"
                    for value in (p.account.confidence, p.account.structure)
                ),
                f"{p.account.seconds:.2f} s",
            )
            for p in pairs
        ],
        numbers=range(2, 7),
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
        "<h2>Images</h2><p>From left to right: the slice to change; the image of another patient "
        "whose gray scale is wanted; the result; and the right answer, the content&#39;s own "
        "Hounsfield units in the window of the style, which is known here and which tfstyle does "
        "not see. The curves are the histograms: where it worked, that of the generated image "
        "lies on that of the right answer.</p>",
        *cards,
        "<h2>Figures</h2><p>Error: mean absolute difference to the right answer in gray levels "
        "(black 0, white 1) inside the body, where the window of the content does not clip, "
        "tissues weighed alike; beside it that of the content itself. Confidence: how well the "
        "style shows what the content shows, from 0 to 1; below 0.5 choose another style. "
        "Structure: structure term of SSIM between content and generated, 1 when every edge is "
        "kept.</p>"
        + figures
        + '<p class="soft">The default preset was trained on these scans among others; its errors '
        "on patients that it never saw are in <code>docs/results/truth.md</code>.</p>",
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
        f'<p class="soft">Settings are in <code>{MARKER}</code>. {escape(versions)}. '
        "Method: Xu, Li and Shin, Medical image processing with contextual style transfer, "
        "Hum. Cent. Comput. Inf. Sci. 10:46 (2020). CT slices: test data of pydicom.</p>",
    )


def _number(difference: float) -> str:
    return f"{difference:.1e}" if difference else "0 (the same bits)"


def _title(pair: Pair) -> str:
    content, style = (
        f"{sample.label.partition('-')[0]} ({sample.window.replace('_', ' ')})"
        for sample in (pair.content, pair.style)
    )
    return f"{content.capitalize()} in the gray scale of {style}"


def _window_text(sample: Sample, window: Window) -> str:
    shown = f"{window.lower:g} to {window.upper:g} HU".replace("-", "\N{MINUS SIGN}")
    return f"window {sample.window.replace('_', ' ')}, {shown}"


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
        return pydicom.dcmread(work / "input" / pair.content.file, stop_before_pixels=True)

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
    content = output / "input" / first.content.file
    style = output / "input" / first.style.file
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
