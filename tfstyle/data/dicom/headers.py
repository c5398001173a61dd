"""What the header of a DICOM file says of each of its frames, single-frame and enhanced alike."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from tfstyle.data.dicom.files import NoPictureError, NoSizeError, damage_is_input_error
from tfstyle.data.privacy import mark_of
from tfstyle.data.windows import Window
from tfstyle.errors import InputFileError
from tfstyle.limits import check

_NOT_PICTURES = frozenset({"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "RTRECORD", "PR", "KO", "SR"})

_CT_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
    }
)

# What may tell images of one place apart, in the order in which it is tried: what it is called,
# the functional group that says it of a frame, and the attributes there or at the top level.
_CONTRASTS = (
    ("StackID", "FrameContentSequence", ("StackID",)),
    (
        "temporal position",
        "FrameContentSequence",
        ("TemporalPositionIndex", "TemporalPositionIdentifier"),
    ),
    ("temporal offset", "TemporalPositionSequence", ("TemporalPositionTimeOffset",)),
    (
        "cardiac phase",
        "CardiacSynchronizationSequence",
        ("NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime"),
    ),
    (
        "respiratory phase",
        "RespiratorySynchronizationSequence",
        ("NominalPercentageOfRespiratoryPhase", "NominalRespiratoryTriggerDelayTime"),
    ),
    ("echo", "MREchoSequence", ("EchoNumbers", "EffectiveEchoTime", "EchoTime")),
    ("echo time", "MREchoSequence", ("EffectiveEchoTime", "EchoTime")),
    ("inversion time", "MRModifierSequence", ("InversionTimes", "InversionTime")),
    ("b-value", "MRDiffusionSequence", ("DiffusionBValue",)),
    ("gradient", "MRDiffusionSequence", ("DiffusionGradientOrientation",)),
    ("flip angle", "MRTimingAndRelatedParametersSequence", ("FlipAngle",)),
    ("sequence", None, ("SequenceName",)),
    ("image type", None, ("ImageType",)),
    ("complex component", "MRImageFrameTypeSequence", ("ComplexImageComponent",)),
    ("kVp", "CTXRayDetailsSequence", ("KVP",)),
    ("kernel", "CTReconstructionSequence", ("ConvolutionKernel",)),
    ("filter", None, ("FilterType",)),
    ("slice thickness", "PixelMeasuresSequence", ("SliceThickness",)),
    (
        "contrast agent",
        "ContrastBolusUsageSequence",
        ("ContrastBolusAgentPhase", "ContrastBolusAgent"),
    ),
    ("series number", None, ("SeriesNumber",)),
    ("series description", None, ("SeriesDescription",)),
    ("image comments", None, ("ImageComments",)),
    ("acquisition", "FrameContentSequence", ("FrameAcquisitionNumber", "AcquisitionNumber")),
    ("trigger time", None, ("TriggerTime",)),
    (
        "acquisition time",
        "FrameContentSequence",
        ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime"),
    ),
    ("content time", None, ("ContentTime",)),
)
#: Names in :attr:`Frame.contrasts`, in the order in which they are tried.
CONTRASTS = tuple(name for name, _, _ in _CONTRASTS)

#: Attributes that :func:`frames_of` needs.
HEADER_TAGS = sorted(
    {
        "AcquisitionNumber",
        "BitsAllocated",
        "BurnedInAnnotation",
        "Columns",
        "FrameOfReferenceUID",
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "ImageType",
        "ImagerPixelSpacing",
        "InstanceNumber",
        "Modality",
        "ModalityLUTSequence",
        "NumberOfFrames",
        "PatientID",
        "PatientName",
        "PerFrameFunctionalGroupsSequence",
        "PhotometricInterpretation",
        "PixelSpacing",
        "RescaleIntercept",
        "RescaleSlope",
        "RescaleType",
        "Rows",
        "SOPClassUID",
        "SOPInstanceUID",
        "SamplesPerPixel",
        "SeriesInstanceUID",
        "SeriesNumber",
        "SharedFunctionalGroupsSequence",
        "SliceLocation",
        "SliceThickness",
        "SpacingBetweenSlices",
        "StudyInstanceUID",
        "VOILUTFunction",
        "WindowCenter",
        "WindowWidth",
    }.union(*(keywords for _, _, keywords in _CONTRASTS))
)

#: Attributes that :func:`identity_of` needs.
IDENTITY_TAGS = [
    *("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"),
    *("PatientID", "PatientName"),
]

#: Series, study and frame of reference by their UIDs, and marks of the patient by ID and, where
#: that is missing, by name; "" if missing.
Identity = tuple[str, str, str, str, str]


@dataclass(eq=False)
class Frame:
    """One slice of one DICOM file, described by its header; the pixels are read later.

    Attributes in capitals are those of DICOM, of this frame where it has its own.

    Attributes:
        path: The file.
        index: Frame number in the file, from 0.
        NumberOfFrames: Frames in the file.
        identity: Series, study, frame of reference and patient; see :func:`identity_of`.
        SOPInstanceUID: From the file meta group if the data set has none, else "".
        Modality: CT for a CT class without Modality, else "" if missing.
        SeriesNumber: 0 if missing.
        InstanceNumber: None if missing.
        Rows: Rows.
        Columns: Columns.
        ImagePositionPatient: mm, float64 (3,), or None.
        ImageOrientationPatient: Unit vectors along rows and columns, float64 (6,), or None.
        PixelSpacing: mm between rows and between columns.
        SliceLocation: mm, or None.
        RescaleSlope: None if missing.
        RescaleIntercept: None if missing.
        BurnedInAnnotation: "" if missing.
        malformed: Keywords of numbers that are there and cannot be read.
        step: mm between slices by the header (spacing or thickness), or None.
        units: "HU" or "US".
        window: First window of the header, or None.
        color: Whether the pixels are colors (several samples, or a palette).
        inverted: Whether low values are bright, MONOCHROME1.
        scout: Whether Image Type says LOCALIZER.
        contrasts: What may tell it from other images at its place, by name.
    """

    path: str
    index: int = 0
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
    SliceLocation: float | None = None
    RescaleSlope: float | None = None
    RescaleIntercept: float | None = None
    BurnedInAnnotation: str = ""
    malformed: frozenset[str] = frozenset()
    step: float | None = None
    units: str = "US"
    window: Window | None = None
    color: bool = False
    inverted: bool = False
    scout: bool = False
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
    def normal(self) -> np.ndarray:
        """Unit vector along the slice normal."""
        normal = np.cross(self.ImageOrientationPatient[:3], self.ImageOrientationPatient[3:])
        return normal / np.linalg.norm(normal)

    @property
    def where(self) -> str:
        """The file, with the frame number if it holds several."""
        if self.NumberOfFrames == 1:
            return self.path
        return f"{self.path} (frame {self.index + 1})"


def text_of(dataset: Dataset, keyword: str) -> str:
    """An attribute as text without blanks around it, "" if missing."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def numbers_of(dataset: Dataset, keyword: str) -> list[float]:
    """All numbers of an attribute; an empty list if it is missing, empty or not numeric."""
    try:
        value = dataset.get(keyword)
        if value is None or isinstance(value, (str, bytes)):
            return []
        values = list(value) if isinstance(value, Iterable) else [value]
        numbers = [float(v) for v in values]
    except (TypeError, ValueError, OverflowError):
        return []
    return numbers if np.isfinite(numbers).all() else []


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """The first number of an attribute, or None."""
    numbers = numbers_of(dataset, keyword)
    return numbers[0] if numbers else None


