"""Moves the database's clock for a test: Python runs this module at the start of every process.

The processes are the real ones. All that differs is that the time which a transaction begins at is
ahead, or behind, by the seconds that the file CHAOS_CLOCK holds.
"""

import os
from datetime import datetime, timedelta
from pathlib import Path

CLOCK = os.environ.get("CHAOS_CLOCK")


def _move() -> None:
    from sqlalchemy.engine import Connection

    from db import engine

    plain = engine._database_clock
    file = Path(CLOCK or "")

    def moved(conn: Connection) -> datetime:
        return plain(conn) + timedelta(seconds=float(file.read_text()))

    engine._database_clock = moved


if CLOCK:
    _move()
