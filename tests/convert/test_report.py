from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from tfstyle.convert import report as reports
from tfstyle.convert.report import Difference, measure_difference, measure_latency
from tfstyle.errors import ConversionError

IMAGES = [
    {"content": np.random.default_rng(seed).random((1, 6, 8, 1), dtype=np.float32)}
    for seed in (0, 1)
]


def keep(inputs):
    return {"generated": inputs["content"]}


def test_equal_models():
    found = measure_difference(keep, keep, IMAGES)
    assert found == Difference(2, [[6, 8]], 0.0, 0.0, None, None)
    assert reports.goals_reached("int8", found) == {"psnr_db >= 30": True}


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
            "sizes": [],
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
        ("float32", {"max_difference": 1e-4}, True),
        ("float32", {"max_difference": 1.1e-4}, False),
        ("float16", {"psnr_db": 45.0}, True),
        ("float16", {"psnr_db": 44.9}, False),
        ("int8", {"psnr_db": 30.0}, True),
        ("int8", {"psnr_db": 29.9}, False),
    ],
)
def test_goals(precision, values, reached, caplog):
    with caplog.at_level(logging.WARNING):
        found = reports.checked(precision, difference(**values))
    assert list(found.values()) == [reached]
    assert ("misses" in caplog.text) is not reached


def test_a_float32_conversion_that_is_another_model_is_refused():
    with pytest.raises(ConversionError, match="nothing was written"):
        reports.checked("float32", difference(max_difference=0.02))


def test_models_are_timed_in_turn():
    calls = []

    def first(inputs):
        calls.append("saved_model")

    def second(inputs):
        calls.append("converted")

    found = measure_latency(first, second, IMAGES, rounds=3)
    assert calls == ["saved_model", "converted"] * (4 * 2)
    assert found.calls == 6
    assert found.ratio > 0
    assert found.threads >= 1


def test_threads_are_tensorflows(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 0)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    assert reports.threads() == 3
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "0")
    assert reports.threads() >= 1
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 5)
    assert reports.threads() == 5


def test_digest(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"123")
    size, first = reports.digest(tmp_path / "a")
    assert size == 3
    assert reports.digest(tmp_path / "a" / "one")[1] == (
        "a665a45920422f9d417e4867efdc4fb8a04a1f3fff1fa07e998e86f7f7a27ae3"
    )
    (tmp_path / "a" / "one").rename(tmp_path / "a" / "two")
    assert reports.digest(tmp_path / "a")[1] != first


def test_versions_are_plain():
    found = reports.versions()
    assert found["tensorflow"]
    json.dumps(found)
