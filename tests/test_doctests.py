"""The examples in docstrings run, and print what they say."""

import doctest
import importlib
import pkgutil
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfstyle
from tests.data.conftest import save_nifti
from tests.minis import ct_series
from tests.models import image, small_model

#: A command, and what needs Apache Beam.
EXCLUDED = ("tfstyle.__main__", "tfstyle.beam")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(tfstyle.__path__, "tfstyle.")]
    return [
        name
        for name in ("tfstyle", *names)
        if not any(name == one or name.startswith(f"{one}.") for one in EXCLUDED)
    ]


@pytest.fixture(scope="module")
def namespace():
    """What examples may use beside the names of their module."""
    content, style = image(0, (64, 64)), image(1, (48, 80))
    hu = np.round(2000 * content - 1000).astype(np.int16)
    return {
        "tfstyle": tfstyle,
        "np": np,
        "keras": keras,
        "tf": tf,
        "content": content,
        "style": style,
        "generated": content**2,
        "hu": hu,
        "scan": tfstyle.data.Scan(hu[None], affine=np.eye(4)),
        "masks": (content > 0.5)[None, ..., None],
        "images": content[None, ..., None],
        "model": small_model("relu1_1"),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A series of CT with its mask, others as styles, and one slice of them."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("ct", "images/ct", "scanner_a", "scanner_b"):
        ct_series(folder / name)
    shutil.copy(next((folder / "scanner_a").iterdir()), folder / "style.dcm")
    scan = tfstyle.data.read_scan(folder / "ct")
    axes = np.diag([-1.0, -1, 1, 1]) @ scan.affine @ np.eye(4)[[2, 1, 0, 3]]
    save_nifti(folder / "masks" / "ct.nii.gz", scan.pixels.T > 0, np.uint8, axes)
    return folder


@pytest.mark.parametrize("name", modules())
def test_examples(name, namespace, files, tmp_path, monkeypatch):
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs=namespace, optionflags=FLAGS)
    assert results.failed == 0
