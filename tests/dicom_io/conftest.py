"""Radiographs for the tests: generated ones, and real ones where packages carry them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

SHARED_DICOM = Path(__file__).parents[2] / "../shared/data/dicom"
CR_IMAGE = "1.2.840.10008.5.1.4.1.1.1"

MakeImage = Callable[..., FileDataset]


def make_image(pixels: np.ndarray | None = None, **attributes: Any) -> FileDataset:
    """Return a CR chest of a child, uncompressed. An attribute of None is left out."""
    if pixels is None:
        pixels = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48) % 4096
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = attributes.get("SOPClassUID", CR_IMAGE)
    meta.MediaStorageSOPInstanceUID = attributes.get("SOPInstanceUID", "1.2.826.1")
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, Any] = {
        "SOPClassUID": CR_IMAGE, "SOPInstanceUID": "1.2.826.1", "StudyInstanceUID": "1.2.826.2",
        "SeriesInstanceUID": "1.2.826.3", "Modality": "CR", "BodyPartExamined": "CHEST",
        "ViewPosition": "PA", "PatientID": "P1", "PatientName": "Doe^Jane", "StudyDate": "20240105",
        "StudyTime": "101500", "PatientBirthDate": "20210104", "PatientSex": "F",
        "AccessionNumber": "A1", "StudyID": "S1", "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "Rows": pixels.shape[0],
        "Columns": pixels.shape[1], "BitsAllocated": 8 * pixels.itemsize,
        "BitsStored": 8 * pixels.itemsize, "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }  # fmt: skip
    for keyword, value in (values | attributes).items():
        if value is not None:
            setattr(ds, keyword, value)
    if "BitsStored" in ds and "HighBit" not in ds:
        ds.HighBit = ds.BitsStored - 1
    if "PixelData" not in attributes:
        raw = pixels.tobytes()
        ds.PixelData = raw + b"\0" * (len(raw) % 2)
        ds["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    return ds


def compress(ds: FileDataset, syntax: str) -> None:
    """Encode an image's pixels. For JPEG 2000 pydicom's plugin lacks a dependency: OpenJPEG."""
    if syntax != JPEG2000Lossless:
        ds.compress(syntax, generate_instance_uid=False)
        return
    from openjpeg.utils import encode_array

    pixels = np.frombuffer(
        ds.PixelData, f"{'i' if ds.PixelRepresentation else 'u'}{ds.BitsAllocated // 8}"
    )
    encoded = encode_array(pixels.reshape(ds.Rows, ds.Columns), bits_stored=ds.BitsStored)
    ds.PixelData = encapsulate([bytes(encoded)])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless


@pytest.fixture(scope="session", name="compress")
def compress_fixture() -> Callable[[FileDataset, str], None]:
    return compress


@pytest.fixture(scope="session", name="make_image")
def make_image_fixture() -> MakeImage:
    return make_image


@pytest.fixture(scope="session")
def rg1() -> Path:
    """A real adult chest: CR, MONOCHROME1, 15 bits."""
    path = get_testdata_file("RG1_UNCR.dcm", download=False)
    if path is None:
        pytest.skip("the package pydicom-data is not installed")
    return Path(path)


@pytest.fixture(scope="session")
def real_radiographs(rg1: Path) -> list[Path]:
    ankle = get_testdata_file("RG3_UNCR.dcm", download=False)
    found = [rg1, Path(ankle)] if ankle else [rg1]
    return found + sorted(SHARED_DICOM.glob("*.dcm"))


@pytest.fixture(scope="session")
def peer() -> Callable[[str], str]:
    """Return a function that finds a real program, or skips the test."""

    def find(program: str) -> str:
        # pynetdicom installs storescp and others of its own into the environment: not those.
        path = shutil.which(program, path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")
        if path is None:
            pytest.skip(f"{program} is not installed")
        return path

    return find
