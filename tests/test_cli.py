"""The command: parsing, printing, exit status. The work itself is tested with the library."""

import inspect
import json
import os
import pkgutil
import shlex
import subprocess
import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest

from tests.process import ROOT, python
from tfstyle import cli
from tfstyle.data import LABELS, read_scan, write_png
from tfstyle.errors import ArgumentError, WeightsError

# What a user has, without the settings of conftest.py.
USER = {k: v for k, v in os.environ.items() if not k.startswith(("TF_", "CUDA", "GRPC"))}


class Half:
    """Halves the content: a model without weights."""

    def stylize(self, content, style, strength=1.0, style_weights=None, **options):
        self.strength = strength
        return np.asarray(content) * np.float32(0.5)


@pytest.fixture
def half(monkeypatch):
    model = Half()
    monkeypatch.setattr("tfstyle.presets.open_model", lambda source: model)
    return model


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "in.png"
    write_png(np.linspace(0, 1, 30 * 20).reshape(30, 20), path)
    return path


class TestHelp:
    @pytest.mark.parametrize("command", cli.COMMANDS)
    def test_each_option_is_told_and_each_example_is_a_command(self, run, monkeypatch, command):
        monkeypatch.setenv("COLUMNS", "80")
        status, out, err = run(command, "--help")
        assert (status, err) == (0, "")
        assert max(map(len, out.splitlines())) <= 80
        assert "None" not in out
        help_, examples = out.split("Examples:\n")
        for argument in cli.app[command].assemble_argument_collection(parse_docstring=True):
            if argument.name.startswith("--"):
                assert argument.name in help_
                assert argument.parameter.help or argument.children, argument.name
        for line in examples.replace("\\\n", "").splitlines():
            for words in line.split("&&"):
                program, name, *_ = shlex.split(words)
                assert program == "tfstyle"
                cli.parse(shlex.split(words)[1:])
        assert name == command or command == "prepare"

    @pytest.mark.parametrize(
        ("command", "function"),
        [
            ("stylize", "tfstyle.runs.stylize:stylize_scans"),
            ("augment", "tfstyle.runs.augment:augment_scans"),
            ("segment", "tfstyle.runs.segment:segment_scans"),
            ("prepare", "tfstyle.runs.prepare:prepare_scans"),
            ("export", "tfstyle.export:export_stylize"),
            ("convert", "tfstyle.convert:convert"),
            ("serve", "tfstyle.serving:serve"),
        ],
    )
    def test_defaults_are_those_of_the_library(self, command, function):
        ours = inspect.signature(cli.app[command].default_command).parameters
        theirs = inspect.signature(pkgutil.resolve_name(function)).parameters
        required = inspect.Parameter.empty
        shared = {
            name: (ours[name].default, theirs[name].default)
            for name in ours.keys() & theirs.keys()
            if required not in (ours[name].default, theirs[name].default)
        }
        assert shared
        assert all(mine == yours for mine, yours in shared.values()), shared

    def test_help_does_not_import_tensorflow(self):
        code = (
            "import sys, tfstyle.cli\n"
            "for words in ([], *([name] for name in tfstyle.cli.COMMANDS)):\n"
            "    assert tfstyle.cli.main([*words, '--help']) == 0\n"
            "sys.exit(bool({'tensorflow', 'keras', 'numpy', 'pydicom'} & set(sys.modules)))"
        )
        assert "stylize" in python("-c", code)


