"""Whole scans through a segmentation model: geometry, gray scales, and what is refused."""

import json
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest

import tfstyle
from studies import common
from tests.data.conftest import save_nifti
from tfstyle import presets
from tfstyle.data import Scan, Window, spine_phantom
from tfstyle.errors import ArgumentError, InputFileError, WeightsError
from tfstyle.segmentation import Segmenter, UNet


def bright(channels: int = 2, size: int | None = None) -> keras.Model:
    """A model by which a pixel above 0.5 is of class 1; without weights to train."""
    image = keras.Input((size, size, 1))
    score = keras.layers.Rescaling(1.0, 0.0)(image)
    if channels > 1:
        score = keras.layers.Concatenate()([keras.layers.Rescaling(-1.0, 1.0)(image), score])
    return keras.Model(image, score)


def block(shape=(4, 20, 24), units="HU", affine=None, spacing=(3.0, 1.0, 1.0)) -> Scan:
    pixels = np.full(shape, -100, np.int16)
    pixels[1:3, 4:12, 6:18] = 150
    return Scan(pixels, spacing=spacing, units=units, affine=affine)


@pytest.mark.parametrize(("channels", "size"), [(1, 48), (2, None)])
def test_any_keras_model(channels, size):
    scan = block()
    labels = Segmenter(bright(channels, size), window=Window(0, 400))(scan, batch_size=3)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, scan.pixels > 0)


AXES = {
    "axial": np.diag([3.0, 1.0, 1.0])[[2, 1, 0]],
    "feet first": np.diag([-3.0, 1.0, -1.0])[[2, 1, 0]],
    "sagittal": np.diag([1.0, -1.0, 1.0])[:, [0, 2, 1]],
}


class Spy(UNet):
    """Keeps what it is shown; a pixel above 0.5 is of class 1."""

    def predict_on_batch(self, x):
        self.seen = x
        return np.concatenate([1 - x, x], -1)


@pytest.mark.parametrize("name", AXES)
def test_model_sees_axial_slices_and_labels_lie_on_the_scan(name):
    affine = np.eye(4)
    affine[:3, :3] = AXES[name]
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0))
    scan, spy = block(affine=affine, spacing=spacing), Spy(2, depth=1, width=2)
    inside = scan.pixels > 0
    labels = Segmenter(spy, window=Window(0, 400))(scan, batch_size=32)
    np.testing.assert_array_equal(labels, inside)
    # The block begins 1, 4, 6 voxels from the corner; what is up, behind and left is at the end.
    expected = {
        "axial": inside,
        "feet first": inside[::-1, :, ::-1],
        "sagittal": inside.transpose(1, 2, 0),
    }[name]
    np.testing.assert_array_equal(spy.seen[..., 0] > 0.5, expected)


def test_spacing_of_the_training():
    scan, spy = block(), Spy(2, depth=1, width=2)
    labels = Segmenter(spy, window=Window(0, 400), spacing_mm=2.0)(scan)
    assert spy.seen.shape == (4, 10, 12, 1)
    assert labels.shape == scan.shape
    assert np.mean(labels == (scan.pixels > 0)) > 0.97


def test_harmonizes_what_is_not_in_hu(tone):
    style = tone.encode_style(np.random.default_rng(0).random((32, 32)).astype(np.float32))
    segmenter = Segmenter(bright(), tone=tone, style=style)
    gray = block(units="US")
    assert not segmenter.harmonizes(block())
    assert segmenter.harmonizes(gray)
    assert not segmenter.harmonizes(gray, harmonize=False)
    _, _, confidence = segmenter.segment(gray)
    assert 0 <= confidence <= 1
    assert segmenter.segment(gray, harmonize=False)[2] is None
    with pytest.raises(ArgumentError, match="harmonize: model keeps no style; give a reference"):
        Segmenter(bright())(block(), harmonize=True)


