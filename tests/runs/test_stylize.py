"""Whole scans in, whole scans out, with a stand-in for the model."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import numpy as np
import pydicom
import pytest

from tests.minis import ct_series, ct_slice, ct_volume
from tests.models import expect_error
from tests.process import python
from tfstyle import baselines
from tfstyle.data import WINDOWS, read_scan, scan_to_unit, write_png
from tfstyle.errors import ArgumentError, InputFileError, OutputError
from tfstyle.runs.stylize import StylizedScan, stylize_scans
from tfstyle.tone.model import confidence_of


class Shift:
    """Mixes each content with the mean of the style; remembers what it was given."""

    def __init__(self):
        self.calls = []

    def stylize(self, content, style, strength=1.0, style_weights=None, batch_size=8):
        self.calls.append((content, style, style_weights, batch_size))
        styles = style if isinstance(style, list) else [style]
        weights = np.ones(len(styles)) if style_weights is None else np.asarray(style_weights)
        mean = sum(w * s.mean() for w, s in zip(weights / weights.sum(), styles))
        return ((1 - 0.5 * strength) * content + 0.5 * strength * mean).astype(np.float32)


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


@pytest.fixture
def stand_in():
    return Shift()


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


@pytest.fixture
def stylize(style_file, tmp_path):
    """``stylize(model, inputs, output, **options)``; one result where one input is given."""

    def run(model, inputs, output="o", styles=(style_file,), **options):
        alone = not isinstance(inputs, list)
        inputs = [inputs] if alone else inputs
        done = stylize_scans(model, inputs, [*styles], tmp_path / output, **options)
        assert len(done) == 1 or not alone
        return done[0] if alone else done

    return run


def visible(folder):
    """Files and their folders below, but for hidden ones."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    )


class TestFormats:
    def test_series_becomes_derived_series(self, stand_in, stylize, series, tmp_path):
        seen = []
        options = {"batch_size": 2, "progress": lambda *a: seen.append(a)}
        done = stylize(stand_in, series, window="lung", **options)
        sizes = [(len(content), size) for content, _, _, size in stand_in.calls]
        assert sizes == [(2, 2), (2, 2), (1, 2)]
        assert [(a, b) for a, b, _ in seen] == [(2, 5), (4, 5), (5, 5)]
        scan = read_scan(series)
        assert "tfstyle" in pydicom.dcmread(done.files[0]).DerivationDescription
        # The account: what was clipped, and the steps of 16 bits over 1500 HU.
        assert (done.slices, done.window, done.units) == (5, WINDOWS["lung"], "HU")
        assert done.clipped_below == pytest.approx((scan.pixels < -1350).mean())
        assert done.clipped_above == pytest.approx((scan.pixels > 150).mean()) != 0
        assert done.quantization == pytest.approx(1500 / 65535)
        content = np.concatenate([c for c, *_ in stand_in.calls])
        expected = stand_in.stylize(content, stand_in.calls[0][1])[..., 0]
        found = scan_to_unit(read_scan(tmp_path / "o" / "series"), "lung")[..., 0]
        np.testing.assert_allclose(found, expected, atol=0.51 / 1500)  # whole HU when read
        assert done.structure > 0.95  # halved contrast keeps structure
        assert done.confidence is None
        assert StylizedScan.from_dict(json.loads(json.dumps(asdict(done)))) == done

    def test_series_as_png_and_nifti(self, stand_in, stylize, series, tmp_path):
        done = stylize(stand_in, series, "png", output_format="png")
        assert [read_scan(f).pixels.dtype for f in done.files] == [np.uint8] * 5
        done = stylize(stand_in, series, "v.nii.gz", output_format="nifti", window="full")
        assert done.files == (str(tmp_path / "v.nii.gz"),)
        source, back = read_scan(series), read_scan(tmp_path / "v.nii.gz")
        np.testing.assert_allclose(back.affine, source.affine, atol=1e-4)
        expected = stand_in.stylize(scan_to_unit(source, "full"), stand_in.calls[-1][1])
        assert done.quantization == 1
        np.testing.assert_allclose(scan_to_unit(back, "full"), expected, atol=2e-4)

    @pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
    def test_png_keeps_its_depth(self, stand_in, stylize, tmp_path, bits, dtype):
        path = tmp_path / "in.png"
        write_png(np.random.default_rng(1).random((33, 17)), path, bits=bits)
        done, back = stylize(stand_in, path, "out.png"), read_scan(tmp_path / "out.png")
        assert (back.pixels.dtype, back.pixels.shape, done.units) == (dtype, (1, 33, 17), "gray")
        expected = stand_in.stylize(*stand_in.calls[0][:2])[..., 0]
        found = scan_to_unit(back)[..., 0]
        np.testing.assert_allclose(found, expected, atol=0.51 / done.window.width)

    def test_blend(self, stand_in, stylize, ct, style_file, tmp_path):
        write_png(np.zeros((20, 20)), tmp_path / "dark.png")
        styles = [style_file, tmp_path / "dark.png"]
        done = stylize(stand_in, ct, styles=styles, style_weights=[3, 1])
        _, given, weights, _ = stand_in.calls[0]
        assert (len(given), weights) == (2, [3, 1])
        assert len(done.style_windows) == 2


