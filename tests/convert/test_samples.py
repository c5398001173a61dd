from __future__ import annotations

import numpy as np

from tfstyle.convert import samples
from tfstyle.data import Scan


def scan(slices: int, rows: int = 20, units: str = "HU", seed: int = 0) -> Scan:
    pixels = np.random.default_rng(seed).integers(-200, 400, (slices, rows, 24))
    return Scan(pixels.astype(np.int16), units=units)


def test_pairs_spread_over_all_slices():
    pairs = samples.image_pairs([scan(6), scan(4, rows=30, seed=1)], 5)
    assert [content.shape for content, _ in pairs] == [(1, 20, 24, 1)] * 3 + [(1, 30, 24, 1)] * 2
    # The style is another slice, in another window.
    assert [style.shape[1] for _, style in pairs] == [30, 30, 20, 20, 20]
    for pair in pairs:
        for one in pair:
            assert one.dtype == np.float32
            assert one.min() >= 0
            assert one.max() <= 1
    assert len({content.tobytes() for content, _ in pairs}) == 5
