import os
import subprocess
import warnings
from copy import deepcopy
from datetime import UTC, datetime
from io import BytesIO
from zoneinfo import ZoneInfo

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from dicom_io.eligibility import reason_to_reject
from dicom_io.errors import UnreadableDicom
from dicom_io.identity import device_uid
from dicom_io.read import read_dataset, read_header
from dicom_io.sr import (
    COMPREHENSIVE_3D_SR,
    COMPREHENSIVE_SR,
    ImageFinding,
    ModelIdentity,
    Predecessor,
    StudyReport,
    as_text,
    build_report,
    is_our_object,
)

PNEUMONIA = Code("233604007", "SCT", "Pneumonia")
LUNG = Code("39607008", "SCT", "Lung")
MODEL = ModelIdentity(
    name="efficientnet-lite0", version="1.0.0", weights_sha256="ab" * 32, preprocess_version=1
)
TYPE_2 = ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
          "ReferringPhysicianName", "StudyID", "AccessionNumber"]  # fmt: skip
# One change at a time from a complete image: what a real header may lack or hold.
HOLES = {
    **{f"no {k}": {k: None} for k in (
        "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "Modality", "PatientName",
        "PatientID", "PatientBirthDate", "PatientSex")},
    **{f"empty {k}": {k: ""} for k in (
        "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "PatientName", "PatientID",
        "PatientBirthDate", "PatientSex", "PatientOrientation", "ImagerPixelSpacing",
        "FrameOfReferenceUID", "ReferringPhysicianName", "SpecificCharacterSet")},
    "sex U": {"PatientSex": "U"},
    "orientation": {"PatientOrientation": ["L", "F"], "ImagerPixelSpacing": [0.2, 0.2]},
    "time with fraction": {"StudyTime": "101500.123456"},
    "order": {"RequestAttributesSequence": "order"},
}  # fmt: skip


def report_of(*images, **changes) -> StudyReport:
    analysed = [image for image in images if image.is_analysed]
    best = max(analysed, key=lambda image: image.probability, default=None)
    values = {
        "images": images, "model": MODEL, "probability": best and best.probability,
        "band": best and best.band,
        "operating_point": "balanced, sensitivity 0.95, specificity 0.93 on 1047 images",
        "prevalence": 0.1, "intended_use": "inside",
        "intended_use_text": "children of 1 to 5 years", "withhold": True,
        "sop_instance_uid": "2.25.1001", "series_instance_uid": "2.25.1002",
        "created_at": datetime(2026, 3, 1, 23, 30, 5, tzinfo=UTC), "software_version": "0.1.0",
    }  # fmt: skip
    return StudyReport(**values | changes)


def parsed(report: StudyReport):
    """Read back with highdicom's own parser."""
    return hd.sr.srread(BytesIO(build_report(report)))


@pytest.fixture
def negative(make_image):
    return ImageFinding(dataset=make_image(), probability=0.0321, band="negative")


def order() -> list[Dataset]:
    item = Dataset()
    item.RequestedProcedureID = "RP1"
    item.RequestedProcedureDescription = "Chest PA"
    return [item]


def test_the_same_report_is_the_same_bytes_and_leaves_its_sources_alone(negative):
    before = deepcopy(negative.dataset)
    assert build_report(report_of(negative)) == build_report(report_of(negative))
    assert negative.dataset == before


def test_highdicom_reads_the_measurement_back(negative):
    sr = parsed(report_of(negative))
    assert isinstance(sr, hd.sr.Comprehensive3DSR)
    (group,) = sr.content.get_planar_roi_measurement_groups()
    assert group.finding_type == PNEUMONIA
    assert group.finding_sites[0].value == LUNG
    (certainty,) = group.get_measurements()
    assert certainty.name == codes.DCM.CertaintyOfFinding
    assert float(certainty.value) == 3.2
    assert certainty.unit == codes.UCUM.Percent
    assert group.reference_type == codes.DCM.ImageRegion
    region = group.roi
    assert region.graphic_type == hd.sr.GraphicTypeValues.POLYLINE
    assert np.array_equal(region.value, [[0, 0], [48, 0], [48, 64], [0, 64], [0, 0]])
    assert "frame of the image, not a lesion" in group.tracking_identifier


