"""The tables. The views that people query are in `views`; this layout is internal.

Rows that wait for a worker share four columns (`work_columns`): a row is due when `due_at`
has passed, and a claim moves `due_at` to the end of its lease, so that an expired lease and
a scheduled retry are the same thing.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect


class InstanceState(StrEnum):
    RECEIVED = "received"
    PREPARED = "prepared"
    PREDICTED = "predicted"
    REJECTED = "rejected"
    FAILED = "failed"


class StudyState(StrEnum):
    RECEIVING = "receiving"
    ANALYSING = "analysing"
    REPORTING = "reporting"
    REPORTED = "reported"
    FAILED = "failed"


class DeliveryState(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    COMMITTED = "committed"
    FAILED = "failed"


class Verdict(StrEnum):
    """What a reader says of a study's result."""

    AGREE = "agree"
    DISAGREE = "disagree"


class ObjectKind(StrEnum):
    """What an object that we made is for."""

    SR = "sr"
    SALIENCY = "saliency"
    REJECTION = "rejection"
    MESSAGE = "message"  # for a destination that takes no DICOM


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC datetime; SQLite, which has no time zones, keeps it as UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("times in the database are aware: got a naive datetime")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        aware: datetime = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        return aware.astimezone(UTC)


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts up by itself only in a column declared INTEGER.
Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Uid = sa.String(64)


def work_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("due_at", UtcDateTime),  # null: nothing to do
        sa.Column("attempts", sa.Integer, nullable=False, default=0),
        sa.Column("lease_token", sa.String(32)),  # who may complete the row
        sa.Column("error", sa.Text),  # the last one
    ]


def _of_some(name: str, *columns: str, where: str) -> sa.Index:
    """Of the rows alone of which this is true; the others cost nothing."""
    condition = sa.text(where)
    return sa.Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


def _of_ended(name: str, when: str) -> sa.Index:
    """By when they ended, for who asks what ended lately."""
    return _of_some(name, when, where=f"{when} IS NOT NULL")


# What lists of studies are sorted by, in the very words of their indexes. By urgency: positive,
# review, what has no band to trust, negative; within these the most probable first.
PROBABILITY = "COALESCE(probability, -1.0)"
URGENCY = (
    "CASE band WHEN 'positive' THEN 9.0 WHEN 'review' THEN 6.0 WHEN 'negative' THEN 0.0"
    f" ELSE 3.0 END + {PROBABILITY}"
)
# Outside the intended use, the order must not tell what is not shown.
URGENCY_SHOWN = f"CASE intended_use WHEN 'inside' THEN {URGENCY} ELSE 2.0 END"
ACCESSION = "COALESCE(accession_number, '')"


def _of_sorted(name: str, expression: str) -> sa.Index:
    """By an expression, then the newest first: a page of a list, without looking at the rest.

    With the band: rows of another one are passed by in the index.
    """
    newest_first = sa.text("received_at DESC")
    return sa.Index(name, sa.text(expression), newest_first, "study_instance_uid", "band")


def _of_failed(name: str, when: str) -> sa.Index:
    """By when they failed, in the very words of the view `failures`, which is read from it."""
    return _of_some(name, when, where="state || '' = 'failed'")


# In words that no index of states answers: SQLite would take that one.
NOT_ANALYSED = "state || '' IN ('rejected', 'failed')"

