"""Whole scans in, whole scans out, with a stand-in for the model."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from tests.minis import ct_series
from tests.models import small_model, small_tone
from tfstyle._private.files import locked
from tfstyle.data import WINDOWS, Window, read_scan, scan_to_unit, write_png
from tfstyle.errors import ArgumentError, InputFileError, OutputError, ServingError
from tfstyle.runs.stylize import (
    ServedStylizer,
    StylizedScan,
    source_kind,
    style_image,
    stylize_scans,
)
from tfstyle.stylizers import ScanTransfer
from tfstyle.tone.model import confidence_of


class Shift:
    """Mixes each content with the mean of the style; remembers what it was given."""

    def __init__(self):
        self.calls = []
        self.sizes = []

    def stylize(self, content, style, strength=1.0, style_weights=None, batch_size=8):
        self.sizes.append(batch_size)
        self.calls.append((content, style, strength, style_weights))
        styles = style if isinstance(style, list) else [style]
        weights = np.ones(len(styles)) if style_weights is None else np.asarray(style_weights)
        mean = sum(w * s.mean() for w, s in zip(weights / weights.sum(), styles))
        return ((1 - 0.5 * strength) * content + 0.5 * strength * mean).astype(np.float32)


@pytest.fixture
def model():
    return Shift()


@pytest.fixture
def slice_file():
    return get_testdata_file("CT_small.dcm")


@pytest.fixture
def series(tmp_path):
    """Five slices, 2 mm apart, with names in another order than their positions."""
    ct_series(tmp_path / "series", 5)
    return tmp_path / "series"


@pytest.fixture
def style_file(tmp_path):
    path = tmp_path / "style.png"
    write_png(np.linspace(0.5, 1.0, 40 * 30).reshape(40, 30), path)
    return path


def only(results):
    assert len(results) == 1
    return results[0]


class TestDicom:
    def test_series_becomes_derived_series(self, model, series, style_file, tmp_path):
        seen = []
        done = only(
            stylize_scans(
                model,
                [series],
                [style_file],
                tmp_path / "out",
                window="bone",
                batch_size=2,
                progress=lambda *a: seen.append(a),
            )
        )
        assert done.slices == 5
        assert [len(content) for content, *_ in model.calls] == [2, 2, 1]
        assert model.sizes == [2, 2, 2]
        assert done.confidence is None
        assert [(a, b) for a, b, _ in seen] == [(2, 5), (4, 5), (5, 5)]
        assert len(done.files) == 5
        sources = [pydicom.dcmread(file) for file in read_scan(series).files]
        derived = [pydicom.dcmread(file) for file in done.files]
        assert [d.ImagePositionPatient for d in derived] == [
            s.ImagePositionPatient for s in sources
        ]
        assert not {d.SOPInstanceUID for d in derived} & {s.SOPInstanceUID for s in sources}
        assert len({d.SeriesInstanceUID for d in derived}) == 1
        assert derived[0].SeriesInstanceUID != sources[0].SeriesInstanceUID
        assert derived[0].ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert "tfstyle" in derived[0].DerivationDescription

    def test_account_of_the_round_trip(self, model, series, style_file, tmp_path):
        done = only(stylize_scans(model, [series], [style_file], tmp_path / "o", window="lung"))
        scan = read_scan(series)
        assert done.window == WINDOWS["lung"]
        assert done.units == "HU"
        assert done.clipped_below == pytest.approx((scan.pixels < -1350).mean())
        assert done.clipped_above == pytest.approx((scan.pixels > 150).mean())
        assert 0 < done.clipped_above < 1
        # 16 bits over 1500 HU, and back within half a step.
        assert 0 < done.quantization < 1500 / 2**15
        assert done.round_trip <= 0.51 * done.quantization / 1500 + 1e-6
        generated = np.concatenate([c for c, *_ in model.calls])
        expected = model.stylize(generated, model.calls[0][1])[..., 0]
        back = []
        for file in done.files:
            dataset = pydicom.dcmread(file)
            back.append(
                dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
            )
        np.testing.assert_allclose(done.window.to_unit(np.stack(back)), expected, atol=2e-5)

    def test_figures_tell_the_gray_scale_and_the_structure(
        self, model, slice_file, style_file, tmp_path
    ):
        done = only(stylize_scans(model, [slice_file], [style_file], tmp_path / "o", window="bone"))
        assert 0 < done.distance_after < done.distance_before
        assert done.structure > 0.95  # halved contrast keeps structure
        assert done.seconds >= 0
        assert done.as_dict()["window"] == {"center": 400.0, "width": 1800.0}

    def test_strength_zero_keeps_the_image(self, model, slice_file, style_file, tmp_path):
        done = only(
            stylize_scans(
                model, [slice_file], [style_file], tmp_path / "o", window="bone", strength=0.0
            )
        )
        assert done.distance_after == pytest.approx(done.distance_before, abs=1e-4)

    def test_as_png_and_nifti(self, model, series, style_file, tmp_path):
        folder = tmp_path / "png"
        done = only(stylize_scans(model, [series], [style_file], folder, output_format="png"))
        assert [read_scan(f).pixels.dtype for f in done.files] == [np.uint8] * 5
        volume = tmp_path / "v.nii.gz"
        done = only(stylize_scans(model, [series], [style_file], volume, output_format="nifti"))
        assert done.files == (str(volume),)
        back = read_scan(volume)
        np.testing.assert_allclose(back.affine, read_scan(series).affine, atol=1e-4)
        assert back.pixels.shape == (5, 128, 128)

    def test_same_names_do_not_meet(self, model, slice_file, style_file, tmp_path):
        results = stylize_scans(
            model, [slice_file, slice_file], [style_file], tmp_path / "o", window="bone"
        )
        assert len({done.files for done in results}) == 2


class Known(Shift):
    """A model that can be told from others; stops after some calls if it is told to."""

    def __init__(self, stop_after=None, name="known"):
        super().__init__()
        self.stop_after, self.name = stop_after, name

    def fingerprint(self):
        return self.name

    def stylize(self, *arguments, **options):
        if len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        return super().stylize(*arguments, **options)


class TestOneCurve:
    """A ToneTransfer gives every scan one curve, from several of its slices and of the style's."""

    @pytest.fixture(scope="class")
    def tone(self):
        return small_tone()

    @pytest.fixture
    def changing(self, series):
        """The series with other pixels in each slice, the last one empty."""
        for i, file in enumerate(read_scan(series).files):
            dataset = pydicom.dcmread(file)
            pixels = np.roll(dataset.pixel_array, 9 * i, axis=1)
            dataset.PixelData = (np.zeros_like(pixels) if i == 4 else pixels).tobytes()
            dataset.save_as(file)
        return series

    def run(self, tone, content, style, output, **options):
        return only(
            stylize_scans(
                tone, [content], [style], output, window="full", style_window="bone", **options
            )
        )

    def test_of_a_scan(self, tone, changing, tmp_path):
        done = self.run(tone, changing, changing, tmp_path / "o", batch_size=2)
        scan = read_scan(changing)
        # The empty slice is looked at neither in the content nor in the style.
        code = tone.encode_style(scan_to_unit(scan, "bone")[:4], one_code=True)
        curve = tone.estimate(scan_to_unit(scan, "full")[:4], code, one_curve=True)
        expected = tone.apply_curve(scan_to_unit(scan, "full"), curve)
        found = scan_to_unit(read_scan(tmp_path / "o" / "series"), "full")
        np.testing.assert_allclose(found, expected, atol=2e-3)
        assert done.confidence == pytest.approx(float(confidence_of(curve)[0]), abs=1e-3)
        assert StylizedScan.from_dict(json.loads(json.dumps(done.as_dict()))) == done

    def test_a_slice_of_the_style_by_number(self, tone, changing, tmp_path):
        self.run(tone, changing, changing, tmp_path / "o", style_slice=-2)
        scan = read_scan(changing)
        code = tone.encode_style(scan_to_unit(scan, "bone")[3])
        curve = tone.estimate(scan_to_unit(scan, "full")[:4], code, one_curve=True)
        expected = tone.apply_curve(scan_to_unit(scan, "full"), curve)
        found = scan_to_unit(read_scan(tmp_path / "o" / "series"), "full")
        np.testing.assert_allclose(found, expected, atol=2e-3)

    def test_volumes_too(self, tone, changing, tmp_path):
        self.run(tone, changing, changing, tmp_path / "o.nii.gz", output_format="nifti")
        self.run(tone, changing, changing, tmp_path / "o")
        volume, series = read_scan(tmp_path / "o.nii.gz"), read_scan(tmp_path / "o" / "series")
        np.testing.assert_allclose(
            scan_to_unit(volume, "full"), scan_to_unit(series, "full"), atol=1e-3
        )

    def test_strength_zero_is_the_content(self, tone, changing, tmp_path):
        self.run(tone, changing, changing, tmp_path / "o", strength=0)
        found = scan_to_unit(read_scan(tmp_path / "o" / "series"), "full")
        expected = scan_to_unit(read_scan(changing), "full")
        np.testing.assert_allclose(found, expected, atol=1.01 / 2**16)

    @pytest.mark.parametrize("stop", [1, 3])
    def test_resumes_with_the_same_curve(self, tone, changing, tmp_path, stop, monkeypatch):
        whole = self.run(tone, changing, changing, tmp_path / "whole", batch_size=1)
        apply, calls = tone.apply_curve, []

        def stopping(*arguments):
            calls.append(arguments)
            if len(calls) > stop:
                raise KeyboardInterrupt
            return apply(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(tone, "apply_curve", stopping)
            with pytest.raises(KeyboardInterrupt):
                self.run(tone, changing, changing, tmp_path / "o", batch_size=1)
        done = self.run(tone, changing, changing, tmp_path / "o", batch_size=3)
        assert done.resumed == stop
        assert done.confidence == whole.confidence
        for one, other in zip(done.files, whole.files, strict=True):
            one, other = pydicom.dcmread(one), pydicom.dcmread(other)
            np.testing.assert_array_equal(one.pixel_array, other.pixel_array)

    def test_no_more_than_sixteen_slices_are_read_beforehand(self, tone):
        asked = []

        def read(indices):
            asked.extend(indices)
            return np.random.default_rng(0).random((len(indices), 16, 16, 1), np.float32)

        style = np.random.default_rng(1).random((16, 16), np.float32)
        ScanTransfer(tone, 300, read, style)
        assert len(asked) == 16
        assert set(np.diff(asked)) <= {18, 19}
        asked.clear()
        ScanTransfer(Shift(), 300, read, style)
        assert not asked

    def test_low_confidence_says_why(self, tone, changing, tmp_path, caplog):
        bias = tone.matcher.out.bias.numpy()
        try:
            for level, warned in ((-6.0, False), (0.5, True)):
                tone.matcher.out.bias.assign([*bias[:-1], level])
                done = self.run(tone, changing, changing, tmp_path / f"{warned}")
                assert (done.confidence < 0.5) == warned
                assert ("series: low confidence" in caplog.text) == warned
        finally:
            tone.matcher.out.bias.assign(bias)
        assert "the style shows little that is comparable with it" in caplog.text

    def test_other_models_take_the_middle_slice_of_the_style(self, changing, tmp_path):
        model = small_model("relu1_1")
        done = self.run(model, changing, changing, tmp_path / "o")
        scan = read_scan(changing)
        style = scan_to_unit(scan, "bone")[2]
        expected = model.stylize(scan_to_unit(scan, "full"), style)
        found = scan_to_unit(read_scan(tmp_path / "o" / "series"), "full")
        np.testing.assert_allclose(found, expected, atol=2e-3)
        assert done.confidence is None


class TestResume:
    """Five slices in calls of one, stopped at the fourth: three are finished."""

    options: ClassVar = {"window": "bone", "batch_size": 1}

    @pytest.fixture
    def stopped(self, series, style_file, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            stylize_scans(Known(3), [series], [style_file], tmp_path / "o", **self.options)
        return tmp_path / "o"

    def test_nothing_shows_before_the_end(self, stopped):
        assert [path.name for path in stopped.iterdir()] == [".tfstyle"]
        slices = sorted(p.name for p in (stopped / ".tfstyle/series/slices").iterdir())
        assert slices == ["IM_0001.dcm", "IM_0002.dcm", "IM_0003.dcm"]

    def test_goes_on_and_equals_a_run_in_one(self, stopped, series, style_file, tmp_path):
        model, seen = Known(), []
        done = only(
            stylize_scans(
                model,
                [series],
                [style_file],
                stopped,
                progress=lambda *a: seen.append(a),
                **self.options,
            )
        )
        assert done.resumed == 3
        assert len(model.calls) == 2
        assert [a for a, *_ in seen] == [3, 4, 5]
        whole = only(
            stylize_scans(Known(), [series], [style_file], tmp_path / "whole", **self.options)
        )
        for one, other in zip(done.files, whole.files, strict=True):
            one, other = pydicom.dcmread(one), pydicom.dcmread(other)
            np.testing.assert_array_equal(one.pixel_array, other.pixel_array)
            assert one.ImagePositionPatient == other.ImagePositionPatient
        assert len({pydicom.dcmread(file).SeriesInstanceUID for file in done.files}) == 1
        apart = {"files": (), "seconds": 0.0, "resumed": 0}
        assert replace(done, **apart) == replace(whole, **apart)
        assert sorted(p.name for p in stopped.iterdir()) == [".tfstyle", "series"]

    def test_a_line_cut_short_costs_its_slice_alone(self, stopped, series, style_file):
        account = stopped / ".tfstyle/series/slices.jsonl"
        account.write_text(account.read_text()[:-20])
        model = Known()
        done = only(stylize_scans(model, [series], [style_file], stopped, **self.options))
        assert done.resumed == 2
        assert len(model.calls) == len(done.files) - 2 == 3

    @pytest.mark.parametrize("change", [{"strength": 0.5}, {"window": "lung"}, "model", "source"])
    def test_other_work_starts_anew(self, stopped, series, style_file, change):
        options = {**self.options, **(change if isinstance(change, dict) else {})}
        if change == "source":
            first = sorted(series.iterdir())[0]
            dataset = pydicom.dcmread(first)
            dataset.RescaleIntercept = float(dataset.RescaleIntercept) + 1
            dataset.save_as(first)
        model = Known(name="other" if change == "model" else "known")
        done = only(stylize_scans(model, [series], [style_file], stopped, **options))
        assert (done.resumed, len(model.calls)) == (0, 5)

    def test_finished_work_is_not_done_again(self, series, style_file, tmp_path):
        first = only(stylize_scans(Known(), [series], [style_file], tmp_path / "o", **self.options))
        model = Known()
        again = only(stylize_scans(model, [series], [style_file], tmp_path / "o", **self.options))
        assert not model.calls
        assert again.resumed == 5
        assert {**again.as_dict(), "resumed": 0} == first.as_dict()
        with pytest.raises(OutputError, match="exists already"):
            stylize_scans(
                Known(), [series], [style_file], tmp_path / "o", strength=0.5, **self.options
            )

    def test_two_runs_at_once(self, stopped, series, style_file):
        with locked(stopped / ".tfstyle/series"), pytest.raises(OutputError, match="another run"):
            stylize_scans(Known(), [series], [style_file], stopped, **self.options)
        assert (stopped / ".tfstyle/series/slices/IM_0001.dcm").exists()

    def test_a_model_that_cannot_be_told_starts_anew(self, series, style_file, tmp_path):
        class Stops(Shift):
            def stylize(self, *arguments, **options):
                if self.calls:
                    raise KeyboardInterrupt
                return super().stylize(*arguments, **options)

        with pytest.raises(KeyboardInterrupt):
            stylize_scans(Stops(), [series], [style_file], tmp_path / "o", **self.options)
        assert not list((tmp_path / "o").iterdir())

    def test_a_damaged_slice_keeps_the_others(self, series, style_file, tmp_path):
        last = Path(read_scan(series).files[-1])
        last.write_bytes(last.read_bytes()[:-3000])
        with pytest.raises(InputFileError, match=last.name):
            stylize_scans(Known(), [series], [style_file], tmp_path / "o", **self.options)
        slices = tmp_path / "o" / ".tfstyle/series/slices"
        assert len(list(slices.iterdir())) >= 3

    def test_pictures(self, series, style_file, tmp_path):
        options = {**self.options, "output_format": "png"}
        with pytest.raises(KeyboardInterrupt):
            stylize_scans(Known(2), [series], [style_file], tmp_path / "o", **options)
        done = only(stylize_scans(Known(), [series], [style_file], tmp_path / "o", **options))
        assert done.resumed == 2
        assert len(done.files) == 5

    def test_killed_with_workers(self, series, style_file, tmp_path):
        """Killed like by the kernel, in the middle, then run again; both with processes."""
        code = """
import os, sys
import numpy as np
from tfstyle.runs import stylize_scans
class Model:
    calls = 0
    def fingerprint(self):
        return "killed"
    def stylize(self, content, style, **options):
        self.calls += 1
        print("slice", flush=True)
        if self.calls == int(sys.argv[4]):
            os.kill(os.getpid(), 9)
        return (0.5 * content).astype(np.float32)
(done,) = stylize_scans(Model(), [sys.argv[1]], [sys.argv[2]], sys.argv[3],
                        batch_size=1, workers=2)
print("resumed", done.resumed)
"""
        command = [sys.executable, "-c", code, str(series), str(style_file), str(tmp_path / "o")]
        killed = subprocess.run([*command, "4"], capture_output=True, text=True, timeout=300)
        assert killed.returncode == -9, killed.stderr
        assert [path.name for path in (tmp_path / "o").iterdir()] == [".tfstyle"]
        again = subprocess.run([*command, "9"], capture_output=True, text=True, timeout=300)
        assert again.returncode == 0, again.stderr
        *slices, last = again.stdout.split("\n")[:-1]
        resumed = int(last.split()[1])
        assert resumed >= 1
        assert len(slices) == 5 - resumed
        files = sorted((tmp_path / "o" / "series").iterdir())
        scan, source = read_scan(tmp_path / "o" / "series"), read_scan(series)
        assert len(files) == len(scan) == 5
        np.testing.assert_allclose(scan.affine, source.affine)


class TestNifti:
    @pytest.fixture
    def volume(self, tmp_path):
        rng = np.random.default_rng(0)
        voxels = rng.integers(-1000, 1500, (20, 24, 3)).astype(np.int16)
        path = tmp_path / "ct.nii.gz"
        nib.save(nib.Nifti1Image(voxels, np.diag([-0.7, -0.8, 3.0, 1.0])), path)
        return path

    def test_round_trip(self, model, volume, style_file, tmp_path):
        done = only(stylize_scans(model, [volume], [style_file], tmp_path / "o", window="full"))
        assert done.files[0].endswith(".nii.gz")
        source, back = read_scan(volume), read_scan(done.files[0])
        np.testing.assert_allclose(back.affine, source.affine, atol=1e-4)
        assert back.pixels.shape == source.pixels.shape
        expected = model.stylize(scan_to_unit(source, "full"), model.calls[0][1])[..., 0]
        assert done.round_trip <= 0.51 / 4095 + 1e-6
        np.testing.assert_allclose(WINDOWS["full"].to_unit(back.pixels), expected, atol=2e-4)

    def test_cannot_become_dicom(self, model, volume, style_file, tmp_path):
        with pytest.raises(ArgumentError, match="is not a DICOM file"):
            stylize_scans(model, [volume], [style_file], tmp_path / "o", output_format="dicom")
        assert not (tmp_path / "o").exists()


class TestPng:
    @pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
    def test_keeps_its_depth(self, model, style_file, tmp_path, bits, dtype):
        path = tmp_path / "in.png"
        write_png(np.random.default_rng(1).random((33, 17)), path, bits=bits)
        out = tmp_path / "out.png"
        done = only(stylize_scans(model, [path], [style_file], out))
        back = read_scan(out)
        assert back.pixels.dtype == dtype
        assert back.pixels.shape == (1, 33, 17)
        assert done.units == "gray"
        expected = model.stylize(model.calls[0][0], model.calls[0][1])[..., 0]
        np.testing.assert_allclose(
            scan_to_unit(back)[..., 0], expected, atol=done.round_trip * 1.01
        )

    def test_one_pixel(self, model, style_file, tmp_path):
        path = tmp_path / "dot.png"
        write_png(np.array([[0.25]]), path)
        done = only(stylize_scans(model, [path], [style_file], tmp_path / "o"))
        assert done.size == (1, 1)
        assert done.structure is None

    def test_cannot_become_nifti(self, model, style_file, tmp_path):
        with pytest.raises(ArgumentError, match="'png'"):
            stylize_scans(model, [style_file], [style_file], tmp_path / "o", output_format="nifti")


class TestStyles:
    def test_middle_slice_unless_told(self, series):
        scan = read_scan(series)
        expected = WINDOWS["bone"].to_unit(scan.pixels[2])
        image, window = style_image(series, "bone")
        np.testing.assert_array_equal(image, expected)
        assert window == WINDOWS["bone"]
        np.testing.assert_array_equal(
            style_image(series, "bone", -1)[0], WINDOWS["bone"].to_unit(scan.pixels[-1])
        )

    def test_no_such_slice(self, series):
        with pytest.raises(ArgumentError, match=r"5 slices, 0 to 4"):
            style_image(series, index=5)

    def test_blend(self, model, slice_file, style_file, tmp_path):
        dark = tmp_path / "dark.png"
        write_png(np.zeros((20, 20)), dark)
        done = only(
            stylize_scans(
                model,
                [slice_file],
                [style_file, dark],
                tmp_path / "o",
                style_weights=[3, 1],
            )
        )
        _, styles, _, weights = model.calls[0]
        assert len(styles) == 2
        assert weights == [3, 1]
        assert done.distance_before is None
        assert len(done.style_windows) == 2


class TestBadArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"output_format": "jpeg"}, "unknown value 'jpeg'"),
            ({"style_weights": [1, 2]}, "2 weights for 1 styles"),
            ({"batch_size": 0}, "batch_size"),
            ({"strength": 1.5}, "strength"),
            ({"window": "bonee"}, "bonee"),
        ],
    )
    def test_refused_before_any_work(
        self, model, slice_file, style_file, tmp_path, options, message
    ):
        with pytest.raises(ArgumentError, match=message):
            stylize_scans(model, [slice_file], [style_file], tmp_path / "o", **options)
        assert not model.calls
        assert not (tmp_path / "o").exists()

    def test_no_style(self, model, slice_file, tmp_path):
        with pytest.raises(ArgumentError, match="style"):
            stylize_scans(model, [slice_file], [], tmp_path / "o")

    def test_missing_input_is_named(self, model, style_file, tmp_path):
        with pytest.raises(InputFileError, match="nothing_here"):
            stylize_scans(model, [tmp_path / "nothing_here"], [style_file], tmp_path / "o")


