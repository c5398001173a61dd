#!/usr/bin/env python3
"""The main job on real CT in a minute: stylize, write DICOM, segment, export, serve, call, show.

``make demo`` runs it. The scans are slices that pydicom and the package ``pydicom-data`` ship for
tests; nothing else is fetched.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
from ct_scans import packaged_file

from studies import common
from tfstyle import presets
from tfstyle.data import WINDOWS, Window, body_mask, read_scan, write_png
from tfstyle.data.layouts import DESCRIPTION, PICTURE
from tfstyle.data.scan import upright
from tfstyle.errors import OutputError, TfstyleError
from tfstyle.export import export_stylize, export_unet
from tfstyle.metrics import dice, tone_error
from tfstyle.runs import StylizedScan, environment, stylize_scans
from tfstyle.segmentation import Segmenter
from tfstyle.serving import Client, DevelopmentServer

MARKER = "demo.json"


@dataclass(frozen=True)
class Sample:
    """One image of the demo: its name, file of pydicom's test data, window, and what it shows."""

    name: str
    file: str
    text: str
    window: str

    @property
    def label(self) -> str:
        """Name of its files."""
        return f"{self.name}-{self.window.replace('_', '-')}"


_VERTEBRA = ("vertebra", "bad_sequence.dcm", "a vertebra, 512 × 512, 0.29 mm")
_ABDOMEN = ("abdomen", "explicit_VR-UN.dcm", "an abdomen with contrast, 512 × 512, 0.86 mm")
_CHEST = ("chest", "CT_small.dcm", "a thoracic vertebra, 128 × 128, 0.66 mm")
_HEAD = ("head", "693_UNCR.dcm", "a head, 512 × 512, 0.48 mm")
#: Content and style of each image that the demo makes: always two patients.
PAIRS: tuple[tuple[Sample, Sample], ...] = (
    (Sample(*_ABDOMEN, "wide"), Sample(*_VERTEBRA, "soft_tissue")),
    (Sample(*_HEAD, "bone"), Sample(*_ABDOMEN, "soft_tissue")),
    (Sample(*_VERTEBRA, "abdomen"), Sample(*_CHEST, "spine_bone")),
    (Sample(*_CHEST, "wide"), Sample(*_HEAD, "brain")),
)
#: What the U-Net is shown, in gray scales that it was not trained on.
SEGMENTED = (Sample(*_ABDOMEN, "wide"), Sample(*_VERTEBRA, "abdomen"), Sample(*_CHEST, "wide"))
#: Red, green and blue of a mask, and how much of it covers the image.
MASK_COLOR, MASK_SHARE = (1.0, 0.45, 0.0), 0.55
TAGS = (
    "ImageType", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "DerivationDescription",
    "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "BitsStored", "RescaleSlope",
    "RescaleIntercept", "WindowCenter", "WindowWidth",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """One stylized image with all that the page shows of it; images float32 (H, W) in [0, 1]."""

    content: Sample
    style: Sample
    content_image: np.ndarray
    style_image: np.ndarray
    generated: np.ndarray  # as read back from the derived file
    right: np.ndarray  # the right answer: the content's HU in the style's window
    error: float  # tone error of the generated image, tissues weighed alike
    error_before: float  # the same of the content, for nothing done
    account: StylizedScan

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.content.label}-as-{self.style.label}"


@dataclass(frozen=True)
class Segmented:
    """A slice in a gray scale that the U-Net was not trained on, and the spine that it finds.

    Masks lie on the image, float32 (H, W, 3): as it is, harmonized to the gray scale of the
    training, and in that gray scale from the slice's own HU.
    """

    sample: Sample
    image: np.ndarray  # float32 (H, W) in [0, 1]
    masks: tuple[np.ndarray, ...]
    agreement: tuple[float, ...]  # Dice of the first two with the third, 0 where neither has any


