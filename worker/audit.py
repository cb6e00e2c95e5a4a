"""The audit trail: what people and peers do, as messages of PS3.15 A.5.

Whoever reports something only puts it into a queue; a thread of each process writes. While it
cannot, the queue fills; what no longer fits is dropped, counted and logged, and no store, page or
delivery ever waits. What is received is reported for a study at once when it begins, and with
counts when it has ended. What repeats itself, such as a page that asks for the worklist anew
every few seconds or a stranger who knocks, is reported once in REPEAT_S.
"""

import getpass
import multiprocessing
import os
import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from dicom_io.destination import Tls
from worker import audit_message, home, log
from worker.audit_message import Message, Participant, Transfer
from worker.audit_sink import FileSink, Record, Sink, SyslogSink
from worker.settings import Settings

QUEUED_MAX = 10_000
REPEAT_S = 60.0
REPEATS_KNOWN_MAX = 10_000
ENDED_AFTER_S = 5.0  # a transfer of which nothing more has come
TRANSFER_S_MAX = 60.0  # one that goes on is reported in parts
CLOSE_WITHIN_S = 3.0
_RETRY_AFTER_S = 1.0
_LOG_EVERY_S = 60.0
_LOOK_EVERY_S = 1.0

_log = log.get("audit")


@dataclass
class _UnderWay:
    """A transfer that has begun and not ended."""

    began: float
    last: float
    sop_classes: Counter[str] = field(default_factory=Counter)