class TestOutput:
    def test_nothing_is_overwritten(self, model, slice_file, style_file, tmp_path):
        out = tmp_path / "o"
        stylize_scans(model, [slice_file], [style_file], out, output_format="png")
        before = {p: p.read_bytes() for p in out.rglob("*.png")}
        assert before
        with pytest.raises(OutputError, match="exists already"):
            stylize_scans(model, [slice_file], [style_file], out, output_format="png")
        assert {p: p.read_bytes() for p in out.rglob("*.png")} == before

    @pytest.mark.parametrize("output_format", ["auto", "png"])
    def test_results_are_overwritten_and_nothing_else(
        self, series, style_file, tmp_path, output_format
    ):
        arguments = [series], [style_file], tmp_path / "o"
        options = {"window": "bone", "output_format": output_format, "overwrite": True}
        for strength in (1.0, 0.5, 0.5):
            done = only(stylize_scans(Known(), *arguments, strength=strength, **options))
            other = tmp_path / f"{strength}-{done.resumed}"
            whole = only(
                stylize_scans(Known(), *arguments[:2], other, strength=strength, **options)
            )
            for one, file in zip(done.files, whole.files, strict=True):
                np.testing.assert_array_equal(read_scan(one).pixels, read_scan(file).pixels)
        (tmp_path / "o" / "series" / "letter.txt").write_text("dear")
        with pytest.raises(OutputError, match="is not a result of tfstyle"):
            stylize_scans(Known(), *arguments, strength=0.1, **options)
        before = {path: path.read_bytes() for path in series.iterdir()}
        with pytest.raises(OutputError, match="is not a result of tfstyle"):
            stylize_scans(Known(), *arguments[:2], series.parent, **options)
        assert {path: path.read_bytes() for path in series.iterdir()} == before

    def test_one_file_for_two_scans(self, model, style_file, tmp_path):
        with pytest.raises(OutputError, match="2 scans"):
            stylize_scans(model, [style_file, style_file], [style_file], tmp_path / "o.png")

    @pytest.mark.parametrize("name", ["o.nii.gz", "o.dcm", "o.png"])
    def test_file_name_that_does_not_fit(self, model, slice_file, style_file, tmp_path, name):
        with pytest.raises(OutputError, match="give a folder"):
            stylize_scans(model, [slice_file], [style_file], tmp_path / name)

    def test_a_series_is_not_one_picture(self, model, series, style_file, tmp_path):
        with pytest.raises(OutputError, match="5 slices"):
            stylize_scans(model, [series], [style_file], tmp_path / "o.png", output_format="png")

    def test_folder_below_a_file(self, model, slice_file, style_file):
        with pytest.raises(OutputError, match="cannot be written"):
            stylize_scans(model, [slice_file], [style_file], style_file / "o")


