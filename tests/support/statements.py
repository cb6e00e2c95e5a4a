"""What a database is asked, for tests of how it would look for the answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from db.engine import Database

Asked = list[tuple[str, Any]]  # statement, parameters


@contextmanager
def asked_of(database: Database) -> Iterator[Asked]:
    """A list that grows by every statement that is executed meanwhile."""
    asked: Asked = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    sa.event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", note)
