"""Which files of a data set are scans: label maps and results of tfstyle are not."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.data.conftest import save_nifti
from tfstyle.data import list_scans, read_scans, write_png
from tfstyle.data.layouts import DESCRIPTION, is_result, key_of
from tfstyle.errors import InputFileError

CT = np.linspace(-1000, 1000, 60).reshape(3, 4, 5)
MR = np.arange(60).reshape(3, 4, 5)
LABELS = MR // 20


def save(path, values=CT, *options):
    save_nifti(path, values, *options)


def found(folder) -> list[str]:
    """What both readers find, which must be the same."""
    read = sorted(file for scan in read_scans(folder) for file in scan.files)
    listed = [one for one in list_scans(folder)[0] if one.read()]
    assert sorted(file for one in listed for file in one.files) == read
    return [str(file)[len(str(folder)) + 1 :] for file in read]


LAYOUTS = {
    "TotalSegmentator": (
        ["s0001/ct.nii.gz", "s0002/ct.nii.gz"],
        ["s0001/segmentations/liver.nii.gz", "s0002/segmentations/vertebrae_L1.nii.gz"],
    ),
    "nnU-Net": (
        ["Dataset1_A/imagesTr/a_0000.nii.gz", "Dataset1_A/imagesTs/b_0000.nii.gz"],
        ["Dataset1_A/labelsTr/a.nii.gz", "Dataset1_A/labelsTs/b.nii.gz",
         "Dataset1_A/gt_segmentations/a.nii.gz", "Dataset1_A/predictionsTs/b.nii.gz",
         "Dataset1_A/inferTs/b.nii.gz"],
    ),
    "Decathlon": (["Task09/imagesTr/spleen_2.nii.gz"], ["Task09/labelsTr/spleen_2.nii.gz"]),
    "VerSe": (
        ["rawdata/sub-v4/sub-v4_ct.nii.gz", "verse005.nii.gz"],
        ["derivatives/sub-v4/sub-v4_seg-vert_msk.nii.gz", "verse005_seg.nii.gz"],
    ),
    "BIDS": (
        ["sub-1/ct/sub-1_ct.nii.gz", "derivatives/clean/sub-1/sub-1_desc-preproc_ct.nii.gz"],
        ["derivatives/seg/sub-1/sub-1_dseg.nii.gz",
         "derivatives/seg/sub-1/sub-1_label-L_probseg.nii.gz",
         "derivatives/seg/sub-1/sub-1_desc-brain_mask.nii.gz"],
    ),
    "CTSpine1K": (["volumes/A/x.nii.gz"], ["labels/A/x_seg.nii.gz", "label/A/x.nii.gz"]),
    "LiTS": (["volume-0.nii"], ["segmentation-0.nii"]),
    "KiTS": (
        ["case_1/imaging.nii.gz"],
        ["case_1/segmentation.nii.gz",
         "case_1/instances/kidney_instance-1_annotation-1.nii.gz"],
    ),
    "BTCV": (["img/img0001.nii.gz"], ["label/label0001.nii.gz"]),
    "own": (
        ["images/a.nii.gz", "images_and_labels/b.nii.gz", "no_mask/c.nii.gz", "labelled/d.nii"],
        ["Masks/a.nii.gz", "lung masks/a.nii.gz", "images_and_labels/b_mask.nii.gz",
         "ground_truth/a.nii.gz", "ROI/a.nii.gz", "contours/a.nii.gz", "a/structures/liver.nii.gz",
         "nnUNet_results/Dataset1_A/fold_0/validation/a.nii.gz", "case_contour.nii.gz"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_label_maps_are_no_scans(tmp_path, caplog, name):
    images, labels = LAYOUTS[name]
    for path in images:
        save(tmp_path / path)
    for path in labels:
        save(tmp_path / path, LABELS, np.uint8)
    assert found(tmp_path) == sorted(images)
    kind = "a label map" if len(labels) == 1 else "label maps"
    words = f"({kind} by the names of files or folders)."
    assert caplog.text.count(words) == 2  # once a reader, not once a file


def test_pictures_and_dicom_in_folders_of_masks(tmp_path, write_ct):
    for name in ("images/a.png", "masks/a.png", "images/b_mask.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_png(np.zeros((4, 4)), tmp_path / name)
    write_ct("MASKS_DICOM/bone/1.dcm")
    write_ct("LABELLED_DICOM/1.dcm")
    write_ct("PATIENT_DICOM/1.dcm")
    assert found(tmp_path) == ["PATIENT_DICOM/1.dcm", "images/a.png"]


def test_what_is_given_itself_is_read(tmp_path):
    save(tmp_path / "ct.nii.gz")
    save(tmp_path / "segmentations" / "liver.nii.gz", LABELS, np.uint8)
    assert found(tmp_path / "segmentations") == ["liver.nii.gz"]
    for read in (read_scans, lambda path: list_scans(path)[0]):
        assert len(read(tmp_path / "segmentations" / "liver.nii.gz")) == 1


@pytest.mark.parametrize("name", ["a_seg.nii.gz", "masks/a.png"])
def test_nothing_but_label_maps(tmp_path, name):
    save(tmp_path / "x_seg.nii.gz", LABELS)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    (save if name.endswith("gz") else lambda p: write_png(np.zeros((4, 4)), p))(path)
    for read in (read_scans, list_scans):
        with pytest.raises(InputFileError, match=r"holds no scans: 2 files such as .* label maps"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("case_0000.nii.gz", "case.nii.gz"),
        ("sub-v4_dir-ax_ct.nii.gz", "sub-v4_dir-ax_seg-vert_msk.nii.gz"),
        ("sub-1_ct.nii.gz", "sub-1_label-lung_mask.nii.gz"),
        ("volume-12.nii", "segmentation-12.nii"),
        ("img0001.nii.gz", "label0001.nii.gz"),
        ("a_img_03.png", "a_mask_03.png"),
        ("case_1.nii", "case_1.seg.nrrd"),
    ],
)
def test_names_of_one_case(image, mask):
    assert key_of(image) == key_of(mask)
    others = ["case_0001", "case_0002", "img0003", "img0004", "ct", "labels"]
    assert len({key_of(f"{name}.nii.gz") for name in others} - {key_of(image)}) == len(others)


# -- results -----------------------------------------------------------------------------------


def write_result(path):
    if path.name.endswith("png"):
        write_png(np.zeros((4, 4)), path, description=DESCRIPTION)
    else:
        image = nib.Nifti1Image(CT.astype(np.int16), np.eye(4))
        image.header["descrip"] = DESCRIPTION.encode()
        nib.save(image, path)


@pytest.mark.parametrize("name", ["r.png", "r.nii", "r.nii.gz"])
def test_results_are_no_scans_of_a_folder(tmp_path, caplog, name):
    write_result(tmp_path / name)
    assert is_result(tmp_path / name)
    assert found(tmp_path) == [name]  # nothing else is there
    write_png(np.zeros((4, 4)), tmp_path / "a.png")
    assert not is_result(tmp_path / "a.png")
    assert found(tmp_path) == ["a.png"]
    assert f"{name}, which tfstyle made" in caplog.text
    assert len(read_scans(tmp_path / name)) == 1


def test_results_with_many_references(write_ct):
    reference = Dataset()
    reference.ReferencedSOPInstanceUID = "1.2." + "3" * 50
    described = {
        "ImageType": ["DERIVED", "SECONDARY"],
        "ReferencedImageSequence": [reference] * 400,
    }
    assert is_result(write_ct("a.dcm", DerivationDescription=DESCRIPTION, **described))
    assert not is_result(write_ct("b.dcm", DerivationDescription="MPR", **described))


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b\x08" + bytes(50)])
def test_damaged_files_are_no_results(tmp_path, data):
    (tmp_path / "a.nii.gz").write_bytes(data)
    assert not is_result(tmp_path / "a.nii.gz")
    assert not is_result(tmp_path / "none")
