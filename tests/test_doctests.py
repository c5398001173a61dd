"""The examples in docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfstyle
from tests.models import image, small_model

#: Modules whose examples do not run yet.
EXCLUDED = (
    "tfstyle.__main__",
    "tfstyle.augment",
    "tfstyle.beam",
    "tfstyle.cli",
    "tfstyle.data",
    "tfstyle.runs",
    "tfstyle.style_bank",
    "tfstyle.stylizers",
    "tfstyle.tone",
    "tfstyle.workers",
)
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
    return {
        "tfstyle": tfstyle,
        "np": np,
        "keras": keras,
        "tf": tf,
        "content": content,
        "style": style,
        "generated": content**2,
        "hu": np.round(2000 * content - 1000).astype(np.int16),
        "images": content[None, ..., None],
        "model": small_model("relu1_1"),
    }


@pytest.mark.parametrize("name", modules())
def test_examples(name, namespace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs=namespace, optionflags=FLAGS)
    assert results.failed == 0
