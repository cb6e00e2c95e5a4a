"""The system: what waits, what failed, how long things take, whether the images are as expected."""

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from db import statistics
from worker import drift
from worker.health import assess
from worker.web import charts, render
from worker.web.context import Web, WebDep
from worker.web.render import PageVisitor

DAYS = 14
LISTED_MAX = 50
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
        "bundle": web.bundle,
    }
