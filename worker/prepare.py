"""The stage prepare: from a stored file to the model's picture."""

import sqlalchemy as sa

from db import outcomes
from db.claims import PREPARE, Claim
from db.outcomes import StoredPixels
from db.tables import InstanceState, instances
from dicom_io import eligibility, preprocess, voi
from dicom_io.eligibility import Policy
from dicom_io.errors import DicomError, NoPixels, UnsupportedPixels
from dicom_io.read import age_years, read_dataset
from worker import log
from worker.drain import dismiss, drain, is_poison, poison_reason
from worker.services import Services
from worker.settings import Settings

_log = log.get("prepare")


def prepare(services: Services, sop_instance_uid: str | None) -> int:
    """Turn due instances into the model's pictures; returns how many."""
    return drain(services, PREPARE, sop_instance_uid, 1, lambda held: _prepare(services, held[0]))


def make_policy(settings: Settings) -> Policy:
    return Policy(
        modalities=frozenset(settings.eligible_modalities),
        body_parts=frozenset(settings.eligible_body_parts),
        body_part_may_be_unknown=settings.unknown_body_part == "accept",
        view_may_be_unknown=settings.unknown_view == "accept",
        sides_px_min=settings.min_image_side_px,
    )


def _prepare(services: Services, held: Claim) -> None:
    if is_poison(held):
        dismiss(services, PREPARE, held, InstanceState.FAILED, poison_reason(held))
        return
    with services.database.read() as tx:
        query = sa.select(instances.c.spool_name, instances.c.sop_instance_uid)
        row = tx.conn.execute(query.where(instances.c.id == held.id)).one()
    try:
        ds = read_dataset(services.spool.path(row.spool_name))
        reason = eligibility.reason_to_reject(ds, make_policy(services.settings))
        picture = None if reason else preprocess.from_dataset(ds)
        age = age_years(ds)
    except (NoPixels, UnsupportedPixels) as error:
        dismiss(services, PREPARE, held, InstanceState.REJECTED, str(error))
        return
    except DicomError as error:  # broken, and no better next time
        dismiss(services, PREPARE, held, InstanceState.FAILED, str(error))
        return
    if picture is None:
        dismiss(services, PREPARE, held, InstanceState.REJECTED, reason or "")
        return
    if voi.windows(ds) > 1:
        extra = {"sop_instance_uid": row.sop_instance_uid}
        _log.info("several windows: the first is used", extra=extra)
    use = services.bundle.intended_use
    intended = eligibility.intended_use(age, use.min_age_years, use.max_age_years)
    stored = StoredPixels(
        preprocess_version=preprocess.VERSION,
        rows=picture.shape[0],
        columns=picture.shape[1],
        data=picture.tobytes(),
    )
    with services.database.begin() as tx:
        outcomes.record_prepared(tx, held, stored, intended_use=intended)
    services.notify("infer", row.sop_instance_uid)
