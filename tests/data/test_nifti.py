import gzip

import nibabel as nib
import numpy as np
import pytest

from tfstyle.data import WINDOWS, Scan, Window, match_labels, read_nifti, read_scan, write_nifti
from tfstyle.errors import ArgumentError, InputFileError, OutputError

# A volume that knows its own place: value = 100 x left + 10 x posterior + superior + offset,
# in steps of the grid, so any reader that gets the axes wrong gets the values wrong.
GRID = np.stack(np.meshgrid(np.arange(5), np.arange(6), np.arange(7), indexing="ij"))


def volume(codes="LPS", spacing=(2.0, 3.0, 4.0), dtype=np.int16):
    """A NIfTI image of the same 5 x 6 x 7 body, stored in the given axis order."""
    values = (100 * GRID[0] + 10 * GRID[1] + GRID[2] - 500).astype(dtype)
    lps = np.diag([*spacing, 1.0])
    lps[:3, 3] = -11, -12, -13
    image = nib.Nifti1Image(values, np.diag([-1.0, -1, 1, 1]) @ lps)
    target = nib.orientations.axcodes2ornt(codes)
    now = nib.orientations.io_orientation(image.affine)
    return image.as_reoriented(nib.orientations.ornt_transform(now, target))


@pytest.fixture
def save(tmp_path):
    def write(image, name="ct.nii.gz"):
        path = tmp_path / name
        nib.save(image, path)
        return path

    return write


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR"])
def test_every_orientation_reads_alike(save, codes):
    scan = read_scan(save(volume(codes)))
    assert scan.pixels.shape == (7, 6, 5)
    # Slices upward, rows to the back, columns to the patient's left, as DICOM shows axial slices.
    s, r, c = np.meshgrid(np.arange(7), np.arange(6), np.arange(5), indexing="ij")
    np.testing.assert_array_equal(scan.pixels, 100 * c + 10 * r + s - 500)
    assert scan.spacing == (4.0, 3.0, 2.0)
    np.testing.assert_allclose(scan.affine @ [0, 0, 0, 1], [-11, -12, -13, 1])
    np.testing.assert_allclose(scan.affine @ [1, 1, 1, 1], [-9, -9, -9, 1])
    assert (scan.units, scan.name) == ("HU", "ct")


def test_units_are_judged_by_values(save):
    def units(values, **options):
        image = nib.Nifti1Image(np.asarray(values).reshape(1, 2, -1), np.eye(4))
        return read_nifti(save(image), **options).units

    ct, mr = np.int16([-1000, 0, 40, 900]), np.float32([-3, 0, 1.5, 4])  # standardized MR
    assert (units(ct), units(mr), units(ct - ct.min())) == ("HU", "US", "US")
    assert (units(ct, units="US"), units(mr, units="HU")) == ("US", "HU")
    with pytest.raises(ArgumentError, match="one of auto, HU, US"):
        units(ct, units="hounsfield")


def test_values(save):
    hu = np.array([[-3024, -1207, 0.4, 99999]], np.float32)
    scan = read_scan(save(nib.Nifti1Image(hu.reshape(4, 1, 1), np.diag([-1.0, -1, 1, 1]))))
    np.testing.assert_array_equal(scan.pixels.ravel(), [-1024, -1207, 0, 32767])
    image = volume()
    image.header.set_slope_inter(2, -10)
    plain = read_scan(save(volume(), "plain.nii")).pixels
    np.testing.assert_array_equal(read_scan(save(image)).pixels, 2 * plain - 10)


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 3), (4, 3, 2, 1, 1)])
def test_small_and_flat_shapes(save, tmp_path, shape):
    scan = read_scan(save(nib.Nifti1Image(np.full(shape, 7, np.int16), np.eye(4))))
    assert scan.pixels.size == np.prod(shape)
    assert (scan.pixels == 7).all()
    write_nifti(np.zeros(scan.pixels.shape), scan, Window(0, 14), tmp_path / "out.nii")
    assert nib.load(tmp_path / "out.nii").shape == shape


