"""Full disks, and SIGTERM, as the commands meet them.

Kills are in tests/integration/test_killed.py.
"""

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.models import image
from tfstyle import cli, presets
from tfstyle._private.files import is_temporary
from tfstyle.cli import train
from tfstyle.data import write_png
from tfstyle.segmentation import UNet


@pytest.fixture
def run(model, monkeypatch, run):
    """Runs a command with a small model; returns status and messages."""
    monkeypatch.setattr(cli, "silence", lambda **_: None)
    load = presets.open_model
    monkeypatch.setattr(
        presets, "open_model", lambda source, cls=None: load(source, cls) if cls else model
    )
    return lambda *words: run(*words)[::2]


@pytest.fixture
def commands(tmp_path) -> dict[str, list]:
    source, output = tmp_path / "in", tmp_path / "disk" / "out"
    source.mkdir()
    output.parent.mkdir()
    for i in range(3):
        write_png(image(i, (24, 20)), source / f"{i}.png")
    unet = tmp_path / "unet.keras"
    UNet(classes=2, depth=2, width=4).save(unet)
    train = ["--phantoms", 1, "--weights", "none", "--layer", "relu1_1", "--content-loss", "mse"]
    train += ["--content-layers", "relu1_1", "--style-layers", "image", "--crop", 16]
    return {
        "train": ["train", *train, "--batch-size", 1, "--steps", 1, "--epochs", 3, "-o", output],
        "stylize": ["stylize", source, "--style", source / "0.png", "-o", output],
        "augment": ["augment", source, output, "--styles", source],
        "export": ["export", "--unet", unet, "-o", output, "--version", 1, "--warm-up-size", 16],
        "prepare": ["prepare", source, "-o", output],
    }


def refuse(monkeypatch, output: Path, number: int, after: int) -> None:
    """Lets no more than `after` renames pass in a folder, or no folder be made."""
    count = [0]

    def wrap(function):
        def call(*arguments, **options):
            if str(arguments[-1]).startswith(str(output)) and not options.get("dir_fd"):
                count[0] += 1
                if count[0] > after:
                    raise OSError(number, os.strerror(number), str(arguments[-1]))
            return function(*arguments, **options)

        return call

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))


def times(output: Path) -> dict[str, int]:
    """When files under their final names were written."""
    found = {path.relative_to(output): path for path in output.rglob("*") if path.is_file()}
    return {
        place.as_posix(): path.stat().st_mtime_ns
        for place, path in found.items()
        if not place.parts[0].startswith(".")
    }


@pytest.mark.parametrize("command", ["train", "stylize", "augment", "export", "prepare"])
def test_full_disk(run, commands, monkeypatch, command):
    words = commands[command]
    output = Path(words[words.index("-o") + 1]) if "-o" in words else Path(words[2])
    with monkeypatch.context() as patch:
        refuse(patch, output, 28, after=0 if command == "export" else 4)
        status, messages = run(*words, "--quiet")
    assert status == 3, messages
    assert messages.startswith(f"tfstyle: error: {output}")
    assert "the disk is full. Make room there" in messages
    assert messages.count("\n") == 1
    assert not [path for path in output.rglob("*") if is_temporary(path.name)]
    kept = times(output)
    assert bool(kept) == (command != "export")
    status, messages = run(*words, "--quiet")
    assert status == 0, messages
    assert not [path for path in output.rglob("*") if is_temporary(path.name)]
    if command in ("stylize", "prepare"):
        assert kept.items() <= times(output).items()


class TestSigterm:
    @pytest.mark.parametrize("lost", [False, True], ids=["raised", "lost inside a library"])
    def test_ends_as_ctrl_c_does(self, run, commands, monkeypatch, lost):
        def work(*_, **__):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                threading.Event().wait(10)
                pytest.fail("was not interrupted")
            except KeyboardInterrupt:
                if lost:
                    raise ValueError("None values not supported") from None
                raise

        before = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr("tfstyle.runs.stylize.stylize_scans", work)
        assert run(*commands["stylize"]) == (143, "tfstyle: interrupted\n")
        assert signal.getsignal(signal.SIGTERM) == before

    @pytest.mark.slow
    def test_training_stops_between_two_steps(self, run, commands, monkeypatch):
        write = train.training_progress

        def progress(update, settings):
            def kill(done, total, label):
                if done == 2:
                    os.kill(os.getpid(), signal.SIGINT)

            return write(kill, settings)

        words = commands["train"]
        with monkeypatch.context() as patch:
            patch.setattr(train, "training_progress", progress)
            assert run(*words) == (130, "tfstyle: interrupted\n")
        assert (Path(words[-1]) / "backup" / "state.npz").exists()
        assert run(*words)[0] == 0