class TestUsage:
    def test_one_line_and_status_2(self, run):
        for words, message in (
            (["dance"], "dance"),
            (["stylize", "a.dcm", "-o", "out", "--styl", "b.dcm"], "--style"),
            (["stylize", "a", "-o", "out", "--style", "b", "c"], "c: not expected here; give all"),
            (["train", "-o", "x", "--phantoms=1", "--batch-size=0"], "at least 1, received 0"),
            (["export", "--preset", "a", "--model", "b"], "leave out one of the two"),
        ):
            status, out, err = run(*words)
            assert (status, out, err.count("\n")) == (2, "", 1)
            assert err.startswith("tfstyle: error: ")
            assert message in err

    def test_lists_with_a_negative_center(self):
        words = ["train", "-o", "x", "--content", "a", "b", "--windows", "bone", "-600,1500"]
        _, bound = cli.parse([*words, "--flips", "--content", "c", "--rescale", "0.5", "2"])
        run = bound.arguments["run"]
        assert (run.content, run.windows) == (("a", "b", "c"), ("bone", "-600,1500"))
        assert (run.flips, run.rescale) == (True, (0.5, 2.0))


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (ArgumentError("strength: bad\n  value."), 2),
            (WeightsError("no such preset"), 1),
            (RuntimeError("surprise"), 1),
        ],
    )
    def test_one_line_no_traceback(self, run, monkeypatch, error, status):
        def fail():
            raise error

        monkeypatch.setattr("tfstyle.info.describe_environment", fail)
        found, out, err = run("info")
        assert (found, out, err.count("\n")) == (status, "", 1)
        assert err.startswith("tfstyle: error: ")
        assert "Traceback" not in err
        with pytest.raises(type(error)):
            cli.main(["info", "--debug"])

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["gone.dcm"], "gone.dcm: no such file"),
            (["in.png", "-o", "in.png/below"], "cannot be written"),
            (["in.png", "--server", "127.0.0.1:1"], "127.0.0.1:1"),
        ],
    )
    def test_of_stylize(self, run, half, picture, tmp_path, monkeypatch, words, message):
        monkeypatch.chdir(tmp_path)
        output = [] if "-o" in words else ["-o", "o"]
        status, _, err = run("stylize", *words, *output, "--style", picture)
        assert status == 1
        assert message in err
        assert err.count("\n") == 1

    def test_a_damaged_scan_is_named_and_the_others_are_done(self, run, half, picture, tmp_path):
        (tmp_path / "letter.dcm").write_text("dear")
        words = ["stylize", tmp_path / "letter.dcm", picture, "--style", picture]
        status, out, err = run(*words, "-o", tmp_path / "o", "--json")
        assert status == 1
        found = json.loads(out)
        assert [scan["files"] for scan in found["scans"]] == [[str(tmp_path / "o" / "in.png")]]
        assert list(found["failed"]) == [str(tmp_path / "letter.dcm")]
        assert f"failed: {tmp_path / 'letter.dcm'}: not a DICOM file" in err
        assert "1 of the inputs failed; the others are done" in err


class TestStylize:
    def test_words(self, run, half, ct, picture, tmp_path):
        words = ["stylize", ct, "--style", picture, "-o", tmp_path / "out", "--window", "lung"]
        status, out, err = run(*words)
        assert (status, err) == (0, "")
        for word in ("CT_small", "-1350 … 150 HU", "clipped", "steps: values", "structure:"):
            assert word in out
        (file,) = (tmp_path / "out").rglob("*.dcm")
        assert pydicom.dcmread(file).ImageType[0] == "DERIVED"

    def test_log_warnings_reach_stderr_unless_quiet(self, run, half, ct, picture, tmp_path):
        folder = tmp_path / "series"
        folder.mkdir()
        for name, image_type in (("a", None), ("scout", ["ORIGINAL", "PRIMARY", "LOCALIZER"])):
            dataset = pydicom.dcmread(ct)
            dataset.ImageType = image_type or dataset.ImageType
            dataset.SOPInstanceUID += f".{len(name)}"
            dataset.save_as(folder / f"{name}.dcm")
        _, _, err = run("stylize", folder, "--style", picture, "-o", tmp_path / "o1")
        assert err.startswith("tfstyle: warning: ")
        assert "scout" in err
        assert run("stylize", folder, "--style", picture, "-o", tmp_path / "o2", "--quiet")[2] == ""


