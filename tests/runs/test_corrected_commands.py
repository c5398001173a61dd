"""A command that came to nothing leaves nothing that refuses the corrected one."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest

from tests.models import image, small_model
from tfstyle._private.files import locked
from tfstyle.data import write_png
from tfstyle.errors import ArgumentError, InputFileError, OutputError, WeightsError
from tfstyle.runs import TrainingRun, augment_scans, prepare_scans, train
from tfstyle.runs.augment import SETTINGS
from tfstyle.style_bank import StyleBank

RUN = TrainingRun(
    phantoms=1,
    weights="none",
    layer="relu1_1",
    content_layers=("relu1_1",),
    style_layers=("relu1_1",),
    windows=("bone",),
    crop=32,
    batch_size=1,
    steps=1,
    epochs=1,
)


def test_training(tmp_path):
    folder = tmp_path / "run"
    for wrong, error in (
        ({"weights": "none-such.npz"}, WeightsError),
        ({"content": ("none-such",)}, InputFileError),
        ({"layer": "none-such"}, ArgumentError),
    ):
        for _ in range(2):
            with pytest.raises(error):
                train(dataclasses.replace(RUN, **wrong), folder)
    train(RUN, folder)
    settings = json.loads((folder / "run.json").read_text())["settings"]
    assert settings == json.loads(json.dumps(dataclasses.asdict(RUN)))
    with pytest.raises(ArgumentError, match=r"seed: 1, but .* was begun with 0"):
        train(dataclasses.replace(RUN, seed=1), folder)
    assert train(dataclasses.replace(RUN, seed=1), folder, overwrite=True).resumed_from == 0
    assert json.loads((folder / "run.json").read_text())["settings"]["seed"] == 1


def test_folder_in_use(tmp_path):
    with locked(tmp_path), pytest.raises(OutputError, match="is being written by another run"):
        train(RUN, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("deidentify", ["keep", "basic"])
def test_augmentation(tmp_path, deidentify):
    model = small_model("relu1_1")
    write_png(image(1, (16, 16)), tmp_path / "in.png")
    own = StyleBank.from_scans(model, [tmp_path / "in.png"])
    other = StyleBank.encode(model, [image(2, (16, 16))])
    place = tmp_path / "in.png", tmp_path / "out"
    done = augment_scans(model, *place, own, deidentify="keep")
    assert "all of them are of in.png itself" in done.failed["in.png"]
    options = {"seed": 3, "deidentify": deidentify, "gate": None}
    done = augment_scans(model, *place, other, **options)
    assert (done.written, done.failed) == (1, {})
    settings = json.loads((tmp_path / "out" / SETTINGS).read_text())
    assert (settings["seed"], "uid_key" in settings) == (3, deidentify == "basic")
    with pytest.raises(ArgumentError, match="seed: 4"):
        augment_scans(model, *place, other, **{**options, "seed": 4})


def test_preparation(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputFileError, match="holds no scan that can be read"):
        prepare_scans([tmp_path / "bad.png"], tmp_path / "out")
    write_png(np.zeros((8, 8)), tmp_path / "good.png")
    assert prepare_scans([tmp_path / "good.png"], tmp_path / "out").scans == 1
