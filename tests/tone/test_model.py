"""ToneTransfer: what it generates, its guarantees, its tokens, presets, training.

What it bears as a Keras model is in tests/test_layers_and_models.py.
"""

import logging

import keras
import numpy as np
import pytest

from tests.models import expect_error, small_tone, tone_of_few_weights
from tfstyle import StyleTransfer, presets
from tfstyle.data import spine_phantom
from tfstyle.errors import ArgumentError, WeightsError
from tfstyle.tone import ToneTransfer, tone_groups
from tfstyle.tone.features import TOKENS, merge_tokens, spread_tokens
from tfstyle.tone.frame import frame
from tfstyle.tone.losses import LOSS_TERMS, tone_losses
from tfstyle.tone.matching import matched_levels, straight

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model():
    return small_tone(1)


@pytest.fixture(scope="module")
def images():
    hu = spine_phantom(size=72, slices=4, seed=2).scan.pixels
    content = np.clip((hu + 160) / 400, 0, 1).astype(np.float32)[..., None]
    style = np.clip((hu[:, ::-1] + 500) / 2000, 0, 1).astype(np.float32)[..., None]
    return content, style


def test_shapes_follow_the_content(model, images):
    content, style = images
    for one in (content[0], content[0, ..., 0], content):
        generated = model.stylize(one, style[0])
        assert generated.shape == one.shape
        assert generated.dtype == np.float32
        assert 0 <= generated.min() <= generated.max() <= 1
    np.testing.assert_allclose(
        model.stylize(content, style)[2], model.stylize(content[2], style[2]), atol=1e-5
    )
    for shape in ((1, 1), (200, 47)):
        other = RNG.random(shape, dtype=np.float32)
        assert model.stylize(other, style[0]).shape == shape
        assert model.stylize(content[0], other).shape == content[0].shape


def test_bright_never_becomes_darker_than_dark(model, images):
    content, style = images
    for batch in (content, RNG.random((3, 60, 60, 1), dtype=np.float32)):
        generated = model.stylize(batch, style[:1])
        for x, y in zip(batch, generated):
            order = np.argsort(x, axis=None)
            assert (np.diff(y.ravel()[order]) >= -1e-6).all()


def test_strength(model, images):
    content, style = images
    np.testing.assert_array_equal(model.stylize(content, style, strength=0), content)
    full, half = (model.stylize(content, style, strength=s) for s in (1, 0.5))
    np.testing.assert_allclose(half, 0.5 * (content + full), atol=1e-5)
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(ArgumentError, match="strength"):
            model.stylize(content, style, strength=strength)


def test_one_curve_for_a_scan(model, images):
    content, style = images
    generated = model.stylize(content, style[0], one_curve=True)
    order = np.argsort(content, axis=None)
    assert (np.diff(generated.ravel()[order]) >= -1e-6).all()
    assert len(model.estimate(content, style[0], one_curve=True).levels) == 1
    assert len(model.estimate(content, style[0]).levels) == 4
    np.testing.assert_array_equal(
        model.stylize(content[:1], style[0], one_curve=True), model.stylize(content[:1], style[0])
    )


def test_codes_and_several_styles(model, images):
    content, style = images
    codes = model.encode_style(style)
    assert codes.shape == (4, TOKENS, 10)
    assert model.encode_style(style, one_code=True).shape == (1, TOKENS, 10)
    np.testing.assert_allclose(
        model.stylize(content, codes), model.stylize(content, style), atol=1e-6
    )
    first, second = (model.stylize(content, style[i]) for i in (0, 1))
    blended = model.stylize(content, [style[0], codes[1:2]], style_weights=[3, 1])
    inside = (first > 0) & (first < 1) & (second > 0) & (second < 1)
    expected = 0.75 * first + 0.25 * second
    np.testing.assert_allclose(blended[inside], expected[inside], atol=2e-3)
    with pytest.raises(ArgumentError, match="batch of 3 for 4"):
        model.stylize(content, style[:3])
    with pytest.raises(ArgumentError, match=r"style code of this model, \(B, 256, 10\) finite"):
        model.stylize(content, np.full_like(codes[:1], np.nan))


