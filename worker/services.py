"""What a worker process works with: made once per process, after any fork."""

from dataclasses import dataclass, field
from pathlib import Path

from db import schema
from db.engine import Database
from model.bands import Interpreter
from model.bundle import FINDING, Bundle, read_bundle, shipped_bundle_path
from model.errors import BundleError
from worker import home
from worker.audit import Audit
from worker.celery_app import make_app
from worker.notify import Notifier, Notify
from worker.settings import Settings
from worker.spool import Spool


@dataclass(frozen=True, kw_only=True)
class Services:
    settings: Settings
    database: Database
    spool: Spool
    bundle: Bundle
    interpreter: Interpreter
    notify: Notify
    audit: Audit = field(default_factory=Audit.off)


def open_bundle(settings: Settings) -> Bundle:
    """Raises BundleError, also for a bundle of another finding: every report says pneumonia."""
    return _read(settings.model_bundle or shipped_bundle_path(), "CXR_MODEL_BUNDLE")


def _read(folder: Path, setting: str) -> Bundle:
    bundle = read_bundle(folder)
    if bundle.finding.casefold() != FINDING.casefold():
        raise BundleError(
            f"{bundle.path} finds {bundle.finding}, but reports speak of {FINDING}: use another "
            f"{setting} (`cxr-train evaluate` takes any)"
        )
    return bundle


def make_interpreter(settings: Settings, bundle: Bundle) -> Interpreter:
    return Interpreter(
        bundle,
        prevalence=settings.prevalence,
        review_from=settings.band_review_from,
        positive_from=settings.band_positive_from,
    )


def open_challenger_bundle(settings: Settings, folder: Path) -> Bundle:
    """Raises BundleError, also for the very model that it is to be compared with."""
    bundle, champion = _read(folder, "CXR_CHALLENGER_BUNDLE"), open_bundle(settings)
    if (bundle.name, bundle.version) == (champion.name, champion.version):
        raise BundleError("CXR_CHALLENGER_BUNDLE is the model in use: name another, or none")
    return bundle


def make_challenger_interpreter(settings: Settings, bundle: Bundle) -> Interpreter:
    """At the site's prevalence, with the bands of the challenger's own operating points."""
    return Interpreter(bundle, prevalence=settings.prevalence)


def make_services(settings: Settings) -> Services:
    """Open everything; raises SchemaMismatch or BundleError before any work is taken."""
    database = Database(settings.database)
    schema.require_current(database)
    bundle = open_bundle(settings)
    return Services(
        settings=settings,
        database=database,
        spool=Spool(home.spool_folder(settings.home)),
        bundle=bundle,
        interpreter=make_interpreter(settings, bundle),
        notify=Notifier(make_app(settings.broker, publish_only=True)),
        audit=Audit.of(settings),
    )
