"""Logging: one line per event on standard error, as text or JSON, never with patient data.

Log once, at the boundary, and name rows by UID: `log.info("stored", extra={"sop_instance_uid":
uid})`. Libraries are held at WARNING: at DEBUG some of them print whole data sets.
"""

import json
import logging
import sys
import traceback
import warnings
from datetime import UTC, datetime
from pathlib import Path

_OWN = logging.getLogger("cxr")
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def get(name: str) -> logging.Logger:
    return _OWN.getChild(name)


def where(error: BaseException) -> str:
    """An error's type and place, without its text: a library's message may quote the patient."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" at {Path(frame[0].filename).name}:{frame[0].lineno}" if frame else ""
    return type(error).__name__ + place


def configure(level: str, fmt: str) -> None:
    """Send our own log to standard error at `level`, the libraries' at WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if fmt == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # Their warnings may quote the value that they warn of.
    warnings.filterwarnings("ignore", module=r"(pydicom|pynetdicom|highdicom)\b")
    _OWN.setLevel(level)


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        pairs = "".join(f" {key}={value}" for key, value in _extras(record).items())
        name = record.name.removeprefix("cxr.")
        line = f"{_time(record)} {record.levelname:<7} {name}: {record.getMessage()}{pairs}"
        return line + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)
