"""The home folder: where each thing lies in it, and who has it locked."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from db import ownership
from worker.errors import WorkerError


def spool_folder(home: Path) -> Path:
    return home / "spool"


def free_bytes(home: Path) -> int | None:
    """What the spool's disk has left; None where there is no spool on this machine."""
    try:
        return shutil.disk_usage(spool_folder(home)).free
    except OSError:
        return None


def audit_file(home: Path) -> Path:
    return home / "audit" / "audit.xml"


@contextmanager
def lock(home: Path, role: str) -> Iterator[None]:
    """Hold the home for one role; WorkerError if another process holds it.

    The lock ends with the process, however that ends.
    """
    home.mkdir(parents=True, exist_ok=True)
    path = home / f"{role}.lock"
    descriptor = ownership.open_file(path, os.O_RDWR)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = path.read_text().strip() or "another process"
            raise WorkerError(
                f"{home} is in use by another `{role}` (process {owner}): "
                "stop that one, or set CXR_HOME_DIR to another folder"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        os.close(descriptor)


def publish_port(home: Path, port: int, role: str = "listener") -> None:
    """Say which port a role got, for who asked for any free one (DICOM_PORT=0)."""
    temporary = home / f"{role}.port.new"
    temporary.write_text(str(port))
    temporary.replace(home / f"{role}.port")


def published_port(home: Path, role: str = "listener") -> int | None:
    try:
        return int((home / f"{role}.port").read_text())
    except (FileNotFoundError, ValueError):
        return None
