"""What the prepare and infer stages write: the outcome of one instance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from db.claims import INFER, PREPARE, Claim, Stage, complete
from db.engine import Transaction
from db.errors import LeaseLost
from db.tables import InstanceState, StudyState, instances, pixels, studies

Outcome = dict[str, Any]  # of an instance: column to value


@dataclass(frozen=True, kw_only=True)
class StoredPixels:
    """The model's picture of an instance: uint8, rows x columns, C order."""

    preprocess_version: int
    rows: int
    columns: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class StoredSaliency:
    """Where the model looked in an instance: uint8, 255 the most, row by row, any small grid."""

    columns: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model said of one instance, ready for the database."""

    logit: float
    raw_probability: float
    probability: float
    band: str
    ood_score: float
    outside_intended_use: bool  # whatever the header says
    model_name: str
    model_version: str
    saliency: StoredSaliency | None = None


@dataclass(frozen=True, kw_only=True)
class StudyProgress:
    """A study after one of its instances has come to its end."""

    study_instance_uid: str
    pending_count: int


def record_prepared(
    tx: Transaction, held: Claim, picture: StoredPixels, *, intended_use: str
) -> None:
    """Store the model's picture and pass the instance on to inference; raises LeaseLost."""
    outcome = {
        "state": InstanceState.PREPARED,
        "intended_use": intended_use,
        "prepared_at": tx.now,
        "due_at": tx.now,
        "attempts": 0,
    }
    complete(tx, PREPARE, held, outcome)
    tx.conn.execute(sa.delete(pixels).where(pixels.c.instance_id == held.id))
    tx.conn.execute(
        sa.insert(pixels).values(
            instance_id=held.id,
            preprocess_version=picture.preprocess_version,
            rows=picture.rows,
            columns=picture.columns,
            data=picture.data,
        )
    )


def prepare_again(tx: Transaction, held: Claim) -> None:
    """Send an instance back whose picture is missing or of another version; raises LeaseLost."""
    complete(tx, INFER, held, {"state": InstanceState.RECEIVED, "due_at": tx.now, "attempts": 0})


def record_prediction(tx: Transaction, held: Claim, prediction: Prediction) -> StudyProgress | None:
    """Write a prediction and raise the study's revision; raises LeaseLost."""
    return _finish(tx, INFER, held, prediction_outcome(tx, prediction))


def prediction_outcome(tx: Transaction, prediction: Prediction) -> Outcome:
    outcome = {
        "state": InstanceState.PREDICTED,
        "reason": None,
        "logit": prediction.logit,
        "raw_probability": prediction.raw_probability,
        "probability": prediction.probability,
        "band": prediction.band,
        "ood_score": prediction.ood_score,
        "model_name": prediction.model_name,
        "model_version": prediction.model_version,
        **_saliency(prediction.saliency),
        "predicted_at": tx.now,
    }
    if prediction.outside_intended_use:
        outcome["intended_use"] = "outside"
    return outcome


def record_dismissal(
    tx: Transaction, stage: Stage, held: Claim, state: InstanceState, reason: str
) -> StudyProgress | None:
    """Write that an instance is rejected or failed, and why; raises LeaseLost."""
    return _finish(tx, stage, held, dismissal_outcome(state, reason))


def dismissal_outcome(
    state: InstanceState, reason: str, *, ood_score: float | None = None
) -> Outcome:
    return {
        "state": state,
        "reason": reason,
        "logit": None,
        "raw_probability": None,
        "probability": None,
        "band": None,
        "ood_score": ood_score,
        **_saliency(None),
    }


def stored_pixels(tx: Transaction, instance_ids: list[int]) -> dict[int, StoredPixels]:
    rows = tx.conn.execute(sa.select(pixels).where(pixels.c.instance_id.in_(instance_ids)))
    return {
        row.instance_id: StoredPixels(
            preprocess_version=row.preprocess_version,
            rows=row.rows,
            columns=row.columns,
            data=row.data,
        )
        for row in rows
    }


def _saliency(stored: StoredSaliency | None) -> dict[str, Any]:
    if stored is None:
        return {"saliency": None, "saliency_columns": None}
    return {"saliency": stored.data, "saliency_columns": stored.columns}


def record_outcomes(
    tx: Transaction, stage: Stage, ended: Sequence[tuple[Claim, Outcome]]
) -> tuple[list[StudyProgress], list[Claim]]:
    """Write the outcomes of a batch in one transaction; returns their studies, and whose lease
    was lost: those rows belong to somebody else by now and are left alone.
    """
    lost = []
    analysed: dict[int, bool] = {}
    # All instances before any study, both in the order of their keys, as everybody locks them.
    for held, outcome in sorted(ended, key=lambda pair: pair[0].id):
        try:
            complete(tx, stage, held, outcome | {"finished_at": tx.now})
        except LeaseLost:
            lost.append(held)
        else:
            analysed[held.id] = outcome["state"] == InstanceState.PREDICTED
    tx.conn.execute(sa.delete(pixels).where(pixels.c.instance_id.in_(list(analysed))))
    query = sa.select(instances.c.study_id, instances.c.id).where(
        instances.c.id.in_(list(analysed)), instances.c.study_id.is_not(None)
    )
    by_study: dict[int, list[bool]] = {}
    for study_id, instance_id in tx.conn.execute(query.order_by(instances.c.study_id)):
        by_study.setdefault(study_id, []).append(analysed[instance_id])
    progress = []
    for study_id, outcomes in by_study.items():
        counts = {"the_study": study_id, "ended": len(outcomes), "analysed": sum(outcomes)}
        row = tx.conn.execute(_RAISE_REVISION, counts).one()
        progress.append(StudyProgress(study_instance_uid=row[0], pending_count=row[1]))
    return progress, lost


_ENDED = sa.bindparam("ended", type_=sa.Integer)
_RAISE_REVISION = (
    sa.update(studies)
    .where(studies.c.id == sa.bindparam("the_study"))
    .values(
        state=sa.case(
            (studies.c.pending_count > _ENDED, StudyState.ANALYSING.value),
            else_=StudyState.REPORTING.value,
        ),
        revision=studies.c.revision + _ENDED,
        attempts=0,
        pending_count=studies.c.pending_count - _ENDED,
        analysed_count=studies.c.analysed_count + sa.bindparam("analysed", type_=sa.Integer),
    )
    .returning(studies.c.study_instance_uid, studies.c.pending_count)
)


def _finish(tx: Transaction, stage: Stage, held: Claim, outcome: Outcome) -> StudyProgress | None:
    progress, lost = record_outcomes(tx, stage, [(held, outcome)])
    if lost:
        raise LeaseLost(f"{stage.name}: the lease on row {held.id} is over")
    return progress[0] if progress else None
