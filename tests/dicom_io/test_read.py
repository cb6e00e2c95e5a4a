import struct
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace
from datetime import date
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmwrite
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicom_io import read
from dicom_io.errors import UnreadableDicom
from dicom_io.identity import MANUFACTURER, MODEL_NAME
from dicom_io.read import read_dataset, read_header, read_header_dataset


@pytest.fixture
def saved(make_image, tmp_path):
    def save(**attributes) -> Path:
        path = tmp_path / "image.dcm"
        make_image(**attributes).save_as(path, enforce_file_format=True)
        return path

    return save


def test_header_of_a_complete_image(saved):
    header = read_header(saved(IssuerOfPatientID="HOSPITAL", PatientAge="003Y"))
    assert header.sop_instance_uid == "1.2.826.1"
    assert header.study_instance_uid == "1.2.826.2"
    assert header.series_instance_uid == "1.2.826.3"
    assert header.sop_class_uid == "1.2.840.10008.5.1.4.1.1.1"
    assert header.transfer_syntax_uid == "1.2.840.10008.1.2.1"
    assert (header.modality, header.view_position, header.body_part) == ("CR", "PA", "CHEST")
    assert (header.patient_id, header.issuer_of_patient_id) == ("P1", "HOSPITAL")
    assert header.accession_number == "A1"
    assert header.study_date == date(2024, 1, 5)
    assert header.patient_birth_date == date(2021, 1, 4)
    assert header.age_years == 3
    assert (header.rows, header.columns, header.number_of_frames) == (64, 48, None)
    assert not header.is_ours


def test_header_of_an_object_with_nothing_but_uids(saved):
    empty = dict.fromkeys(
        ["Modality", "BodyPartExamined", "ViewPosition", "PatientID", "PatientName", "StudyDate",
         "PatientBirthDate", "PatientSex", "AccessionNumber"]
    )  # fmt: skip
    header = read_header(saved(**empty))
    assert header.modality is header.patient_id is header.study_date is header.age_years is None


@pytest.mark.parametrize(
    ("age", "birth", "study", "years"),
    [
        ("003Y", None, "20240105", 3),
        ("018M", None, "20240105", 1.5),
        ("000Y", "19500101", "20240105", 0),
        ("026W", None, "20240105", 0.498),
        ("010D", None, "20240105", 0.0274),
        ("12", "20210105", "20240105", 3),
        ("", "20210105", "20240105", 3),
        (None, "2021.01.05", "20240105", 3),
        (None, "20250101", "20240105", None),
        (None, "18000101", "20240105", None),
        (None, "20211399", "20240105", None),
        (None, None, "20240105", None),
    ],
)
def test_age_is_patient_age_else_from_birth_to_study(saved, age, birth, study, years):
    header = read_header(saved(PatientAge=age, PatientBirthDate=birth, StudyDate=study))
    assert header.age_years == (None if years is None else pytest.approx(years, abs=0.01))


@pytest.mark.parametrize(
    ("charset", "patient_id", "encoded"),
    [
        ("ISO_IR 100", "Jürgen", "Jürgen".encode("latin-1")),
        ("ISO_IR 192", "Ян", "Ян".encode()),
        ("ISO_IR 144", "Ян", "Ян".encode("iso8859_5")),
        ("GB18030", "王", "王".encode("gb18030")),
    ],
)
def test_text_is_decoded_by_the_specific_character_set(saved, charset, patient_id, encoded):
    path = saved(SpecificCharacterSet=charset, PatientID=patient_id)
    assert encoded in path.read_bytes()
    assert read_header(path).patient_id == patient_id


def test_an_unknown_character_set_does_not_raise(saved):
    header = read_header(saved(SpecificCharacterSet="KLINGON", PatientID="P1"))
    assert header.patient_id == "P1"


def test_text_is_bounded_and_free_of_control_characters(saved):
    path = saved(PatientID="P" * 60, AccessionNumber="XYZWQ1234")
    path.write_bytes(path.read_bytes().replace(b"XYZWQ1234", b"A\0B\x1b\nC\\DE"))
    header = read_header(path)
    assert header.accession_number == "ABC\\DE"
    assert len(header.patient_id) == 60
    ds = read_dataset(path)
    ds.PatientID = "P" * 200
    assert len(read.header_of(ds).patient_id) == 64


@pytest.mark.parametrize(
    "missing", ["SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"]
)
def test_a_missing_uid_is_unreadable_and_named(make_image, tmp_path, missing):
    ds = make_image()
    delattr(ds, missing)
    path = tmp_path / "x.dcm"
    dcmwrite(path, ds)
    with pytest.raises(UnreadableDicom, match=missing):
        read_header(path)


def test_a_uid_that_is_none_is_unreadable(saved):
    path = saved()
    path.write_bytes(path.read_bytes().replace(b"1.2.826.2", b"../../etc"))
    with pytest.raises(UnreadableDicom, match="StudyInstanceUID"):
        read_header(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 200, b"\0" * 128 + b"DICM"])
def test_what_is_not_dicom_is_unreadable(tmp_path, content):
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    with pytest.raises(UnreadableDicom):
        read_header(path)


def test_a_missing_file_is_the_disks_trouble_and_not_the_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "absent.dcm")


def test_a_truncated_file_has_a_header_and_no_dataset(saved):
    path = saved()
    path.write_bytes(path.read_bytes()[:-100])
    assert read_header(path).rows == 64
    with pytest.raises(UnreadableDicom, match="truncated"):
        read_dataset(path)


