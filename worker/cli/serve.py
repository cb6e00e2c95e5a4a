"""Commands that run until they are stopped: up, listen, work."""

import sys

import click

from worker import audit, log
from worker.settings import Settings

_concurrency = click.option(
    "--concurrency",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Processes that prepare, report and deliver.",
)


def _configured() -> Settings:
    settings = Settings.from_env()
    log.configure(settings.log_level, settings.log_format)
    return settings


def _load_no_gdcm() -> None:
    """In a process that decodes no pixels: pydicom loads GDCM with itself, 19 MB and 0.3 s."""
    sys.modules["gdcm"] = None  # type: ignore[assignment]


@click.command()
@_concurrency
def up(concurrency: int) -> None:
    """Run everything on this machine: listener, workers, embedded broker, SQLite."""
    _load_no_gdcm()
    from worker import up as up_

    sys.exit(up_.run(_configured(), dicom_concurrency=concurrency))


@click.command()
def listen() -> None:
    """Run the listener: receive objects by C-STORE."""
    _load_no_gdcm()
    from worker import listener
    from worker.errors import WorkerError
    from worker.supervisor import stop_event

    settings = _configured()
    try:
        with audit.application(settings, "listener"):
            sys.exit(listener.run(settings, stop_event()))
    except OSError as error:
        where = f"{settings.bind}:{settings.dicom_port}"
        raise WorkerError(
            f"cannot listen on {where}: {error.strerror}; set CXR_BIND and CXR_DICOM_PORT to an "
            "address of this machine and a free port"
        ) from error


@click.command()
@click.option("--role", type=click.Choice(["dicom", "inference"]), required=True)
@_concurrency
def work(role: str, concurrency: int) -> None:
    """Run a worker: dicom (prepare, report, deliver) or inference (TensorFlow)."""
    _load_no_gdcm()  # the dicom role's pixels are decoded by processes that it starts
    from worker import roles

    settings = _configured()
    with audit.application(settings, f"worker, {role}"):
        if role == "dicom":
            sys.exit(roles.run_dicom(settings, concurrency))
        sys.exit(roles.run_inference(settings))


@click.command()
def web() -> None:
    """Run the web page, its API and metrics."""
    from worker.web import server

    settings = _configured()
    with audit.application(settings, "web"):
        server.run(settings)
