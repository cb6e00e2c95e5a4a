"""The command send: C-STORE of files and folders."""

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from dicom_io import scu
from dicom_io.destination import Destination
from dicom_io.errors import DestinationUnavailable
from worker.errors import WorkerError


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--to", "to", required=True, metavar="AET@HOST:PORT", help="Who receives them.")
@click.option("--aet", default="CXR_SEND", show_default=True, help="Our calling AE title.")
def send(paths: tuple[Path, ...], to: str, aet: str) -> None:
    """Send DICOM files, or all files below folders, by C-STORE."""
    try:
        destination = Destination.parse(to)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--to") from error
    files = scu.files_in(paths)
    failed = 0
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("sending", total=len(files))
        try:
            for result in scu.send_files(files, destination, calling_ae_title=aet):
                progress.update(task, completed=result.done)
                if result.error is not None:
                    failed += 1
                    click.echo(f"{result.path}: {result.error}", err=True)
        except DestinationUnavailable as error:
            raise WorkerError(f"{to}: {error}") from error
    click.echo(f"{len(files) - failed} of {len(files)} files accepted by {to}")
    sys.exit(1 if failed or not files else 0)
