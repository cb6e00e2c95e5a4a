"""Commands that take back: retract, forget."""

import click

from db import erasure, queries
from db.engine import Database
from db.erasure import Erasable
from worker import audit, erase, home
from worker.cli.query import open_database
from worker.errors import WorkerError
from worker.spool import Spool

SWEEP_WITHIN_S = 10.0


@click.command()
@click.argument("study")
@click.option(
    "--reason",
    type=click.Choice(["quality", "safety", "expired"]),
    required=True,
    help="Rejected for quality, for patient safety, or because its retention is over.",
)
def retract(study: str, reason: str) -> None:
    """Withdraw the delivered reports of STUDY, a UID, and deliver no more of it.

    Destinations that hold them get a rejection note (IHE IOCM).
    """
    from dicom_io.rejection import Reason
    from worker.retract import retract as retract_

    settings, database = open_database()
    done = retract_(settings, database, study, Reason(reason))
    with database.read() as tx:
        patients = {study: queries.patient_id_of(tx, study)}
    audit.by_command_on(settings, patients, action="U")
    if done.already is not None:
        click.echo(f"retracted already, on {done.already:%Y-%m-%d %H:%M:%S} UTC; nothing is new")
        return
    for name in done.noted:
        click.echo(f"{name}: a rejection note waits to be sent")
    for name in done.without_note:
        click.echo(f"{name}: takes no rejection note; remove the report there by hand", err=True)
    if not done.noted and not done.without_note:
        click.echo("nothing was delivered; what waited is dropped")
    click.echo("further reports of this study stay here; `reprocess --deliver` ends that")
    raise SystemExit(1 if done.without_note else 0)


@click.command()
@click.argument("study")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(study: str, yes: bool) -> None:
    """Erase STUDY, a UID, everywhere here: rows, files, reports, deliveries. There is no undo."""
    settings, database = open_database()
    spool = Spool(home.spool_folder(settings.home))
    with database.read() as tx:
        found = erasure.erasable(tx, study)
        patients = {study: queries.patient_id_of(tx, study)}
    if found is None:
        _sweep(database, spool)
        raise WorkerError(f"no study {study} in the database")
    _say(study, found)
    if not yes:
        click.confirm("Erase it?", abort=True)
    who = audit.command_user().user_id[:128]
    with database.begin() as tx:
        erased = erasure.erase(tx, study, erased_by=who)
    if erased is None:
        raise WorkerError(f"no study {study} in the database: it was erased by another")
    audit.by_command_on(settings, patients, action="D")
    left = "" if _sweep(database, spool) else "; the listener removes its files"
    database.flush_log()
    click.echo(f"erased{left}")


def _say(study: str, found: Erasable) -> None:
    click.echo(
        f"{study}: {found.instance_count} received objects, {found.object_count} made objects, "
        f"{found.delivery_count} deliveries, {found.file_count} files"
    )
    for name, count in found.delivered.items():
        click.echo(f"{name} holds {count} of the made objects, and keeps them")
    for name in found.notes_waiting:
        click.echo(f"{name} has not got its rejection note yet; after this it never will")
    if found.delivered and not found.retracted:
        click.echo("`cxr-worker retract` first takes those back; afterwards nothing here can")


def _sweep(database: Database, spool: Spool) -> bool:
    """Remove erased files, where the spool is on this machine."""
    return spool.files.is_dir() and erase.remove_files(database, spool, wait_s=SWEEP_WITHIN_S)
