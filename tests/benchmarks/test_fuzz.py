"""The fuzzing sees what goes wrong; and what the committed report says."""

import gzip
import json
import zipfile

import pytest

from tests.process import ROOT, python

BENCHMARKS = ROOT / "benchmarks"
#: Counts its calls in a file, for a new process goes on where the one before died.
BROKEN = """
import os, pathlib, time, types
import fuzz
from tfstyle.errors import TfstyleError

fuzz.SECONDS = 10

def read(folder, out):
    calls = pathlib.Path(__file__).with_name("calls")
    number = len(calls.read_bytes())
    calls.write_bytes(bytes(number + 1))
    if number == 3:
        raise KeyError("x")
    if number == 5:
        os.abort()
    if number == 7:
        time.sleep(3600)
    if number == 9:
        (out / ".." / "x").write_text("x")
    if number == 11:
        memory = bytearray(2 * fuzz.MEMORY)
    if number % 2:
        raise TfstyleError("refused")

one = types.SimpleNamespace(runs=20, seeds=lambda: [{"case": b"abc"}], read=read)
READERS = {"broken": one}
"""


@pytest.fixture
def modules(script):
    return script("fuzz"), script("fuzz_readers")


@pytest.mark.slow
def test_what_goes_wrong_is_counted(tmp_path):
    pytest.importorskip("atheris")
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "calls").write_bytes(b"")
    output = tmp_path / "r.json"
    code = (
        f"import sys; sys.path[:0] = {[str(BENCHMARKS), str(tmp_path)]}; import fuzz; "
        f"sys.exit(fuzz.main(['--output', '{output}', '--keep', '{tmp_path}'], 'broken'))"
    )
    python("-c", code, status=1)
    row = json.loads(output.read_text())["readers"]["broken"]
    bad = {key: row[key] for key in ("unexpected", "outside", "crashes", "hangs")}
    assert bad == {"unexpected": 2, "outside": 1, "crashes": 1, "hangs": 1}
    assert row["read"] + row["refused"] == row["cases"] - 5
    assert row["cases"] == len((tmp_path / "calls").read_bytes())
    log = (tmp_path / "broken" / "log").read_text()
    assert "KeyError: 'x'" in log
    assert "MemoryError" in log


def test_readers_read_what_they_start_from(modules, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a case is read
    fuzz, readers = modules
    for name in ("dicom", "dicom-seg", "nifti", "png", "runs", "model folders"):
        reader = readers.READERS[name]
        assert fuzz.run_case(reader.read, next(reader.seeds()), tmp_path / "box") == "read", name


def test_a_case_stands_in_place_of_one_part_of_its_set(modules, tmp_path):
    """Archives are packed after the change, so that they can be opened."""
    fuzz, _ = modules
    sets = [{"x": b""}, {"a.npz!b": b"1", "a.npz!c": b"2", "d.gz!": b"3", "e": b"4"}]
    files = fuzz.files_of(bytes([3, 1]) + b"changed", sets)
    assert files == {**sets[1], "a.npz!c": b"changed"}
    fuzz.place(files, tmp_path)
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert [archive.read(name) for name in "bc"] == [b"1", b"changed"]
    assert gzip.decompress((tmp_path / "d.gz").read_bytes()) == b"3"
    assert (tmp_path / "e").read_bytes() == b"4"


def test_committed_report(modules):
    fuzz, readers = modules
    report = json.loads((BENCHMARKS / "fuzz.json").read_text())
    page = (BENCHMARKS.parent / "docs" / "limits.md").read_text()
    assert f"<!-- fuzz -->\n{fuzz.table(report)}\n<!-- /fuzz -->" in page
    rows = report["readers"].values()
    assert [*report["readers"]] == [*readers.READERS]
    assert report["total"]["cases"] == sum(row["cases"] for row in rows) >= 10_000
    for row in rows:
        assert row["read"] + row["refused"] == row["cases"]
        assert min(row["read"], row["refused"]) > 0
        assert row["memory_mb"] < report["memory_limit_mb"]
