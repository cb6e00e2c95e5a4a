"""The listener process: the SCP, the spool's upkeep, and wake-ups for the workers."""

import threading
from functools import partial

import sqlalchemy.exc

from db import schema
from db.engine import Database
from worker import commit, erase, home, log
from worker.celery_app import make_app
from worker.notify import Notifier
from worker.receive import Receiver
from worker.scp import start_server
from worker.settings import Settings
from worker.spool import Spool

ADOPT_EVERY_S = 10.0

_log = log.get("listener")


def run(settings: Settings, stop: threading.Event) -> None:
    """Receive until `stop` is set; associations under way are then given a moment to end."""
    database = Database(settings.database)
    schema.require_current(database)
    spool = Spool(home.spool_folder(settings.home))
    spool.create()
    notifier = Notifier(make_app(settings.broker, publish_only=True))
    receiver = Receiver(
        spool=spool,
        database=database,
        notify=notifier,
        settle_s=settings.study_settle_s,
        max_study_age_days=settings.max_study_age_days,
        spool_reserve_mb=settings.spool_reserve_mb,
    )
    with home.lock(settings.home, "listener"):
        spool.sweep_temp()
        server = start_server(
            store=receiver.receive,
            record_commitment=partial(commit.record, database),
            temp_folder=spool.temp,
            ae_title=settings.ae_title,
            bind=settings.bind,
            port=settings.dicom_port,
            allowed_calling_ae_titles=settings.allowed_calling_ae_titles,
            allowed_ips=settings.allowed_ips,
        )
        port = server.server_address[1]
        home.publish_port(settings.home, port)
        _log.info("listening as %s on %s:%s", settings.ae_title, settings.bind, port)
        try:
            while True:
                receiver.adopt_if_needed()
                _sweep_erased(database, spool)
                if stop.wait(ADOPT_EVERY_S):
                    break
        finally:
            server.shutdown()
            notifier.close()
            database.dispose()


def _sweep_erased(database: Database, spool: Spool) -> None:
    """Remove what `forget` was kept from removing; a database that is down is asked again."""
    try:
        removed = erase.remove_files(database, spool)
    except sqlalchemy.exc.SQLAlchemyError as error:
        _log.warning("erased files not swept: %s", type(error).__name__)
        return
    if removed:
        _log.info("removed %s files of erased studies", removed)
