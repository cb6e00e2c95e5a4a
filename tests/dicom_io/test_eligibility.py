import pytest
from pydicom.dataset import Dataset

from dicom_io.eligibility import (
    IntendedUse,
    Policy,
    intended_use,
    is_image_class,
    reason_to_reject,
)
from dicom_io.identity import MANUFACTURER, MODEL_NAME
from dicom_io.read import read_dataset

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"


def coded(value: str, scheme: str = "SCT") -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "DOE JANE"
    return [item]


@pytest.fixture
def chest(make_image):
    """A header of an eligible chest, with changes."""

    def make(**attributes):
        ds = make_image(**{"Rows": 2000, "Columns": 1800, **attributes})
        del ds.PixelData
        return ds

    return make


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"Modality": "DX", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1"},
        {"ViewPosition": "AP"},
        {"ViewPosition": None},
        {"ViewPosition": "PA ERECT"},
        {"ViewPosition": "UPRIGHT"},
        {"ViewPosition": None, "ViewCodeSequence": coded("272479007")},
        {"ViewPosition": None, "ViewCodeSequence": coded("R-10206", "SRT")},
        {"BodyPartExamined": None},
        {"BodyPartExamined": "thorax"},
        {"BodyPartExamined": "LUNG"},
        {"BodyPartExamined": "PORT CHEST"},
        {"BodyPartExamined": "CHEST_PA"},
        {"BodyPartExamined": None, "AnatomicRegionSequence": coded("816094009")},
        {"BodyPartExamined": None, "AnatomicRegionSequence": coded("T-D3000", "SRT")},
        {"BodyPartExamined": None, "SeriesDescription": "Thorax p.a. stehend"},
        {"ViewPosition": None, "SeriesDescription": "Thorax de face"},
        {"ViewPosition": "PA", "SeriesDescription": "Chest PA and LAT"},
        {"PresentationIntentType": "FOR PRESENTATION"},
        {"NumberOfFrames": 1},
        {"AnatomicRegionSequence": [Dataset()], "ViewCodeSequence": [Dataset()]},
        {"StudyDescription": "Hand and chest"},
        {"PatientOrientation": ["L", "F"]},
        {"PatientOrientation": ["RA", "FP"]},
        {"PatientOrientation": ["", ""]},
        {"PatientOrientation": "L"},
        {"BurnedInAnnotation": "YES"},
        {"ConversionType": "SI"},
    ],
)
def test_frontal_chests_are_analysed(chest, attributes):
    assert reason_to_reject(chest(**attributes)) is None


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"ViewPosition": "LL"}, "lateral view"),
        ({"ViewPosition": "RL"}, "lateral view"),
        ({"ViewPosition": "LATERAL"}, "lateral view"),
        ({"ViewPosition": "Lat"}, "lateral view"),
        ({"ViewPosition": "LAO"}, "oblique view"),
        ({"ViewPosition": "LLD"}, "decubitus view"),
        ({"ViewPosition": None, "ViewCodeSequence": coded("399173006")}, "lateral view"),
        ({"ViewPosition": "PA", "ViewCodeSequence": coded("399173006")}, "lateral view"),
        ({"ViewPosition": None, "ViewCodeSequence": coded("399061009")}, "view other than frontal"),
        ({"ViewPosition": None, "SeriesDescription": "CHEST LAT"}, "lateral view"),
        ({"ViewPosition": None, "ProtocolName": "Thorax seitlich"}, "lateral view"),
        (
            {"ViewPosition": None, "ProtocolName": "CHEST PA/LAT"},
            "frontal and lateral view named, which one is unclear",
        ),
        ({"BodyPartExamined": "HAND"}, "body part HAND"),
        ({"BodyPartExamined": "hand"}, "body part HAND"),
        ({"BodyPartExamined": "EXTREMITY"}, "body part EXTREMITY"),
        ({"BodyPartExamined": "CSPINE"}, "body part CSPINE"),
        ({"BodyPartExamined": "L-SPINE"}, "body part LSPINE"),
        ({"BodyPartExamined": "CHEST ABDOMEN"}, "body part CHESTABDOMEN"),
        ({"BodyPartExamined": "LEFT WRIST"}, "body part WRIST"),
        (
            {"BodyPartExamined": None, "AnatomicRegionSequence": coded("85562004")},
            "body part other than the chest",
        ),
        ({"BodyPartExamined": None, "ProtocolName": "Foot 2 views"}, "body part FOOT"),
        ({"BodyPartExamined": None, "SeriesDescription": "BWS ap"}, "body part TSPINE"),
        ({"Modality": "CT", "SOPClassUID": CT_IMAGE}, "modality CT"),
        ({"Modality": "OT", "SOPClassUID": SECONDARY_CAPTURE}, "modality OT"),
        ({"Modality": None}, "modality unknown"),
        ({"NumberOfFrames": 3}, "multi-frame"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for processing, not for presentation"),
        (
            {"Modality": "DX", "SOPClassUID": DX_FOR_PROCESSING},
            "for processing, not for presentation",
        ),
        ({"Rows": 1, "Columns": 1}, "too small (1x1)"),
        ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, "lateral view"),
        ({"PatientOrientation": ["PL", "F"]}, "lateral view"),
        ({"PatientOrientation": ["L", "P"]}, "view other than frontal"),
        ({"PatientOrientation": ["L", "H"]}, "not upright"),
        ({"PatientOrientation": ["F", "R"]}, "not upright"),
        ({"ConversionType": "SD"}, "scanned document"),
        (
            {"SOPClassUID": SECONDARY_CAPTURE, "BurnedInAnnotation": "YES"},
            "burned-in annotation",
        ),
        ({"Rows": 2000, "Columns": 223}, "too small (223x2000)"),
        ({"Modality": "SR", "SOPClassUID": COMPREHENSIVE_3D_SR}, "not an image"),
        ({"Modality": "PR", "SOPClassUID": PRESENTATION_STATE}, "not an image"),
        (
            {"SOPClassUID": COMPREHENSIVE_3D_SR, "Manufacturer": MANUFACTURER,
             "ManufacturerModelName": MODEL_NAME},
            "our own report",
        ),
        (
            {"SOPClassUID": SECONDARY_CAPTURE, "Manufacturer": MANUFACTURER,
             "ManufacturerModelName": MODEL_NAME},
            "our own object",
        ),
    ],
)  # fmt: skip
def test_anything_else_is_rejected_with_its_reason(chest, attributes, reason):
    assert reason_to_reject(chest(**attributes)) == reason


