import numpy as np
import pytest

from tfstyle.data import Scan, Window, pair_dataset, spine_phantom
from tfstyle.errors import ArgumentError


@pytest.fixture(scope="module")
def scans():
    return [spine_phantom(seed, 96).scan for seed in range(3)]


def take(data, count=1):
    return list(data.take(count).as_numpy_iterator())


def flat(value, shape=(1, 40, 40)):
    return np.full(shape, value, np.float32)


def textured(low, high, shape=(1, 40, 40), seed=0):
    """Noise in a range of its own, so that a crop says where it came from."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def test_deterministic_from_the_seed(scans):
    def batches(seed, **options):
        options |= {"windows": ("bone", "lung"), "crop": 24, "batch_size": 2, "flips": True}
        options |= {"window_jitter": 0.2, "rescale": (0.7, 1.4)}
        data = pair_dataset(scans, seed=seed, **options)
        return [np.stack([b["content"], b["style"]]) for b in take(data, 4)]

    first = batches(1)
    np.testing.assert_array_equal(first, batches(1))
    assert (np.array(first) != np.array(batches(2))).mean() > 0.5
    # A run that resumes at step 2 sees what it would have seen.
    np.testing.assert_array_equal(first[2:], batches(1, start=2)[:2])


def test_shards_make_up_the_batch_of_one_machine(scans):
    options = {"crop": 16, "batch_size": 6, "seed": 3, "start": 2, "same_place": 0.5}
    options |= {"windows": ("bone", "soft_tissue")}
    whole = take(pair_dataset(scans, **options), 2)
    shards = [take(pair_dataset(scans, shard=(i, 3), **options), 2) for i in range(3)]
    assert whole[0]["content"].shape == (6, 16, 16, 1)
    for batch, *parts in zip(whole, *shards, strict=True):
        for name, expected in batch.items():
            assert all(len(part[name]) == 2 for part in parts)
            found = np.stack([part[name] for part in parts], axis=1)  # pair i is shard i % 3's
            np.testing.assert_array_equal(found.reshape(expected.shape), expected)


def test_pairs_are_random_across_scans():
    sources = [textured(0.0, 0.3), textured(0.35, 0.6), textured(0.7, 1.0)]
    batch = take(pair_dataset(sources, crop=8, batch_size=200))[0]
    which = {
        name: np.digitize(images.mean(axis=(1, 2, 3)), [0.32, 0.65])
        for name, images in batch.items()
    }
    pairs = np.bincount(3 * which["content"] + which["style"], minlength=9)
    assert pairs.min() > 8  # independent of each other


def test_scans_are_drawn_by_slices_or_weights():
    sources = [textured(0.0, 0.4, (3, 40, 40)), textured(0.6, 1.0)]

    def share(**options):
        batch = take(pair_dataset(sources, crop=8, batch_size=400, **options))[0]
        return [float((batch[n].mean(axis=(1, 2, 3)) > 0.5).mean()) for n in ("content", "style")]

    assert share() == pytest.approx([0.25, 0.25], abs=0.08)
    assert share(weights=(1, 1)) == pytest.approx([0.5, 0.5], abs=0.08)
    assert share(weights=(0, 1)) == [1, 1]


def test_windows_are_drawn_for_content_and_style():
    ramp = np.arange(-200, 200, dtype=np.int16).reshape(1, 20, 20)
    scan = Scan(ramp)

    def ranges(**options):
        batch = take(pair_dataset([scan], crop=20, batch_size=60, min_body=0, **options))[0]
        return {n: {round(float(i.max()), 3) for i in images} for n, images in batch.items()}

    low, high = Window(0, 800), Window(0, 1600)
    tops = {low: round(199 / 800 + 0.5, 3), high: round(199 / 1600 + 0.5, 3)}
    both = ranges(windows=(low, high))
    assert both["content"] == both["style"] == set(tops.values())
    apart = ranges(windows="0,800", style_windows=(high,))
    assert (apart["content"], apart["style"]) == ({tops[low]}, {tops[high]})


def test_jitter_moves_the_window():
    scan = Scan(np.array([[[0, 100], [100, 0]]], np.int16))
    batch = take(
        pair_dataset([scan], windows=(Window(0, 1000),), crop=2, batch_size=300, window_jitter=0.2)
    )[0]["content"][..., 0]
    # Unclipped, 0 HU is at 0.5 - shift and 100 HU lies 100 / width above.
    width = 100 / (batch[:, 0, 1] - batch[:, 0, 0])
    assert 1000 * np.exp(-0.2) * 0.99 < width.min() < 900
    assert 1100 < width.max() < 1000 * np.exp(0.2) * 1.01
    center = (0.5 - batch[:, 0, 0]) * width
    assert -101 < center.min() < -60
    assert 60 < center.max() < 101


def test_crops_are_parts_of_the_slices_from_every_place():
    image = np.arange(12 * 13, dtype=np.float32).reshape(1, 12, 13) / 156
    places = set()
    for crop in take(pair_dataset([image], crop=10, batch_size=200))[0]["content"][..., 0]:
        top, left = divmod(int(np.rint(crop[0, 0] * 156)), 13)
        np.testing.assert_allclose(crop, image[0, top : top + 10, left : left + 10], atol=1e-6)
        places.add((top, left))
    assert len(places) == 3 * 4


def test_small_slices_are_reflected_up():
    image = np.random.default_rng(0).random((1, 17, 13)).astype(np.float32)
    batch = take(pair_dataset([image], crop=24, batch_size=3))[0]["content"]
    assert batch.shape == (3, 24, 24, 1)
    assert set(np.unique(batch)) == set(np.unique(image))


def test_zoom():
    """A wave keeps its height and changes its length."""
    wave = 0.5 + 0.4 * np.sin(2 * np.pi * np.arange(256) / 32)
    image = np.broadcast_to(wave, (1, 256, 256)).astype(np.float32)

    def crossings(**options):
        batch = take(pair_dataset([image], crop=64, batch_size=60, **options))[0]["content"]
        above = batch[:, 0, :, 0] > 0.5
        assert 0.85 < batch.max() < 0.91
        return (above[:, 1:] != above[:, :-1]).sum(axis=1)

    assert set(crossings()) <= {3, 4, 5}
    varied = crossings(rescale=(0.5, 2))
    assert varied.min() <= 3
    assert varied.max() >= 7


def test_flips():
    # Rises to the right and, ten times faster, downward.
    image = (np.arange(40)[:, None] * 10 + np.arange(40))[None].astype(np.float32) / 430

    def directions(**options):
        c = take(pair_dataset([image], crop=8, batch_size=80, **options))[0]["content"][..., 0]
        return {(bool(a[0, 1] > a[0, 0]), bool(a[1, 0] > a[0, 0])) for a in c}

    assert directions() == {(True, True)}
    assert len(directions(flips=True)) == 4


def test_flat_crops_are_drawn_again():
    image = flat(0.0, (1, 100, 100))
    image[0, :30, :30] = np.random.default_rng(0).random((30, 30))  # 9 % of the slice
    lenient = take(pair_dataset([image], crop=16, batch_size=100, min_body=0))[0]["content"]
    strict = take(pair_dataset([image], crop=16, batch_size=100, min_body=0.5))[0]["content"]

    def bodies(batch):
        return float((batch.std(axis=(1, 2, 3)) > 0.1).mean())

    assert bodies(strict) > 2 * bodies(lenient)


def test_same_place(scans):
    options = {"windows": (Window(0, 3000),), "style_windows": (Window(0, 6000),), "crop": 24}
    options |= {"batch_size": 40, "flips": True, "rescale": (0.8, 1.25), "same_place": 1.0}
    batch = take(pair_dataset([scans[0]], **options))[0]
    # The same HU through two windows, neither of which clips here.
    np.testing.assert_allclose((batch["style"] - 0.5) * 2, batch["content"] - 0.5, atol=1e-5)
    apart = take(pair_dataset([scans[0]], crop=24, batch_size=40, same_place=0.5))[0]
    equal = (apart["content"] == apart["style"]).all(axis=(1, 2, 3))
    assert 8 < equal.sum() < 32


def test_arrays_of_many_kinds():
    n = np.arange(16)
    for array, shape, expected in (
        (4000 * n.astype(np.uint16), (1, 4, 4, 1), 4000 * n / 65535),
        (10 * n.astype(np.int16), (1, 4, 4), (10 * n + 160) / 400),
        (n / 15, (4, 4), n / 15),
    ):
        windows = {"windows": ("soft_tissue",)} if array.dtype == np.int16 else {}
        data = pair_dataset([array.reshape(shape)], crop=4, batch_size=1, **windows)
        np.testing.assert_allclose(take(data)[0]["content"].ravel(), expected, atol=1e-6)


def test_windows_that_do_not_suit_are_passed_over(scans, caplog):
    caplog.set_level("INFO")
    picture = Scan(np.arange(256, dtype=np.uint8).reshape(1, 16, 16), units="gray", name="photo")
    batch = take(pair_dataset([picture], windows=("bone", "auto"), crop=8, batch_size=2))[0]
    assert batch["content"].shape == (2, 8, 8, 1)
    assert "passed over" in caplog.text
    with pytest.raises(ArgumentError, match=r"'lung' is in Hounsfield units, but photo"):
        pair_dataset([*scans, picture], windows=("bone", "lung"))


def test_bad_arguments(scans):
    for options, message in (
        ({"crop": 8.5}, "crop: must be"),
        ({"start": -1}, "start: must be"),
        ({"batch_size": 3, "shard": (0, 2)}, "shard: must be"),
        ({"window_jitter": -1}, "window_jitter: must be"),
        ({"rescale": (2, 1)}, "rescale: must be"),
        ({"windows": ("nonsense",)}, "unknown window 'nonsense'"),
        ({"weights": (1, 2)}, "3 scans, but 2 weights"),
        ({"weights": (0, 0, 0)}, "weights must be at least 0 and not all 0"),
        ({"style_scans": []}, "style_scans: at least one scan"),
        ({"style_scans": [flat(1.5)]}, r"must lie in \[0, 1\]"),
    ):
        with pytest.raises(ArgumentError, match=message):
            pair_dataset(scans, **{"batch_size": 4, **options})
