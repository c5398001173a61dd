"""Which files of a data set are scans: label maps and results of tfstyle are not."""

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.data.conftest import save_nifti
from tfstyle.data import list_scans, read_scans, write_png
from tfstyle.data.layouts import DESCRIPTION, is_result
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
    "TotalSegmentator": (["s1/ct.nii.gz"], ["s1/segmentations/vertebrae_L1.nii.gz"]),
    "nnU-Net": (
        ["A/imagesTr/a_0000.nii.gz", "A/imagesTs/b_0000.nii.gz"],
        ["A/labelsTr/a.nii.gz", "A/gt_segmentations/a.nii.gz", "A/predictionsTs/b.nii.gz"],
    ),
    "VerSe": (
        ["rawdata/sub-v4/sub-v4_ct.nii.gz", "verse005.nii.gz"],
        ["derivatives/sub-v4/sub-v4_seg-vert_msk.nii.gz", "verse005_seg.nii.gz"],
    ),
    "BIDS": (
        ["sub-1/ct/sub-1_ct.nii.gz", "derivatives/clean/sub-1/sub-1_desc-preproc_ct.nii.gz"],
        ["derivatives/seg/sub-1/sub-1_dseg.nii.gz",
         "derivatives/seg/sub-1/sub-1_label-L_probseg.nii.gz"],
    ),
    "CTSpine1K": (["volumes/A/x.nii.gz"], ["labels/A/x_seg.nii.gz", "label/A/x.nii.gz"]),
    "LiTS": (["volume-0.nii"], ["segmentation-0.nii"]),
    "own": (
        ["images/a.nii.gz", "images_and_labels/b.nii.gz", "no_mask/c.nii.gz", "labelled/d.nii"],
        ["lung masks/a.nii.gz", "images_and_labels/b_mask.nii.gz", "ROI/a.nii.gz",
         "a/structures/liver.nii.gz", "case_contour.nii.gz"],
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
    # once a reader, not once a file
    assert caplog.text.count("label maps by the names of files or folders") == 2


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


def test_nothing_but_label_maps(tmp_path):
    for name in ("x_seg.nii.gz", "masks/a.nii.gz"):
        save(tmp_path / name, LABELS)
    for read in (read_scans, list_scans):
        with pytest.raises(InputFileError, match=r"holds no scans: 2 files such as .* label maps"):
            read(tmp_path)


def write_result(path):
    if path.name.endswith("png"):
        write_png(np.zeros((4, 4)), path, description=DESCRIPTION)
    else:
        image = nib.Nifti1Image(CT.astype(np.int16), np.eye(4))
        image.header["descrip"] = DESCRIPTION.encode()
        nib.save(image, path)


@pytest.mark.parametrize("name", ["r.png", "r.nii.gz"])
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
