"""No value of a header in what tfstyle writes, prints, logs or raises."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from tests.canaries import leaks, plant
from tests.models import small_model
from tfstyle.cli import main
from tfstyle.data import find_labelled, list_scans, read_scan, read_scans, write_png
from tfstyle.data.dicom import frames_of, read_dataset
from tfstyle.data.privacy import values_unsaid
from tfstyle.errors import InputFileError, TfstyleError
from tfstyle.runs import augment_scans, stylize_scans
from tfstyle.runs.stylize import RECORDS, UID_KEY
from tfstyle.style_bank import StyleBank


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A folder that two series of two files share, and what to look for."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "study").mkdir()
    canaries: dict[str, bytes] = {}
    for i in range(4):
        dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
        dataset.pixel_array  # noqa: B018 - decoded while the header is as it was
        planted = plant(dataset, i)
        if i >= 2:  # another series in the same folder
            dataset.SeriesInstanceUID = "1.2.9999.2.4444000333"
            planted["SeriesInstanceUID"] = b"4444000333"
        dataset.ImagePositionPatient = [0, 0, 2.0 * i]
        dataset.InstanceNumber = i + 1
        canaries |= {f"{name}.{i}": value for name, value in planted.items()}
        dataset.save_as(folder / "study" / f"{i}.dcm", enforce_file_format=True)
    return folder, frozenset(canaries.values())


@pytest.fixture
def spoken(capfd, caplog):
    """``spoken()`` gives all that went to stdout, stderr, warnings and logs since the start."""
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def said() -> str:
            out, err = capfd.readouterr()
            return "\n".join([out, err, caplog.text, *(str(one.message) for one in caught)])

        yield said


@pytest.fixture(scope="module")
def style(tmp_path_factory):
    path = tmp_path_factory.mktemp("style") / "style.png"
    write_png(np.linspace(0.2, 1.0, 40 * 30).reshape(40, 30), path)
    return path


@pytest.fixture(scope="module")
def network():
    return small_model()


class TestStylize:
    def test_basic(self, archive, style, network, tmp_path, spoken):
        folder, canaries = archive
        done = stylize_scans(
            network, [folder], [style], tmp_path / "out", deidentify="basic", workers=2
        )
        assert len(done) == 2
        texts = [json.dumps(one.as_dict()) for one in done]
        assert leaks(canaries, tmp_path / "out", spoken(), *texts) == []
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == [RECORDS, "scan-0001", "scan-0002"]
        derived = [pydicom.dcmread(one.files[0]) for one in done]
        assert derived[0].StudyInstanceUID == derived[1].StudyInstanceUID
        assert derived[0].FrameOfReferenceUID == derived[1].FrameOfReferenceUID
        assert derived[0].SeriesInstanceUID != derived[1].SeriesInstanceUID
        # Nothing in the output says which source a result came from, nor how UIDs were made.
        assert leaks([b"study"], tmp_path / "out") == []
        assert not (tmp_path / "out" / RECORDS / UID_KEY).exists()

    def test_keep_says_it_in_the_headers_alone(self, archive, style, network, tmp_path, spoken):
        folder, canaries = archive
        done = stylize_scans(network, [folder], [style], tmp_path / "out")
        images = [path for one in done for path in one.files]
        assert len(leaks(canaries, *map(Path, images))) > 500
        for image in map(Path, images):
            image.unlink()
        assert leaks(canaries, tmp_path / "out", spoken()) == []

    @pytest.mark.parametrize("kind", ["nifti", "png"])
    def test_other_formats(self, archive, style, network, tmp_path, spoken, kind):
        folder, canaries = archive
        out = tmp_path / "out"
        stylize_scans(network, [folder], [style], out, output_format=kind)
        assert leaks(canaries, out, spoken()) == []
        stylize_scans(
            network, [folder], [style], tmp_path / "o", output_format=kind, deidentify="basic"
        )
        assert leaks([*canaries, b"study"], tmp_path / "o") == []
        assert leaks(canaries, spoken()) == []

    def test_interrupted_runs_go_on_with_the_same_uids(self, archive, style, network, tmp_path):
        folder, canaries = archive
        out = tmp_path / "out"

        class StopError(Exception):
            pass

        def stop(done, total, label):
            if done == total:  # in the last scan
                raise StopError

        with pytest.raises(StopError):
            stylize_scans(
                network, [folder], [style], out, deidentify="basic", progress=stop, batch_size=1
            )
        assert leaks(canaries, out) == []
        key = (out / RECORDS / UID_KEY).read_text()
        assert (out / RECORDS / UID_KEY).stat().st_mode & 0o077 == 0
        done = stylize_scans(network, [folder], [style], out, deidentify="basic", batch_size=1)
        assert sum(one.resumed for one in done) > 0
        studies = {pydicom.dcmread(f).StudyInstanceUID for one in done for f in one.files}
        assert len(studies) == 1
        assert key not in [str(p) for p in out.rglob("*")]
        again = stylize_scans(network, [folder], [style], out, deidentify="basic", batch_size=1)
        assert [one.source for one in again] == [one.source for one in done]
        assert all(one.resumed for one in again)

    def test_text_in_the_pixels_is_refused_before_any_work(self, archive, style, tmp_path):
        folder, _ = archive
        shutil.copytree(folder, tmp_path / "in")
        last = tmp_path / "in" / "study" / "2.dcm"
        dataset = pydicom.dcmread(last)
        dataset.BurnedInAnnotation = "YES"
        dataset.save_as(last)
        with pytest.raises(InputFileError, match=r"2\.dcm: Burned In"):
            stylize_scans(
                None,
                [tmp_path / "in"],
                [style],
                tmp_path / "o",
                deidentify="basic",
                output_format="png",
            )
        assert not (tmp_path / "o").exists()

    def test_damaged_slice_in_a_worker(self, archive, style, network, tmp_path, spoken):
        folder, canaries = archive
        shutil.copytree(folder, tmp_path / "in")
        path = tmp_path / "in" / "study" / "1.dcm"
        path.write_bytes(path.read_bytes()[:-9000])
        with pytest.raises(InputFileError, match=r"1\.dcm: .*(truncated|cut short)") as info:
            stylize_scans(
                network, [tmp_path / "in"], [style], tmp_path / "o", workers=1, window="bone"
            )
        assert leaks(canaries, everything(info.value), spoken()) == []


def everything(error: BaseException) -> str:
    """The error with its causes, as Python prints it where nobody catches it."""
    return "".join(traceback.format_exception(error))


class TestCommand:
    def test_stylize(self, archive, style, tmp_path):
        folder, canaries = archive
        command = ["stylize", folder, "--style", style, "-o", tmp_path / "o", "--debug", "--json"]
        command += ["--method", "histogram_matching", "--deidentify", "basic", "--workers", "1"]
        run = subprocess.run(
            [sys.executable, "-m", "tfstyle", *command], capture_output=True, check=False
        )
        assert run.returncode == 0, run.stderr
        assert len(json.loads(run.stdout)["scans"]) == 2
        assert leaks(canaries, run.stdout, run.stderr, tmp_path / "o") == []

    def test_info(self, archive, capfd):
        folder, canaries = archive
        assert main(["info", str(folder), "--json"]) == 0
        said = "".join(capfd.readouterr())
        assert "128" in said
        assert leaks(canaries, said) == []

    def test_errors(self, archive, style, tmp_path, capfd):
        folder, canaries = archive
        shutil.copytree(folder, tmp_path / "in")
        path = tmp_path / "in" / "study" / "0.dcm"
        dataset = pydicom.dcmread(path)
        text = garble(dataset, "RescaleSlope", path)
        for command in (["info", str(path)], ["info", str(tmp_path / "in")]):
            assert main(command) == 1
            said = "".join(capfd.readouterr())
            assert "0.dcm: " in said
            assert leaks([*canaries, text], said) == []


class TestAugment:
    def test_outputs(self, archive, style, network, tmp_path, spoken):
        folder, canaries = archive
        shutil.copytree(folder, tmp_path / "in")
        dataset = pydicom.dcmread(folder / "study" / "0.dcm")
        dataset.SeriesInstanceUID = generate_uid()
        dataset.save_as(tmp_path / "in" / "cut.dcm")
        os.truncate(tmp_path / "in" / "cut.dcm", 30_000)
        bank = StyleBank.from_scans(network, [style, folder])
        bank.save(tmp_path / "bank.npz")
        bank = StyleBank.load(tmp_path / "bank.npz")
        for profile in ("basic", "keep"):
            out = tmp_path / profile
            result = augment_scans(network, tmp_path / "in", out, bank, deidentify=profile)
            assert (result.written, len(result.failed)) == (2, 1)
            if profile == "keep":
                assert len(leaks(canaries, out)) > 500
                shutil.rmtree(out / "images")
            assert leaks(canaries, out, repr(result), json.dumps(result.as_dict())) == []
        assert leaks(canaries, tmp_path / "bank.npz", repr(bank.names), spoken()) == []
        assert leaks([b"study"], tmp_path / "basic" / "images") == []

    def test_going_on_keeps_names_and_uids(self, archive, style, network, tmp_path):
        folder, _ = archive
        bank = StyleBank.from_scans(network, [style])
        out = tmp_path / "out"
        augment_scans(network, folder, out, bank, deidentify="basic")
        before = {p: pydicom.dcmread(p).StudyInstanceUID for p in out.rglob("*.dcm")}
        gone = next(path for path in (out / "images").iterdir())
        shutil.rmtree(gone)
        result = augment_scans(network, folder, out, bank, deidentify="basic")
        assert result.written == 1
        after = {p: pydicom.dcmread(p).StudyInstanceUID for p in out.rglob("*.dcm")}
        assert after == before

    def test_dicom_masks_are_refused(self, archive, style, network, tmp_path):
        folder, _ = archive
        (tmp_path / "in").mkdir()
        shutil.copy(folder / "study" / "0.dcm", tmp_path / "in" / "a.dcm")
        (tmp_path / "masks").mkdir()
        shutil.copy(folder / "study" / "1.dcm", tmp_path / "masks" / "a.dcm")
        bank = StyleBank.from_scans(network, [style])
        options = {"masks": tmp_path / "masks"}
        result = augment_scans(
            network, tmp_path / "in", tmp_path / "o", bank, deidentify="basic", **options
        )
        assert "a DICOM mask names its patient" in result.failed["a.dcm"]
        assert not list((tmp_path / "o").rglob("*.dcm"))
        result = augment_scans(network, tmp_path / "in", tmp_path / "p", bank, **options)
        assert result.failed == {}


def test_records_of_a_data_set(archive, tmp_path, spoken):
    folder, canaries = archive
    for i in range(3):
        (tmp_path / "in" / str(i)).mkdir(parents=True)
        shutil.copy(folder / "study" / f"{i}.dcm", tmp_path / "in" / str(i) / "ct.dcm")
        (tmp_path / "masks" / str(i)).mkdir(parents=True)
        write_png(np.zeros((128, 128)), tmp_path / "masks" / str(i) / "ct.png")
    records = find_labelled(tmp_path / "in", tmp_path / "masks")
    read = [record.read() for record in records]
    assert len(read) == 3
    assert leaks(canaries, repr(read), spoken()) == []


def test_names_of_series(archive):
    folder, canaries = archive
    scans = read_scans(folder)
    assert len({scan.name for scan in scans}) == 2
    assert leaks(canaries, repr([scan.name for scan in scans])) == []
    (second,) = read_scans(folder, series="1.2.9999.2.4444000333")
    assert read_scan(folder, series=second.name).name == second.name


def garble(dataset, keyword, path) -> bytes:
    """Writes a file in which a numeric attribute holds text that no number is."""
    tag = pydicom.tag.Tag(keyword)
    text = b"DOE^JANE 1970"
    with values_unsaid():
        dataset[tag] = pydicom.DataElement(tag, "LO", text.decode())
        dataset.save_as(path, enforce_file_format=True)
    return text


GARBLED = [
    "AcquisitionNumber", "BitsStored", "BurnedInAnnotation", "Columns", "EchoTime",
    "FrameOfReferenceUID", "ImageOrientationPatient", "ImagePositionPatient", "ImageType",
    "InstanceNumber", "KVP", "Modality", "NumberOfFrames", "PixelPaddingValue", "PixelSpacing",
    "RescaleSlope", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "WindowCenter",
]  # fmt: skip


@pytest.mark.parametrize("keyword", GARBLED)
def test_no_message_quotes_a_damaged_attribute(keyword, tmp_path, spoken, style):
    path = tmp_path / "ct.dcm"
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    dataset.SOPInstanceUID = generate_uid()
    text = garble(dataset, keyword, path)
    errors = []
    for work in (
        lambda: read_scan(path),
        lambda: frames_of(str(path), read_dataset(str(path), pixels=False)),
        lambda: list_scans(path),
        lambda: stylize_scans(
            Copies(), [path], [style], tmp_path / "o", deidentify="basic", window="range"
        ),
    ):
        try:
            work()
        except TfstyleError as error:
            errors.append(everything(error))
    if keyword not in ("SOPInstanceUID", "SeriesInstanceUID"):  # told apart from others by text
        assert leaks([text, b"DOE", b"JANE"], *errors, spoken()) == []


class Copies:
    """A stand-in for a model."""

    def stylize(self, content, style, **options):
        return content
