"""What the header of a DICOM file says of each of its frames, single-frame and enhanced alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from tfstyle.data.dicom import tables
from tfstyle.data.dicom.files import (
    NoPictureError,
    called,
    check_size,
    damage_is_input_error,
    integer_of,
    meta_of,
    number_of,
    numbers_of,
    sop_class_of,
    text_of,
)
from tfstyle.data.layouts import MARK
from tfstyle.data.privacy import mark_of
from tfstyle.data.windows import Window
from tfstyle.errors import InputFileError

_NOT_PICTURES = frozenset({"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "RTRECORD", "PR", "KO", "SR"})

# What may tell images of one place apart, in the order in which it is tried: what it is called,
# the functional group that says it of a frame, and the attributes there or at the top level.
_CONTRASTS = (
    ("temporal position", "FrameContent", "TemporalPositionIndex TemporalPositionIdentifier"),
    ("cardiac phase", "CardiacSynchronization", "NominalPercentageOfCardiacPhase"),
    ("respiratory phase", "RespiratorySynchronization", "NominalPercentageOfRespiratoryPhase"),
    ("echo", "MREcho", "EchoNumbers EffectiveEchoTime EchoTime"),
    ("b-value", "MRDiffusion", "DiffusionBValue"),
    ("image type", "CTImageFrameType", "FrameType ImageType"),
    ("kVp", "CTXRayDetails", "KVP"),
    ("kernel", "CTReconstruction", "ConvolutionKernel"),
    ("slice thickness", "PixelMeasures", "SliceThickness"),
    ("contrast agent", "ContrastBolusUsage", "ContrastBolusAgentPhase ContrastBolusAgent"),
    ("series description", "", "SeriesDescription"),
    ("acquisition", "FrameContent", "FrameAcquisitionNumber AcquisitionNumber"),
    ("acquisition time", "FrameContent",
     "FrameAcquisitionDateTime AcquisitionDateTime AcquisitionTime"),
    ("content time", "", "ContentTime"),
)  # fmt: skip
#: Names in :attr:`Frame.contrasts`, in the order in which they are tried.
CONTRASTS = tuple(name for name, _, _ in _CONTRASTS)

#: Attributes that :func:`identity_of` needs, and the one by which results are known.
IDENTITY_TAGS = [
    *("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"),
    *("PatientID", "PatientName", "DerivationDescription"),
]

#: Series, study and frame of reference by their UIDs, and marks of the patient by ID and, where
#: that is missing, by name; "" if missing.
Identity = tuple[str, str, str, str, str]


@dataclass(eq=False)
class Frame:
    """One slice of one DICOM file, described by its header; the pixels are read later.

    Attributes in capitals are those of DICOM, of this frame where it has its own, with defaults
    where they are missing. ImageOrientationPatient holds unit vectors along rows and columns.
    """

    path: str
    index: int = 0  # in the file
    NumberOfFrames: int = 1
    identity: Identity = ("", "", "", "", "")
    SOPInstanceUID: str = ""
    Modality: str = ""
    SeriesNumber: int = 0
    InstanceNumber: int | None = None
    Rows: int = 0
    Columns: int = 0
    ImagePositionPatient: np.ndarray | None = None
    ImageOrientationPatient: np.ndarray | None = None
    PixelSpacing: tuple[float, float] = (1.0, 1.0)
    RescaleSlope: float | None = None
    RescaleIntercept: float | None = None
    BurnedInAnnotation: str = ""
    spaced: bool = True  # whether PixelSpacing, or ImagerPixelSpacing, is known
    step: float | None = None  # mm between slices by the header
    units: str = "US"
    window: Window | None = None  # the first one
    color: bool = False
    inverted: bool = False  # MONOCHROME1
    scout: bool = False  # LOCALIZER
    #: What may tell it from other images at its place, by name.
    contrasts: dict[str, tuple] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.Rows, self.Columns

    @property
    def placed(self) -> bool:
        """Whether position and orientation are known."""
        return self.ImagePositionPatient is not None and self.ImageOrientationPatient is not None

    @property
    def cosines(self) -> np.ndarray:
        """Unit vectors along rows and columns, (2, 3); the orientation must be known."""
        return np.asarray(self.ImageOrientationPatient).reshape(2, 3)

    @property
    def normal(self) -> np.ndarray:
        """Unit vector along the slice normal."""
        normal = np.cross(*self.cosines)
        return normal / np.linalg.norm(normal)

    @property
    def where(self) -> str:
        """The file, with the frame number if it holds several."""
        return self.path + (f" (frame {self.index + 1})" if self.NumberOfFrames > 1 else "")


def _numbers(path: str, dataset: Dataset, keyword: str, count: int) -> list[float]:
    """So many numbers of an attribute, or none where it is empty; else an InputFileError."""
    found = numbers_of(dataset, keyword)
    if len(found) >= count and (count == 1 or len(found) == count):
        return found[:count]
    value = dataset.get_item(keyword).value if keyword in dataset else b""  # as in the file
    value = value.decode("latin-1") if isinstance(value, bytes) else value
    if value.strip(" \0\\") if isinstance(value, str) else value:
        what = "a number" if count == 1 else "two numbers"
        raise InputFileError(path, f"{called(keyword)} is not {what}; mend the attribute.")
    return []


def functional_group(dataset: Dataset, index: int, name: str) -> Dataset:
    """What PS3.3 C.7.6.16 says of a frame: its own item, else the shared one, else the data set."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    groups = [*per_frame[index : index + 1], *shared[:1]]
    items = (group.get(f"{name}Sequence") for group in groups)
    return next((item[0] for item in items if item), dataset)


