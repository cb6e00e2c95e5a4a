"""The listener: the SCP, the spool's upkeep, and wake-ups for the workers.

Several processes may receive on one port. The parent binds it and forks them before it has any
thread or database connection; it then only starts again what has died.
"""

import gc
import os
import socket
import threading
from functools import partial

import sqlalchemy.exc

from db import schema
from db.engine import Database
from worker import commit, erase, home, log, retention
from worker.celery_app import make_app
from worker.notify import Notifier
from worker.receive import Receiver
from worker.scp import bind_port, start_server
from worker.settings import Settings
from worker.spool import Spool
from worker.supervisor import Forked, watch

ADOPT_EVERY_S = 10.0
PROCESSES_MAX = 4  # by default: what the disk takes is reached

_log = log.get("listener")


def run(settings: Settings, stop: threading.Event) -> int:
    """Receive until `stop` is set; associations under way are then given a moment to end."""
    _require_schema(settings)
    spool = Spool(home.spool_folder(settings.home))
    spool.create()
    with home.lock(settings.home, "listener"):
        listening = bind_port(settings.bind, settings.dicom_port)
        port = listening.getsockname()[1]
        home.publish_port(settings.home, port)
        count = settings.listener_processes or min(os.cpu_count() or 1, PROCESSES_MAX)
        _log.info("listening as %s on %s:%s", settings.ae_title, settings.bind, port)
        gc.collect()
        gc.freeze()  # what was imported stays: no collection looks at it, no process copies it
        if count == 1:
            _receive(settings, spool, listening, stop)
            return 0
        children = [
            Forked(f"listener {number}", partial(_receive, settings, spool, listening, stop))
            for number in range(1, count + 1)
        ]
        try:
            for child in children:
                child.start()
            return watch(children, stop)
        finally:
            listening.close()
            for child in children:
                child.terminate()
            for child in children:
                child.stop()


def _require_schema(settings: Settings) -> None:
    database = Database(settings.database)
    try:
        schema.require_current(database)
    finally:
        database.dispose()


def _receive(
    settings: Settings, spool: Spool, listening: socket.socket, stop: threading.Event
) -> None:
    """One process's part, with a database and threads of its own."""
    database = Database(settings.database)
    notifier = Notifier(make_app(settings.broker, publish_only=True))
    receiver = Receiver(
        spool=spool,
        database=database,
        notify=notifier,
        settle_s=settings.study_settle_s,
        max_study_age_days=settings.max_study_age_days,
        spool_reserve_mb=settings.spool_reserve_mb,
    )
    server = start_server(
        listening,
        store=receiver.receive,
        record_commitment=partial(commit.record, database),
        temp_folder=spool.temp,
        ae_title=settings.ae_title,
        allowed_calling_ae_titles=settings.allowed_calling_ae_titles,
        allowed_ips=settings.allowed_ips,
    )
    try:
        while True:
            receiver.adopt_if_needed()
            _sweep_erased(database, spool)
            spool.sweep_temp()
            _purge(settings, database, spool)
            if stop.wait(ADOPT_EVERY_S):
                break
    finally:
        server.shutdown()
        notifier.close()
        database.dispose()


def _purge(settings: Settings, database: Database, spool: Spool) -> None:
    """Let retention have its turn, in one process at a time."""
    if settings.retention_days is None:
        return
    with spool.sole() as alone:
        if not alone:
            return
        try:
            purged = retention.purge(database, spool, settings.retention_days)
        except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
            _log.warning("nothing purged: %s", type(error).__name__)
            return
    if purged:
        _log.info("removed the pixel data of %s studies", purged)


def _sweep_erased(database: Database, spool: Spool) -> None:
    """Remove what `forget` was kept from removing; a database that is down is asked again."""
    try:
        removed = erase.remove_files(database, spool)
    except sqlalchemy.exc.SQLAlchemyError as error:
        _log.warning("erased files not swept: %s", type(error).__name__)
        return
    if removed:
        _log.info("removed %s files of erased studies", removed)