COLORS = np.zeros((3, 3, 3), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))


def test_unusable_values(save):
    for values, message in (
        (np.float32([0, np.nan, np.inf, 1]).reshape(2, 2, 1), "2 of 4 voxels are NaN or infinite"),
        (COLORS, "one gray value a voxel"),
        (np.zeros((4, 4, 4, 3), np.int16), r"ct\.nii\.gz: a 4-D image of shape \(4, 4, 4, 3\)"),
    ):
        with pytest.raises(InputFileError, match=message):
            read_scan(save(nib.Nifti1Image(values, np.eye(4))))


@pytest.mark.parametrize(("code", "said"), [(0, 1), (1, 0)])
def test_missing_size_of_voxels_is_said_once(save, tmp_path, caplog, code, said):
    image = nib.Nifti1Image(GRID[0].astype(np.int16) * 100 - 500, None)
    image.header.set_sform(np.eye(4), code)
    image.header["pixdim"][1:4] = 0
    raw = bytes(image.header.binaryblock) + bytes(4) + image.get_fdata().astype("<i2").tobytes("F")
    (tmp_path / "a.nii").write_bytes(raw)
    scan = read_scan(tmp_path / "a.nii")
    assert scan.spacing == (1, 1, 1)
    text = f"{tmp_path / 'a.nii'} does not say the size of its voxels (pixdim); taken as 1 mm"
    assert caplog.text.count(text) == said


def test_no_nifti_or_cut_short(save, tmp_path):
    path = tmp_path / "text.nii"
    path.write_text("no image " * 100)
    with pytest.raises(InputFileError, match="not a NIfTI file, or damaged"):
        read_scan(path)
    raw = save(volume(), "a.nii").read_bytes()
    path.write_bytes(raw[:-40])
    with pytest.raises(InputFileError, match=r"text\.nii: .*(cut short|truncated)"):
        read_scan(path)
    path = tmp_path / "short.nii.gz"
    path.write_bytes(gzip.compress(raw)[:-30])
    with pytest.raises(InputFileError, match=r"short\.nii\.gz: .*(truncated|damaged)"):
        read_scan(path)
    with pytest.raises(InputFileError, match="no such file"):
        read_nifti(tmp_path / "none.nii")


def test_labels_that_cover_some_slices(save):
    scan = read_scan(save(volume("RAS")))
    part = volume("LPS").slicer[:, :, 2:4]
    labels, covered = match_labels(scan, save(part, "l.nii.gz"))
    np.testing.assert_array_equal(covered, [False, False, True, True, False, False, False])
    np.testing.assert_array_equal(labels[2:4], scan.pixels[2:4])
    assert not labels[~covered].any()
    path = save(volume("LPS"), "l.nii.gz")
    labels, covered = match_labels(scan, path, offset_mm=(0, 0, 8))
    np.testing.assert_array_equal(covered, [False] * 2 + [True] * 5)
    np.testing.assert_array_equal(labels[2:], scan.pixels[:-2])


