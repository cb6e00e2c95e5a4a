import warnings
from copy import deepcopy
from datetime import UTC, datetime
from io import BytesIO
from zoneinfo import ZoneInfo

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
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
    SaliencyReference,
    StudyReport,
    build_report,
    is_our_object,
)
from dicom_io.sr_text import as_text
from tests.dicom_io.conftest import make_image as image_with
from tests.dicom_io.holes import (
    HOLES,
    IDENTIFIERS,
    NAMES,
    SIMPLIFIED_CHINESE,
    UNKNOWN_TO_DCIODVFY,
)
from tests.support.validators import dciodvfy, dsrdump, pixelmed

PNEUMONIA = Code("233604007", "SCT", "Pneumonia")
LUNG = Code("39607008", "SCT", "Lung")
MODEL = ModelIdentity(
    name="efficientnet-lite0", version="1.0.0", weights_sha256="ab" * 32, preprocess_version=1
)
TYPE_2 = ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
          "ReferringPhysicianName", "StudyID", "AccessionNumber"]  # fmt: skip


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
    assert text.index("Conclusion:") < text.index("Imaging Measurements")
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
    assert "Image 2 of 2 (PA) was not analysed: lateral view. (1.2.826.77)" in text
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
    for line in text.splitlines():
        if "PRESENT 87." in line:
            assert "WARNING: Not validated for this patient: the patient's age is outside" in line
    assert text.count("WARNING") == 2


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
    image = ImageFinding(dataset=make_image(**change()), probability=0.1, band="negative")
    content = build_report(report_of(image))
    ds = dcmread(BytesIO(content))
    for keyword in TYPE_2:
        assert keyword in ds
    hd.sr.srread(BytesIO(content))


@pytest.mark.parametrize("keyword", IDENTIFIERS)
@pytest.mark.parametrize("value", [None, ""])
def test_an_object_without_its_identifiers_never_comes_this_far(
    make_image, tmp_path, keyword, value
):
    path = tmp_path / "image.dcm"
    ds = make_image(**{keyword: value})
    ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.826.1"
    ds.save_as(path, enforce_file_format=False)
    with pytest.raises(UnreadableDicom, match=keyword):
        read_header(path)


@pytest.mark.parametrize("keyword", ["Rows", "Columns"])
def test_an_image_without_its_size_is_no_analysed_one(make_image, keyword):
    ds = make_image(**{keyword: None})
    with pytest.raises(ValueError, match="Rows and Columns"):
        build_report(report_of(ImageFinding(dataset=ds, probability=0.1, band="negative")))
    assert build_report(report_of(ImageFinding(dataset=ds, reason="no Rows")))


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


def test_a_name_that_pydicom_cannot_decode_keeps_its_bytes(make_image, tmp_path):
    path = tmp_path / "image.dcm"
    held = "X" * len(SIMPLIFIED_CHINESE)
    make_image(SpecificCharacterSet=["", "ISO 2022 IR 58"], PatientName=held).save_as(
        path, enforce_file_format=True
    )
    path.write_bytes(path.read_bytes().replace(held.encode(), SIMPLIFIED_CHINESE))
    image = ImageFinding(dataset=read_dataset(path), probability=0.1, band="negative")
    assert SIMPLIFIED_CHINESE in build_report(report_of(image))


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


@pytest.mark.parametrize("intended_use", ["inside", "outside", "unknown"])
@pytest.mark.parametrize("unlike", [False, True])
@pytest.mark.parametrize("withhold", [False, True])
def test_age_and_picture_are_each_named_when_they_are_why(
    make_image, intended_use, unlike, withhold
):
    image = ImageFinding(
        dataset=make_image(), probability=0.5, band="review", unlike_training=unlike
    )
    report = report_of(image, intended_use=intended_use, unlike_training=unlike, withhold=withhold)
    text = as_text(build_report(report))
    said = text.split("Imaging Measurements")[0].replace("the age of", "").lower()
    assert ("age is outside the intended use" in said) == (intended_use == "outside")
    assert ("age is unknown" in said) == (intended_use == "unknown")
    assert ("unlike those that the model was trained on" in said) == unlike
    assert ("PRESENT 50.0 %" in text) == (not withhold or (intended_use == "inside" and not unlike))
    assert ("WARNING" in text) == (intended_use != "inside" or unlike)
    assert "Intended use of the model: children of 1 to 5 years" in text


