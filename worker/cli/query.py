"""Commands that ask the database: results, show, status."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from db import queries, schema
from db.engine import Database
from worker.errors import WorkerError
from worker.settings import Settings

TABLE_ROWS_MAX = 100
_COLUMNS = (
    ("received", "received_at"),
    ("accession", "accession_number"),
    ("study", "study_instance_uid"),
    ("state", "state"),
    ("probability", "probability"),
    ("band", "band"),
    ("images", "image_count"),
    ("note", "error"),
)


def open_database() -> tuple[Settings, Database]:
    """The database of the settings; WorkerError or SchemaMismatch if it is not there."""
    settings = Settings.from_env()
    if settings.database.startswith("sqlite"):
        path = settings.database.removeprefix("sqlite:///")
        if not Path(path).exists():
            raise WorkerError(
                f"no database at {path}: start `cxr-worker up` first, or set CXR_HOME_DIR"
            )
    database = Database(settings.database)
    schema.require_current(database)
    return settings, database


@click.command()
@click.option("--since", type=click.DateTime(), help="Received at or after (UTC).")
@click.option("--band", type=click.Choice(["negative", "review", "positive"]))
@click.option(
    "--state",
    type=click.Choice(["receiving", "analysing", "reporting", "reported", "failed"]),
)
@click.option("--accession", help="Accession number.")
@click.option("--study", help="Study Instance UID.")
@click.option("--limit", type=click.IntRange(1), help="At most so many; a table stops at 100.")
@click.option("--format", "fmt", type=click.Choice(["table", "json", "csv"]), default="table")
def results(
    since: datetime | None,
    band: str | None,
    state: str | None,
    accession: str | None,
    study: str | None,
    limit: int | None,
    fmt: str,
) -> None:
    """Query results: one row per study, the newest first."""
    _, database = open_database()
    if limit is None and fmt == "table":
        limit = TABLE_ROWS_MAX
    wanted = queries.ResultFilter(
        since=since.replace(tzinfo=UTC) if since else None,
        band=band,
        state=state,
        accession_number=accession,
        study_instance_uid=study,
        limit=limit,
    )
    with database.read() as tx:
        rows = queries.find_study_results(tx, wanted)
    if fmt == "json":
        click.echo(json.dumps([_plain(row) for row in rows], indent=2))
    elif fmt == "csv":
        names = [column.name for column in queries.study_results.columns]
        writer = csv.DictWriter(sys.stdout, names)
        writer.writeheader()
        writer.writerows(_plain(row) for row in rows)
    else:
        _print_table(rows, _COLUMNS)
        if len(rows) == limit:
            click.echo(f"the newest {limit}; more with --limit, all with --format json or csv")


@click.command()
@click.argument("study")
def show(study: str) -> None:
    """Show one study's timeline, from its first byte to its delivery. STUDY is its UID."""
    _, database = open_database()
    with database.read() as tx:
        found = queries.find_study_results(tx, queries.ResultFilter(study_instance_uid=study))
        images = queries.find_instance_results(tx, study)
        events = queries.timeline(tx, study)
    if not found:
        raise WorkerError(f"no study {study} in the database")
    _print_table(found, _COLUMNS)
    if found[0]["retracted_at"] is not None:
        click.echo(f"retracted at {_text(found[0]['retracted_at'])}: no report of it is delivered")
    _print_table(
        images,
        (
            ("instance", "sop_instance_uid"),
            ("state", "state"),
            ("reason", "reason"),
            ("probability", "probability"),
            ("band", "band"),
        ),
    )
    start = events[0].at
    console = _console()
    for event in events:
        after = f"+{(event.at - start).total_seconds():.3f} s"
        uid, detail = event.sop_instance_uid or "", event.detail or ""
        console.print(f"{_text(event.at)} {after:>12}  {event.what:<10} {uid}  {detail}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> None:
    """Show whether all is well: queues, states, destinations, model. Exit 1 when it is not."""
    from worker.health import assess

    settings = Settings.from_env()
    health = assess(settings)
    if as_json:
        click.echo(json.dumps(health.as_dict(), indent=2))
    else:
        _print_status(health.as_dict())
    sys.exit(0 if health.healthy else 1)


def _print_status(health: Mapping[str, Any]) -> None:
    console = _console()
    console.print("healthy" if health["healthy"] else "NOT healthy", style="bold")
    for problem in health["problems"]:
        console.print(f"  {problem}", style="red")
    model = health["model"]
    console.print(f"model: {model['name']} {model['version']}" if model else "model: none")
    for queue in health["queues"]:
        waits = queue["oldest_waiting_s"]
        oldest = "" if waits is None else f", the oldest for {waits:.1f} s"
        console.print(f"{queue['name']}: {queue['due']} due{oldest}")
    for name in ("studies", "instances"):
        counts = ", ".join(f"{count} {state}" for state, count in health[name].items() if count)
        console.print(f"{name}: {counts or 'none'}")
    for destination, counts in health["destinations"].items():
        shown = ", ".join(f"{count} {state}" for state, count in counts.items())
        console.print(f"destination {destination}: {shown or 'nothing sent yet'}")


def _print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for title, _ in columns:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(_text(row[name]) for _, name in columns))
    _console().print(table)


def _console() -> Console:
    # A pipe has no width of its own: lines are not to be broken for the next program.
    width = None if sys.stdout.isatty() else 400
    return Console(width=width, highlight=False, soft_wrap=not sys.stdout.isatty())


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return str(value)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, date) else value for name, value in row.items()
    }
