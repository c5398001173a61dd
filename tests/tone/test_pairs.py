"""Training pairs: right answers are right, weights balance the tissues."""

import numpy as np
import pytest

from tfstyle.data import Scan, Window, spine_phantom
from tfstyle.errors import ArgumentError
from tfstyle.tone import GrayScale, ViewPool, tone_groups
from tfstyle.tone.pairs import PARTNERS, balanced_weights, tissue_shares


@pytest.fixture(scope="module")
def phantom():
    return spine_phantom(size=64, slices=2, seed=0)


@pytest.fixture(scope="module")
def pool(phantom):
    scan = phantom.scan
    return ViewPool({"a": (scan.pixels, scan.spacing)}, size=32, views=6)


def test_gray_scale_is_window_power_and_curve():
    hu = np.array([-1000, 0, 50, 100, 900], np.float32)
    scale = GrayScale(Window(50, 100), power=2.0)
    np.testing.assert_allclose(scale(hu), [0, 0, 0.25, 1, 1], atol=1e-6)
    bent = GrayScale(Window(50, 100), curve=(0.0, 0.9, 1.0))
    np.testing.assert_allclose(bent(hu), [0, 0, 0.9, 1, 1], atol=1e-6)
    picture = GrayScale(Window(0, 3000), eight_bit=True)(np.arange(-1500, 1500, dtype=np.float32))
    assert len(np.unique(picture)) == 256


def test_balanced_weights_give_each_tissue_the_same():
    hu = np.concatenate([np.full(300, -800), np.full(100, 40), np.full(25, 700), np.full(3, 200)])
    counted = np.ones(hu.shape, bool)
    counted[:100] = False
    weights = balanced_weights(hu, counted)
    for tissue in (-800, 40, 700):
        assert weights[hu == tissue].sum() == pytest.approx(1 / 3, rel=1e-5)
    assert (weights[:100] == 0).all()
    assert (weights[hu == 200] == 0).all()  # too few to count
    assert (balanced_weights(hu, np.zeros_like(counted)) == 0).all()


def test_a_view_like_an_image_has_similar_shares_of_tissues():
    lung, bone = np.full((64, 64), -1000, np.int16), np.full((64, 64), -1000, np.int16)
    lung[8:56, 8:56], bone[8:56, 8:56] = 40, 40
    lung[16:40, 16:40], bone[16:40, 16:40] = -800, 900
    scans = {"lung": (lung[None], (1.0, 1.0, 1.0)), "bone": (bone[None], (1.0, 1.0, 1.0))}
    pool, rng = ViewPool(scans, size=32, views=8), np.random.default_rng(0)
    for image in (lung[::2, ::2], bone[::2, ::2]):

        def off(like, image=image):
            drawn = [pool.draw(rng, like=like)[0] for _ in range(20)]
            return np.mean([np.abs(tissue_shares(hu) - tissue_shares(image)).sum() for hu in drawn])

        assert off(image) < 0.7 * off(None)


def test_groups_have_the_right_answers(pool):
    group = pool.group(np.random.default_rng(3), images=8, not_ct_share=0)
    assert group["images"].shape == (8, 32, 32, 1)
    assert group["right"].shape == (8, 32, 32, len(PARTNERS))
    same = np.argwhere(group["same"] == 1)
    assert len(same), "some images have the gray scale of their partner"
    for image, partner in same:  # the right answer is the image itself
        right = group["right"][image, ..., partner]
        np.testing.assert_allclose(right, group["images"][image, ..., 0], atol=1 / 500)
    sums = group["weights"].sum(axis=(1, 2, 3))
    assert np.all((np.abs(sums - 1) < 1e-4) | (sums == 0))
    clipped = (group["images"] <= 0) | (group["images"] >= 1)
    assert (group["weights"][clipped] == 0).all()


def test_groups_are_reproducible_and_scans_can_be_left_out(phantom):
    scans = {
        name: (phantom.scan.pixels + shift, phantom.scan.spacing)
        for name, shift in (("a", 0), ("b", 20))
    }
    first, second = (ViewPool(scans, size=32, views=3, seed=1) for _ in range(2))
    one, other = (p.group(np.random.default_rng(0), 6) for p in (first, second))
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])
    assert list(first.without({"a"}).pools) == ["b"]
    assert list(first.pools) == ["a", "b"]


def test_scans_that_cannot_be_used_are_named():
    with pytest.raises(ArgumentError, match="at least one scan"):
        tone_groups([])
    with pytest.raises(ArgumentError, match="in gray, not in HU"):
        tone_groups([Scan(np.zeros((1, 64, 64), np.uint8), units="gray", name="picture")])
    with pytest.raises(ArgumentError, match="shows no body"):
        tone_groups([Scan(np.full((1, 64, 64), -1000, np.int16), name="air")], size=32, views=1)
