"""The demo from end to end, with a small untrained model in place of the preset."""

from __future__ import annotations

import json
import re
import shutil

import keras
import numpy as np
import pydicom
import pytest

import tfstyle
from tfstyle.data import read_scan
from tfstyle.errors import InputFileError, OutputError
from tfstyle.experiments import demo

CONTENT = demo.Sample("thorax", "CT_small.dcm", "bone", "a thoracic vertebra")
PAIRS = tuple(
    (CONTENT, demo.Sample(window, "CT_small.dcm", window, f"the same in the window {window}"))
    for window in ("wide", "bone")
)


@pytest.fixture(scope="module")
def small_model():
    keras.utils.set_random_seed(1)
    encoder = tfstyle.encoders.VGG16(weights=None, depth="relu1_2")
    return tfstyle.StyleTransfer(encoder, layer="relu1_2")


@pytest.fixture(scope="module")
def finished(small_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "demo"
    steps = []
    index = demo.run_demo(
        output,
        model=small_model,
        preset="small",
        pairs=PAIRS,
        progress=steps.append,
    )
    return output, index, steps


def test_page_is_complete_and_self_contained(finished):
    output, index, steps = finished
    assert index == output / "index.html"
    html = index.read_text(encoding="utf-8")
    assert html.count("<figure>") == 8
    assert html.count("<b>Right answer</b>") == 2
    assert "window wide, \N{MINUS SIGN}1000 to 1400 HU" in html
    assert "Not for diagnosis" in html
    assert "tfstyle stylize" in html
    sources = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in html
    assert len(steps) >= 4


def test_served_equals_in_process(finished):
    output, _, _ = finished
    served = json.loads((output / "demo.json").read_text())["served"]
    assert served["largest_difference"] <= 1e-5
    assert len(served["calls"]) == 2
    assert "AVAILABLE" in served["status"].values()


def test_files(finished):
    output, _, _ = finished
    facts = json.loads((output / "demo.json").read_text())
    for pair in facts["pairs"]:
        dataset = pydicom.dcmread(output / pair["files"][0])
        assert dataset.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert dataset.Rows == dataset.Columns == 128
        assert pair["round_trip"] < 1e-4
    # In one and the same window nothing was to be done.
    wide, same = facts["pairs"]
    assert same["tone_error_of_the_content"] == 0 < wide["tone_error_of_the_content"]
    grid = read_scan(output / "png" / "grid.png")
    assert grid.pixels.shape == (1, 2 * 392 - 8, 4 * 392 - 8)
    assert (output / "saved_models" / "stylize" / "1" / "saved_model.pb").is_file()
    assert not list(output.parent.glob(".demo*"))


def test_earlier_demo_is_replaced_and_nothing_else(finished, small_model, tmp_path):
    output, _, _ = finished
    copy = tmp_path / "demo"
    shutil.copytree(output, copy)
    (copy / "index.html").write_text("old")
    demo._check_output(copy)
    work = tmp_path / "work"
    shutil.copytree(output, work)
    demo._replace(work, copy)
    assert (copy / "index.html").read_text() != "old"
    assert not work.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="no earlier demo"):
        demo.run_demo(mine, model=small_model)
    assert (mine / "letter.txt").read_text() == "dear"


def test_failure_leaves_nothing_behind(tmp_path):
    class Broken:
        def stylize(self, *args, **kwargs):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        demo.run_demo(tmp_path / "demo", model=Broken(), pairs=PAIRS)
    assert list(tmp_path.iterdir()) == []


def test_real_samples_are_readable_ct():
    samples = {s.file: s for pair in demo.PAIRS for s in pair}
    assert all(content.file != style.file for content, style in demo.PAIRS)
    assert len(samples) >= 3
    for sample in samples.values():
        scan = read_scan(demo.sample_file(sample.file))
        assert scan.units == "HU"
        assert np.ptp(scan.pixels) > 1000


def test_slices_are_shown_upright():
    for name, stored_upside_down in (("explicit_VR-UN.dcm", True), ("CT_small.dcm", False)):
        scan = read_scan(demo.sample_file(name))
        rows = np.arange(5)[demo._upright(scan)[0]]
        assert (rows[0] == 4) == stored_upside_down


def test_missing_sample_says_what_to_install():
    with pytest.raises(InputFileError, match="pydicom-data"):
        demo.sample_file("no_such_file.dcm")


def test_server_that_does_not_start(tmp_path):
    from tfstyle.errors import ServingError

    with (
        pytest.raises(ServingError, match=r"did not start: .*no_models"),
        demo.served_models(tmp_path / "no_models"),
    ):
        pass
