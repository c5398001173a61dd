"""The committed pages and tables are those of the committed JSON."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from studies import common, features, results_page
from tfstyle.encoders import ENCODERS
from tfstyle.errors import ArgumentError, OutputError

DOCS = common.ROOT / "docs"
FEATURES = json.loads((common.FOLDER / "features.json").read_text())["results"]
PAGE = (DOCS / "features.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def studies():
    files = {name: common.FOLDER / f"{name}.json" for name in results_page.COMMANDS}
    return {name: (json.loads(file.read_text()), file) for name, file in files.items()}


def test_tables_of_the_studies(studies):
    assert results_page.tables(studies) in (DOCS / "studies.md").read_text(encoding="utf-8")


def test_page_of_the_studies(studies):
    html = results_page.page(studies)
    committed = (DOCS / "results" / "index.html").read_text(encoding="utf-8")
    pictures = re.compile(r"data:image/png;base64,[^\"]+")  # other versions pack them otherwise
    assert pictures.sub("", html) == pictures.sub("", committed)
    assert len(pictures.findall(html)) >= len(studies["style_transfer"][0]["rows"])
    assert not re.search(r"href\s*=|url\(|@import|src=\"(?!data:)", html)


def test_page_of_one_study(studies, tmp_path):
    file = tmp_path / "segmentation.json"
    file.write_text(json.dumps(studies["segmentation"][0]))
    results_page.main(["--segmentation", str(file), "--page", str(tmp_path / "index.html")])
    html = (tmp_path / "index.html").read_text()
    assert "Segmentation on unseen gray scales" in html
    assert "Style transfer" not in html
    assert "<img" not in html  # no examples beside the file


def test_table_of_features():
    assert features.table(FEATURES) in PAGE
    assert {result["encoder"] for result in FEATURES} == {f.__name__ for f in ENCODERS.values()}
    for result in FEATURES:
        assert (result["seed"] is None) == (result["weights"] != "random")


def test_figures_in_the_text():
    (trained,) = (r for r in FEATURES if r["weights"] != "random" and r["encoder"] == "VGG16")
    figures = {row["name"]: f"{row['gradient_r2']:.2f}" for row in trained["taps"]}
    expected = [figures[name] for name in ("relu1_2", "relu2_1", "relu3_1", "relu4_1")]
    (found,) = re.findall(
        r"read back to\s+([\d.]+),\s+([\d.]+),\s+([\d.]+)\s+and\s+([\d.]+)\.", PAGE
    )
    assert list(found) == expected


def test_sheets_exist_and_are_small():
    files = re.findall(r"\]\((features/\w+\.png)\)", PAGE)
    assert len(files) == len(set(files)) >= 3
    assert sum((DOCS / file).stat().st_size for file in files) < 2e6


def test_grid_keeps_shape_and_place():
    wide, square = np.full((2, 4), 0.5), np.arange(4.0).reshape(2, 2) / 4
    canvas = common.grid([[wide, square]], side=8, gap=2)
    assert canvas.shape == (8, 18)
    np.testing.assert_array_equal(canvas[2:6, :8], 0.5)
    np.testing.assert_array_equal(canvas[:2, :8], 0)
    np.testing.assert_array_equal(canvas[:, 8:10], 1)
    np.testing.assert_allclose(canvas[:, 10:], np.kron(square, np.ones((4, 4))))


def test_file_of_other_settings(tmp_path):
    file, empty = tmp_path / "new" / "study.json", {"rows": []}
    fresh = common.read_study(file, {"steps": (1, 2)}, empty)
    assert fresh == {"settings": {"steps": [1, 2]}, "rows": []}
    common.write_study(file, fresh)
    assert common.read_study(file, {"steps": (1, 2)}, empty) == fresh
    with pytest.raises(ArgumentError, match=r"other settings \(steps\)"):
        common.read_study(file, {"steps": 3}, empty)
    for text in ("{", "[]", '{"settings": {}}'):
        file.write_text(text)
        with pytest.raises(OutputError, match="choose another name"):
            common.read_study(file, {}, empty)


def test_page_of_extractors():
    pytest.importorskip("scipy")
    from studies import extractors

    result = json.loads((common.FOLDER / "extractors_small.json").read_text())
    page = (DOCS / "results" / "extractors_small.md").read_text(encoding="utf-8")
    made = extractors.page(result, result["command"], "extractors_small")
    assert made.split() == page.split()
