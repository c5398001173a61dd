"""Plain facts about the installation, presets, encoders, scans and models, for ``tfstyle info``.

Every function returns plain types that JSON can hold. Facts about a scan never include names,
dates, identifiers or other patient data.
"""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Any

from tfstyle import __version__
from tfstyle.data.shards import is_prepared, read_index
from tfstyle.errors import InputFileError

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
    "keras-cv",
)


def describe(target: str | os.PathLike) -> dict:
    """Facts about a preset, an encoder, a model or scans: `target` may be any of them.

    Args:
        target: Name or folder of a preset, name of an encoder, a SavedModel's base or version
            folder, a ``.keras`` file, or a path with scans.

    Returns:
        dict with ``"kind"``: ``"preset"``, ``"encoder"``, ``"saved_model"``, ``"prepared"``,
        ``"model"`` or ``"scans"``.

    Raises:
        InputFileError: Neither of these.
        WeightsError: A preset that cannot be read.

    Example:
        >>> describe("vgg16_ct")["kind"]
        'preset'
    """
    from tfstyle import encoders, presets

    path = Path(target)
    if not path.exists():
        if str(target) in presets.names():
            return describe_preset(str(target))
        if str(target).lower() in encoders.ENCODERS:
            return describe_encoder(str(target).lower())
        raise InputFileError(
            target,
            "neither a file or folder nor a preset or encoder; the presets are "
            f"{', '.join(presets.names()) or 'none'}, the encoders "
            f"{', '.join(encoders.ENCODERS)}.",
        )
    if (path / "preset.json").is_file():
        return describe_preset(str(path))
    if (path / "preset" / "preset.json").is_file():
        return describe_preset(str(path / "preset"))
    if _saved_model_folder(path) is not None:
        return describe_saved_model(path)
    if is_prepared(path):
        return describe_prepared(path)
    if path.suffix == ".keras":
        return describe_model(path)
    return describe_scans(path)


def describe_prepared(folder: str | os.PathLike) -> dict:
    """Counts of a folder of ``tfstyle prepare``."""
    index = read_index(folder)
    return {
        "kind": "prepared",
        **index["count"],
        "shards": len(index["shards"]),
        "bytes": sum(shard["bytes"] for shard in index["shards"]),
        **index["settings"],
        "left_out": index["left_out"],
    }


def describe_environment() -> dict:
    """Versions of the packages that matter, devices, and the encoders and presets at hand.

    Returns:
        dict with ``"versions"`` (None where not installed), ``"devices"``, ``"encoders"`` and
        ``"presets"``, the rows of :func:`tfstyle.presets.table` with their names.
    """
    import sys

    import tensorflow as tf

    from tfstyle import encoders, presets

    versions: dict[str, str | None] = {
        "python": sys.version.split()[0],
        "tfstyle": __version__,
    }
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "kind": "environment",
        "versions": versions,
        "devices": [
            {"name": device.name, "type": device.device_type}
            for device in tf.config.list_physical_devices()
        ],
        "encoders": list(encoders.ENCODERS),
        "presets": [{"name": name, **row} for name, row in presets.table().items()],
    }


def describe_encoder(name: str) -> dict:
    """The tap table of an encoder and its defaults; no weights are needed.

    Args:
        name: A key of ``tfstyle.encoders.ENCODERS``.

    Returns:
        dict with ``"name"``, ``"layer"``, ``"content_layers"`` and ``"style_layers"`` (the
        defaults), ``"depth"``, ``"preprocessing"`` and ``"taps"``.

    Raises:
        ArgumentError: unknown name.

    Example:
        >>> describe_encoder("resnet50")["taps"][0]
        {'name': 'conv1_relu', 'keras_layer': 'conv1_relu', 'channels': 64, 'stride': 2}
    """
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


def describe_preset(preset: str) -> dict:
    """The card of a preset, without its weights.

    Args:
        preset: Name or folder.

    Returns:
        dict with ``"name"``, ``"folder"``, ``"megabytes"`` and ``"card"``.

    Raises:
        WeightsError: If the preset cannot be read.
    """
    from tfstyle import presets

    folder = Path(presets.folder(preset))
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return {
        "kind": "preset",
        "name": str(preset),
        "folder": str(folder),
        "megabytes": round(size / 1e6, 2),
        "card": presets.card(preset),
    }


