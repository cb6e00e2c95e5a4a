"""docs/QUERIES.md: its queries answer alike on both databases, and it explains every column."""

import re
from collections import Counter
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db import schema
from db.engine import Database
from db.views import VIEWS
from tests.support import population

PAGE = (Path(__file__).resolve().parents[2] / "docs/QUERIES.md").read_text()
STATEMENTS = re.findall(r"```sql\n(.*?);\n```", PAGE, re.DOTALL)
QUERIES = [statement for statement in STATEMENTS if not statement.startswith("CREATE ROLE")]
STUDIES = 700


@pytest.fixture(scope="module")
def both(
    postgresql_server: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Database, Database]:
    """The same studies in SQLite and in PostgreSQL."""
    url = sa.make_url(postgresql_server).set(drivername="postgresql+psycopg")
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as conn:
        conn.execute(sa.text("CREATE DATABASE queries_page"))
    admin.dispose()
    made = (
        Database(f"sqlite:///{tmp_path_factory.mktemp('queries') / 'cxr.db'}"),
        Database(url.set(database="queries_page").render_as_string(hide_password=False)),
    )
    for database in made:
        schema.upgrade(database)
        population.fill(database, STUDIES)
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d", value):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(sep=" ")
    if isinstance(value, date):
        return value.isoformat()
    return round(float(value), 6) if isinstance(value, float | Decimal) else value


def _answer(database: Database, query: str) -> list[dict[str, Any]]:
    with database.read() as tx:
        if not database.is_sqlite:
            tx.conn.execute(sa.text("SET LOCAL TIME ZONE 'UTC'"))
        rows = tx.conn.execute(sa.text(query)).mappings()
        return [{name: _plain(value) for name, value in row.items()} for row in rows]


def test_there_are_ten_queries() -> None:
    assert len(QUERIES) == 10


@pytest.mark.parametrize("number", range(10))
def test_a_query_answers_alike_on_both_databases(
    both: tuple[Database, Database], number: int
) -> None:
    sqlite, postgresql = (_answer(database, QUERIES[number]) for database in both)
    assert sqlite == postgresql
    assert sqlite


def test_the_first_query_counts_what_is_there(both: tuple[Database, Database]) -> None:
    days = _answer(both[0], QUERIES[0])
    rows = _answer(both[0], "SELECT * FROM study_results WHERE origin = 'pacs'")
    assert Counter(row["received_at"][:10] for row in rows) == {
        day["day"]: day["studies"] for day in days
    }
    bands = Counter(row["band"] for row in rows)
    assert sum(day["positive"] for day in days) == bands["positive"]
    assert sum(day["without_a_band"] for day in days) == bands[None]


def test_the_percentiles_are_those_of_the_sorted_times(both: tuple[Database, Database]) -> None:
    (answer,) = _answer(both[1], QUERIES[1])
    rows = _answer(both[1], "SELECT total_s FROM study_times WHERE total_s IS NOT NULL")
    times = sorted(row["total_s"] for row in rows)
    assert answer["studies"] == len(times)
    assert answer["median_s"] == times[(len(times) + 1) // 2 - 1]
    assert answer["longest_s"] == times[-1]


def test_a_reader_sees_the_views_and_nothing_else(both: tuple[Database, Database]) -> None:
    (statement,) = (it for it in STATEMENTS if it.startswith("CREATE ROLE"))
    with both[1].begin() as tx:
        tx.conn.execute(sa.text(statement))
        tx.conn.execute(sa.text("SET LOCAL ROLE cxr_reader"))
        for view in VIEWS:
            assert tx.conn.execute(sa.text(f"SELECT count(*) FROM {view}")).scalar_one() > 0
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            tx.conn.execute(sa.text("SELECT count(*) FROM studies"))
        tx.conn.rollback()


def test_every_column_of_every_view_is_explained(both: tuple[Database, Database]) -> None:
    documented = {
        section.split("\n", 1)[0].strip(): re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
        for section in re.split(r"^### ", PAGE.split("## Ten queries")[0], flags=re.MULTILINE)[1:]
    }
    with both[0].read() as tx:
        found = {
            view: list(tx.conn.execute(sa.text(f"SELECT * FROM {view}")).keys()) for view in VIEWS
        }
    assert documented == found