@pytest.mark.parametrize(
    "attributes",
    [
        {"BodyPartExamined": "DOE JANE 1970"},
        {"Modality": "DOE JANE"},
        {"ViewPosition": "LAT DOE JANE"},
        {"BodyPartExamined": None, "AnatomicRegionSequence": coded("85562004")},
        {"BodyPartExamined": None, "SeriesDescription": "DOE JANE hand"},
    ],
)
def test_no_free_text_gets_into_a_reason(chest, attributes):
    reason = reason_to_reject(chest(**attributes))
    assert reason is not None
    assert "DOE" not in reason.upper()
    assert "JANE" not in reason.upper()


def test_a_site_can_change_the_policy(chest):
    secondary = {"Modality": "SC", "SOPClassUID": SECONDARY_CAPTURE}
    assert reason_to_reject(chest(**secondary), Policy(modalities=frozenset({"SC"}))) is None
    strict = Policy(view_may_be_unknown=False, body_part_may_be_unknown=False)
    assert reason_to_reject(chest(ViewPosition=None), strict) == "view unknown"
    assert reason_to_reject(chest(BodyPartExamined=None), strict) == "body part unknown"
    assert reason_to_reject(chest(Rows=100, Columns=100), Policy(sides_px_min=64)) is None


def test_a_header_without_size_is_left_to_the_decoder(chest):
    assert reason_to_reject(chest(Rows=None, Columns=None)) is None


def test_real_radiographs(real_radiographs):
    reasons = {path.name: reason_to_reject(read_dataset(path)) for path in real_radiographs}
    assert reasons["RG1_UNCR.dcm"] is None
    assert reasons.get("RG3_UNCR.dcm", "body part EXTREMITY") == "body part EXTREMITY"
    ankle = reasons.get("ankle_monochrome1_jpeg2000.dcm", "body part EXTREMITY")
    assert ankle == "body part EXTREMITY"
    assert reasons.get("chest_pa_monochrome1_jpeg_baseline.dcm") is None


@pytest.mark.parametrize(
    ("sop_class_uid", "expected"),
    [
        ("1.2.840.10008.5.1.4.1.1.1", True),
        ("1.2.840.10008.5.1.4.1.1.7.4", True),
        (CT_IMAGE, True),
        (COMPREHENSIVE_3D_SR, False),
        (PRESENTATION_STATE, False),
        ("1.2.840.10008.5.1.4.1.1.88.59", False),
        ("1.2.840.10008.5.1.4.1.1.104.1", False),
        ("1.2.3.4", False),
        ("", False),
        ("rubbish", False),
    ],
)
def test_image_classes(sop_class_uid, expected):
    assert is_image_class(sop_class_uid) is expected


@pytest.mark.parametrize(
    ("age_years", "expected"),
    [
        (3, "inside"), (1, "inside"), (5, "inside"), (5.9, "inside"), (6, "outside"),
        (0.99, "outside"), (64.5, "outside"), (None, "unknown"),
    ],
)  # fmt: skip
def test_intended_use_of_a_model_for_children_of_1_to_5(age_years, expected):
    assert intended_use(age_years, 1, 5) == expected


def test_intended_use_without_limits_is_inside():
    assert intended_use(None, None, None) is IntendedUse.INSIDE
    assert intended_use(90, 18, None) is IntendedUse.INSIDE
    assert intended_use(10, 18, None) is IntendedUse.OUTSIDE
