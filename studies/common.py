"""What the studies share: their JSON files, pictures, tables and pages."""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from tfstyle._private.files import write_atomically
from tfstyle.errors import ArgumentError, OutputError

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent


def parser(description: str, file: str | None = None) -> argparse.ArgumentParser:
    """A command line that shows the module's text, with ``--threads``.

    With the module's `file` also with ``--output``, by default the JSON file beside it, and
    ``--page``, by default that of its name in ``docs/results``.
    """
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--threads", type=int, default=1, help="of TensorFlow (default: 1)")
    if file is not None:
        own = Path(file).resolve()
        made.add_argument("--output", type=Path, default=own.with_suffix(".json"))
        made.add_argument("--page", type=Path, default=ROOT / "docs" / "results" / f"{own.stem}.md")
    return made


def parse(made: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses; limits TensorFlow's threads, which works before its first operation."""
    options = made.parse_args(arguments)
    with contextlib.suppress(RuntimeError):  # it runs already
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
        tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    return options


def add_settings(made: argparse.ArgumentParser, text: str) -> None:
    """Adds ``--set name=value …`` with values in JSON; ``dict(options.set)`` are the settings."""

    def setting(word: str) -> tuple[str, Any]:
        name, _, value = word.partition("=")
        value = json.loads(value)
        return name, tuple(value) if isinstance(value, list) else value

    made.add_argument("--set", nargs="+", type=setting, default=[], metavar="NAME=VALUE", help=text)


def model_without(models: Path | None, patient: str) -> Path | None:
    """The tone transfer of ``--models`` that was trained without a patient, if there is one."""
    file = (models or Path()) / f"fold-{patient}" / "ours.keras"
    return file if models is not None and file.is_file() else None


def read_study(output: Path, settings: Mapping) -> dict:
    """The ``"settings"`` and ``"rows"`` that a study has so far.

    Args:
        output: The JSON file; its folder is made if missing.
        settings: Settings of the study; those of the file must be the same.

    Raises:
        OutputError: The file holds something else.
        ArgumentError: It holds rows of other settings.
    """
    settings = json.loads(json.dumps(settings))
    output.parent.mkdir(parents=True, exist_ok=True)
    if not output.exists():
        return {"settings": settings, "rows": []}
    try:
        result = json.loads(output.read_text())
        before, _ = dict(result["settings"]), result["rows"]
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(output, "holds something else; choose another name.") from error
    changed = sorted(k for k in {*before, *settings} if before.get(k) != settings.get(k))
    if changed:
        raise ArgumentError(
            f"{output}: holds rows of other settings ({', '.join(changed)}); choose another "
            "name, or remove it."
        )
    return result


def write_study(output: Path, result: Mapping) -> None:
    """Writes the JSON file, whole or not at all."""
    write_atomically(output, (json.dumps(result, indent=1) + "\n").encode())


def rounded(value: Any, digits: int = 4) -> Any:
    """Numbers, or those in a dictionary, as JSON shows them; whole ones and None as they are."""
    if isinstance(value, dict):
        return {key: rounded(one, digits) for key, one in value.items()}
    return value if value is None or isinstance(value, int) else round(float(value), digits)


def grid(rows: Sequence[Sequence[np.ndarray]], side: int = 384, gap: int = 8) -> np.ndarray:
    """Images in rows and columns, each scaled to fit a black square by nearest pixels.

    Args:
        rows: Rows of float images (H, W) in [0, 1], all of one length.
        side: Side of the squares in pixels.
        gap: Pixels between them, white.

    Returns:
        float32 image in [0, 1].
    """

    def tile(unit: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(np.asarray(unit, np.float32))
        picture = ImageOps.pad(picture, (side, side), Image.Resampling.NEAREST, color=0)
        return np.pad(picture, (0, gap), constant_values=1)

    return np.block([[tile(unit) for unit in row] for row in rows])[:-gap, :-gap]


def titled(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]], size: tuple[float, float], fontsize: float
) -> tuple[Figure, np.ndarray]:
    """Titles and images (H, W) or (H, W, 3) in [0, 1] in rows and columns: the figure, its axes.

    Args:
        rows: Rows of one length.
        size: Width and height of an image with its title, in inches.
        fontsize: Of the titles.
    """
    figure = Figure((size[0] * len(rows[0]), size[1] * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for line, row in zip(axes, rows):
        for axis, (title, image) in zip(line, row):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            axis.set_title(title, fontsize=fontsize)
            axis.axis("off")
    return figure, axes


def save_small(figure: Figure, path: Path, dpi: float, colors: np.ndarray | None = None) -> None:
    """Writes a figure as a small PNG of few colors, float (N, 3) in [0, 1], by default grays."""
    if colors is None:
        colors = np.repeat(np.linspace(0, 1, 64)[:, None], 3, axis=1)
    buffer, palette = io.BytesIO(), Image.new("P", (1, 1))
    figure.savefig(buffer, format="png", dpi=dpi)
    palette.putpalette(np.rint(255 * colors).astype(np.uint8).tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(buffer) as drawn:
        few = drawn.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def reduced(image: np.ndarray, longest: int) -> np.ndarray:
    """An image (H, W) by area averaging, float32, no side longer than this."""
    picture, scale = Image.fromarray(image.astype(np.float32)), longest / max(image.shape)
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in image.shape)
        picture = picture.resize((width, height), Image.Resampling.BOX)
    return np.asarray(picture)


def data_uri(unit: np.ndarray) -> str:
    """An image (H, W) or (H, W, 3) in [0, 1] as the source of a picture inside a page."""
    buffer = io.BytesIO()
    levels = np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(levels).save(buffer, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def filled(text: str, mark: str, new: str) -> str:
    """A text with something new between ``<!-- mark -->`` and ``<!-- /mark -->``.

    Raises:
        ValueError: if the marks are not there once.
    """
    pattern = rf"(<!-- {mark} -->\n).*?(\n<!-- /{mark} -->)"
    text, count = re.subn(pattern, lambda found: found[1] + new + found[2], text, flags=re.S)
    if count != 1:
        raise ValueError(f"needs the marks <!-- {mark} --> and <!-- /{mark} --> once.")
    return text


def write_page(path: Path, template: str, **values: Any) -> None:
    """Writes a page of the folder ``templates``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{render(template, **values)}\n".encode())


def render(template: str, **values: Any) -> str:
    """A page of the folder ``templates``, which loads nothing from elsewhere."""
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=template.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["uri"] = data_uri
    return pages.get_template(template).render(**values).rstrip("\n")