@pytest.mark.parametrize(
    ("band", "presence"),
    [
        ("negative", codes.SCT.Absent),
        ("review", codes.SCT.Undetermined),
        ("positive", codes.SCT.Present),
    ],
)
def test_bands_are_coded_presence_and_named_beside_it(make_image, band, presence):
    image = ImageFinding(dataset=make_image(), probability=0.5, band=band)
    (group,) = parsed(report_of(image)).content.get_planar_roi_measurement_groups()
    evaluations = {e.name.value: e.value for e in group.get_qualitative_evaluations()}
    assert evaluations["233604007"] == presence
    assert evaluations["band"].value == band
    assert evaluations["band"].scheme_designator == "99CXRWORKER"


def test_the_first_thing_said_cannot_be_misread(negative):
    text = as_text(build_report(report_of(negative)))
    sentence = (
        "Research algorithm: probability that pneumonia is PRESENT 3.2 % "
        "(assumed prevalence 10 %); not a rule-out."
    )
    assert text.index(sentence) < text.index("Certainty of Finding: 3.2 %")
    assert text.index(sentence) < text.index("Finding: Pneumonia")
    assert text.count(sentence) == 2
    assert "Not for diagnostic use" in text


def test_the_algorithm_is_identified(negative):
    text = as_text(build_report(report_of(negative)))
    for line in (
        "Algorithm Name: efficientnet-lite0", "Algorithm Version: 1.0.0", f"sha256: {'ab' * 32}",
        "Algorithm Family: Artificial Intelligence", "preprocess version: 1",
        "sensitivity 0.95, specificity 0.93", "assumed prevalence: 0.1",
    ):  # fmt: skip
        assert line in text


def test_the_header_says_what_the_document_is(negative):
    ds = dcmread(BytesIO(build_report(report_of(negative))))
    assert (ds.Modality, ds.CompletionFlag, ds.VerificationFlag) == ("SR", "COMPLETE", "UNVERIFIED")
    assert (ds.PreliminaryFlag, ds.ContentQualification) == ("PRELIMINARY", "RESEARCH")
    assert "not for diagnostic use" in ds.SeriesDescription
    assert (ds.SOPInstanceUID, ds.SeriesInstanceUID) == ("2.25.1001", "2.25.1002")
    assert ds.StudyInstanceUID == "1.2.826.2"
    assert (ds.PatientName, ds.PatientID, ds.AccessionNumber) == ("Doe^Jane", "P1", "A1")
    assert ds.ReferencedRequestSequence[0].AccessionNumber == "A1"
    (equipment,) = ds.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert equipment.DeviceUID == device_uid(MODEL.name, MODEL.version, MODEL.weights_sha256)
    assert len(ds.ReferencedPerformedProcedureStepSequence) == 0
    assert len(ds.PerformedProcedureCodeSequence) == 0


def test_the_device_uid_changes_with_the_weights():
    one, two = (device_uid("m", "1", sha) for sha in ("a", "b"))
    assert one != two
    assert one.startswith("2.25.")


def test_our_report_is_known_when_it_comes_back(negative, tmp_path):
    path = tmp_path / "sr.dcm"
    path.write_bytes(build_report(report_of(negative)))
    assert read_header(path).is_ours
    ds = read_dataset(path)
    assert is_our_object(ds)
    assert reason_to_reject(ds) == "our own report"
    assert not is_our_object(negative.dataset)


