"""The command `cxr-worker`. Each command's module is imported only when it is called."""

import importlib
import sys
from typing import Any

import click

from db.errors import DatabaseError
from model.errors import ModelError
from worker.errors import WorkerError

# What each command needs is imported with it, so that `results` never waits for TensorFlow.
_COMMANDS = {
    "up": "serve:up",
    "listen": "serve:listen",
    "work": "serve:work",
    "web": "serve:web",
    "send": "transfer:send",
    "predict": "predict:predict",
    "results": "query:results",
    "show": "query:show",
    "failures": "query:failures",
    "compare": "query:compare",
    "status": "query:status",
    "retry": "again:retry",
    "reprocess": "again:reprocess",
    "destination": "again:destination",
    "retract": "withdraw:retract",
    "forget": "withdraw:forget",
    "validate": "validate:validate",
    "check": "admin:check",
    "health": "admin:health",
    "ready": "admin:ready",
    "db": "admin:db",
}


class _LazyGroup(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[name].split(":")
        command: click.Command = getattr(importlib.import_module(f"worker.cli.{module}"), attribute)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cxr-worker")
def cli() -> None:
    """Chest X-rays in from a PACS, a Structured Report back. Not for diagnostic use."""


def main(argv: list[str] | None = None) -> Any:
    """Entry point. Exit status: 0 done, 1 some of the work failed, 2 wrong usage or settings."""
    try:
        cli(argv, prog_name="cxr-worker")
    except (WorkerError, DatabaseError, ModelError) as error:
        click.echo(f"cxr-worker: {error}", err=True)
        sys.exit(2)
    except Exception as error:
        if not _is_database_error(error):
            raise
        name = type(error).__name__  # its message would have the statement and what was in it
        click.echo(f"cxr-worker: the database does not answer ({name})", err=True)
        sys.exit(1)


def _is_database_error(error: Exception) -> bool:
    """Asked without an import: who raised it has made that."""
    sqlalchemy_exc = sys.modules.get("sqlalchemy.exc")
    return sqlalchemy_exc is not None and isinstance(error, sqlalchemy_exc.OperationalError)
