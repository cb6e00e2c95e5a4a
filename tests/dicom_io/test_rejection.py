from datetime import UTC, datetime
from io import BytesIO

import highdicom as hd
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicom_io.identity import is_our_object
from dicom_io.rejection import KEY_OBJECT_SELECTION, TITLES, Reason, RejectionNote, build_note
from dicom_io.sr import ImageFinding, build_report
from tests.dicom_io.test_sr import report_of
from tests.support import dicom
from tests.support.peers import validate


def note_of(*rejected: bytes, reason: Reason = Reason.SAFETY) -> bytes:
    return build_note(
        RejectionNote(
            reason=reason,
            rejected=rejected,
            sop_instance_uid="2.25.21",
            series_instance_uid="2.25.22",
            created_at=datetime(2026, 3, 1, 23, 30, 5, tzinfo=UTC),
            software_version="0.1.0",
        )
    )


@pytest.fixture
def report(make_image) -> bytes:
    return build_report(report_of(ImageFinding(dataset=make_image(), reason="lateral view")))


@pytest.fixture
def picture() -> bytes:
    buffer = BytesIO()
    ds = dicom.chest(SOPClassUID=dicom.SECONDARY_CAPTURE)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_a_notes_time_is_in_the_time_zone_that_it_names(make_image):
    image = make_image(TimezoneOffsetFromUTC="+0530")
    report = build_report(report_of(ImageFinding(dataset=image, reason="lateral view")))
    note = dcmread(BytesIO(note_of(report)))
    assert note.TimezoneOffsetFromUTC == "+0530"
    assert (note.ContentDate, note.ContentTime) == ("20260302", "050005")


@pytest.mark.parametrize("reason", Reason)
def test_a_note_names_its_reason_and_what_it_rejects(report, reason):
    note, rejected = dcmread(BytesIO(note_of(report, reason=reason))), dcmread(BytesIO(report))
    assert (note.SOPClassUID, note.Modality) == (KEY_OBJECT_SELECTION, "KO")
    code = note.ConceptNameCodeSequence[0]
    assert (code.CodeValue, code.CodeMeaning) == TITLES[reason]
    assert note.StudyInstanceUID == rejected.StudyInstanceUID
    assert note.PatientID == rejected.PatientID
    assert (note.ContentDate, note.ContentTime) == ("20260301", "233005")
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    (reference,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == rejected.SOPInstanceUID
    read = hd.ko.KeyObjectSelectionDocument.from_dataset(note)
    assert [it.referenced_sop_instance_uid for it in read.content.get_references()] == [
        rejected.SOPInstanceUID
    ]


def test_it_is_known_as_ours_when_it_comes_back(report):
    assert is_our_object(dcmread(BytesIO(note_of(report))))


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 192", "Møller^Åse"),
        ("ISO_IR 144", "Петров^Иван"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
def test_names_round_trip(make_image, character_set, name):
    source = make_image(SpecificCharacterSet=character_set, PatientName=name)
    report = build_report(report_of(ImageFinding(dataset=source, reason="lateral view")))
    assert str(dcmread(BytesIO(note_of(report))).PatientName) == name


@pytest.mark.peers
@pytest.mark.parametrize("reason", Reason)
def test_dciodvfy_finds_no_error_in_it(report, reason, tmp_path):
    path = tmp_path / f"{generate_uid()}.dcm"
    path.write_bytes(note_of(report, reason=reason))
    said = validate(path)
    print(said)
    assert "Error" not in said
