"""Style banks: made, checked, joined, saved."""

import numpy as np
import pytest

from tests.minis import ct_volume
from tests.models import image, small_model
from tfstyle.data import read_scan, scan_to_unit, write_png
from tfstyle.errors import ArgumentError, InputFileError, OutputError, WeightsError
from tfstyle.style_bank import StyleBank


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "styles"
    (path / "deeper").mkdir(parents=True)
    write_png(image(1, (20, 30)), path / "b.png")
    write_png(image(2, (20, 20)), path / "deeper" / "a.png")
    return path


class TestMaking:
    def test_of_images(self, model):
        images = [image(1, (20, 30)), image(2, (16, 16, 1))]
        bank = StyleBank.encode(model, images, names=["a", "b"], weights=[1, 2])
        assert len(bank) == 2
        assert repr(bank) == "StyleBank(2 styles, codes of 2x64)"
        for code, one in zip(bank.codes, images):
            np.testing.assert_allclose(code, model.encode_style(one)[0])
        assert not bank.codes.flags.writeable

    def test_windows_and_slices(self, model, ct, tmp_path):
        volume = ct_volume(tmp_path / "volume.nii.gz", 10)
        windows = ["bone", "soft_tissue", (300, 900)]
        bank = StyleBank.from_scans(model, [ct, volume], windows=windows, slices=2)
        assert bank.names == (
            "CT_small bone",
            "CT_small soft_tissue",
            "CT_small 300/900",
            *(f"volume[{i}] {w}" for i in (2, 7) for w in ("bone", "soft_tissue", "300/900")),
        )
        middle = StyleBank.from_scans(model, volume)
        assert middle.names == ("volume[5]",)
        assert len(StyleBank.from_scans(model, volume, slices=99)) == 10

    def test_window_that_does_not_suit_is_passed_over(self, model, folder, ct):
        bank = StyleBank.from_scans(model, [folder, ct], windows=["bone", "range"])
        assert bank.names == ("b range", "a range", "CT_small bone", "CT_small range")
        assert bank.files[0] == (str(folder / "b.png"),)
        with pytest.raises(ArgumentError, match="is in Hounsfield units"):
            StyleBank.from_scans(model, folder, windows="bone")

    def test_damaged_file_in_a_folder_is_passed_over(self, model, folder, caplog):
        (folder / "bad.nii").write_bytes(b"rubbish")
        (folder / "bad.dcm").write_bytes(b"rubbish")
        assert StyleBank.from_scans(model, folder).names == ("b", "a")
        assert "Left out of the styles" in caplog.text
        assert caplog.text.count("bad.") >= 2
        with pytest.raises(InputFileError, match=r"bad\.nii"):
            StyleBank.from_scans(model, folder / "bad.nii")

    def test_flat_slices_are_left_out(self, model, tmp_path, caplog):
        volume = ct_volume(tmp_path / "volume.nii.gz", 4, flat=(0, 3))
        assert StyleBank.from_scans(model, volume, slices=4).names == ("volume[1]", "volume[2]")
        assert "volume[0] shows nothing" in caplog.text
        write_png(np.zeros((20, 20)), tmp_path / "black.png")
        with pytest.raises(InputFileError, match=r"black\.png: shows nothing"):
            StyleBank.from_scans(model, tmp_path / "black.png")

    def test_bad_values(self):
        for options, message in (
            ({"codes": np.ones((2, 65))}, "codes: need the shape"),
            ({"codes": np.full((1, 2, 65), np.nan)}, "codes: holds NaN"),
            ({"names": ["a", "b"]}, "received 2 names"),
            ({"weights": [0]}, "not all 0"),
        ):
            with pytest.raises(ArgumentError, match=message):
                StyleBank(**{"codes": np.ones((1, 2, 65)), **options})


def test_one_style_a_scan_of_what_its_slices_show(tone, tmp_path):
    volume = ct_volume(tmp_path / "volume.nii.gz", 4, flat=(0, 3))
    bank = StyleBank.from_scans(tone, volume, windows=["bone", "full"])
    assert bank.names == ("volume bone", "volume full")
    shown = scan_to_unit(read_scan(volume), "bone")[1:3]
    np.testing.assert_allclose(bank.codes[:1], tone.encode_style(shown, one_code=True), atol=1e-5)
    assert StyleBank.from_scans(tone, volume, slices=2).names == ("volume[1]",)


class TestFiles:
    def test_saved_and_among_scans(self, model, folder, tmp_path):
        first, path = StyleBank.from_scans(model, folder), tmp_path / "new" / "bank.npz"
        first.save(path)
        assert [file.name for file in path.parent.iterdir()] == ["bank.npz"]
        assert str(tmp_path) not in path.read_bytes().decode("latin-1")
        for name in ("codes", "weights", "probe", "names"):
            np.testing.assert_array_equal(getattr(StyleBank.load(path), name), getattr(first, name))
        bank = StyleBank.from_scans(model, [path, folder / "b.png"])
        assert bank.names == ("b", "a", "b-2")
        assert bank.files == ((), (), (str(folder / "b.png"),))
        np.testing.assert_allclose(bank.codes[0], bank.codes[2], rtol=1e-5)
        with pytest.raises(WeightsError, match="another encoder"):
            StyleBank.from_scans(small_model("relu1_1", seed=3), path)

    def test_bad_files(self, model, tmp_path):
        with pytest.raises(OutputError, match=r"end in \.npz"):
            StyleBank(np.ones((1, 2, 65))).save(tmp_path / "bank.bin")
        with pytest.raises(InputFileError, match="no such file"):
            StyleBank.load(tmp_path / "none.npz")
        (tmp_path / "bad.npz").write_bytes(b"rubbish")
        np.savez(tmp_path / "other.npz", codes=np.ones((1, 2, 65)))
        np.savez(tmp_path / "new.npz", about=np.array('{"format": 9}'))
        message = "not a readable style bank|of format 9, not 1"
        for name in ("bad.npz", "other.npz", "new.npz"):
            with pytest.raises(InputFileError, match=message):
                StyleBank.load(tmp_path / name)


def test_saved_banks_are_joined_in_order(model, tmp_path):
    codes = np.ones((3, *model.code_shape))
    codes[1:] = 0
    paths = [tmp_path / "one.npz", tmp_path / "two.npz"]
    StyleBank(codes[:1], names=["a"], weights=np.array([2.0])).save(paths[0])
    StyleBank(codes[1:], names=["b", "c"]).save(paths[1])
    joined = StyleBank.from_scans(model, paths)
    assert joined.names == ("a", "b", "c")
    np.testing.assert_array_equal(joined.weights, [2, 1, 1])
    np.testing.assert_array_equal(joined.codes, codes)
