"""The style transfer study with small random networks: table, resuming, page."""

import json

import numpy as np
import pytest

from studies import style_transfer
from studies.style_transfer import StyleTransferSettings, run_study, write_page
from tests.models import small_tone

pytestmark = pytest.mark.slow
TINY = StyleTransferSettings(
    protocols=("dark", "inverted"), contents=2, size=64, contextual_steps=1, contextual_crop=32
)
METHODS = ["content", "histogram_matching", "contextual_transformation", "tone_ct", "answer"]


class Brightness:
    """In place of Inception-V3, which takes long to build: dark or bright."""

    def predict(self, images, verbose=0):
        bright = np.asarray(images).mean(axis=(1, 2, 3)).clip(0, 1)
        return np.stack([1 - bright, bright], axis=1)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style_transfer, "train_classifier", lambda *_: (Brightness(), 0.75))
        patch.setattr(style_transfer.tfstyle, "from_preset", lambda name: small_tone())
        file = folder / "style_transfer.json"
        run_study(file, methods=METHODS[:-1], settings=TINY, weights=None)
        first = json.loads(file.read_text())
        result = run_study(file, methods=METHODS, settings=TINY, weights=None)
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
    assert {*rows["contextual_transformation"]["losses"]} == {*TINY.protocols}


def test_page(study, tmp_path):
    page = tmp_path / "results" / "transfer.md"
    write_page(study[1], study[2], page)
    text = page.read_text()
    row = study[1]["rows"][1]
    assert f"| histogram matching | {row['lpips_to_answer']:.3f} |" in text
    assert "75.0 % of new phantoms" in text
    assert page.with_suffix(".png").is_file()


def test_committed_page_is_the_json():
    file = style_transfer.common.FOLDER / "style_transfer.json"
    result = json.loads(file.read_text())
    page = style_transfer.common.ROOT / "docs" / "results" / "style_transfer.md"
    table = page.read_text(encoding="utf-8")
    for row in result["rows"]:
        figures = " | ".join(f"{row[name]:.3f}" for name in style_transfer.MEASURES)
        assert f"| {style_transfer.METHODS[row['method']]} | {figures} |" in table
