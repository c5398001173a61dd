"""SOP classes and lists of attributes that writing goes by (DICOM PS3.3, PS3.6)."""

from __future__ import annotations

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

# Enhanced multi-frame classes, and the single-frame class that takes one of their frames.
SINGLE_FRAME = {
    "1.2.840.10008.5.1.4.1.1.2.1": CT,
    "1.2.840.10008.5.1.4.1.1.2.2": CT,
    "1.2.840.10008.5.1.4.1.1.4.1": MR,
    "1.2.840.10008.5.1.4.1.1.4.4": MR,
    "1.2.840.10008.5.1.4.1.1.130": "1.2.840.10008.5.1.4.1.1.128",
    "1.2.840.10008.5.1.4.1.1.128.1": "1.2.840.10008.5.1.4.1.1.128",
}

# Classes that know no pixels of 16 bits (PS3.3 C.8.5.6).
EIGHT_BITS = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.6",
        "1.2.840.10008.5.1.4.1.1.6.1",
        "1.2.840.10008.5.1.4.1.1.3",
        "1.2.840.10008.5.1.4.1.1.3.1",
    }
)

# What a pulse sequence is called in single-frame MR (PS3.3 C.8.3.1.1.2).
SCANNING_SEQUENCE = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}

LOSSY_SYNTAXES = frozenset(
    {
        "1.2.840.10008.1.2.4.50",  # JPEG baseline
        "1.2.840.10008.1.2.4.51",  # JPEG extended
        "1.2.840.10008.1.2.4.81",  # JPEG-LS near lossless
        "1.2.840.10008.1.2.4.91",  # JPEG 2000
        "1.2.840.10008.1.2.4.93",  # JPEG 2000 multi-component
        "1.2.840.10008.1.2.4.203",  # high-throughput JPEG 2000
    }
)

# What belonged to the source's pixels, its acquisition step or its signature, not to its patient
# and place; removed before the new values are set.
NOT_CARRIED = [
    "AlphaPaletteColorLookupTableData",
    "AlphaPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableData",
    "BluePaletteColorLookupTableDescriptor",
    "ContributingEquipmentSequence",
    "DerivationCodeSequence",
    "DerivationDescription",
    "DigitalSignaturesSequence",
    "EncryptedAttributesSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelPaddingRangeLimit",
    "FloatPixelPaddingValue",
    "DoubleFloatPixelPaddingRangeLimit",
    "DoubleFloatPixelPaddingValue",
    "GreenPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableDescriptor",
    "HighBit",
    "IconImageSequence",
    "InstanceCreatorUID",
    "LargestImagePixelValue",
    "LargestPixelValueInSeries",
    "MACParametersSequence",
    "ModalityLUTSequence",
    "ModifiedAttributesSequence",
    "OriginalAttributesSequence",
    "PaletteColorLookupTableUID",
    "PerformedProcedureStepDescription",
    "PerformedProcedureStepEndDate",
    "PerformedProcedureStepEndTime",
    "PerformedProcedureStepID",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "PixelDataProviderURL",
    "PixelPaddingRangeLimit",
    "PixelPaddingValue",
    "PlanarConfiguration",
    "PresentationLUTSequence",
    "RealWorldValueMappingSequence",
    "RedPaletteColorLookupTableData",
    "RedPaletteColorLookupTableDescriptor",
    "ReferencedPerformedProcedureStepSequence",
    "RescaleType",
    "SegmentedBluePaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SmallestImagePixelValue",
    "SmallestPixelValueInSeries",
    "SourceImageSequence",
    "VOILUTFunction",
    "VOILUTSequence",
    "WindowCenterWidthExplanation",
]

MULTI_FRAME = [
    "ConcatenationFrameOffsetNumber",
    "ConcatenationUID",
    "ContentQualification",
    "DimensionIndexSequence",
    "DimensionOrganizationSequence",
    "DimensionOrganizationType",
    "FrameIncrementPointer",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "NumberOfFrames",
    "PerFrameFunctionalGroupsSequence",
    "PixelPresentation",
    "SharedFunctionalGroupsSequence",
    "SOPInstanceUIDOfConcatenationSource",
    "VolumeBasedCalculationTechnique",
    "VolumetricProperties",
]

# Type 2 attributes of the patient, study, series, frame and image modules: present, maybe empty.
MAY_BE_EMPTY = [
    "AccessionNumber",
    "AcquisitionNumber",
    "Manufacturer",
    "PatientBirthDate",
    "PatientID",
    "PatientName",
    "PatientSex",
    "PositionReferenceIndicator",
    "ReferringPhysicianName",
    "SliceThickness",
    "StudyDate",
    "StudyID",
    "StudyTime",
]
