"""Metrics for Prometheus, all of them read from the database, whichever process did the work.

Counters are the highest row numbers, so that `forget` and retention never lower them; histograms
are counted on from when this process began (`histograms`).
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

import sqlalchemy.exc
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import start_http_server

from db import queries, statistics
from db.engine import Database, Transaction
from db.statistics import TIMED_MAX, Durations
from model.bundle import Bundle
from worker import drift, home, log
from worker.errors import WorkerError
from worker.histograms import Histograms
from worker.settings import Settings

FRESH_S = 5.0  # several scrapers cost no more than one
DAILY_FRESH_S = 60.0  # of what is said of a whole day or two weeks, and costs the most to read
DRIFT_DAYS = 14
REASONS_MAX = 100

_log = log.get("metrics")


class Collector:
    """Reads the database when it is scraped."""

    def __init__(self, settings: Settings, database: Database, bundle: Bundle) -> None:
        self._settings = settings
        self._database = database
        self._bundle = bundle
        self._expected = drift.expected(bundle.path / "validation.csv", settings.prevalence)
        self._lock = threading.Lock()
        self._read_at = self._daily_read_at = float("-inf")
        self._metrics: list[Metric] = []
        self._daily: list[Metric] = []
        self._histograms = Histograms()

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the database."""
        return []

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            if time.monotonic() - self._read_at > FRESH_S:
                self._metrics = self._read()
                self._read_at = time.monotonic()
            return self._metrics

    def _read(self) -> list[Metric]:
        up = GaugeMetricFamily("cxr_database_up", "Whether the database answers.")
        model = InfoMetricFamily("cxr_model", "The model in use.")
        model.add_metric([], {"name": self._bundle.name, "version": self._bundle.version})
        try:
            with self._database.read() as tx:
                found = [*_counts(tx), *self._read_daily(tx), *self._histograms.read(tx)]
        except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
            _log.warning("nothing read: %s", type(error).__name__)
            up.add_metric([], 0)
            return [up, model, *self._disk()]
        up.add_metric([], 1)
        return [up, model, *self._disk(), *found]

    def _read_daily(self, tx: Transaction) -> list[Metric]:
        if time.monotonic() - self._daily_read_at > DAILY_FRESH_S:
            day = tx.now - timedelta(days=1)
            self._daily = [
                *_bands(tx, day),
                *_reasons(tx, day),
                *_durations(tx, day),
                *self._drift(tx),
            ]
            self._daily_read_at = time.monotonic()
        return self._daily

    def _disk(self) -> Iterable[Metric]:
        free_bytes = home.free_bytes(self._settings.home)
        if free_bytes is None:  # the spool lies on another machine
            return
        free = GaugeMetricFamily("cxr_spool_free_bytes", "Free disk under the spool.")
        free.add_metric([], free_bytes)
        reserve = GaugeMetricFamily(
            "cxr_spool_reserve_bytes", "Free disk below which stores are refused."
        )
        reserve.add_metric([], self._settings.spool_reserve_mb * 2**20)
        yield from (free, reserve)

    def _drift(self, tx: Transaction) -> Iterable[Metric]:
        index = GaugeMetricFamily(
            "cxr_population_stability_index", "Logits of 14 days against the validation set."
        )
        if self._expected is not None:
            since, version = tx.now - timedelta(days=DRIFT_DAYS), self._bundle.version
            counts = statistics.logit_counts(tx, self._expected.edges, since, model_version=version)
            value = drift.stability_index(self._expected.shares, counts)
            if value is not None:
                index.add_metric([], value)
        yield index


def _counts(tx: Transaction) -> Iterable[Metric]:
    overview = queries.overview(tx)
    studies = GaugeMetricFamily("cxr_studies", "Studies by state.", labels=["state"])
    for state, count in overview.studies.items():
        studies.add_metric([state], count)
    instances = GaugeMetricFamily("cxr_instances", "Objects by state.", labels=["state"])
    for state, count in overview.instances.items():
        instances.add_metric([state], count)
    due = GaugeMetricFamily("cxr_queue_due", "Rows due for a stage.", labels=["stage"])
    waits = GaugeMetricFamily(
        "cxr_queue_oldest_waiting_seconds", "How long the oldest due row waits.", labels=["stage"]
    )
    for queue in overview.queues:
        since = queue.waits_since or overview.now
        due.add_metric([queue.name], queue.due)
        waits.add_metric([queue.name], max((overview.now - since).total_seconds(), 0.0))
    deliveries = GaugeMetricFamily(
        "cxr_deliveries", "Deliveries by destination and state.", labels=["destination", "state"]
    )
    for destination, states in overview.deliveries.items():
        for state, count in states.items():
            deliveries.add_metric([destination, state], count)
    yield from (studies, instances, due, waits, deliveries)
    for name, (text, highest) in statistics.highest_numbers(tx).items():
        yield CounterMetricFamily(f"cxr_{name}", text, value=highest)


def _bands(tx: Transaction, since: datetime) -> Iterable[Metric]:
    metric = GaugeMetricFamily(
        "cxr_studies_by_band", "Studies of the last 24 h by band.", labels=["band"]
    )
    for band, count in statistics.bands(tx, since).items():
        metric.add_metric([band or "none"], count)
    yield metric


def _reasons(tx: Transaction, since: datetime) -> Iterable[Metric]:
    """Numbers in a reason, such as a size, are left out: each would be a series of its own."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in statistics.reasons(tx, since, limit=REASONS_MAX):
        counts[row["state"], re.sub(r"[\d.]+", "N", row["reason"] or "none")] += row["count"]
    metric = GaugeMetricFamily(
        "cxr_not_analysed",
        "Objects of the last 24 h that were rejected or failed, by reason.",
        labels=["state", "reason"],
    )
    for (state, reason), count in counts.items():
        metric.add_metric([state, reason], count)
    yield metric


def _durations(tx: Transaction, since: datetime) -> Iterable[Metric]:
    for name, text, durations in (
        ("study", "a study's steps", statistics.study_durations(tx, since)),
        ("instance", "an image's stages", statistics.instance_durations(tx, since)),
    ):
        metric = GaugeMetricFamily(
            f"cxr_{name}_duration_seconds",
            f"Percentiles of {text}, of the newest {TIMED_MAX} that came in the last 24 h.",
            labels=["step", "quantile"],
        )
        for step, measured in durations.items():
            _add_quantiles(metric, step.removesuffix("_s"), measured)
        yield metric


def _add_quantiles(metric: GaugeMetricFamily, step: str, measured: Durations) -> None:
    for quantile, value in (("0.5", measured.median_s), ("0.95", measured.p95_s)):
        if value is not None:
            metric.add_metric([step, quantile], value)


def serve(settings: Settings, database: Database, bundle: Bundle) -> None:
    """Serve metrics from a thread of this process, where a port is set for them."""
    if settings.metrics_port is None:
        return
    registry = CollectorRegistry()
    registry.register(Collector(settings, database, bundle))
    try:
        server, _ = start_http_server(
            settings.metrics_port, addr=settings.web_bind, registry=registry
        )
    except OSError as error:
        raise WorkerError(
            f"cannot serve metrics on {settings.web_bind}:{settings.metrics_port}: "
            f"{error.strerror}; set CXR_METRICS_PORT to a free port"
        ) from error
    home.publish_port(settings.home, server.server_port, "metrics")
    _log.info("metrics on http://%s:%s/metrics", settings.web_bind, server.server_port)
