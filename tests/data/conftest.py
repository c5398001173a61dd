"""Small DICOM files that the tests write themselves."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SERIES = "1.2.826.0.1.3680043.8.498.1"
STUDY = "1.2.826.0.1.3680043.8.498.2"
FRAME_OF_REFERENCE = "1.2.826.0.1.3680043.8.498.3"


def make_ct(stored=None, **changes) -> Dataset:
    """A complete CT data set; ``changes`` are attributes by keyword, None takes one out."""
    if stored is None:
        stored = np.arange(8 * 6, dtype=np.int16).reshape(8, 6)
    stored = np.asarray(stored)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CT_IMAGE
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = STUDY
    dataset.SeriesInstanceUID = SERIES
    dataset.FrameOfReferenceUID = FRAME_OF_REFERENCE
    dataset.Modality = "CT"
    dataset.PatientName = "Test^Patient"
    dataset.PatientID = "42"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SeriesNumber = 3
    dataset.InstanceNumber = 1
    dataset.ImagePositionPatient = [-10.0, -20.0, 0.0]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [0.5, 0.75]
    dataset.SliceThickness = 2
    dataset.RescaleSlope = 1
    dataset.RescaleIntercept = -1024
    dataset.WindowCenter = [40, 400]
    dataset.WindowWidth = [400, 1800]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = 8 * stored.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes()
    change(dataset, changes)
    return dataset


def change(dataset: Dataset, changes: dict) -> None:
    """Sets attributes by keyword; None takes one out."""
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)


def save_series(folder: Path, planes, positions=None, **changes) -> list[Dataset]:
    """Writes stored values (N, H, W), by default 2 mm apart, under shuffled names, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    order, datasets = np.random.default_rng(0).permutation(len(planes)), []
    for number, (stored, name) in enumerate(zip(planes, order)):
        z = 2.0 * number if positions is None else float(positions[number])
        place = {"ImagePositionPatient": [-10.0, -20.0, z], "InstanceNumber": number + 1}
        datasets.append(make_ct(stored, **place, **changes))
        datasets[-1].filename = str(folder / f"{name:03d}.dcm")
        datasets[-1].save_as(datasets[-1].filename, enforce_file_format=True)
    return datasets


def item(**attributes) -> Dataset:
    """An item of a sequence."""
    one = Dataset()
    for keyword, value in attributes.items():
        setattr(one, keyword, value)
    return one


def save_nifti(path, values, dtype=np.int16, affine=None) -> Path:
    """Writes a volume given as NIfTI has it; by default LPS, 1 mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.0, -1, 1, 1]) if affine is None else affine
    nib.save(nib.Nifti1Image(np.asarray(values, dtype), affine), path)
    return path


def save_segmentation(datasets, labels, path) -> Path:
    """Writes a DICOM SEG of labels (slices, rows, columns) from 1 for CT data sets."""
    hd = pytest.importorskip("highdicom")
    from pydicom.sr.codedict import codes

    for dataset in datasets:  # what a SEG takes over from its images
        for keyword in (
            *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber"),
            *("StudyID", "ReferringPhysicianName"),
        ):
            setattr(dataset, keyword, "")
    algorithm = hd.AlgorithmIdentificationSequence(
        "test", hd.sr.CodedConcept("123109", "DCM", "Manual Processing"), "1"
    )
    kind = hd.seg.SegmentAlgorithmTypeValues.MANUAL
    segments = [
        hd.seg.SegmentDescription(n, str(n), codes.SCT.Tissue, codes.SCT.Bone, kind, algorithm)
        for n in range(1, int(labels.max()) + 1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    uids = generate_uid(), 9, generate_uid(), 1
    hd.seg.Segmentation(
        datasets, labels.astype(np.uint8), "BINARY", segments, *uids, "a", "b", "1", "2"
    ).save_as(path)
    return path


@pytest.fixture
def write_ct(tmp_path):
    """``write_ct(name, stored, **attributes)`` writes a CT file below ``tmp_path``."""

    def write(name="ct.dcm", stored=None, **changes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset = make_ct(stored, **changes)
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def write_series(tmp_path):
    """``write_series(positions, folder)`` writes one slice per z in mm, file names shuffled.

    Every pixel of a slice holds 1000 + its number, so that a slice is known by its values.
    """

    def write(positions, folder="series", **changes) -> list[Path]:
        planes = [np.full((8, 6), 1000 + n, np.int16) for n in range(len(positions))]
        written = save_series(tmp_path / folder, planes, positions, **changes)
        return [Path(dataset.filename) for dataset in written]

    return write


@pytest.fixture
def sample():
    """``sample(name)``: path of a file inside pydicom's own wheel, never downloaded."""

    def find(name) -> Path:
        path = get_testdata_file(name, download=False)
        assert path is not None, f"pydicom's wheel lacks {name}"
        return Path(path)

    return find


@pytest.fixture
def enhanced_ct(tmp_path):
    """``enhanced_ct(positions)`` writes an enhanced multi-frame CT (PS3.3 A.38)."""

    def write(positions, x=-10, y=-20) -> Path:
        stored = np.stack([np.full((8, 6), 1000 + i, np.int16) for i in range(len(positions))])
        moved = (
            *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
            *("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"),
        )
        dataset = make_ct(
            stored,
            SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1",
            ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
            NumberOfFrames=len(positions),
            **dict.fromkeys(moved),
        )
        shared = item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.75], SliceThickness=2)],
            FrameVOILUTSequence=[item(WindowCenter=40, WindowWidth=400)],
        )
        dataset.SharedFunctionalGroupsSequence = [shared]
        dataset.PerFrameFunctionalGroupsSequence = [
            item(
                PlanePositionSequence=[item(ImagePositionPatient=[x, y, z])],
                PixelValueTransformationSequence=[
                    item(RescaleSlope=1, RescaleIntercept=-1024 + 10 * i, RescaleType="HU")
                ],
            )
            for i, z in enumerate(positions)
        ]
        path = tmp_path / "enhanced.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def edit_dicom():
    """Changes attributes of a written file in place."""

    def edit(path, **changes) -> None:
        dataset = pydicom.dcmread(path)
        change(dataset, changes)
        dataset.save_as(path)

    return edit
