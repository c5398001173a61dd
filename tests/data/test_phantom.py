import numpy as np
import pytest

from tfstyle.data import (
    LABELS,
    PROTOCOLS,
    Protocol,
    Scan,
    Window,
    apply_protocol,
    scan_to_unit,
    spine_phantom,
)
from tfstyle.errors import ArgumentError


@pytest.fixture(scope="module")
def phantoms():
    return [spine_phantom(seed, 160) for seed in range(4)]


def test_a_seed_draws_the_same_scan_and_another_one_another():
    first, again, other = (spine_phantom(seed, (48, 64), slices=2) for seed in (3, 3, 4))
    scan = first.scan
    assert (scan.units, scan.name, scan.pixels.dtype) == ("HU", "phantom-3", np.int16)
    assert scan.pixels.shape == first.mask.shape == (2, 48, 64)
    np.testing.assert_allclose(np.linalg.norm(scan.affine[:3, :3], axis=0), scan.spacing)
    np.testing.assert_array_equal(scan.pixels, again.scan.pixels)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert (scan.pixels != other.scan.pixels).mean() > 0.5
    with pytest.raises(ValueError, match="read-only"):
        first.mask[0, 0, 0] = 1


def test_every_structure_has_its_size_and_density(phantoms):
    ranges = {  # mm², and mean HU
        "air": (10_000, 150_000, -1024, -930),
        "soft_tissue": (25_000, 90_000, -80, 60),
        "vertebral_body": (900, 2400, 130, 480),
        "posterior_elements": (300, 2500, 250, 750),
        "canal": (200, 700, -40, 130),
        "table": (4000, 20_000, -1000, -700),
    }
    for phantom in phantoms:
        pixel = phantom.scan.spacing[1] ** 2
        assert set(np.unique(phantom.mask)) == set(LABELS.values())
        for name, (small, large, low, high) in ranges.items():
            inside = phantom.mask == LABELS[name]
            assert small < inside.sum() * pixel < large, (phantom.scan.name, name)
            assert low < phantom.scan.pixels[inside].mean() < high, (phantom.scan.name, name)


def test_bad_arguments():
    for name, value in (("size", 8), ("noise_hu", float("nan")), ("seed", -1)):
        with pytest.raises(ArgumentError, match=name):
            spine_phantom(**{"seed": 0, "size": 32, name: value})


def test_protocols_differ_in_gray_scale(phantoms):
    body = phantoms[0].mask[0] == LABELS["soft_tissue"]
    histograms = []
    for name in PROTOCOLS:
        image = apply_protocol(phantoms[0], name)
        assert (image.shape, image.dtype) == ((1, 160, 160, 1), np.float32)
        found = np.histogram(image[0, ..., 0][body], 32, (0, 1))[0]
        assert found.sum() == body.sum()
        for other in histograms:
            assert np.abs(found - other).sum() / body.sum() > 0.15, name
        histograms.append(found)


def test_each_setting_does_what_it_says(phantoms):
    scan, window = phantoms[2].scan, Window(100, 800)

    def image(**settings):
        return apply_protocol(scan, Protocol(window, **settings))

    plain = image()
    np.testing.assert_allclose(plain, scan_to_unit(scan, window), atol=1e-6)
    np.testing.assert_allclose(image(inverted=True), 1 - plain, atol=1e-6)
    np.testing.assert_allclose(image(gamma=2), plain**2, atol=1e-6)
    bright = image(contrast=1.5)
    dense = (scan.pixels[..., None] > 150) & (plain < 1)
    assert (bright[dense] > plain[dense]).all()
    np.testing.assert_array_equal(bright[scan.pixels <= 0], plain[scan.pixels <= 0])

    def roughness(unit):
        return np.abs(np.diff(unit, axis=1)).mean()

    assert roughness(image(sharpness=-2)) < roughness(plain) < roughness(image(sharpness=1))
    noisy = image(noise_hu=40)
    np.testing.assert_array_equal(noisy, image(noise_hu=40))
    inner = (plain > 0.2) & (plain < 0.8)
    assert 0.03 < (noisy - plain)[inner].std() < 0.07  # 40 of 800 HU
    constant = apply_protocol(
        Scan(np.full((2, 3, 17), 50, np.int16)), Protocol(Window(40, 400), sharpness=-1)
    )
    np.testing.assert_allclose(constant, 0.525, atol=1e-5)


def test_bad_protocols(phantoms):
    with pytest.raises(ArgumentError, match=r"protocol: must be one of .*bone_sharp.*'x_ray'"):
        apply_protocol(phantoms[0], "x-ray")
    with pytest.raises(ArgumentError, match="needs HU"):
        apply_protocol(Scan(np.zeros((1, 4, 4), np.uint8), units="gray"), "standard")
    with pytest.raises(ArgumentError, match="gamma: must be"):
        Protocol(Window(0, 1), gamma=0)
