"""The spool: received files, each durable before its sender hears Success.

spool/tmp/          being received; swept once nothing was written to them for ten minutes
spool/files/ab/…    stored, named by a hash of the SOP Instance UID (a UID is a peer's text
                    and names no path), with a random part: a second version never overwrites
spool/quarantine/   could not be read as DICOM at all
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TEMP_FILE_AGE_MAX_S = 600  # a sender that stops is cut off after one
_LOOK_EVERY_S = 0.05
_UPLOAD = ".upload.dcm"  # the end of a name that outlives a crash, for whoever adopts the file


def is_upload(name: str) -> bool:
    """Whether a stored file came through the web page."""
    return name.endswith(_UPLOAD)


@dataclass(frozen=True, kw_only=True)
class DiskUsage:
    """What is used, and what we may still use."""

    used: int
    free: int


class Spool:
    """The folders of one home. Temporary and stored files share a file system."""

    def __init__(self, folder: Path) -> None:
        self.temp = folder / "tmp"
        self.files = folder / "files"
        self.quarantine = folder / "quarantine"

    def create(self) -> None:
        for folder in (self.temp, self.files, self.quarantine):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for shelf in range(256):  # once, and not with the first file that comes to each
            (self.files / f"{shelf:02x}").mkdir(exist_ok=True, mode=0o700)
        _sync_folder(self.files)

    def has_room(self, reserve_mb: int) -> bool:
        return self.disk_usage().free > reserve_mb * 1024 * 1024

    def disk_usage(self) -> DiskUsage:
        """Of the file system that the files lie on, in bytes."""
        _total, used, free = shutil.disk_usage(self.files)
        return DiskUsage(used=used, free=free)

    def store(self, temp_file: Path, sop_instance_uid: str, *, is_upload: bool = False) -> str:
        """Make a received file durable under its name; returns the name."""
        suffix = _UPLOAD if is_upload else ".dcm"
        return self._settle(temp_file, self.files, sop_instance_uid, suffix)

    def set_aside(self, temp_file: Path, sop_instance_uid: str) -> str:
        """Keep a file that is no DICOM, durably; returns its name."""
        return self._settle(temp_file, self.quarantine, sop_instance_uid)

    def path(self, name: str) -> Path:
        return self.files.parent / name

    def remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def replace(self, name: str, by: Path) -> None:
        """Put another file in a stored one's place, durably."""
        target = self.path(name)
        _sync_file(by)
        if not target.is_file():  # looked at last: whoever erases it meanwhile is to be noticed
            raise FileNotFoundError(name)
        by.rename(target)
        _sync_folder(target.parent)

    def sweep_temp(self) -> int:
        """Remove what killed receivers left behind; returns how many files."""
        old = time.time() - TEMP_FILE_AGE_MAX_S
        removed = 0
        for path in self.temp.iterdir():
            with contextlib.suppress(FileNotFoundError):  # stored, or swept by another process
                if path.stat().st_mtime < old:
                    path.unlink()
                    removed += 1
        return removed

    @contextlib.contextmanager
    def sole(self, *, wait_s: float = 0.0) -> Iterator[bool]:
        """Be the only one who looks through the stored files; False if another does for longer."""
        descriptor = os.open(self.files, os.O_RDONLY)
        deadline = time.monotonic() + wait_s
        try:
            while not (alone := _takes_lock(descriptor)) and time.monotonic() < deadline:
                time.sleep(_LOOK_EVERY_S)
            yield alone
        finally:
            os.close(descriptor)  # and the lock is gone

    def names(self) -> Iterator[str]:
        """Every stored file's name."""
        for path in self.files.glob("*/*.dcm"):
            yield str(path.relative_to(self.files.parent))

    def _settle(
        self, temp_file: Path, folder: Path, sop_instance_uid: str, suffix: str = ".dcm"
    ) -> str:
        digest = hashlib.sha256(sop_instance_uid.encode()).hexdigest()
        shelf = folder / digest[:2]
        if not shelf.is_dir():
            shelf.mkdir(exist_ok=True, mode=0o700)
            _sync_folder(folder)
        target = shelf / f"{digest[2:34]}-{secrets.token_hex(4)}{suffix}"
        _sync_file(temp_file)
        temp_file.rename(target)
        _sync_folder(shelf)
        return str(target.relative_to(self.files.parent))


def _takes_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    _sync_file(path)