studies = sa.Table(
    "studies",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("study_instance_uid", Uid, nullable=False, unique=True),
    sa.Column("accession_number", sa.String(64)),
    sa.Column("patient_id", sa.String(64)),
    sa.Column("issuer_of_patient_id", sa.String(64)),
    sa.Column("study_date", sa.Date),
    sa.Column("age_years", sa.Float),
    sa.Column("state", sa.String(16), nullable=False),
    # Raised by every arrival and every outcome; a report belongs to one revision.
    sa.Column("revision", sa.Integer, nullable=False, default=0),
    sa.Column("reported_revision", sa.Integer, nullable=False, default=0),
    sa.Column("image_count", sa.Integer, nullable=False, default=0),
    sa.Column("pending_count", sa.Integer, nullable=False, default=0),
    sa.Column("analysed_count", sa.Integer, nullable=False, default=0),
    sa.Column("backlog", sa.Boolean, nullable=False, default=False),
    # Came through the web page, to try the model: backlog as well, so never delivered.
    sa.Column("is_upload", sa.Boolean, nullable=False, default=False),
    sa.Column("received_at", UtcDateTime, nullable=False),
    sa.Column("last_arrival_at", UtcDateTime, nullable=False),
    sa.Column("reported_at", UtcDateTime),
    sa.Column("delivered_at", UtcDateTime),
    sa.Column("failed_at", UtcDateTime),  # its report was last given up
    sa.Column("intended_use", sa.String(16)),
    sa.Column("probability", sa.Float),
    sa.Column("band", sa.String(16)),
    sa.Column("model_name", sa.String(64)),
    sa.Column("model_version", sa.String(32)),
    sa.Column("sr_sop_instance_uid", Uid),
    # Withdrawn by `retract`: what is reported later stays in the database.
    sa.Column("retracted_at", UtcDateTime),
    sa.Column("purged_at", UtcDateTime),  # since when the spool holds no pixel data of it
    *work_columns(),
    # Of those that are due at all: most studies are done, and no look for work passes by them.
    _of_some("ix_studies_backlog_due_at", "backlog", "due_at", where="due_at IS NOT NULL"),
    # Of those that retention has not been at.
    _of_some("ix_studies_last_arrival_at", "last_arrival_at", where="purged_at IS NULL"),
    sa.Index("ix_studies_state", "state"),
    _of_failed("ix_studies_failed_at", "failed_at"),
    sa.Index("ix_studies_received_at", "received_at", "band"),  # with it, days are counted
    sa.Index("ix_studies_accession_number", "accession_number"),
    sa.Index("ix_studies_patient_id", "patient_id"),
    _of_some("ix_studies_uploaded", "study_instance_uid", where="is_upload"),
    _of_sorted("ix_studies_urgency", f"({URGENCY}) DESC"),
    _of_sorted("ix_studies_urgency_shown", f"({URGENCY_SHOWN}) DESC"),
    _of_sorted("ix_studies_probability", f"({PROBABILITY}) DESC"),
    _of_sorted("ix_studies_accession", f"({ACCESSION})"),
)

