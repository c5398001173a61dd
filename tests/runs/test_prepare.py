"""Scans as uncompressed NIfTI: what is written, read back, mapped, resumed and refused."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.data.conftest import save_series
from tests.minis import contents
from tests.models import image
from tfstyle.data import (
    WINDOWS,
    Window,
    read_scan,
    read_scans,
    resolve_window,
    write_nifti,
    write_png,
)
from tfstyle.errors import ArgumentError, InputFileError, OutputError
from tfstyle.runs import prepare_scans


@pytest.fixture
def source(tmp_path) -> Path:
    """A series, volumes and pictures, in folders."""
    folder = tmp_path / "in"
    save_series(folder / "Doe^Jane", 1000 + np.arange(144, dtype=np.int16).reshape(3, 8, 6))
    (scan,) = read_scans(folder / "Doe^Jane")
    for name in ("a.nii.gz", "z.nii"):
        unit = image(len(name), (*scan.pixels.shape, 1))
        write_nifti(unit, scan, WINDOWS["soft_tissue"], folder / name)
    mr = nib.Nifti1Image(image(4, (5, 6, 7)), np.diag([1, -1, 2, 1.0]))
    nib.save(mr, folder / "mr.nii")
    write_png(image(1, (9, 7)), folder / "p.png")
    write_png(image(2, (9, 7)), folder / "deep.png", bits=16)
    return folder


def test_scans_come_back_as_they_were(source, tmp_path):
    found = prepare_scans([source], tmp_path / "out")
    scans = sorted(read_scans(source), key=lambda scan: scan.files[0])
    back = read_scans(tmp_path / "out", lazy=True)
    assert (found.scans, found.slices, found.failed) == (6, 18, {})
    assert found.bytes == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.nii"))
    assert [scan.name for scan in back] == [f"scan-0000{i}" for i in range(1, 7)]
    for one, other in zip(scans, back, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one.spacing == other.spacing
        assert resolve_window("auto", one) == resolve_window("auto", other)
        if one.units != "gray":
            assert (one.pixels.dtype, one.units) == (other.pixels.dtype, other.units)
            np.testing.assert_allclose(one.affine, other.affine, atol=1e-4)
    assert [scan.units for scan in back] == ["HU", "HU", "US", "US", "US", "HU"]
    assert back[0].header_window == Window(39.5, 399)


def test_nothing_of_the_patient(source, tmp_path):
    prepare_scans([source], tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        data = path.read_bytes()
        for secret in (b"Doe", b"Jane", b"Test", b"Patient", b"1.2.826", b"p.png", b"deep"):
            assert secret not in data, path


def test_pixels_stay_on_the_disk(source, tmp_path):
    prepare_scans([source / "Doe^Jane"], tmp_path / "out")
    base = read_scan(tmp_path / "out", lazy=True).pixels
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.filename == str(tmp_path / "out" / "scan-00001.nii")


class TestResuming:
    def test_goes_on_after_a_stop(self, source, tmp_path, monkeypatch):
        whole = prepare_scans([source], tmp_path / "whole")
        replace, calls = os.replace, []

        def fail(one, other):
            if str(other).endswith(".nii"):
                calls.append(other)
                if len(calls) > 3:
                    raise KeyboardInterrupt
            replace(one, other)

        out = tmp_path / "out"
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            with pytest.raises(KeyboardInterrupt):
                prepare_scans([source], out)
        # as a process that was killed leaves it
        (out / ".scan-00004.nii.0123abcd.tfstyle").write_bytes(b"half")
        with open(out / ".prepare.jsonl", "a") as journal:
            journal.write('{"source"')
        before = {path: path.stat().st_mtime_ns for path in out.glob("scan-*")}
        found = prepare_scans([source], out)
        assert found.resumed == len(before) == 3
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert contents(out) == contents(tmp_path / "whole")
        assert found.slices == whole.slices
        assert prepare_scans([source], out).resumed == 6

    def test_other_inputs_are_refused(self, source, tmp_path):
        prepare_scans([source], tmp_path / "out")
        (source / "p.png").unlink()
        with pytest.raises(ArgumentError, match="inputs: differ from those"):
            prepare_scans([source], tmp_path / "out")
        found = prepare_scans([source], tmp_path / "out", overwrite=True)
        assert (found.scans, found.resumed) == (5, 0)
        assert len(list((tmp_path / "out").glob("*.nii"))) == 5
        with pytest.raises(OutputError, match="is not empty"):
            prepare_scans([source / "deep.png"], source)


def test_damaged_files_are_named_and_left_out(source, tmp_path):
    (source / "b.png").write_bytes((source / "p.png").read_bytes()[:40])
    for resumed in (0, 6):
        found = prepare_scans([source], tmp_path / "out")
        assert list(found.failed) == [str(source / "b.png")]
        assert (found.scans, found.resumed) == (6, resumed)
    with pytest.raises(InputFileError, match=r"holds no scan.*b\.png"):
        prepare_scans([source / "b.png"], tmp_path / "none")
    assert prepare_scans([source / "p.png"], tmp_path / "none").scans == 1  # nothing is in the way
    with pytest.raises(InputFileError, match="no such file"):
        prepare_scans([tmp_path / "nowhere"], tmp_path / "other")


def test_command(source, tmp_path, run):
    status, out, _ = run("prepare", source, "-o", tmp_path / "out", "--json")
    assert (status, json.loads(out)["slices"]) == (0, 18)