def test_an_image_unlike_the_training_images_is_withheld_beside_one_that_is_not(
    make_image, negative
):
    odd = ImageFinding(
        dataset=make_image(SOPInstanceUID="1.2.826.8"),
        probability=0.0123,
        band="negative",
        unlike_training=True,
    )
    text = as_text(build_report(report_of(negative, odd)))
    assert "Image 2 of 2 (PA): probability withheld, the image is unlike" in text
    assert "1.2 %" not in text
    assert "PRESENT 3.2 %" in text
    marked = as_text(build_report(report_of(negative, odd, withhold=False)))
    assert "PRESENT 1.2 %" in marked
    assert "WARNING: Not to be relied on: the image is unlike" in marked


@pytest.mark.parametrize(
    ("one", "other", "exposures"),
    [
        ({"IrradiationEventUID": "1.2.5"}, {"IrradiationEventUID": "1.2.5"}, 1),
        ({"IrradiationEventUID": "1.2.5"}, {"IrradiationEventUID": "1.2.6"}, 2),
        (
            {"AcquisitionDate": "20240105", "AcquisitionTime": "101500"},
            {"AcquisitionDate": "20240105", "AcquisitionTime": "101500.250"},
            1,
        ),
        (
            {"AcquisitionDate": "20240105", "AcquisitionTime": "101500"},
            {"AcquisitionDate": "20240105", "AcquisitionTime": "101507"},
            2,
        ),
        ({"AcquisitionTime": "10"}, {"AcquisitionTime": "10"}, 2),
        ({}, {}, 2),
    ],
)
def test_copies_of_one_exposure_count_once(make_image, one, other, exposures):
    images = [
        ImageFinding(
            dataset=make_image(SOPInstanceUID=f"1.2.826.{n}", **changes),
            probability=0.1 * n,
            band="review",
        )
        for n, changes in ((1, one), (2, other))
    ]
    text = as_text(build_report(report_of(*images)))
    said = "Highest of 2 analysed of 2 images" + (", which are 1 exposure." * (exposures == 1))
    assert said in text
    assert ("exposure" in text) == (exposures == 1)


def test_the_saliency_picture_is_referred_to_and_evidence(make_image):
    made = SaliencyReference(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
        sop_instance_uid="2.25.7",
        series_instance_uid="2.25.8",
    )
    image = ImageFinding(dataset=make_image(), probability=0.9, band="positive", saliency=made)
    sr = parsed(report_of(image))
    assert ("2.25.8", "2.25.7") in {(item[1], item[2]) for item in sr.get_evidence()}
    text = as_text(build_report(report_of(image)))
    assert "Illustration of ROI: 2.25.7" in text
    withheld = build_report(report_of(image, intended_use="outside"))
    assert b"2.25.7" not in withheld


def test_the_report_says_how_good_the_model_is_and_which_one(negative):
    text = as_text(build_report(report_of(negative)))
    model = next(line for line in text.splitlines() if "Model: " in line)
    assert "efficientnet-lite0 1.0.0" in model
    assert "sensitivity 0.95, specificity 0.93" in model


# The validators. What they still warn of, and why: docs/SR.md.

DCIODVFY_WARNINGS = (
    "Unrecognized defined term <99CXRWORKER>",
    "Unrecognized defined term <2.25.",
    "(0x0018,0x1002) UI Device UID",
    "this is a Standard Extended SOP Class",
)
PIXELMED_WARNINGS = (
    '(121106,DCM,"Comment")',
    '(122405,DCM,"Algorithm Manufacturer")',
    '(233604007,SCT,"Pneumonia")',
    '(band,99CXRWORKER,"Review band")',
)


def every_kind(sources) -> dict[str, bytes]:
    older = Predecessor(
        sop_class_uid=COMPREHENSIVE_3D_SR, sop_instance_uid="2.25.1", series_instance_uid="2.25.2"
    )
    made = SaliencyReference(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
        sop_instance_uid="2.25.7",
        series_instance_uid="2.25.8",
    )
    outline = ((5.0, 5.0), (20.0, 5.0), (20.0, 30.0), (5.0, 5.0))
    reports = {}
    for name, ds in sources.items():
        image = ImageFinding(
            dataset=ds, probability=0.83, band="positive", outline=outline, saliency=made
        )
        refused = ImageFinding(dataset=ds, reason="lateral view")
        reports |= {
            f"{name} inside": report_of(image),
            f"{name} marked": report_of(image, intended_use="outside", withhold=False,
                                        predecessor=older, unlike_training=True),
            f"{name} withheld": report_of(image, intended_use="unknown"),
            f"{name} none": report_of(refused),
            f"{name} comprehensive": report_of(image, sop_class_uid=COMPREHENSIVE_SR),
        }  # fmt: skip
    return {name: build_report(report) for name, report in reports.items()}


