"""Preset folders: plain files, checked before use; and the released preset itself."""

import json

import numpy as np
import pytest

import tfstyle
from tfstyle import metrics, presets
from tfstyle.data import Window, body_mask, spine_phantom
from tfstyle.encoders.weights import load_npz
from tfstyle.errors import OutputError, WeightsError

from .models import image, small_model


@pytest.fixture(scope="module")
def model():
    return small_model("relu2_1", depth="relu3_1")


@pytest.fixture
def saved(model, tmp_path):
    return model, model.save_to_preset(tmp_path / "preset", card={"steps": 3})


def test_round_trip(saved):
    model, folder = saved
    assert sorted(p.name for p in folder.iterdir()) == ["preset.json", "weights.npz"]
    again = tfstyle.StyleTransfer.from_preset(folder)
    content, style = image(0, (24, 24)), image(1, (24, 24))
    expected = model.stylize(content, style)
    np.testing.assert_allclose(again.stylize(content, style), expected, atol=5e-3)
    assert again.encoder.depth == "relu2_1"  # nothing behind the tap is kept
    assert presets.card(folder) == {"steps": 3}


def test_full_precision_and_replacement(saved):
    model, folder = saved
    (folder / "README.md").write_text("card")
    model.save_to_preset(folder, half=False)
    assert (folder / "README.md").read_text() == "card"
    again = tfstyle.StyleTransfer.from_preset(folder)
    content, style = image(0, (24, 24)), image(1, (24, 24))
    np.testing.assert_allclose(
        again.stylize(content, style), model.stylize(content, style), atol=1e-5
    )
    assert [p.name for p in folder.parent.iterdir()] == ["preset"]


def flip_a_bit(folder):
    data = bytearray((folder / "weights.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "weights.npz").write_bytes(data)


def changed(change):
    """Damages the configuration of a preset."""

    def damage(folder):
        config = json.loads((folder / "preset.json").read_text())
        change(config)
        (folder / "preset.json").write_text(json.dumps(config))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "preset.json").unlink(), r"preset\.json"),
        (lambda folder: (folder / "preset.json").write_text(""), r"preset\.json"),
        (lambda folder: (folder / "weights.npz").unlink(), r"weights\.npz is missing"),
        (flip_a_bit, r"weights\.npz: SHA-256"),
        (changed(lambda c: c.update(format=99)), "format 99 is not 1; update tfstyle"),
        (changed(lambda c: c["config"].update(layer="relu3_1")), "kernel is missing, expected"),
    ],
)
def test_damaged_preset(saved, damage, message):
    _, folder = saved
    damage(folder)
    with pytest.raises(WeightsError, match=message):
        tfstyle.StyleTransfer.from_preset(folder)


def test_folders_that_cannot_be_written(saved, tmp_path):
    model, _ = saved
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file, where a folder is needed"):
        model.save_to_preset(tmp_path / "file" / "preset")
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("")
    with pytest.raises(OutputError, match="not empty"):
        model.save_to_preset(other)
    assert [p.name for p in other.iterdir()] == ["precious"]


def test_table_is_complete_and_in_the_readme(script):
    table = presets.table()
    assert tuple(table) == presets.names()
    for name, row in table.items():
        assert all(row.values()), name
        assert row["class"] in presets.CLASSES
    readme_table = script("readme_table")
    assert readme_table.PRESETS.read_text() == readme_table.presets_text()


@pytest.mark.parametrize("name", presets.names())
def test_every_weight_of_a_release_is_used_as_it_is(name):
    arrays = load_npz(presets.folder(name) / presets.WEIGHTS)
    variables = tfstyle.from_preset(name).preset_variables()
    assert set(arrays) == set(variables)
    for key, values in arrays.items():
        np.testing.assert_array_equal(variables[key], values.astype(np.float32))


class TestReleased:
    def test_is_right_and_keeps_the_structure(self):
        """The default preset on phantoms, whose anatomy it meets here for the first time."""
        model = tfstyle.from_preset()
        errors, structures = [], []
        windows = [Window(400, 1500), Window(40, 400), Window(-600, 1500), Window(500, 1000)]
        for seed, (a, b) in enumerate([(0, 1), (1, 0), (2, 1), (3, 1), (1, 3), (0, 3)]):
            hu = spine_phantom(1000 + seed, size=192).scan.pixels[0]
            content, right = windows[a].to_unit(hu), windows[b].to_unit(hu)
            style = windows[b].to_unit(spine_phantom(2000 + seed, size=192).scan.pixels[0])
            body = body_mask(hu)
            counted = body & (content > 0) & (content < 1)
            generated = model.stylize(content, style)
            pair = [metrics.tone_error(right, g, hu, counted) for g in (generated, content)]
            errors.append([error["balanced"] for error in pair])
            structures.append(metrics.structure_similarity(content, generated, body))
        ours, nothing = np.mean(errors, axis=0)
        assert ours < 0.08
        assert ours < 0.3 * nothing
        assert np.median(structures) > 0.8
