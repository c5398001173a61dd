"""Reading and writing DICOM.

``files`` opens, ``headers`` describes frames, ``pixels`` decodes them, ``stacks`` says which belong
together, ``series`` reads scans; ``write`` makes derived series and ``deidentify`` cleans headers.
"""

from tfstyle.data.dicom.files import check_size, damage_is_input_error, is_dicom, read_dataset
from tfstyle.data.dicom.headers import Frame, frames_of
from tfstyle.data.dicom.pixels import AIR_HU, compact, picture_size, read_frame, to_hounsfield
from tfstyle.data.dicom.series import read_dicom

__all__ = [
    "AIR_HU",
    "Frame",
    "check_size",
    "compact",
    "damage_is_input_error",
    "frames_of",
    "is_dicom",
    "picture_size",
    "read_dataset",
    "read_dicom",
    "read_frame",
    "to_hounsfield",
]
