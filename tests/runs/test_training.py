"""A training run in a folder: small, real, stopped and taken up again.

Kills are in tests/integration/test_killed.py.
"""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfstyle
from tests.process import ROOT
from tfstyle.data import write_png
from tfstyle.errors import ArgumentError, TfstyleError, WeightsError
from tfstyle.runs import Backup, TrainingRun, train

SMALL = TrainingRun(
    phantoms=2,
    weights="none",
    layer="relu1_2",
    content_layers=("relu1_2",),
    style_layers=("image:2.5", "relu1_1"),
    histogram_weight=0.5,
    paired_weight=0.5,
    same_place=0.5,
    windows=("bone", "soft_tissue"),
    crop=32,
    batch_size=2,
    steps=3,
    epochs=2,
    learning_rate=1e-3,
    seed=3,
)
#: As few operations as there can be.
TINY = dataclasses.replace(
    SMALL,
    phantoms=1,
    layer="relu1_1",
    content_loss="mse",
    content_layers=("relu1_1",),
    style_layers=("image",),
    batch_size=1,
    steps=1,
    epochs=1,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    return folder, train(SMALL, folder, tensorboard=True)


class TestRun:
    def test_result_and_folder(self, finished):
        folder, result = finished
        assert (result.steps, result.resumed_from) == (6, 0)
        assert result.preset == folder / "preset"
        history = json.loads(result.history.read_text())
        assert {"loss", "content_loss", "style_loss", "tv_loss"} <= set(history)
        assert all(len(v) == 2 and np.isfinite(v).all() for v in history.values())
        assert result.losses["loss"] == history["loss"][-1]
        record = json.loads((folder / "run.json").read_text())
        assert record["settings"]["crop"] == 32
        assert record["environment"]["keras"] == keras.__version__
        assert ("git" in record["environment"]) == (ROOT / ".git").exists()
        assert list((folder / "grids").rglob("*.png"))
        assert not (folder / "backup").exists()

    def test_finished_run_is_left_alone(self, finished):
        folder, first = finished
        before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
        again = train(SMALL, folder)
        assert again.steps == 6
        assert again.resumed_from == 2
        assert again.losses == first.losses
        assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before

    def test_other_settings_are_refused_once_an_epoch_is_finished(self, tmp_path):
        run, folder = TINY, tmp_path / "run"
        for wrong in ({"weights": "none-such.npz"}, {"content": ("none-such",)}):
            with pytest.raises(TfstyleError, match="none-such"):
                train(dataclasses.replace(run, **wrong), folder)
        train(run, folder)
        other = dataclasses.replace(run, crop=24, seed=4)
        with pytest.raises(ArgumentError, match=r"crop: 24, but .* with 32; seed: 4, but"):
            train(other, folder)
        assert train(other, folder, overwrite=True).resumed_from == 0
        assert json.loads((folder / "run.json").read_text())["settings"]["seed"] == 4

    def test_card_names_no_paths(self, tmp_path):
        scan = tmp_path / "patient_name.png"
        write_png(np.random.default_rng(0).random((48, 48)), scan)
        run = dataclasses.replace(TINY, content=(str(scan),), phantoms=0, windows=("auto",))
        result = train(run, tmp_path / "run")
        assert "patient_name" not in (result.preset / "preset.json").read_text()

    def test_tensorboard(self, finished):
        tags = set()
        for file in (finished[0] / "tensorboard").rglob("events.out.tfevents.*"):
            for record in tf.data.TFRecordDataset(str(file)):
                event = tf.compat.v1.Event.FromString(record.numpy())
                tags |= {value.tag for value in event.summary.value}
        assert any("loss" in tag for tag in tags)


class TestBadInput:
    def test_numbers(self):
        for change, message in (
            ({"steps": 0}, "steps: must be a whole number of at least 1"),
            ({"learning_rate": 0.0}, "learning_rate"),
            ({"phantoms": 0}, "content: give content scans"),
        ):
            with pytest.raises(ArgumentError, match=message):
                dataclasses.replace(SMALL, **change)

    def test_names(self, tmp_path):
        for change in ({"encoder": "vgg17"}, {"style_layers": ("relu1_1:much",)}):
            with pytest.raises(TfstyleError):
                train(dataclasses.replace(SMALL, **change), tmp_path / "run")
        assert not (tmp_path / "run" / "preset").exists()


def test_stopped_between_history_and_backup(finished, tmp_path, monkeypatch):
    folder, first = finished
    save = Backup.on_epoch_end

    def stop(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt
        save(self, epoch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(Backup, "on_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train(SMALL, tmp_path / "run")
    assert len(json.loads((tmp_path / "run" / "history.json").read_text())["loss"]) == 2
    result = train(SMALL, tmp_path / "run")
    assert result.resumed_from == 1
    assert json.loads(result.history.read_text()) == json.loads(first.history.read_text())
    names, expected = (
        {p.name for p in one.rglob("*") if "tensorboard" not in p.parts}
        for one in (tmp_path / "run", folder)
    )
    assert names == expected
    # stopped when the preset was there and the backup was not gone yet
    (tmp_path / "run" / "backup").mkdir()
    (tmp_path / "run" / "backup" / "state.npz").write_bytes(b"")
    assert train(SMALL, tmp_path / "run").resumed_from == 2
    assert not (tmp_path / "run" / "backup").exists()


def test_damaged_backup(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path / "run", extra_callbacks=[Stop()])
    backup = tmp_path / "run" / "backup" / "state.npz"
    for damaged in (backup.read_bytes()[:-100], b""):
        backup.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"state\.npz"):
            train(TINY, tmp_path / "run")


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


def test_goes_on_from_a_preset(finished, tmp_path):
    _, first = finished
    run = dataclasses.replace(SMALL, preset=str(first.preset), layer=None, learning_rate=1e-9)
    second = train(run, tmp_path / "again")
    models = [tfstyle.StyleTransfer.from_preset(str(r.preset)) for r in (first, second)]
    image = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    a, b = (model.stylize(image, image[::-1]) for model in models)
    np.testing.assert_allclose(a, b, atol=1e-3)

    deeper = dataclasses.replace(run, style_layers=("relu2_1",), steps=1, epochs=1)
    assert train(deeper, tmp_path / "deeper").steps == 1
    with pytest.raises(ArgumentError, match="works at"):
        train(dataclasses.replace(run, layer="relu3_1"), tmp_path / "other")