class TestOneCurve:
    """A ToneTransfer gives every scan one curve, from several of its slices and of the style's."""

    @pytest.fixture
    def changing(self, series):
        """The series with other pixels in each slice, the last one empty."""
        for i, file in enumerate(read_scan(series).files):
            dataset = pydicom.dcmread(file)
            pixels = np.roll(dataset.pixel_array, 9 * i, axis=1)
            dataset.PixelData = (np.zeros_like(pixels) if i == 4 else pixels).tobytes()
            dataset.save_as(file)
        return series

    @pytest.fixture
    def run(self, tone, stylize, changing):
        def start(output="o", style=changing, **options):
            windows = {"window": "full", "style_window": "bone"}
            return stylize(tone, changing, output, [style], **windows, **options)

        return start

    @pytest.mark.parametrize(
        ("options", "style"), [({"batch_size": 2}, slice(4)), ({"style_slice": -2}, 3)]
    )
    def test_of_a_scan(self, tone, run, changing, tmp_path, options, style):
        done, scan = run(**options), read_scan(changing)
        # The empty slice is looked at neither in the content nor in the style.
        code = tone.encode_style(scan_to_unit(scan, "bone")[style], one_code=style != 3)
        curve = tone.estimate(scan_to_unit(scan, "full")[:4], code, one_curve=True)
        expected = tone.apply_curve(scan_to_unit(scan, "full"), curve)
        found = scan_to_unit(read_scan(tmp_path / "o" / "series"), "full")
        np.testing.assert_allclose(found, expected, atol=2e-3)
        assert done.confidence == pytest.approx(float(confidence_of(curve)[0]), abs=1e-3)
        run("o.nii", output_format="nifti", **options)
        volume = scan_to_unit(read_scan(tmp_path / "o.nii"), "full")
        np.testing.assert_allclose(volume, found, atol=1e-3)

    def test_stored_upside_down_it_is_looked_at_upright(self, run, changing, tmp_path):
        style = read_scan(changing).files[1]
        expected = run("upright", style)
        for file in read_scan(changing).files:
            dataset = pydicom.dcmread(file)
            dataset.PixelData = dataset.pixel_array[::-1].tobytes()
            dataset.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]
            dataset.ImagePositionPatient[1] += (dataset.Rows - 1) * dataset.PixelSpacing[0]
            dataset.save_as(file)
        assert run("turned", style).confidence == pytest.approx(expected.confidence, abs=1e-3)
        found, upright = (
            read_scan(tmp_path / name / "series").pixels for name in ("turned", "upright")
        )
        # The normal points down now, so the slices come in the other order too.
        np.testing.assert_allclose(found[::-1, ::-1], upright, atol=60)

    def test_low_confidence_says_why(self, tone, run, caplog):
        bias = tone.matcher.out.bias.numpy()
        try:
            for level, warned in ((-6.0, False), (0.5, True)):
                expect_error(tone, level)
                assert (run(f"{warned}").confidence < 0.5) == warned
                assert ("series: low confidence" in caplog.text) == warned
        finally:
            tone.matcher.out.bias.assign(bias)
        assert "the style shows little that is comparable with it" in caplog.text
        # Where a greater error is expected than there is change.
        assert caplog.text.count("series: nothing is changed: content and style have") == 1


