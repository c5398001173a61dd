"""Images and masks of an augmented set share their voxels, in every order of axes and layout."""

import nibabel as nib
import numpy as np
import pytest

from tests.minis import rows_of
from tests.models import image
from tfstyle.data import write_png
from tfstyle.errors import InputFileError
from tfstyle.runs import augment_scans, stylize_scans


def write_case(path, mask_path, codes="LPS", dtype=np.int16, forms=(1, 1)):
    """A body of 40 HU with a bright corner of 600 HU, and the mask of that corner."""
    hu = np.full((16, 14, 6), 40.0)
    hu[0, 0, 0] = -1000
    corner = np.zeros(hu.shape, np.uint8)
    corner[7:, :3, :2] = 1
    hu[corner > 0] = 600
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    for values, place in ((hu.astype(dtype), path), (corner, mask_path)):
        one = nib.Nifti1Image(values, affine)
        turn = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(codes)
        )
        one = one.as_reoriented(turn)
        one.header.set_qform(one.affine, forms[0])
        one.header.set_sform(one.affine, forms[1])
        place.parent.mkdir(parents=True, exist_ok=True)
        nib.save(one, place)


@pytest.mark.parametrize(
    ("codes", "dtype", "forms", "end"),
    [("PIR", np.float32, (0, 2), ".nii"), ("SAL", np.float32, (2, 4), ".nii.gz")],
)
def test_mask_by_index(model, bank, tone, tmp_path, codes, dtype, forms, end):
    write_case(tmp_path / "in" / f"a{end}", tmp_path / "m" / f"a{end}", codes, dtype, forms)
    augment_scans(model, tmp_path / "in", tmp_path / "out", bank, gate=1, window="full",
                  masks=tmp_path / "m")  # fmt: skip
    (row,) = rows_of(tmp_path / "out")
    before = nib.load(tmp_path / "in" / f"a{end}")
    written, mask = (nib.load(tmp_path / "out" / row[name]) for name in ("image", "mask"))
    assert written.shape == mask.shape == before.shape
    np.testing.assert_array_equal(written.affine, before.affine)
    assert [int(written.header[f"{form}form_code"]) for form in "qs"] == list(forms)
    values = written.get_fdata()[mask.get_fdata() > 0]
    assert row["gated"]  # so that values are the source's
    np.testing.assert_allclose(values, 600, atol=1)

    # Half of a rising curve keeps the order of what is dark and bright.
    paths = [tmp_path / "in"], [tmp_path / "in"], tmp_path / "s"
    done = stylize_scans(tone, *paths, window="full", strength=0.5)
    stylized = nib.load(done[0].files[0])
    assert stylized.shape == before.shape
    inside, outside = (stylized.get_fdata()[(mask.get_fdata() > 0) == side] for side in (1, 0))
    assert np.median(inside) > np.median(outside)


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("rawdata/sub-1/sub-1_ct.nii.gz", "derivatives/sub-1/sub-1_seg-vert_msk.nii.gz"),
        ("volumes/A/x.nii.gz", "labels/A/x_seg.nii.gz"),
    ],
)
def test_masks_of_public_layouts(model, bank, tmp_path, name, mask):
    write_case(tmp_path / name, tmp_path / mask)
    (tmp_path / mask.replace(".nii.gz", ".json")).write_text("{}")
    folder, masks = (tmp_path / path.split("/")[0] for path in (name, mask))
    done = augment_scans(model, folder, tmp_path / "out", bank, masks=masks, gate=None)
    (row,) = rows_of(tmp_path / "out")
    assert done.without_mask == ()
    assert (tmp_path / "out" / row["mask"]).read_bytes() == (tmp_path / mask).read_bytes()


def test_the_nearest_name_wins(model, bank, tmp_path):
    for number, name in enumerate(("case.png", "case_0000.png")):
        for folder in ("in", "m"):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_png(image(number, (16, 16)), tmp_path / folder / name)
    augment_scans(model, tmp_path / "in", tmp_path / "out", bank, masks=tmp_path / "m", gate=None)
    for row in rows_of(tmp_path / "out"):
        found = (tmp_path / "out" / row["mask"]).read_bytes()
        assert found == (tmp_path / "m" / row["source"]).read_bytes()


def test_masks_of_nothing(model, bank, tmp_path):
    write_case(tmp_path / "in" / "a.nii.gz", tmp_path / "m" / "b.nii.gz")
    with pytest.raises(InputFileError, match=r"m: holds no mask for any input, such as a\.nii\.gz"):
        augment_scans(model, tmp_path / "in", tmp_path / "out", bank, masks=tmp_path / "m")
    assert not (tmp_path / "out").exists()
    write_case(tmp_path / "in" / "b.nii.gz", tmp_path / "m" / "b.nii.gz")
    done = augment_scans(model, tmp_path / "in", tmp_path / "out", bank, masks=tmp_path / "m")
    assert done.without_mask == ("a.nii.gz",)


def test_masks_beside_their_images(model, bank, tmp_path):
    folder = tmp_path / "in"
    for name in ("case", "case_0001", "sub/other"):
        write_case(folder / f"{name}.nii.gz", folder / f"{name}_seg.nii.gz")
    write_case(folder / "bare.nii.gz", tmp_path / "elsewhere.nii.gz")
    done = augment_scans(model, folder, tmp_path / "out", bank, masks=folder, gate=None)
    assert done.without_mask == ("bare.nii.gz",)
    rows = {row["source"]: row["mask"] for row in rows_of(tmp_path / "out")}
    assert sorted(rows) == ["bare.nii.gz", "case.nii.gz", "case_0001.nii.gz", "sub/other.nii.gz"]
    for source, mask in rows.items():
        if mask is not None:
            expected = folder / source.replace(".nii", "_seg.nii")
            assert (tmp_path / "out" / mask).read_bytes() == expected.read_bytes()
