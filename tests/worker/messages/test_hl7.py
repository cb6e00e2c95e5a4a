"""What an ORU^R01 says, read by two libraries: hl7apy, strictly by the standard, and python-hl7."""

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dicom_io.sr import ImageFinding, Predecessor
from tests.dicom_io.test_sr import report_of
from tests.support import dicom
from worker.messages.address import MllpDestination
from worker.messages.content import Patient, Told, told
from worker.messages.hl7 import control_id, oru, withdrawal

ADDRESS = MllpDestination(host="ris", port=2575)
TOLD = Told(
    study_instance_uid="1.2.3",
    sr_sop_instance_uid="2.25.9",
    revision=2,
    is_correction=False,
    created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    accession_number="ACC-1",
    placer_order_number="ORDER-1",
    study_date=date(2026, 1, 1),
    patient=Patient(
        id="P-1",
        issuer="HOSPITAL",
        name=("Family", "Given", "Middle", "Dr", "Jr"),
        birth_date=date(2022, 5, 6),
        sex="F",
    ),
    probability=0.814,
    band="positive",
    intended_use="inside",
    conclusion="Probability 81.4 %",
    model_name="efficientnet-lite0",
    model_version="0.2.1",
    weights_sha256="ab" * 32,
)


def _read(message: bytes, character_set: str = "utf-8") -> hl7.Message:
    return hl7.parse(message.decode(character_set))


def _field(message: hl7.Message, segment: str, number: int) -> str:
    return str(message.segment(segment)[number])


def _observations(message: hl7.Message) -> dict[str, hl7.Segment]:
    return {str(obx[3][0][0]): obx for obx in message.segments("OBX")}


def _valid(message: bytes, folder: Path) -> None:
    """Only codes of other people's tables may be unknown to the standard's."""
    text = message.decode()
    parsed = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT)
    report = folder / "report"
    assert parsed.validate(report_file=str(report))
    assert all(" not in table " in line for line in report.read_text().splitlines() if line)


def test_the_message_is_valid_and_says_whose_result_of_which_study_it_is(tmp_path: Path) -> None:
    address = replace(
        ADDRESS,
        receiving_application="RIS",
        receiving_facility="HOSPITAL",
        sending_facility="RADIOLOGY",
    )
    message = oru(TOLD, address, "2.25.1")
    _valid(message, tmp_path)
    read = _read(message)
    assert [_field(read, "MSH", n) for n in (3, 4, 5, 6, 9, 10, 11, 12, 18)] == [
        "CXR_WORKER",
        "RADIOLOGY",
        "RIS",
        "HOSPITAL",
        "ORU^R01^ORU_R01",
        control_id("2.25.1"),
        "P",
        "2.5.1",
        "UNICODE UTF-8",
    ]
    assert _field(read, "PID", 3) == "P-1^^^HOSPITAL^PI"
    assert _field(read, "PID", 5) == "Family^Given^Middle^Jr^Dr"
    assert (_field(read, "PID", 7), _field(read, "PID", 8)) == ("20220506", "F")
    assert [_field(read, "OBR", n) for n in (2, 3, 18)] == ["ORDER-1", "ACC-1", "ACC-1"]
    assert _field(read, "OBR", 25) == "P"
    found = _observations(read)
    assert str(found["113014"][5]) == "1.2.3"
    assert str(found["SOPInstanceUID"][5]) == "2.25.9"
    probability = found["111012"]
    assert (str(probability[2]), str(probability[5])) == ("NM", "81.4")
    assert str(probability[6]) == "%^Percent^UCUM"
    assert str(found["233604007"][5]) == "52101004^Present^SCT"
    assert str(found["band"][5]).startswith("positive^")
    assert str(found["band"][8]) == "A"
    assert str(found["111001"][5]) == "efficientnet-lite0"
    assert str(found["111003"][5]) == "0.2.1"
    assert "ab" * 32 in str(found["111002"][5])
    assert {str(obx[11]) for obx in found.values()} == {"P"}
    assert "Not for diagnostic use" in _field(read, "NTE", 3)


def test_the_same_report_is_the_same_bytes_and_another_message_has_another_id() -> None:
    assert oru(TOLD, ADDRESS, "2.25.1") == oru(TOLD, ADDRESS, "2.25.1")
    assert control_id("2.25.1") != control_id("2.25.2")
    assert len(control_id("2.25.1")) == 20


def test_a_later_report_corrects(tmp_path: Path) -> None:
    message = oru(replace(TOLD, is_correction=True, band="negative"), ADDRESS, "2.25.1")
    _valid(message, tmp_path)
    read = _read(message)
    assert {_field(read, "OBR", 25), *(str(obx[11]) for obx in read.segments("OBX"))} == {"C"}
    assert str(_observations(read)["band"][8]) == "N"


def test_a_withdrawal_posts_every_result_as_wrong(tmp_path: Path) -> None:
    sent = oru(TOLD, ADDRESS, "2.25.1")
    message = withdrawal(sent, ADDRESS, "2.25.2", datetime(2026, 2, 1, tzinfo=UTC))
    _valid(message, tmp_path)
    before, after = _read(sent), _read(message)
    assert _field(after, "MSH", 10) == control_id("2.25.2")
    assert {str(obx[11]) for obx in after.segments("OBX")} == {"W"}
    assert _field(after, "PID", 3) == _field(before, "PID", 3)
    assert [str(it[3]) for it in after.segments("OBX")] == [
        str(it[3]) for it in before.segments("OBX")
    ]


