"""results, show, failures, status over a filled database, as a person types them."""

import csv
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from rich.console import Console

from db import schema
from db.engine import Database
from tests.support import population
from worker.cli import cli, moments, output
from worker.cli.query import _STUDY_COLUMNS

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXR_HOME_DIR", str(tmp_path))
    monkeypatch.setenv("CXR_TIMEZONE", "Europe/Berlin")
    database = Database(f"sqlite:///{tmp_path / 'cxr.db'}")
    schema.upgrade(database)
    population.fill(database, 250)
    database.dispose()
    return lambda *arguments: CliRunner().invoke(cli, [str(it) for it in arguments])


def _json(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    rows: list[dict[str, object]] = json.loads(result.output)
    return rows


def test_json_is_one_array_and_csv_has_the_same_rows(run: Run) -> None:
    rows = _json(run("results", "--format", "json"))
    table = list(csv.DictReader(StringIO(run("results", "--format", "csv").output)))
    assert len(rows) == len(table) == 250
    assert [row["study_instance_uid"] for row in rows] == [it["study_instance_uid"] for it in table]
    assert _json(run("results", "--study", "9.9", "--format", "json")) == []


def test_filters_repeat_and_combine(run: Run) -> None:
    options = ["--band", "review", "--band", "positive", "--min-probability", "0.3"]
    rows = _json(run("results", *options, "--sort", "urgency", "--format", "json"))
    assert {row["band"] for row in rows} == {"review", "positive"}
    assert all(float(str(row["probability"])) >= 0.3 for row in rows)
    assert rows[0]["band"] == "positive"
    disagreed = _json(run("results", "--feedback", "disagree", "--format", "json"))
    assert 0 < len(disagreed) < 50


def test_a_table_stops_at_a_hundred_and_says_so(run: Run) -> None:
    text = run("results").output
    assert "the first 100; more with --limit" in text
    assert "nothing found" in run("results", "--accession", "none").output


def test_show_knows_a_study_by_uid_accession_number_and_image(run: Run) -> None:
    shown = {run("show", name).output for name in ("1.2.3.8", "ACC0007", "1.2.3.8.1")}
    assert len(shown) == 1
    assert "received" in shown.pop()
    unknown = run("show", "9.9")
    assert "no study and no image 9.9" in str(unknown.exception)


def test_failures_name_images_reports_and_deliveries(run: Run) -> None:
    rows = _json(run("failures", "--since", "2026-11-01", "--limit", 1000, "--format", "json"))
    assert {row["what"] for row in rows} == {"image", "report", "delivery"}
    assert all(row["reason"] for row in rows)
    assert "truncated file" in run("failures", "--since", "2026-11-01").output
    assert "nothing found" in run("failures", "--since", "2030-01-01").output


def test_a_table_fits_a_narrow_terminal(run: Run) -> None:
    rows = [
        {name: None for _, name in _STUDY_COLUMNS}
        | {
            "received_at": datetime(2026, 11, 25, 23, 30, tzinfo=UTC),
            "study_instance_uid": "1.2." + "3" * 60,
            "state": "reported",
            "band": "positive",
            "probability": 0.91234,
            "error": "a long note " * 9,
        }
    ]
    buffer = StringIO()
    table = output.make_table(rows, _STUDY_COLUMNS, "Asia/Tokyo", 100)
    Console(file=buffer, width=100).print(table)
    lines = buffer.getvalue().splitlines()
    assert len(lines) == 2
    assert max(len(line) for line in lines) <= 100
    for whole in ("2026-11-26 08:30:00", "reported", "positive", "0.912"):
        assert whole in lines[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-25", "2026-11-24T23:00:00+00:00"),
        ("2026-11-25T14:00", "2026-11-25T13:00:00+00:00"),
        ("2026-11-25T14:00Z", "2026-11-25T14:00:00+00:00"),
        ("today", "2026-11-24T23:00:00+00:00"),
        ("yesterday", "2026-11-23T23:00:00+00:00"),
        ("90m", "2026-11-25T10:30:00+00:00"),
        ("7d", "2026-11-18T12:00:00+00:00"),
    ],
)
def test_moments_are_of_the_sites_time_zone(text: str, expected: str) -> None:
    now = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
    assert moments.parse(text, "Europe/Berlin", now).isoformat() == expected


def test_a_moment_that_is_none_is_refused_with_examples(run: Run) -> None:
    for text in ("soon", "9999999d", "0001-01-01"):
        refused = run("results", "--since", text)
        assert refused.exit_code == 2, text
        assert "expected a day or time such as 2026-11-25" in refused.output


def test_the_five_questions_of_the_readme_are_each_answered_by_its_command(
    run: Run, tmp_path: Path
) -> None:
    """Of a PACS administrator: README.md, "Read the results"."""
    page = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    asked = page.split("administrator's five questions:")[1].split("and others':")[0]
    rows = [line.split("|") for line in asked.splitlines() if "`cxr-worker" in line]
    commands = [re.findall(r"`cxr-worker ([^`]+)`", row[2])[0] for row in rows]
    assert commands == ["status", "show X", "show Y", "failures", "status"]

    alive = run("status").output
    assert "broker: not reachable" in alive  # none runs here, and it says so
    assert "PACS@host:104" in alive
    database = Database(f"sqlite:///{tmp_path / 'cxr.db'}")
    with database.read() as tx:
        rejected = tx.conn.execute(
            sa.text("SELECT * FROM instance_results WHERE state = 'rejected' LIMIT 1")
        ).one()
        reported = tx.conn.execute(
            sa.text("SELECT * FROM study_results WHERE delivered_at IS NOT NULL LIMIT 1")
        ).one()
    database.dispose()
    where = run("show", reported.accession_number).output
    assert reported.study_instance_uid in where
    assert "sent" in where
    assert rejected.reason in run("show", rejected.sop_instance_uid).output
    failed = run("failures", "--since", "2026-11-01", "--format", "json")
    assert {row["what"] for row in _json(failed)} == {"image", "report", "delivery"}
    assert all(row["failed_at"] for row in _json(failed))
    assert "last 24 h" in alive


def test_two_models_are_compared_in_a_table_and_row_by_row(run: Run) -> None:
    rows = _json(run("compare", "--since", "2026-10-01", "--format", "json"))
    assert {row["challenger_version"] for row in rows} == {"2.0.0"}
    text = run("compare", "--since", "2026-10-01").output
    assert f"other 2.0.0 against test {rows[0]['champion_version']}" in text
    assert f"{len(rows)} predicted" in text
    assert "same band:" in text
    assert "20 ms in use, 30 ms" in text
    header = run("compare", "--since", "2026-10-01", "--format", "csv").output.splitlines()[0]
    assert header.startswith("created_at,study_instance_uid,sop_instance_uid,state")
    assert "nothing was compared" in run("compare", "--since", "2027-01-01").output
