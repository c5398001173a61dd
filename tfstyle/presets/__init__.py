"""Released and user-made models as folders of plain files.

A preset folder holds ``preset.json`` (format, configuration, model card, checksum) and
``weights.npz`` (arrays, half precision by default). No pickles: nothing in it can run code.
The encoder is cut at the tap where AdaIN works, so a preset needs no download.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfstyle import encoders
from tfstyle.decoder import Decoder
from tfstyle.encoders.weights import load_npz, save_npz
from tfstyle.errors import InputFileError, OutputError, WeightsError
from tfstyle.files import read_json, read_limited, temporary_beside

if TYPE_CHECKING:
    from tfstyle.style_transfer import StyleTransfer

FORMAT = 1
CONFIG, WEIGHTS = "preset.json", "weights.npz"
_HOME = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Names of the presets that come with tfstyle."""
    return tuple(sorted(path.parent.name for path in _HOME.glob(f"*/{CONFIG}")))


def folder(preset: str | os.PathLike) -> Path:
    """Folder of a preset, given its name, the folder itself or that of a finished training run.

    Raises:
        WeightsError: if there is no such preset.
    """
    name = str(preset)
    if name in names():
        return _HOME / name
    path = Path(name)
    for home in (path, path / "preset"):
        if (home / CONFIG).is_file():
            return home
    if path.is_dir():
        raise WeightsError(f"{path}: holds no {CONFIG}; it is not a preset folder.")
    raise WeightsError(
        f"preset: there is no {name!r}; give one of {', '.join(names()) or '(none)'} or the path "
        "of a preset folder."
    )


def card(preset: str | os.PathLike) -> dict:
    """The model card of a preset: data, steps, losses, figures, limits.

    Raises:
        WeightsError: unknown preset or unreadable file.
    """
    return _config(folder(preset)).get("card", {})


def table() -> dict[str, dict]:
    """The presets that come with tfstyle, as ``README.md`` beside this file shows them.

    Returns:
        For each name a dict with ``"description"``, ``"encoder"``, ``"layer"``, ``"weights"``
        (where the encoder's are from), ``"data"`` (the training data), ``"figures"`` (a line of
        them), ``"licence"`` and ``"kilobytes"`` (of the weights file).

    Raises:
        WeightsError: a preset whose configuration cannot be read.

    Example:
        >>> presets.table()["vgg16_ct"]["layer"]
        'relu1_2'
    """
    rows = {}
    for name in names():
        path = folder(name)
        config = _config(path)
        about = config["card"].get("about", {})
        rows[name] = {
            "description": about.get("description", ""),
            "encoder": config["config"]["encoder"],
            "layer": config["config"]["layer"],
            **{key: about.get(key, "") for key in ("weights", "data", "figures", "licence")},
            "kilobytes": round((path / WEIGHTS).stat().st_size / 1000),
        }
    return rows


def readme() -> str:
    """The text of ``README.md`` beside this file: :func:`table` in Markdown."""
    head = ["preset", "what", "encoder", "encoder's weights", "training data", "figures", "licence"]
    lines = [head, ["---"] * len(head)]
    for name, row in table().items():
        lines.append(
            [
                f"[`{name}`]({name}/README.md)",
                row["description"],
                f"`{row['encoder']}` to `{row['layer']}`; {row['kilobytes']} kB with the decoder",
                *(row[key] for key in ("weights", "data", "figures", "licence")),
            ]
        )
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"""# Presets

Models that come with tfstyle, for `StyleTransfer.from_preset(name)` and `tfstyle stylize --preset
NAME`. Written by `tfstyle.presets.readme()` from the `preset.json` of each folder.

{rows}

A preset is a folder of plain files: `preset.json` (format, configuration, checksum of the weights,
model card), `weights.npz` (arrays, no pickles) and a model card for people. `save_to_preset` writes
the first two for a model of your own, and `from_preset` takes the folder's path.
"""


