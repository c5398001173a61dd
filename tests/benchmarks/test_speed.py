"""The tables of speed are those of the committed figures."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_tables(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    speed = importlib.import_module("speed")
    result = json.loads((BENCHMARKS / "speed.json").read_text())
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert speed.filled(page, result) == page
    assert "tone transfer, stored style" in page
    assert speed.filled(page, {**result, "threads": 77}) != page
