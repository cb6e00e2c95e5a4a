"""Removing the files of erased studies from the spool; their rows are gone already."""

from db import erasure
from db.engine import Database
from worker import log
from worker.spool import Spool

_log = log.get("erase")


def remove_files(database: Database, spool: Spool, *, wait_s: float = 0.0) -> bool:
    """Remove what is still listed; False if another looks through the spool for so long.

    Retention could put a file that is removed beside it in its place again. Cut off anywhere, it
    can be run again.
    """
    if not _listed(database):  # as nearly always: nobody is kept from looking through the spool
        return True
    with spool.sole(wait_s=wait_s) as alone:
        if not alone:
            return False
        count = 0
        while names := _listed(database):
            for name in names:
                spool.remove(name)
            with database.begin() as tx:
                erasure.record_removed(tx, names)
            count += len(names)
    if count:
        _log.info("removed %s files of erased studies", count)
    return True


def _listed(database: Database) -> list[str]:
    with database.read() as tx:
        return erasure.files_to_remove(tx)
