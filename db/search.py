"""Studies sorted and in pages, or all of them streamed: what lists and exports read."""

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from db.engine import Transaction
from db.queries import UPLOAD, ResultFilter, conditions, study_results
from db.tables import ACCESSION, PROBABILITY, URGENCY, URGENCY_SHOWN

STREAM_ROWS = 1000  # held in memory at once by a stream
SORTED_MAX = 5000  # so many are found and sorted; of more, a page is read in their order


class Sort(StrEnum):
    """Orders of a list; each has one direction, and ends with the study's UID.

    urgency: positive, review, what has no band to trust (failed, unfinished, withheld), negative;
    within these the most probable first. Each order has an index (`db.tables`): of many studies, a
    page is read from it. Where a filter leaves few of them, that would be to look at all others.
    """

    URGENCY = "urgency"
    RECEIVED = "received"
    OLDEST = "oldest"
    PROBABILITY = "probability"
    ACCESSION = "accession"


class BadCursor(ValueError):
    """A cursor that no page of this order has given."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some rows of `study_results`, and the cursor of the page that follows, if one does."""

    rows: Sequence[Mapping[str, Any]]
    next_cursor: str | None


@dataclass(frozen=True, kw_only=True)
class _Key:
    column: sa.ColumnElement[Any]
    kind: type  # of its values: float, str or datetime
    descending: bool


def _keys(sort: Sort, *, withhold: bool, indexed: bool) -> tuple[_Key, ...]:
    """The keys of an order, the first of them in the words of its index or in others."""
    view = study_results.c
    uid = _Key(column=view.study_instance_uid, kind=str, descending=False)
    received = _Key(column=view.received_at, kind=datetime, descending=True)
    match sort:
        case Sort.URGENCY:
            urgency = URGENCY_SHOWN if withhold else URGENCY
            return (_most(urgency, indexed=indexed), received, uid)
        case Sort.RECEIVED:
            return (received, uid)
        case Sort.OLDEST:
            return (_Key(column=view.received_at, kind=datetime, descending=False), uid)
        case Sort.PROBABILITY:
            return (_most(PROBABILITY, indexed=indexed), received, uid)
        case Sort.ACCESSION:
            words = ACCESSION if indexed else f"{ACCESSION} || ''"
            accession = sa.literal_column(f"({words})", sa.String())
            return (_Key(column=accession, kind=str, descending=False), received, uid)


def _most(number: str, *, indexed: bool) -> _Key:
    """The highest first."""
    words = f"({number})" if indexed else f"(({number}) + 0.0)"
    return _Key(column=sa.literal_column(words, sa.Float()), kind=float, descending=True)


def page(
    tx: Transaction,
    wanted: ResultFilter,
    sort: Sort,
    *,
    size: int,
    cursor: str | None = None,
    withhold: bool = False,
) -> Page:
    """One page of studies; raises BadCursor.

    The cursor holds the last row's place, so that a page costs the same wherever it is, and rows
    that arrive in between neither repeat nor hide others. withhold: outside the intended use, the
    order by urgency takes no notice of the band.
    """
    query, keys = _select(tx, wanted, sort, withhold=withhold)
    query = query.limit(size + 1)
    if cursor is not None:
        query = query.where(_after(keys, _decode(cursor, keys)))
    found = tx.conn.execute(query).mappings().all()
    rows = [_public(row) for row in found[:size]]
    more = len(found) > size
    return Page(rows=rows, next_cursor=_encode(found[size - 1], len(keys)) if more else None)


def stream(tx: Transaction, wanted: ResultFilter, sort: Sort) -> Iterator[Mapping[str, Any]]:
    """Every row that is wanted, through a server-side cursor: memory stays bounded."""
    query, _ = _select(tx, wanted, sort, withhold=False)
    result = tx.conn.execute(
        query.limit(wanted.limit), execution_options={"yield_per": STREAM_ROWS}
    )
    for row in result.mappings():
        yield _public(row)


def _select(
    tx: Transaction, wanted: ResultFilter, sort: Sort, *, withhold: bool
) -> tuple[sa.Select[Any], tuple[_Key, ...]]:
    indexed = _are_many(tx, wanted)
    keys = _keys(sort, withhold=withhold, indexed=indexed)
    order = [key.column.desc() if key.descending else key.column.asc() for key in keys]
    labelled = [key.column.label(f"key_{number}") for number, key in enumerate(keys)]
    found = conditions(wanted)
    if indexed and wanted.states and tx.conn.dialect.name == "sqlite":
        # It would rather read and sort a whole state.
        state = study_results.c.state.concat("")
        found = [*conditions(replace(wanted, states=())), state.in_(wanted.states)]
    return sa.select(study_results, *labelled).where(*found).order_by(*order), keys


def _are_many(tx: Transaction, wanted: ResultFilter) -> bool:
    """Whether a filter leaves more than SORTED_MAX studies; what never does is not counted."""
    identity = wanted.accession_number, wanted.patient_id, wanted.study_instance_uid, wanted.verdict
    if any(it is not None for it in identity) or wanted.origin == UPLOAD:
        return False
    some = sa.select(sa.literal(1)).select_from(study_results).where(*conditions(wanted))
    counted = sa.select(sa.func.count()).select_from(some.limit(SORTED_MAX + 1).subquery())
    return tx.conn.execute(counted).scalar_one() > SORTED_MAX


def _after(keys: tuple[_Key, ...], values: Sequence[Any]) -> sa.ColumnElement[bool]:
    """Rows behind a place: greater in the first key, or equal in it and greater in the next…

    That the first key is not on the other side says nothing new, but an index starts there.
    """
    first, start = keys[0].column, values[0]
    alternatives = []
    for number, key in enumerate(keys):
        column, value = key.column, values[number]
        beyond = column < value if key.descending else column > value
        equal = [keys[i].column == values[i] for i in range(number)]
        alternatives.append(sa.and_(*equal, beyond))
    return sa.and_(first <= start if keys[0].descending else first >= start, sa.or_(*alternatives))


def _public(row: sa.RowMapping) -> dict[str, Any]:
    return {column.name: row[column.name] for column in study_results.columns}


def _encode(row: sa.RowMapping, keys: int) -> str:
    values = [row[f"key_{number}"] for number in range(keys)]
    plain = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    return base64.urlsafe_b64encode(json.dumps(plain).encode()).decode().rstrip("=")


def _decode(cursor: str, keys: tuple[_Key, ...]) -> list[Any]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(values, list) or len(values) != len(keys):
            raise ValueError
        return [_value(key, value) for key, value in zip(keys, values, strict=True)]
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadCursor("this cursor belongs to no page of this order") from error


def _value(key: _Key, value: Any) -> Any:
    if key.kind is datetime:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError
        return moment
    if key.kind is float:
        if isinstance(value, bool) or not math.isfinite(value):
            raise ValueError
        return float(value)
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value
