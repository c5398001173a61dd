"""Files and folders that are whole or not there, and what killed processes leave."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tfstyle._private.files import (
    is_temporary,
    is_unused,
    locked,
    remove_abandoned,
    temporary_beside,
)
from tfstyle._private.files import write_atomically as write
from tfstyle.errors import OutputError, StorageError


class TestWriting:
    def test_whole(self, tmp_path):
        write(tmp_path / "a", b"one")
        write(tmp_path / "a", b"two")
        assert (tmp_path / "a").read_bytes() == b"two"
        assert os.listdir(tmp_path) == ["a"]
        umask = os.umask(0)
        os.umask(umask)
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask

    def test_failure_leaves_the_old_file_alone(self, tmp_path, monkeypatch):
        write(tmp_path / "a", b"one")

        def fail(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", fail)
        with pytest.raises(StorageError, match=r"/a: cannot be written: the disk is full\. Make"):
            write(tmp_path / "a", b"two")
        assert os.listdir(tmp_path) == ["a"]
        assert (tmp_path / "a").read_bytes() == b"one"

    def test_folder(self, tmp_path):
        with temporary_beside(tmp_path / "a", folder=True) as folder:
            assert is_temporary(folder.name)
            (folder / "x").write_text("x")
            os.rename(folder, tmp_path / "a")
        with temporary_beside(tmp_path / "b", folder=True) as folder:
            (folder / "x").write_text("x")
        assert os.listdir(tmp_path) == ["a"]


class TestAbandoned:
    NAMES = (".a.0123abcd.tfstyle", ".b.png.01234567.tfstyle")

    def make(self, folder):
        folder.mkdir(exist_ok=True)
        (folder / self.NAMES[0]).write_text("half")
        (folder / self.NAMES[1]).mkdir()
        (folder / self.NAMES[1] / "x").write_text("half")

    def test_removed(self, tmp_path):
        kept = {".hidden", "a.0123abcd.tfstyle", ".a.tfstyle", ".a.0123ABCD.tfstyle", ".tfstyle"}
        for name in kept:
            (tmp_path / name).write_text("whole")
        self.make(tmp_path)
        self.make(tmp_path / "below")
        remove_abandoned(tmp_path)
        assert set(os.listdir(tmp_path)) == {*kept, "below"}
        assert set(os.listdir(tmp_path / "below")) == set(self.NAMES)
        remove_abandoned(tmp_path, deep=True)
        assert os.listdir(tmp_path / "below") == []
        remove_abandoned(tmp_path / "nowhere")

    def test_links_are_left(self, tmp_path):
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "x").write_text("x")
        (tmp_path / self.NAMES[0]).symlink_to(tmp_path / "real")
        remove_abandoned(tmp_path, deep=True)
        assert (tmp_path / "real" / "x").exists()


def test_lock_is_held_until_its_process_is_killed(tmp_path):
    code = (
        "import sys, time\n"
        "from tfstyle._private.files import locked, temporary_beside\n"
        "with locked(sys.argv[1]), temporary_beside(sys.argv[1] + '/a'):\n"
        "    print('there', flush=True)\n"
        "    time.sleep(100)\n"
    )
    folder = tmp_path / "new"
    process = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"there\n"
        assert len(os.listdir(folder)) == 2
        assert is_unused(folder)
        with pytest.raises(OutputError, match="is being written by another run"), locked(folder):
            pass
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with locked(folder):
        remove_abandoned(folder)
    assert os.listdir(folder) == []


def test_storage_errors_say_what_to_do():
    for error, words in (
        (OSError(errno.ENOSPC, "x"), "the disk is full"),
        (OSError(errno.EDQUOT, "x"), "the quota is used up"),
        (OSError("write failed, errno = 28, error message = 'No space left on device'"), "is full"),
    ):
        found = OutputError.of("/out/x", error)
        assert isinstance(found, StorageError)
        assert str(found).startswith("/out/x: cannot be written: ")
        assert words in str(found)
        assert "\n" not in str(found)
        other = pickle.loads(pickle.dumps(found))  # as from a process that writes slices
        assert (type(other), str(other)) == (type(found), str(found))