class TestNames:
    def test_results_have_names_and_places_of_their_sources(self, stylize, tmp_path):
        for name in ("a b.dcm", "a_b.dcm", "1.2.3.4", "1.2.3.5", "sub/x.dcm", "sub/deep/x.dcm"):
            ct_slice(tmp_path / "in" / name)
        for name in ("a b.png", "ä&[ö].png", "sub/x.png"):
            write_png(np.linspace(0, 1, 400).reshape(20, 20), tmp_path / "in" / name)
        stylize(Known(), [tmp_path / "in"], window="range")
        folders = ("1.2.3.4", "1.2.3.5", "a b", "a_b", "sub/deep/x", "sub/x")
        pictures = ("a b.png", "sub/x.png", "ä&[ö].png")
        expected = sorted((*(f"{name}/IM_0001.dcm" for name in folders), *pictures))
        assert visible(tmp_path / "o") == expected

    def test_a_number_where_two_results_would_have_one_name(self, stylize, tmp_path):
        first, second = ct_slice(tmp_path / "a" / "x.dcm"), ct_slice(tmp_path / "b" / "x.dcm")
        done = stylize(Known(), [first, second, first])
        assert visible(tmp_path / "o") == ["x-2/IM_0001.dcm", "x/IM_0001.dcm"]
        assert len(done) == 2  # what is given twice is done once
        stylize(Known(), [first.parent, second.parent], "two")
        assert visible(tmp_path / "two") == ["a/x/IM_0001.dcm", "b/x/IM_0001.dcm"]
        write_png(np.eye(20), first.parent / "x.png")
        stylize(Known(), [first.parent], "png", output_format="png", window="range")
        assert visible(tmp_path / "png") == ["x-2.png", "x.png"]

    def test_a_result_in_the_place_of_a_folder_of_results(self, stylize, tmp_path):
        (tmp_path / "in" / "a").mkdir(parents=True)
        write_png(np.eye(20), tmp_path / "in" / "a" / "x.png")
        stylize(Known(), [tmp_path / "in"])
        (tmp_path / "in" / "a" / "x.png").unlink()
        ct_series(tmp_path / "in" / "a")
        with pytest.raises(OutputError, match="exists already"):
            stylize(Known(), [tmp_path / "in"])
        stylize(Known(), [tmp_path / "in"], overwrite=True)
        assert visible(tmp_path / "o") == ["a/IM_0001.dcm", "a/IM_0002.dcm"]

    def test_one_series_by_name(self, stylize, tmp_path):
        for name in ("1.2.3.4", "1.2.3.5"):
            ct_slice(tmp_path / "in" / name)
        ct_series(tmp_path / "in" / "ct")
        for series in ("1.2.3.5", "ct"):
            stylize(Known(), tmp_path / "in", series, series=series)
            names = [path.name for path in (tmp_path / series).iterdir()]
            assert [name for name in names if name[0] != "."] == [series]
        with pytest.raises(InputFileError, match="holds no series 'mr'"):
            stylize(Known(), tmp_path / "in", series="mr")


