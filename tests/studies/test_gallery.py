"""The gallery: which pairs it shows, and what it writes."""

import re

import numpy as np
import pytest
from PIL import Image

from studies import common, gallery
from tfstyle.data import Window


class Darker:
    """A stand-in for the model."""

    def stylize(self, content, style):
        return content * 0.5

    def confidence(self, content, style):
        return np.array([0.25])


def pair(content="head", style="pancreas", same=False, style_window=(10, 800)):
    hu = np.linspace(-1000, 1000, 64 * 48, dtype=np.float32).reshape(64, 48)
    scale = gallery.GrayScale("soft_tissue", Window(40, 400))
    other = scale if same else gallery.GrayScale("10, 80 HU", Window(*style_window), gamma=0.5)
    inside = np.abs(hu) < 500
    return gallery.Pair(
        scale(hu), other(hu[:32]), other(hu), hu, inside, inside, content, style, scale, other
    )


def row(error, nothing=0.2, **options):
    return gallery.Row(pair(**options), np.zeros((64, 48), np.float32), error, nothing, 0.5)


def test_what_is_shown():
    rows = [row(0.01 * i, content=c) for i, c in enumerate(["head", "head", "pancreas"] * 10)]
    rows += [row(0.0, same=True), row(0.0, nothing=0.05), row(0.0, style_window=(2000, 10))]
    found = gallery.chosen(rows)
    errors = {part: [round(one.error, 2) for one in of] for part, of in found.items()}
    # The smallest of the two kinds of pairs; then there is no other kind left.
    assert errors["good"] == [0.0, 0.02]
    assert all(one.telling for one in found["good"])
    assert errors["median"] == []
    assert errors["worst"] == [0.29, 0.28, 0.27, 0.26, 0.25, 0.24, 0.23, 0.22, 0.21, 0.2]


@pytest.mark.slow
def test_command(tmp_path, monkeypatch):
    pytest.importorskip("data_store", reason="needs pydicom-data")
    monkeypatch.setattr(gallery.tfstyle, "from_preset", Darker)
    gallery.main(["--pairs", "3", "--docs", str(tmp_path)])
    page = (tmp_path / "results" / "gallery.md").read_text(encoding="utf-8")
    assert "Of all 15 pairs" in page
    assert "trained on these scans among others" in page
    assert "For 15 of them the command" in page
    worst = page.split("## The worst 10")[1]
    errors = [float(found) for found in re.findall(r"\| (0\.\d+) \| 0\.\d+ \| 0\.25 \|", worst)]
    assert len(errors) == 10
    assert errors == sorted(errors, reverse=True)
    for name in re.findall(r"\(gallery/(.+?\.png)\)", page):
        assert (tmp_path / "results" / "gallery" / name).is_file()
    gallery.main(["--readme", "--docs", str(tmp_path)])
    with Image.open(tmp_path / "tone_ct.png") as drawn:
        assert drawn.width == 1200


def test_committed_pictures_are_small():
    folder = common.ROOT / "docs" / "results"
    page = (folder / "gallery.md").read_text(encoding="utf-8")
    names = re.findall(r"\((gallery/.+?\.png)\)", page)
    assert {path.name for path in (folder / "gallery").iterdir()} == {n[8:] for n in names}
    assert max((folder / name).stat().st_size for name in names) < 300_000