def integer_of(dataset: Dataset, keyword: str, default: int = 0) -> int:
    """The first number of an attribute without its fraction."""
    number = number_of(dataset, keyword)
    return default if number is None else int(number)


def is_malformed(dataset: Dataset, keyword: str, count: int) -> bool:
    """Whether an attribute has a value that is not so many numbers, or of one number none."""
    found = len(numbers_of(dataset, keyword))
    if keyword not in dataset or found == count or (found and count == 1):
        return False
    value = dataset.get_item(keyword).value  # as it is in the file
    if isinstance(value, (str, bytes)):
        return bool(value.strip(" \0\\" if isinstance(value, str) else b" \0\\"))
    return value is not None and (not isinstance(value, Sequence) or len(value) > 0)


def functional_group(dataset: Dataset, index: int, sequence: str) -> Dataset:
    """The item of a functional group macro that holds for a frame (PS3.3 C.7.6.16).

    Args:
        dataset: A single-frame or multi-frame data set.
        index: Frame number from 0.
        sequence: Keyword of the macro's sequence, such as ``"PlanePositionSequence"``.

    Returns:
        The per-frame item, else the shared one, else the data set itself.
    """
    return _item(_groups(dataset, index), dataset, sequence)


def _groups(dataset: Dataset, index: int) -> list[Dataset]:
    """The functional groups of a frame, and the shared ones."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    return [*([per_frame[index]] if index < len(per_frame) else []), *shared[:1]]


def _item(groups: list[Dataset], dataset: Dataset, sequence: str) -> Dataset:
    items = (group.get(sequence) for group in groups)
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
    *uids, patient, name = (text_of(dataset, keyword) for keyword in IDENTITY_TAGS)
    name = name.rstrip("^ ").upper()
    marks = mark_of(patient) if patient else "", mark_of(name) if name and not patient else ""
    return *uids, *marks


def frames_of(path: str, dataset: Dataset) -> list[Frame]:
    """Describes every frame of a data set read without pixels.

    Raises:
        InputFileError: If the data set is damaged or holds no picture.
    """
    with damage_is_input_error(path):
        return _describe(path, dataset)


def check_size(path: str, dataset: Dataset) -> None:
    """Refuses pictures that are too large by their header, before anything is decoded.

    Raises:
        InputFileError: Rows, Columns or Number of Frames are above the limits, or there are more
            frames than the file has room for.
    """
    rows, columns = integer_of(dataset, "Rows"), integer_of(dataset, "Columns")
    frames = max(1, integer_of(dataset, "NumberOfFrames", 1))
    check(path, "picture_pixels", rows * columns, f"a picture of {rows} x {columns} pixels")
    check(path, "frames", frames, f"{frames} frames")
    check(
        path,
        "scan_pixels",
        frames * rows * columns,
        f"{frames} frames of {rows} x {columns} pixels",
    )
    if frames == 1:
        return
    syntax = (getattr(dataset, "file_meta", None) or Dataset()).get("TransferSyntaxUID")
    if syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
        return
    if syntax is not None and syntax.is_encapsulated:
        least = 8  # the header of a fragment
    else:
        least = math.ceil(rows * columns * integer_of(dataset, "BitsAllocated", 1) / 8)
    if frames * least > os.path.getsize(path):
        raise InputFileError(
            path,
            f"it names {frames} frames of {rows} x {columns} pixels and is too small for them; the "
            "file is cut short or damaged.",
        )


def _describe(path: str, dataset: Dataset) -> list[Frame]:
    modality = text_of(dataset, "Modality")
    meta = getattr(dataset, "file_meta", None) or Dataset()
    sop_class = text_of(dataset, "SOPClassUID") or text_of(meta, "MediaStorageSOPClassUID")
    if sop_class == pydicom.uid.MediaStorageDirectoryStorage:
        raise NoPictureError(
            path,
            "a DICOMDIR, the index of DICOM files that lie beside and below it. Give the folder "
            "that holds it.",
        )
    if "Rows" not in dataset or "Columns" not in dataset or modality in _NOT_PICTURES:
        what = modality or (pydicom.uid.UID(sop_class).name if sop_class else "unknown object")
        if modality in ("CT", "MR", "PT"):
            raise NoSizeError(
                path, f"a {modality} file without Rows and Columns; it may be cut short."
            )
        raise NoPictureError(path, f"a DICOM file without a picture to read ({what}).")
    check_size(path, dataset)
    count = max(1, integer_of(dataset, "NumberOfFrames", 1))
    # Frames beyond those that have functional groups of their own are alike.
    described = min(count, len(dataset.get("PerFrameFunctionalGroupsSequence") or ()) + 1)
    if modality == "" and sop_class in _CT_CLASSES:
        modality = "CT"
    number = number_of(dataset, "InstanceNumber")
    common = Frame(
        path=path,
        NumberOfFrames=count,
        identity=identity_of(dataset),
        SOPInstanceUID=text_of(dataset, "SOPInstanceUID")
        or text_of(meta, "MediaStorageSOPInstanceUID"),
        Modality=modality,
        SeriesNumber=integer_of(dataset, "SeriesNumber"),
        InstanceNumber=None if number is None else int(number),
        Rows=integer_of(dataset, "Rows"),
        Columns=integer_of(dataset, "Columns"),
        SliceLocation=number_of(dataset, "SliceLocation"),
        BurnedInAnnotation=text_of(dataset, "BurnedInAnnotation"),
        color=integer_of(dataset, "SamplesPerPixel", 1) != 1
        or text_of(dataset, "PhotometricInterpretation") == "PALETTE COLOR",
        inverted=text_of(dataset, "PhotometricInterpretation") == "MONOCHROME1",
    )
    frames = [_describe_frame(common, dataset, index) for index in range(described)]
    frames += [replace(frames[-1], index=index) for index in range(described, count)]
    return frames


def _describe_frame(common: Frame, dataset: Dataset, index: int) -> Frame:
    groups = _groups(dataset, index)
    plane = _item(groups, dataset, "PlanePositionSequence")
    orientation = _item(groups, dataset, "PlaneOrientationSequence")
    measures = _item(groups, dataset, "PixelMeasuresSequence")
    rescale = _item(groups, dataset, "PixelValueTransformationSequence")
    contrasts = _contrasts(groups, dataset)
    image_type = [str(v) for v in contrasts.get("image type", ())]
    malformed = frozenset(
        keyword
        for group, keyword, count in (
            (plane, "ImagePositionPatient", 3),
            (orientation, "ImageOrientationPatient", 6),
            (measures, "PixelSpacing", 2),
            (rescale, "RescaleSlope", 1),
            (rescale, "RescaleIntercept", 1),
        )
        if is_malformed(group, keyword, count)
    )
    if "PixelSpacing" in malformed:
        raise InputFileError(
            common.path,
            "Pixel Spacing (0028,0030) is not two numbers, so distances in the image are unknown. "
            "Get the file again from its source, or mend the attribute.",
        )
    position = np.array(numbers_of(plane, "ImagePositionPatient"))
    pixel_spacing = numbers_of(measures, "PixelSpacing")
    if len(pixel_spacing) != 2 or min(pixel_spacing) <= 0:
        pixel_spacing = numbers_of(dataset, "ImagerPixelSpacing")
    if len(pixel_spacing) != 2 or min(pixel_spacing) <= 0:
        pixel_spacing = [1.0, 1.0]
    step = number_of(measures, "SpacingBetweenSlices") or number_of(measures, "SliceThickness")
    scout = "LOCALIZER" in image_type
    units = _units(common.Modality, image_type, text_of(rescale, "RescaleType"), scout)
    return replace(
        common,
        index=index,
        ImagePositionPatient=position if position.shape == (3,) else None,
        ImageOrientationPatient=_unit_cosines(
            np.array(numbers_of(orientation, "ImageOrientationPatient"))
        ),
        PixelSpacing=(pixel_spacing[0], pixel_spacing[1]),
        RescaleSlope=number_of(rescale, "RescaleSlope"),
        RescaleIntercept=number_of(rescale, "RescaleIntercept"),
        malformed=malformed,
        step=abs(step) if step else None,
        units=units,
        window=window_of(_item(groups, dataset, "FrameVOILUTSequence")),
        scout=scout,
        contrasts=contrasts,
    )


def _contrasts(groups: list[Dataset], dataset: Dataset) -> dict[str, tuple]:
    """What may tell a frame from others at its place, as far as its header says it."""
    found = {}
    for name, sequence, keywords in _CONTRASTS:
        places = [dataset]
        if groups and sequence is not None:
            item = _item(groups, dataset, sequence)
            if item is not dataset:
                directions = item.get("DiffusionGradientDirectionSequence") or ()
                places = [item, *directions, dataset]
        value = next(filter(None, (_values(p, k) for p in places for k in keywords)), None)
        if value is not None:
            found[name] = tuple(value)
    for sequence in ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence"):
        kind = _values(_item(groups, dataset, sequence), "FrameType")
        if kind:
            found["image type"] = tuple(kind)
    content = _item(groups, dataset, "FrameContentSequence")
    for number, value in enumerate(_values(content, "DimensionIndexValues"), start=1):
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
    """HU for CT, unless a derived image or a scout says otherwise (PS3.3 C.8.2.1.1.4)."""
    if modality != "CT":
        return "US"
    if rescale_type.upper() in ("", "HU", "HU_MOD"):
        return "HU"
    original = bool(image_type) and image_type[0].strip() == "ORIGINAL" and not scout
    return "HU" if original else "US"