@pytest.fixture(scope="module")
def reports(real_radiographs):
    """One build for all validators: each kind of report over real radiographs, holes, names."""
    real = {path.name: read_dataset(path) for path in real_radiographs}
    holes = {name: image_with(**change()) for name, change in HOLES.items()}
    names = {
        str(charset): image_with(SpecificCharacterSet=charset, PatientName=name)
        for charset, name in NAMES
    }
    return one_of_each(real | holes | names)


def one_of_each(sources) -> dict[str, bytes]:
    """Every kind of report of the real radiographs, and one kind of each other source."""
    reports = every_kind(sources)
    kinds = ("inside", "marked", "withheld", "none", "comprehensive")
    chosen = {f"{name} {kinds[n % 5]}" for n, name in enumerate(sources)}
    return {name: it for name, it in reports.items() if name in chosen or ".dcm" in name}


def unexpected(said: dict[str, list[str]], expected: tuple[str, ...]) -> dict[str, list[str]]:
    rest = {
        name: [line for line in lines if not any(known in line for known in expected)]
        for name, lines in said.items()
    }
    return {name: lines for name, lines in rest.items() if lines}


@pytest.mark.peers
def test_dciodvfy_finds_no_error_and_warns_of_nothing_new(reports, tmp_path):
    known = {
        name: content
        for name, content in reports.items()
        if name.rsplit(" ", 1)[0] not in UNKNOWN_TO_DCIODVFY
    }
    said = dciodvfy(known, tmp_path)
    assert unexpected(said["Error"], ()) == {}
    of_the_images = (
        "Value dubious for this VR",
        "Retired Person Name form",
        "would be needed to build DICOMDIR",  # empty in the image
        "<ISO_IR 6>",
    )
    assert unexpected(said["Warning"], (*DCIODVFY_WARNINGS, *of_the_images)) == {}


@pytest.mark.peers
def test_dsrdump_prints_every_report(reports, tmp_path):
    for name, said in dsrdump(reports, tmp_path).items():
        assert "exit 0" in said, name
        assert "E: " not in said, f"{name}: {said}"
        shown = not name.endswith(("withheld", "none"))
        assert ("PRESENT 83.0 %" in said) == shown, name


def test_highdicom_reads_every_report_back(reports):
    for name, content in reports.items():
        sr = hd.sr.srread(BytesIO(content))
        groups = sr.content.get_planar_roi_measurement_groups()
        assert len(groups) == (not name.endswith(("withheld", "none"))), name


def pixelmed_finds_no_error(content: bytes, folder) -> None:
    said = pixelmed(content, folder)
    output = "\n".join(said)
    assert "Root Template Validation Complete" in output
    assert "IOD validation complete" in output
    assert "TID_1500" in output
    assert "Error" not in output, output
    warned = [line for line in said if line.startswith("Warning")]
    assert unexpected({"": warned}, PIXELMED_WARNINGS) == {}


@pytest.mark.peers
def test_pixelmed_finds_no_error(real_radiographs, tmp_path):
    ds = read_dataset(real_radiographs[0])
    pixelmed_finds_no_error(every_kind({"x": ds})["x marked"], tmp_path)


@pytest.mark.peers
@pytest.mark.long
@pytest.mark.parametrize("kind", ["inside", "withheld", "none", "comprehensive"])
def test_pixelmed_finds_no_error_in_any_kind(real_radiographs, tmp_path, kind):
    ds = read_dataset(real_radiographs[0])
    pixelmed_finds_no_error(every_kind({"x": ds})[f"x {kind}"], tmp_path)


@pytest.mark.peers
@pytest.mark.long
@pytest.mark.parametrize("charset", ["ISO_IR 144", "ISO_IR 192", "GB18030"])
def test_pixelmed_finds_no_error_in_other_scripts(make_image, tmp_path, charset):
    name = next(name for known, name in NAMES if known == charset)
    ds = make_image(SpecificCharacterSet=charset, PatientName=name)
    pixelmed_finds_no_error(every_kind({"x": ds})["x inside"], tmp_path)