def load(preset: str | os.PathLike, cls: type[StyleTransfer]) -> StyleTransfer:
    """Builds the model of a preset.

    Raises:
        WeightsError: unknown preset, missing file, wrong checksum, or weights that do not fit.
    """
    path = folder(preset)
    config = _config(path)
    weights = path / WEIGHTS
    if not weights.is_file():
        raise WeightsError(f"{path}: {WEIGHTS} is missing; fetch the preset again.")
    try:
        digest = hashlib.sha256(read_limited(weights, "file_bytes")).hexdigest()
    except (InputFileError, OSError) as error:
        raise WeightsError(f"{weights}: cannot be read ({error}).") from error
    if digest != config.get("sha256"):
        raise WeightsError(
            f"{weights}: SHA-256 {digest} is not the {config.get('sha256')} of {CONFIG}; the file "
            "is damaged or was changed. Fetch the preset again."
        )
    try:
        settings = config["config"]
        encoder = encoders.get(
            settings["encoder"],
            weights=None,
            depth=settings["layer"],
            preprocessing=settings["preprocessing"],
        )
        calibrate = settings.get("calibrate", False)
        model = cls(encoder, layer=settings["layer"], calibrate=calibrate)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path / CONFIG}: cannot be used ({error}).") from error
    arrays = load_npz(weights)
    for key, variable in _variables(model).items():
        if key not in arrays or arrays[key].shape != tuple(variable.shape):
            raise WeightsError(
                f"{weights}: {key} is missing or of another shape than {tuple(variable.shape)}."
            )
        variable.assign(arrays[key].astype(np.float32))
    return model


def save(
    model: StyleTransfer, folder: str | os.PathLike, card: dict | None = None, half: bool = True
) -> Path:
    """Writes a preset folder; see :meth:`tfstyle.StyleTransfer.save_to_preset`.

    Raises:
        OutputError: if the folder holds something else or cannot be written.
        WeightsError: if the encoder has no name in ``tfstyle.encoders.ENCODERS``, the decoder is
            not what ``Decoder.for_encoder`` makes, or a weight does not fit half precision.
    """
    family = {cls: name for name, cls in encoders.ENCODERS.items()}.get(type(model.encoder))
    decoder = model.decoder.channels, model.decoder.strides
    if family is None or decoder != Decoder.plan(model.encoder, model.layer):
        raise WeightsError(
            "only models of a known encoder with the decoder that Decoder.for_encoder makes for it "
            "become presets; use save()."
        )
    arrays = {}
    for key, variable in _variables(model).items():
        value = np.asarray(variable)
        arrays[key] = value.astype(np.float16) if half else value
        if not np.isfinite(arrays[key]).all():
            raise WeightsError(f"{key}: does not fit half precision; save with half=False.")
    path = Path(folder)
    try:
        if path.exists() and not (path / CONFIG).is_file() and any(path.iterdir()):
            raise OutputError(path, "is not empty and holds no preset; choose another folder.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(path, folder=True) as temporary:
            save_npz(temporary / WEIGHTS, arrays)
            config = {
                "format": FORMAT,
                "config": {
                    "class": type(model).__name__,
                    "encoder": family,
                    "layer": model.layer,
                    "calibrate": model.calibrate,
                    "preprocessing": model.encoder.preprocessing,
                },
                "sha256": hashlib.sha256((temporary / WEIGHTS).read_bytes()).hexdigest(),
                "card": card or {},
            }
            (temporary / CONFIG).write_text(json.dumps(config, indent=2, default=str) + "\n")
            if path.exists():
                for file in path.iterdir():  # what stands beside them, a README say, is kept
                    if file.name not in (CONFIG, WEIGHTS):
                        copy = shutil.copytree if file.is_dir() else shutil.copy2
                        copy(file, temporary / file.name)
                shutil.rmtree(path)
            os.replace(temporary, path)
    except OSError as error:
        raise OutputError.of(path, error) from error
    return path


def _config(path: Path) -> dict:
    try:
        config = read_json(path / CONFIG)
        if config["format"] != FORMAT:
            raise WeightsError(
                f"{path / CONFIG}: format {config['format']!r} is not {FORMAT}; update tfstyle."
            )
        if not isinstance(config.get("config", {}), dict) or not isinstance(
            config.get("card", {}), dict
        ):
            raise WeightsError(f"{path / CONFIG}: its configuration or card is no JSON object.")
        return config
    except InputFileError as error:
        raise WeightsError(str(error)) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path / CONFIG}: not a readable preset ({error}).") from error


def _variables(model: StyleTransfer) -> dict:
    """Variables of the encoder up to the model's layer and of the decoder, by a stable name."""
    parts = {"encoder": model.encoder.weighted_layers(model.layer), "decoder": model.decoder.steps}
    return {
        f"{part}/{layer.name}/{variable.name}": variable
        for part, layers in parts.items()
        for layer in layers
        for variable in layer.weights
    }
