"""The demo from end to end, with a small untrained model in place of the preset."""

import json
import re

import pydicom
import pytest

from studies import demo
from tests.models import small_model
from tfstyle.data import read_scan

pytestmark = pytest.mark.slow
CHEST = ("thorax", "CT_small.dcm", "a thoracic vertebra")
PAIRS = tuple((demo.Sample(*CHEST, "bone"), demo.Sample(*CHEST, w)) for w in ("wide", "bone"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "demo"
    output.mkdir()
    (output / demo.MARKER).write_text("an earlier demo")
    options = {"model": small_model("relu1_1"), "preset": "small", "pairs": PAIRS}
    demo.run_demo(output, **options, segmented=PAIRS[0][:1])
    return output


def test_page_is_complete_and_self_contained(finished):
    html = (finished / "index.html").read_text(encoding="utf-8")
    assert html.count("<figure>") == 8 + 4
    for word in ("As it is", "Harmonized", "Own HU"):
        assert html.count(f"<b>{word}</b>") == 1
    assert html.count("<b>Right answer</b>") == html.count("<svg ") == 2
    assert "window wide, \N{MINUS SIGN}1000 to 1400 HU" in html
    assert "Not for diagnosis" in html
    assert f"tfstyle stylize {finished}/input/CT_small.dcm --style" in html
    sources = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in html


def test_served_equals_in_process(finished):
    served = json.loads((finished / demo.MARKER).read_text())["served"]
    assert served["largest_difference"] <= 1e-5
    assert len(served["calls"]) == 2
    assert served["other_pixels_of_the_mask"] == 0
    assert "AVAILABLE" in served["status"].values()


def test_files(finished):
    facts = json.loads((finished / demo.MARKER).read_text())
    for pair in facts["pairs"]:
        dataset = pydicom.dcmread(finished / pair["files"][0])
        assert dataset.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert dataset.Rows == dataset.Columns == 128
    # In one and the same window nothing was to be done.
    wide, same = facts["pairs"]
    assert same["tone_error_of_the_content"] == 0 < wide["tone_error_of_the_content"]
    grid = read_scan(finished / "png" / "grid.png")
    assert grid.pixels.shape == (1, 2 * 392 - 8, 4 * 392 - 8)
    for name in ("stylize", "unet"):
        assert (finished / "saved_models" / name / "1" / "saved_model.pb").is_file()
    assert [path.name for path in finished.parent.iterdir()] == ["demo"]
