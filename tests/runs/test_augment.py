"""Augmented sets on disk: what is written, where, and what happens when something goes wrong."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from tests.minis import contents, ct_series, ct_volume, rows_of
from tests.models import image, small_model, small_tone
from tfstyle.data import read_scan, scan_to_unit, write_png
from tfstyle.data.privacy import mark_of
from tfstyle.errors import ArgumentError, InputFileError, OutputError, WeightsError
from tfstyle.metrics import histogram_distance, structure_similarity
from tfstyle.runs import augment_scans
from tfstyle.runs.augment import MANIFEST, SETTINGS
from tfstyle.style_bank import StyleBank


@pytest.fixture(scope="module")
def model():
    return small_model("relu1_1")


@pytest.fixture(scope="module")
def styles(model):
    images = [0.3 * image(20, (24, 24)), image(21, (32, 16)), 0.5 + 0.5 * image(22, (20, 20))]
    return StyleBank.encode(model, images, names=["dark", "middle", "bright"])


@pytest.fixture
def pictures(tmp_path):
    """Three small pictures, one of 16 bits, with masks."""
    folder = tmp_path / "in"
    for i, name in enumerate(("a.png", "b.png", "deep/c.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(image(i, (24, 20)), path, bits=16 if i == 1 else 8)
        mask = tmp_path / "masks" / name
        mask.parent.mkdir(parents=True, exist_ok=True)
        write_png((image(i, (24, 20)) > 0.5) * 1.0, mask)
    return folder


class TestSet:
    def test_pictures(self, model, styles, pictures, tmp_path):
        seen = []
        out = tmp_path / "new" / "out"
        done = augment_scans(
            model,
            pictures,
            out,
            styles,
            per_image=2,
            masks=tmp_path / "masks",
            strength=(0.4, 0.9),
            gate=None,
            progress=lambda *a: seen.append(a),
        )
        assert (done.written, done.kept, done.gated) == (6, 0, 0)
        assert (done.failed, done.left_out, done.without_mask) == ({}, (), ())
        assert seen[0][:2] == (0, 6)
        assert seen[-1][:2] == (6, 6)
        rows = rows_of(out)
        assert done.manifest == str(out / MANIFEST)
        assert [(row["source"], row["copy"]) for row in rows] == [
            (name, copy) for name in ("a.png", "b.png", "deep/c.png") for copy in (1, 2)
        ]
        assert {row["image"] for row in rows} | {row["mask"] for row in rows} | {
            MANIFEST,
            SETTINGS,
        } == set(contents(out))
        assert rows[5]["image"] == "images/deep/c-2.png"
        for row in rows:
            source = read_scan(pictures / row["source"])
            written = read_scan(out / row["image"])
            assert written.pixels.dtype == source.pixels.dtype
            content, found = scan_to_unit(source)[0], scan_to_unit(written)[0]
            style = styles.names.index(row["style"])
            assert 0.4 <= row["strength"] <= 0.9
            code = styles.codes[style][None]
            expected = model.stylize(content, code, strength=row["strength"])
            np.testing.assert_allclose(found, expected, atol=0.51 / 255)
            assert row["structure"] == pytest.approx(
                structure_similarity(content, expected), abs=1e-4
            )
            levels = styles.quantiles[style]
            assert row["distance_before"] == pytest.approx(
                histogram_distance(content, levels), abs=1e-4
            )
            assert row["distance_after"] == pytest.approx(
                histogram_distance(expected, levels), abs=1e-4
            )
            assert row["gated"] is False
            mask = (tmp_path / "masks" / row["source"]).read_bytes()
            assert (out / row["mask"]).read_bytes() == mask
        assert len({row["strength"] for row in rows}) == 6

    def test_volumes_and_series(self, model, styles, tmp_path):
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
        done = augment_scans(model, source, out, styles, masks=masks, gate=None, window="bone")
        rows = {row["source"]: row for row in rows_of(out)}
        series = f"ct/series#{mark_of(uid)}"
        single = next(name for name in rows if "single" in name)
        assert {name: row["image"] for name, row in rows.items()} == {
            "v.nii.gz": "images/v-1.nii.gz",
            "deep/w.nii": "images/deep/w-1.nii",
            series: "images/ct/series-1",
            single: f"images/{single[:-4]}-1",
        }
        assert {name: row["mask"] for name, row in rows.items()} == {
            "v.nii.gz": None,
            "deep/w.nii": "masks/deep/w-1.nii.gz",
            series: "masks/ct/series-1",
            single: None,
        }
        assert (out / "masks" / "ct" / "series-1" / "1.txt").read_text() == "one"
        assert set(done.without_mask) == {"v.nii.gz", single}
        for name, path in (("v.nii.gz", "v.nii.gz"), (series, "ct/series")):
            scan, written = read_scan(source / path), read_scan(out / rows[name]["image"])
            np.testing.assert_allclose(written.affine, scan.affine, atol=1e-4)
            assert rows[name]["window"] == [400, 1800]
            code = styles.codes[styles.names.index(rows[name]["style"])][None]
            expected = model.stylize(
                scan_to_unit(scan, "bone"),
                code,
                strength=rows[name]["strength"],
            )
            found = scan_to_unit(written, "bone")
            np.testing.assert_allclose(found, expected, atol=0.6 / 1800)

    def test_a_tone_transfer_gives_a_scan_one_curve(self, tmp_path):
        ct_volume(tmp_path / "in" / "v.nii.gz", slices=4)
        tone = small_tone()
        bank = StyleBank.encode(tone, [0.3 * image(20, (24, 24))])
        augment_scans(tone, tmp_path / "in", tmp_path / "out", bank, gate=None, window="full")
        (row,) = rows_of(tmp_path / "out")
        content = scan_to_unit(read_scan(tmp_path / "in" / "v.nii.gz"), "full")
        options = {"strength": row["strength"], "one_curve": True}
        expected = tone.stylize(content, bank.codes, **options)
        found = scan_to_unit(read_scan(tmp_path / "out" / row["image"]), "full")
        np.testing.assert_allclose(found, expected, atol=2e-3)
        (confidence,) = tone.confidence(content, bank.codes, one_curve=True)
        assert row["confidence"] == pytest.approx(confidence, abs=1e-3)

    def test_series_that_share_a_folder_or_a_position(self, model, styles, tmp_path):
        source = tmp_path / "in"
        first, second = (ct_series(source) for _ in range(2))
        for file in list(source.glob(f"{first[-6:]}*")):  # the first series has two images each
            dataset = pydicom.dcmread(file)
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            dataset.InstanceNumber = 100 + int(dataset.InstanceNumber or 0)
            dataset.save_as(file.with_suffix(".2.dcm"))
        out = tmp_path / "out"
        done = augment_scans(model, source, out, styles, gate=None)
        tails = {uid: mark_of(uid) for uid in (first, second)}
        assert {
            (row["source"], row["part"], row["parts"], row["image"]) for row in rows_of(out)
        } == {
            (f".#{tails[first]}", 0, 2, f"images/in-{tails[first]}_part1-1"),
            (f".#{tails[first]}", 1, 2, f"images/in-{tails[first]}_part2-1"),
            (f".#{tails[second]}", 0, 1, f"images/in-{tails[second]}-1"),
        }
        assert done.written == 3
        again = augment_scans(model, source, out, styles, gate=None)
        assert (again.written, again.kept) == (0, 3)

    def test_gate(self, model, styles, pictures, tmp_path):
        augment_scans(model, pictures, tmp_path / "free", styles, per_image=3, gate=None)
        free = rows_of(tmp_path / "free")
        gate = float(np.median([row["structure"] for row in free])) + 1e-6
        done = augment_scans(model, pictures, tmp_path / "out", styles, per_image=3, gate=gate)
        rows = rows_of(tmp_path / "out")
        assert [row["gated"] for row in rows] == [row["structure"] < gate for row in free]
        assert done.gated == sum(row["gated"] for row in rows) == 5
        for row, other in zip(rows, free):
            assert {**row, "gated": False} == other  # the scores of what was refused
            original = (pictures / row["source"]).read_bytes()
            same = read_scan(tmp_path / "out" / row["image"]).pixels
            assert (same == read_scan(pictures / row["source"]).pixels).all() == row["gated"]
            assert original

    def test_own_style_is_not_drawn(self, model, pictures, tmp_path):
        bank = StyleBank.from_scans(model, pictures)
        augment_scans(model, pictures, tmp_path / "out", bank, per_image=8, gate=None)
        drawn = {(row["source"], row["style"]) for row in rows_of(tmp_path / "out")}
        names = {"a.png": "a", "b.png": "b", "deep/c.png": "c"}
        assert all(names[source] != style for source, style in drawn)
        assert {style for _, style in drawn} == {"a", "b", "c"}
        alone = StyleBank.from_scans(model, pictures / "a.png")
        done = augment_scans(model, pictures, tmp_path / "alone", alone, gate=None)
        assert list(done.failed) == ["a.png"]
        assert "all of them are of a.png itself" in done.failed["a.png"]
        assert done.written == 2


class TestDraws:
    def test_depend_on_source_and_copy_alone(self, model, styles, pictures, tmp_path):
        options = {"per_image": 3, "seed": 5, "gate": None}
        augment_scans(model, pictures, tmp_path / "all", styles, workers=3, **options)
        (pictures / "b.png").unlink()
        write_png(image(9, (24, 20)), pictures / "0.png")
        augment_scans(model, pictures, tmp_path / "other", styles, workers=1, **options)
        one, two = contents(tmp_path / "all"), contents(tmp_path / "other")
        shared = {name for name in one if name in two and name.startswith("images")}
        assert len(shared) == 6
        assert all(one[name] == two[name] for name in shared)


class TestResuming:
    @pytest.fixture
    def whole(self, model, styles, pictures, tmp_path):
        options = {"per_image": 2, "masks": tmp_path / "masks", "gate": None}
        augment_scans(model, pictures, tmp_path / "whole", styles, **options)
        return contents(tmp_path / "whole"), options

    @pytest.fixture
    def counted(self, model, monkeypatch):
        """Counts what is generated, and interrupts where it is told to."""
        calls = []
        generate = model.stylize

        def stylize(*arguments, **options):
            calls.append(len(arguments[0]))
            if len(calls) == calls_until[0]:
                raise KeyboardInterrupt
            return generate(*arguments, **options)

        calls_until = [0]
        monkeypatch.setattr(model, "stylize", stylize)
        return calls, calls_until

    def test_interrupted_and_taken_up(self, model, styles, pictures, tmp_path, whole, counted):
        expected, options = whole
        calls, until = counted
        out = tmp_path / "out"
        until[0] = 4
        with pytest.raises(KeyboardInterrupt):
            augment_scans(model, pictures, out, styles, **options)
        there = set(contents(out))
        assert there <= set(expected)  # nothing under a temporary name
        finished = len(rows_of(out))
        assert finished == sum(name.startswith("images") for name in there) <= 3
        until[0] = 0
        calls.clear()
        done = augment_scans(model, pictures, out, styles, workers=1, **options)
        assert len(calls) == 6 - finished
        assert (done.written, done.kept) == (6 - finished, finished)
        assert contents(out) == expected

    def test_what_is_missing_is_done_again(self, model, styles, pictures, tmp_path, whole, counted):
        expected, options = whole
        out = tmp_path / "whole"
        (out / "images" / "a-2.png").unlink()
        (out / "masks" / "b-1.png").unlink()
        manifest = out / MANIFEST
        manifest.write_text(manifest.read_text()[:-20])  # the last row is cut short
        done = augment_scans(model, pictures, out, styles, **options)
        assert done.written == len(counted[0]) == 3
        assert contents(out) == expected

    def test_more_copies_and_more_inputs(self, model, styles, pictures, tmp_path, whole, counted):
        expected, options = whole
        out = tmp_path / "whole"
        write_png(image(9, (24, 20)), pictures / "z.png")
        done = augment_scans(model, pictures, out, styles, **{**options, "per_image": 3})
        assert done.written == len(counted[0]) == 3 + 3
        assert done.without_mask == ("z.png",)
        now = contents(out)
        assert all(now[name] == was for name, was in expected.items() if name != MANIFEST)

    def test_unfinished_series(self, model, styles, tmp_path):
        ct_series(tmp_path / "in" / "ct")
        out = tmp_path / "out"
        augment_scans(model, tmp_path / "in", out, styles, gate=None)
        (out / MANIFEST).write_text("")  # stopped between the series and its row
        done = augment_scans(model, tmp_path / "in", out, styles, gate=None)
        assert done.written == 1
        assert len(list((out / "images" / "ct-1").iterdir())) == 2

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"seed": 1}, "seed: 1, but .* was begun with 0"),
            ({"masks": None}, "masks: False, but .* was begun with True"),
            ({"styles": "others"}, "model and styles: differ from those"),
        ],
    )
    def test_other_settings(self, model, styles, pictures, tmp_path, whole, change, message):
        _, options = whole
        if "styles" in change:
            change, styles = {}, StyleBank(styles.codes * 1.01, names=styles.names)
        with pytest.raises(ArgumentError, match=message):
            augment_scans(model, pictures, tmp_path / "whole", styles, **{**options, **change})

    def test_overwritten(self, model, styles, pictures, tmp_path, whole):
        _, options = whole
        out = tmp_path / "whole"
        (out / "letter.txt").write_text("dear")
        options = {**options, "per_image": 1, "masks": None}
        done = augment_scans(model, pictures, out, styles, seed=7, overwrite=True, **options)
        assert (done.written, done.kept) == (3, 0)
        augment_scans(model, pictures, tmp_path / "other", styles, seed=7, **options)
        found = contents(out)
        del found["letter.txt"]
        assert found == contents(tmp_path / "other")

    def test_settings_of_which_nothing_came_may_be_corrected(self, model, tmp_path):
        write_png(image(1, (16, 16)), tmp_path / "in.png")
        own = StyleBank.from_scans(model, [tmp_path / "in.png"])
        other = StyleBank.encode(model, [image(2, (16, 16))])
        place = tmp_path / "in.png", tmp_path / "out"
        assert "in.png" in augment_scans(model, *place, own).failed
        options = {"seed": 3, "deidentify": "basic", "gate": None}
        assert augment_scans(model, *place, other, **options).written == 1
        settings = json.loads((tmp_path / "out" / SETTINGS).read_text())
        assert (settings["seed"], "uid_key" in settings) == (3, True)


class TestBadInputs:
    def test_others_go_on_and_repaired_ones_come_after(self, model, styles, pictures, tmp_path):
        good = (pictures / "a.png").read_bytes()
        (pictures / "a.png").write_bytes(good[:50])
        (pictures / "bad.nii.gz").write_bytes(b"rubbish")
        (pictures / "bad.dcm").write_bytes(b"rubbish")
        out = tmp_path / "out"
        done = augment_scans(model, pictures, out, styles, per_image=2, gate=None)
        assert done.written == 4
        assert set(done.failed) == {"a.png", "bad.nii.gz", "bad.dcm"}
        failed = {row["source"]: row for row in rows_of(out) if row["status"] == "failed"}
        assert failed["a.png"] == {
            "status": "failed",
            "source": "a.png",
            "reason": "the PNG file is truncated or damaged.",
        }
        (pictures / "a.png").write_bytes(good)
        (pictures / "bad.dcm").unlink()
        done = augment_scans(model, pictures, out, styles, per_image=2, gate=None)
        assert (done.written, done.kept) == (2, 4)
        assert set(done.failed) == {"bad.nii.gz"}
        assert [row["status"] for row in rows_of(out)].count("failed") == 1

    def test_window_that_does_not_suit(self, model, styles, pictures, tmp_path):
        ct_volume(pictures / "v.nii.gz")
        done = augment_scans(model, pictures, tmp_path / "hu", styles, window="bone", gate=None)
        assert done.written == 1
        assert set(done.failed) == {"a.png", "b.png", "deep/c.png"}
        assert "Hounsfield" in done.failed["a.png"]

    def test_an_unforeseen_error_of_one_file(self, model, styles, pictures, tmp_path, monkeypatch):
        import tfstyle.data.read as read

        original = read.read_png

        def fail(path, lazy=False):
            if path.endswith("b.png"):
                raise RuntimeError("odd")
            return original(path)

        monkeypatch.setattr(read, "read_png", fail)
        done = augment_scans(model, pictures, tmp_path / "out", styles, gate=None)
        assert done.failed == {"b.png": "RuntimeError: odd"}

    def test_masks_that_cannot_be_told_apart(self, model, styles, pictures, tmp_path):
        masks = tmp_path / "masks"
        (masks / "a.png").rename(masks / "a.nii")
        shutil.copy(masks / "a.nii", masks / "a.npy")
        done = augment_scans(model, pictures, tmp_path / "out", styles, masks=masks, gate=None)
        assert set(done.failed) == {"a.png"}
        assert "several masks for a.png: a.nii, a.npy" in done.failed["a.png"]

    def test_masks_that_share_no_voxels_with_their_image(self, model, styles, pictures, tmp_path):
        masks = tmp_path / "masks"
        write_png(np.zeros((20, 24)), masks / "b.png")  # of a picture of 24 rows and 20 columns
        ct_volume(pictures / "v.nii.gz")
        nib.save(nib.Nifti1Image(np.zeros((3, 20, 16), np.uint8), np.eye(4)), masks / "v.nii.gz")
        done = augment_scans(model, pictures, tmp_path / "out", styles, masks=masks, gate=None)
        assert set(done.failed) == {"b.png", "v.nii.gz"}
        assert "has the shape (24, 20) and its image (20, 24)" in done.failed["b.png"]
        assert "has the shape (3, 20, 16) and its image (16, 20, 3)" in done.failed["v.nii.gz"]
        assert done.written == 2


class TestMasks:
    def test_inside_the_input_folder(self, model, styles, pictures, tmp_path):
        (tmp_path / "masks").rename(pictures / "masks")
        done = augment_scans(
            model, pictures, tmp_path / "out", styles, masks=pictures / "masks", gate=None
        )
        assert done.written == 3
        assert done.without_mask == ()


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"per_image": 0}, "per_image: must be a whole number of at least 1"),
            ({"batch_size": 0.5}, "batch_size"),
            ({"gate": 3}, "gate"),
            ({"strength": (1, 0)}, "strength"),
        ],
    )
    def test_values(self, model, styles, pictures, tmp_path, options, message):
        with pytest.raises(ArgumentError, match=message):
            augment_scans(model, pictures, tmp_path / "out", styles, **options)
        assert not (tmp_path / "out").exists()

    def test_places(self, model, styles, pictures, tmp_path):
        with pytest.raises(OutputError, match="lies in the input folder"):
            augment_scans(model, pictures, pictures / "out", styles)
        with pytest.raises(OutputError, match="holds the input folder"):
            augment_scans(model, pictures, tmp_path, styles)
        with pytest.raises(OutputError, match="is not empty and holds no augmented set"):
            augment_scans(model, pictures, tmp_path / "masks", styles)
        with pytest.raises(InputFileError, match=r"case_seg\.nii\.gz beside case\.nii\.gz"):
            augment_scans(model, pictures, tmp_path / "out", styles, masks=pictures)
        with pytest.raises(InputFileError, match="no such folder of masks"):
            augment_scans(model, pictures, tmp_path / "out", styles, masks=tmp_path / "none")
        with pytest.raises(InputFileError, match="no such file or folder"):
            augment_scans(model, tmp_path / "none", tmp_path / "out", styles)

    def test_styles_of_another_model(self, styles, pictures, tmp_path):
        with pytest.raises(WeightsError, match="another encoder"):
            augment_scans(small_model("relu1_1", seed=1), pictures, tmp_path / "out", styles)
