"""Many studies at once, written straight into the tables: every state, band and reason."""

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from db.engine import Database
from db.tables import comparisons, feedback, instances, objects, outbox, reports, studies

START = datetime(2026, 11, 1, 8, 0, tzinfo=UTC)
REASONS = ("lateral view", "body part HAND", "modality CT")
BATCH = 5000


def fill(database: Database, count: int, *, seed: int = 0, start: datetime = START) -> None:
    """Write `count` studies of one image each, ten minutes apart; the same seed, the same rows."""
    rng = random.Random(seed)
    made = [_study(rng, number, start + timedelta(minutes=10 * number)) for number in range(count)]
    with database.begin() as tx:
        for table in (studies, instances, reports, objects, outbox, feedback, comparisons):
            rows = [rows[table.name] for rows in made if table.name in rows]
            for batch in _batches(rows):
                tx.conn.execute(sa.insert(table), batch)
            if not database.is_sqlite:  # whose ids go on by themselves
                sequence = f"pg_get_serial_sequence('{table.name}', 'id')"
                highest = f"(SELECT max(id) FROM {table.name})"
                tx.conn.execute(sa.text(f"SELECT setval({sequence}, {highest})"))


def _batches(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for begin in range(0, len(rows), BATCH):
        yield rows[begin : begin + BATCH]


def _study(rng: random.Random, number: int, received: datetime) -> dict[str, dict[str, Any]]:
    id_ = number + 1
    probability = round(rng.betavariate(0.6, 2.5), 6)
    band = "positive" if probability > 0.6 else "review" if probability > 0.2 else "negative"
    kind = rng.choices(["reported", "rejected", "failed", "waits"], [90, 6, 2, 2])[0]
    predicted = kind == "reported"
    finished = received + timedelta(
        seconds=rng.randint(1, 9), microseconds=rng.randint(0, 999) * 1000
    )
    reported = finished + timedelta(seconds=30)
    result = {
        "probability": probability if predicted else None,
        "band": band if predicted else None,
        "model_name": "test" if predicted else None,
        "model_version": rng.choice(["1.0.0", "1.1.0"]) if predicted else None,
        "intended_use": rng.choice(["inside", "inside", "outside", "unknown"])
        if predicted
        else None,
    }
    rows: dict[str, dict[str, Any]] = {
        "studies": result
        | {
            "id": id_,
            "study_instance_uid": f"1.2.3.{id_}",
            "accession_number": f"ACC{number % 1000:04}",
            "patient_id": f"P{number % 700:04}",
            "study_date": date(2026, 11, 1),
            "age_years": 3.0,
            "state": {"waits": "analysing", "failed": "failed"}.get(kind, "reported"),
            "revision": 2,
            "reported_revision": 2,
            "image_count": 1,
            "pending_count": int(kind == "waits"),
            "analysed_count": int(predicted),
            "backlog": False,
            "is_upload": number % 50 == 49,
            "received_at": received,
            "last_arrival_at": received,
            "reported_at": None if kind == "waits" else reported,
            "delivered_at": reported + timedelta(seconds=1) if predicted else None,
            "sr_sop_instance_uid": f"2.25.{id_}" if predicted else None,
            "attempts": 0,
            "failed_at": finished if kind == "failed" else None,
            "error": {"rejected": "lateral view", "failed": "given up"}.get(kind),
        },
        "instances": result
        | {
            "id": id_,
            "study_id": id_,
            "sop_instance_uid": f"1.2.3.{id_}.1",
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1",
            "series_instance_uid": f"1.2.3.{id_}.9",
            "is_image": True,
            "calling_ae_title": "PACS",
            "spool_name": f"files/00/{id_}.dcm",
            "size_bytes": 1000,
            "state": {"reported": "predicted", "waits": "received"}.get(kind, kind),
            "reason": {"rejected": rng.choice(REASONS), "failed": "truncated file"}.get(kind),
            "backlog": False,
            "ood_score": round(rng.random(), 6) if predicted else None,
            "logit": rng.gauss(-2, 3) if predicted else None,
            "raw_probability": probability if predicted else None,
            "received_at": received,
            "prepared_at": received + timedelta(seconds=0.25) if predicted else None,
            "predicted_at": finished if predicted else None,
            "finished_at": None if kind == "waits" else finished,
            "attempts": 0,
        },
    }
    if predicted:
        rows["reports"] = {
            "id": id_,
            "study_id": id_,
            "revision": 2,
            "content_digest": "digest",
            "created_at": reported,
        }
        rows["objects"] = {
            "id": id_,
            "study_id": id_,
            "report_id": id_,
            "kind": "sr",
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34",
            "sop_instance_uid": f"2.25.{id_}",
            "series_instance_uid": f"2.25.{id_}0",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "payload": b"report",
            "created_at": reported,
        }
        sent = rng.random() < 0.9
        destination = rng.choice(["PACS@host:104", "RIS@host:104"])
        state = "sent" if sent else rng.choice(["pending", "failed"])
        rows["outbox"] = {
            "id": id_,
            "study_id": id_,
            "object_id": id_,
            "destination": destination,
            "state": state,
            "failed_at": reported + timedelta(days=1) if state == "failed" else None,
            "created_at": reported,
            "sent_at": reported + timedelta(seconds=1) if sent else None,
            "due_at": None if sent else reported + timedelta(minutes=5),
            "attempts": 1,
            "error": None if sent else "connection refused",
        }
        if rng.random() < 0.1:
            rows["feedback"] = {
                "id": id_,
                "study_id": id_,
                "verdict": rng.choice(["agree", "disagree"]),
                "comment": "seen",
                "author": "reader",
                "created_at": reported + timedelta(hours=1),
                "revision": 2,
                "probability": probability,
                "band": band,
                "model_name": "test",
                "model_version": result["model_version"],
            }
        if number % 7 == 0:
            theirs = min(max(probability + rng.gauss(0, 0.05), 0.001), 0.999)
            rows["comparisons"] = {
                "id": id_,
                "instance_id": id_,
                "created_at": finished,
                "state": "predicted",
                "champion_name": "test",
                "champion_version": result["model_version"],
                "champion_probability": probability,
                "champion_band": band,
                "champion_s": 0.02,
                "challenger_name": "other",
                "challenger_version": "2.0.0",
                "challenger_probability": theirs,
                "challenger_band": "positive" if theirs > 0.6 else "negative",
                "challenger_s": 0.03,
            }
    return rows
