"""docs/CONFORMANCE.md says what the code negotiates and answers."""

import re
from pathlib import Path

import pytest
from pydicom.uid import UID

from dicom_io import contexts, rejection, secondary_capture, sr_header, sr_report
from dicom_io.association import Timeouts
from tests.support import dicom
from worker import association_server, commit, connections, deliver, patience, receive, scp

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "CONFORMANCE.md").read_text()
SR_CLASSES = {sr_report.COMPREHENSIVE_3D_SR, sr_report.COMPREHENSIVE_SR}


def _section(number: str) -> str:
    found = re.search(rf"^#+ {re.escape(number)} .*?(?=^#+ \d|\Z)", PAGE, re.M | re.S)
    assert found, number
    return found[0]


def _uid_tables(number: str) -> list[set[str]]:
    """The UIDs of each table of a section; each has the standard's name beside it."""
    tables = []
    for table in re.findall(r"(?:^\|.*\n)+", _section(number), re.M):
        rows = re.findall(r"^\| (.+?) \| `([\d.]+)` \|$", table, re.M)
        for name, uid in rows:
            assert UID(uid).name == name
        if rows:
            tables.append({uid for _, uid in rows})
    return tables


def _statuses(number: str) -> set[int]:
    return {int(it, 16) for it in re.findall(r"^\| ([0-9A-F]{4})H \|", _section(number), re.M)}


def test_what_is_accepted_is_what_the_listener_offers() -> None:
    images, image_syntaxes, others, other_syntaxes, verification = _uid_tables("4.2.6")
    offered = {
        str(it.abstract_syntax): {str(uid) for uid in it.transfer_syntax}
        for it in contexts.listener_contexts()
    }
    said = (
        dict.fromkeys(images, image_syntaxes)
        | dict.fromkeys(others, other_syntaxes)
        | dict.fromkeys([contexts.VERIFICATION, contexts.STORAGE_COMMITMENT], verification)
    )
    assert said == offered


def test_what_is_proposed_is_what_is_made() -> None:
    classes, syntaxes = _uid_tables("4.2.2")
    assert classes == SR_CLASSES | {dicom.SECONDARY_CAPTURE, rejection.KEY_OBJECT_SELECTION}
    assert syntaxes == {contexts.EXPLICIT_VR_LITTLE_ENDIAN, contexts.IMPLICIT_VR_LITTLE_ENDIAN}
    assert _uid_tables("4.2.3") == [{contexts.STORAGE_COMMITMENT}]
    assert _uid_tables("4.2.4") == [{contexts.VERIFICATION}]


def test_the_statuses_are_those_that_are_answered() -> None:
    assert _statuses("4.2.6") == {
        receive.SUCCESS,
        receive.OUT_OF_RESOURCES,
        receive.DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
        receive.CANNOT_UNDERSTAND,
    }
    assert _statuses("4.2.7") == {0, scp.PROCESSING_FAILURE, scp.INVALID_ARGUMENT_VALUE}
    assert f"| {deliver.SOP_CLASS_NOT_SUPPORTED:04X}H, of" in _section("4.2.2")


@pytest.mark.parametrize(
    "row",
    [
        f"| associations accepted at once | {connections.CONNECTIONS_MAX} |",
        f"| maximum PDU received | {scp.MAXIMUM_PDU_BYTES} bytes |",
        f"| ACSE timeout, accepting | {scp.ACSE_TIMEOUT_S} s |",
        f"| DIMSE timeout, accepting | {scp.DIMSE_TIMEOUT_S} s |",
        f"| network timeout, accepting | {association_server.NETWORK_TIMEOUT_S} s |",
        f"| connection timeout, opening | {Timeouts().connection_s} s |",
        f"| ACSE timeout, opening | {Timeouts().acse_s} s |",
        f"| DIMSE timeout, opening | {Timeouts().dimse_s} s |",
        f"| network timeout, opening | {Timeouts().network_s} s |",
    ],
)
def test_policies_are_those_of_the_code(row: str) -> None:
    assert row in _section("4.2.1")


def test_limits_of_deliveries_are_those_of_the_code() -> None:
    assert f"at most {deliver.OBJECTS_PER_ASSOCIATION_MAX} objects" in _section("4.2.2")
    assert f"after {patience.REFUSALS_MAX} refusals" in _section("4.2.2")
    assert f"after {patience.DELIVERY_AGE_MAX_DAYS} days" in _section("4.2.2")
    assert f"at most {commit.REFERENCES_MAX}\nobjects" in _section("4.2.3")
    assert f"up to {patience.REFUSALS_MAX} refusals" in _section("4.2.7")


def test_codes_and_series_are_those_of_the_code() -> None:
    for reason, (code, meaning) in rejection.TITLES.items():
        assert f'| ({code}, DCM, "{meaning}") | `{reason}`' in _section("8.3")
    assert f"Private coding scheme: {sr_header.CODING_SCHEME}," in _section("8.3")
    assert f"| KO, {rejection.SERIES_NUMBER} |" in _section("8.1")
    assert f"| OT, {secondary_capture.SERIES_NUMBER} |" in _section("8.1")
    assert "| SR, 9901 |" in _section("8.1")
