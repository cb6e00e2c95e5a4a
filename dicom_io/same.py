"""Whether two files of one SOP Instance UID are the same object.

Imports neither numpy nor cv2: the listener asks, when a UID comes a second time.
"""

import filecmp
from enum import StrEnum
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_io.errors import DicomError
from dicom_io.read import raw_value, read_dataset

# What decides how the bytes of PixelData become a picture's stored values (PS3.3 C.7.6.3).
_PIXEL_ATTRIBUTES = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PhotometricInterpretation",
)


class Sameness(StrEnum):
    IDENTICAL = "identical"  # byte for byte
    PIXELS = "pixels"  # the same stored values under another header
    OTHER = "other"


def compare(first: Path, second: Path) -> Sameness:
    """Compare two Part 10 files of one SOP Instance UID. What cannot be read is OTHER."""
    try:
        if filecmp.cmp(first, second, shallow=False):
            return Sameness.IDENTICAL
        mine, theirs = read_dataset(first), read_dataset(second)
        return Sameness.PIXELS if _same_pixels(mine, theirs) else Sameness.OTHER
    except (OSError, DicomError):
        return Sameness.OTHER


def _same_pixels(mine: Dataset, theirs: Dataset) -> bool:
    if raw_value(mine, "PixelData") is None:
        return False
    if mine.file_meta.TransferSyntaxUID != theirs.file_meta.TransferSyntaxUID:
        return False
    keywords = (*_PIXEL_ATTRIBUTES, "PixelData")
    return all(raw_value(mine, keyword) == raw_value(theirs, keyword) for keyword in keywords)
