"""Pipelines on Beam's local runner: the result of one process, retries, kills."""

import importlib.util
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
from tfstyle.cli import main
from tfstyle.data import write_png
from tfstyle.errors import ArgumentError, StorageError, WorkerError
from tfstyle.runs import augment_scans, stylize_scans
from tfstyle.style_bank import StyleBank

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="needs the extra tfstyle[beam]"
)


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
    assert contents(output) == contents(tmp_path / "single")
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
def test_a_run_whose_workers_were_killed_resumes(model, styles, tmp_path):
    inputs, output = write_pictures(tmp_path / "in", 40), tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, inputs, output], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"begun\n"
        while len(list(output.glob(".beam/*/rows/*/*"))) < 5 and process.poll() is None:
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with its workers
        process.wait()
        process.stdout.close()
    before = {path: path.stat().st_mtime_ns for path in (output / "images").rglob("*.png")}
    assert 10 <= len(before) < 80
    result = beam.augment_scans(model, inputs, output, styles, per_image=2)
    assert result.kept >= 10  # what was finished is not done again
    assert (result.written + result.kept, result.failed) == (80, {})
    assert sum(path.stat().st_mtime_ns == time for path, time in before.items()) >= result.kept
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
    arguments = model, [inputs], [tmp_path / "style.png"]
    failed = {}
    options = {
        "on_failure": lambda path, error: failed.update({Path(path).name: error.problem}),
        "beam_options": ["--direct_num_workers=2"],
    }
    done = beam.stylize_scans(*arguments, tmp_path / "out", **options)
    assert failed == {"damaged.png": "not a PNG file."}
    (inputs / "damaged.png").unlink()
    alone = stylize_scans(*arguments, tmp_path / "single")
    assert [one.structure for one in done] == [one.structure for one in alone]
    assert not any(one.resumed for one in done)

    def results(folder):
        found = contents(folder)
        return {name: found[name] for name in found if not name.startswith(".tfstyle")}

    assert results(tmp_path / "out") == results(tmp_path / "single")
    assert all(one.resumed for one in beam.stylize_scans(*arguments, tmp_path / "out", **options))
    assert all(one.resumed for one in stylize_scans(*arguments, tmp_path / "out"))
    assert results(tmp_path / "out") == results(tmp_path / "single")
    with pytest.raises(WorkerError, match="exists already"):
        beam.stylize_scans(*arguments, tmp_path / "out", strength=0.5)
    done = beam.stylize_scans(*arguments, tmp_path / "out", strength=0.5, overwrite=True)
    assert len(done) == 4
    assert results(tmp_path / "out") != results(tmp_path / "single")


@needs_beam
def test_a_full_disk_stops_the_run(model, styles, tmp_path, monkeypatch):
    def full(*_):
        raise StorageError("/out/a.png", "cannot be written: the disk is full.")

    inputs = write_pictures(tmp_path / "in", 2)
    with monkeypatch.context() as patch:
        patch.setattr("tfstyle.runs.augment.write_generated", full)
        with pytest.raises(WorkerError, match=r"/out/a\.png: cannot be written: the disk is full"):
            beam.augment_scans(model, inputs, tmp_path / "out", styles)
    assert beam.augment_scans(model, inputs, tmp_path / "out", styles).written == 2


@needs_beam
def test_options_that_beam_does_not_know():
    with pytest.raises(ArgumentError, match="no option --direct_num_workerz"):
        beam.check_options(["--direct_num_workerz=2"])
    assert "--runner=FnApiRunner" in beam.check_options([])
    assert beam.check_options(["--runner=FlinkRunner"]) == ["--runner=FlinkRunner"]


@needs_beam
def test_the_commands(tmp_path, capsys):
    inputs = write_pictures(tmp_path / "in", 2)
    style = str(next(inputs.rglob("0.png")))
    stylize = ["stylize", str(inputs), "--style", style, "-o", str(tmp_path / "out")]
    assert main([*stylize, "--beam", "--direct_num_workers", "1"]) == 0
    assert (tmp_path / "out" / "1" / "1.png").exists()
    augment = ["augment", str(inputs), str(tmp_path / "set"), "--styles", style]
    (inputs / "damaged.png").write_bytes(b"no picture")
    assert main([*augment, "--gate", "-1", "--beam"]) == 1
    assert "failed: damaged.png: not a PNG file." in capsys.readouterr().err
    assert main([*augment, "--beam", "--seed", "2"]) == 2
    assert "no option --seed; those of tfstyle go before --beam" in capsys.readouterr().err


def test_what_stylize_cannot_do_on_beam(capsys):
    assert main(["stylize", "in", "--style", "s", "-o", "out", "--server", "a:1", "--beam"]) == 2
    assert "--server: is not available with --beam" in capsys.readouterr().err