def test_empty_images_have_an_answer_and_no_confidence(model, images):
    content, style = images
    for flat in (np.zeros((40, 40)), np.ones((40, 40)), np.full((40, 40), 0.3)):
        assert np.isfinite(model.stylize(flat, style[0])).all()
        assert np.isfinite(model.stylize(content, flat)).all()
        assert (model.confidence(content, flat) == 0).all()
        assert (model.confidence(flat, style[0]) == 0).all()


@pytest.mark.parametrize(("value", "words"), [(np.nan, "NaN"), (-3.0, r"not in \[0, 1\]")])
def test_what_cannot_be_gray_levels_is_refused(model, images, value, words):
    content, style = images
    bad = content.copy()
    bad[0, 3, 3, 0] = value
    for arguments in ((bad, style), (content, bad)):
        with pytest.raises(ArgumentError, match=words):
            model.stylize(*arguments)
    with pytest.raises(ArgumentError, match="shape"):
        model.stylize(np.zeros((4, 40, 40, 3)), style)


def test_low_confidence_is_warned_of(model, images, caplog):
    content, style = images
    confidence = model.confidence(content, style)
    assert confidence.shape == (4,)
    assert ((confidence > 0) & (confidence < 1)).all()
    bias = model.matcher.out.bias
    kept = bias.numpy()
    try:
        expect_error(model, 0.5)
        with caplog.at_level(logging.WARNING, logger="tfstyle"):
            model.stylize(content, style)
    finally:
        bias.assign(kept)
    assert "low confidence" in caplog.text


def test_tokens_rise_and_reach_rare_gray_levels(images):
    gray = np.sort(np.concatenate([np.zeros(3000), RNG.uniform(0.4, 0.5, 900), np.full(60, 0.95)]))
    chosen = np.asarray(spread_tokens(gray[None].astype(np.float32), 256))[0]
    assert (np.diff(chosen) >= 0).all()
    tokens = gray[chosen]
    share = np.mean(tokens > 0.9)
    assert share > 4 * 60 / len(gray), "rare and bright: more often than their share"
    assert 0.02 < np.mean(tokens == 0) < 0.5


def test_tokens_of_several_slices_are_merged(model, images):
    codes = model.encode_style(images[1])
    merged = np.asarray(merge_tokens(codes))[0]
    assert (np.diff(merged[:, 0]) >= 0).all()
    others = [0, *range(2, codes.shape[-1])]
    known = {tuple(row) for row in codes[..., others].reshape(-1, len(others))}
    assert {tuple(row) for row in merged[:, others]} <= known
    # The share of all slices' pixels below each gray level.
    assert (np.diff(merged[:, 1]) >= 0).all()
    assert 0 < merged[0, 1] < merged[-1, 1] < 1
    pixels = np.sort(np.asarray(frame(images[1], 48)), axis=None)
    inside = np.abs(np.diff(merged[:, 0], prepend=-1)) > 1e-3
    below = np.searchsorted(pixels, merged[inside, 0]) / pixels.size
    np.testing.assert_allclose(merged[inside, 1], below, atol=0.1)
    np.testing.assert_allclose(merged[:, 0].mean(), codes[..., 0].mean(), atol=0.01)


def test_levels_at_equal_ranks_are_those_of_histogram_matching():
    rng = np.random.default_rng(5)
    ranks = (np.arange(64, dtype=np.float32) + 0.5) / 64
    content, style = (np.sort(rng.random(64, dtype=np.float32)) for _ in range(2))
    content[:16], style[:32] = 0, 0  # a quarter and a half is floor
    pair = [np.stack([gray, ranks], axis=-1)[None] for gray in (content, style)]
    matched = np.asarray(matched_levels(*pair))[0]
    np.testing.assert_allclose(matched[:, 0], style, atol=0.02)
    above = (ranks[16:] - ranks[15]) / (1 - ranks[15])
    expected = np.interp(above, (ranks[32:] - ranks[31]) / (1 - ranks[31]), style[32:])
    np.testing.assert_allclose(matched[20:, 1], expected[4:], atol=0.02)
    assert (matched[:16, 1] == 0).all()


def test_a_straight_line_is_found_and_a_point_has_slope_one():
    rng = np.random.default_rng(0)
    x = np.sort(rng.random((2, 32, 1), dtype=np.float32), axis=1)
    weights = rng.random((2, 32, 1), dtype=np.float32)
    wrong = 0.4 * x + 0.3
    wrong[:, 5], weights[:, 5] = 9.0, 0.0  # what is not trusted does not count
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(straight(x, wrong, weights), 0.4 * x + 0.3, atol=5e-3)
    alone = np.zeros_like(weights)
    alone[:, 7] = 1.0
    np.testing.assert_allclose(straight(x, x + 0.1, alone), x + 0.1, atol=1e-5)


