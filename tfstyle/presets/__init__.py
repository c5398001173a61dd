"""Released and user-made models as folders of plain files.

A preset folder holds ``preset.json`` (format, class, configuration, model card, checksum) and
``weights.npz`` (arrays, half precision by default). No pickles: nothing in it can run code.
Loading is the same for every class: :class:`PresetModel` says what a class adds.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfstyle._private.files import read_json, read_limited, temporary_beside
from tfstyle.encoders.weights import assign, load_npz, save_npz
from tfstyle.errors import InputFileError, OutputError, WeightsError, writing

FORMAT = 1
#: The preset that is meant where none is named.
DEFAULT = "tone_ct"
#: The classes of presets, and where they are.
CLASSES = {
    "StyleTransfer": "tfstyle.style_transfer",
    "ToneTransfer": "tfstyle.tone",
    "UNet": "tfstyle.segmentation",
}
#: What the models of a class are for; style transfer but for these.
TASKS = {"UNet": "segmentation"}
CONFIG, WEIGHTS = "preset.json", "weights.npz"
_HOME = Path(__file__).parent


class _Presets:
    """``SomeModel.presets``: the released presets of a class, name to row of :func:`table`."""

    def __get__(self, instance: object, owner: type) -> dict[str, dict]:
        return table(owner)


class PresetModel:
    """Gives presets to a ``keras.Model`` that stands behind it in its bases.

    A class is named in ``CLASSES`` and defines ``preset_settings``, ``from_preset_settings`` and
    ``preset_variables``.

    Attributes:
        presets: The released presets of the class: a dictionary from name to a row of
            :func:`tfstyle.presets.table`.
    """

    presets = _Presets()

    def preset_settings(self) -> dict[str, Any]:
        """The configuration in ``preset.json``; a WeightsError if it cannot become a preset."""
        raise TypeError(f"{type(self).__name__} must define preset_settings().")

    @classmethod
    def from_preset_settings(cls, settings: Mapping[str, Any]):
        """The model of a configuration, with weights yet to be set."""
        raise TypeError(f"{cls.__name__} must define from_preset_settings().")

    def preset_variables(self) -> dict[str, Any]:
        """The variables that are kept, by names that stay the same."""
        raise TypeError(f"{type(self).__name__} must define preset_variables().")

    @classmethod
    def from_preset(cls, preset: str | os.PathLike | None = None):
        """Loads a released preset by name, or a preset folder; by default the first of ``presets``.

        Raises a WeightsError for an unknown name, a missing file, a wrong checksum, or a preset of
        another class.
        """
        return load(preset, cls)

    @classmethod
    def open(cls, source: str | os.PathLike | None = None):
        """:func:`tfstyle.presets.open_model` for models of this class."""
        return open_model(source, cls)

    def save_to_preset(
        self, folder: str | os.PathLike, card: dict | None = None, half: bool = True
    ) -> Path:
        """Writes a preset folder: ``preset.json`` and ``weights.npz``, no pickles.

        Args:
            folder: Folder to write; replaced if it exists and holds a preset.
            card: Facts for ``preset.json``: data, steps, losses, figures, limits.
            half: Keep weights in half precision.

        Raises:
            OutputError: if the folder holds something else or cannot be written.
            WeightsError: a model that cannot be a preset, or a weight beyond half precision.
        """
        settings = self.preset_settings()
        arrays = {}
        for key, variable in self.preset_variables().items():
            value = np.asarray(variable)
            arrays[key] = value.astype(np.float16) if half else value
            if not np.isfinite(arrays[key]).all():
                raise WeightsError(f"{key}: does not fit half precision; save with half=False.")
        path = Path(folder)
        with writing(path):
            if path.exists() and not (path / CONFIG).is_file() and any(path.iterdir()):
                raise OutputError(path, "is not empty and holds no preset; choose another folder.")
            with temporary_beside(path, folder=True) as temporary:
                save_npz(temporary / WEIGHTS, arrays)
                config = {
                    "format": FORMAT,
                    "config": {"class": type(self).__name__, **settings},
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
        return path


def names(cls: type | None = None) -> tuple[str, ...]:
    """Names of the presets that come with tfstyle, or that `cls` can load, the default first."""
    found = sorted(path.parent.name for path in _HOME.glob(f"*/{CONFIG}"))
    if cls is not None:
        found = [name for name in found if issubclass(cls, _class_of(_config(_HOME / name)))]
    return tuple(sorted(found, key=lambda name: (name != DEFAULT, name)))


def folder(preset: str | os.PathLike) -> Path:
    """Folder of a preset, given its name, the folder itself or that of a finished training run.

    Raises a WeightsError if there is no such preset.
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
    """The model card of a preset: data, steps, losses, figures, limits. Raises a WeightsError."""
    return _config(folder(preset)).get("card", {})


