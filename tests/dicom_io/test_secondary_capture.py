"""The saliency picture as a DICOM object, made from headers with every kind of hole."""

from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_io.eligibility import reason_to_reject
from dicom_io.read import read_dataset, read_header
from dicom_io.secondary_capture import SaliencyImage, build_secondary_capture
from dicom_io.sr import ModelIdentity
from tests.dicom_io.holes import HOLES, NAMES, UNKNOWN_TO_DCIODVFY
from tests.support.validators import dciodvfy

PICTURE = np.random.default_rng(0).integers(0, 256, (31, 41, 3), dtype=np.uint8)
MODEL = ModelIdentity(name="m", version="1.0.0", weights_sha256="ab" * 32, preprocess_version=1)


def image_of(source: Dataset, **changes: Any) -> SaliencyImage:
    values: dict[str, Any] = {
        "source": source,
        "picture": PICTURE,
        "model": MODEL,
        "sop_instance_uid": "2.25.1",
        "series_instance_uid": "2.25.2",
        "instance_number": 3,
        "created_at": datetime(2026, 3, 1, 23, 30, 5, tzinfo=UTC),
        "software_version": "0.1.0",
    }
    return SaliencyImage(**values | changes)


def test_pixels_patient_and_study_come_back(make_image: Callable[..., Dataset]) -> None:
    source = make_image(PatientOrientation=["L", "F"], TimezoneOffsetFromUTC="+0900")
    before = deepcopy(source)
    content = build_secondary_capture(image_of(source))
    assert content == build_secondary_capture(image_of(source))
    assert source == before
    ds = dcmread(BytesIO(content))
    assert np.array_equal(ds.pixel_array, PICTURE)
    assert (ds.PatientName, ds.PatientID, ds.AccessionNumber) == ("Doe^Jane", "P1", "A1")
    assert (ds.StudyInstanceUID, ds.SeriesInstanceUID) == ("1.2.826.2", "2.25.2")
    assert "not for diagnostic use" in ds.SeriesDescription
    assert (ds.ContentDate, ds.ContentTime) == ("20260302", "083005")
    assert list(ds.PatientOrientation) == ["L", "F"]


def test_it_names_the_radiograph_it_is_derived_from(make_image: Callable[..., Dataset]) -> None:
    ds = dcmread(BytesIO(build_secondary_capture(image_of(make_image()))))
    (reference,) = ds.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == "1.2.826.1"
    assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY"]


@pytest.mark.parametrize(("held", "said"), [(None, "NO"), ("YES", "YES"), ("NO", "NO"), ("", "NO")])
def test_burned_in_annotation_is_the_sources(
    make_image: Callable[..., Dataset], held: str | None, said: str
) -> None:
    ds = dcmread(BytesIO(build_secondary_capture(image_of(make_image(BurnedInAnnotation=held)))))
    assert ds.BurnedInAnnotation == said


def test_a_lossy_source_makes_a_lossy_picture(make_image: Callable[..., Dataset]) -> None:
    source = make_image(LossyImageCompression="01", LossyImageCompressionRatio=12)
    ds = dcmread(BytesIO(build_secondary_capture(image_of(source))))
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 12)


def test_it_is_known_as_ours_when_it_comes_back(
    make_image: Callable[..., Dataset], tmp_path: Path
) -> None:
    path = tmp_path / "sc.dcm"
    path.write_bytes(build_secondary_capture(image_of(make_image())))
    assert read_header(path).is_ours
    assert reason_to_reject(read_dataset(path)) == "our own object"


def test_what_is_no_picture_is_refused(make_image: Callable[..., Dataset]) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        image_of(make_image(), picture=np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match="time zone"):
        image_of(make_image(), created_at=datetime(2026, 1, 1))


@pytest.mark.peers
def test_dciodvfy_finds_no_error(
    make_image: Callable[..., Dataset], real_radiographs: list[Path], tmp_path: Path
) -> None:
    sources = {name: make_image(**change()) for name, change in HOLES.items()}
    sources |= {
        str(charset): make_image(SpecificCharacterSet=charset, PatientName=name)
        for charset, name in NAMES
        if str(charset) not in UNKNOWN_TO_DCIODVFY
    }
    sources |= {path.name: read_dataset(path) for path in real_radiographs}
    files = {name: build_secondary_capture(image_of(ds)) for name, ds in sources.items()}
    assert dciodvfy(files, tmp_path)["Error"] == {}