def describe_scans(path: str | os.PathLike) -> dict:
    """Size, spacing, units and gray levels of scans; no patient data.

    Args:
        path: See :func:`tfstyle.data.read_scans`.

    Returns:
        dict with ``"scans"``, one dict a scan.

    Raises:
        InputFileError: If nothing can be read.
    """
    import numpy as np

    from tfstyle.data import read_scans, resolve_window

    scans = []
    for scan in read_scans(path):
        window = resolve_window("auto", scan)
        scans.append(
            {
                "name": scan.name,
                "slices": len(scan),
                "rows": scan.pixels.shape[1],
                "columns": scan.pixels.shape[2],
                "spacing_mm": [round(value, 4) for value in scan.spacing],
                "units": scan.units,
                "dtype": str(scan.pixels.dtype),
                "percentiles": {
                    str(q): round(float(np.percentile(scan.pixels, q)), 3)
                    for q in (0, 1, 50, 99, 100)
                },
                "header_window": _window(scan.header_window),
                "auto_window": _window(window),
                "files": len(scan.files),
                **_dicom_facts(scan.files),
            }
        )
    return {"kind": "scans", "path": str(path), "scans": scans}


def describe_saved_model(path: str | os.PathLike) -> dict:
    """Signatures of an exported model and what its export recorded.

    Args:
        path: Base folder (the latest version is described) or version folder.

    Returns:
        dict with ``"folder"``, ``"versions"``, ``"megabytes"`` and ``"metadata"``.

    Raises:
        InputFileError: If it is not an export of tfstyle.
    """
    from tfstyle.export import list_versions, read_metadata

    base = Path(path)
    folder = _saved_model_folder(base)
    if folder is None:
        raise InputFileError(path, "holds no SavedModel; export one with `tfstyle export`.")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {
        "kind": "saved_model",
        "folder": str(folder),
        "versions": sorted(list_versions(base if folder != base else base.parent)),
        "megabytes": round(size / 1e6, 2),
        "metadata": read_metadata(folder),
    }


def describe_model(path: str | os.PathLike) -> dict:
    """Class and size of the model in a ``.keras`` file.

    Args:
        path: The file.

    Returns:
        dict with ``"class"`` and ``"parameters"``, the number of values in each part; for a
        ``StyleTransfer`` also ``"encoder"``, ``"layer"`` and ``"stride"``.

    Raises:
        InputFileError: If it cannot be read.
    """
    from tfstyle.presets import open_model

    model = open_model(path)
    facts = {"kind": "model", "path": str(path), "class": type(model).__name__}
    if not hasattr(model, "encoder"):
        return facts | {"parameters": {"model": int(model.count_params())}}
    if hasattr(model, "layer"):
        facts |= {"encoder": type(model.encoder).__name__}
        facts |= {"layer": model.layer, "stride": model.stride}
    parts = {
        name: int(getattr(model, name).count_params())
        for name in ("encoder", "decoder", "matcher")
        if hasattr(model, name)
    }
    return facts | {"parameters": parts}


def _saved_model_folder(path: Path) -> Path | None:
    """The version folder that `path` means: itself, or the latest below it."""
    if (path / "saved_model.pb").is_file():
        return path
    from tfstyle.export import list_versions

    versions = list_versions(path)
    if versions and (versions[max(versions)] / "saved_model.pb").is_file():
        return versions[max(versions)]
    return None


def _window(window: Any) -> dict | None:
    if window is None:
        return None
    return {"center": window.center, "width": window.width}


def _dicom_facts(files: tuple[str, ...]) -> dict:
    """Technical attributes of a DICOM series that name nobody."""
    from tfstyle.data.dicom import damage_is_input_error, is_dicom, read_dataset

    if (
        not files
        or files[0].lower().endswith((".png", ".nii", ".nii.gz"))
        or not is_dicom(files[0])
    ):
        return {}
    tags = [
        "Modality",
        "ImageType",
        "SliceThickness",
        "KVP",
        "ConvolutionKernel",
        "BodyPartExamined",
    ]
    dataset = read_dataset(files[0], pixels=False, tags=tags)
    facts = {}
    with damage_is_input_error(files[0]):
        facts["transfer_syntax"] = getattr(
            dataset.file_meta.get("TransferSyntaxUID"), "name", "unknown"
        )
        for tag, key in zip(
            tags, ["modality", "image_type", "slice_thickness_mm", "kvp", "kernel", "body_part"]
        ):
            value = dataset.get(tag)
            if value in (None, ""):
                continue
            if tag == "ImageType":
                facts[key] = "\\".join(map(str, value)) if not isinstance(value, str) else value
            elif tag in ("SliceThickness", "KVP"):
                facts[key] = float(value)
            else:
                facts[key] = str(value)
    return {"dicom": facts}