def test_labels_of_another_spacing(save):
    scan = read_scan(save(volume("LPS", (1.0, 1.0, 1.0))))
    coarse = np.array([[[1, 2]], [[3, 4]]], np.uint8)  # 2 x 1 x 2 voxels of 2 x 6 x 4 mm
    affine = np.diag([-2.0, -6.0, 4.0, 1.0])
    affine[:3, 3] = 10.5, 9.5, -11.5  # so that voxel borders coincide
    labels, _ = match_labels(scan, save(nib.Nifti1Image(coarse, affine), "l.nii.gz"))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels[:, 3, 0], [1, 1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(labels[0, 3], [1, 1, 3, 3, 0])


def test_bad_labels(save):
    scan = read_scan(save(volume("RAS")))
    fractions = nib.Nifti1Image(np.full((3, 3, 3), 0.5, np.float32), np.eye(4))
    with pytest.raises(InputFileError, match=r"l\.nii: labels must be integers"):
        match_labels(scan, save(fractions, "l.nii"))
    with pytest.raises(ArgumentError, match="must have a position in space"):
        match_labels(Scan(scan.pixels), save(volume(), "l.nii"))
    whole = nib.Nifti1Image(np.full((3, 3, 3), 300, np.float32), np.eye(4))
    assert match_labels(scan, save(whole, "l.nii"))[0].dtype == np.int16


@pytest.mark.parametrize(
    ("codes", "kind", "dtype", "end", "forms"),
    [
        ("RAS", nib.Nifti1Image, np.int16, ".nii", (1, 2)),
        ("LAS", nib.Nifti2Image, np.float32, ".nii.gz", (0, 4)),
        ("SAL", nib.Nifti2Image, np.int16, ".nii", (0, 0)),
    ],
)
def test_written_volume_has_the_axes_of_its_source(tmp_path, codes, kind, dtype, end, forms):
    image = volume(codes, dtype=dtype)
    image.header["descrip"] = b"DOE^JOHN"
    image.header.set_qform(image.affine, forms[0])
    image.header.set_sform(image.affine, forms[1])
    if codes == "LAS":  # stored by a machine of the other byte order
        image = nib.Nifti1Image(image.dataobj, None, image.header.as_byteswapped())
    source, out = tmp_path / f"ct{end}", tmp_path / f"out{end}"
    nib.save(kind(np.asanyarray(image.dataobj), None, image.header), source)
    scan, window = read_scan(source), Window(0, 3000)
    write_nifti(window.to_unit(scan.pixels), scan, window, out)
    before, after = nib.load(source), nib.load(out)
    np.testing.assert_allclose(after.get_fdata(), before.get_fdata(), atol=0.5)
    np.testing.assert_array_equal(after.affine, before.affine)
    for name in ("qform_code", "sform_code", "pixdim", "srow_x", "quatern_b", "xyzt_units"):
        np.testing.assert_array_equal(after.header[name], before.header[name])
    assert type(after) is kind
    assert b"DOE" not in after.header.binaryblock


def test_written_part_of_a_volume_keeps_its_place(tmp_path, save):
    scan = read_scan(save(volume("PIR")))
    write_nifti(
        WINDOWS["full"].to_unit(scan.pixels[2:5]), scan[2:5], WINDOWS["full"], tmp_path / "out.nii"
    )
    back, image = read_scan(tmp_path / "out.nii"), nib.load(tmp_path / "out.nii")
    np.testing.assert_allclose(back.affine, scan[2:5].affine)
    np.testing.assert_allclose(back.pixels, scan.pixels[2:5], atol=1)
    assert nib.aff2axcodes(image.affine) == ("P", "I", "R")


def test_written_in_other_units_is_float(tmp_path):
    scan = Scan(np.zeros((2, 3, 4), np.int16), (3, 2, 1), units="US")
    unit = np.random.default_rng(0).random((2, 3, 4))
    write_nifti(unit[..., None], scan, Window(0.5, 1), tmp_path / "out.nii")
    back = read_scan(tmp_path / "out.nii")
    assert (back.units, back.spacing) == ("US", scan.spacing)
    np.testing.assert_allclose(back.pixels, unit, atol=1e-6)


def test_write_errors(tmp_path):
    (tmp_path / "file").touch()
    scan = Scan(np.zeros((2, 3, 4), np.int16))
    for name, change, error, message in (
        ("file/out.nii", 1, OutputError, "/file: is a file, where a folder is needed"),
        ("out.img", 1, ArgumentError, r"end in \.nii"),
        ("out.nii", np.ones((2, 1, 1, 1)), ArgumentError, r"shape \(2, 3, 4\), received \(2, 2, 3"),
        ("out.nii", np.nan, ArgumentError, "NaN"),
    ):
        with pytest.raises(error, match=message):
            write_nifti(np.zeros((2, 3, 4)) * change, scan, WINDOWS["bone"], tmp_path / name)
        assert [p.name for p in tmp_path.iterdir()] == ["file"]
