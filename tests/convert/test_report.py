from __future__ import annotations

import logging

import numpy as np
import pytest

from tfstyle.convert.report import Difference, goal_reached, measure_difference
from tfstyle.errors import ConversionError

IMAGES = [
    {"content": np.random.default_rng(seed).random((1, 6, 8, 1), dtype=np.float32)}
    for seed in (0, 1)
]


def keep(inputs):
    return {"generated": inputs["content"]}


def test_equal_models():
    found = measure_difference(keep, keep, IMAGES)
    assert found == Difference(2, 0.0, 0.0, None, None)
    assert goal_reached("int8", found)


def test_difference_is_in_gray_levels():
    def off(inputs):
        # 0.01 everywhere in the first pair, 0.1 in the second
        by = 0.01 if inputs is IMAGES[0] else 0.1
        return {"generated": inputs["content"] - np.float32(by)}

    found = measure_difference(keep, off, IMAGES)
    assert found.max_difference == pytest.approx(0.1, rel=1e-5)
    assert found.mean_difference == pytest.approx(0.055, rel=1e-5)
    assert found.psnr_db == pytest.approx(-10 * np.log10((1e-4 + 1e-2) / 2), abs=0.01)
    assert found.lowest_psnr_db == pytest.approx(20, abs=0.01)


def test_codes_are_measured_by_their_span():
    code = np.float32([[[0.0, 50.0], [10.0, 20.0]]])

    def exact(inputs):
        return {"code": code}

    def off(inputs):
        return {"code": code + np.float32(0.5)}

    found = measure_difference(exact, off, IMAGES[:1])
    assert found.max_difference == pytest.approx(0.5)
    assert found.psnr_db == pytest.approx(40, abs=0.01)


def test_masks_are_counted():
    mask = np.int32([[[[0], [1], [2], [2]]]])

    def exact(inputs):
        return {"mask": mask, "probabilities": inputs["content"]}

    def off(inputs):
        return {"mask": np.minimum(mask, 1), "probabilities": inputs["content"]}

    found = measure_difference(exact, off, IMAGES)
    assert found.equal_share == 0.5
    assert found.max_difference == 0
    assert measure_difference(keep, keep, IMAGES).equal_share is None


@pytest.mark.parametrize(
    ("converted", "message"),
    [
        (lambda inputs: {"generated": inputs["content"] * np.nan}, "NaN"),
        (lambda inputs: {"generated": inputs["content"][:, :2]}, "shape"),
        (lambda inputs: {}, "shape None"),
        (lambda inputs: 1 / 0, "does not run: division by zero"),
    ],
)
def test_models_that_are_wrong(converted, message):
    with pytest.raises(ConversionError, match=message):
        measure_difference(keep, converted, IMAGES)


def difference(**values):
    return Difference(
        **{
            "pairs": 1,
            "max_difference": 0.0,
            "mean_difference": 0.0,
            "psnr_db": None,
            "lowest_psnr_db": None,
            **values,
        }
    )


@pytest.mark.parametrize(
    ("precision", "values", "reached"),
    [
        ("float32", {"psnr_db": 80.0}, True),
        ("float32", {"psnr_db": 79.9}, False),
        ("float16", {"psnr_db": 45.0}, True),
        ("float16", {"psnr_db": 44.9}, False),
        ("int8", {"psnr_db": 30.0}, True),
        ("int8", {"psnr_db": 29.9}, False),
    ],
)
def test_goals(precision, values, reached, caplog):
    with caplog.at_level(logging.WARNING):
        assert goal_reached(precision, difference(**values)) is reached
    assert ("misses" in caplog.text) is not reached


def test_a_float32_conversion_that_is_another_model_is_refused():
    with pytest.raises(ConversionError, match="nothing was written"):
        goal_reached("float32", difference(max_difference=0.02))
