"""The extractor study in its smallest form: rows, marks, ranking, page, and resuming."""

import json

import pytest

from studies import extractors as module
from tfstyle.data import spine_phantom
from tfstyle.errors import ArgumentError


@pytest.fixture
def extractors(monkeypatch, tmp_path):
    scan = spine_phantom(0, size=64).scan
    pair = scan.pixels[0] / 4096.0 + 0.25, scan.pixels[0].T / 2048.0 + 0.5
    scans = [scan, spine_phantom(2, size=256).scan]
    monkeypatch.setattr(module.release, "training_scans", lambda data: scans)
    monkeypatch.setattr(module, "read_scans", lambda path: [spine_phantom(1, size=64).scan])
    monkeypatch.setattr(module, "readme_pairs", lambda: [pair])
    monkeypatch.setattr(module, "slice_pairs", lambda scan, count: [(0, *pair)] * count)
    monkeypatch.chdir(tmp_path)
    return module


def words(*more):
    options = "--data . --set crop=16 batch_size=1 epochs=1 steps=1 size=48 pairs=2 xla=false"
    options += " --only vgg16 --weights vgg16=none --losses mse --output study.json --pages pages"
    return [*options.split(), *more]


@pytest.mark.slow
def test_rows_page_and_going_on(extractors, tmp_path, monkeypatch):
    extractors.main(words())
    result = json.loads((tmp_path / "study.json").read_text())
    assert [row["content_loss"] for row in result["rows"]] == ["mse"]
    assert result["ranking"] == []
    assert result["command"].startswith("python -m studies.extractors --data DATA --set crop=16")
    for row in result["rows"]:
        assert row["weights"] == "random weights"
        assert row["structure"]["count"] == 2
        assert set(row["style_layers"]) > {"image"}
        assert row["losses"]["loss"] > 0
    page = (tmp_path / "pages" / "study.md").read_text()
    assert "| – | `vgg16` | mse | random weights |" in page
    assert (tmp_path / "pages" / "study_mse.png").stat().st_size > 1000
    assert "(study_mse.png)" in page

    def fail(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(extractors, "fit_resumable", fail)
    extractors.main(words())
    again = json.loads((tmp_path / "study.json").read_text())
    assert again["rows"] == result["rows"]
    with pytest.raises(ArgumentError, match="rows of other settings"):
        extractors.main([*words(), "--set", "crop=32"])
