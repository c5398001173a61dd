"""Writing derived DICOM: generated images as a new series beside the source series."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import os
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from tfstyle import __version__
from tfstyle._private.files import temporary_beside
from tfstyle.data.dicom import tables
from tfstyle.data.dicom.deidentify import check_burned_in, check_profile, new_key, new_uid
from tfstyle.data.dicom.deidentify import deidentify as deidentify_dataset
from tfstyle.data.dicom.files import (
    code,
    damage_is_input_error,
    item,
    meta_of,
    read_dataset,
    sop_class_of,
    text_of,
)
from tfstyle.data.dicom.headers import Frame, functional_group
from tfstyle.data.layouts import DESCRIPTION
from tfstyle.data.nifti import check_unit
from tfstyle.data.scan import Scan
from tfstyle.data.windows import Window
from tfstyle.errors import ArgumentError, OutputError, writing

#: Steps of the stored values.
LEVELS = 65535
_WHAT = "Gray scale style transfer"


def write_derived_series(
    scan: Scan,
    generated: np.ndarray,
    window: Window,
    out_dir: str | os.PathLike,
    *,
    deidentify: str = "keep",
    uid_key: str | None = None,
) -> list[Path]:
    r"""Writes generated images as a new series of derived images (DICOM PS3.3 C.7.6.1.1.3).

    Patient, study and geometry are those of the source. Series and SOP Instance UIDs are new, the
    Series Number is the source's plus 1000, its description ends in "(tfstyle)", Image Type begins
    with ``DERIVED\SECONDARY``, Derivation Description and Source Image Sequence say what was made
    of what; private attributes, signatures, overlays and thumbnails are left out. A frame of an
    enhanced multi-frame source becomes a single-frame image.

    The pixels are 16-bit stored values: read back and put through ``window``, they give
    ``generated`` within half a step of 1/65535. They are a picture, not a measurement.

    Example:
        >>> from tfstyle.data import WINDOWS, read_scan
        >>> scan = read_scan("ct/")
        >>> generated = 0.5 * WINDOWS["bone"].to_unit(scan.pixels)
        >>> files = write_derived_series(scan, generated, WINDOWS["bone"], "out/")

    Args:
        scan: The scan that the images were made of, as :func:`tfstyle.data.read_scan` gives it.
        generated: Floats (slices, rows, columns), or with a last axis of length 1, in [0, 1];
            values beyond are clipped.
        window: The window through which the source became [0, 1].
        out_dir: Folder to make, with ``IM_0001.dcm`` and so on. It appears when complete; an
            existing one must be empty.
        deidentify: ``"keep"`` carries the source's attributes of patient, study, place and staff;
            ``"basic"`` applies :mod:`tfstyle.data.dicom.deidentify` and leaves out when the
            images were made.
        uid_key: For ``"basic"``, of ``new_key`` of that module: series that share it keep their
            studies and frames of reference in common. Defaults to a new one.

    Returns:
        The files written, in slice order.

    Raises:
        ArgumentError: If the images do not match the scan, or hold NaN, the scan was not read from
            DICOM, or `deidentify` cannot be used.
        InputFileError: If a source cannot be read, or says that its pixels hold text, which
            ``"basic"`` refuses.
        OutputError: If the folder is not empty or cannot be written.
    """
    if not scan.frames:
        raise ArgumentError(f"scan: must be read from DICOM, received {scan.name}.")
    frames, generated = scan.frames, check_unit(generated, scan.shape)
    series = DerivedSeries(window, deidentify=deidentify, uid_key=uid_key)
    out = Path(out_dir)
    with writing(out):
        if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
            raise OutputError(out, "exists and is not an empty folder; choose another name.")
        names = []
        headers: dict[str, Dataset] = {}
        with temporary_beside(out, folder=True) as temporary:
            for number, (frame, image) in enumerate(zip(frames, generated, strict=True), start=1):
                if frame.path not in headers:
                    headers = {frame.path: read_dataset(frame.path, pixels=False)}
                names.append(series.file_name(number))
                series.write(image, temporary / names[-1], frame, number, headers[frame.path])
            os.rename(temporary, out)  # replaces an empty folder
    return [out / name for name in names]


class DerivedSeries:
    """What all images of a derived series share, and how one is written; pickles for workers."""

    def __init__(self, window: Window, *, deidentify: str = "keep", uid_key: str | None = None):
        check_profile(deidentify)
        self.window = window
        self.uid, self.study_uid, self.place_uid = (generate_uid(prefix=None) for _ in range(3))
        now = datetime.datetime.now()
        self.date, self.time = now.strftime("%Y%m%d"), now.strftime("%H%M%S.%f")
        self.key = None
        if deidentify == "basic":  # the day may be that of the examination
            self.date, self.time, self.key = "", "", uid_key or new_key()
        # What the file will say, at most 16 characters each, decides the stored values.
        self.slope = format_number_as_ds(window.width / LEVELS)
        self.intercept = format_number_as_ds(window.lower)
        self.description = (
            f"{DESCRIPTION}. Values are gray levels of the window "
            f"{window.center:g} / {window.width:g} (center / width) in the scale of the source, "
            f"clipped to {window.lower:g} to {window.upper:g}; no measurement."
        )

    @staticmethod
    def file_name(number: int) -> str:
        """Name of the file of slice `number`, from 1."""
        return f"IM_{number:04d}.dcm"

    def write(
        self,
        image: np.ndarray,
        path: str | os.PathLike,
        frame: Frame,
        number: int,
        header: Dataset | None = None,
    ) -> None:
        """Writes slice `number`, from 1; `header` is the source's data set, if at hand."""
        if header is None:
            header = read_dataset(frame.path, pixels=False)
        with damage_is_input_error(frame.path):
            image = np.clip(np.asarray(image, np.float64), 0, 1)
            self.derive(header, frame, image, number).save_as(path, enforce_file_format=True)

    def derive(self, header: Dataset, frame: Frame, image: np.ndarray, number: int) -> Dataset:
        """The data set of one image, float64 in [0, 1]; the source's header is not changed."""
        if self.key is not None:
            check_burned_in(header.get("BurnedInAnnotation"), frame.path)
            header = copy.deepcopy(header)
            deidentify_dataset(header, self.key)
            uid = new_uid(frame.SOPInstanceUID, self.key)
            frame = dataclasses.replace(frame, SOPInstanceUID=uid)
        dataset = Dataset()  # a fresh one, so that nothing of the source's encoding is kept
        dataset.update(copy.deepcopy(header))
        dataset.remove_private_tags()
        unknown = tables.CT if frame.Modality == "CT" else tables.SECONDARY_CAPTURE
        source_class = sop_class_of(header) or unknown
        enhanced = source_class in tables.ENHANCED_CT
        multi_frame = (
            enhanced or frame.NumberOfFrames > 1 or "SharedFunctionalGroupsSequence" in header
        )
        if multi_frame:
            self._flatten(dataset, header, frame)
        for element in list(dataset):
            # Overlays and curves are drawn for the source's pixels.
            drawn = element.tag.group & 0xFF00 in (0x5000, 0x6000)
            if drawn or tables.NOT_CARRIED.search(element.keyword):
                del dataset[element.tag]
        for keyword in tables.MAY_BE_EMPTY:
            dataset.setdefault(keyword, None)
        if not header.get("SOPClassUID"):  # whoever emptied the class did not say either
            dataset.setdefault("Laterality", None)
        sop_class = source_class
        if enhanced and frame.placed:
            sop_class = tables.CT
        elif multi_frame or source_class in tables.EIGHT_BITS:
            sop_class = tables.SECONDARY_CAPTURE
        self._identify(dataset, header, frame, number, sop_class)
        self._explain(dataset, header, frame, source_class)
        self._pixels(dataset, frame, image)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        return dataset

    def _flatten(self, dataset: Dataset, header: Dataset, frame: Frame) -> None:
        """Moves what the functional groups say of a frame to the top level."""
        for name, keywords in tables.FRAME_GROUPS.items():
            group = functional_group(header, frame.index, name)
            for keyword in keywords:
                if keyword in group:
                    dataset[keyword] = copy.deepcopy(group[keyword])
        side = functional_group(header, frame.index, "FrameAnatomy").get("FrameLaterality")
        if side:
            dataset.ImageLaterality = side
        for element in list(dataset):
            if tables.MULTI_FRAME.search(element.keyword):
                del dataset[element.tag]

    def _identify(
        self, dataset: Dataset, header: Dataset, frame: Frame, number: int, sop_class: str
    ) -> None:
        dataset.SOPClassUID = sop_class
        dataset.SOPInstanceUID = generate_uid(prefix=None)
        dataset.SeriesInstanceUID = self.uid
        if not dataset.get("StudyInstanceUID"):
            dataset.StudyInstanceUID = self.study_uid
        if frame.ImagePositionPatient is not None and not dataset.get("FrameOfReferenceUID"):
            dataset.FrameOfReferenceUID = self.place_uid
        dataset.Modality = frame.Modality or dataset.get("Modality") or "OT"
        if sop_class == tables.SECONDARY_CAPTURE:
            dataset.ConversionType = "WSD"
        if frame.ImageOrientationPatient is None:
            dataset.setdefault("PatientOrientation", None)
        if sop_class == tables.CT:
            dataset.setdefault("KVP", None)
        dataset.SeriesNumber = frame.SeriesNumber + 1000
        if dataset.get("InstanceNumber") is None:
            dataset.InstanceNumber = number
        described = text_of(header, "SeriesDescription")[:54]
        dataset.SeriesDescription = f"{described} (tfstyle)".strip()
        for what in ("Series", "Content", "InstanceCreation"):
            for kind, value in (("Date", self.date), ("Time", self.time)):
                if value:
                    setattr(dataset, what + kind, value)
                elif what + kind in dataset:
                    del dataset[what + kind]

    def _explain(self, dataset: Dataset, header: Dataset, frame: Frame, source_class: str) -> None:
        """Image Type, what was derived from what, by what, and old losses."""
        kinds = header.get("ImageType") or []
        rest = [] if isinstance(kinds, str) else [str(kind) for kind in kinds[2:]]
        if dataset.SOPClassUID == tables.CT and not (rest and rest[0] in ("AXIAL", "LOCALIZER")):
            rest = ["AXIAL", *rest[1:]]
        dataset.ImageType = ["DERIVED", "SECONDARY", *rest]
        dataset.DerivationDescription = self.description
        dataset.DerivationCodeSequence = code("STYLE-TRANSFER", "99TFSTYLE", _WHAT)
        if UID(frame.SOPInstanceUID).is_valid:
            number = {"ReferencedFrameNumber": frame.index + 1} if frame.NumberOfFrames > 1 else {}
            dataset.SourceImageSequence = item(
                ReferencedSOPClassUID=source_class,
                ReferencedSOPInstanceUID=frame.SOPInstanceUID,
                SpatialLocationsPreserved="YES",
                PurposeOfReferenceCodeSequence=code(
                    "121322", "DCM", "Source image for image processing operation"
                ),
                **number,
            )
        when = {"ContributionDateTime": self.date + self.time} if self.date else {}
        dataset.ContributingEquipmentSequence = item(
            PurposeOfReferenceCodeSequence=code("109103", "DCM", "Modifying Equipment"),
            Manufacturer="tfstyle",
            ManufacturerModelName="tfstyle",
            SoftwareVersions=__version__,
            ContributionDescription=_WHAT,
            **when,
        )
        lossy = text_of(header, "LossyImageCompression") == "01"
        if lossy or str(meta_of(header).get("TransferSyntaxUID")) in tables.LOSSY_SYNTAXES:
            dataset.LossyImageCompression = "01"
        elif "LossyImageCompression" in dataset:
            dataset.LossyImageCompression = "00"

    def _pixels(self, dataset: Dataset, frame: Frame, image: np.ndarray) -> None:
        values = self.window.lower + image * self.window.width
        stored = np.rint((values - float(self.intercept)) / float(self.slope))
        stored = np.clip(stored, 0, LEVELS).astype("<u2")
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.Rows, dataset.Columns = stored.shape
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit = 15
        dataset.PixelRepresentation = 0
        dataset.RescaleSlope, dataset.RescaleIntercept = self.slope, self.intercept
        dataset.RescaleType = frame.units
        dataset.WindowCenter = format_number_as_ds(self.window.center)
        dataset.WindowWidth = format_number_as_ds(self.window.width)
        dataset.VOILUTFunction = "LINEAR_EXACT"
        if "PresentationLUTShape" in dataset:
            dataset.PresentationLUTShape = "IDENTITY"
        for keyword, value in (("Smallest", stored.min()), ("Largest", stored.max())):
            dataset.add_new(f"{keyword}ImagePixelValue", "US", int(value))
        for keyword in ("FloatPixelData", "DoubleFloatPixelData", "PixelData"):
            dataset.pop(keyword, None)
        dataset.add_new("PixelData", "OW", stored.tobytes())
