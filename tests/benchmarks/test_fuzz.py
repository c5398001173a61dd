"""The fuzzing sees what goes wrong; and what the committed report says."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BAD = ("unexpected", "outside", "crashes", "hangs")
READ = """
@atheris.instrument_func
def read(folder, out):
    calls = pathlib.Path({counter!r})
    number = len(calls.read_bytes())
    calls.write_bytes(bytes(number + 1))
    if number == 3:
        raise KeyError("x")
    if number == 5:
        os.abort()
    if number == 7:
        while True:
            pass
    if number == 9:
        (out / ".." / "x").write_text("x")
    if number == 11:
        memory = bytearray(2 * fuzz.MEMORY)
    if number % 2:
        raise TfstyleError("refused")
"""


def load(monkeypatch, name: str):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_what_goes_wrong_is_counted(tmp_path):
    pytest.importorskip("atheris")
    script, counter = tmp_path / "broken.py", tmp_path / "calls"
    counter.write_bytes(b"")
    script.write_text(
        f"""
import atheris, os, pathlib, sys, types
sys.path.insert(0, {str(BENCHMARKS)!r})
import fuzz
from tfstyle.errors import TfstyleError
{READ.format(counter=str(counter))}
fuzz.SECONDS = 2
reader = types.SimpleNamespace(
    seeds=lambda: [{{"case": b"abc"}}], read=read, libraries=(), prepare=lambda: None
)
words = ["--runs", "20", "--output", {str(tmp_path / "r.json")!r}, "--keep", {str(tmp_path)!r}]
sys.exit(fuzz.main(words, {{"broken": reader}}))
"""
    )
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1, done.stderr
    row = json.loads((tmp_path / "r.json").read_text())["readers"]["broken"]
    assert {key: row[key] for key in BAD} == {
        "unexpected": 2, "outside": 1, "crashes": 1, "hangs": 1,
    }  # fmt: skip
    assert row["read"] + row["refused"] == row["cases"] - 5
    assert row["cases"] == len(counter.read_bytes())
    log = (tmp_path / "broken" / "log").read_text()
    assert "KeyError: 'x'" in log
    assert "MemoryError" in log


def test_mutations_keep_what_is_packed_sound(monkeypatch):
    """Archives can be opened, checksums fit, attributes have their lengths."""
    atheris = pytest.importorskip("atheris")
    fuzz, readers = load(monkeypatch, "fuzz"), load(monkeypatch, "fuzz_readers")
    monkeypatch.setattr(atheris, "Mutate", lambda data, size: data[::-1])
    rng = random.Random(0)
    (png, *_) = [files["case.png"] for files in readers.png_seeds()]
    made = {fuzz.in_png(png, rng) for _ in range(20)}
    assert len(made) > 3
    for data in made:
        assert data.endswith(b"IEND\xaeB`\x82") or b"IDAT" in data
    data = fuzz.pack({"a": b"abc", "b": b"1"})
    for number in range(20):
        files = fuzz.unpack(fuzz.mutate_case(data, 10_000, number))
        assert files.keys() == {"a", "b"}
    assert {*map(len, (fuzz.unpack(fuzz.in_zip(data, rng)) for _ in range(60)))} == {1, 2}
    packed = fuzz.in_gzip(gzip.compress(b"abc"), rng)
    assert gzip.decompress(packed).startswith((b"cba", b"abc"))


def test_committed_report(monkeypatch):
    fuzz = load(monkeypatch, "fuzz")
    report = json.loads((BENCHMARKS / "fuzz.json").read_text())
    page = (BENCHMARKS.parent / "docs" / "limits.md").read_text()
    assert f"<!-- fuzz -->\n{fuzz.table(report)}\n<!-- /fuzz -->" in page
    rows = report["readers"].values()
    assert report["total"]["cases"] == sum(row["cases"] for row in rows) >= 10_000
    assert {key: report["total"][key] for key in BAD} == dict.fromkeys(BAD, 0)
    for row in rows:
        assert row["read"] + row["refused"] == row["cases"]
        assert min(row["read"], row["refused"]) > 0
        assert row["memory_mb"] < report["memory_limit_mb"]
