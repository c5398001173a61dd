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

SEEDS = range(8)


@pytest.fixture(scope="module")
def phantoms():
    return [spine_phantom(seed, 192) for seed in SEEDS]


@pytest.mark.parametrize(
    ("seed", "options", "counts", "means"),
    [
        (3, {}, [5223, 3252, 74, 54, 16, 597], [-990, -37, 172, 436, 12, -755]),
        (8, {"slices": 2, "slice_spacing_mm": 18.0},
         [9846, 7220, 87, 85, 42, 1152], [-990, -28, 217, 384, -8, -758]),
    ],
)  # fmt: skip
def test_a_seed_draws_what_it_always_drew(seed, options, counts, means):
    """Presets and studies were made with these phantoms."""
    phantom = spine_phantom(seed, 96, **options)
    found = np.bincount(phantom.mask.ravel(), minlength=6)
    np.testing.assert_allclose(found, counts, atol=2)
    hu = [phantom.scan.pixels[phantom.mask == value].mean() for value in LABELS.values()]
    np.testing.assert_allclose(hu, means, atol=2)


def test_scan(phantoms):
    for seed, phantom in zip(SEEDS, phantoms, strict=True):
        scan = phantom.scan
        assert (scan.units, scan.name) == ("HU", f"phantom-{seed}")
        assert scan.pixels.shape == phantom.mask.shape == (1, 192, 192)
        assert scan.pixels.dtype == np.int16
        assert phantom.mask.dtype == np.uint8
        assert scan.pixels.min() >= -1024
        assert scan.pixels.max() > 400
        assert 1 < scan.spacing[1] == scan.spacing[2] < 3
        np.testing.assert_allclose(np.linalg.norm(scan.affine[:3, :3], axis=0), scan.spacing)
        with pytest.raises(ValueError, match="read-only"):
            phantom.mask[0, 0, 0] = 1


def test_every_structure_in_every_slice(phantoms):
    for phantom in phantoms:
        area = np.bincount(phantom.mask.ravel(), minlength=6) * phantom.scan.spacing[1] ** 2
        assert len(area) == len(LABELS) == 6
        low = np.array([10000, 25000, 900, 300, 200, 4000])  # mm²
        high = np.array([150000, 90000, 2400, 2500, 700, 20000])
        assert (area > low).all(), (phantom.scan.name, area)
        assert (area < high).all(), (phantom.scan.name, area)


def test_structures_lie_as_in_the_body(phantoms):
    """Behind one another: vertebral body, canal, then the middle of the posterior elements."""
    for phantom in phantoms:
        rows, columns = (
            {n: np.nonzero(phantom.mask[0] == v)[axis].mean() for n, v in LABELS.items()}
            for axis in (0, 1)
        )
        assert rows["soft_tissue"] < rows["vertebral_body"] < rows["canal"] < rows["table"]
        assert rows["vertebral_body"] < rows["posterior_elements"] < rows["table"]
        # All lie in one sagittal plane, within 10 mm.
        middle = [columns[n] for n in ("vertebral_body", "canal", "posterior_elements")]
        assert np.ptp(middle) * phantom.scan.spacing[2] < 10


def test_mean_hu_of_each_structure(phantoms):
    ranges = {
        "air": (-1024, -930),
        "soft_tissue": (-80, 60),
        "vertebral_body": (130, 480),
        "posterior_elements": (250, 750),
        "canal": (-40, 130),
        "table": (-1000, -700),
    }
    for phantom in phantoms:
        for name, (low, high) in ranges.items():
            mean = phantom.scan.pixels[phantom.mask == LABELS[name]].mean()
            assert low < mean < high, (phantom.scan.name, name, mean)


def test_noise_is_that_of_ct():
    """Little at low frequencies, most in the middle ones: the ramp of back projection."""
    still, noisy = (spine_phantom(2, 128, noise_hu=n) for n in (0, 30))
    np.testing.assert_array_equal(still.mask, noisy.mask)
    quiet, loud = still.scan.pixels[0], noisy.scan.pixels[0]
    assert 15 < (loud - quiet.astype(float)).std() < 40
    power = np.abs(np.fft.fft2((loud - quiet.astype(float))[40:104, 40:104])) ** 2
    f = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    bands = [power[(f >= low) & (f < high)].mean() for low, high in ((0, 0.05), (0.15, 0.3))]
    assert bands[1] > 5 * bands[0]


