"""Results do not depend on the number of devices that share a batch.

Each case has a process of its own, since TensorFlow fixes its devices when it starts, and numbers
what they tell each other once a process.
"""

import json
from pathlib import Path

import pytest

from tests.process import python


def results(case: str) -> dict:
    return json.loads(python(Path(__file__).with_name("replicas.py"), case))


# A batch of five is 3 + 2; the first three pairs are marked "paired", so the shares of the
# replicas differ in that too.
def test_style_transfer():
    found = results("style_transfer")
    assert max(found["errors"]) <= 1e-5
    assert found["alone"]["paired_loss"] > 0
    assert found["together"] == pytest.approx(found["alone"], rel=1e-5, abs=1e-7)


def test_tone_transfer():
    found = results("tone_transfer")
    assert found["two"]["replicas"] == 2
    assert found["two"]["errors"] == pytest.approx(found["one"]["errors"], rel=1e-4)
    assert found["cosine"] > 0.9999
    assert found["length"] == pytest.approx(1, abs=1e-3)


def test_style_augmentation():
    found = results("style_augmentation")
    # 10 images in batches of 4: two of 2 + 2, and one of 1 + 1; p = 0.5, two epochs.
    assert found["model"] == {"seen": 20, "stylized": 10, "gated": 0}
    assert found["draws differ"]
    assert found["counts are loaded"]
    assert found["loaded equal"] < 1e-6
    assert found["pipeline"]["seen"] >= 20
    assert found["pipeline"]["stylized"] * 2 == found["pipeline"]["seen"]
