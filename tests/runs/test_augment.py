"""Augmented sets on disk: what is written, where, and what happens when something goes wrong."""

import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from tests.minis import contents, ct_series, ct_volume, rows_of
from tests.models import expect_error, image, small_model, small_tone
from tfstyle.data import read_scan, scan_to_unit, write_png
from tfstyle.data.privacy import mark_of
from tfstyle.errors import ArgumentError, InputFileError, OutputError, WeightsError
from tfstyle.metrics import structure_similarity
from tfstyle.runs import augment_scans
from tfstyle.runs.manifest import MANIFEST, SETTINGS
from tfstyle.style_bank import StyleBank


@pytest.fixture
def pictures(tmp_path):
    """Three small pictures, one of 16 bits, with masks."""
    folder = tmp_path / "in"
    for i, name in enumerate(("a.png", "b.png", "deep/c.png")):
        for path, values in (
            (folder / name, image(i, (24, 20))),
            (tmp_path / "masks" / name, (image(i, (24, 20)) > 0.5) * 1.0),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(values, path, bits=16 if i == 1 and path.is_relative_to(folder) else 8)
    return folder


@pytest.fixture
def augment(model, bank, tmp_path):
    """``augment(output, styles, **options)``: the set of ``in`` in a folder of that name."""

    def run(output="out", styles=bank, model=model, source="in", **options):
        options = {"gate": None, **options}
        return augment_scans(model, tmp_path / source, tmp_path / output, styles, **options)

    return run


class TestSet:
    def test_pictures(self, model, bank, augment, pictures, tmp_path):
        seen = []
        options = {"masks": tmp_path / "masks", "strength": (0.4, 0.9), "per_image": 2}
        done = augment("new/out", progress=lambda *a: seen.append(a), **options)
        out = tmp_path / "new" / "out"
        assert (done.written, done.kept, done.gated) == (6, 0, 0)
        assert (done.failed, done.left_out, done.without_mask) == ({}, (), ())
        assert (seen[0][:2], seen[-1][:2]) == ((0, 6), (6, 6))
        rows = rows_of(out)
        assert done.manifest == str(out / MANIFEST)
        assert [(row["source"], row["copy"]) for row in rows] == [
            (name, copy) for name in ("a.png", "b.png", "deep/c.png") for copy in (1, 2)
        ]
        files = {row[kind] for row in rows for kind in ("image", "mask")}
        assert files | {MANIFEST, SETTINGS} == set(contents(out))
        for row in rows:
            source, written = read_scan(pictures / row["source"]), read_scan(out / row["image"])
            assert written.pixels.dtype == source.pixels.dtype
            content, found = scan_to_unit(source)[0], scan_to_unit(written)[0]
            style = bank.names.index(row["style"])
            assert 0.4 <= row["strength"] <= 0.9
            expected = model.stylize(content, bank.codes[style][None], strength=row["strength"])
            np.testing.assert_allclose(found, expected, atol=0.51 / 255)
            structure = structure_similarity(content, expected)
            assert row["structure"] == pytest.approx(structure, abs=1e-4)
            assert row["gated"] is False
            mask = (tmp_path / "masks" / row["source"]).read_bytes()
            assert (out / row["mask"]).read_bytes() == mask
        assert len({row["strength"] for row in rows}) == 6

    def test_volumes_and_series(self, model, bank, augment, tmp_path):
        source = tmp_path / "in"
        ct_volume(source / "v.nii.gz")
        ct_volume(source / "deep" / "w.nii", seed=4)
        uid = ct_series(source / "ct" / "series")
        ct_series(source / "ct" / "single", slices=1)
        masks = tmp_path / "masks"
        (masks / "ct" / "series").mkdir(parents=True)
        (masks / "ct" / "series" / "1.txt").write_text("one")
        (masks / "u.nrrd").write_text("other name")
        (masks / "deep").mkdir()
        (masks / "deep" / "w.nii.gz").write_text("two")
        out = tmp_path / "out"
        done = augment(masks=masks, window="bone")
        rows = {row["source"]: row for row in rows_of(out)}
        series = f"ct/series#{mark_of(uid)}"
        single = next(name for name in rows if "single" in name)
        assert {name: (row["image"], row["mask"]) for name, row in rows.items()} == {
            "v.nii.gz": ("images/v-1.nii.gz", None),
            "deep/w.nii": ("images/deep/w-1.nii", "masks/deep/w-1.nii.gz"),
            series: ("images/ct/series-1", "masks/ct/series-1"),
            single: (f"images/{single[:-4]}-1", None),
        }
        assert (out / "masks" / "ct" / "series-1" / "1.txt").read_text() == "one"
        assert set(done.without_mask) == {"v.nii.gz", single}
        for name, path in (("v.nii.gz", "v.nii.gz"), (series, "ct/series")):
            row, scan = rows[name], read_scan(source / path)
            written = read_scan(out / row["image"])
            np.testing.assert_allclose(written.affine, scan.affine, atol=1e-4)
            assert row["window"] == [400, 1800]
            code = bank.codes[bank.names.index(row["style"])][None]
            expected = model.stylize(scan_to_unit(scan, "bone"), code, strength=row["strength"])
            found = scan_to_unit(written, "bone")
            np.testing.assert_allclose(found, expected, atol=0.6 / 1800)

    def test_a_tone_transfer_gives_a_scan_one_curve(self, augment, tmp_path):
        ct_volume(tmp_path / "in" / "v.nii.gz", slices=4)
        tone = small_tone()
        bank = StyleBank.encode(tone, [0.3 * image(20, (24, 24))])
        augment(model=tone, styles=bank, window="full")
        (row,) = rows_of(tmp_path / "out")
        content = scan_to_unit(read_scan(tmp_path / "in" / "v.nii.gz"), "full")
        options = {"strength": row["strength"], "one_curve": True}
        expected = tone.stylize(content, bank.codes, **options)
        found = scan_to_unit(read_scan(tmp_path / "out" / row["image"]), "full")
        np.testing.assert_allclose(found, expected, atol=2e-3)
        (confidence,) = tone.confidence(content, bank.codes, one_curve=True)
        assert row["confidence"] == pytest.approx(confidence, abs=1e-3)

    def test_series_that_share_a_folder_or_a_position(self, augment, tmp_path):
        source = tmp_path / "in"
        first, second = (ct_series(source) for _ in range(2))
        for file in list(source.glob(f"{first[-6:]}*")):  # the first series has two images each
            dataset = pydicom.dcmread(file)
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            dataset.InstanceNumber = 100 + int(dataset.InstanceNumber or 0)
            dataset.save_as(file.with_suffix(".2.dcm"))
        done, rows = augment(), rows_of(tmp_path / "out")
        one, two = map(mark_of, (first, second))
        assert {(row["source"], row["part"], row["parts"], row["image"]) for row in rows} == {
            (f".#{one}", 0, 2, f"images/in-{one}_part1-1"),
            (f".#{one}", 1, 2, f"images/in-{one}_part2-1"),
            (f".#{two}", 0, 1, f"images/in-{two}-1"),
        }
        assert done.written == 3
        again = augment()
        assert (again.written, again.kept) == (0, 3)

    def test_gate(self, augment, pictures, tmp_path):
        augment("free", per_image=3)
        free = rows_of(tmp_path / "free")
        gate = float(np.median([row["structure"] for row in free])) + 1e-6
        done, rows = augment(per_image=3, gate=gate), rows_of(tmp_path / "out")
        assert [row["gated"] for row in rows] == [row["structure"] < gate for row in free]
        assert done.gated == sum(row["gated"] for row in rows) == 5
        for row, other in zip(rows, free):
            assert {**row, "gated": False} == other  # the scores of what was refused
            same = read_scan(tmp_path / "out" / row["image"]).pixels
            assert (same == read_scan(pictures / row["source"]).pixels).all() == row["gated"]

    def test_images_that_have_the_gray_scale_already_are_told(self, pictures, tmp_path, caplog):
        tone = small_tone()
        bank = StyleBank.encode(tone, [image(7, (24, 20))])
        done = augment_scans(tone, pictures, tmp_path / "a", bank, gate=None)
        assert (done.written, done.unchanged) == (3, 0)
        expect_error(tone, 1.0)
        done = augment_scans(tone, pictures, tmp_path / "b", bank, gate=None)
        assert (done.written, done.unchanged) == (3, 3)
        assert "3 of 3 images are as they were: content and style have the same" in caplog.text

    def test_own_style_is_not_drawn(self, model, augment, pictures, tmp_path):
        augment(styles=StyleBank.from_scans(model, pictures), per_image=8)
        drawn = {(row["source"], row["style"]) for row in rows_of(tmp_path / "out")}
        names = {"a.png": "a", "b.png": "b", "deep/c.png": "c"}
        assert all(names[source] != style for source, style in drawn)
        assert {style for _, style in drawn} == {"a", "b", "c"}
        done = augment("alone", StyleBank.from_scans(model, pictures / "a.png"))
        assert list(done.failed) == ["a.png"]
        assert "all of them are of a.png itself" in done.failed["a.png"]
        assert done.written == 2


def test_draws_depend_on_source_and_copy_alone(augment, pictures, tmp_path):
    augment("all", per_image=3, seed=5, workers=3)
    (pictures / "b.png").unlink()
    write_png(image(9, (24, 20)), pictures / "0.png")
    augment("other", per_image=3, seed=5, workers=1)
    one, two = contents(tmp_path / "all"), contents(tmp_path / "other")
    shared = {name for name in one if name in two and name.startswith("images")}
    assert len(shared) == 6
    assert all(one[name] == two[name] for name in shared)


class TestResuming:
    @pytest.fixture
    def options(self, pictures, tmp_path):
        return {"per_image": 2, "masks": tmp_path / "masks"}

    @pytest.fixture
    def whole(self, augment, options, tmp_path):
        augment("whole", **options)
        return contents(tmp_path / "whole")

    @pytest.fixture
    def counted(self, model, monkeypatch):
        """Counts what is generated, and interrupts where it is told to."""
        calls, until, generate = [], [0], model.stylize

        def stylize(*arguments, **options):
            calls.append(len(arguments[0]))
            if len(calls) == until[0]:
                raise KeyboardInterrupt
            return generate(*arguments, **options)

        monkeypatch.setattr(model, "stylize", stylize)
        return calls, until

    def test_interrupted_and_taken_up(self, augment, tmp_path, options, whole, counted):
        calls, until = counted
        out = tmp_path / "out"
        until[0] = 4
        with pytest.raises(KeyboardInterrupt):
            augment(**options)
        there = set(contents(out))
        assert there <= set(whole)  # nothing under a temporary name
        finished = len(rows_of(out))
        assert finished == sum(name.startswith("images") for name in there) < 6
        until[0] = 0
        calls.clear()
        done = augment(workers=1, **options)
        assert len(calls) == 6 - finished
        assert (done.written, done.kept) == (6 - finished, finished)
        assert contents(out) == whole

    def test_what_is_missing_is_done_again(self, augment, tmp_path, options, whole, counted):
        out = tmp_path / "whole"
        (out / "images" / "a-2.png").unlink()
        (out / "masks" / "b-1.png").unlink()
        manifest = out / MANIFEST
        manifest.write_text(manifest.read_text()[:-20])  # the last row is cut short
        done = augment("whole", **options)
        assert done.written == len(counted[0]) == 3
        assert contents(out) == whole

    def test_more_copies_and_more_inputs(self, augment, tmp_path, options, whole, counted):
        write_png(image(9, (24, 20)), tmp_path / "in" / "z.png")
        done = augment("whole", **{**options, "per_image": 3})
        assert done.written == len(counted[0]) == 3 + 3
        assert done.without_mask == ("z.png",)
        now = contents(tmp_path / "whole")
        assert all(now[name] == was for name, was in whole.items() if name != MANIFEST)

    def test_unfinished_series(self, augment, tmp_path):
        ct_series(tmp_path / "in" / "ct")
        augment()
        (tmp_path / "out" / MANIFEST).write_text("")  # stopped between the series and its row
        assert augment().written == 1
        assert len(list((tmp_path / "out" / "images" / "ct-1").iterdir())) == 2

    @pytest.mark.usefixtures("whole")
    def test_other_settings(self, augment, bank, options):
        for change, message in (
            ({"seed": 1}, "seed: 1, but .* was begun with 0"),
            (
                {"styles": StyleBank(1.01 * bank.codes, names=bank.names)},
                "styles: differ from those",
            ),
        ):
            with pytest.raises(ArgumentError, match=message):
                augment("whole", **{**options, **change})

    @pytest.mark.usefixtures("whole")
    def test_overwritten(self, augment, tmp_path):
        (tmp_path / "whole" / "letter.txt").write_text("dear")
        done = augment("whole", seed=7, overwrite=True)
        assert (done.written, done.kept) == (3, 0)
        augment("other", seed=7)
        found = contents(tmp_path / "whole")
        del found["letter.txt"]
        assert found == contents(tmp_path / "other")


class TestBadInputs:
    def test_others_go_on_and_repaired_ones_come_after(self, augment, pictures, tmp_path):
        good = (pictures / "a.png").read_bytes()
        (pictures / "a.png").write_bytes(good[:50])
        (pictures / "bad.nii.gz").write_bytes(b"rubbish")
        (pictures / "bad.dcm").write_bytes(b"rubbish")
        done = augment(per_image=2)
        assert done.written == 4
        assert set(done.failed) == {"a.png", "bad.nii.gz", "bad.dcm"}
        failed = [row for row in rows_of(tmp_path / "out") if row["status"] == "failed"]
        reason = "the PNG file is truncated or damaged."
        assert {"status": "failed", "source": "a.png", "reason": reason} in failed
        (pictures / "a.png").write_bytes(good)
        (pictures / "bad.dcm").unlink()
        done = augment(per_image=2)
        assert (done.written, done.kept) == (2, 4)
        assert set(done.failed) == {"bad.nii.gz"}
        assert [row["status"] for row in rows_of(tmp_path / "out")].count("failed") == 1

    def test_an_unforeseen_error_of_one_file(self, augment, pictures, monkeypatch):
        import tfstyle.data.read as read

        original = read.read_png

        def fail(path, lazy=False):
            if path.endswith("b.png"):
                raise RuntimeError("odd")
            return original(path)

        monkeypatch.setattr(read, "read_png", fail)
        assert augment().failed == {"b.png": "RuntimeError: odd"}

    def test_masks_that_do_not_suit(self, augment, pictures, tmp_path):
        masks = tmp_path / "masks"
        (masks / "deep" / "c.png").rename(masks / "deep" / "c.nii")
        shutil.copy(masks / "deep" / "c.nii", masks / "deep" / "c.npy")
        write_png(np.zeros((20, 24)), masks / "b.png")  # of a picture of 24 rows and 20 columns
        ct_volume(pictures / "v.nii.gz")
        nib.save(nib.Nifti1Image(np.zeros((3, 20, 16), np.uint8), np.eye(4)), masks / "v.nii.gz")
        done = augment(masks=masks)
        assert done.written == 1
        assert set(done.failed) == {"b.png", "deep/c.png", "v.nii.gz"}
        assert "several masks for deep/c.png" in done.failed["deep/c.png"]
        assert "has the shape (1, 20, 24) and its image (1, 24, 20)" in done.failed["b.png"]
        assert "has the shape (16, 20, 3) and its image (3, 20, 16)" in done.failed["v.nii.gz"]


class TestArguments:
    @pytest.mark.usefixtures("pictures")
    def test_values_and_places(self, augment, tmp_path):
        for options, error, message in (
            ({"per_image": 0}, ArgumentError, "per_image: must be a whole number of at least 1"),
            ({"gate": 3}, ArgumentError, "gate"),
            ({"strength": (1, 0)}, ArgumentError, "strength"),
            ({"output": "in/out"}, OutputError, "lies in the input folder"),
            ({"output": "."}, OutputError, "holds the input folder"),
            ({"output": "masks"}, OutputError, "is not empty and holds no augmented set"),
            ({"masks": tmp_path / "in"}, InputFileError, r"case_seg\.nii\.gz beside case\.nii\.gz"),
            ({"masks": tmp_path / "none"}, InputFileError, "no such folder of masks"),
            ({"source": "none"}, InputFileError, "no such file or folder"),
        ):
            with pytest.raises(error, match=message):
                augment(**options)
            assert not (tmp_path / "out").exists()

    @pytest.mark.usefixtures("pictures")
    def test_styles_of_another_model(self, augment):
        with pytest.raises(WeightsError, match="another encoder"):
            augment(model=small_model("relu1_1", seed=1))
