"""Rows for tests, made by the same calls that the listener and the workers make."""

from dataclasses import replace
from typing import Any

from db import arrivals, outcomes, reports
from db.arrivals import Arrival, ArrivalOutcome, StudyHeader
from db.claims import INFER, PREPARE, REPORT, Claim, claim
from db.engine import Database
from db.reports import BuiltObject, BuiltReport, StudyResult
from db.tables import ObjectKind

STUDY = "1.2.3"
PICTURE = outcomes.StoredPixels(preprocess_version=1, rows=2, columns=2, data=b"\0\1\2\3")
PREDICTION = outcomes.Prediction(
    logit=1.0,
    raw_probability=0.7,
    probability=0.4,
    band="review",
    ood_score=0.5,
    outside_intended_use=False,
    model_name="test",
    model_version="1.0.0",
)
RESULT = StudyResult(
    intended_use="inside",
    probability=0.4,
    band="review",
    model_name="test",
    model_version="1.0.0",
    note=None,
)


def arrival(uid: str, study: str | StudyHeader = STUDY, **changes: Any) -> Arrival:
    if isinstance(study, str):
        study = StudyHeader(study_instance_uid=study, patient_id="P1", accession_number="A1")
    values: dict[str, Any] = {
        "study": study,
        "sop_instance_uid": uid,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1",
        "series_instance_uid": "1.2.3.4",
        "calling_ae_title": "TEST",
        "spool_name": f"files/{uid}.dcm",
        "size_bytes": 100,
        "is_image": True,
    }
    return Arrival(**(values | changes))


def arrive(
    database: Database,
    uid: str,
    study: str | StudyHeader = STUDY,
    *,
    settle_s: float = 0.0,
    **changes: Any,
) -> ArrivalOutcome:
    with database.begin() as tx:
        return arrivals.record_arrival(
            tx, arrival(uid, study, **changes), settle_s=settle_s, max_age_days=7
        )


def prepare(database: Database, uid: str) -> None:
    with database.begin() as tx:
        (held,) = claim(tx, PREPARE, limit=1, lease_s=60, first=uid)
        outcomes.record_prepared(tx, held, PICTURE, intended_use="inside")


def predict(database: Database, uid: str, **changes: Any) -> None:
    with database.begin() as tx:
        (held,) = claim(tx, INFER, limit=1, lease_s=60, first=uid)
        outcomes.record_prediction(tx, held, replace(PREDICTION, **changes))


def analyse(database: Database, uid: str, study: str = STUDY) -> None:
    """An image comes, is prepared and predicted."""
    arrive(database, uid, study)
    prepare(database, uid)
    predict(database, uid)


def claim_report(database: Database, study: str = STUDY) -> tuple[Claim, int]:
    with database.begin() as tx:
        (held,) = claim(tx, REPORT, limit=1, lease_s=60, first=study)
        return held, reports.snapshot(tx, held.id).revision


def built_report(uid: str, *destinations: str, **changes: Any) -> BuiltReport:
    values: dict[str, Any] = {
        "kind": ObjectKind.SR,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34",
        "sop_instance_uid": uid,
        "series_instance_uid": "2.25.1",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "payload": b"report " + uid.encode(),
        "destinations": destinations,
    }
    return BuiltReport(
        predecessor_uid=None, content_digest="digest", objects=(BuiltObject(**(values | changes)),)
    )


def report(
    database: Database, uid: str, *destinations: str, study: str = STUDY, **changes: Any
) -> None:
    held, revision = claim_report(database, study)
    with database.begin() as tx:
        built = built_report(uid, *destinations, **changes)
        reports.record_report(tx, held, revision, RESULT, built)
