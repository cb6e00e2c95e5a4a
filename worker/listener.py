"""The listener: the SCP, the spool's upkeep, and wake-ups for the workers.

Several processes may receive on one port. The parent binds it and forks them before it has any
thread or database connection; it then only starts again what has died.
"""

import gc
import os
import socket
import threading
from dataclasses import dataclass
from functools import partial

import sqlalchemy.exc

from db import schema
from db.engine import Database
from worker import audit, commit, erase, home, listener_tls, log, notify, retention
from worker.association_server import ABORT_S, DRAIN_S, AssociationServer, Refusal, drain
from worker.audit import Audit
from worker.audit_message import refused_peer
from worker.celery_app import make_app, preload
from worker.connections import Connections
from worker.errors import WorkerError
from worker.listener_tls import ListenerTls
from worker.notify import Notifier
from worker.receive import Receiver
from worker.scp import RefusalLog, bind_port, start_server
from worker.settings import Settings
from worker.spool import Spool
from worker.supervisor import STOP_WITHIN_S, Forked, stop_all, watch

ADOPT_EVERY_S = 10.0
PROCESSES_MAX = 4  # by default: what the disk takes is reached
END_WITHIN_S = 16.0  # one of them, once asked: the parent, too, has a moment to end in
assert DRAIN_S + ABORT_S + notify.CLOSE_WITHIN_S + audit.CLOSE_WITHIN_S < END_WITHIN_S
assert END_WITHIN_S + audit.CLOSE_WITHIN_S < STOP_WITHIN_S

_log = log.get("listener")


@dataclass(frozen=True, kw_only=True)
class Port:
    """A socket that listens; tls is None where it speaks plain DICOM."""

    listening: socket.socket
    tls: ListenerTls | None

    @property
    def number(self) -> int:
        return int(self.listening.getsockname()[1])


def run(settings: Settings, stop: threading.Event) -> int:
    """Receive until `stop` is set; associations under way are then given a moment to end."""
    _require_schema(settings)
    spool = Spool(home.spool_folder(settings.home))
    spool.create()
    with home.lock(settings.home, "listener"):
        ports = _bind(settings)
        for port in ports:
            home.publish_port(
                settings.home, port.number, "listener-tls" if port.tls else "listener"
            )
            what = f"{settings.ae_title} on {settings.bind}:{port.number}"
            _log.info("listening as %s%s", what, " with TLS" if port.tls else "")
        count = settings.listener_processes or min(os.cpu_count() or 1, PROCESSES_MAX)
        preload(make_app(settings.broker, publish_only=True))
        gc.collect()
        gc.freeze()  # what was imported stays: no collection looks at it, no process copies it
        if count == 1:
            _receive(settings, spool, ports, stop)
            return 0
        children = [
            Forked(f"listener {number}", partial(_receive, settings, spool, ports, stop))
            for number in range(1, count + 1)
        ]
        try:
            for child in children:
                child.start()
            return watch(children, stop)
        finally:
            for port in ports:
                port.listening.close()
            stop_all(children, END_WITHIN_S)


def _bind(settings: Settings) -> list[Port]:
    tls = listener_tls.make(settings)  # first: a bad file is no reason to take a port
    ports = []
    if settings.listener_plain:
        ports.append(Port(listening=bind_port(settings.bind, settings.dicom_port), tls=None))
    if tls is not None and settings.listener_tls_port is not None:
        try:
            listening = bind_port(settings.bind, settings.listener_tls_port)
        except OSError as error:
            where = f"{settings.bind}:{settings.listener_tls_port}"
            raise WorkerError(
                f"cannot listen on {where}: {error.strerror}; set CXR_LISTENER_TLS_PORT to a free "
                "port"
            ) from error
        ports.append(Port(listening=listening, tls=tls))
    return ports


def _require_schema(settings: Settings) -> None:
    database = Database(settings.database)
    try:
        schema.require_current(database)
    finally:
        database.dispose()


def _receive(settings: Settings, spool: Spool, ports: list[Port], stop: threading.Event) -> None:
    """One process's part, with a database and threads of its own."""
    database = Database(settings.database)
    notifier = Notifier(make_app(settings.broker, publish_only=True))
    trail = Audit.of(settings)
    receiver = Receiver(
        spool=spool,
        database=database,
        notify=notifier,
        settle_s=settings.study_settle_s,
        max_study_age_days=settings.max_study_age_days,
        spool_reserve_mb=settings.spool_reserve_mb,
        audit=trail,
    )
    connections = Connections()
    refusal_log = RefusalLog()
    servers = [
        start_server(
            port.listening,
            store=receiver.receive,
            record_commitment=partial(commit.record, database),
            temp_folder=spool.temp,
            ae_title=settings.ae_title,
            allowed_calling_ae_titles=settings.allowed_calling_ae_titles,
            allowed_ips=settings.allowed_ips,
            tls=port.tls.context if port.tls else None,
            connections=connections,
            on_refusal=partial(_refused, trail, refusal_log),
            has_room=partial(spool.has_room, settings.spool_reserve_mb),
        )
        for port in ports
    ]
    try:
        while True:
            _keep_up(settings, receiver, database, spool, stop)
            _renew_tls(ports, servers)
            if stop.wait(ADOPT_EVERY_S):
                break
    finally:
        drain(servers)
        notifier.close()
        trail.close()
        database.dispose()


def _keep_up(
    settings: Settings,
    receiver: Receiver,
    database: Database,
    spool: Spool,
    stop: threading.Event,
) -> None:
    """What is done now and then; a disk that fails ends no listener."""
    try:
        receiver.adopt_if_needed(stop.is_set)
        _sweep_erased(database, spool)
        spool.sweep_temp()
        _purge(settings, database, spool)
    except OSError as error:
        _log.error("the spool cannot be kept up: %s", error.strerror or type(error).__name__)


def _renew_tls(ports: list[Port], servers: list[AssociationServer]) -> None:
    """Let connections from now on have what the files say now."""
    for port, server in zip(ports, servers, strict=True):
        if port.tls is not None:
            port.tls.renew()
            server.tls = port.tls.context


def _purge(settings: Settings, database: Database, spool: Spool) -> None:
    """Let retention have its turn."""
    days, percent = settings.retention_days, settings.retention_disk_percent
    purged = 0
    try:
        if days is not None:
            purged += retention.purge(database, spool, days)
        if percent is not None:
            purged += retention.make_room(database, spool, percent)
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        _log.warning("nothing more purged: %s", type(error).__name__)
    if purged:
        _log.info("removed the pixel data of %s studies", purged)


def _refused(trail: Audit, refusal_log: RefusalLog, refusal: Refusal) -> None:
    refusal_log(refusal)
    message = refused_peer(
        trail.ae_title, refusal.peer_address, refusal.calling_ae_title, refusal.reason
    )
    trail.report(message, once=(refusal.peer_address, refusal.reason))  # titles are cheap to vary


def _sweep_erased(database: Database, spool: Spool) -> None:
    """Remove what `forget` was kept from removing; a database that is down is asked again."""
    try:
        erase.remove_files(database, spool)
    except sqlalchemy.exc.SQLAlchemyError as error:
        _log.warning("erased files not swept: %s", type(error).__name__)
