"""The style transfer study with small random networks: table, resuming, picture."""

from __future__ import annotations

import json

import numpy as np
import pytest

from studies import style_transfer
from studies.style_transfer import StyleTransferSettings, run_study
from tests.models import small_model
from tfstyle.errors import ArgumentError

pytestmark = pytest.mark.slow
TINY = StyleTransferSettings(
    protocols=("dark", "inverted"), contents=2, size=64, contextual_steps=1, contextual_crop=32
)
METHODS = ["content", "histogram_matching", "contextual_transformation", "ours", "answer"]


class Brightness:
    """In place of Inception-V3, which takes long to build: dark or bright."""

    def predict(self, images, verbose=0):
        bright = np.asarray(images).mean(axis=(1, 2, 3)).clip(0, 1)
        return np.stack([1 - bright, bright], axis=1)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    small_model("relu1_1").save_to_preset(folder / "preset")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style_transfer, "train_classifier", lambda *_: (Brightness(), 0.75))
        file = folder / "style_transfer.json"
        options = {"settings": TINY, "preset": folder / "preset", "encoder": None}
        options["lpips_weights"] = None
        run_study(file, methods=METHODS[:-1], **options)
        first = json.loads(file.read_text())
        result = run_study(file, methods=METHODS, **options)
    return first, result, file


def test_rows(study):
    first, result, file = study
    assert [row["method"] for row in result["rows"]] == METHODS
    assert result["rows"][:-1] == first["rows"]  # not run again
    assert json.loads(file.read_text()) == result
    rows = {row["method"]: row for row in result["rows"]}
    assert rows["answer"]["lpips_to_answer"] == 0
    assert rows["content"]["lpips_to_answer"] > 0
    assert rows["content"]["structure"] == pytest.approx(1, abs=1e-3)
    # One image, any style.
    assert rows["content"]["cis"] == rows["content"]["lpips_between_styles"] == 0
    assert rows["answer"]["lpips_between_styles"] > 0
    assert len(list(file.with_name("style_transfer_pictures").glob("*.png"))) == len(METHODS)


def test_what_cannot_be_run(study, tmp_path):
    with pytest.raises(ArgumentError, match="mse"):
        run_study(tmp_path / "a.json", methods=["adain_mse"])
    with pytest.raises(ArgumentError, match="other settings"):
        run_study(study[2])
