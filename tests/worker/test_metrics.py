"""Metrics over a real database, and the dashboard that shows them."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import urlopen

import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from db import schema
from db.engine import Database
from db.tables import InstanceState, instances
from model.bundle import SHIPPED, read_bundle, shipped_bundle_path
from tests.support import population, rows
from worker import home, metrics
from worker.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy/grafana/dashboard.json"
METRICS_PAGE = ROOT / "docs/WEB.md"


def _scrape(database: Database, folder: Path) -> dict[str, dict[tuple[str, ...], float]]:
    settings = Settings.model_validate({"home_dir": folder, "metrics_port": 0})
    metrics.serve(settings, database, read_bundle(shipped_bundle_path()))
    port = home.published_port(folder, "metrics")
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples: dict[str, dict[tuple[str, ...], float]] = {}
        for family in families:
            for sample in family.samples:
                labels = tuple(sample.labels.values())
                samples.setdefault(sample.name, {})[labels] = sample.value
    return samples


def test_metrics_say_what_the_database_holds(database: Database, tmp_path: Path) -> None:
    population.fill(database, 200)
    found = _scrape(database, tmp_path)
    assert found["cxr_database_up"] == {(): 1}
    assert found["cxr_received_total"] == {(): 200}
    assert sum(found["cxr_studies"].values()) == 200
    assert "cxr_studies_by_band" not in found  # all of them came long ago
    assert found["cxr_queue_due"].keys() >= {("prepare",), ("infer",), ("report",), ("deliver",)}
    assert {destination for destination, _ in found["cxr_deliveries"]} == {
        "PACS@host:104",
        "RIS@host:104",
    }
    assert tuple(SHIPPED.rsplit("-", 1)) in found["cxr_model_info"]


def test_bands_are_those_of_the_last_day(database: Database, tmp_path: Path) -> None:
    population.fill(database, 288, start=datetime.now(UTC) - timedelta(hours=47.95))
    found = _scrape(database, tmp_path)
    assert sum(found["cxr_studies"].values()) == 288
    assert sum(found["cxr_studies_by_band"].values()) == 144


def test_histograms_are_there_before_anything_has_ended(database: Database, tmp_path: Path) -> None:
    found = _scrape(database, tmp_path)
    assert found["cxr_turnaround_seconds_bucket"][("+Inf",)] == 0
    stages = {stage for _, stage in found["cxr_stage_seconds_bucket"]}
    assert stages == {"store", "prepare", "infer", "report", "deliver"}
    assert set(found["cxr_stage_seconds_count"].values()) == {0}


def test_what_was_not_analysed_is_counted_by_its_reason(database: Database, tmp_path: Path) -> None:
    for number in range(3):
        changes = {"state": InstanceState.REJECTED, "reason": f"too small ({number + 1}x1)"}
        rows.arrive(database, f"1.2.3.{number}", **changes)
    rows.arrive(database, "1.2.3.9", state=InstanceState.REJECTED, reason="lateral view")
    (tmp_path / "spool").mkdir()
    found = _scrape(database, tmp_path)
    assert found["cxr_not_analysed"] == {
        ("too small (NxN)", "rejected"): 3,
        ("lateral view", "rejected"): 1,
    }
    assert found["cxr_spool_free_bytes"][()] > 0
    assert found["cxr_spool_reserve_bytes"] == {(): 1024 * 2**20}


def test_a_database_that_is_down_is_a_metric(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'empty.db'}")  # without any table
    assert _scrape(database, tmp_path)["cxr_database_up"] == {(): 0}


def test_the_dashboard_shows_only_metrics_that_exist(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'cxr.db'}")
    schema.upgrade(database)
    population.fill(database, 140, start=datetime.now(UTC) - timedelta(hours=23.5))
    with database.begin() as tx:  # of the model in use
        tx.conn.execute(sa.update(instances).values(model_version=SHIPPED.rsplit("-", 1)[1]))
    exists = _scrape(database, tmp_path).keys()
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"\bcxr_\w+", target["expr"])
    }
    assert len(panels) >= 10
    assert shown - exists == set()


def test_the_documents_list_every_metric(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'cxr.db'}")
    schema.upgrade(database)
    home.spool_folder(tmp_path).mkdir()
    settings = Settings.model_validate({"home_dir": tmp_path})
    collector = metrics.Collector(settings, database, read_bundle(shipped_bundle_path()))
    suffixes = {"counter": "_total", "info": "_info"}
    exist = {it.name + suffixes.get(it.type, "") for it in collector.collect()}
    database.dispose()
    rows = re.findall(r"^\| (`cxr_.*?) \|", METRICS_PAGE.read_text(), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == exist
