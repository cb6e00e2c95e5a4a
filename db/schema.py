"""The schema's version: bring a database to it, or refuse to work on another."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from db.engine import Database
from db.errors import SchemaMismatch


def upgrade(database: Database) -> str:
    """Run the migrations that are missing; returns the schema version it is at then."""
    config = _config()
    with database.engine.begin() as conn:
        if conn.dialect.name == "postgresql":  # two that start at once take turns
            conn.exec_driver_sql("SELECT pg_advisory_xact_lock(4242110112)")
        config.attributes["connection"] = conn
        command.upgrade(config, "head")
    return wanted_version()


def wanted_version() -> str:
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError("db/migrations holds no migration")
    return head


def current_version(database: Database) -> str | None:
    with database.read() as tx:
        return _version_of(tx.conn)


def require_current(database: Database) -> None:
    """Raise SchemaMismatch unless the database is at exactly this version's schema."""
    found, wanted = current_version(database), wanted_version()
    if found != wanted:
        raise SchemaMismatch(
            f"the database is at schema {found or 'none'}, this version of cxr-worker needs "
            f"{wanted}: run `cxr-worker db upgrade` with the newest version in use"
        )


def _version_of(conn: Connection) -> str | None:
    return MigrationContext.configure(conn).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