def test_a_withdrawal_reads_what_was_sent_in_the_characters_that_it_was_sent_in() -> None:
    known = replace(TOLD, patient=replace(TOLD.patient, name=("Müller",)))
    for before, after in (("utf-8", "latin-1"), ("latin-1", "utf-8"), ("utf-8", "ascii")):
        sent = oru(known, replace(ADDRESS, character_set=before), "2.25.1")  # type: ignore[arg-type]
        now = replace(ADDRESS, character_set=after)  # type: ignore[arg-type]
        read = _read(withdrawal(sent, now, "2.25.2", TOLD.created_at), after)
        assert _field(read, "PID", 5) == ("M?ller" if after == "ascii" else "Müller")


def test_only_what_the_destination_needs_of_the_patient_is_named() -> None:
    message = oru(TOLD, replace(ADDRESS, patient=("id",)), "2.25.1")
    read = _read(message)
    assert _field(read, "PID", 3).startswith("P-1")
    for word in (b"Family", b"Given", b"20220506"):
        assert word not in message
    nobody = oru(TOLD, replace(ADDRESS, patient=()), "2.25.1")
    assert b"P-1" not in nobody


def test_who_gave_the_patient_id_may_be_in_the_settings() -> None:
    unknown = replace(TOLD, patient=replace(TOLD.patient, issuer=None))
    address = replace(ADDRESS, assigning_authority="OURS")
    assert _field(_read(oru(unknown, address, "2.25.1")), "PID", 3) == "P-1^^^OURS^PI"


def test_each_character_set_is_named_and_kept() -> None:
    greek = replace(TOLD, patient=replace(TOLD.patient, name=("Müller", "Ωmega")))
    for character_set, name, expected in (
        ("utf-8", "UNICODE UTF-8", "Müller^Ωmega"),
        ("latin-1", "8859/1", "Müller^?mega"),
        ("ascii", "ASCII", "M?ller^?mega"),
    ):
        message = oru(greek, replace(ADDRESS, character_set=character_set), "2.25.1")  # type: ignore[arg-type]
        read = _read(message, character_set)
        assert _field(read, "MSH", 18) == name
        assert _field(read, "PID", 5) == expected


def test_an_outside_patients_probability_is_withheld_here_too() -> None:
    image = ImageFinding(dataset=dicom.chest("1.2.3"), probability=0.93, band="positive")
    content = told(report_of(image, intended_use="outside"))
    message = oru(content, ADDRESS, "2.25.1")
    assert {"111012", "band", "233604007"}.isdisjoint(_observations(_read(message)))
    assert b"93.0" not in message
    assert b"No probability is reported" in message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Yamada^Tarou=山田^太郎", ("Yamada", "Tarou")),
        ("=山田^太郎", ("山田", "太郎")),
        ("Family^Given^Middle^Dr^Jr^more", ("Family", "Given", "Middle", "Dr", "Jr")),
        ("", ("",)),
        (None, ("",)),
    ],
)
def test_a_name_is_read_from_the_first_group_that_is_there(
    name: str | None, expected: tuple[str, ...]
) -> None:
    source = dicom.chest("1.2.3")
    source.PatientName = name
    assert told(report_of(ImageFinding(dataset=source))).patient.name == expected


def test_a_report_with_a_predecessor_is_a_correction() -> None:
    image = ImageFinding(dataset=dicom.chest("1.2.3"), probability=0.93, band="positive")
    before = Predecessor(sop_class_uid="1", sop_instance_uid="2", series_instance_uid="3")
    assert told(report_of(image, predecessor=before)).is_correction
    assert not told(report_of(image)).is_correction


@settings(deadline=None, max_examples=25, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.lists(st.text(max_size=80), min_size=5, max_size=5),
    st.text(max_size=64),
    st.text(max_size=64),
)
def test_no_value_is_taken_for_another_field(names: list[str], id_: str, accession: str) -> None:
    names = [it.encode(errors="ignore").decode() for it in names]
    id_, accession = (it.encode(errors="ignore").decode() for it in (id_, accession))
    patient = replace(TOLD.patient, id=id_, name=tuple(names), issuer=None)
    message = oru(replace(TOLD, patient=patient, accession_number=accession), ADDRESS, "2.25.1")
    assert not {0x0A, 0x0B, 0x1C, 0x00} & set(message)
    plain = oru(TOLD, ADDRESS, "2.25.1")
    assert message.count(b"\r") == plain.count(b"\r")
    # Read by its separators alone: what is between them, unescaped, is what was put in.
    segments = [line.split("|") for line in message.decode().split("\r")]
    assert [it[0] for it in segments] == [it.split("|")[0] for it in plain.decode().split("\r")]
    pid, obr = segments[1], segments[2]
    family, given_, middle, prefix, suffix = (_shown(it) for it in names)
    components = (pid[5] if len(pid) > 5 else "").split("^")
    assert [_unescaped(it) for it in components] == _trimmed(
        [family, given_, middle, suffix, prefix]
    )
    assert _unescaped(pid[3].split("^")[0]) == _shown(id_)
    assert _unescaped(obr[3]) == _shown(accession)


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text).strip()


def _trimmed(parts: list[str]) -> list[str]:
    while len(parts) > 1 and not parts[-1]:
        parts = parts[:-1]
    return parts


def _unescaped(text: str) -> str:
    pieces = text.split("\\")
    kept = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\"}
    assert len(pieces) % 2 == 1
    return "".join(kept[it] if n % 2 else it for n, it in enumerate(pieces))


@pytest.mark.parametrize("band", ["negative", "review", "positive"])
def test_every_band_has_its_finding(band: str, tmp_path: Path) -> None:
    message = oru(replace(TOLD, band=band), ADDRESS, "2.25.1")
    _valid(message, tmp_path)
    presence = {"negative": "Absent", "review": "Undetermined", "positive": "Present"}
    assert presence[band] in str(_observations(_read(message))["233604007"][5])
