"""The command validate: stored results against the site's own labels."""

import sys
from pathlib import Path

import click

from db import schema
from db.engine import Database
from worker.services import make_interpreter, open_bundle
from worker.settings import Settings


@click.command()
@click.argument("labels", type=click.Path(path_type=Path), metavar="LABELS.csv")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("validation"),
    show_default=True,
    help="Where the report goes.",
)
def validate(labels: Path, out: Path) -> None:
    """Compare stored results with the site's own labels; write a report.

    LABELS.csv has a column `label` (0, 1, normal or pneumonia) and one of accession_number,
    study_instance_uid, sop_instance_uid. Thresholds, bands and prevalence are those that the
    worker reports with.
    """
    from model.evaluation.files import require_libraries
    from worker.validate import BadLabels, match, read_labels, report_on

    settings = Settings.from_env()
    require_libraries()
    bundle = open_bundle(settings)
    interpreter = make_interpreter(settings, bundle)
    try:
        site = read_labels(labels)
        database = Database(settings.database)
        schema.require_current(database)
        with database.read() as tx:
            matching = match(tx, site, bundle)
        report = report_on(site, matching, bundle, interpreter, settings.prevalence, out)
    except BadLabels as error:
        click.echo(f"cxr-worker: {error}", err=True)
        sys.exit(1)
    area = f"AUC {report['auc']:.4f} ({report['auc_low']:.4f} to {report['auc_high']:.4f})"
    click.echo(f"{len(matching.matched)} of {len(site.labels)} labels have a result; {area}")
    for reason, number in report["unmatched"].items():
        click.echo(f"without: {number} {reason}", err=True)
    click.echo(f"report: {out / 'validation.html'}")
