import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from db import queries, schema
from db.engine import Database
from db.errors import SchemaMismatch
from db.tables import metadata
from db.views import VIEWS
from tests.support import rows

INDEXES = {  # that belong to no constraint
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
    "postgresql": "SELECT indexname FROM pg_indexes WHERE indexname LIKE 'ix\\_%'",
}


def test_the_migrations_make_exactly_the_tables_of_the_code(database: Database) -> None:
    with database.read() as tx:
        context = MigrationContext.configure(tx.conn, opts={"compare_type": True})
        differences = [
            (what, *rest)
            for what, *rest in compare_metadata(context, metadata)
            # The words of an expression come back from PostgreSQL in its own form.
            if not (what.endswith("_index") and _is_of_an_expression(rest[0]))
        ]
        indexes = set(tx.conn.scalars(sa.text(INDEXES[tx.conn.dialect.name])))
    assert differences == []
    assert indexes == {index.name for table in metadata.tables.values() for index in table.indexes}


def _is_of_an_expression(index: sa.Index) -> bool:
    return any(not isinstance(part, sa.Column) for part in index.expressions)


def test_an_empty_database_is_refused_until_it_is_upgraded(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(SchemaMismatch, match="cxr-worker db upgrade"):
        schema.require_current(database)
    schema.upgrade(database)
    schema.require_current(database)
    assert schema.upgrade(database) == schema.current_version(database) == schema.VERSION
    database.dispose()


def test_a_schema_that_a_newer_version_made_is_refused_and_left_alone(database: Database) -> None:
    with database.begin() as tx:
        tx.conn.execute(sa.text("UPDATE alembic_version SET version_num = '0999'"))
    for refused in (schema.require_current, schema.upgrade):
        with pytest.raises(SchemaMismatch, match=r"made by a newer cxr-worker.* 0001"):
            refused(database)
    assert schema.current_version(database) == "0999"


def test_an_upgrade_keeps_what_is_there(database: Database) -> None:
    rows.analyse(database, "1.2.3.4")
    rows.report(database, "1.2.3.5", "PACS@h:104")
    before = _everything(database)
    assert schema.upgrade(database) == schema.VERSION
    assert _everything(database) == before


def _everything(database: Database) -> dict[str, list[tuple[object, ...]]]:
    with database.read() as tx:
        return {
            table.name: [tuple(row) for row in tx.conn.execute(sa.select(table))]
            for table in metadata.sorted_tables
        }


def test_the_views_have_the_columns_that_the_queries_name(database: Database) -> None:
    with database.read() as tx:
        views = [vars(queries)[name] for name in VIEWS]
        for view in views:
            found = tx.conn.execute(sa.text(f"SELECT * FROM {view.name}")).keys()
            assert list(found) == [column.name for column in view.columns]


def test_the_version_of_the_code_is_that_of_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", "db/migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == schema.VERSION
