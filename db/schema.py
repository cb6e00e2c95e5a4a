"""The schema's version: bring a database to it, or refuse to work on another."""

from pathlib import Path

import sqlalchemy as sa

from db.engine import Database
from db.errors import SchemaMismatch

VERSION = "0001"  # the newest of migrations/versions
_UPGRADE_LOCK = 4242110112  # two that start at once take turns


def upgrade(database: Database) -> str:
    """Run the migrations that are missing; returns the schema version it is at then.

    Raises SchemaMismatch when a newer cxr-worker has made the schema.
    """
    from alembic import command  # slow to import, and no query needs it
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with database.engine.begin() as conn:
        if conn.dialect.name == "postgresql":
            conn.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})")
        _refuse_newer(_version_of(conn))
        config.attributes["connection"] = conn
        command.upgrade(config, "head")
    return VERSION


def current_version(database: Database) -> str | None:
    with database.read() as tx:
        return _version_of(tx.conn)


def _version_of(conn: sa.Connection) -> str | None:
    if not sa.inspect(conn).has_table("alembic_version"):
        return None
    found = conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def _refuse_newer(found: str | None) -> None:
    if found is not None and found > VERSION:  # both are numbers of four digits
        raise SchemaMismatch(
            f"the database is at schema {found}, made by a newer cxr-worker; this one works on "
            f"{VERSION}: install the newer version here too"
        )


def require_current(database: Database) -> None:
    """Raise SchemaMismatch unless the database is at exactly this version's schema."""
    found = current_version(database)
    _refuse_newer(found)
    if found != VERSION:
        raise SchemaMismatch(
            f"the database is at schema {found or 'none'}, this version of cxr-worker needs "
            f"{VERSION}: run `cxr-worker db upgrade` with the newest version in use"
        )