def table(cls: type | None = None) -> dict[str, dict]:
    """The presets that come with tfstyle, or those that `cls` can load, by their names.

    Each is a dict with ``"class"``, ``"task"`` (``"style transfer"`` or ``"segmentation"``),
    ``"description"``, ``"weights"`` (where an encoder's are from), ``"data"`` (the training data),
    ``"figures"`` (a line of them), ``"licence"`` and ``"kilobytes"`` (of the weights file). Raises
    a WeightsError for a preset whose configuration cannot be read.

    Example:
        >>> tfstyle.presets.table()["tone_ct"]["class"]
        'ToneTransfer'
    """
    rows = {}
    for name in names(cls):
        path = folder(name)
        config = _config(path)
        about = config["card"].get("about", {})
        kind = config["config"].get("class", "")
        rows[name] = {
            "class": kind,
            "task": TASKS.get(kind, "style transfer"),
            **{
                key: about.get(key, "")
                for key in ("description", "weights", "data", "figures", "licence")
            },
            "kilobytes": round((path / WEIGHTS).stat().st_size / 1000),
        }
    return rows


def load(preset: str | os.PathLike | None = None, cls: type | None = None):
    """Builds the model of a preset, by name or folder; by default the first that `cls` can load.

    Raises a WeightsError for an unknown preset, one of another class than `cls`, a missing file, a
    wrong checksum, or weights that do not fit.
    """
    if preset is None:
        preset = next(iter(names(cls)), DEFAULT)
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
        own = _class_of(config)
        if cls is not None and not issubclass(cls, own):
            raise WeightsError(
                f"{path}: holds a {own.__name__}, not a {cls.__name__}; presets of this class are "
                f"{', '.join(names(cls)) or 'none'}, and tfstyle.from_preset() loads any."
            )
        kind: Any = cls or own
        model = kind.from_preset_settings(config["config"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path / CONFIG}: cannot be used ({error}).") from error
    assign(model.preset_variables(), load_npz(weights), weights)
    return model


def open_model(source: str | os.PathLike | None = None, cls: type | None = None):
    """Loads a model from any place where one may lie, of the class `cls` or any of ``CLASSES``.

    `source` is the name of a preset, by default the default one, a preset folder, a run's folder of
    ``tfstyle train``, or a ``.keras`` file.

    Raises:
        InputFileError: a ``.keras`` file that is missing, damaged or holds something else.
        WeightsError: no such preset, or one that is damaged or of another class.

    Example:
        >>> type(tfstyle.presets.open_model("vgg16_ct")).__name__
        'StyleTransfer'
    """
    if source is None or not str(source).endswith(".keras"):
        return load(source, cls)
    from tfstyle._private.keras_files import load_model

    return load_model(source, tuple(map(_class_named, CLASSES)) if cls is None else cls)


def _class_of(config: Mapping[str, Any]) -> Any:
    name = config["config"].get("class")
    if name not in CLASSES:
        raise WeightsError(
            f"preset: unknown class {name!r}, not one of {', '.join(CLASSES)}; update tfstyle."
        )
    return _class_named(name)


def _class_named(name: str) -> type:
    return getattr(importlib.import_module(CLASSES[name]), name)


def _config(path: Path) -> dict:
    file = path / CONFIG
    try:
        config = read_json(file)
        version, parts = config["format"], [config.get(key, {}) for key in ("config", "card")]
    except InputFileError as error:
        raise WeightsError(str(error)) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{file}: not a readable preset ({error}).") from error
    if version != FORMAT:
        raise WeightsError(f"{file}: format {version!r} is not {FORMAT}; update tfstyle.")
    if not all(isinstance(part, dict) for part in parts):
        raise WeightsError(f"{file}: its configuration or card is not a JSON object.")
    return config
