"""Whether all is well: what `status` shows and, later, what a probe asks."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import sqlalchemy.exc
from kombu.exceptions import OperationalError
from redis import RedisError

from db import queries, schema, statistics
from db.engine import Database, Transaction
from db.errors import SchemaMismatch
from model.bundle import read_bundle, shipped_bundle_path
from model.errors import ModelError
from worker import home
from worker.celery_app import make_app
from worker.reconcile import queue_lengths
from worker.settings import Settings

FAILURES_MAX = 10_000  # counted
WAITING_MAX_S = 300.0  # due work that nobody has taken for so long means a worker is missing


@dataclass(kw_only=True)
class Health:
    problems: list[str] = field(default_factory=list)
    model: dict[str, str] | None = None
    messages: dict[str, int] = field(default_factory=dict)
    queues: list[dict[str, Any]] = field(default_factory=list)
    studies: dict[str, int] = field(default_factory=dict)
    instances: dict[str, int] = field(default_factory=dict)
    destinations: dict[str, dict[str, int]] = field(default_factory=dict)
    last_24_h: dict[str, Any] = field(default_factory=dict)
    spool: dict[str, Any] = field(default_factory=dict)  # empty where it lies on another machine

    @property
    def healthy(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        return {"healthy": self.healthy, **vars(self)}


def assess(settings: Settings, database: Database | None = None) -> Health:
    """Look at model, broker and database; every problem found is named.

    database: of who asks again and again; otherwise one is opened, and closed.
    """
    health = Health()
    _assess_model(settings, health)
    _assess_broker(settings, health)
    _assess_spool(settings, health)
    if database is not None:
        _assess_database(settings, health, database)
        return health
    try:
        opened = Database(settings.database)
    except OSError as error:
        health.problems.append(f"database: not reachable ({type(error).__name__})")
        return health
    _assess_database(settings, health, opened)
    opened.dispose()
    return health


def _assess_model(settings: Settings, health: Health) -> None:
    try:
        bundle = read_bundle(settings.model_bundle or shipped_bundle_path())
    except ModelError as error:
        health.problems.append(f"model: {error}")
    else:
        health.model = {"name": bundle.name, "version": bundle.version}


def _assess_broker(settings: Settings, health: Health) -> None:
    try:
        health.messages = queue_lengths(make_app(settings.broker, publish_only=True))
    except (RedisError, OperationalError, OSError) as error:
        health.problems.append(f"broker: not reachable ({type(error).__name__})")


def _assess_spool(settings: Settings, health: Health) -> None:
    free_bytes = home.free_bytes(settings.home)
    if free_bytes is None:
        return
    health.spool = {
        "free_mb": free_bytes >> 20,
        "reserve_mb": settings.spool_reserve_mb,
        "retention_days": settings.retention_days,
        "retention_disk_percent": settings.retention_disk_percent,
    }
    if health.spool["free_mb"] <= settings.spool_reserve_mb:
        health.problems.append(
            f"disk: {health.spool['free_mb']} MB free, stores are refused below "
            f"{settings.spool_reserve_mb} MB"
        )


def _assess_database(settings: Settings, health: Health, database: Database) -> None:
    try:
        schema.require_current(database)
        with database.read() as tx:
            overview = queries.overview(tx)
            health.last_24_h = _last_24_h(tx)
    except SchemaMismatch as error:
        health.problems.append(f"database: {error}")
        return
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        health.problems.append(f"database: not reachable ({type(error).__name__})")
        return
    health.studies = dict(overview.studies)
    health.instances = dict(overview.instances)
    health.destinations = {recipient.name: {} for recipient in settings.recipients}
    health.destinations |= {name: dict(counts) for name, counts in overview.deliveries.items()}
    for queue in overview.queues:
        waited_s = (
            None
            if queue.waits_since is None
            else max((overview.now - queue.waits_since).total_seconds(), 0.0)
        )
        health.queues.append({"name": queue.name, "due": queue.due, "oldest_waiting_s": waited_s})
        if waited_s is not None and waited_s > WAITING_MAX_S:
            health.problems.append(f"{queue.name}: due work has waited for {waited_s:.0f} s")
    for name, counts in health.destinations.items():
        if failed := counts.get("failed"):
            health.problems.append(f"destination {name}: {failed} deliveries given up")


def _last_24_h(tx: Transaction) -> dict[str, Any]:
    since = tx.now - timedelta(days=1)
    total = statistics.total_duration(tx, since)
    failures = statistics.find_failures(tx, since, limit=FAILURES_MAX)
    return {
        "studies": total.count,
        "median_s": total.median_s,
        "p95_s": total.p95_s,
        "failures": len(failures),
    }
