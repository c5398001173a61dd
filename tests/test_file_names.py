"""Names of files in any bytes, and output in encodings that lack characters of the messages."""

import io
import json
import os
import shutil
import sys

import numpy as np
import pytest

from tests.models import image
from tfstyle import cli
from tfstyle.data import read_png, read_scan, write_png
from tfstyle.runs.manifest import MANIFEST

CAFE = os.fsdecode(b"caf\xe9")  # Latin-1


@pytest.fixture
def run(model, monkeypatch):
    """``run(*words)`` gives the status and what was printed to stdout and stderr, in ASCII."""
    monkeypatch.setattr("tfstyle.presets.open_model", lambda source: model)
    monkeypatch.setattr(cli, "silence", lambda **options: None)  # the process is of many tests

    def start(*words):
        out, err = (io.TextIOWrapper(io.BytesIO(), "ascii") for _ in range(2))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            status = cli.main(list(map(str, words)))
        for stream in (out, err):
            stream.flush()
        return status, *(stream.buffer.getvalue().decode("ascii") for stream in (out, err))

    return start


@pytest.fixture
def places(tmp_path):
    """A picture with a mask and one that is broken, in folders of such names; a style."""
    folder, masks = tmp_path / f"in-{CAFE}", tmp_path / f"masks-{CAFE}"
    folder.mkdir()
    masks.mkdir()
    write_png(image(1, (24, 20)), folder / f"{CAFE}.png")
    shutil.copy(folder / f"{CAFE}.png", masks / f"{CAFE}_mask.png")
    write_png(0.5 * image(5, (24, 24)), tmp_path / f"style-{CAFE}.png")
    return folder, masks, tmp_path / f"style-{CAFE}.png"


def test_augment(run, places, tmp_path):
    folder, masks, style = places
    (folder / f"broken-{CAFE}.png").write_bytes(b"\x89PNG\r\n\x1a\nx")
    out = tmp_path / CAFE
    words = ["augment", folder, out, "--styles", style, "--masks", masks]
    for _ in range(2):
        status, printed, complaints = run(*words)
        assert status == 1
        assert "failed: 1" in printed
        assert r"failed: broken-caf\udce9.png: not a PNG file" in complaints
    rows = [json.loads(line) for line in (out / MANIFEST).read_text("utf-8").splitlines()]
    assert {row["source"] for row in rows} == {f"{CAFE}.png", f"broken-{CAFE}.png"}
    (done,) = (row for row in rows if row["status"] == "done")
    assert (out / done["image"]).read_bytes() != (out / done["mask"]).read_bytes()
    assert os.fsencode(done["image"]) == b"images/caf\xe9-1.png"


def test_stylize_and_prepare(run, places, tmp_path):
    folder, _, style = places
    out = tmp_path / f"out-{CAFE}"
    status, printed, complaints = run("stylize", folder, "--style", style, "-o", out)
    assert (status, complaints) == (0, "")
    assert r"\u2026" in printed
    assert r"out-caf\udce9/caf\udce9.png" in printed
    assert len(os.listdir(out)) == 2  # with the record
    prepared = tmp_path / f"prepared-{CAFE}"
    assert run("prepare", folder, "-o", prepared)[::2] == (0, "")
    same = read_png(folder / f"{CAFE}.png").pixels
    np.testing.assert_array_equal(read_scan(prepared).pixels, same)
