"""Plain facts about the installation, presets, encoders, scans and models, for ``tfstyle info``.

Every function returns plain types that JSON can hold. Facts about a scan never include names,
dates, identifiers or other patient data.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from tfstyle._private.versions import package_versions
from tfstyle.errors import InputFileError
from tfstyle.export import list_versions, read_metadata, saved_model_folder

PACKAGES = (
    "tensorflow",
    "keras",
    "numpy",
    "pydicom",
    "python-gdcm",
    "pylibjpeg",
    "nibabel",
    "grpcio",
    "tensorflow-serving-api",
    "tensorboard",
    "ai-edge-litert",
    "onnxruntime",
)


def describe(target: str | os.PathLike) -> dict:
    """Facts about a preset, an encoder, a model or scans: `target` may be any of them.

    It is the name or folder of a preset, the name of an encoder, a SavedModel's base or version
    folder, a ``.keras`` file, or a path with scans. The dict has ``"kind"`` and what there is to
    say: of a ``"preset"`` its card, of an ``"encoder"`` its taps and defaults, of a
    ``"saved_model"`` its versions and metadata, of a ``"model"`` its class and parameters, of
    ``"scans"`` size, spacing, units and gray levels.

    Raises:
        InputFileError: None of these.
        WeightsError: A preset that cannot be read.

    Example:
        >>> describe("vgg16_ct")["kind"]
        'preset'
    """
    from tfstyle import encoders, presets

    path = Path(target)
    if not path.exists():
        if str(target) in presets.names():
            return _preset(str(target))
        if str(target).lower() in encoders.ENCODERS:
            return _encoder(str(target).lower())
        raise InputFileError(
            target,
            "neither a file or folder nor a preset or encoder; the presets are "
            f"{', '.join(presets.names()) or 'none'}, the encoders "
            f"{', '.join(encoders.ENCODERS)}.",
        )
    for folder in (path, path / "preset"):
        if (folder / "preset.json").is_file():
            return _preset(str(folder))
    try:
        version = saved_model_folder(path)
    except InputFileError:  # none, or none that is complete
        return _model(path) if path.suffix == ".keras" else _scans(path)
    return _saved_model(path, version)


def describe_environment() -> dict:
    """Versions of the packages that matter, devices, and the encoders and presets at hand.

    Returns:
        dict with ``"versions"`` (None where not installed), ``"devices"``, ``"encoders"`` and
        ``"presets"``, the rows of :func:`tfstyle.presets.table` with their names.
    """
    import tensorflow as tf

    from tfstyle import encoders, presets

    return {
        "kind": "environment",
        "versions": package_versions(PACKAGES),
        "devices": [
            {"name": device.name, "type": device.device_type}
            for device in tf.config.list_physical_devices()
        ],
        "encoders": list(encoders.ENCODERS),
        "presets": [{"name": name, **row} for name, row in presets.table().items()],
    }


def _encoder(name: str) -> dict:
    from tfstyle import encoders

    family = encoders.family(name)
    return {
        "kind": "encoder",
        "name": name,
        "layer": family.default_layer,
        "content_layers": list(family.default_content_layers),
        "style_layers": list(family.default_style_layers),
        "depth": family.default_depth,
        "preprocessing": family.imagenet_preprocessing,
        "taps": [
            {
                "name": tap.name,
                "keras_layer": tap.layer,
                "channels": tap.channels,
                "stride": tap.stride,
            }
            for tap in family.taps_table
        ],
    }


def _preset(preset: str) -> dict:
    from tfstyle import presets

    folder = Path(presets.folder(preset))
    return {
        "kind": "preset",
        "name": preset,
        "folder": str(folder),
        "megabytes": _megabytes(folder),
        "card": presets.card(preset),
    }


def _scans(path: Path) -> dict:
    import numpy as np

    from tfstyle.data import read_scans, resolve_window

    scans = []
    for scan in read_scans(path):
        levels = {q: round(float(np.percentile(scan.pixels, q)), 3) for q in (0, 1, 50, 99, 100)}
        scans.append(
            {
                "name": scan.name,
                "slices": len(scan),
                "rows": scan.pixels.shape[1],
                "columns": scan.pixels.shape[2],
                "spacing_mm": [round(value, 4) for value in scan.spacing],
                "units": scan.units,
                "dtype": str(scan.pixels.dtype),
                "percentiles": {str(q): level for q, level in levels.items()},
                "header_window": scan.header_window and asdict(scan.header_window),
                "auto_window": asdict(resolve_window("auto", scan)),
                "files": len(scan.files),
            }
        )
    return {"kind": "scans", "path": str(path), "scans": scans}


def _saved_model(base: Path, folder: Path) -> dict:
    return {
        "kind": "saved_model",
        "folder": str(folder),
        "versions": sorted(list_versions(base if folder != base else base.parent)),
        "megabytes": _megabytes(folder),
        "metadata": read_metadata(folder),
    }


def _model(path: Path) -> dict:
    from tfstyle.presets import open_model

    model = open_model(path)
    parameters = int(model.count_params())
    name = type(model).__name__
    return {"kind": "model", "path": str(path), "class": name, "parameters": parameters}


def _megabytes(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6, 2)
