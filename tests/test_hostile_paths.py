"""Paths made to harm: names, links and records that lead elsewhere."""

import json
import os
import zipfile
from dataclasses import fields
from pathlib import PurePosixPath

import numpy as np
import pydicom
import pytest

from tests.test_hostile_files import DEEP, ct, save, save_volume
from tfstyle._private.files import check_zip, is_inside, safe_name
from tfstyle.data import ScanFiles, list_scans, read_scan, read_scans, resolve_window
from tfstyle.data.read import find_files
from tfstyle.errors import InputFileError, OutputError
from tfstyle.limits import limited
from tfstyle.runs.manifest import MANIFEST, SETTINGS, ManifestFolder
from tfstyle.runs.masks import Masks
from tfstyle.runs.outputs import write_generated
from tfstyle.runs.results import RECORDS, Task, finished, publish
from tfstyle.runs.scans import StylizedScan
from tfstyle.runs.sources import Source, find_sources
from tfstyle.segmentation import UNet


class TestPaths:
    def test_safe_name(self):
        for text, name in (
            ("1.2/../../etc", "1.2_.._.._etc"),
            ("..", "scan"),
            (".hidden", "hidden"),
            ("a\0b\nc", "a_b_c"),
            ("é" * 300, "é" * 200),
        ):
            assert safe_name(text) == name

    def test_inside(self, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "out").symlink_to(tmp_path)
        (tmp_path / "in" / "loop").symlink_to(tmp_path / "in" / "loop")
        folder = tmp_path / "in"
        assert is_inside(folder, "a/b")
        assert is_inside(folder, "a/../b")
        for path in ("..", "a/../../b", "/etc/passwd", "out/x", "loop/x", "a\0b"):
            assert not is_inside(folder, path), path

    def test_uids_do_not_become_paths(self, tmp_path):
        source, uid = tmp_path / "in", "1.2/../../../../escaped.x"
        source.mkdir()
        for series in (uid, "1.2.9"):
            for number in range(2):
                dataset = ct(ImagePositionPatient=[0, 0, number])
                dataset.file_meta.MediaStorageSOPInstanceUID = "1.2"
                for keyword, value in (
                    ("SeriesInstanceUID", series),
                    ("SOPInstanceUID", f"../../{number}"),
                ):
                    dataset[keyword] = pydicom.DataElement(
                        keyword, "UI", value, validation_mode=pydicom.config.IGNORE
                    )
                save(dataset, source / f"{len(series)}-{number}.dcm")
        scans = read_scans(source)
        assert len(scans) == 2
        assert all(scan.name.strip(".") and "/" not in scan.name for scan in scans)
        sources, damaged = find_sources(source, ())
        assert not damaged
        for found in sources:
            assert is_inside(tmp_path / "out", tmp_path / "out" / "images" / f"{found.stem}-1")
        for scan in scans:
            window = resolve_window("range", scan)
            out = tmp_path / "out" / scan.name
            write_generated(scan, np.zeros(scan.shape), window, "dicom", out)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]

    def test_link_out_of_the_input_folder(self, tmp_path):
        outside, inside = tmp_path / "outside", tmp_path / "inside"
        outside.mkdir()
        inside.mkdir()
        save_volume(outside / "other.nii")
        save_volume(inside / "own.nii")
        (inside / "folder").symlink_to(outside)
        (inside / "file.nii").symlink_to(outside / "other.nii")
        (inside / "same.nii").symlink_to(inside / "own.nii")
        (inside / "loop").symlink_to(inside)
        names = [os.path.relpath(path, inside) for path in find_files(inside)]
        assert names == ["file.nii", "folder/other.nii", "own.nii", "same.nii"]
        with limited(follow_links=0):
            names = [os.path.relpath(path, inside) for path in find_files(inside)]
        assert names == ["own.nii", "same.nii"]

    def test_pipes_and_devices_are_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "a.dcm")
        (tmp_path / "b.png").symlink_to("/dev/zero")
        assert list_scans(tmp_path) == ([], [])
        for path in ("a.dcm", "b.png"):
            for read in (list_scans, read_scans):
                with pytest.raises(InputFileError, match="neither a file nor a folder"):
                    read(tmp_path / path)

    def test_archive_with_members_that_lead_out(self, tmp_path):
        path, name = tmp_path / "a.keras", "a/../../evil"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "x")
        for read in (check_zip, UNet.load):
            with pytest.raises(InputFileError, match="leads out of it"):
                read(path)

    def test_manifest_with_odd_rows(self, tmp_path):
        (tmp_path / "outside").write_text("x")
        output = tmp_path / "set"
        (output / "images").mkdir(parents=True)
        (output / "images" / "a.nii").write_text("x")
        row = {"status": "done", "source": "a", "part": 0, "parts": 1, "copy": 1}
        row |= {"image": "images/a.nii", "mask": None}
        changes = [{"image": path} for path in ("/etc/passwd", 7, "a\0", "x" * 5000)]
        changes += [{"mask": "images/../../outside"}, {"parts": 10**9}, {"source": ["a"]}]
        rows = [row, *({**row, "copy": 2 + i, **change} for i, change in enumerate(changes))]
        text = "".join(json.dumps(r) + "\n" for r in rows)
        (output / MANIFEST).write_text(text + DEEP + "\n[]\n{}\nnull\n")
        (output / SETTINGS).write_text('{"seed": 0}')
        with ManifestFolder(output, {"seed": 0}) as manifest:
            assert manifest.complete("a", 1)
            assert list(manifest.done["a"]) == [(0, 1)]
            assert len(manifest.rows) == 1

    def test_links_in_place_of_working_folders(self, tmp_path):
        outside = tmp_path / "outside"
        outside.mkdir()
        out = tmp_path / "out"
        out.mkdir()
        (out / RECORDS).symlink_to(outside)
        scan = read_scan(save_volume(tmp_path / "a.nii"))
        with pytest.raises(OutputError, match="a link leads out of"):
            publish(Task(scan, "nifti", None, out, out / "scan.nii", "j"), pytest.fail)
        (out / "masks").symlink_to(outside)
        mask = tmp_path / "in" / "a_mask.png"
        mask.parent.mkdir()
        mask.write_bytes(b"x")
        masks = Masks(mask.parent, dicom=True)
        files = ScanFiles((str(tmp_path / "a.png"),), "png")
        image = Source("a.png", files, "a", ".png", PurePosixPath("a_mask"))
        with pytest.raises(OutputError, match="a link leads out of"):
            masks.hand_on(image, out / "masks", "a")
        assert list(outside.iterdir()) == []

    def test_record_that_points_elsewhere(self, tmp_path):
        target = tmp_path / "out" / "scan.nii"
        scan = read_scan(save_volume(tmp_path / "a.nii"))
        task, other = (Task(scan, "nifti", None, target.parent, target, job) for job in "ji")
        place = task.place
        place.mkdir(parents=True)
        target.write_text("x")
        window = {"center": 40.0, "width": 400.0}
        result = {field.name: 1 for field in fields(StylizedScan)}
        result.update(window=window, style_windows=[window], size=[1, 1], files=[str(target)])
        record = place / "record.json"

        def write(result):
            record.write_text(json.dumps({"job": "j", "result": result}))

        write(result)
        assert finished(task, StylizedScan).files == (str(target),)
        assert finished(other, StylizedScan) is None
        for files in (["/etc/passwd"], [str(target.parent / ".." / "x")], [3], 5):
            write({**result, "files": files})
            assert finished(task, StylizedScan) is None
        for wrong in ([], None, {**result, "window": {"center": 10**400, "width": 1}}):
            write(wrong)
            assert finished(task, StylizedScan) is None
        for text in ("[]", "null", DEEP, "{"):
            record.write_text(text)
            assert finished(task, StylizedScan) is None
