import numpy as np
import pytest

from tfstyle.convert.comparison import Difference, measure_difference
from tfstyle.errors import ConversionError

IMAGES = [
    {"content": np.random.default_rng(seed).random((1, 6, 8, 1), dtype=np.float32)}
    for seed in (0, 1)
]


def keep(inputs):
    return {"generated": inputs["content"]}


def test_difference_is_in_gray_levels():
    assert measure_difference(keep, keep, IMAGES) == Difference(2, 0.0, 0.0)

    def off(inputs):
        # 0.0001 everywhere in the first pair, 0.001 in the second
        by = 1e-4 if inputs is IMAGES[0] else 1e-3
        return {"generated": inputs["content"] - np.float32(by)}

    found = measure_difference(keep, off, IMAGES)
    assert found.max_difference == pytest.approx(1e-3, rel=1e-3)
    assert found.mean_difference == pytest.approx(5.5e-4, rel=1e-3)


def test_codes_are_measured_by_their_span():
    code = np.float32([[[0.0, 50.0], [10.0, 20.0]]])
    exact, off = ((lambda inputs, by=by: {"code": code + np.float32(by)}) for by in (0, 0.25))
    found = measure_difference(exact, off, IMAGES[:1])
    assert found.max_difference == pytest.approx(0.25)
    with pytest.raises(ConversionError, match="nothing was written"):
        measure_difference(exact, lambda inputs: {"code": code + np.float32(0.6)}, IMAGES[:1])


def test_masks_are_counted():
    mask = np.int32([[[[0], [1], [2], [2]]]])
    exact, off = (
        (lambda inputs, most=most: {"mask": np.minimum(mask, most), "p": inputs["content"]})
        for most in (2, 1)
    )
    found = measure_difference(exact, off, IMAGES)
    assert (found.equal_share, found.max_difference) == (0.5, 0)


def test_models_that_are_wrong():
    for converted, message in (
        (lambda inputs: {"generated": inputs["content"] * np.nan}, "NaN"),
        (lambda inputs: {"generated": inputs["content"][:, :2]}, "shape"),
        (lambda inputs: {"generated": inputs["content"] + np.float32(0.02)}, "nothing was written"),
        (lambda inputs: 1 / 0, "does not run: division by zero"),
    ):
        with pytest.raises(ConversionError, match=message):
            measure_difference(keep, converted, IMAGES)
