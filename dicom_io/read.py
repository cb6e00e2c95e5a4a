"""Read Part 10 files: a header for the listener and the database, a data set for the pixels.

Imports neither numpy nor cv2: the listener reads headers, many at a time.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pydicom.config
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset as read_group
from pydicom.filereader import read_partial, read_preamble
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_io.errors import UnreadableDicom
from dicom_io.identity import is_our_object

# pydicom warns of an invalid value by printing it: a patient's name must not reach a log.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

INFLATED_BYTES_MAX = 512 << 20  # a deflated file of 1 MB can hold 1 GB of zeros
INFLATED_HEAD_BYTES_MAX = 16 << 20  # where only what stands before the pixels is read
_META_GROUP = 0x0002
_FLOAT_PIXEL_DATA, _PIXEL_DATA = 0x7FE00008, 0x7FE00010
_UNDEFINED_LENGTH = 0xFFFFFFFF
_AGE_YEARS_MAX = 150.0
_DAYS_PER_YEAR = 365.2425
_UNITS_PER_YEAR = {"Y": 1.0, "M": 12.0, "W": _DAYS_PER_YEAR / 7, "D": _DAYS_PER_YEAR}

_HEADER_KEYWORDS = [
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyDate", "AcquisitionDate",
    "ContentDate", "AccessionNumber", "Modality", "Manufacturer", "ManufacturerModelName",
    "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientAge", "BodyPartExamined",
    "ViewPosition", "StudyInstanceUID", "SeriesInstanceUID", "NumberOfFrames", "Rows", "Columns",
]  # fmt: skip
# Plain integers: pydicom looks each element's tag up here, and comparing its own tags is slow.
_HEADER_TAGS = [int(Tag(keyword)) for keyword in _HEADER_KEYWORDS]


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the database keeps of an object. An optional value that cannot be read is None."""

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    modality: str | None
    patient_id: str | None
    issuer_of_patient_id: str | None
    accession_number: str | None
    view_position: str | None
    body_part: str | None
    study_date: date | None
    patient_birth_date: date | None
    age_years: float | None
    rows: int | None
    columns: int | None
    number_of_frames: int | None
    is_ours: bool


def read_header(path: Path) -> Header:
    """Read what identifies an object, without touching its pixel data.

    Raises UnreadableDicom when the file is no Part 10 file or lacks one of the SOP Class, SOP
    Instance, Study Instance and Series Instance UIDs.
    """
    return header_of(_read(path, partial(_read_before_pixels, tags=_HEADER_TAGS)))


def read_header_dataset(path: Path) -> FileDataset:
    """Read everything before the pixel data. Raises UnreadableDicom."""
    return _read(path, _read_before_pixels)


def read_dataset(path: Path, *, force: bool = False) -> FileDataset:
    """Read a whole object. `force` also takes a file without the DICM marker.

    Raises UnreadableDicom when it is not DICOM or when the file ends early.
    """
    last: list[int] = []

    def remember(tag: int, _vr: str | None, _length: int) -> bool:
        last[:] = [int(tag)]
        return False

    def read(file: BinaryIO) -> FileDataset:
        _refuse_bomb(file)
        return read_partial(file, remember, force=force)

    ds = _read(path, read)
    if last and _is_cut(ds, last[0]):
        raise UnreadableDicom("truncated file")
    return ds