class TestResume:
    options: ClassVar = {"window": "bone", "batch_size": 1}

    @pytest.fixture
    def inputs(self, series):
        """A series of five slices, and another of one."""
        return [series, ct_slice(series.parent / "z.dcm")]

    def test_goes_on_and_equals_a_run_in_one(self, stylize, inputs, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            stylize(Known(3), inputs, **self.options)
        assert visible(tmp_path / "o") == []  # nothing shows before a scan is whole
        with pytest.raises(KeyboardInterrupt):
            stylize(Known(5), inputs, **self.options)
        assert [path.split("/")[0] for path in visible(tmp_path / "o")] == ["series"] * 5
        model, seen = Known(), []
        progress = {"progress": lambda *a: seen.append(a[0])}
        first, second = stylize(model, inputs, **progress, **self.options)
        assert (first.resumed, second.resumed, len(model.calls), seen) == (True, False, 1, [6])
        whole = stylize(Known(), inputs, "whole", **self.options)
        for one, other in zip((first, second), whole, strict=True):
            for file, same in zip(one.files, other.files, strict=True):
                np.testing.assert_array_equal(
                    pydicom.dcmread(file).pixel_array, pydicom.dcmread(same).pixel_array
                )

    @pytest.mark.parametrize("change", [{"strength": 0.5}, "model", "source"])
    def test_other_work_is_refused_or_overwrites(self, stylize, series, change):
        done = stylize(Known(), series, **self.options)
        again = stylize(Known(0), series, **self.options)
        assert asdict(again) == asdict(done) | {"resumed": True}
        options = {**self.options, **(change if isinstance(change, dict) else {})}
        if change == "source":
            first = sorted(series.iterdir())[0]
            dataset = pydicom.dcmread(first)
            dataset.RescaleIntercept = float(dataset.RescaleIntercept) + 1
            dataset.save_as(first)
        model = Known(name="other" if change == "model" else "known")
        with pytest.raises(OutputError, match="exists already"):
            stylize(model, series, **options)
        done = stylize(model, series, overwrite=True, **options)
        assert (done.resumed, len(model.calls)) == (False, 5)

    def test_baselines_too(self, stylize, inputs, monkeypatch):
        first = stylize(baselines.get("nyul"), inputs)
        baseline = baselines.get("nyul")
        monkeypatch.setattr(baseline, "_generate", None)
        again = [asdict(one) for one in stylize(baseline, inputs)]
        assert again == [asdict(one) | {"resumed": True} for one in first]
        with pytest.raises(OutputError, match="exists already"):
            stylize(baselines.get("mean_and_spread"), inputs)

    @pytest.mark.slow
    def test_killed_with_workers(self, inputs, style_file, tmp_path):
        """Killed like by the kernel, in the middle, then run again; both with a worker."""
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
        if self.calls == int(sys.argv[1]):
            os.kill(os.getpid(), 9)
        return (0.5 * content).astype(np.float32)
done = stylize_scans(Model(), sys.argv[4:], [sys.argv[2]], sys.argv[3], batch_size=1, workers=1)
print("resumed", *(one.resumed for one in done))
"""
        words = style_file, tmp_path / "o", *reversed(inputs)
        python("-c", code, 4, *words, status=-9)
        assert python("-c", code, 9, *words) == "resumed True False\n"
        scan, source = read_scan(tmp_path / "o" / "series"), read_scan(inputs[0])
        assert len(scan) == 5
        np.testing.assert_allclose(scan.affine, source.affine)
        assert not list((tmp_path / "o").rglob(".*.tfstyle"))  # nothing unfinished is left


class TestDamaged:
    def test_is_named_and_the_others_are_done(self, stylize, series, tmp_path):
        folder = series.parent / "in"
        (folder / "sub").mkdir(parents=True)
        (folder / "header.dcm").write_text("dear")
        cut = ct_slice(folder / "cut.dcm")
        cut.write_bytes(cut.read_bytes()[:-9000])
        (folder / "sub" / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
        ct_slice(folder / "sub" / "good.dcm")
        inputs, failed, seen = [folder, tmp_path / "letter.txt", series], {}, []
        inputs[1].write_text("dear")
        options = {"window": "bone", "progress": lambda *a: seen.append(a)}
        options["on_failure"] = lambda path, error: failed.update({path: error})
        for _ in range(2):
            done = stylize(Known(), inputs, **options)
            assert [Path(one.files[0]).parent.name for one in done] == ["good", "series"]
            names = sorted(os.path.relpath(path, tmp_path) for path in failed)
            assert names == ["in/cut.dcm", "in/header.dcm", "in/sub/p.png", "letter.txt"]
        assert [one.resumed for one in done] == [True, True]
        assert seen[-1][0] == seen[-1][1] == 7
        with pytest.raises(InputFileError, match="header"):
            stylize(Known(), [folder], window="bone")


class TestRefused:
    def test_before_any_work(self, stand_in, stylize, series, style_file, tmp_path):
        volume, before = ct_volume(tmp_path / "v.nii"), sorted(tmp_path.iterdir())
        for inputs, options, message in (
            ([series], {"output_format": "jpeg"}, "auto, dicom, nifti, png, received 'jpeg'"),
            ([series], {"style_weights": [1, 2]}, "2 weights for 1 styles"),
            ([series], {"strength": 1.5}, "strength"),
            ([series], {"workers": -1}, "workers: must be at least 0"),
            ([series], {"styles": []}, "at least one style scan"),
            ([], {}, "at least one input scan"),
            ([volume], {"output_format": "dicom"}, "was not read from DICOM"),
            ([style_file], {"output_format": "nifti"}, "use 'png'"),
            ([series], {"output": "o.nii.gz"}, "a DICOM series is written into a folder"),
            ([series], {"output": "o.png", "output_format": "nifti"}, r"not end in \.nii\.gz or"),
            ([series], {"output": "o.png", "output_format": "png"}, "one picture, but series has"),
            ([series], {"output": "o.jpg"}, "not written in this format"),
        ):
            error = OutputError if "output" in options else ArgumentError
            with pytest.raises(error, match=message):
                stylize(stand_in, inputs, **options)
            assert not stand_in.calls
            assert sorted(tmp_path.iterdir()) == before

    def test_what_tfstyle_has_not_made_is_never_overwritten(self, stylize, series, tmp_path):
        stylize(Known(), series)
        (tmp_path / "o" / "series" / "letter.txt").write_text("dear")
        with pytest.raises(OutputError, match="is not a result of tfstyle"):
            stylize(Known(), series, strength=0.1, overwrite=True)
        before = {path: path.read_bytes() for path in series.iterdir()}
        with pytest.raises(OutputError, match="is not a result of tfstyle"):
            stylize(Known(), series, ".", overwrite=True)
        assert {path: path.read_bytes() for path in series.iterdir()} == before
