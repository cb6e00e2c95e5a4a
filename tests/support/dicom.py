"""DICOM objects for tests: synthetic, small, and each different from the usual in one way."""

from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from data_store import DataStore
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from dicom_io import preprocess

CR = "1.2.840.10008.5.1.4.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"


def chest_pixels(size: int = 256, seed: int = 0) -> NDArray[np.uint16]:
    """A real chest, 12 bits, each seed with other noise: uint16, (size, size)."""
    rng = np.random.default_rng(seed)
    small = cv2.resize(_chest_base(), (size, size), interpolation=cv2.INTER_AREA)
    noisy = small + rng.normal(0, 8, (size, size))
    return np.clip(noisy, 0, 4095).astype(np.uint16)


@cache
def _chest_base() -> NDArray[np.float32]:
    """An adult's radiograph: 0 to 4095, float32, (1024, 1024)."""
    grey = preprocess.grey_of(dcmread(real("RG1_UNCR.dcm")))
    small = cv2.resize(grey, (1024, 1024), interpolation=cv2.INTER_AREA)
    return np.asarray(small * np.float32(4095 / 255), dtype=np.float32)


def chest(study: str | None = None, pixels: NDArray[Any] | None = None, **changes: Any) -> Dataset:
    """A CR chest of a child of three, PA, 12 bits. A change to None leaves the attribute out."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = CR
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = study or generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    ds.Modality = "CR"
    ds.StudyDate = ds.AcquisitionDate = "20261120"
    ds.StudyTime = "101500"
    ds.AccessionNumber = "ACC-1"
    ds.StudyID = "1"
    ds.ReferringPhysicianName = ""
    ds.PatientName = "Canary^Yellow"
    ds.PatientID = "PID-1"
    ds.PatientBirthDate = "20230601"
    ds.PatientSex = "O"
    ds.PatientAge = "003Y"
    ds.BodyPartExamined = "CHEST"
    ds.ViewPosition = "PA"
    ds.SeriesNumber = ds.InstanceNumber = 1
    ds.PatientOrientation = ["L", "F"]
    ds.ImagerPixelSpacing = [0.2, 0.2]
    ds.PixelRepresentation = 0
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.WindowCenter, ds.WindowWidth = 2048, 4096
    pixels = chest_pixels() if pixels is None else pixels
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.PixelData = pixels.tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def presentation_state(study: str) -> Dataset:
    ds = chest(study)
    ds.SOPClassUID, ds.Modality = PRESENTATION_STATE, "PR"
    del ds.PixelData
    return ds


def real(name: str) -> Path:
    """A file of the package pydicom-data."""
    return Path(DataStore().get_path(name))


def real_copy(name: str, **changes: Any) -> Dataset:
    """A real radiograph under new UIDs."""
    ds = dcmread(real(name))
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def write(ds: Dataset, folder: Path) -> Path:
    """Write a Part 10 file named by its SOP Instance UID."""
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)
    return path