def test_low_confidence_is_warned_of(tone, caplog):
    style = tone.encode_style(np.random.default_rng(0).random((32, 32)).astype(np.float32))
    air = replace(block(), pixels=np.full(block().shape, -1000, np.int16))
    segmenter = Segmenter(bright(), window=Window(0, 400), tone=tone, style=style)
    assert segmenter.segment(air, harmonize=True)[2] == 0
    assert "low confidence (0.00)" in caplog.text


def test_reference(tmp_path):
    bright().save(tmp_path / "model.keras")
    image = np.random.default_rng(0).random((32, 32, 1)).astype(np.float32)
    path = save_nifti(tmp_path / "ct.nii.gz", image * 800 - 200)
    segmenter = Segmenter.open(tmp_path / "model.keras", reference=path, window="bone")
    assert segmenter.style.shape == (1, *segmenter.tone.code_shape)
    assert segmenter.harmonizes(block(units="US"))


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(WeightsError, match=r"holds a ToneTransfer, not a UNet; .*unet_spine"):
        Segmenter.open("tone_ct")
    with pytest.raises(InputFileError, match="no such model file"):
        Segmenter.open(tmp_path / "none.keras")
    colors = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Dense(2)])
    colors.save(tmp_path / "colors.keras")
    with pytest.raises(ArgumentError, match="gray images"):
        Segmenter.open(tmp_path / "colors.keras")


def test_models_of_other_outputs():
    for model, match in (
        (bright(size=16), r"takes images of 16 x 16 pixels, but slices have 20 x 24; .*spacing"),
        (keras.layers.MaxPooling2D(), r"must give \(B, H, W, classes\)"),
        (keras.layers.Rescaling(4.0, -2.0), "end it with a sigmoid"),
    ):
        if not isinstance(model, keras.Model):
            model = keras.Sequential([keras.Input((None, None, 1)), model])
        with pytest.raises(ArgumentError, match=match):
            Segmenter(model)(block())


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter.open()


class TestPreset:
    def test_card_says_what_it_is(self):
        assert list(UNet.presets) == ["unet_spine"]
        card = presets.card("unet_spine")
        assert "demonstration" in card["limits"].lower()
        text = (presets.folder("unet_spine") / "README.md").read_text(encoding="utf-8")
        assert common.render("unet_spine.md", **card) == text.rstrip("\n")

    @pytest.mark.parametrize("gray", [False, True])
    def test_finds_the_spine_of_a_phantom(self, segmenter, gray):
        phantom = spine_phantom(7, size=160, spacing_mm=2.0)
        names, scan = ("vertebral_body", "posterior_elements"), phantom.scan
        true = np.isin(phantom.mask, [tfstyle.data.LABELS[name] for name in names])
        if gray:
            pixels = (Window(300, 1500).to_unit(scan.pixels) * 255).astype(np.uint8)
            scan = Scan(pixels, units="gray", spacing=scan.spacing)
        labels = segmenter(scan)
        both = np.sum((labels == 1) & true)
        assert 2 * both / (np.sum(labels) + true.sum()) > 0.7

    def test_stale_style_code(self, segmenter, tmp_path):
        folder = tmp_path / "preset"
        shutil.copytree(presets.folder("unet_spine"), folder)
        config = json.loads((folder / "preset.json").read_text())
        config["card"]["input"]["style_model"] = "another"
        (folder / "preset.json").write_text(json.dumps(config))
        with pytest.raises(WeightsError, match="another version of tone_ct"):
            Segmenter.open(folder)
        (folder / "style_code.npz").unlink()
        assert Segmenter.open(folder).style is None


def test_preset_of_ones_own(tmp_path):
    unet = UNet(3, depth=1, width=4, normalization="batch")
    unet.save_to_preset(tmp_path / "own", {"input": {"window": [40, 80], "spacing_mm": 1.5}})
    segmenter = Segmenter.open(tmp_path / "own")
    assert (segmenter.window, segmenter.spacing_mm) == (Window(40, 80), 1.5)
    image = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    np.testing.assert_allclose(
        segmenter.model.probabilities(image[None, ..., None]),
        unet.probabilities(image[None, ..., None]),
        atol=5e-3,
    )
