"""The folder of a run: settings, journal, lock, resuming and beginning again."""

import json
import threading

import pytest

from tfstyle.errors import ArgumentError, OutputError
from tfstyle.runs.folder import RunFolder, read_rows


def rows(path, settings, **options) -> list[dict]:
    with RunFolder(path, settings, **options) as run:
        return run.rows


def test_a_later_run_finds_the_rows(tmp_path):
    with RunFolder(tmp_path / "new" / "out", {"seed": 0, "group": {"size": (1, 2)}}) as run:
        threads = [threading.Thread(target=run.add, args=({"n": n},)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        run.add({"n": 8})
    with open(run.journal, "a") as file:
        file.write('{"n": 9')  # killed
    (tmp_path / "new" / "out" / ".a.0123abcd.tfstyle").write_text("half")
    with RunFolder(tmp_path / "new" / "out", {"seed": 0, "group": {"size": [1, 2]}}) as run:
        assert sorted(row["n"] for row in run.rows) == list(range(9))
        run.keep(run.rows[:1])
    assert len(read_rows(run.journal)) == 1
    assert {path.name for path in run.path.iterdir()} == {"settings.json", "journal.jsonl"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 1, "group": {"size": 2}}, "seed: 1, but .* was begun with 0. Give the same"),
        ({"seed": 1, "group": {"size": 3}}, "seed: 1, but .*; size: 3, but .* with 2"),
        ({"seed": 0, "group": {"size": 2}, "more": 1}, "more: 1, but .* was begun with None"),
    ],
)
def test_other_settings_are_refused_once_something_came_of_those_before(
    tmp_path, settings, message
):
    with RunFolder(tmp_path, {"seed": 0, "group": {"size": 2}}, facts=lambda: {"key": 5}) as run:
        run.add({"n": 0})
    before = run.record.read_text()
    with pytest.raises(ArgumentError, match=message):
        rows(tmp_path, settings)
    assert run.record.read_text() == before
    assert json.loads(before) == {"seed": 0, "group": {"size": 2}, "key": 5}
    run.journal.write_text("")
    if "more" not in settings:
        assert rows(tmp_path, settings) == []
        assert json.loads(run.record.read_text()) == settings


def test_beginning_again(tmp_path):
    with RunFolder(tmp_path, {"seed": 1}) as run:
        run.add({"n": 0})
    (tmp_path / "results").mkdir()
    (tmp_path / "letter.txt").write_text("dear")
    assert rows(tmp_path, {"seed": 2}, overwrite=["results"]) == []
    assert {path.name for path in tmp_path.iterdir()} == {"settings.json", "letter.txt"}


@pytest.mark.parametrize("text", ["{", "[1]", "7", '{"editor.fontSize": 12}'])
@pytest.mark.parametrize("options", [{}, {"overwrite": ["letter.txt"]}])
def test_folder_of_something_else(tmp_path, text, options):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="is not empty and holds no run"):
        rows(tmp_path, {"seed": 0}, **options)
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises((ArgumentError, OutputError), match="choose another folder"):
        rows(tmp_path, {"seed": 0}, **options)
    assert (tmp_path / "letter.txt").read_text() == "dear"
    assert (tmp_path / "settings.json").read_text() == text


def test_two_at_once(tmp_path):
    with RunFolder(tmp_path, {}), pytest.raises(OutputError, match="is being written by another"):
        rows(tmp_path, {})