def window_of(dataset: Dataset) -> Window | None:
    """The first window of a data set or functional group, as a linear exact one."""
    center, width = number_of(dataset, "WindowCenter"), number_of(dataset, "WindowWidth")
    if center is None or width is None:
        return None
    if text_of(dataset, "VOILUTFunction") in ("", "LINEAR"):
        return Window.from_linear(center, width) if width > 1 else None
    return Window(center, width) if width > 0 else None


def identity_of(dataset: Dataset) -> Identity:
    """UIDs of series, study and frame of reference, and marks of the patient; "" if missing."""
    series, study, place, patient, name = (text_of(dataset, tag) for tag in IDENTITY_TAGS[:5])
    name = name.rstrip("^ ").upper()
    marks = mark_of(patient) if patient else "", mark_of(name) if name and not patient else ""
    return series, study, place, *marks


def is_own(dataset: Dataset) -> bool:
    """Whether tfstyle made the image."""
    return MARK in text_of(dataset, "DerivationDescription")


def frames_of(path: str, dataset: Dataset) -> list[Frame]:
    """Describes every frame of a data set; an InputFileError if it is damaged or no picture."""
    with damage_is_input_error(path):
        return _describe(path, dataset)


def _describe(path: str, dataset: Dataset) -> list[Frame]:
    modality, meta = text_of(dataset, "Modality"), meta_of(dataset)
    sop_class = sop_class_of(dataset)
    if sop_class == pydicom.uid.MediaStorageDirectoryStorage:
        raise NoPictureError(path, "a DICOMDIR, the index of files. Give the folder that holds it.")
    if "Rows" not in dataset or "Columns" not in dataset or modality in _NOT_PICTURES:
        what = modality or pydicom.uid.UID(sop_class).name or "unknown object"
        problem = f"a DICOM file ({what}) without Rows and Columns of a picture to read."
        raise NoPictureError(path, problem)
    check_size(path, dataset)
    count = max(1, integer_of(dataset, "NumberOfFrames", 1))
    # Frames beyond those that have functional groups of their own are alike.
    described = min(count, len(dataset.get("PerFrameFunctionalGroupsSequence") or ()) + 1)
    photometric = text_of(dataset, "PhotometricInterpretation")
    number = number_of(dataset, "InstanceNumber")
    common = Frame(
        path=path,
        NumberOfFrames=count,
        identity=identity_of(dataset),
        SOPInstanceUID=text_of(dataset, "SOPInstanceUID")
        or text_of(meta, "MediaStorageSOPInstanceUID"),
        Modality=modality or ("CT" if sop_class in (tables.CT, *tables.ENHANCED_CT) else ""),
        SeriesNumber=integer_of(dataset, "SeriesNumber"),
        InstanceNumber=None if number is None else int(number),
        Rows=integer_of(dataset, "Rows"),
        Columns=integer_of(dataset, "Columns"),
        BurnedInAnnotation=text_of(dataset, "BurnedInAnnotation"),
        color=integer_of(dataset, "SamplesPerPixel", 1) != 1 or photometric == "PALETTE COLOR",
        inverted=photometric == "MONOCHROME1",
    )
    frames = [_describe_frame(common, dataset, index) for index in range(described)]
    return frames + [replace(frames[-1], index=index) for index in range(described, count)]


