"""No value of a header in what tfstyle writes, prints, logs or raises."""

import json
import logging
import os
import shutil
import traceback
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from tests.canaries import leaks, plant
from tests.data.conftest import change
from tfstyle.cli import main
from tfstyle.data import find_labelled, list_scans, read_scan, read_scans, write_png
from tfstyle.data.dicom import frames_of, read_dataset
from tfstyle.data.privacy import reason_of, values_unsaid
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


@pytest.fixture
def stylize(archive, style, model, tmp_path):
    """``stylize(output, source, **options)`` with the archive as the source by default."""

    def run(output="out", source=archive[0], **options):
        return stylize_scans(model, [source], [style], tmp_path / output, **options)

    return run


@pytest.fixture
def damaged(archive, tmp_path):
    """A copy of the archive, and what damages the header of one of its files."""
    shutil.copytree(archive[0], tmp_path / "in")

    def edit(name, **changes):
        path = tmp_path / "in" / "study" / name
        if changes:
            dataset = pydicom.dcmread(path)
            change(dataset, changes)
            dataset.save_as(path)
        return path

    return edit


class TestStylize:
    def test_basic(self, archive, stylize, tmp_path, spoken):
        done = stylize(deidentify="basic")
        assert len(done) == 2
        texts = [json.dumps(asdict(one)) for one in done]
        assert leaks(archive[1], tmp_path / "out", spoken(), *texts) == []
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == [RECORDS, "scan-0001", "scan-0002"]
        derived = [pydicom.dcmread(one.files[0]) for one in done]
        assert derived[0].StudyInstanceUID == derived[1].StudyInstanceUID
        assert derived[0].FrameOfReferenceUID == derived[1].FrameOfReferenceUID
        assert derived[0].SeriesInstanceUID != derived[1].SeriesInstanceUID
        # Nothing in the output says which source a result came from, nor how UIDs were made.
        assert leaks([b"study"], tmp_path / "out") == []
        assert not (tmp_path / "out" / RECORDS / UID_KEY).exists()

    def test_keep_says_it_in_the_headers_alone(self, archive, stylize, tmp_path, spoken):
        images = [Path(path) for one in stylize() for path in one.files]
        assert len(leaks(archive[1], *images)) > 500
        for image in images:
            image.unlink()
        assert leaks(archive[1], tmp_path / "out", spoken()) == []

    def test_other_formats(self, archive, stylize, tmp_path, spoken):
        stylize(output_format="nifti")
        stylize("basic", output_format="png", deidentify="basic")
        assert leaks(archive[1], tmp_path / "out", tmp_path / "basic", spoken()) == []
        assert leaks([b"study"], tmp_path / "basic") == []

    def test_interrupted_runs_go_on_with_the_same_uids(self, archive, stylize, tmp_path):
        out, options = tmp_path / "out", {"deidentify": "basic", "batch_size": 1}

        class StopError(Exception):
            pass

        def stop(done, total, label):
            if done == total:  # in the last scan
                raise StopError

        with pytest.raises(StopError):
            stylize(progress=stop, **options)
        assert leaks(archive[1], out) == []
        assert (out / RECORDS / UID_KEY).stat().st_mode & 0o077 == 0
        done = stylize(**options)
        assert sum(one.resumed for one in done) > 0
        studies = {pydicom.dcmread(f).StudyInstanceUID for one in done for f in one.files}
        assert len(studies) == 1
        again = stylize(**options)
        assert [one.source for one in again] == [one.source for one in done]
        assert all(one.resumed for one in again)

    def test_text_in_the_pixels_is_refused_before_any_work(self, stylize, damaged, tmp_path):
        damaged("2.dcm", BurnedInAnnotation="YES")
        with pytest.raises(InputFileError, match=r"2\.dcm: Burned In"):
            stylize(source=tmp_path / "in", deidentify="basic", output_format="png")
        assert not (tmp_path / "out").exists()

    @pytest.mark.slow
    def test_damaged_slice_in_a_worker(self, archive, stylize, damaged, tmp_path, spoken):
        os.truncate(path := damaged("1.dcm"), path.stat().st_size - 9000)
        with pytest.raises(InputFileError, match=r"1\.dcm: .*(truncated|cut short)") as info:
            stylize(source=tmp_path / "in", workers=1, window="bone")
        assert leaks(archive[1], everything(info.value), spoken()) == []


def everything(error: BaseException) -> str:
    """The error with its causes, as Python prints it where nobody catches it."""
    return "".join(traceback.format_exception(error))


