"""From a received file to a durable row: what must be done before a sender hears Success."""

import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy.exc

from db import arrivals
from db.arrivals import Arrival, ArrivalOutcome, StoredFile, StudyHeader
from db.engine import Database
from db.tables import InstanceState
from dicom_io import same
from dicom_io.eligibility import is_image_class
from dicom_io.errors import UnreadableDicom
from dicom_io.read import Header, read_header
from worker import log
from worker.audit import Audit
from worker.audit_message import Transfer
from worker.notify import Notify
from worker.spool import Spool, is_upload

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700  # PS3.4 B.2.3: the sender may try again later
DATA_SET_DOES_NOT_MATCH_SOP_CLASS = 0xA900
CANNOT_UNDERSTAND = 0xC000

_log = log.get("receive")
ADOPT_WAIT_S = 2.0  # several processes look at the same moments
_DATABASE_DOWN = (sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError, sqlite3.Error)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the C-STORE request itself says, before the data set is read."""

    sop_class_uid: str
    sop_instance_uid: str
    calling_ae_title: str
    peer_address: str = ""
    is_upload: bool = False  # through the web page: never delivered


class Receiver:
    """Stores what peers send. One per listener process; safe to use from many threads."""

    def __init__(
        self,
        *,
        spool: Spool,
        database: Database,
        notify: Notify,
        settle_s: float,
        max_study_age_days: int,
        spool_reserve_mb: int,
        audit: Audit | None = None,
    ) -> None:
        self._spool = spool
        self._database = database
        self._notify = notify
        self._settle_s = settle_s
        self._max_study_age_days = max_study_age_days
        self._spool_reserve_mb = spool_reserve_mb
        self._audit = audit
        self._orphans = threading.Event()  # stored files may lack their rows
        self._orphans.set()  # a process before this one may have been killed

    def receive(self, temp_file: Path, origin: Origin) -> int:
        """Store one object; returns the C-STORE status. Success means: durable, with a row."""
        began_s = time.monotonic()
        if not self._spool.has_room(self._spool_reserve_mb):
            temp_file.unlink(missing_ok=True)
            _log.error("disk below the reserve: store refused", extra=_uid(origin))
            return OUT_OF_RESOURCES
        try:
            header = read_header(temp_file)
        except UnreadableDicom as error:
            return self._set_aside(temp_file, origin, str(error))
        if (header.sop_instance_uid, header.sop_class_uid) != (
            origin.sop_instance_uid,
            origin.sop_class_uid,
        ):
            self._set_aside(temp_file, origin, "SOP UIDs differ from those of the request")
            return DATA_SET_DOES_NOT_MATCH_SOP_CLASS
        if self._orphans.is_set() and (why := self._why_down()) is not None:
            temp_file.unlink(missing_ok=True)  # each try would leave one more
            return _database_down(why, origin)
        try:
            name = self._spool.store(temp_file, origin.sop_instance_uid, is_upload=origin.is_upload)
            arrival = self._arrival(name, header, origin.calling_ae_title)
            self._record(arrival, began_s=began_s)
        except Exception as error:
            self._orphans.set()  # the file stays, and is adopted
            if not isinstance(error, _DATABASE_DOWN):
                raise
            return _database_down(error, origin)
        self._report(header, origin)
        return SUCCESS

    def _report(self, header: Header, origin: Origin) -> None:
        if self._audit is None:
            return
        what = Transfer(
            peer=origin.calling_ae_title or origin.peer_address,
            peer_address=origin.peer_address,
            is_incoming=True,
            study_instance_uid=header.study_instance_uid,
            patient_id=header.patient_id or "",
        )
        self._audit.transferred(what, header.sop_class_uid)

    def _why_down(self) -> Exception | None:
        """What keeps the database from being written to; None if nothing does."""
        try:
            with self._database.begin() as tx:
                arrivals.try_to_write(tx)
            return None
        except _DATABASE_DOWN as error:
            return error

    def adopt_if_needed(self, is_over: Callable[[], bool] = lambda: False) -> int:
        """Give rows to stored files that have none: their commit was cut off. Returns how many.

        is_over: asked between two files; what is left then is for the next call.
        """
        # Without a database the spool, which may be large, is not looked through.
        if not self._orphans.is_set() or self._why_down() is not None:
            return 0
        with self._spool.sole(wait_s=ADOPT_WAIT_S) as alone:
            if not alone:  # two that adopt one file would take each other's work for a conflict
                return 0
            self._orphans.clear()
            try:
                adopted = self._adopt(is_over)
            except _DATABASE_DOWN:
                self._orphans.set()
                return 0
            except BaseException:
                self._orphans.set()
                raise
        if adopted:
            _log.warning("adopted %s stored files that had no row", adopted)
        return adopted

    def _adopt(self, is_over: Callable[[], bool]) -> int:
        adopted = 0
        names = list(self._spool.names())
        for start in range(0, len(names), 500):
            with self._database.read() as tx:
                unknown = arrivals.unknown_spool_names(tx, names[start : start + 500])
            for name in sorted(unknown):
                if is_over():
                    self._orphans.set()
                    return adopted
                adopted += self._adopt_one(name)
        return adopted

    def _adopt_one(self, name: str) -> bool:
        try:
            header = read_header(self._spool.path(name))
            self._record(self._arrival(name, header, ""), began_s=None)
        except UnreadableDicom:
            _log.error("spool file %s cannot be read: left where it is", name)
            return False
        except FileNotFoundError:  # its own handler has just dealt with it
            return False
        except OSError as error:
            _log.error("spool file %s cannot be read now: %s", name, error.strerror)
            self._orphans.set()
            return False
        except _DATABASE_DOWN:
            raise
        except Exception as error:  # one file must not keep the others from their rows
            _log.error("spool file %s not adopted: %s", name, log.where(error))
            return False
        return True

    def _record(self, arrival: Arrival, *, began_s: float | None) -> None:
        """began_s: when its data set was whole, by the monotonic clock; None: a file adopted."""
        with self._database.begin() as tx:
            outcome = arrivals.record_arrival(
                tx,
                arrival,
                settle_s=self._settle_s,
                max_age_days=self._max_study_age_days,
                store_s=None if began_s is None else time.monotonic() - began_s,
            )
        if outcome is ArrivalOutcome.KNOWN:
            self._record_again(arrival, began_s=began_s)
        elif arrival.state == InstanceState.RECEIVED:
            self._notify("prepare", arrival.sop_instance_uid)
        _log.info(outcome.value, extra={"sop_instance_uid": arrival.sop_instance_uid})

    def _record_again(self, arrival: Arrival, *, began_s: float | None) -> None:
        """A SOP Instance UID that is known: nothing new, a corrected header, or other pixels."""
        with self._database.read() as tx:
            first = arrivals.stored_file(tx, arrival.sop_instance_uid)
        if first is None:  # erased a moment ago: it is new
            self._record(arrival, began_s=began_s)
            return
        if first.spool_name == arrival.spool_name:
            return
        mine, theirs = self._spool.path(arrival.spool_name), self._spool.path(first.spool_name)
        # Without its pixels nothing can be said; what comes in its place is analysed anew.
        sameness = same.Sameness.PIXELS if first.purged else same.compare(theirs, mine)
        if not mine.is_file():  # another process has adopted it, and found that it is known
            return
        if not theirs.is_file() and self._is_past(first, arrival):
            self._record_again(arrival, began_s=began_s)
            return
        if sameness is same.Sameness.IDENTICAL or (
            # Adopted: never acknowledged, and what was came after it.
            began_s is None
            and sameness is same.Sameness.PIXELS
            and _written_at(mine) < _written_at(theirs)
        ):
            self._spool.remove(arrival.spool_name)
            return
        with self._database.begin() as tx:
            is_past = arrivals.stored_file(tx, arrival.sop_instance_uid, lock=True) != first
            replaced = (
                not is_past
                and sameness is same.Sameness.PIXELS
                and arrivals.replace_header(tx, arrival, settle_s=self._settle_s)
            )
            if not (is_past or replaced):
                arrivals.record_conflict(tx, arrival)
        if is_past:  # replaced, purged or erased while it was compared
            self._record_again(arrival, began_s=began_s)
        elif replaced:
            self._spool.remove(first.spool_name)
            if arrival.state == InstanceState.RECEIVED:
                self._notify("prepare", arrival.sop_instance_uid)
        else:
            _log.warning(
                "other pixels under a known UID: kept beside the first",
                extra={"sop_instance_uid": arrival.sop_instance_uid},
            )

    def _is_past(self, first: StoredFile, arrival: Arrival) -> bool:
        """Whether the file that an arrival was compared with has been replaced meanwhile."""
        with self._database.read() as tx:
            return arrivals.stored_file(tx, arrival.sop_instance_uid) != first

    def _arrival(self, name: str, header: Header, calling_ae_title: str) -> Arrival:
        is_image = is_image_class(header.sop_class_uid)
        reason = None
        if header.is_ours:
            reason = "our own object" if is_image else "our own report"
        elif not is_image:
            reason = "not an image"
        return Arrival(
            study=StudyHeader(
                study_instance_uid=header.study_instance_uid,
                accession_number=header.accession_number,
                patient_id=header.patient_id,
                issuer_of_patient_id=header.issuer_of_patient_id,
                study_date=header.study_date,
                age_years=header.age_years,
            ),
            sop_instance_uid=header.sop_instance_uid,
            sop_class_uid=header.sop_class_uid,
            series_instance_uid=header.series_instance_uid,
            calling_ae_title=calling_ae_title,
            spool_name=name,
            size_bytes=self._spool.path(name).stat().st_size,
            is_image=is_image and not header.is_ours,
            state=InstanceState.REJECTED if reason else InstanceState.RECEIVED,
            reason=reason,
            view_position=header.view_position,
            is_upload=is_upload(name),
        )

    def _set_aside(self, temp_file: Path, origin: Origin, reason: str) -> int:
        arrival = Arrival(
            study=None,
            sop_instance_uid=origin.sop_instance_uid,
            sop_class_uid=origin.sop_class_uid,
            series_instance_uid=None,
            calling_ae_title=origin.calling_ae_title,
            size_bytes=temp_file.stat().st_size,
            spool_name=self._spool.set_aside(temp_file, origin.sop_instance_uid),
            is_image=False,
            state=InstanceState.FAILED,
            reason=reason,
        )
        _log.warning("quarantined: %s", reason, extra=_uid(origin))
        try:
            with self._database.begin() as tx:
                outcome = arrivals.record_arrival(
                    tx, arrival, settle_s=self._settle_s, max_age_days=self._max_study_age_days
                )
        except _DATABASE_DOWN:
            self._spool.remove(arrival.spool_name)
            return OUT_OF_RESOURCES
        if outcome is ArrivalOutcome.KNOWN:  # who sends rubbish again and again fills no disk
            self._spool.remove(arrival.spool_name)
        return CANNOT_UNDERSTAND


def _database_down(error: Exception, origin: Origin) -> int:
    _log.error("database down: %s", type(error).__name__, extra=_uid(origin))
    return OUT_OF_RESOURCES


def _written_at(path: Path) -> int:
    return path.stat().st_mtime_ns


def _uid(origin: Origin) -> dict[str, str]:
    return {"sop_instance_uid": origin.sop_instance_uid}
