from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfstyle.errors import ArgumentError, InputFileError
from tfstyle.serving import Servable, resolve_models


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


def test_latest_version_is_the_highest_number(tmp_path, saved_model):
    for version in ("9", "10"):
        shutil.copytree(saved_model, tmp_path / "stylize" / version)
    servable = Servable.load_latest("stylize", tmp_path / "stylize")
    servable.close()
    servable.close()  # a second time does nothing
    assert servable.version == 10


def test_run_gives_the_outputs_asked_for(saved_model, random):
    servable = Servable("stylize", 1, saved_model)
    image = random.random((1, 8, 8, 1), dtype=np.float32)
    try:
        inputs = {"content": image, "style": image}
        assert set(servable.run("stylize", inputs, ["generated"])) == {"generated"}
        with pytest.raises(KeyError, match="other"):
            servable.run("stylize", inputs, ["other"])
        with pytest.raises(tf.errors.InvalidArgumentError, match="content : Tensor had NaN"):
            servable.run("stylize", {"content": image * np.nan, "style": image})
    finally:
        servable.close()


def test_importing_the_package_starts_nothing():
    code = (
        "import sys, threading, tfstyle.serving as s; "
        "assert 'tensorflow' not in sys.modules and 'grpc' not in sys.modules; "
        "assert threading.active_count() == 1; "
        "assert set(s.__all__) <= set(dir(s)); "
        "s.resolve_models; "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_unknown_name_in_the_package():
    import tfstyle.serving

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = tfstyle.serving.no_such_name