def test_preset(model, images, tmp_path):
    content, style = images
    folder = model.save_to_preset(tmp_path / "mine", card={"steps": 5})
    again = presets.load(folder)
    assert type(again) is ToneTransfer
    np.testing.assert_allclose(
        again.stylize(content, style), model.stylize(content, style), atol=0.01
    )
    exact = ToneTransfer.from_preset(model.save_to_preset(tmp_path / "mine", half=False))
    assert exact.fingerprint() == model.fingerprint()
    with pytest.raises(WeightsError, match="holds a ToneTransfer, not a StyleTransfer"):
        StyleTransfer.from_preset(folder)


@pytest.fixture(scope="module")
def groups():
    scans = [spine_phantom(size=64, slices=2, seed=seed).scan for seed in (0, 1)]
    return tone_groups(scans, batch_size=2, size=32, views=8, images=6)


def test_training_lowers_the_tone_error(groups, tmp_path):
    keras.utils.set_random_seed(0)
    model = tone_of_few_weights()
    model.compile(optimizer=keras.optimizers.Adam(2e-3), jit_compile=False)
    before = model.evaluate(groups, steps=4, verbose=0, return_dict=True)
    history = model.fit(groups, steps_per_epoch=12, epochs=2, verbose=0).history
    assert set(history) == set(before) == {*LOSS_TERMS}
    after = model.evaluate(groups, steps=4, verbose=0, return_dict=True)  # the same groups
    assert after["tone_error"] < 0.95 * before["tone_error"]
    assert after["ct_error"] < before["ct_error"]
    model.save(tmp_path / "model.keras")
    again = ToneTransfer.load(tmp_path / "model.keras")
    assert int(again.optimizer.iterations) == 24


@pytest.mark.parametrize("log_error", [-9.0, 1.0])
def test_a_curve_that_changes_less_than_its_expected_error_leaves_the_content(images, log_error):
    model = small_tone()
    expect_error(model, log_error)
    generated = model.stylize(images[0], images[1])
    assert np.allclose(generated, images[0], atol=1e-4) == (log_error > 0)


def test_loss_is_the_weighted_distance_to_the_right_answer(groups):
    model = small_tone()
    model.matcher.alike[1].bias.assign([-9.0])  # no two images count as of one gray scale
    expect_error(model, -9.0)  # and no curve is doubted
    batch = next(iter(groups))
    terms = tone_losses(model.encoder, model.matcher, batch)
    # Pair 0: image 0 of group 0 with its first partner.
    images = batch["images"][0].numpy()
    weights = batch["weights"][0, 0, ::3, ::3, 0].numpy()
    right = batch["right"][0, 0, ::3, ::3, 0].numpy()
    generated = model([images[:1], images[1:2]]).numpy()[0, ::3, ::3, 0]
    expected = np.sum(weights * np.abs(generated - right)) / max(weights.sum(), 1e-6)
    # In training values beyond [0, 1] count a tenth of what they are off.
    assert float(terms["tone_error"][0]) == pytest.approx(expected, abs=0.02)


def test_images_that_are_not_ct_count_for_the_probability_of_ct_alone(groups):
    model = small_tone()
    batch = {**next(iter(groups)), "not_ct": np.eye(6, dtype=np.float32)[[0, 0]]}
    terms = {k: np.asarray(v) for k, v in tone_losses(model.encoder, model.matcher, batch).items()}
    # Image 0 of 6 is content twice, and style of images 5 (one step) and 1 (five steps on).
    foreign = np.zeros((2, 2, 6), bool)
    foreign[:, :, 0], foreign[0, :, 5], foreign[1, :, 1] = True, True, True
    assert (terms["weight"][foreign.ravel()] == 0).all()
    assert (terms["weight"] > 0).any()
    tokens = model.encoder(np.reshape(batch["images"], (12, 32, 32, 1)))
    found = np.asarray(model.matcher.probability_of_ct(tokens)).reshape(2, 6)
    error = -np.log(np.where(batch["not_ct"] > 0, 1 - found, found)).mean()
    np.testing.assert_allclose(terms["ct_error"], error, rtol=1e-4)