class Audit:
    """The audit trail of one process; made after any fork. Safe to use from many threads."""

    def __init__(self, sink: Sink | None, *, ae_title: str, with_patient_id: bool = False) -> None:
        self.ae_title = ae_title
        self.dropped_count = 0
        self._sink = sink
        self._with_patient_id = with_patient_id
        self._source_id = f"{ae_title}@{socket.gethostname()}"
        self._queue: queue.Queue[tuple[Message | Transfer, datetime, str] | None] = queue.Queue(
            QUEUED_MAX
        )
        self._lock = threading.Lock()
        self._seen: dict[Hashable, float] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._logged_at = 0.0

    @classmethod
    def of(cls, settings: Settings) -> "Audit":
        """The trail that the settings ask for; with `off`, one that keeps nothing."""
        tls = Tls(
            ca_file=settings.audit_tls_ca,
            cert_file=settings.audit_tls_cert,
            key_file=settings.audit_tls_key,
        )
        sink: Sink | None = None
        if settings.audit == "file":
            path = home.audit_file(settings.home)
            sink = FileSink(path, settings.audit_keep_mb << 20)
        elif settings.audit != "off":
            sink = SyslogSink(settings.audit, tls)
        return cls(sink, ae_title=settings.ae_title, with_patient_id=settings.audit_patient_id)

    @classmethod
    def off(cls) -> "Audit":
        """One that keeps nothing."""
        return cls(None, ae_title="")

    @property
    def is_on(self) -> bool:
        return self._sink is not None

    @property
    def names_patients(self) -> bool:
        return self._with_patient_id

    def report(self, message: Message, *, once: Hashable = None) -> None:
        """Take a message. once: what it must not repeat within REPEAT_S."""
        if once is None or self.is_new((message.event.code, message.outcome, once)):
            self._put(message)

    def transferred(self, what: Transfer, sop_class_uid: str) -> None:
        """Take note of one object that was received or delivered."""
        if not self._with_patient_id:
            what = replace(what, patient_id="")
        self._put(what, sop_class_uid)

    def close(self) -> None:
        """Write what waits, for at most CLOSE_WITHIN_S, and end."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        self._closing.set()
        with suppress(queue.Full):
            self._queue.put_nowait(None)
        thread.join(CLOSE_WITHIN_S)

    def is_new(self, key: Hashable) -> bool:
        """Whether this has not been reported within REPEAT_S; from now on it has."""
        now = time.monotonic()
        with self._lock:
            if len(self._seen) >= REPEATS_KNOWN_MAX:
                self._seen = {it: at for it, at in self._seen.items() if now - at < REPEAT_S}
            if now - self._seen.get(key, -REPEAT_S) < REPEAT_S:
                return False
            if len(self._seen) >= REPEATS_KNOWN_MAX:  # a flood must not push the rest out
                return False
            self._seen[key] = now
        return True

    def _put(self, what: Message | Transfer, sop_class_uid: str = "") -> None:
        if self._sink is None:
            return
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                thread = threading.Thread(target=self._run, name="audit", daemon=True)
                with suppress(RuntimeError):  # no thread to be had: the next message tries again
                    thread.start()
                    self._thread = thread
        try:
            self._queue.put_nowait((what, datetime.now(UTC), sop_class_uid))
        except queue.Full:
            self._drop(1)

    def _drop(self, count: int) -> None:
        with self._lock:
            self.dropped_count += count
            is_due = time.monotonic() - self._logged_at > _LOG_EVERY_S or not self._logged_at
            if is_due:
                self._logged_at = time.monotonic()
        if is_due:
            _log.error("audit messages dropped so far: %s", self.dropped_count)

    def _run(self) -> None:
        under_way: dict[Transfer, _UnderWay] = {}
        while True:
            try:
                item = self._queue.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                item = None
            if item is not None:
                what, at, sop_class_uid = item
                if isinstance(what, Message):
                    self._write(what, at)
                else:
                    self._note(under_way, what, at, sop_class_uid)
            ends = self._closing.is_set() and self._queue.empty()
            self._end(under_way, everything=ends)
            if ends:
                if self._sink is not None:
                    self._sink.close()
                return

    def _note(
        self, under_way: dict[Transfer, _UnderWay], what: Transfer, at: datetime, sop_class: str
    ) -> None:
        now = time.monotonic()
        if what not in under_way:
            under_way[what] = _UnderWay(now, now)
            self._write(audit_message.transfer(self.ae_title, what, {}, done=False), at)
        under_way[what].last = now
        under_way[what].sop_classes[sop_class] += 1

    def _end(self, under_way: dict[Transfer, _UnderWay], *, everything: bool) -> None:
        now = time.monotonic()
        for what, state in list(under_way.items()):
            is_over = now - state.last > ENDED_AFTER_S or now - state.began > TRANSFER_S_MAX
            if is_over or everything:
                del under_way[what]
                message = audit_message.transfer(self.ae_title, what, state.sop_classes, done=True)
                self._write(message, datetime.now(UTC))

    def _write(self, message: Message, at: datetime) -> None:
        """Write one; a sink that fails is tried again, until this process ends."""
        assert self._sink is not None
        try:
            xml = audit_message.encode(message, at=at, source_id=self._source_id)
        except ValueError as error:  # the thread lives on, whatever one message holds
            _log.error("audit message not encoded: %s", log.where(error))
            self._drop(1)
            return
        record, complained = Record(xml=xml, at=at), False
        while True:
            try:
                self._sink.write(record)
            except OSError as error:
                if not complained:
                    _log.error("audit messages wait: %s", error.strerror or type(error).__name__)
                complained = True
                if self._closing.wait(_RETRY_AFTER_S):
                    self._drop(1)
                    return
            else:
                return


@contextmanager
def application(settings: Settings, what: str) -> Iterator[None]:
    """Report that an application starts, and that it has stopped.

    The first in a process of its own: a sink that hangs would leave a thread in this one, which
    may fork.
    """
    start = audit_message.application(settings.ae_title, what, started=True)
    fork = multiprocessing.get_context("fork")
    reporter = fork.Process(target=_report_now, args=(settings, start))
    reporter.start()
    reporter.join()
    try:
        yield
    finally:
        _report_now(settings, audit_message.application(settings.ae_title, what, started=False))


def by_command(settings: Settings, *messages: Message) -> None:
    """Report what a person did by a command, before it ends."""
    _report_now(settings, *messages)


def by_command_on(settings: Settings, patients: Mapping[str, str | None], *, action: str) -> None:
    """Report which studies a command showed (R), changed (U) or erased (D), and whose they are."""
    user = command_user()
    names = settings.audit_patient_id
    for uid, patient_id in patients.items():
        whose = (patient_id or "") if names else ""
        if action == "D":
            by_command(settings, audit_message.deleted(user, uid, patient_id=whose))
        else:
            message = audit_message.accessed(user, uid, patient_id=whose, action=action)
            by_command(settings, message)


def command_user() -> Participant:
    """Who typed the command: the system's account."""
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        account = str(os.getuid())
    return Participant(user_id=f"{account}@{socket.gethostname()}", is_requestor=True)


def _report_now(settings: Settings, *messages: Message) -> None:
    audit = Audit.of(settings)
    for message in messages:
        audit.report(message)
    audit.close()
