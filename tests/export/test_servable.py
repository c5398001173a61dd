import shutil

import pytest

from tests.minis import empty_versions
from tfstyle.errors import InputFileError
from tfstyle.export import Servable, saved_model_folder


@pytest.mark.parametrize("damage", ["graph", "variables"])
def test_damaged_saved_model(tmp_path, saved_model, damage):
    folder = tmp_path / "stylize" / "1"
    shutil.copytree(saved_model, folder)
    if damage == "graph":
        content = (folder / "saved_model.pb").read_bytes()
        (folder / "saved_model.pb").write_bytes(content[: len(content) // 2])
    else:
        shutil.rmtree(folder / "variables")
    with pytest.raises(InputFileError, match="cannot be loaded as a SavedModel"):
        Servable(folder)


def test_a_folder_means_its_latest_version(tmp_path):
    empty_versions(tmp_path / "sum", "9", "10")
    assert saved_model_folder(tmp_path / "sum") == tmp_path / "sum" / "10"
    assert saved_model_folder(tmp_path / "sum" / "9") == tmp_path / "sum" / "9"
    (tmp_path / "sum" / "11").mkdir()
    for path, message in (
        (tmp_path / "sum", r"11: has no saved_model\.pb"),
        (tmp_path, "is not a SavedModel"),
        (tmp_path / "missing", "no such folder"),
    ):
        with pytest.raises(InputFileError, match=message):
            saved_model_folder(path)


def test_closing(saved_model):
    servable = Servable(saved_model)
    servable.close()
    servable.close()  # a second time does nothing
    with pytest.raises(RuntimeError, match="is closed"):
        servable.run("stylize", {})
