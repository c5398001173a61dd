from __future__ import annotations

import shutil
import subprocess
import sys
import weakref

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tfstyle.errors import ArgumentError, InputFileError
from tfstyle.export import Servable, resolve_models


def make(base, *versions):
    for version in versions:
        (base / version).mkdir(parents=True)
        (base / version / "saved_model.pb").touch()
    return base


def test_models_as_a_user_would_name_them(tmp_path):
    stylize, unet = make(tmp_path / "stylize", "1", "2"), make(tmp_path / "unet", "1")
    (tmp_path / "README.md").touch()
    (tmp_path / "empty").mkdir()
    both = {"stylize": stylize, "unet": unet}
    assert resolve_models(tmp_path) == both
    assert resolve_models(str(tmp_path)) == both
    assert resolve_models(stylize) == {"stylize": stylize}
    assert resolve_models({"other_name": str(unet)}) == {"other_name": unet}


def test_relative_folders_become_absolute(tmp_path, monkeypatch):
    make(tmp_path / "stylize", "1")
    monkeypatch.chdir(tmp_path / "stylize")
    assert resolve_models(".") == {"stylize": tmp_path / "stylize"}


def test_folder_without_models(tmp_path):
    (tmp_path / "stylize").mkdir()
    with pytest.raises(InputFileError, match="holds no model"):
        resolve_models(tmp_path)
    with pytest.raises(InputFileError, match="has no version folder"):
        resolve_models({"stylize": tmp_path / "stylize"})
    with pytest.raises(InputFileError, match="is not a folder"):
        resolve_models(tmp_path / "missing")
    with pytest.raises(InputFileError, match="is not a folder"):
        resolve_models({"stylize": tmp_path / "missing"})


def test_empty_latest_version_is_named(tmp_path):
    make(tmp_path / "stylize", "1")
    (tmp_path / "stylize" / "2").mkdir()
    with pytest.raises(InputFileError, match=r"2: has no saved_model\.pb"):
        resolve_models(tmp_path)


@pytest.mark.parametrize("models", [{}, {"": "folder"}, {"a/b": "folder"}])
def test_unusable_names(models):
    with pytest.raises(ArgumentError, match="models"):
        resolve_models(models)


def test_damaged_saved_model(tmp_path, saved_model):
    folder = tmp_path / "stylize" / "1"
    shutil.copytree(saved_model, folder)
    content = (folder / "saved_model.pb").read_bytes()
    (folder / "saved_model.pb").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputFileError, match="cannot be loaded as a SavedModel"):
        Servable("stylize", 1, folder)


def test_missing_variables(tmp_path, saved_model):
    folder = tmp_path / "stylize" / "1"
    shutil.copytree(saved_model, folder)
    shutil.rmtree(folder / "variables")
    with pytest.raises(InputFileError, match="cannot be loaded as a SavedModel"):
        Servable("stylize", 1, folder)


def test_latest_version_is_the_highest_number(tmp_path, sum_folder):
    for version in ("9", "10"):
        shutil.copytree(sum_folder / "1", tmp_path / "sum" / version)
    servable = Servable.load_latest("sum", tmp_path / "sum")
    graph = weakref.ref(servable._session.graph)
    servable.close()
    servable.close()  # a second time does nothing
    assert graph() is None  # a server that reloads models would fill up with them
    with pytest.raises(RuntimeError, match="is closed"):
        servable.run(next(iter(servable.signatures)), {})
    assert servable.version == 10


def test_run_gives_the_outputs_asked_for(servable, random):
    image = random.random((1, 8, 8, 1), dtype=np.float32)
    inputs = {"content": image, "style": image}
    assert set(servable.run("stylize", inputs, ["generated"])) == {"generated"}
    with pytest.raises(KeyError, match="other"):
        servable.run("stylize", inputs, ["other"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="content : Tensor had NaN"):
        servable.run("stylize", {"content": image * np.nan, "style": image})


def records(folder, *logs):
    extra = folder / "assets.extra"
    extra.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


def predict_log(signature, **inputs):
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = "sum", signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return log


def test_warm_up_runs_the_requests_of_the_saved_model(tmp_path, sum_folder):
    folder = tmp_path / "1"
    shutil.copytree(sum_folder / "1", folder)
    servable = Servable("sum", 1, folder)
    try:
        assert servable.warm_up() == 2  # the export's own: add and serving_default
        one = np.ones((1, 2), np.float32)
        other = prediction_log_pb2.PredictionLog()
        other.classify_log.request.model_spec.name = "sum"
        good = predict_log("", x=one, amount=np.float32([1]))
        records(folder, good, other, good)
        assert servable.warm_up() == 2
        for bad in (
            predict_log("add", x=-one, amount=np.float32([1])),
            predict_log("none", x=one),
        ):
            records(folder, good, bad)
            with pytest.raises(InputFileError, match=r"warmup_requests: request 2 fails"):
                servable.warm_up()
        (folder / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"garbage" * 9)
        with pytest.raises(InputFileError, match="request 1 fails"):
            servable.warm_up()
        shutil.rmtree(folder / "assets.extra")
        assert servable.warm_up() == 0
    finally:
        servable.close()


def test_importing_the_package_starts_nothing():
    code = (
        "import sys, threading, tfstyle.export as s; "
        "assert 'tensorflow' not in sys.modules and 'grpc' not in sys.modules; "
        "assert threading.active_count() == 1; "
        "assert set(s.__all__) <= set(dir(s)); "
        "s.resolve_models; "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_unknown_name_in_the_package():
    import tfstyle.export

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = tfstyle.export.no_such_name