def test_stack_passes_through_vertebrae_and_discs():
    phantom = spine_phantom(11, 96, slices=14, slice_spacing_mm=3)
    assert phantom.scan.pixels.shape == (14, 96, 96)
    assert phantom.scan.spacing[0] == 3
    body = (phantom.mask == LABELS["vertebral_body"]).sum(axis=(1, 2))
    canal = (phantom.mask == LABELS["canal"]).sum(axis=(1, 2))
    assert 1 <= (body == 0).sum() <= 6  # discs
    assert (canal > 0).all()
    # Neighbors in the stack look alike: the anatomy is one body.
    soft = phantom.scan.pixels > -300
    overlap = [(a & b).sum() / (a | b).sum() for a, b in zip(soft[1:], soft[:-1], strict=True)]
    assert min(overlap) > 0.9


@pytest.mark.parametrize(("size", "spacing"), [(16, None), ((40, 64), None), ((64, 40), 0.4)])
def test_sizes(size, spacing):
    """Also a field of view that is smaller than the body."""
    phantom = spine_phantom(0, size, spacing_mm=spacing)
    assert phantom.scan.pixels.shape[1:] == ((size, size) if isinstance(size, int) else size)
    assert spacing in (None, phantom.scan.spacing[1])


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 8},
        {"size": (64, 5000)},
        {"slices": 0},
        {"spacing_mm": 0},
        {"slice_spacing_mm": -1},
        {"noise_hu": -1},
        {"noise_hu": float("nan")},
        {"seed": -1},
    ],
)
def test_bad_arguments(arguments):
    name = next(iter(arguments))
    with pytest.raises(ArgumentError, match=name):
        spine_phantom(**{"seed": 0, "size": 32, **arguments})


# -- protocols ---------------------------------------------------------------------------------


def test_protocols_differ_in_gray_scale(phantoms):
    images = {name: apply_protocol(phantoms[0], name) for name in PROTOCOLS}
    assert len(images) >= 6
    for image in images.values():
        assert image.shape == (1, 192, 192, 1)
        assert image.dtype == np.float32
        assert 0 <= image.min() < image.max() <= 1
    body = phantoms[0].mask[0] == LABELS["soft_tissue"]
    histograms = {n: np.histogram(i[0, ..., 0][body], 32, (0, 1))[0] for n, i in images.items()}
    names = list(histograms)
    for i, a in enumerate(names):
        for b in names[:i]:
            difference = np.abs(histograms[a] - histograms[b]).sum() / body.sum()
            assert difference > 0.15, (a, b)


def test_each_setting_does_what_it_says(phantoms):
    scan = phantoms[2].scan
    window = Window(100, 800)

    def image(**settings):
        return apply_protocol(scan, Protocol(window, **settings))

    plain = image()
    np.testing.assert_allclose(plain, scan_to_unit(scan, window), atol=1e-6)
    np.testing.assert_allclose(image(inverted=True), 1 - plain, atol=1e-6)
    np.testing.assert_allclose(image(gamma=2), plain**2, atol=1e-6)
    bright = image(contrast=1.5)
    dense = scan.pixels[..., None] > 150
    assert (bright[dense & (plain < 1)] > plain[dense & (plain < 1)]).all()
    np.testing.assert_array_equal(bright[scan.pixels <= 0], plain[scan.pixels <= 0])

    def roughness(unit):
        return np.abs(np.diff(unit, axis=1)).mean()

    assert roughness(image(sharpness=-2)) < roughness(plain) < roughness(image(sharpness=1))
    noisy = image(noise_hu=40)
    inner = (plain > 0.2) & (plain < 0.8)
    assert 0.03 < (noisy - plain)[inner].std() < 0.07  # 40 of 800 HU


def test_protocol_noise_is_reproducible(phantoms):
    first = apply_protocol(phantoms[0], "low-dose", seed=1)
    np.testing.assert_array_equal(first, apply_protocol(phantoms[0].scan, "low_dose", seed=1))
    assert (first != apply_protocol(phantoms[0], "low_dose", seed=2)).any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 17), (1, 40, 2)])
def test_protocols_take_any_size(shape):
    scan = Scan(np.full(shape, 50, np.int16))
    image = apply_protocol(scan, Protocol(Window(40, 400), sharpness=-1))
    assert image.shape == (*shape, 1)
    np.testing.assert_allclose(image, 0.525, atol=1e-5)  # a constant image stays constant


def test_bad_protocols(phantoms):
    with pytest.raises(ArgumentError, match=r"Unknown protocol 'x-ray'.*bone_sharp"):
        apply_protocol(phantoms[0], "x-ray")
    with pytest.raises(ArgumentError, match="needs HU"):
        apply_protocol(Scan(np.zeros((1, 4, 4), np.uint8), units="gray"), "standard")
    with pytest.raises(ArgumentError, match="seed"):
        apply_protocol(phantoms[0], "standard", seed=-1)
    with pytest.raises(ArgumentError, match="gamma must lie"):
        Protocol(Window(0, 1), gamma=0)
