"""How long the server takes for a page, with many studies in the database."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from fastapi.testclient import TestClient

from db import schema
from db.engine import Database
from tests.bench.harness import Failed, Plan, Row, compare
from tests.support import population
from worker.services import make_services
from worker.settings import Settings
from worker.web.app import make_app

UNIT = "ms"
STUDIES, STUDIES_QUICK = 100_000, 2000
ROUNDS = 7
PAGES = {
    "worklist, 7 days": "/",
    "worklist, all": "/?days=all",
    "worklist, all, newest first": "/?days=all&sort=received",
    "worklist, 1 day, positive": "/?days=1&band=positive",
    "worklist, all, negative": "/?days=all&band=negative",
    "worklist, all, failed": "/?days=all&state=failed",
    "worklist, all, uploads": "/?days=all&origin=upload",
    "worklist, all, disagreed": "/?days=all&feedback=disagree",
    "study": "/studies/{study}",
    "system": "/system",
}


def run(plan: Plan) -> list[Row]:
    count = STUDIES_QUICK if plan.quick else STUDIES
    plan.note(f"pages: writing {count} studies")
    home = plan.folder / "pages"
    database = Database(f"sqlite:///{home / 'cxr.db'}")
    schema.upgrade(database)
    population.fill(database, count, start=datetime.now(UTC) - timedelta(minutes=10 * count))
    database.dispose()
    settings = Settings.model_validate({"home_dir": home, "broker_url": "redis://127.0.0.1:1"})
    client = client_of(settings)
    plan = plan if plan.quick else replace(plan, rounds=max(ROUNDS, plan.rounds))
    found = []
    for name, path in pages_with("1.2.3.5").items():
        _time_ms(client, path)  # templates are compiled once
        found += compare(f"page: {name}", UNIT, partial(_time_ms, client, path), {}, plan)
    return found


def client_of(settings: Settings) -> TestClient:
    return TestClient(make_app(make_services(settings)), base_url="http://localhost")


def pages_with(study_instance_uid: str) -> dict[str, str]:
    """The path of each page, that of a study among them."""
    return {name: path.format(study=study_instance_uid) for name, path in PAGES.items()}


def fetch(client: TestClient, path: str) -> None:
    answer = client.get(path)
    if answer.status_code != 200:
        raise Failed(f"{path} answered {answer.status_code}")


def _time_ms(client: TestClient, path: str) -> float:
    started = time.perf_counter()
    fetch(client, path)
    return (time.perf_counter() - started) * 1000