class TestCommand:
    @pytest.mark.slow
    def test_stylize(self, archive, style, tmp_path, capfd):
        folder, canaries = archive
        words = ["stylize", folder, "--style", style, "-o", tmp_path / "o", "--debug", "--json"]
        words += ["--method", "histogram_matching", "--deidentify", "basic", "--workers", "1"]
        assert main([*map(str, words)]) == 0
        said = capfd.readouterr()
        assert len(json.loads(said.out)["scans"]) == 2
        assert leaks(canaries, *said, tmp_path / "o") == []

    def test_info(self, archive, capfd):
        folder, canaries = archive
        assert main(["info", str(folder), "--json"]) == 0
        said = "".join(capfd.readouterr())
        assert "128" in said
        assert leaks(canaries, said) == []

    def test_errors(self, archive, damaged, tmp_path, capfd):
        path = damaged("0.dcm")
        text = garble(pydicom.dcmread(path), "RescaleSlope", path)
        for target in (path, tmp_path / "in"):
            assert main(["info", str(target)]) == 1
            said = "".join(capfd.readouterr())
            assert "0.dcm: " in said
            assert leaks([*archive[1], text], said) == []


class TestAugment:
    def test_outputs(self, archive, style, model, damaged, tmp_path, spoken):
        folder, canaries = archive
        cut = damaged("0.dcm").with_name("cut.dcm")
        dataset = pydicom.dcmread(folder / "study" / "0.dcm")
        dataset.SeriesInstanceUID = generate_uid()
        dataset.save_as(cut)
        os.truncate(cut, 30_000)
        bank = StyleBank.from_scans(model, [style, folder])
        bank.save(tmp_path / "bank.npz")
        bank = StyleBank.load(tmp_path / "bank.npz")
        for profile in ("basic", "keep"):
            out = tmp_path / profile
            result = augment_scans(model, tmp_path / "in", out, bank, deidentify=profile)
            assert (result.written, len(result.failed)) == (2, 1)
            if profile == "keep":
                assert len(leaks(canaries, out)) > 500
                shutil.rmtree(out / "images")
            assert leaks(canaries, out, repr(result), json.dumps(asdict(result))) == []
        assert leaks(canaries, tmp_path / "bank.npz", repr(bank.names), spoken()) == []
        assert leaks([b"study"], tmp_path / "basic" / "images") == []

    def test_dicom_masks_are_refused(self, archive, bank, model, tmp_path):
        for number, name in enumerate(("in", "masks")):
            (tmp_path / name).mkdir()
            shutil.copy(archive[0] / "study" / f"{number}.dcm", tmp_path / name / "a.dcm")
        arguments, options = (model, tmp_path / "in"), {"masks": tmp_path / "masks"}
        result = augment_scans(*arguments, tmp_path / "o", bank, deidentify="basic", **options)
        assert "a DICOM mask names its patient" in result.failed["a.dcm"]
        assert not list((tmp_path / "o").rglob("*.dcm"))
        result = augment_scans(*arguments, tmp_path / "p", bank, **options)
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


GARBLED = ["BitsStored", "ImagePositionPatient", "NumberOfFrames", "PixelSpacing", "RescaleSlope",
           "SOPInstanceUID", "WindowCenter"]  # fmt: skip


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
    if keyword != "SOPInstanceUID":  # told apart from others by text
        assert leaks([text, b"DOE", b"JANE"], *errors, spoken()) == []


class Copies:
    """A stand-in for a model."""

    def stylize(self, content, style, **options):
        return content


def test_reason():
    for error, said in (
        (ValueError("could not convert to float: 'DOE'"), "could not convert to float"),
        (ValueError('Value "DOE" is not valid'), "Value … is not valid"),
        (KeyError("DOE"), "KeyError"),
        (ImportError("No module named 'a'"), "No module named 'a'"),
        (EOFError("Unexpected end. Read 0 bytes."), "Unexpected end. Read 0 bytes"),
    ):
        assert reason_of(error) == said


def test_pydicom_is_left_as_it_was():
    before = pydicom.config.settings.reading_validation_mode
    with values_unsaid():
        with values_unsaid():
            assert pydicom.config.settings.reading_validation_mode == pydicom.config.IGNORE
        assert pydicom.config.settings.reading_validation_mode == pydicom.config.IGNORE
    assert pydicom.config.settings.reading_validation_mode == before
