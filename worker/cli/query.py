"""Commands that ask the database: results, show, failures, status."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import sqlalchemy as sa

from db import comparisons, queries, schema, search, statistics
from db.engine import Database
from db.search import Sort
from worker import agreement, audit, audit_message
from worker.cli import moments, output
from worker.errors import WorkerError
from worker.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

TABLE_ROWS_MAX = 100
COMPARED_MAX = 100_000
WATCH_EVERY_S = 2.0
_STUDY_COLUMNS = (
    ("received", "received_at"),
    ("accession", "accession_number"),
    ("study", "study_instance_uid"),
    ("state", "state"),
    ("probability", "probability"),
    ("band", "band"),
    ("images", "image_count"),
    ("note", "error"),
)
_INSTANCE_COLUMNS = (
    ("instance", "sop_instance_uid"),
    ("state", "state"),
    ("reason", "reason"),
    ("probability", "probability"),
    ("band", "band"),
)
_FEEDBACK_COLUMNS = (
    ("said", "created_at"),
    ("by", "author"),
    ("verdict", "verdict"),
    ("band", "band"),
    ("comment", "comment"),
)
_FAILURE_COLUMNS = (
    ("failed", "failed_at"),
    ("what", "what"),
    ("reason", "reason"),
    ("destination", "destination"),
    ("study", "study_instance_uid"),
    ("instance", "sop_instance_uid"),
)
_format = click.option(
    "--format", "fmt", type=click.Choice(["table", "json", "csv"]), default="table"
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


def _written(rows: Iterable[output.Row], fmt: str, view: sa.TableClause) -> bool:
    """Write rows of a view for the next program; False if a person is to read them."""
    if fmt == "json":
        output.write_json(rows)
    elif fmt == "csv":
        output.write_csv(rows, [column.name for column in view.columns])
    return fmt != "table"


@click.command()
@click.option("--since", metavar="WHEN", default="30d", show_default=True)
@_format
def compare(since: str, fmt: str) -> None:
    """Compare the challenger (CXR_CHALLENGER_BUNDLE) with the model in use, image by image."""
    settings, database = open_database()
    begin = moments.parse_option(since, "--since", settings.timezone)
    assert begin is not None
    with database.read() as tx:
        rows = comparisons.newest_comparisons(tx, begin, limit=COMPARED_MAX)
    if not _written(rows, fmt, queries.model_comparisons):
        _show_agreement(rows)


def _show_agreement(rows: Sequence[Mapping[str, Any]]) -> None:
    found = agreement.agreement(rows)
    if found is None:
        click.echo("nothing was compared: see CXR_CHALLENGER_BUNDLE")
        return
    states = ", ".join(f"{count} {state}" for state, count in found.states.items())
    click.echo(f"{found.challenger} against {found.champion}, in use: {states}")
    click.echo(f"{'in use':<10}" + "".join(f"{band:>10}" for band in agreement.BANDS))
    for mine in agreement.BANDS:
        counts = (found.table[mine, theirs] for theirs in agreement.BANDS)
        click.echo(f"{mine:<10}" + "".join(f"{count:>10}" for count in counts))
    if found.same_band is not None:
        click.echo(f"same band: {found.same_band:.1%}")
    if found.mean_difference is not None and found.limits is not None:
        low, high = found.limits
        said = f"{found.mean_difference:+.3f}, 95 % from {low:+.3f} to {high:+.3f}"
        click.echo(f"difference of probability: {said}")
    if found.champion_s is not None and found.challenger_s is not None:
        both = f"{found.champion_s * 1000:.0f} ms in use, {found.challenger_s * 1000:.0f} ms"
        click.echo(f"computing per image: {both}")


@click.command()
@click.option("--since", metavar="WHEN", help="Received at or after: 2026-11-25, today, 8h, 7d.")
@click.option("--until", metavar="WHEN", help="Received before.")
@click.option(
    "--band", "bands", multiple=True, type=click.Choice(["negative", "review", "positive"])
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(["receiving", "analysing", "reporting", "reported", "failed"]),
)
@click.option("--accession", help="Accession number.")
@click.option("--patient", help="Patient ID.")
@click.option("--study", help="Study Instance UID.")
@click.option("--model-version", help="Version of the model that the result comes from.")
@click.option("--intended-use", type=click.Choice(["inside", "outside", "unknown"]))
@click.option("--origin", type=click.Choice(["pacs", "upload"]), help="How it came.")
@click.option("--feedback", type=click.Choice(["agree", "disagree"]), help="A reader said so.")
@click.option("--min-probability", type=click.FloatRange(0, 1))
@click.option("--max-probability", type=click.FloatRange(0, 1))
@click.option(
    "--sort",
    type=click.Choice([sort.value for sort in Sort]),
    default="received",
    show_default=True,
    help="Urgency: positive, review, without a band, negative; received: the newest first.",
)
@click.option("--limit", type=click.IntRange(1), help="At most so many; a table stops at 100.")
@click.option("--watch", is_flag=True, help="Show the table anew every two seconds.")
@_format
def results(fmt: str, watch: bool, sort: str, limit: int | None, **options: Any) -> None:
    """Query results: one row per study. Repeat --band or --state for one or the other."""
    if watch and fmt != "table":
        raise click.UsageError("--watch shows a table: leave out --format")
    settings, database = open_database()
    _report_query(settings, "results", options)
    if limit is None and fmt == "table":
        limit = TABLE_ROWS_MAX
    wanted = _filter(options, settings.timezone, limit)
    if watch:
        _watch(database, wanted, Sort(sort), settings.timezone)
        return
    with database.read() as tx:
        rows = search.stream(tx, wanted, Sort(sort))
        if not _written(rows, fmt, queries.study_results):
            found = list(rows)
            output.print_table(found, _STUDY_COLUMNS, settings.timezone)
            if len(found) == limit:
                click.echo(f"the first {limit}; more with --limit, all with --format json or csv")


def _report_query(settings: Settings, what: str, options: Mapping[str, Any]) -> None:
    """Audit a query: by what it was narrowed, but not to whom."""
    criteria = ", ".join(sorted(name for name, value in options.items() if value))
    message = audit_message.queried(settings.ae_title, audit.command_user(), what, criteria)
    audit.by_command(settings, message)


def _filter(options: dict[str, Any], timezone: str, limit: int | None) -> queries.ResultFilter:
    return queries.ResultFilter(
        since=moments.parse_option(options["since"], "--since", timezone),
        until=moments.parse_option(options["until"], "--until", timezone),
        bands=options["bands"],
        states=options["states"],
        accession_number=options["accession"],
        patient_id=options["patient"],
        study_instance_uid=options["study"],
        model_version=options["model_version"],
        intended_use=options["intended_use"],
        origin=options["origin"],
        verdict=options["feedback"],
        probability_from=options["min_probability"],
        probability_to=options["max_probability"],
        limit=limit,
    )


def _watch(database: Database, wanted: queries.ResultFilter, sort: Sort, timezone: str) -> None:
    from rich.live import Live

    console = output.console()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        try:
            while True:
                with database.read() as tx:
                    rows = list(search.stream(tx, wanted, sort))
                live.update(
                    output.make_table(rows, _STUDY_COLUMNS, timezone, console.width), refresh=True
                )
                time.sleep(WATCH_EVERY_S)
        except KeyboardInterrupt:
            return


@click.command()
@click.argument("name")
def show(name: str) -> None:
    """Show one study's timeline, from its first byte to its delivery.

    NAME is its Study Instance UID, its accession number, or the SOP Instance UID of an image.
    """
    settings, database = open_database()
    console = output.console()
    with database.read() as tx:
        found = queries.find_studies_named(tx, name)
        lost = queries.find_instance(tx, name) if not found else None
        if lost is not None:  # too broken to tell its study
            output.print_table([lost], _INSTANCE_COLUMNS, settings.timezone)
            return
        if not found:
            raise WorkerError(f"no study and no image {name} in the database")
        patients = {uid: queries.patient_id_of(tx, uid) for uid in found}
        for uid in found:
            _show_study(tx, console, uid, settings.timezone)
    audit.by_command_on(settings, patients, action="R")


def _show_study(tx: Any, console: "Console", uid: str, timezone: str) -> None:
    study = queries.find_study_results(tx, queries.ResultFilter(study_instance_uid=uid))
    output.print_table(study, _STUDY_COLUMNS, timezone)
    if (retracted := study[0]["retracted_at"]) is not None:
        at = output.text(retracted, timezone)
        click.echo(f"retracted at {at}: no report of it is delivered")
    output.print_table(queries.find_instance_results(tx, uid), _INSTANCE_COLUMNS, timezone)
    if said := queries.find_feedback(tx, uid):
        output.print_table(said, _FEEDBACK_COLUMNS, timezone)
    events = queries.timeline(tx, uid)
    for event in events:
        after = f"+{(event.at - events[0].at).total_seconds():.3f} s"
        instance, detail = event.sop_instance_uid or "", event.detail or ""
        at = output.text(event.at, timezone)
        console.print(f"{at} {after:>12}  {event.what:<14} {instance}  {detail}")


@click.command()
@click.option("--since", metavar="WHEN", default="today", show_default=True)
@click.option("--limit", type=click.IntRange(1), default=TABLE_ROWS_MAX, show_default=True)
@_format
def failures(since: str, limit: int, fmt: str) -> None:
    """Show what failed: images, reports, deliveries, each with its reason."""
    settings, database = open_database()
    moment = moments.parse_option(since, "--since", settings.timezone)
    assert moment is not None  # it has a default
    _report_query(settings, "failures", {"since": since})
    with database.read() as tx:
        rows = statistics.find_failures(tx, moment, limit=limit)
    if not _written(rows, fmt, queries.failures):
        output.print_table(rows, _FAILURE_COLUMNS, settings.timezone)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> None:
    """Show whether all is well: queues, states, destinations, model. Exit 1 when it is not."""
    import json

    from worker.health import assess

    settings = Settings.from_env()
    health = assess(settings)
    if as_json:
        click.echo(json.dumps(health.as_dict(), indent=2))
    else:
        _print_status(health.as_dict())
    sys.exit(0 if health.healthy else 1)


def _print_status(health: Mapping[str, Any]) -> None:
    console = output.console()
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
    spool = health["spool"]
    if spool:
        days, percent = spool["retention_days"], spool["retention_disk_percent"]
        kept = "for ever" if days is None else f"for {days} days once delivered"
        if percent is not None:
            kept += f", while the disk is no fuller than {percent} %"
        console.print(
            f"disk: {spool['free_mb']} MB free, {spool['reserve_mb']} in reserve; "
            f"pixel data is kept {kept}"
        )
    day = health["last_24_h"]
    if day:
        console.print(f"last 24 h: {day['studies']} studies reported, {day['failures']} failures")
        if day["studies"]:
            console.print(
                f"from first image to report: half within {day['median_s']:.1f} s, "
                f"95 % within {day['p95_s']:.1f} s"
            )