class TestServed:
    class Recorder:
        """A client that remembers; `code` is what it encodes every style to, or raises."""

        def __init__(self, code=None):
            self.code = code
            self.encoded = 0
            self.calls = []
            self.styles = []

        def encode_style(self, style):
            self.encoded += 1
            if isinstance(self.code, Exception):
                raise self.code
            return self.code

        def stylize(self, content, style, **options):
            self.calls.append(options)
            self.styles.append(style)
            return content

    def test_passes_strength_on(self):
        client = self.Recorder()
        image = np.zeros((1, 4, 4, 1), np.float32)
        ServedStylizer(client).stylize(image, image[0, ..., 0])
        ServedStylizer(client).stylize(image, image[0, ..., 0], strength=0.5)
        assert client.calls == [{}, {"strength": 0.5}]

    def test_requests_of_a_batch(self):
        client = self.Recorder()
        images = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1) / 5
        found = ServedStylizer(client).stylize(images, images[0, ..., 0], batch_size=2)
        np.testing.assert_array_equal(found, images)
        assert len(client.calls) == 3

    def test_passes_blends_on(self):
        client = self.Recorder()
        image = np.zeros((4, 4), np.float32)
        ServedStylizer(client).stylize(image, [image, image], style_weights=[1, 3])
        assert client.calls == [{"style_weights": [1, 3]}]

    def test_a_style_is_encoded_once(self, slice_file, style_file, tmp_path):
        client = self.Recorder(np.full((1, 2, 3), 0.25, np.float32))
        stylize_scans(ServedStylizer(client), [slice_file], [style_file], tmp_path / "o")
        assert client.encoded == 1
        assert [style.shape for style in client.styles] == [(1, 2, 3)]

    @pytest.mark.parametrize("code", ["FAILED_PRECONDITION", "INVALID_ARGUMENT"])
    def test_a_model_without_codes_gets_the_image(self, code):
        image = np.zeros((4, 4), np.float32)
        client = self.Recorder(ServingError("no such signature", code))
        assert ServedStylizer(client).encode_style(image) is image

    def test_other_failures_are_not_hidden(self):
        client = self.Recorder(ServingError("no server", "UNAVAILABLE"))
        with pytest.raises(ServingError, match="no server"):
            ServedStylizer(client).encode_style(np.zeros((4, 4), np.float32))


def test_source_kind(series, style_file):
    assert source_kind(read_scan(series)) == "dicom"
    assert source_kind(read_scan(style_file)) == "png"


def test_a_window_may_be_given_as_a_value(model, slice_file, style_file, tmp_path):
    done = only(
        stylize_scans(model, [slice_file], [style_file], tmp_path / "o", window=Window(100, 900))
    )
    assert done.window == Window(100, 900)
