"""Chunks of work and their journals: what a worker does after others were stopped. No Beam."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import image, small_model
from tfstyle.augment_scans import (
    JOURNALS,
    AugmentOptions,
    Manifest,
    Source,
    augment_scans,
    begin_augmentation,
)
from tfstyle.beam.chunks import (
    DEATHS,
    FAILED,
    LARGEST,
    SMALLEST,
    Task,
    Worker,
    name_results,
    write_chunks,
    write_work,
)
from tfstyle.beam.driver import ERROR
from tfstyle.beam.run import _failure, _find_all
from tfstyle.data import ScanFiles, write_png
from tfstyle.errors import OutputError, WeightsError, WorkerError
from tfstyle.style_bank import StyleBank


@pytest.fixture(scope="module")
def model():
    return small_model("relu1_1")


@pytest.fixture(scope="module")
def styles(model):
    return StyleBank.encode(model, [0.3 * image(20, (24, 24)), 0.5 + 0.5 * image(22, (20, 20))])


@pytest.fixture
def begun(model, styles, tmp_path):
    """Output of a run whose four pictures and one damaged file make up one chunk."""
    for i in range(4):
        folder = tmp_path / "in" / str(i)
        folder.mkdir(parents=True)
        write_png(image(i, (16, 16)), folder / "a.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    output, options = tmp_path / "out", AugmentOptions(per_image=1)
    _, sources, _ = begin_augmentation(model, tmp_path / "in", output, styles, options)
    write_work(output, model, options, styles)
    tasks = [Task(source, str(tmp_path / "in")) for source in sources]
    assert write_chunks(output, tasks, 1) == 1
    return output


def manifest_rows(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]


def name_of(text: str) -> Source:
    return Source(text, ScanFiles((text,), "png"), text, ".png", PurePosixPath(text))


def test_a_chunk_gives_what_one_process_gives(begun, model, styles, tmp_path):
    words = Counter(Worker(begun).run(0))
    manifest = Manifest(begun)  # a later run takes in what was noted
    assert words["done"] == 4
    assert words["failed"] == 1
    assert manifest.count({f"{i}/a.png" for i in range(4)}, 1) == 4
    augment_scans(model, tmp_path / "in", tmp_path / "single", styles)
    for path in sorted((tmp_path / "single" / "images").rglob("*.png")):
        other = begun / path.relative_to(tmp_path / "single")
        assert other.read_bytes() == path.read_bytes()
    alone = [row for row in manifest_rows(tmp_path / "single") if row["status"] == "done"]
    assert manifest_rows(begun) == alone


def test_another_worker_goes_on_where_one_was_stopped(begun):
    first = Worker(begun).run(0)
    while next(first) != "done":
        pass
    first.close()
    again = Counter(Worker(begun).run(0))
    assert again["done"] == 3
    assert again["resumed"] == 1
    third = Counter(Worker(begun).run(0))
    assert third == {"resumed": 4}  # what failed is not tried again in the same run
    manifest = Manifest(begun)
    assert len(manifest_rows(begun)) == 4
    assert not (begun / JOURNALS).exists()
    assert manifest.complete("0/a.png", 1)


def test_one_process_goes_on_where_a_pipeline_was_stopped(begun, model, styles, tmp_path):
    stopped = Worker(begun).run(0)
    while next(stopped) != "done":
        pass
    stopped.close()
    result = augment_scans(model, tmp_path / "in", begun, styles)
    assert (result.kept, result.written) == (1, 3)
    assert sorted(path.name for path in begun.iterdir()) == [
        "images",
        "manifest.jsonl",
        "settings.json",
    ]


def test_two_workers_at_one_chunk_leave_each_image_once(begun):
    """A runner may take a slow worker for dead."""
    slow, fast = Worker(begun).run(0), Worker(begun).run(0)
    steps = [slow, fast, fast, slow, slow, fast, fast, slow, slow, fast]
    for step in steps:
        next(step, None)
    list(slow), list(fast)
    Manifest(begun)
    assert Counter(row["source"] for row in manifest_rows(begun)) == {
        f"{i}/a.png": 1 for i in range(4)
    }
    assert len(list((begun / "images").rglob("*.png"))) == 4
    assert not list(begun.rglob(".*.png.*"))


def test_a_source_that_kills_workers_is_named_in_the_end(begun, monkeypatch):
    worker = Worker(begun)
    real = worker.work.rows

    def deadly(source, done):
        if source.name == "2/a.png":
            raise SystemExit(137)  # nothing after this is noted, as by SIGKILL
        yield from real(source, done)

    monkeypatch.setattr(worker.work, "rows", deadly)
    for _ in range(DEATHS):
        with pytest.raises(SystemExit):
            list(worker.run(0))
    words = Counter(worker.run(0))
    assert words["failed"] == 2  # the deadly one, and the damaged one behind it
    manifest = Manifest(begun)  # before: failures are found anew by each run
    assert manifest.count({"0/a.png", "1/a.png", "3/a.png"}, 1) == 3
    assert not manifest.has("2/a.png", 0, 1)


def test_an_output_that_cannot_be_written_is_nobodys_death(begun, monkeypatch):
    worker = Worker(begun)

    def full(source, done):
        raise OutputError("out", "cannot be written (No space left on device).")

    monkeypatch.setattr(worker.work, "rows", full)
    for _ in range(DEATHS + 1):
        with pytest.raises(OutputError, match="No space left"):
            list(worker.run(0))
    monkeypatch.undo()
    assert Counter(worker.run(0))["done"] == 4


def test_reasons_are_those_of_one_process(begun, model, styles, tmp_path):
    list(Worker(begun).run(0))
    noted = [
        json.loads(line)
        for path in (begun / JOURNALS).glob("*/*.jsonl")
        for line in path.read_text().splitlines()
    ]
    alone = augment_scans(model, tmp_path / "in", tmp_path / "single", styles)
    failed = {row["source"]: row["reason"] for row in noted if row["status"] == "failed"}
    assert failed == alone.failed == {"bad.png": "not a PNG file."}


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), max_size=120),
    copies=st.integers(1, 3),
)
def test_chunks_hold_every_source_once_and_in_order(tmp_path_factory, counts, copies):
    folder = tmp_path_factory.mktemp("chunks")
    (folder / ".beam" / "chunks").mkdir(parents=True)
    tasks = [
        Task(
            Source(
                f"ä {i}#1.2",
                ScanFiles(tuple(f"{i}/{k}" for k in range(count)), "dicom", "1.2"),
                f"{i}",
                "",
                PurePosixPath(str(i)),
            ),
            "/in",
            frozenset({(0, 1)} if i % 3 else ()),
        )
        for i, count in enumerate(counts)
    ]
    number = write_chunks(folder, tasks, copies)
    files = sorted((folder / ".beam" / "chunks").iterdir())
    read = [[Task.from_json(line) for line in file.read_text().splitlines()] for file in files]
    assert number == len(files)
    assert [task for chunk in read for task in chunk] == tasks
    for chunk in read:
        sizes = [copies * len(task.source.files.files) for task in chunk]
        assert sum(sizes[:-1]) < LARGEST
        assert chunk is read[-1] or sum(sizes) >= SMALLEST


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "a-2", FAILED]), min_size=1, max_size=3).map("/".join),
        max_size=12,
    )
)
def test_no_result_lies_in_the_place_or_inside_of_another(stems):
    named = [source.stem for _, source in name_results([("/in", name_of(one)) for one in stems])]
    assert len(set(named)) == len(named)
    assert FAILED not in named
    for one in named:
        assert not any(other.startswith(one + "/") for other in named)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "Traceback …\n  raise OutputError(target, …)\nRuntimeError: tfstyle.errors."
            "OutputError: /out/a.png: cannot be written (No space left on device). "
            "[while running 'Work']\n",
            OutputError,
            "/out/a.png: cannot be written (No space left on device).",
        ),
        (
            "tfstyle.errors.WeightsError: m.keras: is another.\n",
            WeightsError,
            "m.keras: is another.",
        ),
        ("Traceback …\nOSError: no job server\n", WorkerError, "OSError: no job server"),
        (None, WorkerError, "ended with status 1"),
    ],
)
def test_the_error_of_a_worker_comes_back_as_what_it_was(tmp_path, text, kind, message):
    if text is not None:
        (tmp_path / ERROR).write_text(text)
    error = _failure(tmp_path, 1)
    assert type(error) is kind
    assert message in str(error)


def test_each_input_is_done_once_and_has_a_name_of_its_own(tmp_path):
    for name in ("a/x.png", "b/x.png", "c/deep/x.png", "other/c/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(image(1, (8, 8)), tmp_path / name)
    inputs = [tmp_path / one for one in ("a/x.png", "b/x.png", "a/x.png", "c", "other/c")]
    found, damaged = _find_all(inputs, tmp_path / "out")
    sources = [source for _, source in found]
    assert not damaged
    assert [source.name for source in sources] == [
        "x.png",
        str(tmp_path / "b" / "x.png"),
        "c/deep/x.png",
        "c-2/x.png",
    ]
    assert [source.stem for source in sources] == ["x", "x-2", "c/deep/x", "c-2/x"]