def test_every_image_of_the_study_is_evidence(make_image, negative):
    lateral = make_image(SOPInstanceUID="1.2.826.77", SeriesInstanceUID="1.2.826.78")
    sr = parsed(report_of(negative, ImageFinding(dataset=lateral, reason="lateral view")))
    evidence = {(series, instance) for _, series, instance, _ in sr.get_evidence()}
    assert evidence == {("1.2.826.3", "1.2.826.1"), ("1.2.826.78", "1.2.826.77")}
    text = as_text(
        build_report(report_of(negative, ImageFinding(dataset=lateral, reason="lateral view")))
    )
    assert "Image 2 of 2 was not analysed: lateral view. (1.2.826.77)" in text
    assert "Highest of 1 analysed of 2 images" in text


def test_the_study_speaks_with_its_highest_image(make_image, negative):
    second = ImageFinding(
        dataset=make_image(SOPInstanceUID="1.2.826.8"), probability=0.91, band="positive"
    )
    report = report_of(negative, second)
    assert len(parsed(report).content.get_planar_roi_measurement_groups()) == 2
    text = as_text(build_report(report))
    assert "Conclusion: Research algorithm: probability that pneumonia is PRESENT 91.0 %" in text


def test_a_study_without_an_analysed_image_says_so(make_image):
    report = report_of(ImageFinding(dataset=make_image(), reason="body part HAND"))
    text = as_text(build_report(report))
    assert "No image of this study was analysed" in text
    assert "not analysed: body part HAND." in text
    assert "Certainty" not in text
    assert "Pneumonia:" not in text


@pytest.mark.parametrize("intended_use", ["outside", "unknown"])
def test_a_withheld_probability_is_nowhere_in_the_report(make_image, intended_use):
    image = ImageFinding(dataset=make_image(), probability=0.8765, band="positive")
    content = build_report(report_of(image, intended_use=intended_use, withhold=True))
    text = as_text(content)
    assert "withheld" in text
    assert "children of 1 to 5 years" in text
    assert b"87.6" not in content
    assert b"87.7" not in content
    assert b"positive" not in content.lower()


def test_a_marked_probability_carries_the_warning_beside_the_number(make_image):
    image = ImageFinding(dataset=make_image(), probability=0.8765, band="positive")
    text = as_text(build_report(report_of(image, intended_use="outside", withhold=False)))
    comment = next(line for line in text.splitlines() if "87.6" in line or "87.7" in line)
    assert "WARNING: Not validated for this patient" in comment


def test_inside_the_intended_use_there_is_no_warning(negative):
    assert "WARNING" not in as_text(build_report(report_of(negative)))


def test_a_report_names_its_predecessor(negative):
    older = Predecessor(
        sop_class_uid=COMPREHENSIVE_3D_SR, sop_instance_uid="2.25.1", series_instance_uid="2.25.2"
    )
    ds = dcmread(BytesIO(build_report(report_of(negative, predecessor=older))))
    series = ds.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == "2.25.2"
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.1"


def test_comprehensive_sr_for_destinations_that_take_only_that(negative):
    sr = parsed(report_of(negative, sop_class_uid=COMPREHENSIVE_SR))
    assert isinstance(sr, hd.sr.ComprehensiveSR)


def test_an_outline_takes_the_place_of_the_frame_and_says_what_it_is(make_image):
    outline = ((5.0, 5.0), (20.0, 5.0), (20.0, 30.0), (5.0, 5.0))
    image = ImageFinding(dataset=make_image(), probability=0.9, band="positive", outline=outline)
    (group,) = parsed(report_of(image)).content.get_planar_roi_measurement_groups()
    assert np.array_equal(group.roi.value, outline)
    assert "where the model looked, not a segmented lesion" in group.tracking_identifier


