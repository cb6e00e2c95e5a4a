"""The system: what waits, what failed, how long things take, whether the images are as expected."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from db import comparisons, statistics
from worker import agreement, drift
from worker.health import assess
from worker.web import charts, render
from worker.web.context import Web, WebDep
from worker.web.render import PageVisitor

DAYS = 14
LISTED_MAX = 50
COMPARED_MAX = 1000  # images: the newest
APART_MAX = 10
router = APIRouter(prefix="/system")


@router.get("")
def system_page(request: Request, web: WebDep, visitor: PageVisitor) -> Response:
    return render.page(request, "system.html", visitor, **_current(web))


@router.get("/current")
def current_part(request: Request, web: WebDep, _visitor: PageVisitor) -> Response:
    return render.fragment(request, "system_current.html", **_current(web))


def _current(web: Web) -> dict[str, Any]:
    health = assess(web.settings, web.database)
    with web.database.read() as tx:
        since = tx.now - timedelta(days=DAYS)
        day = tx.now - timedelta(days=1)
        current = {
            "study_durations": statistics.study_durations(tx, day),
            "instance_durations": statistics.instance_durations(tx, day),
            "reasons": statistics.reasons(tx, since, limit=LISTED_MAX),
            "not_analysed": statistics.not_analysed(tx, since, limit=LISTED_MAX),
            "failures": statistics.find_failures(tx, since, limit=LISTED_MAX),
            "throughput": charts.throughput(statistics.studies_per_day(tx, since), since, DAYS),
        }
        compared = comparisons.newest_comparisons(tx, since, limit=COMPARED_MAX)
        expected = drift.expected(web.bundle.path / "validation.csv", web.settings.prevalence)
        counts = (
            statistics.logit_counts(tx, expected.edges, since, model_version=web.bundle.version)
            if expected
            else []
        )
    index = drift.stability_index(expected.shares, counts) if expected else None
    return current | {
        "health": health,
        "days": DAYS,
        "index": index,
        "index_reading": drift.reading(index),
        "distribution": charts.distribution(expected, counts) if expected else None,
        "image_count": sum(counts),
        "agreement": agreement.agreement(compared),
        "bands": agreement.BANDS,
        "differences": charts.differences(compared) if compared else None,
        "apart": _furthest_apart(compared),
        "bundle": web.bundle,
    }


def _furthest_apart(compared: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The images about which the models differ in band, those with the largest gap first."""
    apart = [
        row
        for row in compared
        if row["state"] == "predicted" and row["champion_band"] != row["challenger_band"]
    ]
    return sorted(apart, key=_gap, reverse=True)[:APART_MAX]


def _gap(row: Mapping[str, Any]) -> float:
    mine, theirs = row["champion_probability"], row["challenger_probability"]
    return 1.0 if mine is None or theirs is None else abs(theirs - mine)