def header_of(ds: Dataset) -> Header:
    """Return the header of a data set that is already in memory. Raises UnreadableDicom."""
    birth_date = date_value(ds, "PatientBirthDate")
    return Header(
        sop_instance_uid=_required_uid(ds, "SOPInstanceUID"),
        sop_class_uid=_required_uid(ds, "SOPClassUID"),
        study_instance_uid=_required_uid(ds, "StudyInstanceUID"),
        series_instance_uid=_required_uid(ds, "SeriesInstanceUID"),
        transfer_syntax_uid=transfer_syntax_uid(ds),
        modality=text_value(ds, "Modality", 16),
        patient_id=text_value(ds, "PatientID", 64),
        issuer_of_patient_id=text_value(ds, "IssuerOfPatientID", 64),
        accession_number=text_value(ds, "AccessionNumber", 64),
        view_position=text_value(ds, "ViewPosition", 16),
        body_part=text_value(ds, "BodyPartExamined", 16),
        study_date=date_value(ds, "StudyDate"),
        patient_birth_date=birth_date,
        age_years=age_years(ds),
        rows=integer_value(ds, "Rows"),
        columns=integer_value(ds, "Columns"),
        number_of_frames=integer_value(ds, "NumberOfFrames"),
        is_ours=is_our_object(ds),
    )


def raw_value(ds: Dataset, keyword: str) -> Any:
    """Return an element's value, or None when it is absent, empty or cannot be converted."""
    try:
        value = ds.get(keyword)
    except Exception:  # pydicom converts lazily: a corrupt element raises anything
        return None
    return None if value is None or value == "" else value


def text_value(ds: Dataset, keyword: str, length_max: int) -> str | None:
    """Return a text element as one line of printable characters, at most `length_max` long.

    Values that a backslash has split are joined again; NUL and other control characters, which
    PostgreSQL or a terminal would trip over, are dropped.
    """
    value = raw_value(ds, keyword)
    if value is None:
        return None
    try:
        parts = [str(value)] if isinstance(value, str) else [str(part) for part in value]
    except TypeError:
        parts = [str(value)]
    text = "\\".join(parts)
    if not text.isprintable():
        text = "".join(c for c in text if c.isprintable())
    text = text.strip()
    return text[:length_max].strip() or None


def integer_value(ds: Dataset, keyword: str) -> int | None:
    """Return an integer element (the first value of several), or None."""
    value = raw_value(ds, keyword)
    if isinstance(value, list | pydicom.multival.MultiValue):
        value = value[0] if value else None
    try:
        number = int(value) if value is not None else None
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and abs(number) < 1 << 31 else None


def date_value(ds: Dataset, keyword: str) -> date | None:
    """Return a DA element; the ACR-NEMA form 2004.08.26 is understood too (PS3.5 6.2)."""
    text = text_value(ds, keyword, 10)
    match = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})", text or "", re.ASCII)
    try:
        return date(*(int(part) for part in match.groups())) if match else None
    except ValueError:
        return None


def transfer_syntax_uid(ds: Dataset) -> str:
    """Return the transfer syntax from the file meta, else the one the data set was read with."""
    meta = getattr(ds, "file_meta", None)
    uid = _uid(meta, "TransferSyntaxUID") if meta is not None else None
    if uid:
        return uid
    implicit, little = ds.original_encoding
    if implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRBigEndian if little is False else ExplicitVRLittleEndian)


def _at_the_pixels(tag: int, _vr: str | None, _length: int) -> bool:
    return int(tag) >= _FLOAT_PIXEL_DATA


