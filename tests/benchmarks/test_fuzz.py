"""A short run of the fuzzing of all readers, and what the committed report says."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BAD = ("unexpected", "outside", "crashes", "hangs")


@pytest.mark.parametrize(
    ("readers", "cases"),
    [
        (("dicom",), 300),
        (("dicom-seg",), 200),
        (("nifti", "tables", "style banks"), 400),
    ],
)
def test_no_reader_falls(tmp_path, readers, cases):
    if "dicom-seg" in readers:
        pytest.importorskip("highdicom")
    output = tmp_path / "fuzz.json"
    command = [sys.executable, str(BENCHMARKS / "fuzz.py"), "--seed", "7", "--each", str(cases)]
    command += ["--output", str(output)]
    for reader in readers:
        command += ["--reader", reader]
    root = str(BENCHMARKS.parent)
    environment = {**os.environ, "PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert output.exists(), done.stderr
    report = json.loads(output.read_text())
    assert done.returncode == 0, json.dumps(report["failures"], indent=1)
    assert report["total"]["cases"] == cases * len(readers)
    for name, row in report["readers"].items():
        assert row["read"] + row["refused"] == cases, name
        assert row["read"], f"{name}: nothing was read, so that nothing was tried"
        assert row["refused"], name
        assert row["memory_mb"] < report["memory_limit_mb"], name


@pytest.fixture
def fuzz(monkeypatch):
    spec = importlib.util.spec_from_file_location("fuzz", BENCHMARKS / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fuzz", module)  # dataclasses look there
    spec.loader.exec_module(module)
    for name, value in module.LIMITS.items():
        monkeypatch.setenv(name, value)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("reader", "cases"),
    [
        ("png", 300),
        ("weights", 300),
        ("runs", 300),
        ("model folders", 150),
        ("models loaded", 40),
        ("presets", 20),
        ("keras archives", 20),
    ],
)
def test_no_reader_falls_that_takes_tensorflow(fuzz, tmp_path, monkeypatch, reader, cases):
    """In this process, which has TensorFlow already."""
    sandbox = fuzz.Sandbox(tmp_path)
    monkeypatch.chdir(tmp_path / "cwd")
    folder = sandbox.seeds / reader.replace(" ", "-")
    folder.mkdir()
    fuzz.READERS[reader].seeds(folder)
    outcomes = Counter()
    for number in range(cases):
        outcome, note = fuzz.run_case(reader, number, 7, sandbox)
        assert outcome in ("read", "refused"), f"case {number}: {note}"
        outcomes[outcome] += 1
    assert min(outcomes["read"], outcomes["refused"]) > 0, outcomes


def test_harness_sees_what_goes_wrong(tmp_path):
    """Readers that fail, fall, hang, and write elsewhere are counted as such."""
    script = tmp_path / "broken.py"
    script.write_text(
        f"""
import os, sys
sys.path.insert(0, {str(BENCHMARKS)!r})
import fuzz

def read(rng, folder, out):
    number = int((folder / "case").read_text())
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

count = -1
def make(rng, seeds, folder):
    number = int(rng.random() * 0) + fuzz.NUMBER
    (folder / "case").write_text(str(number))

run_case = fuzz.run_case
def counted(name, number, seed, sandbox):
    fuzz.NUMBER = number
    return run_case(name, number, seed, sandbox)

fuzz.run_case = counted
fuzz.SECONDS = 1.5
fuzz.READERS = {{"broken": fuzz.Reader(1, lambda folder: None, make, read)}}
sys.exit(fuzz.main(["--cases", "13", "--output", {str(tmp_path / "r.json")!r}]))
"""
    )
    root = str(BENCHMARKS.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    row = report["readers"]["broken"]
    assert row["failing_cases"] == {"crash": [5], "hang": [7]}
    assert {key: row[key] for key in BAD} == {
        "unexpected": 2, "outside": 1, "crashes": 1, "hangs": 1,
    }  # fmt: skip
    assert row["read"] == 8
    assert [(f["case"], "outside" in f) for f in report["failures"]] == [
        (3, False), (9, True), (11, False),
    ]  # fmt: skip


def test_committed_report():
    report = json.loads((BENCHMARKS / "fuzz.json").read_text())
    page = (BENCHMARKS.parent / "docs" / "limits.md").read_text()
    assert f"| all | {report['total']['cases']:,} ".replace(",", " ") in page
    assert report["total"]["cases"] >= 100_000
    assert {key: report["total"][key] for key in BAD} == dict.fromkeys(BAD, 0)
    assert report["failures"] == []
    for row in report["readers"].values():
        assert row["read"] + row["refused"] == row["cases"]
        assert row["memory_mb"] < report["memory_limit_mb"]