def test_augment_words_then_json(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr("tfstyle.presets.open_model", lambda source: model)
    for name in ("in/a.png", "in/b.png", "styles/c.png", "masks/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_png(np.random.default_rng(len(name)).random((20, 20)), tmp_path / name)
    words = ["augment", tmp_path / "in", tmp_path / "out", "--styles", tmp_path / "styles"]
    words += ["--per-image", "2", "--masks", tmp_path / "masks", "--gate", "-1"]
    status, out, err = run(*words, "--save-bank", tmp_path / "bank.npz")
    assert status == 0, err
    for line in ("styles: 1\n", "written: 4\n", "without mask: 1\n"):
        assert line in out
    names = {path.name for path in (tmp_path / "out" / "images").iterdir()}
    assert names == {"a-1.png", "a-2.png", "b-1.png", "b-2.png"}
    words[4] = tmp_path / "bank.npz"
    status, out, err = run(*words, "--per-image", "3", "--json")
    assert status == 0, err
    result = json.loads(out)
    assert (result["written"], result["kept"]) == (2, 4)
    assert result["without_mask"] == ["b.png"]


class TestMethods:
    def test_by_name_and_with_options(self, run, picture, tmp_path):
        style = tmp_path / "style.png"
        write_png(np.linspace(0, 1, 400).reshape(20, 20) ** 3, style)
        words = ["--method", "histogram-matching", "-o", tmp_path / "out.png", "--json"]
        status, out, err = run("stylize", picture, "--style", style, *words)
        assert (status, err) == (0, "")
        (scan,) = json.loads(out)["scans"]
        assert (read_scan(scan["files"][0]).pixels != read_scan(picture).pixels).any()
        for floor in ("0.01", "0.5"):
            words = ["--method", "nyul", "--set", f"floor={floor}", "--style", style]
            assert run("stylize", picture, *words, "-o", tmp_path / f"{floor}.png")[::2] == (0, "")
        a, b = (read_scan(tmp_path / f"{floor}.png").pixels for floor in ("0.01", "0.5"))
        assert (a != b).any()

    def test_bad_usage(self, run, picture, tmp_path):
        for words, message in (
            (["--method", "cyclegan"], "method: must be one of adain_mse"),
            (["--method", "contextual_transformation"], "is trained for one target domain"),
            (["--method", "nyul", "--set", "floor"], "must be NAME=VALUE, received 'floor'"),
            (["--style", "x.png", "--set", "seed=3"], "--set: sets options of another --method"),
        ):
            status, out, err = run("stylize", picture, "-o", tmp_path / "o.png", *words)
            assert (status, out) == (2, "")
            assert message in err
            assert err.count("\n") == 1


def test_export_of_a_unet(run, tmp_path, monkeypatch):
    from tfstyle.export import read_metadata
    from tfstyle.segmentation import UNet

    monkeypatch.chdir(tmp_path)
    UNet(classes=3, depth=2, width=4).save("unet.keras")
    status, out, _ = run("export", "--unet", "unet.keras", "--json")
    assert status == 0
    assert json.loads(out)["version"] == 1
    assert read_metadata(tmp_path / "saved_models/unet/1")["model"]["classes"] == 3


def test_convert_prints_the_report(run, monkeypatch):
    from tfstyle import convert

    calls = []
    asked = {"precision": "float32", "signature": "encode_style", "size": 64}
    difference = convert.Difference(6, 0.0123, 0.004, 0.987)
    facts = {"model": {"bytes": 1_234_567}, "source": None, "dropped": {}}
    report = convert.ConversionReport(target="onnx", **asked, **facts, difference=difference)
    monkeypatch.setattr(convert, "convert", lambda *a, **k: calls.append((a, k)) or report)
    words = ["convert", "model", "--to", "onnx", "-o", "out.onnx", "--size", 64]
    words += ["--signature", "encode_style", "--compare", "c", "d"]
    status, out, err = run(*words)
    assert (status, err) == (0, "")
    options = {"to": "onnx", "compare": ("c", "d"), "overwrite": False, **asked}
    assert calls == [(("model", "out.onnx"), options)]
    for text in ("1.23 MB", "out.onnx.json", "0.012", "98.70%"):
        assert text in out


def test_phantom(run, tmp_path):
    words = ["--count", 2, "--size", 64, "--seed", 5, "--json"]
    status, out, err = run("phantom", tmp_path / "p", *words)
    assert (status, err) == (0, "")
    names = [os.path.basename(file) for file in json.loads(out)["files"]]
    assert names == [
        f"phantom_{seed}{end}" for seed in (5, 6) for end in (".nii.gz", "_mask.nii.gz", ".png")
    ]
    assert read_scan(tmp_path / "p" / "phantom_5.nii.gz").units == "HU"
    mask = np.asarray(nib.load(tmp_path / "p" / "phantom_5_mask.nii.gz").dataobj)
    assert LABELS["vertebral_body"] in mask


def test_info_of_a_scan(run, ct):  # without patient data: tests/test_privacy.py
    status, out, err = run("info", ct, "--json")
    assert (status, err) == (0, "")
    (scan,) = json.loads(out)["scans"]
    assert (scan["rows"], scan["columns"], scan["units"]) == (128, 128, "HU")
    assert "units: HU" in run("info", ct)[1]


@pytest.mark.slow
def test_tensorflow_and_pydicom_are_silent(tmp_path, ct, picture):
    dataset = pydicom.dcmread(ct)
    dataset.StudyID = "longer than sixteen characters"
    dataset.save_as(tmp_path / "odd.dcm")
    words = ["stylize", "odd.dcm", "--style", picture, "--method", "nyul", "-o", "out"]
    words += ["--workers", 1]  # a process of its own measures the slice, by TensorFlow
    done = subprocess.run(
        [sys.executable, "-m", "tfstyle", *map(str, words)],
        cwd=tmp_path,
        env={**USER, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "size: 1 × 128 × 128" in done.stdout