def _read(path: Path, read: Callable[[BinaryIO], FileDataset]) -> FileDataset:
    """Read a file; UnreadableDicom says what is wrong with it, OSError what with the disk."""
    try:
        with path.open("rb") as file:
            ds = read(file)
    except (OSError, InvalidDicomError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's trouble, not the file's
        raise UnreadableDicom("not a DICOM file") from None
    except UnreadableDicom:
        raise
    except Exception as error:  # pydicom's parser meets rubbish with any exception there is
        raise UnreadableDicom(f"corrupt DICOM file ({type(error).__name__})") from None
    if not isinstance(ds, FileDataset):
        raise UnreadableDicom("not a DICOM file")
    return ds


def _read_before_pixels(file: BinaryIO, tags: list[Any] | None = None) -> FileDataset:
    """Read these elements, or all, before the pixel data. A deflated file is not inflated whole."""
    meta = _skip_deflated_meta(file)
    if meta is None:
        return read_partial(file, _at_the_pixels, specific_tags=tags)
    wanted, last = max(tags) if tags else _FLOAT_PIXEL_DATA - 1, 0

    def is_past(tag: int, _vr: str | None, _length: int) -> bool:
        nonlocal last
        last = int(tag)
        return last > wanted

    head = _inflated_head(file)
    ds = read_group(BytesIO(head), False, True, stop_when=is_past, specific_tags=tags)
    if len(head) == INFLATED_HEAD_BYTES_MAX and last <= wanted:
        raise UnreadableDicom("header of a deflated data set larger than 16 MiB")
    made = FileDataset(file.name, ds, b"\0" * 128, FileMetaDataset(meta), False, True)
    made.set_original_encoding(False, True, ds.original_character_set)
    return made


def _inflated_head(file: BinaryIO) -> bytes:
    head = bytearray()
    for piece in _inflated(file):
        head += piece
        if len(head) >= INFLATED_HEAD_BYTES_MAX:
            break
    return bytes(head[:INFLATED_HEAD_BYTES_MAX])


def _refuse_bomb(file: BinaryIO) -> None:
    """Inflate a deflated file piece by piece, keep nothing, and refuse it beyond the limit."""
    if _skip_deflated_meta(file, force=True) is None:
        return
    total = 0
    for piece in _inflated(file):
        total += len(piece)
        if total > INFLATED_BYTES_MAX:
            raise UnreadableDicom("deflated data set larger than 512 MiB")
    file.seek(0)


def _inflated(file: BinaryIO) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    while not inflater.eof:
        piece = inflater.unconsumed_tail or file.read(1 << 16)
        inflated = inflater.decompress(piece, 1 << 20)
        if not piece and not inflated:
            raise UnreadableDicom("truncated deflated data set")
        yield inflated


def _skip_deflated_meta(file: BinaryIO, *, force: bool = False) -> Dataset | None:
    """Read on to the data set and return what stands before it; None if that is not deflated."""
    head = file.read(1024)
    file.seek(0)
    if str(DeflatedExplicitVRLittleEndian).encode() not in head:
        return None
    read_preamble(file, force)
    meta = read_group(
        file, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != _META_GROUP
    )
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        return meta
    file.seek(0)
    return None


def _is_cut(ds: Dataset, last_tag: int) -> bool:
    """Say whether the file ended inside its last element (trailing padding does not count)."""
    if last_tag not in ds:  # an undefined length whose end never came
        return last_tag <= _PIXEL_DATA
    element = ds.get_item(last_tag)
    return (
        isinstance(element, RawDataElement)
        and last_tag <= _PIXEL_DATA
        and element.length != _UNDEFINED_LENGTH
        and len(element.value or b"") < element.length
    )


def _uid(ds: Dataset, keyword: str) -> str | None:
    text = (text_value(ds, keyword, 65) or "").rstrip("\0 ")
    return text if re.fullmatch(r"[0-9][0-9.]{0,63}", text, re.ASCII) else None


def _required_uid(ds: Dataset, keyword: str) -> str:
    uid = _uid(ds, keyword)
    if uid is None:
        raise UnreadableDicom(f"{keyword} missing or invalid")
    return uid


def age_years(ds: Dataset) -> float | None:
    """Return the age at the study: Patient's Age, else birth date to study date."""
    match = re.fullmatch(r"(\d{1,3})([DWMY])", text_value(ds, "PatientAge", 4) or "", re.ASCII)
    if match:
        return float(match[1]) / _UNITS_PER_YEAR[match[2]]
    days = (date_value(ds, k) for k in ("StudyDate", "AcquisitionDate", "ContentDate"))
    taken = next((day for day in days if day), None)
    birth_date = date_value(ds, "PatientBirthDate")
    if birth_date is None or taken is None:
        return None
    age = (taken - birth_date).days / _DAYS_PER_YEAR
    return age if 0 <= age <= _AGE_YEARS_MAX else None