@pytest.mark.parametrize(
    ("offset", "timezone", "expected"),
    [
        ("+0900", UTC, ("20260302", "083005")),
        ("-0400", UTC, ("20260301", "193005")),
        (None, ZoneInfo("Europe/Berlin"), ("20260302", "003005")),
        ("rubbish", UTC, ("20260301", "233005")),
        ("+9900", UTC, ("20260301", "233005")),
    ],
)
def test_times_follow_the_images_offset_else_the_sites_zone(make_image, offset, timezone, expected):
    image = ImageFinding(
        dataset=make_image(TimezoneOffsetFromUTC=offset), probability=0.1, band="negative"
    )
    ds = dcmread(BytesIO(build_report(report_of(image, timezone=timezone))))
    assert (ds.ContentDate, ds.ContentTime) == expected


@pytest.mark.parametrize("change", HOLES.values(), ids=HOLES.keys())
def test_holes_in_a_header_cost_no_report(make_image, change):
    change = {k: order() if v == "order" else v for k, v in change.items()}
    image = ImageFinding(dataset=make_image(**change), probability=0.1, band="negative")
    content = build_report(report_of(image))
    ds = dcmread(BytesIO(content))
    for keyword in TYPE_2:
        assert keyword in ds
    hd.sr.srread(BytesIO(content))


@pytest.mark.parametrize(
    "change",
    [
        {"PatientBirthDate": "19xx0101"}, {"StudyTime": "99:99"}, {"PatientAge": "old"},
        {"StudyDate": "2024.01.05"}, {"PatientSex": "female"},
    ],
)  # fmt: skip
def test_invalid_values_count_as_missing_and_reach_no_warning(make_image, change, recwarn):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = make_image(**change)
    image = ImageFinding(dataset=source, probability=0.1, band="negative")
    ds = dcmread(BytesIO(build_report(report_of(image))))
    (keyword, value) = next(iter(change.items()))
    assert not ds.get(keyword)
    assert not [w for w in recwarn if value in str(w.message)]


