"""Commands of the administrator: check, health, ready, db."""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import sqlalchemy.exc

from db import schema
from db.engine import Database
from db.errors import DatabaseError
from dicom_io.destination import Destination, WebDestination
from worker.destinations import Recipient
from worker.errors import WorkerError
from worker.messages.address import MllpDestination, WebhookDestination
from worker.settings import Settings


@click.command()
def check() -> None:
    """Check settings, home, database, broker, model and every destination (C-ECHO)."""
    settings = Settings.from_env()  # reports every bad setting at once
    click.echo("ok      settings")
    checks: list[tuple[str, Callable[[], str]]] = [
        ("home folder", lambda: _home(settings)),
        ("database", lambda: _database(settings)),
        ("broker", lambda: _broker(settings)),
        ("model", lambda: _model(settings)),
    ]
    if settings.challenger_bundle is not None:
        checks.append(("challenger", partial(_challenger, settings, settings.challenger_bundle)))
    checks += [
        (f"destination {recipient}", partial(_echo, settings, recipient))
        for recipient in settings.recipients
    ]
    failed = 0
    for name, probe in checks:
        try:
            click.echo(f"ok      {name}: {probe()}")
        except _Failed as failure:
            failed += 1
            click.echo(f"FAILED  {name}: {failure}", err=True)
    sys.exit(1 if failed else 0)


class _Failed(Exception):
    pass


def _home(settings: Settings) -> str:
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.home):
            return str(settings.home)
    except OSError as error:
        raise _Failed(f"cannot write to {settings.home}: {error.strerror}") from error


def _database(settings: Settings) -> str:
    try:
        database = Database(settings.database)
        schema.require_current(database)
        return f"schema {schema.VERSION}"
    except (DatabaseError, OSError) as error:
        raise _Failed(str(error)) from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise _Failed(f"not reachable ({type(error).__name__})") from error


def _broker(settings: Settings) -> str:
    import redis
    from kombu.exceptions import OperationalError

    from worker.celery_app import make_app
    from worker.reconcile import queue_lengths

    try:
        lengths = queue_lengths(make_app(settings.broker, publish_only=True))
    except (redis.RedisError, OperationalError, OSError) as error:
        hint = "" if settings.broker_url.get_secret_value() else "; `cxr-worker up` starts it"
        raise _Failed(f"not reachable ({type(error).__name__}){hint}") from error
    return ", ".join(f"{count} messages in {queue}" for queue, count in sorted(lengths.items()))


def _model(settings: Settings) -> str:
    from model.errors import ModelError
    from worker.services import make_interpreter, open_bundle

    try:
        bundle = open_bundle(settings)
        bundle.check_weights()
        make_interpreter(settings, bundle)
    except ModelError as error:
        raise _Failed(str(error)) from error
    return f"{bundle.name} {bundle.version}"


def _challenger(settings: Settings, folder: Path) -> str:
    from dicom_io import preprocess
    from model.errors import ModelError
    from worker.services import make_challenger_interpreter, open_challenger_bundle

    try:
        bundle = open_challenger_bundle(settings, folder)
        bundle.check_weights()
        make_challenger_interpreter(settings, bundle)
    except ModelError as error:
        raise _Failed(str(error)) from error
    if bundle.preprocess_version != preprocess.VERSION:
        raise _Failed(f"made with preprocessing version {bundle.preprocess_version}, not ours")
    return f"{bundle.name} {bundle.version}"


def _echo(settings: Settings, recipient: Recipient) -> str:
    from dicom_io import scu, stow
    from dicom_io.errors import DestinationUnavailable
    from worker.messages import mllp, webhook

    try:
        match recipient.address:
            case Destination() as scp:
                aet = recipient.calling_ae_title or settings.ae_title
                scu.echo(scp, calling_ae_title=aet)
                return "answers C-ECHO"
            case WebDestination() as server:
                return stow.probe(server)
            case MllpDestination() as receiver:
                return mllp.probe(receiver)
            case WebhookDestination() as listener:
                return webhook.probe(listener)
    except DestinationUnavailable as error:
        raise _Failed(str(error)) from error


_role = click.argument("role", type=click.Choice(["listener", "dicom", "inference", "web"]))


@click.command()
@_role
def health(role: str) -> None:
    """Tell whether a role's processes on this machine live; exit status 1 if not.

    For a liveness probe: a database or a broker that is away is no reason to kill anybody.
    """
    from worker import probe

    _tell(probe.LIVE[role])


@click.command()
@_role
def ready(role: str) -> None:
    """Tell whether a role on this machine can do its work now; exit status 1 if not.

    For a readiness probe: looks at the database, the broker and the disk as well.
    """
    from worker import probe

    _tell(probe.READY[role])


def _tell(ask: Callable[[Settings], str]) -> None:
    from worker.probe import Unhealthy

    try:
        click.echo(ask(Settings.from_env()))
    except Unhealthy as error:
        click.echo(str(error), err=True)
        sys.exit(1)


@click.group()
def db() -> None:
    """Migrations."""


@db.command()
def upgrade() -> None:
    """Bring the database to this version's schema."""
    settings = Settings.from_env()
    try:
        version = schema.upgrade(Database(settings.database))
    except sqlalchemy.exc.OperationalError as error:
        raise WorkerError("the database cannot be reached: see CXR_DATABASE_URL") from error
    click.echo(f"database at schema {version}")
