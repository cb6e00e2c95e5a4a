"""Logging: one line per event on standard error, as text or JSON, never with patient data.

Log once, at the boundary, and name rows by UID: `log.info("stored", extra={"sop_instance_uid":
uid})`. Libraries are held at WARNING: at DEBUG some of them print whole data sets. Of an exception,
whoever logs it, only the type and the places are shown, also of one that nobody caught: its text
may quote the patient.
"""

import json
import logging
import sys
import threading
import traceback
import warnings
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

_FRAMES_MAX = 8
_QUOTING = {"pydicom", "highdicom"}  # a level would not do: importing pydicom sets its own
_OWN = logging.getLogger("cxr")
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def get(name: str) -> logging.Logger:
    return _OWN.getChild(name)


def where(error: BaseException) -> str:
    """An error's type and place, without its text: a library's message may quote the patient."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" at {Path(frame[0].filename).name}:{frame[0].lineno}" if frame else ""
    return type(error).__name__ + place


def places(error: BaseException) -> str:
    """An error's type and the way to it, the last place first, without its text."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES_MAX:]
    way = [f"{Path(it.filename).name}:{it.lineno} {it.name}" for it in reversed(frames)]
    return f"{type(error).__name__} at {', '.join(way)}" if way else type(error).__name__


def configure(level: str, fmt: str) -> None:
    """Send our own log to standard error at `level`, the libraries' at WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if fmt == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # What these warn of they may quote, and they both warn and log.
    warnings.filterwarnings("ignore", module=r"(pydicom|pynetdicom|highdicom)\b")
    handler.addFilter(lambda record: record.name.partition(".")[0] not in _QUOTING)
    _OWN.setLevel(level)
    sys.excepthook = _uncaught
    threading.excepthook = lambda it: _uncaught(it.exc_type, it.exc_value, it.exc_traceback)


def _uncaught(
    kind: type[BaseException], error: BaseException | None, _traceback: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt | SystemExit):
        _OWN.critical("uncaught: %s", kind.__name__ if error is None else places(error))


def _message(record: logging.LogRecord) -> str:
    """What a record says, on one line. With an exception, a library's own words may quote it."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return _one_line(record.getMessage())
    said = f"{_one_line(record.getMessage())}: " if record.name.startswith("cxr.") else ""
    return said + places(error)


def _one_line(text: str) -> str:
    """A peer's text ends no line and begins none."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        pairs = "".join(f" {key}={_one_line(str(it))}" for key, it in _extras(record).items())
        name = record.name.removeprefix("cxr.")
        return f"{_time(record)} {record.levelname:<7} {name}: {_message(record)}{pairs}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            **_extras(record),
        }
        return json.dumps(entry, default=str)