NAMES = [
    ("ISO_IR 100", "Müller^Jürgen"),
    ("ISO_IR 144", "Иванов^Ян"),
    ("ISO_IR 126", "Διονυσιος"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
    ("GB18030", "Wang^XiaoDong=王^小东"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
]


@pytest.mark.parametrize(("charset", "name"), NAMES, ids=[str(c) for c, _ in NAMES])
def test_names_round_trip_in_every_character_set(make_image, tmp_path, charset, name):
    path = tmp_path / "image.dcm"
    make_image(SpecificCharacterSet=charset, PatientName=name).save_as(
        path, enforce_file_format=True
    )
    source = read_dataset(path)
    raw = bytes(source.get_item("PatientName").value).rstrip()
    image = ImageFinding(dataset=source, probability=0.1, band="negative")
    content = build_report(report_of(image))
    assert raw in content
    assert dcmread(BytesIO(content)).PatientName == name


def test_text_that_no_character_set_holds_is_replaced(make_image):
    image = ImageFinding(dataset=make_image(), reason="läteral \\ view ~")
    text = as_text(build_report(report_of(image, model=ModelIdentity(
        name="modèle", version="1", weights_sha256="0" * 64, preprocess_version=1))))  # fmt: skip
    assert "l?teral ? view ?" in text
    assert "mod?le" in text


@pytest.mark.parametrize(
    ("probability", "shown"),
    [(0.0, "0.0 %"), (0.00049, "0.0 %"), (0.5, "50.0 %"), (0.99951, "100.0 %"), (1.0, "100.0 %")],
)
def test_probabilities_are_shown_in_percent(make_image, probability, shown):
    image = ImageFinding(dataset=make_image(), probability=probability, band="review")
    assert f"PRESENT {shown}" in as_text(build_report(report_of(image)))


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_an_error(make_image, probability):
    image = ImageFinding(dataset=make_image(), probability=probability, band="review")
    with pytest.raises(ValueError, match="probability"):
        build_report(report_of(image))


def test_a_report_needs_an_image_and_an_aware_time(negative):
    with pytest.raises(ValueError, match="at least one image"):
        report_of()
    with pytest.raises(ValueError, match="time zone"):
        report_of(negative, created_at=datetime(2026, 1, 1))


def test_as_text_shows_no_patient_and_refuses_what_is_no_report(negative, tmp_path):
    path = tmp_path / "sr.dcm"
    path.write_bytes(build_report(report_of(negative)))
    text = as_text(path)
    assert "Doe" not in text
    assert text.startswith("Comprehensive 3D SR Storage, COMPLETE, UNVERIFIED")
    for content in (b"hello", b""):
        with pytest.raises(UnreadableDicom):
            as_text(content)


# The validators. What they still warn of, and why, is in docs: private codes, and content items
# that the template of PixelMed's edition did not have yet.


def every_kind(sources) -> dict[str, StudyReport]:
    older = Predecessor(
        sop_class_uid=COMPREHENSIVE_3D_SR, sop_instance_uid="2.25.1", series_instance_uid="2.25.2"
    )
    reports = {}
    for name, ds in sources.items():
        image = ImageFinding(dataset=ds, probability=0.83, band="positive")
        refused = ImageFinding(dataset=ds, reason="lateral view")
        reports |= {
            f"{name} inside": report_of(image),
            f"{name} marked": report_of(image, intended_use="outside", withhold=False,
                                        predecessor=older),
            f"{name} withheld": report_of(image, intended_use="unknown"),
            f"{name} none": report_of(refused),
            f"{name} comprehensive": report_of(image, sop_class_uid=COMPREHENSIVE_SR),
        }  # fmt: skip
    return reports


@pytest.fixture
def sources(make_image, real_radiographs):
    changes = {name: {k: order() if v == "order" else v for k, v in change.items()}
               for name, change in HOLES.items()}  # fmt: skip
    synthetic = {name: make_image(**change) for name, change in changes.items()}
    real = {path.name: read_dataset(path) for path in real_radiographs}
    names = {str(charset): make_image(SpecificCharacterSet=charset, PatientName=name)
             for charset, name in NAMES}  # fmt: skip
    return real | synthetic | names


def run(*command, env=None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=env, check=False
    )


@pytest.mark.peers
def test_dciodvfy_finds_no_error(peer, sources, tmp_path):
    program = peer("dciodvfy")
    for name, report in every_kind(sources).items():
        path = tmp_path / "sr.dcm"
        path.write_bytes(build_report(report))
        said = run(program, path)
        assert "Error" not in said.stderr + said.stdout, f"{name}: {said.stderr}"


@pytest.mark.peers
def test_dsrdump_prints_every_report(peer, sources, tmp_path):
    program = peer("dsrdump")
    for name, report in every_kind(sources).items():
        path = tmp_path / "sr.dcm"
        path.write_bytes(build_report(report))
        said = run(program, "+Pl", path)
        assert said.returncode == 0, f"{name}: {said.stderr}"
        assert "E: " not in said.stderr, f"{name}: {said.stderr}"
        shown = any(i.is_analysed for i in report.images) and not report.is_withheld
        assert ("PRESENT 83.0 %" in said.stdout) == shown, name


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["marked", "none"])
def test_pixelmed_finds_no_error(peer, real_radiographs, tmp_path, kind):
    ds = read_dataset(real_radiographs[0])
    report = every_kind({"x": ds})[f"x {kind}"]
    path = tmp_path / "sr.dcm"
    path.write_bytes(build_report(report))
    limits = "xpathExprOpLimit", "xpathTotalOpLimit", "xpathExprGrpLimit"
    java = {"JAVA_TOOL_OPTIONS": " ".join(f"-Djdk.xml.{limit}=0" for limit in limits)}
    said = run(peer("DicomSRValidator"), path, env=os.environ | java)
    output = said.stdout + said.stderr
    assert "Root Template Validation Complete" in output
    assert "IOD validation complete" in output
    assert "TID_1500" in output
    assert "Error" not in output, output
