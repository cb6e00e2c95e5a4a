"""What root makes in a folder of another account is that account's, who could not write to it else.

So does SQLite with its own files beside a database. Only what was not there before is given away:
through a link, it could be any file.
"""

import contextlib
import os
from pathlib import Path


def open_file(path: Path, flags: int, mode: int = 0o600) -> int:
    """os.open, which makes the file if there is none."""
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return os.open(path, flags | os.O_CREAT, mode)
    if owner := _owner(path.parent):
        with contextlib.suppress(PermissionError):  # a root without that capability
            os.fchown(descriptor, *owner)
    return descriptor


def make_folder(path: Path) -> None:
    """A folder for its owner alone, if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    if owner := _owner(path.parent):
        with contextlib.suppress(PermissionError):
            os.lchown(path, *owner)


def _owner(folder: Path) -> tuple[int, int] | None:
    """Whom to give to what we make here; None if it is ours already."""
    found = folder.stat()
    if os.geteuid() != 0 or found.st_uid == 0:
        return None
    return found.st_uid, found.st_gid
