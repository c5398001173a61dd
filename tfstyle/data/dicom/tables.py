"""SOP classes and attributes that writing goes by (DICOM PS3.3, PS3.6)."""

from __future__ import annotations

import re

CT = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

# Enhanced CT and its legacy form; CT takes one of their frames.
ENHANCED_CT = (f"{CT}.1", f"{CT}.2")

# Ultrasound classes, which know no pixels of 16 bits (PS3.3 C.8.5.6).
EIGHT_BITS = frozenset(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("6", "6.1", "3", "3.1"))

# JPEG baseline and extended, JPEG-LS near lossless, JPEG 2000 and its multi-component and
# high-throughput forms.
LOSSY_SYNTAXES = frozenset(
    f"1.2.840.10008.1.2.4.{end}" for end in ("50", "51", "81", "91", "93", "203")
)

# Keywords of what belonged to the source's pixels, its acquisition step, its signature or its
# multi-frame form, not to its patient and place; removed before the new values are set.
NOT_CARRIED = re.compile(
    r"PixelPadding|Palette|(Smallest|Largest)(Image)?Pixel|PerformedProcedureStep|Derivation"
    r"|^(ConcatenationFrameOffsetNumber|ContributingEquipmentSequence|DigitalSignaturesSequence"
    r"|EncryptedAttributesSequence|ExtendedOffsetTable(Lengths)?|HighBit|IconImageSequence"
    r"|InstanceCreatorUID|MACParametersSequence|ModalityLUTSequence|ModifiedAttributesSequence"
    r"|OriginalAttributesSequence|PixelDataProviderURL|PlanarConfiguration|PresentationLUTSequence"
    r"|RealWorldValueMappingSequence|RescaleType|SourceImageSequence|VOILUT(Function|Sequence)"
    r"|WindowCenterWidthExplanation)$"
)
MULTI_FRAME = re.compile(
    r"Concatenation|FunctionalGroupsSequence$|^Dimension|^(ContentQualification"
    r"|FrameIncrementPointer|InstanceNumber|NumberOfFrames|PixelPresentation"
    r"|VolumeBasedCalculationTechnique|VolumetricProperties)$"
)

# Type 2 attributes of the patient, study, series, frame and image modules: present, maybe empty.
MAY_BE_EMPTY = [
    "AccessionNumber", "AcquisitionNumber", "Manufacturer", "PatientBirthDate", "PatientID",
    "PatientName", "PatientSex", "PositionReferenceIndicator", "ReferringPhysicianName",
    "SliceThickness", "StudyDate", "StudyID", "StudyTime",
]  # fmt: skip

# What functional groups say of a frame, and a single-frame image at its top level.
FRAME_GROUPS = {
    "PlanePosition": ["ImagePositionPatient"],
    "PlaneOrientation": ["ImageOrientationPatient"],
    "PixelMeasures": ["PixelSpacing", "SliceThickness", "SpacingBetweenSlices"],
    "FrameAnatomy": ["AnatomicRegionSequence"],
    "CTXRayDetails": ["KVP", "FilterType"],
    "CTReconstruction": ["ConvolutionKernel"],
}
