"""The page on choosing layers shows the committed figures."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

from tfstyle.encoders import ENCODERS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
RESULTS = json.loads((ROOT / "benchmarks" / "features.json").read_text())["results"]


def test_table_is_the_json():
    spec = importlib.util.spec_from_file_location("b", ROOT / "benchmarks" / "features.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    assert benchmark.table(RESULTS) in PAGE


def test_every_encoder_has_a_row_and_only_random_ones_say_so():
    names = {family.__name__ for family in ENCODERS.values()}
    assert {result["encoder"] for result in RESULTS} == names
    for result in RESULTS:
        assert (result["seed"] is None) == (result["weights"] != "random")


def test_figures_in_the_text():
    (trained,) = (r for r in RESULTS if r["weights"] != "random" and r["encoder"] == "VGG16")
    figures = {row["name"]: f"{row['gradient_r2']:.2f}" for row in trained["taps"]}
    expected = [figures[name] for name in ("relu1_2", "relu2_1", "relu3_1", "relu4_1")]
    (found,) = re.findall(
        r"read back to\s+([\d.]+),\s+([\d.]+),\s+([\d.]+)\s+and\s+([\d.]+)\.", PAGE
    )
    assert list(found) == expected


def test_pictures_exist_and_are_small():
    files = re.findall(r"\]\((features/\w+\.png)\)", PAGE)
    assert len(files) == len(set(files)) >= 3
    assert sum((ROOT / "docs" / file).stat().st_size for file in files) < 2e6
