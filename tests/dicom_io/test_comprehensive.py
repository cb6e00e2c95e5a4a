from io import BytesIO

import highdicom as hd
import pytest
from pydicom import dcmread

from dicom_io.comprehensive import as_comprehensive
from dicom_io.errors import UnreadableDicom
from dicom_io.identity import is_our_object
from dicom_io.sr import COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR, ImageFinding, Predecessor
from dicom_io.sr import build_report as build
from tests.dicom_io.test_sr import report_of
from tests.support.peers import validate


@pytest.fixture
def report(make_image):
    analysed = ImageFinding(dataset=make_image(), probability=0.81, band="positive")
    rejected = ImageFinding(dataset=make_image(), reason="lateral view")
    predecessor = Predecessor(
        sop_class_uid=COMPREHENSIVE_3D_SR, sop_instance_uid="2.25.7", series_instance_uid="2.25.8"
    )
    return build(report_of(analysed, rejected, predecessor=predecessor))


def test_the_content_is_the_same_under_another_class_and_uid(report):
    before, after = (dcmread(BytesIO(it)) for it in (report, as_comprehensive(report, "2.25.9")))
    assert after.SOPClassUID == after.file_meta.MediaStorageSOPClassUID == COMPREHENSIVE_SR
    assert after.SOPInstanceUID == after.file_meta.MediaStorageSOPInstanceUID == "2.25.9"
    for ds in (before, after):
        del ds.SOPClassUID, ds.SOPInstanceUID
    assert before == after
    assert is_our_object(after)


def test_the_same_report_converted_is_the_same_bytes(report):
    assert as_comprehensive(report, "2.25.9") == as_comprehensive(report, "2.25.9")


def test_highdicom_reads_it_as_a_comprehensive_sr(report):
    sr = hd.sr.srread(BytesIO(as_comprehensive(report, "2.25.9")))
    assert isinstance(sr, hd.sr.ComprehensiveSR)
    (group,) = sr.content.get_planar_roi_measurement_groups()
    assert float(group.get_measurements()[0].value) == 81.0


def test_the_predecessor_is_named_in_both_classes(report):
    ds = dcmread(BytesIO(as_comprehensive(report, "2.25.9", [(COMPREHENSIVE_SR, "2.25.10")])))
    (study,) = ds.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    named = [(it.ReferencedSOPClassUID, it.ReferencedSOPInstanceUID)
             for it in series.ReferencedSOPSequence]  # fmt: skip
    assert named == [(COMPREHENSIVE_3D_SR, "2.25.7"), (COMPREHENSIVE_SR, "2.25.10")]


def test_what_a_comprehensive_sr_may_not_hold_is_refused(report):
    ds = dcmread(BytesIO(report))
    ds.ContentSequence[0].ValueType = "SCOORD3D"
    buffer = BytesIO()
    ds.save_as(buffer)
    with pytest.raises(UnreadableDicom, match="SCOORD3D"):
        as_comprehensive(buffer.getvalue(), "2.25.9")
    with pytest.raises(UnreadableDicom, match="not a Comprehensive 3D SR"):
        as_comprehensive(as_comprehensive(report, "2.25.9"), "2.25.10")


@pytest.mark.peers
def test_dciodvfy_finds_no_error_in_it(report, tmp_path):
    path = tmp_path / "sr.dcm"
    path.write_bytes(as_comprehensive(report, "2.25.9", [(COMPREHENSIVE_SR, "2.25.10")]))
    assert "Error" not in validate(path)