instances = sa.Table(
    "instances",
    metadata,
    sa.Column("id", Id, primary_key=True),
    # Null: the data set was too broken to tell its study.
    sa.Column("study_id", Id, sa.ForeignKey("studies.id")),
    sa.Column("sop_instance_uid", Uid, nullable=False, unique=True),
    sa.Column("sop_class_uid", Uid, nullable=False),
    sa.Column("series_instance_uid", Uid),
    sa.Column("is_image", sa.Boolean, nullable=False),
    sa.Column("calling_ae_title", sa.String(16), nullable=False),
    sa.Column("spool_name", sa.String(255), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("backlog", sa.Boolean, nullable=False, default=False),
    sa.Column("view_position", sa.String(16)),
    sa.Column("intended_use", sa.String(16)),
    sa.Column("ood_score", sa.Float),
    sa.Column("logit", sa.Float),
    sa.Column("raw_probability", sa.Float),
    sa.Column("probability", sa.Float),
    sa.Column("band", sa.String(16)),
    sa.Column("model_name", sa.String(64)),
    sa.Column("model_version", sa.String(32)),
    sa.Column("saliency", sa.LargeBinary),  # where the model looked: uint8, row by row
    sa.Column("saliency_columns", sa.Integer),
    sa.Column("received_at", UtcDateTime, nullable=False),
    sa.Column("store_s", sa.Float),  # from the whole data set to this row; null: adopted
    sa.Column("prepared_at", UtcDateTime),
    sa.Column("predicted_at", UtcDateTime),
    sa.Column("finished_at", UtcDateTime),  # predicted, rejected or failed
    sa.Column("purged_at", UtcDateTime),  # since when its file holds no pixel data, or is to
    *work_columns(),
    sa.Index("ix_instances_study_id", "study_id"),
    sa.Index("ix_instances_state_backlog_due_at", "state", "backlog", "due_at"),
    sa.Index("ix_instances_spool_name", "spool_name"),
    sa.Index("ix_instances_received_at", "received_at"),
    _of_ended("ix_instances_finished_at", "finished_at"),
    _of_failed("ix_instances_failed_at", "finished_at"),
    _of_some("ix_instances_not_analysed", "received_at", where=NOT_ANALYSED),
)

# The model's pictures while they wait for it; deleted once they are predicted.
pixels = sa.Table(
    "pixels",
    metadata,
    sa.Column("instance_id", Id, sa.ForeignKey("instances.id"), primary_key=True),
    sa.Column("preprocess_version", sa.Integer, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("columns", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),  # uint8, rows x columns
)

# A second model's answers on the same pictures, beside the answers that count as they then stood.
comparisons = sa.Table(
    "comparisons",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("instance_id", Id, sa.ForeignKey("instances.id"), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("champion_name", sa.String(64), nullable=False),
    sa.Column("champion_version", sa.String(32), nullable=False),
    sa.Column("champion_probability", sa.Float),
    sa.Column("champion_band", sa.String(16)),
    sa.Column("champion_s", sa.Float, nullable=False),
    sa.Column("challenger_name", sa.String(64), nullable=False),
    sa.Column("challenger_version", sa.String(32), nullable=False),
    sa.Column("challenger_probability", sa.Float),
    sa.Column("challenger_band", sa.String(16)),
    sa.Column("challenger_s", sa.Float),
    sa.UniqueConstraint("instance_id", "challenger_name", "challenger_version"),
    sa.Index("ix_comparisons_created_at", "created_at"),
)

# Files that came under a SOP Instance UID that was taken by other pixels: kept, never analysed.
conflicts = sa.Table(
    "conflicts",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("instance_id", Id, sa.ForeignKey("instances.id"), nullable=False),
    sa.Column("calling_ae_title", sa.String(16), nullable=False),
    sa.Column("spool_name", sa.String(255), nullable=False),
    sa.Column("received_at", UtcDateTime, nullable=False),
    sa.Index("ix_conflicts_instance_id", "instance_id"),
    sa.Index("ix_conflicts_spool_name", "spool_name"),
)

RETRACTED = "retracted"  # in place of a digest: nothing that was withdrawn says it any more

reports = sa.Table(
    "reports",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("study_id", Id, sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("predecessor_uid", Uid),
    # Over everything that shows in the report: equal digests need no new report.
    sa.Column("content_digest", sa.String(64), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("study_id", "revision"),
    sa.Index("ix_reports_created_at", "created_at"),
)

# What we made, byte for byte as it is sent: built once, never changed. A message has a UID of its
# own as well, and is of no SOP class.
objects = sa.Table(
    "objects",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("study_id", Id, sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("report_id", Id, sa.ForeignKey("reports.id")),  # null: a rejection note
    sa.Column("kind", sa.String(16), nullable=False),
    # The object that this one says again in another SOP class, for who takes only that one.
    sa.Column("converted_from_id", Id, sa.ForeignKey("objects.id")),
    sa.Column("sop_class_uid", Uid, nullable=False),
    sa.Column("sop_instance_uid", Uid, nullable=False, unique=True),
    sa.Column("series_instance_uid", Uid, nullable=False),
    sa.Column("transfer_syntax_uid", Uid, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),  # a Part 10 file, or a message
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("converted_from_id", "sop_class_uid"),
    sa.Index("ix_objects_study_id", "study_id"),
    sa.Index("ix_objects_report_id", "report_id"),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("study_id", Id, sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("object_id", Id, sa.ForeignKey("objects.id"), nullable=False),
    sa.Column("destination", sa.String(255), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("sent_at", UtcDateTime),
    sa.Column("committed_at", UtcDateTime),
    sa.Column("failed_at", UtcDateTime),  # last given up
    # How often the destination said no: to the object, or to the commitment for it.
    sa.Column("refusals", sa.Integer, nullable=False, default=0),
    sa.Column("transaction_uid", Uid),  # of the last request for storage commitment
    *work_columns(),
    sa.UniqueConstraint("object_id", "destination"),
    sa.Index("ix_outbox_state_destination_due_at", "state", "destination", "due_at"),
    sa.Index("ix_outbox_state_due_at", "state", "due_at", "id"),
    # Of a study, and is there an earlier one for this destination: asked for each that is due.
    sa.Index("ix_outbox_study_id_destination", "study_id", "destination", "state", "due_at"),
    sa.Index("ix_outbox_transaction_uid", "transaction_uid"),
    _of_ended("ix_outbox_sent_at", "sent_at"),
    _of_failed("ix_outbox_failed_at", "failed_at"),
)

# Destinations that are spoken of: a row is locked while its deliveries are claimed.
destinations = sa.Table(
    "destinations",
    metadata,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("held_at", UtcDateTime),  # null: not held
    sa.Column("held_by", sa.String(16)),  # command or settings
    sa.Column("busy_until", UtcDateTime),  # a worker is at its deliveries, until then at most
)

# Who erased which study: all that `forget` leaves, and nothing of the patient.
erasures = sa.Table(
    "erasures",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("study_instance_uid", Uid, nullable=False),
    sa.Column("erased_at", UtcDateTime, nullable=False),
    sa.Column("erased_by", sa.String(128), nullable=False),
    sa.Column("instance_count", sa.Integer, nullable=False),
    sa.Column("object_count", sa.Integer, nullable=False),
    sa.Column("delivery_count", sa.Integer, nullable=False),
    sa.Column("delivered_count", sa.Integer, nullable=False),
    sa.Column("file_count", sa.Integer, nullable=False),
)

# Files of erased studies, and those that another file of the same object has replaced: to be
# removed, and not to be adopted.
erased_files = sa.Table(
    "erased_files",
    metadata,
    sa.Column("spool_name", sa.String(255), primary_key=True),
)

# What readers say of a study's result, beside the result as it stood when they said so.
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("study_id", Id, sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("comment", sa.Text),
    sa.Column("author", sa.String(128), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("probability", sa.Float),
    sa.Column("band", sa.String(16)),
    sa.Column("model_name", sa.String(64)),
    sa.Column("model_version", sa.String(32)),
    sa.Index("ix_feedback_study_id", "study_id"),
)