def test_truncated_encapsulated_pixel_data_is_told_from_absent(make_image, tmp_path):
    ds = make_image()
    ds.compress("1.2.840.10008.1.2.5")
    path = tmp_path / "rle.dcm"
    ds.save_as(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UnreadableDicom, match="truncated"):
        read_dataset(path)


def test_a_header_read_does_not_read_the_pixels(saved, monkeypatch):
    path = saved()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 6000)
    assert read_header(path).columns == 48


def test_an_absurd_element_length_is_unreadable_or_ignored(saved):
    path = saved()
    content = path.read_bytes()
    at = content.index(b"\x10\x00\x20\x00LO")
    path.write_bytes(content[:at] + b"\x10\x00\x20\x00UT\0\0\xf0\xff\xff\xff" + content[at + 8 :])
    with pytest.raises(UnreadableDicom):
        read_header(path)
    with pytest.raises(UnreadableDicom):
        read_dataset(path)


@pytest.fixture
def deflated(make_image, tmp_path):
    """Save an image deflated; pixel_bytes: with so many of zeros in the place of its own."""

    def save(pixel_bytes: int = 0, **attributes) -> Path:
        ds = make_image(**attributes)
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        path = tmp_path / "deflated.dcm"
        if not pixel_bytes:
            ds.save_as(path)
            return path
        del ds.PixelData
        ds.save_as(path)
        content = path.read_bytes()
        start = content.index(DeflatedExplicitVRLittleEndian.encode()) + 22
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        head = zlib.decompress(content[start:], -zlib.MAX_WBITS)
        head += struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, pixel_bytes)
        with path.open("wb") as file:
            file.write(content[:start] + deflate.compress(head))
            for _ in range(pixel_bytes >> 20):
                file.write(deflate.compress(bytes(1 << 20)))
            file.write(deflate.flush())
        return path

    return save


def test_a_deflated_file_reads_as_any_other(saved, deflated):
    path = deflated(SpecificCharacterSet="ISO_IR 192", PatientID="Ян")
    header = read_header(path)
    assert len(read_dataset(path).PixelData) == 64 * 48 * 2
    before_pixels = read_header_dataset(path)
    assert (before_pixels.PatientID, before_pixels.filename) == ("Ян", str(path))
    assert before_pixels.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    plain = saved(SpecificCharacterSet="ISO_IR 192", PatientID="Ян")
    assert before_pixels == read_header_dataset(plain)
    assert header == replace(read_header(plain), transfer_syntax_uid=DeflatedExplicitVRLittleEndian)


def test_a_deflated_file_without_its_marker_is_not_dicom(deflated):
    path = deflated()
    path.write_bytes(path.read_bytes()[132:])
    for read_it in (read_header, read_header_dataset, read_dataset):
        with pytest.raises(UnreadableDicom, match="not a DICOM file"):
            read_it(path)
    assert read_dataset(path, force=True).Rows == 64


def test_a_bomb_is_refused_and_its_header_costs_no_memory(deflated, monkeypatch):
    path = deflated(pixel_bytes=256 << 20)
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        assert read_header(path).rows == read_header_dataset(path).Rows == 64
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    monkeypatch.setattr(read, "INFLATED_BYTES_MAX", 1 << 20)
    with pytest.raises(UnreadableDicom, match="deflated"):
        read_dataset(path)


def test_a_deflated_header_has_to_be_in_what_is_inflated_of_it(deflated, monkeypatch):
    path = deflated()
    monkeypatch.setattr(read, "INFLATED_HEAD_BYTES_MAX", 200)
    for read_it in (read_header, read_header_dataset):
        with pytest.raises(UnreadableDicom, match="larger than"):
            read_it(path)


def test_of_a_long_deflated_object_the_header_is_enough(deflated, monkeypatch):
    path = deflated()
    ds = read_dataset(path)
    ds.add_new(0x00400555, "UT", "x" * 100_000)  # as the content of a structured report
    ds.save_as(path)
    monkeypatch.setattr(read, "INFLATED_HEAD_BYTES_MAX", 10_000)
    assert read_header(path).columns == 48
    with pytest.raises(UnreadableDicom, match="larger than"):
        read_header_dataset(path)


def test_a_deflated_file_that_is_cut_off_is_unreadable(deflated):
    path = deflated()
    path.write_bytes(path.read_bytes()[:-100])
    for read_it in (read_header, read_header_dataset, read_dataset):
        with pytest.raises(UnreadableDicom):
            read_it(path)


@pytest.mark.parametrize("size", [0, 1 << 20, (1 << 20) + 50, (3 << 20) - 7])
def test_all_that_was_deflated_is_inflated(size):
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    file = BytesIO(deflate.compress(bytes(size)) + deflate.flush() + b"\0")
    assert b"".join(read._inflated(file)) == bytes(size)


def test_our_own_objects_are_known_by_their_header(saved):
    assert read_header(saved(Manufacturer=MANUFACTURER, ManufacturerModelName=MODEL_NAME)).is_ours
    assert not read_header(saved(Manufacturer=MANUFACTURER, ManufacturerModelName="X")).is_ours


def test_no_value_reaches_a_warning(saved, recwarn):
    path = saved()
    path.write_bytes(path.read_bytes().replace(b"20210104", b"SECRET!!"))
    assert read_header(path).patient_birth_date is None
    assert not [w for w in recwarn if "SECRET" in str(w.message)]


def test_reading_headers_imports_no_cv2_and_no_highdicom():
    code = (
        "import sys, dicom_io.read, dicom_io.eligibility, dicom_io.contexts; "
        "print(*{'cv2', 'highdicom', 'tensorflow'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
