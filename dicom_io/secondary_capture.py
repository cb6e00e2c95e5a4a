"""The saliency picture as a DICOM object: Secondary Capture Image, RGB (PS3.3 A.8.1)."""

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_io.made import (
    code_item,
    copy_element,
    copy_patient_and_study,
    empty_file,
    local_time,
    set_equipment,
)
from dicom_io.read import raw_value, text_value
from dicom_io.references import reference
from dicom_io.saliency_image import NOT_FOR_DIAGNOSTIC_USE
from dicom_io.sr_report import ModelIdentity

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SERIES_DESCRIPTION = "AI saliency pneumonia, not for diagnostic use"
SERIES_NUMBER = 9902


@dataclass(frozen=True, kw_only=True)
class SaliencyImage:
    """One picture and what it is of.

    source: the radiograph's header, never changed. picture: uint8 (rows, columns, 3), RGB.
    created_at: aware; written in the source's time zone, else in `timezone`.
    """

    source: Dataset
    picture: NDArray[np.uint8]
    model: ModelIdentity
    sop_instance_uid: str
    series_instance_uid: str
    instance_number: int
    created_at: datetime
    software_version: str
    timezone: tzinfo = UTC

    def __post_init__(self) -> None:
        if self.picture.dtype != np.uint8 or self.picture.shape[2:] != (3,):
            raise ValueError(f"expected uint8 (rows, columns, 3), got {self.picture.shape}")
        if self.created_at.tzinfo is None:
            raise ValueError("created_at must carry a time zone")


def build_secondary_capture(image: SaliencyImage) -> bytes:
    """Return the picture as a Part 10 file. The same input gives the same bytes."""
    ds = empty_file(SECONDARY_CAPTURE, image.sop_instance_uid)
    copy_patient_and_study(image.source, ds)
    ds.Modality = "OT"
    ds.BodyPartExamined = "CHEST"  # nothing else is analysed
    ds.SeriesInstanceUID = image.series_instance_uid
    ds.SeriesNumber = SERIES_NUMBER
    ds.SeriesDescription = SERIES_DESCRIPTION
    set_equipment(ds, image.model, image.software_version)
    ds.ConversionType = "WSD"
    _set_image(image, ds)
    _set_pixels(image.picture, ds)
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _set_image(image: SaliencyImage, ds: Dataset) -> None:
    """General Image (PS3.3 C.7.6.1): derived from the radiograph, with what that brings along."""
    source = image.source
    created_at = local_time(image.created_at, source, image.timezone)
    ds.InstanceNumber = image.instance_number
    ds.ContentDate = ds.InstanceCreationDate = created_at.strftime("%Y%m%d")
    ds.ContentTime = ds.InstanceCreationTime = created_at.strftime("%H%M%S")
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.DerivationDescription = "Grad-CAM saliency over the image, with texts"
    ds.ImageComments = f"{NOT_FOR_DIAGNOSTIC_USE}: where a research algorithm looked"
    ds.PatientOrientation = None
    if _names_two_directions(source):
        copy_element(source, ds, "PatientOrientation")
    # Of the patient's identity (C.7.6.1): our own texts hold nothing of it.
    burned_in = text_value(source, "BurnedInAnnotation", 16)
    ds.BurnedInAnnotation = burned_in if burned_in in ("YES", "NO") else "NO"
    if text_value(source, "LossyImageCompression", 16) == "01":
        for keyword in (
            "LossyImageCompression",
            "LossyImageCompressionRatio",
            "LossyImageCompressionMethod",
        ):
            copy_element(source, ds, keyword)
    shown = reference(
        text_value(source, "SOPClassUID", 64), text_value(source, "SOPInstanceUID", 64)
    )
    shown.SpatialLocationsPreserved = "NO"  # the picture has margins and another size
    shown.PurposeOfReferenceCodeSequence = [
        code_item("121322", "DCM", "Source image for image processing operation")
    ]
    ds.SourceImageSequence = [shown]


def _names_two_directions(source: Dataset) -> bool:
    value = raw_value(source, "PatientOrientation")
    return value is not None and not isinstance(value, str) and len(value) == 2  # noqa: PLR2004


def _set_pixels(picture: NDArray[np.uint8], ds: Dataset) -> None:
    ds.SamplesPerPixel = 3
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = picture.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelRepresentation = 0
    data = picture.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