def _describe_frame(common: Frame, dataset: Dataset, index: int) -> Frame:
    group = partial(functional_group, dataset, index)
    rescale, measures = group("PixelValueTransformation"), group("PixelMeasures")
    contrasts = _contrasts(dataset, group)
    image_type = [str(v) for v in contrasts.get("image type", ())]
    position = np.array(numbers_of(group("PlanePosition"), "ImagePositionPatient"))
    cosines = np.array(numbers_of(group("PlaneOrientation"), "ImageOrientationPatient"))
    slope, intercept = (
        next(iter(_numbers(common.path, rescale, f"Rescale{which}", 1)), None)
        for which in ("Slope", "Intercept")
    )
    spacings = (
        _numbers(common.path, measures, "PixelSpacing", 2),
        numbers_of(dataset, "ImagerPixelSpacing"),
    )
    spacing = next(((s[0], s[1]) for s in spacings if len(s) == 2 and min(s) > 0), None)
    step = number_of(measures, "SpacingBetweenSlices") or number_of(measures, "SliceThickness")
    scout = "LOCALIZER" in image_type
    units = _units(common.Modality, image_type, text_of(rescale, "RescaleType"), scout)
    window = window_of(group("FrameVOILUT"))
    if window is not None and common.inverted and units != "HU":  # as are the pixels
        window = Window(-window.center, window.width)
    return replace(
        common,
        index=index,
        ImagePositionPatient=position if position.shape == (3,) else None,
        ImageOrientationPatient=_unit_cosines(cosines),
        PixelSpacing=spacing or (1.0, 1.0),
        spaced=spacing is not None,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        step=abs(step) if step else None,
        units=units,
        window=window,
        scout=scout,
        contrasts=contrasts,
    )


def _contrasts(dataset: Dataset, group: Callable[[str], Dataset]) -> dict[str, tuple]:
    """What may tell a frame from others at its place, as far as its header says it."""
    found = {}
    for name, where, keywords in _CONTRASTS:
        places = (group(where), dataset) if where else (dataset,)
        values = (_values(place, keyword) for place in places for keyword in keywords.split())
        value = next(filter(None, values), None)
        if value is not None:
            found[name] = tuple(value)
    for number, value in enumerate(_values(group("FrameContent"), "DimensionIndexValues"), start=1):
        found[f"dimension {number}"] = (value,)
    return found


def _values(dataset: Dataset, keyword: str) -> list:
    """The values of an attribute, numbers as floats; an empty list if it is missing or empty."""
    numbers = numbers_of(dataset, keyword)
    if numbers:
        return numbers
    try:
        value = dataset.get(keyword)
    except Exception:  # a damaged value tells nothing apart
        return []
    if value is None or isinstance(value, (str, bytes)):
        return [value] if value else []
    return [str(v) for v in value] if isinstance(value, Iterable) else [value]


def _unit_cosines(cosines: np.ndarray) -> np.ndarray | None:
    """Normalized direction cosines, or None if they do not span a plane."""
    if cosines.shape != (6,):
        return None
    row, column = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 1e-3 or np.linalg.norm(np.cross(row, column)) < 1e-3:
        return None
    return np.concatenate([row / lengths[0], column / lengths[1]])


def _units(modality: str, image_type: list[str], rescale_type: str, scout: bool) -> str:
    """HU for CT, but where a derived image or a scout says otherwise (PS3.3 C.8.2.1.1.4)."""
    if modality != "CT":
        return "US"
    original = bool(image_type) and image_type[0].strip() == "ORIGINAL" and not scout
    return "HU" if original or rescale_type.upper() in ("", "HU", "HU_MOD") else "US"
