"""Pipelines on Beam's local runner: the result of one process, retries, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.minis import contents
from tests.models import image, small_model
from tfstyle import beam
from tfstyle._private.files import locked
from tfstyle.beam import FAILED
from tfstyle.cli import main
from tfstyle.data import write_png
from tfstyle.errors import ArgumentError, OutputError, StorageError
from tfstyle.runs import augment_scans, stylize_scans
from tfstyle.style_bank import StyleBank

try:
    import apache_beam
except ImportError:
    apache_beam = None

needs_beam = pytest.mark.skipif(apache_beam is None, reason="needs the extra tfstyle[beam]")


@pytest.fixture(scope="module")
def model():
    return small_model("relu1_1")


@pytest.fixture(scope="module")
def styles(model):
    return StyleBank.encode(model, [0.3 * image(20, (24, 24)), 0.5 + 0.5 * image(22, (20, 20))])


def write_pictures(folder: Path, count: int) -> Path:
    for i in range(count):
        path = folder / f"{i % 7}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(image(i, (16, 16)), path)
    return folder


@needs_beam
@pytest.mark.parametrize(
    "options",
    [
        ["--direct_num_workers=2"],
        ["--direct_runner_bundle_repeat=1"],  # every bundle twice, as after a retry
    ],
)
def test_each_image_is_there_once_and_as_one_process_makes_it(model, styles, tmp_path, options):
    inputs, output = write_pictures(tmp_path / "in", 20), tmp_path / "out"
    (inputs / "3" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    seen = []
    result = beam.augment_scans(
        model,
        inputs,
        output,
        styles,
        per_image=2,
        beam_options=options,
        progress=lambda *what: seen.append(what),
    )
    alone = augment_scans(model, inputs, tmp_path / "single", styles, per_image=2)
    assert result.written == alone.written == 40
    assert result.failed == alone.failed == {"3/damaged.png": "not a PNG file."}
    assert result.gated == alone.gated
    (failure,) = (json.loads(line) for line in (output / FAILED).read_text().splitlines())
    assert failure["source"] == "3/damaged.png"
    found = contents(output)
    del found[FAILED]
    assert found == contents(tmp_path / "single")
    assert seen == [(0, 42, ""), (42, 42, "")]


KILLED = """
import os, sys
from tests.beam.test_beam import StyleBank, beam, image, small_model
model = small_model("relu1_1")
styles = StyleBank.encode(model, [0.3 * image(20, (24, 24)), 0.5 + 0.5 * image(22, (20, 20))])
os.setsid()
print("begun", flush=True)
beam.augment_scans(model, sys.argv[1], sys.argv[2], styles, per_image=2,
                   beam_options=["--direct_num_workers=2"])