def run_demo(
    output: str | os.PathLike = "demo",
    *,
    model=None,
    preset: str | None = None,
    pairs: Sequence[tuple[Sample, Sample]] = PAIRS,
    segmented: Sequence[Sample] = SEGMENTED,
) -> Path:
    """Runs the whole path once and writes a page about it, whose path is returned.

    The output folder of an earlier demo is replaced, any other must be empty or new. `model` is
    used instead of the preset.
    """
    begin, output = time.perf_counter(), Path(output)

    def progress(text: str) -> None:
        print(f"[{time.perf_counter() - begin:5.1f} s] {text}", flush=True)

    earlier = not output.exists() or (output / MARKER).is_file()
    if not earlier and (output.is_file() or any(output.iterdir())):
        raise OutputError(output, "exists and holds no earlier demo; choose another.")
    preset = preset or presets.DEFAULT
    default = model is None and preset == presets.DEFAULT
    if model is None:
        progress(f"loading the preset {preset}")
        model = presets.load(preset)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as temporary:
        work = Path(temporary, output.name)
        (work / "input").mkdir(parents=True)
        for file in {sample.file for pair in pairs for sample in pair}:
            shutil.copyfile(packaged_file(file), work / "input" / file)
        progress("stylizing real CT slices, writing derived DICOM")
        made = [stylize(work, model, *pair) for pair in pairs]
        for pair in made:
            write_png(pair.generated, work / "png" / f"{pair.name}.png", description=DESCRIPTION)
        rows = [[p.content_image, p.style_image, p.generated, p.right] for p in made]
        write_png(common.grid(rows), work / "png" / "grid.png", description=PICTURE)
        progress("finding the spine")
        segmenter = Segmenter.open()
        if default:
            segmenter = replace(segmenter, tone=model)  # it is traced already
        found = [segment(segmenter, sample) for sample in segmented]
        progress("exporting SavedModels")
        export_stylize(model, work / "saved_models" / "stylize", preset=preset)
        export_unet(segmenter.model, work / "saved_models" / "unet")
        progress("serving it and calling it by gRPC")
        facts = {
            "preset": preset,
            "environment": environment(),
            "pairs": [_facts(pair, work) for pair in made],
            "segmented": {one.sample.label: one.agreement for one in found},
            "served": serve_and_compare(work / "saved_models", model, segmenter.model, made),
            "seconds": round(time.perf_counter() - begin, 1),
        }
        (work / MARKER).write_text(json.dumps(facts, indent=2) + "\n")
        values = {"facts": facts, "pairs": made, "found": found, "headers": headers(work, made)}
        page = common.render("demo.html", **values, histograms=histograms, output=output)
        (work / "index.html").write_text(page, encoding="utf-8")
        if output.exists():
            shutil.rmtree(output)
        os.replace(work, output)
    page = output / "index.html"
    progress(f"done: open {page.resolve()} in a browser")
    return page


def stylize(work: Path, model, content: Sample, style: Sample) -> Pair:
    """Stylizes one slice, writes the derived DICOM file and reads it back."""
    content_file, style_file = (work / "input" / s.file for s in (content, style))
    target = work / "dicom" / f"{content.label}-as-{style.label}"
    windows = {"window": content.window, "style_window": style.window}
    (account,) = stylize_scans(model, [content_file], [style_file], target, **windows)
    scan, style_scan = read_scan(content_file), read_scan(style_file)
    hu = upright(scan, scan.pixels[0].astype(np.float32))
    content_window, style_window = account.window, account.style_windows[0]
    content_image, right = content_window.to_unit(hu), style_window.to_unit(hu)
    # As any viewer gets it: from the DICOM file, through its window.
    derived = pydicom.dcmread(account.files[0])
    values = derived.pixel_array * float(derived.RescaleSlope) + float(derived.RescaleIntercept)
    generated = upright(scan, content_window.to_unit(values))
    shown = body_mask(hu) & (content_image > 0) & (content_image < 1)
    error, before = (
        tone_error(right, image, hu, shown)["balanced"] for image in (generated, content_image)
    )
    style_image = upright(style_scan, style_window.to_unit(style_scan.pixels[0]))
    images = content_image, style_image, generated, right
    return Pair(content, style, *images, error, before, account)


