"""Prepared training data: what is written, read back, resumed, refused and shared out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.data.conftest import make_ct
from tests.minis import contents
from tests.models import image
from tfstyle.data import (
    load_shards,
    pair_dataset,
    read_scans,
    write_nifti,
    write_png,
)
from tfstyle.data.shards import INDEX, is_prepared, read_index
from tfstyle.data.windows import WINDOWS
from tfstyle.errors import ArgumentError, InputFileError, OutputError, StorageError
from tfstyle.runs import prepare_scans

WINDOW = WINDOWS["soft_tissue"]


@pytest.fixture
def source(tmp_path) -> Path:
    """A series, volumes and pictures, in folders."""
    folder = tmp_path / "in"
    for i in range(3):
        pixels = 1000 + np.arange(48, dtype=np.int16).reshape(8, 6) + 100 * i
        path = folder / "Doe^Jane" / f"{i}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_ct(pixels, ImagePositionPatient=[0, 0, 2.0 * i]).save_as(
            path, enforce_file_format=True
        )
    (scan,) = read_scans(folder / "Doe^Jane")
    for name in ("a.nii.gz", "z.nii"):
        write_nifti(image(len(name), (*scan.pixels.shape, 1)), scan, WINDOW, folder / name)
    write_png(image(1, (9, 7)), folder / "p.png")
    write_png(image(2, (9, 7)), folder / "deep.png", bits=16)
    return folder


def fields(scan) -> tuple:
    return scan.pixels.dtype, scan.pixels.tolist(), scan.spacing, scan.units, scan.header_window


@pytest.mark.parametrize("shard_mb", [256, 1e-4])
def test_scans_come_back_as_they_were(source, tmp_path, shard_mb):
    found = prepare_scans([source], tmp_path / "out", shard_mb=shard_mb)
    scans = read_scans(source)
    assert (found.scans, found.slices) == (5, 11)
    assert found.shards == (1 if shard_mb == 256 else 5)
    assert [fields(scan) for scan in load_shards(tmp_path / "out")] == list(map(fields, scans))
    assert {scan.units for scan in scans} == {"HU", "gray"}
    assert is_prepared(tmp_path / "out")
    assert not is_prepared(source)


def test_same_bytes_each_time_and_nothing_of_the_patient(source, tmp_path):
    for name in ("a", "b"):
        prepare_scans([source], tmp_path / name, shard_mb=1e-3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        data = path.read_bytes()
        for secret in (b"Doe", b"Jane", b"Test", b"Patient", b"1.2.826", b"p.png", b"deep"):
            assert secret not in data, path


def test_pairs_are_those_of_the_scans(source, tmp_path):
    prepare_scans([source], tmp_path / "out", shard_mb=2e-4)
    options = {
        "windows": ("header", "bone", "percentile", "range"),
        "crop": 5,
        "batch_size": 4,
        "seed": 5,
        "rescale": (0.8, 1.2),
        "flips": True,
    }
    for shard in ((0, 1), (1, 2)):
        pairs = [
            list(pair_dataset(scans, shard=shard, **options).take(4).as_numpy_iterator())
            for scans in (read_scans(source), load_shards(tmp_path / "out"))
        ]
        for expected, found in zip(*pairs, strict=True):
            for key in expected:
                np.testing.assert_array_equal(found[key], expected[key])


def test_pixels_stay_on_the_disk(source, tmp_path):
    prepare_scans([source], tmp_path / "out")
    for scan in load_shards(tmp_path / "out"):
        base = scan.pixels
        while not isinstance(base, np.memmap):
            base = base.base
        assert base.base is not None


class TestResuming:
    @pytest.mark.parametrize("stop", [0, 3])
    def test_goes_on_after_a_stop(self, source, tmp_path, monkeypatch, stop):
        whole = prepare_scans([source], tmp_path / "whole", shard_mb=1e-4)
        replace, calls = os.replace, []

        def fail(one, other):
            if str(other).endswith(".tfrecord"):
                calls.append(other)
                if len(calls) > stop:
                    raise KeyboardInterrupt
            replace(one, other)

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(KeyboardInterrupt):
            prepare_scans([source], tmp_path / "out", shard_mb=1e-4)
        monkeypatch.undo()
        assert not is_prepared(tmp_path / "out")
        # as a process that was killed leaves it
        (tmp_path / "out" / ".shard-00003.tfrecord.0123abcd.tfstyle").write_bytes(b"half")
        with open(tmp_path / "out" / ".prepare.jsonl", "a") as journal:
            journal.write('{"shard"')
        before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("shard-*")}
        found = prepare_scans([source], tmp_path / "out", shard_mb=1e-4)
        assert found.resumed == len(before) == stop
        assert {n: (tmp_path / "out" / n).stat().st_mtime_ns for n in before} == before
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")
        assert found.slices == whole.slices

    def test_finished(self, source, tmp_path):
        first = prepare_scans([source], tmp_path / "out")
        before = contents(tmp_path / "out")
        again = prepare_scans([source], tmp_path / "out")
        assert (again.resumed, again.slices) == (1, first.slices)
        assert contents(tmp_path / "out") == before

    def test_other_work_is_refused(self, source, tmp_path):
        prepare_scans([source], tmp_path / "out")
        with pytest.raises(ArgumentError, match=r"shard_mb: 1\.0, but .* was begun with 256\.0"):
            prepare_scans([source], tmp_path / "out", shard_mb=1)
        write_png(image(3, (9, 7)), source / "p.png")
        with pytest.raises(ArgumentError, match="inputs: differ from those"):
            prepare_scans([source], tmp_path / "out")
        for options in ({"shard_mb": 1e-4}, {}):
            found = prepare_scans([source], tmp_path / "out", overwrite=True, **options)
            assert found.resumed == 0
            assert len(list((tmp_path / "out").iterdir())) == found.shards + 1
        assert prepare_scans([source], tmp_path / "out").resumed == 1
        with pytest.raises(OutputError, match="is not empty"):
            prepare_scans([source / "p.png"], source)


class TestBadInput:
    def test_damaged_files_are_named_and_left_out(self, source, tmp_path):
        (source / "b.png").write_bytes((source / "p.png").read_bytes()[:40])
        for _ in range(2):
            found = prepare_scans([source], tmp_path / "out", shard_mb=1e-4)
            assert list(found.failed) == [str(source / "b.png")]
            assert found.scans == 5
        assert read_index(tmp_path / "out")["left_out"] == 1

    def test_nothing_to_read(self, tmp_path):
        (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        with pytest.raises(InputFileError, match=r"holds no scan.*b\.png"):
            prepare_scans([tmp_path / "b.png"], tmp_path / "out")
        with pytest.raises(InputFileError, match="no such file"):
            prepare_scans([tmp_path / "nowhere"], tmp_path / "out")
        with pytest.raises(ArgumentError, match="shard_mb"):
            prepare_scans([tmp_path], tmp_path / "out", shard_mb=0)

    @pytest.mark.parametrize("number", [28, 30])
    def test_full_or_read_only(self, source, tmp_path, monkeypatch, number):
        replace = os.replace

        def fail(one, other):
            if str(other).endswith(".tfrecord"):
                raise OSError(number, os.strerror(number))
            replace(one, other)

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(StorageError, match="shard-00000"):
            prepare_scans([source], tmp_path / "out")
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert names == {".prepare.json", ".prepare.jsonl"}

    def test_too_many_shards(self, source, tmp_path, monkeypatch):
        prepare_scans([source], tmp_path / "out")

        def fail(*_):
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(np, "memmap", fail)
        with pytest.raises(InputFileError, match=r"Too many open files.*shard_mb"):
            load_shards(tmp_path / "out")

    def test_changed_shards_are_refused(self, source, tmp_path):
        prepare_scans([source], tmp_path / "out")
        shard = tmp_path / "out" / "shard-00000.tfrecord"
        data = bytearray(shard.read_bytes())
        data[100] ^= 1
        shard.write_bytes(data)
        with pytest.raises(InputFileError, match="damaged or was changed"):
            load_shards(tmp_path / "out")
        load_shards(tmp_path / "out", verify=False)
        shard.write_bytes(data[:-1])
        with pytest.raises(InputFileError, match="damaged or was changed"):
            load_shards(tmp_path / "out", verify=False)
        shard.unlink()
        with pytest.raises(InputFileError, match="cannot be read"):
            load_shards(tmp_path / "out")

    @pytest.mark.parametrize(
        ("place", "value"),
        [
            (("format",), "tfstyle-shards/9"),
            (("shards", 0, "file"), "../shard-00000.tfrecord"),
            (("scans", 0, "size"), [10**6, 10**6]),
            (("scans", 0, "start"), -5),
            (("scans", 0, "stride"), 1),
            (("scans", 0, "dtype"), "|O8"),
            (("scans", 0, "shard"), 7),
            (("scans", 0), None),
        ],
    )
    def test_changed_index_is_refused(self, source, tmp_path, place, value):
        prepare_scans([source], tmp_path / "out")
        path = tmp_path / "out" / INDEX
        index = json.loads(path.read_text())
        at = index
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = value
        path.write_text(json.dumps(index))
        with pytest.raises(InputFileError):
            load_shards(tmp_path / "out", verify=False)


def test_command(source, tmp_path, capsys, monkeypatch):
    from tfstyle.cli import main

    monkeypatch.setattr("tfstyle.cli.silence", lambda **_: None)
    out = str(tmp_path / "out")
    assert main(["prepare", str(source), "-o", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["slices"] == 11
    assert main(["info", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "prepared"
    (source / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert main(["prepare", str(source), "-o", str(tmp_path / "other")]) == 1
    assert "b.png" in capsys.readouterr().err