"""


@needs_beam
def test_a_run_whose_processes_were_killed_resumes(model, styles, tmp_path):
    inputs, output = write_pictures(tmp_path / "in", 40), tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, inputs, output], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"begun\n"
        while len(list((output / ".beam" / "done").glob("*/*"))) < 5 and process.poll() is None:
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    before = {path: path.stat().st_mtime_ns for path in (output / "images").rglob("*.png")}
    assert 10 <= len(before) < 80
    result = beam.augment_scans(model, inputs, output, styles, per_image=2)
    assert (result.written, result.kept, result.failed) == (80, 0, {})
    same = sum(path.stat().st_mtime_ns == time for path, time in before.items())
    assert same >= 10  # what was finished is not done again
    augment_scans(model, inputs, tmp_path / "single", styles, per_image=2)
    assert contents(output) == contents(tmp_path / "single")


@needs_beam
def test_one_process_and_a_pipeline_resume_each_other(model, styles, tmp_path):
    inputs, output = write_pictures(tmp_path / "in", 4), tmp_path / "out"
    augment_scans(model, inputs, output, styles)
    result = beam.augment_scans(model, inputs, output, styles, per_image=2)
    assert (result.written, result.kept) == (4, 4)
    result = augment_scans(model, inputs, output, styles, per_image=3)
    assert (result.written, result.kept) == (4, 8)
    with pytest.raises(ArgumentError, match="seed: 1, but"):
        beam.augment_scans(model, inputs, output, styles, seed=1)


@needs_beam
def test_stylize_gives_each_scan_as_one_process_and_resumes(model, tmp_path):
    inputs = write_pictures(tmp_path / "in", 3)
    volume = (1500 * image(5, (3, 18, 20, 1))[..., 0] - 700).transpose(2, 1, 0)
    nib.save(nib.Nifti1Image(volume.astype(np.int16), np.diag([-1.0, -1, 2, 1])), inputs / "v.nii")
    (inputs / "damaged.png").write_bytes(b"no picture")
    write_png(image(9, (20, 20)) ** 2, tmp_path / "style.png")
    style, output = [tmp_path / "style.png"], tmp_path / "out"
    result = beam.stylize_scans(model, [inputs], style, output)
    assert (result.written, result.kept) == (4, 0)
    assert result.failed == {"damaged.png": "not a PNG file."}
    (inputs / "damaged.png").unlink()
    stylize_scans(model, [inputs], style, tmp_path / "single")
    for name in ("v.nii.gz", *(f"{i}/{i}.png" for i in range(3))):
        assert (output / name).read_bytes() == (tmp_path / "single" / name).read_bytes()
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.png")}
    again = beam.stylize_scans(model, [inputs], style, output)
    assert (again.written, again.kept, again.failed) == (0, 4, {})
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.png")} == before
    assert sorted(path.name for path in output.iterdir() if path.is_file()) == [
        "manifest.jsonl",
        "settings.json",
        "v.nii.gz",
    ]
    with pytest.raises(ArgumentError, match=r"strength: 0\.5, but"):
        beam.stylize_scans(model, [inputs], style, output, strength=0.5)


@needs_beam
def test_a_full_disk_stops_the_run(model, styles, tmp_path, monkeypatch):
    def full(*_):
        raise StorageError("/out/a.png", "cannot be written: the disk is full.")

    inputs = write_pictures(tmp_path / "in", 2)
    with monkeypatch.context() as patch:
        patch.setattr("tfstyle.runs.augment.write_generated", full)
        with pytest.raises(StorageError, match=r"^/out/a\.png: cannot be written: the"):
            beam.augment_scans(model, inputs, tmp_path / "out", styles)
    assert beam.augment_scans(model, inputs, tmp_path / "out", styles).written == 2


@needs_beam
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--direct_num_workerz=2"], "no option --direct_num_workerz"),
        (["--direct_running_mode=fast"], "invalid choice: 'fast'"),
        (["--direct_num_workers=-1"], "must be at least 0"),
    ],
)
def test_options_that_cannot_be_used(options, problem):
    with pytest.raises(ArgumentError, match=problem):
        beam.check_options(options)


@needs_beam
def test_an_output_that_another_run_is_writing(model, styles, tmp_path):
    inputs = write_pictures(tmp_path / "in", 1)
    for run in (augment_scans, beam.augment_scans):
        with locked(tmp_path / "out"), pytest.raises(OutputError, match="is being written"):
            run(model, inputs, tmp_path / "out", styles)


def test_without_beam_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("tfstyle.beam.run.find_spec", lambda name: None)
    with pytest.raises(ArgumentError, match=r"pip install 'tfstyle\[beam\]'"):
        beam.check_options([])


def test_options_of_tfstyle_behind_beam_are_refused(capsys):
    words = ["augment", "in", "out", "--beam", "--runner=DirectRunner", "--styles", "a"]
    assert main(words) == 2
    assert "--styles: is an option of tfstyle; give it before --beam" in capsys.readouterr().err


@needs_beam
@pytest.mark.parametrize("extra", [["--server", "a:1"], ["--method", "clahe"], ["--series", "1"]])
def test_what_stylize_cannot_do_on_beam(extra, capsys):
    assert main(["stylize", "in", "--style", "s", "-o", "out", *extra, "--beam"]) == 2
    assert f"{extra[0]}: is not available with --beam" in capsys.readouterr().err
