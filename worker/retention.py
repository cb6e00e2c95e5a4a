"""Retention: pixel data leaves the spool once its study is reported and delivered.

Days later, or as soon as the disk is too full, whichever is set. Rows, reports and the images'
headers stay: a late image still gets a report that covers all of its study. What is not delivered
is never touched. `forget` is what erases a study.
"""

import errno
import os
import secrets
import time

from db import retention
from db.engine import Database
from dicom_io.errors import UnreadableDicom
from dicom_io.header_only import write_header_only
from worker import log
from worker.spool import Spool

STUDIES_AT_ONCE = 20
MAKE_ROOM_WITHIN_S = 5.0
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE}

_log = log.get("retention")


def purge(database: Database, spool: Spool, days: int, *, enough_bytes: int | None = None) -> int:
    """Take the pixel data out of what has been kept for `days`; returns how many studies.

    enough_bytes: of no more than hold so much. None while another looks through the spool, nor
    where a disk has no room for the smaller files. Cut off anywhere, it can be run again.
    """
    with spool.sole() as alone:
        if not alone:
            return 0
        with database.begin() as tx:
            expired = retention.expire(
                tx, days=days, limit=STUDIES_AT_ONCE, enough_bytes=enough_bytes
            )
        done = []
        for study in expired:
            if not all(_drop_pixels(spool, name) for name in study.spool_names):
                break  # nor would the others be
            done.append(study)
        if done:
            with database.begin() as tx:
                retention.record_purged(tx, done)
    return len(done)


def make_room(database: Database, spool: Spool, percent: int) -> int:
    """Take the oldest pixel data until the disk is no fuller; returns how many studies.

    After a few seconds it ends all the same, for the next look to go on.
    """
    deadline = time.monotonic() + MAKE_ROOM_WITHIN_S
    purged = 0
    while (excess_bytes := _excess_bytes(spool, percent)) > 0:
        now = purge(database, spool, 0, enough_bytes=excess_bytes)
        purged += now
        if not now or time.monotonic() > deadline:  # none: what is left is not delivered
            break
    return purged


def _excess_bytes(spool: Spool, percent: int) -> int:
    """Of what anybody may use, as `df` counts: a file system keeps some for root."""
    disk = spool.disk_usage()
    return disk.used - (disk.used + disk.free) * percent // 100


def _drop_pixels(spool: Spool, name: str) -> bool:
    """Make a file smaller; False if none can be made smaller now."""
    small = spool.temp / f"purge-{secrets.token_hex(8)}"
    try:
        write_header_only(spool.path(name), small)
        os.chmod(small, 0o600)  # noqa: PTH101 - as every file that is received
        spool.replace(name, small)
    except FileNotFoundError:
        _log.warning("no file for a row: %s", name)
    except UnreadableDicom as error:
        _log.warning("kept as it is: %s: %s", name, error)
    except OSError as error:  # of this file: the others go on
        _log.error("kept as it is: %s: %s", name, error.strerror)
        return error.errno not in NO_ROOM
    finally:
        small.unlink(missing_ok=True)
    return True