def segment(segmenter: Segmenter, sample: Sample) -> Segmented:
    """Finds the spine in a slice as it is, harmonized, and in its own HU."""
    scan = read_scan(packaged_file(sample.file))
    unit = WINDOWS[sample.window].to_unit(scan.pixels)
    # Gray levels whose window nobody knows, as of a secondary capture.
    stored = np.rint(4095 * unit).astype(np.int16)
    gray = replace(scan, pixels=stored, units="US", header_window=Window(2047.5, 4095))
    masks = [segmenter(gray, harmonize=False), segmenter(gray, harmonize=True), segmenter(scan)]
    agreement = [dice(masks[-1], mask, 2, target_classes=[1]) for mask in masks[:-1]]
    image, own = (upright(scan, one[0]) for one in (unit, segmenter.window.to_unit(scan.pixels)))
    images = image, segmenter.tone.stylize(image, segmenter.style), own
    overlays = tuple(overlay(i, upright(scan, mask[0])) for i, mask in zip(images, masks))
    return Segmented(sample, image, overlays, tuple(np.nan_to_num(agreement).round(3).tolist()))


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A gray image (H, W) under a mask (H, W), float32 (H, W, 3)."""
    share = MASK_SHARE * (mask > 0)[..., None]
    return ((1 - share) * image[..., None] + share * np.array(MASK_COLOR)).astype(np.float32)


def serve_and_compare(models: Path, model, unet, pairs: Sequence[Pair]) -> dict:
    """Serves the exported models, and compares their answers with the models in this process."""
    calls = []
    with (
        DevelopmentServer(models, port=0) as server,
        Client(server.address, timeout=120.0) as client,
        Client(server.address, "unet", timeout=120.0) as segmenting,
    ):
        client.stylize(pairs[0].content_image, pairs[0].style_image)  # the first call is slow
        for images in ((pair.content_image, pair.style_image) for pair in pairs):
            begin = time.perf_counter()
            answer = client.stylize(*images)
            seconds = time.perf_counter() - begin
            difference = float(np.abs(answer - model.stylize(*images)).max())
            calls.append({"difference": difference, "seconds": round(seconds, 3)})
        image = pairs[0].content_image[None, ..., None]
        mask = segmenting.predict({"image": image}, "segment")["mask"]
        other = int(np.sum(mask != unet.segment(image)))
        status = {str(version): state for version, state in client.status().items()}
    return {
        "status": status,
        "largest_difference": max(call["difference"] for call in calls),
        "other_pixels_of_the_mask": other,
        "calls": calls,
    }


def _facts(pair: Pair, work: Path) -> dict:
    return {
        "content": pair.content.label,
        "style": pair.style.label,
        "tone_error": round(pair.error, 4),
        "tone_error_of_the_content": round(pair.error_before, 4),
        **asdict(pair.account),
        "files": [str(Path(file).relative_to(work)) for file in pair.account.files],
    }


def headers(work: Path, pairs: Sequence[Pair]) -> dict:
    """Source and derived header of one pair, side by side."""

    def source_of(pair: Pair) -> pydicom.Dataset:
        return pydicom.dcmread(work / "input" / pair.content.file, stop_before_pixels=True)

    def short(value: object) -> str:
        text = "–" if value is None else str(value)
        return text if len(text) <= 64 else f"{text[:14]} … {text[-28:]}"

    # Some files of pydicom's test data have scrambled identifiers on purpose; show a sound one.
    pair = next((p for p in pairs if source_of(p).SOPInstanceUID.is_valid), pairs[0])
    source = source_of(pair)
    derived = pydicom.dcmread(pair.account.files[0], stop_before_pixels=True)
    rows = [(t, short(source.get(t)), short(derived.get(t))) for t in TAGS]
    if reference := derived.get("SourceImageSequence"):
        rows.append(("SourceImageSequence", "–", short(reference[0].ReferencedSOPInstanceUID)))
    return {"pair": pair, "rows": rows}


def histograms(*images: np.ndarray) -> list[str]:
    """Points of SVG lines, 640 x 120, whose height is the square root of the share.

    Pure black and pure white, which are mostly air and what the window clipped, do not set the
    scale; they may be cut off.
    """
    counts = [np.histogram(image.clip(0, 1), bins=64, range=(0, 1))[0] for image in images]
    curves = [np.sqrt(count / count.sum()) for count in counts]
    top = max(curve[1:-1].max() for curve in curves) or 1.0
    heights = [116 - 112 * np.minimum(curve / top, 1.1) / 1.1 for curve in curves]
    return [" ".join(f"{i * 640 / 63:.1f},{y:.1f}" for i, y in enumerate(h)) for h in heights]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses, runs, says where the page is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="demo", help="folder (default: %(default)s)")
    parser.add_argument("--preset", help="default: the default preset")
    options = parser.parse_args(arguments)
    try:
        run_demo(options.output, preset=options.preset)
    except TfstyleError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
