"""Pipelines on Beam's local runner: several workers, one of them killed, the result of one process.

``benchmarks/beam.py`` does the same with 2 000 pictures and more kills.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.models import image, small_model
from tfstyle import beam, stylize
from tfstyle.augment_scans import augment_scans
from tfstyle.beam import FAILED
from tfstyle.cli import main
from tfstyle.data import write_png
from tfstyle.errors import ArgumentError, OutputError
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


def contents(folder: Path) -> dict[str, str]:
    """Every file, hidden ones too, by the hash of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def beam_workers() -> list[int]:
    """Worker processes of pipelines that this process started, by their sessions."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            session = os.getsid(int(entry.name))
            parent = (Path("/proc") / str(session) / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        is_worker = b"apache_beam.runners.worker.sdk_worker_main" in command
        if is_worker and int(parent[1]) == os.getpid():
            found.append(int(entry.name))
    return found


@needs_beam
def test_a_killed_worker_leaves_every_image_once_and_as_one_process_makes_it(
    model, styles, tmp_path, caplog
):
    inputs = write_pictures(tmp_path / "in", 120)
    (inputs / "3" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    output, killed = tmp_path / "out", []

    def kill_one() -> None:
        rows = output / ".beam" / "rows"
        while len(list(rows.glob("*/*.jsonl"))) < 5:
            time.sleep(0.01)
        killed.extend(beam_workers()[:1])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    done = []
    result = beam.augment_scans(
        model,
        inputs,
        output,
        styles,
        per_image=4,
        beam_options=["--direct_num_workers=2"],
        progress=lambda now, total, label: done.append((now, total)),
    )
    assert killed
    assert "a worker was killed" in caplog.text
    assert not beam_workers()
    alone = augment_scans(model, inputs, tmp_path / "single", styles, per_image=4)
    assert result.written == alone.written == 480
    assert result.failed == alone.failed == {"3/damaged.png": "not a PNG file."}
    assert result.gated == alone.gated
    found = contents(output)
    (failure,) = (json.loads(line) for line in (output / FAILED).read_text().splitlines())
    assert failure["source"] == "3/damaged.png"
    del found[FAILED]
    assert found == contents(tmp_path / "single")
    assert done[0] == (0, 484)
    assert done == sorted(done)


@needs_beam
def test_stylize_gives_each_scan_as_one_process_and_goes_on(model, tmp_path):
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
    stylize.stylize_scans(model, [inputs], style, tmp_path / "single")
    for made, alone in [("v.nii.gz",) * 2, *((f"{i}/{i}.png", f"{i}.png") for i in range(3))]:
        assert (output / made).read_bytes() == (tmp_path / "single" / alone).read_bytes()
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.png")}
    again = beam.stylize_scans(model, [inputs], style, output)
    assert (again.written, again.kept, again.failed) == (0, 4, {})
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.png")} == before
    assert not (output / FAILED).exists()
    with pytest.raises(ArgumentError, match=r"strength: 0\.5, but"):
        beam.stylize_scans(model, [inputs], style, output, strength=0.5)


@needs_beam
def test_the_pipeline_counts_and_loads_the_model_once(model, styles, tmp_path, monkeypatch):
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    from tfstyle.augment_scans import AugmentOptions, begin_augmentation
    from tfstyle.beam import chunks
    from tfstyle.beam.pipeline import build

    inputs, output = write_pictures(tmp_path / "in", 30), tmp_path / "out"
    (inputs / "damaged.png").write_bytes(b"no picture")
    _, sources, _ = begin_augmentation(model, inputs, output, styles, AugmentOptions())
    chunks.write_work(output, model, AugmentOptions(), styles)
    tasks = [chunks.Task(source, str(inputs)) for source in sources]
    number = chunks.write_chunks(output, tasks, 1)
    loads, real = [], chunks.Worker
    monkeypatch.setattr(chunks, "Worker", lambda output: loads.append(output) or real(output))
    pipeline = apache_beam.Pipeline(FnApiRunner(), options=PipelineOptions([]))
    build(pipeline, str(output), number)
    result = pipeline.run()
    result.wait_until_finish()
    counters = {
        counter.key.metric.name: counter.committed
        for counter in result.metrics().query()["counters"]
        if counter.key.metric.namespace == "tfstyle"
    }
    assert number > 1
    assert loads == [str(output)]
    assert counters["done"] == 30
    assert counters["failed"] == 1
    assert "resumed" not in counters


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


def test_an_output_that_a_pipeline_is_writing(model, styles, tmp_path):
    inputs = write_pictures(tmp_path / "in", 1)
    (tmp_path / "out" / ".beam").mkdir(parents=True)
    with open(tmp_path / "out" / ".beam" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="is being written by another run"):
            augment_scans(model, inputs, tmp_path / "out", styles)


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
