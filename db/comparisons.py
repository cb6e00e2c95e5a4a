"""What a challenger said of the images that the champion, whose results count, analysed too."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from db.engine import Transaction
from db.queries import model_comparisons
from db.tables import comparisons, instances


class ComparisonState(StrEnum):
    PREDICTED = "predicted"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on one picture. seconds: what the picture cost each in computing.

    A band is None where that model finds the picture too unlike its training images.
    """

    instance_id: int
    state: ComparisonState
    reason: str | None = None
    champion_name: str
    champion_version: str
    champion_probability: float | None
    champion_band: str | None
    champion_s: float
    challenger_name: str
    challenger_version: str
    challenger_probability: float | None = None
    challenger_band: str | None = None
    challenger_s: float | None = None


def record_comparisons(tx: Transaction, made: Sequence[Comparison]) -> None:
    """Keep the newest comparison of each image and challenger; images erased since are left out."""
    ids = [it.instance_id for it in made]
    # In the order of their keys, as everybody locks them: an image is not erased in between.
    there = sa.select(instances.c.id).where(instances.c.id.in_(ids)).order_by(instances.c.id)
    known = set(tx.conn.execute(there.with_for_update()).scalars())
    for it in made:
        if it.instance_id not in known:
            continue
        tx.conn.execute(
            sa.delete(comparisons).where(
                comparisons.c.instance_id == it.instance_id,
                comparisons.c.challenger_name == it.challenger_name,
                comparisons.c.challenger_version == it.challenger_version,
            )
        )
        tx.conn.execute(sa.insert(comparisons).values(**asdict(it), created_at=tx.now))


def newest_comparisons(tx: Transaction, since: datetime, *, limit: int) -> list[Mapping[str, Any]]:
    """Rows of `model_comparisons` of the newest two models side by side, the newest first."""
    view = model_comparisons.c
    newest = (
        sa.select(
            comparisons.c.challenger_name,
            comparisons.c.challenger_version,
            comparisons.c.champion_name,
            comparisons.c.champion_version,
        )
        .order_by(comparisons.c.id.desc())
        .limit(1)
    )
    found = tx.conn.execute(newest).one_or_none()
    if found is None:
        return []
    query = (
        sa.select(model_comparisons)
        .where(
            view.challenger_name == found.challenger_name,
            view.challenger_version == found.challenger_version,
            view.champion_name == found.champion_name,
            view.champion_version == found.champion_version,
            view.created_at >= since,
        )
        .order_by(view.created_at.desc())
        .limit(limit)
    )
    return [dict(row) for row in tx.conn.execute(query).mappings()]
