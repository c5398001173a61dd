import json
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "dciodvfy.py"))


def test_committed_figures():
    totals = json.loads((ROOT / "benchmarks" / "dciodvfy.json").read_text())["totals"]
    assert totals["new keep"] == totals["new basic"] == 0
    page = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    assert f"on {totals['files']} files it finds no error" in page


def test_new_errors():
    source = ["Error - a", "Error - same UID <1.2.840.113619.2.1>"]
    derived = ["Error - same UID <2.25.1234567890>", "Error - a", "Error - a", "Error - b"]
    assert SCRIPT["new_errors"](source, derived) == ["Error - a", "Error - b"]
    assert SCRIPT["new_errors"](source, []) == []
