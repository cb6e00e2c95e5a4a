"""Commands that start work over: destination, retry, reprocess."""

from datetime import UTC, datetime

import click
from rich.console import Console
from rich.table import Table

from db import destinations, queries, restarts
from db.engine import Database, Transaction
from worker import home
from worker.cli.query import open_database
from worker.errors import WorkerError
from worker.settings import Settings
from worker.spool import Spool

STUDIES_AT_ONCE = 100


@click.group()
def destination() -> None:
    """Show destinations; stop and resume deliveries to one."""


@destination.command("list")
def list_() -> None:
    """Show every destination, whether it is held, and what was sent there."""
    settings, database = open_database()
    with database.read() as tx:
        held = destinations.holds(tx)
        counts = queries.overview(tx).deliveries
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("destination", "kind", "objects", "held", "deliveries"):
        table.add_column(column, overflow="fold")
    known = [recipient.name for recipient in settings.recipients]
    for name in [*known, *sorted({*counts, *held} - set(known))]:
        recipient = settings.recipient(name)
        kind = recipient.kind if recipient else "not among the destinations"
        objects = ", ".join(sorted(recipient.objects, reverse=True)) if recipient else ""
        found = held.get(name)
        table.add_row(
            name,
            kind,
            objects,
            f"since {found.held_at:%Y-%m-%d %H:%M} by {found.held_by}" if found else "no",
            ", ".join(f"{count} {state}" for state, count in counts.get(name, {}).items()),
        )
    Console().print(table)


@destination.command()
@click.argument("name")
def hold(name: str) -> None:
    """Stop deliveries to destination NAME; reports wait until it is released."""
    settings, database = open_database()
    _require(settings, database, name)
    with database.begin() as tx:
        done = destinations.hold(tx, name)
    click.echo(f"{name} is held" if done else f"{name} was held already")


@destination.command()
@click.argument("name")
def release(name: str) -> None:
    """Resume deliveries to destination NAME, at once."""
    settings, database = open_database()
    recipient = settings.recipient(name)
    if recipient is not None and recipient.hold:
        raise WorkerError(f"{settings.destinations_file} holds {name}: set hold = false there")
    _require(settings, database, name)
    with database.begin() as tx:
        done = destinations.release(tx, name)
    click.echo(f"{name} is released" if done else f"{name} was not held")


def _require(settings: Settings, database: Database, name: str) -> None:
    with database.read() as tx:
        known = {*queries.overview(tx).deliveries, *destinations.holds(tx)}
    if settings.recipient(name) is None and name not in known:
        raise WorkerError(f"no destination {name}: `cxr-worker destination list` shows them")


def _is_known(tx: Transaction, study: str) -> bool:
    wanted = queries.ResultFilter(study_instance_uid=study, limit=1)
    return bool(queries.find_study_results(tx, wanted))


@click.command()
@click.option("--study", help="Only this study, by its Study Instance UID.")
@click.option("--destination", "name", help="Only deliveries to this destination.")
@click.option("--all", "everything", is_flag=True, help="Everything that was given up.")
def retry(study: str | None, name: str | None, everything: bool) -> None:
    """Try again what was given up: images, reports, deliveries."""
    if everything == bool(study or name):
        raise click.UsageError("name --study, --destination or both, or else --all")
    settings, database = open_database()
    if name is not None:
        _require(settings, database, name)
    images = found = 0
    with database.begin() as tx:
        if study is not None and not _is_known(tx, study):
            raise WorkerError(f"no study {study}: `cxr-worker results` shows them")
        if name is None:
            images = restarts.retry_instances(tx, study_instance_uid=study)
            found = restarts.retry_reports(tx, study_instance_uid=study)
        sent = restarts.retry_deliveries(tx, study_instance_uid=study, destination=name)
    click.echo(f"to be tried again: {images} images, {found} reports, {sent} deliveries")


@click.command()
@click.argument("studies", nargs=-1)
@click.option("--since", type=click.DateTime(), help="Studies received at or after (UTC).")
@click.option("--all", "everything", is_flag=True, help="Every stored study.")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=STUDIES_AT_ONCE,
    show_default=True,
    help="At most so many studies, the newest first.",
)
@click.option(
    "--deliver",
    is_flag=True,
    help="Deliver also what is older than CXR_MAX_STUDY_AGE_DAYS, or was retracted.",
)
def reprocess(
    studies: tuple[str, ...], since: datetime | None, everything: bool, limit: int, deliver: bool
) -> None:
    """Run the present model over stored studies again, after all live work.

    A study whose result or evidence is new gets a new report, which names the old one.
    """
    if sum((bool(studies), since is not None, everything)) != 1:
        raise click.UsageError("name studies, or --since, or --all")
    settings, database = open_database()
    spool = Spool(home.spool_folder(settings.home))
    with database.read() as tx:
        found = restarts.stored_studies(
            tx,
            study_instance_uids=studies,
            since=since.replace(tzinfo=UTC) if since else None,
            limit=max(limit, len(studies)),
        )
    failed = set(studies) - {it.study_instance_uid for it in found}
    for uid in sorted(failed):
        click.echo(f"{uid}: no such study, or none of its images is analysed yet", err=True)
    images = 0
    for study in found:
        if not all(spool.path(name).is_file() for name in study.spool_names):
            failed.add(study.study_instance_uid)
            click.echo(f"{study.study_instance_uid}: not all of its files are here", err=True)
            continue
        with database.begin() as tx:
            images += restarts.reprocess(
                tx,
                study.study_instance_uid,
                max_age_days=settings.max_study_age_days,
                deliver_anyway=deliver,
            )
    done = len(found) - len(failed & {it.study_instance_uid for it in found})
    more = f"; there may be more than --limit {limit}" if len(found) == limit else ""
    click.echo(f"to be analysed again: {images} images of {done} studies{more}")
    raise SystemExit(1 if failed else 0)
