"""Removing the files of erased studies from the spool; their rows are gone already."""

from db import erasure
from db.engine import Database
from worker.spool import Spool


def remove_files(database: Database, spool: Spool) -> int:
    """Remove what is still listed; returns how many. Cut off anywhere, it can be run again."""
    with database.read() as tx:
        names = erasure.files_to_remove(tx)
    if not names:
        return 0
    for name in names:
        spool.remove(name)
    with database.begin() as tx:
        erasure.record_removed(tx, names)
    return len(names)
