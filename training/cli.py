"""`cxr-train`: from the public data to a bundle. Libraries load only where a command needs them."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

FOLDER = click.Path(path_type=Path, file_okay=False)
CACHE = Path("runs/cache")

run_argument = click.argument("run", type=FOLDER, metavar="RUN")
cache_option = click.option(
    "--cache", type=FOLDER, default=CACHE, show_default=True, help="Where preprocessed images lie."
)
threads_option = click.option("--threads", type=click.IntRange(min=1), help="CPU threads to use.")


negatives_option = click.option(
    "--negatives", type=FOLDER, help="More pictures that are no chests, to try the score on."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train, evaluate and export the pneumonia model."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )


@main.command()
def download() -> None:
    """Download the Kaggle set and print its folder, for --data."""
    from training.download import download as fetch

    with explained():
        click.echo(fetch())


@main.command()
@click.option("--data", type=FOLDER, required=True, help="Folder with train/, val/ and test/.")
def inspect(data: Path) -> None:
    """Count images, patients, sizes, copies and unreadable files of a data folder."""
    from training.inspection import inspect as look
    from training.inspection import shared_across_splits

    with explained():
        summaries = look(data)
        pairs = shared_across_splits(data)
    for summary in summaries:
        classes = ", ".join(f"{name} {number}" for name, number in summary.by_class.items())
        click.echo(
            f"{summary.split}: {summary.images} images ({classes}; "
            f"{summary.prevalence:.1%} pneumonia), {summary.patients} patients in "
            f"{summary.groups} groups, sides {summary.sides[0]} to {summary.sides[1]} px, "
            f"{summary.smaller_than_model} smaller than the model's input, "
            f"{summary.byte_identical_sets} sets of byte-identical files, "
            f"{len(summary.unreadable)} unreadable"
        )
        for name in summary.unreadable:
            click.echo(f"unreadable: {summary.split}/{name}", err=True)
    for first, second in pairs:
        click.echo(f"the same file in two splits: {first} and {second}", err=True)
    if any(summary.unreadable for summary in summaries) or pairs:
        sys.exit(1)


@main.command()
@click.argument("recipe")
@click.option("--data", type=FOLDER, required=True, help="Folder that holds train/.")
@click.option("--run", type=FOLDER, help="The run's folder.  [default: runs/RECIPE]")
@click.option("--weights", default="imagenet", show_default=True, help="imagenet, FILE or none.")
@click.option("--fold", default=0, show_default=True, help="Validation fold, counted from 0.")
@click.option("--folds", default=5, show_default=True, type=click.IntRange(min=2))
@click.option("--seed", default=0, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's.")
@threads_option
@cache_option
def fit(
    recipe: str,
    data: Path,
    run: Path | None,
    weights: str,
    fold: int,
    folds: int,
    seed: int,
    epochs: int | None,
    threads: int | None,
    cache: Path,
) -> None:
    """Fit RECIPE on a patient-grouped fold; run again to resume after a kill."""
    from training import backend, dataset
    from training import recipe as recipes
    from training.run import Run, RunSettings

    with explained():
        chosen = recipes.find(recipe)
        backend.start(threads)
        from training.fit import fit as fit_recipe

        pictures = dataset.load(data / "train", cache, show_progress)
        settings = RunSettings(
            recipe=chosen.name,
            data=str(data),
            data_digest=pictures.digest,
            fold=fold,
            folds=folds,
            seed=seed,
            epochs=epochs or chosen.epochs,
            weights=None if weights == "none" else weights,
        )
        folder = Run(run or Path("runs") / chosen.name)
        fit_recipe(chosen, pictures, folder, settings)
    click.echo(f"fitted; next: cxr-train calibrate {folder.folder}")


@main.command()
@run_argument
@threads_option
@cache_option
def calibrate(run: Path, threads: int | None, cache: Path) -> None:
    """Predict the validation fold and fit the temperature on it."""
    from training import backend
    from training.calibrate import fit_temperature
    from training.run import Run

    with explained():
        backend.start(threads)
        from training.assess import predict_validation

        predictions = predict_validation(Run(run), cache)
        temperature = fit_temperature(predictions.logits, predictions.labels)
        Run(run).calibration.write_text(json.dumps({"temperature": temperature}) + "\n")
    click.echo(f"temperature {temperature:.4f}; next: cxr-train evaluate {run}")


@main.command()
@click.argument("path", type=FOLDER, metavar="RUN|BUNDLE")
@click.option("--data", type=FOLDER, help="With a bundle: folder that holds the split.")
@click.option("--split", default="test", show_default=True, help="With a bundle.")
@click.option("--out", type=FOLDER, help="With a bundle: where the report goes.")
@threads_option
@cache_option
def evaluate(
    path: Path, data: Path | None, split: str, out: Path | None, threads: int | None, cache: Path
) -> None:
    """Report on a run's validation fold, or on a bundle with any labelled split.

    A run chooses its thresholds here; a bundle's are applied as they are.
    """
    from training import backend
    from training.run import Run

    with explained():
        backend.start(threads)
        from training.assess import assess_bundle, assess_run

        if Run(path).settings_file.exists():
            report, target = assess_run(Run(path)), path
        elif data is None or out is None:
            raise click.UsageError("a bundle needs --data and --out")
        else:
            report, target = assess_bundle(path, data / split, cache, out), out
    click.echo(f"AUC {report['auc']:.4f} ({report['auc_low']:.4f} to {report['auc_high']:.4f})")
    for name, at in report["operating_points"].items():
        rates = ("accuracy", "sensitivity", "specificity")
        click.echo(f"{name}: " + ", ".join(f"{rate} {at[rate]:.4f}" for rate in rates))
    click.echo(f"report: {target / 'evaluation.json'}, {target / 'evaluation.png'}")


@main.command()
@run_argument
@click.option("--version", required=True, help="The bundle's version, for example 0.2.0.")
@click.option("--out", type=FOLDER, default=Path("runs/bundles"), show_default=True)
@negatives_option
@cache_option
def export(run: Path, version: str, out: Path, negatives: Path | None, cache: Path) -> None:
    """Make a bundle of an evaluated run, for MODEL_BUNDLE."""
    from training import backend
    from training import recipe as recipes
    from training.run import Run

    with explained():
        backend.start()
        from training.assess import evaluated
        from training.export import export as export_run
        from training.export import new_folder
        from training.ood import fit_ood

        folder = Run(run)
        new_folder(folder, version=version, parent=out)
        dataset, split = folder.data(cache, show_progress)
        found = evaluated(folder)
        recipe = recipes.find(folder.settings().recipe)
        score = fit_ood(folder, recipe, dataset, split, negatives)
        bundle = export_run(folder, dataset, split, found, score, version=version, parent=out)
    click.echo(f"bundle: {bundle.path}")


@main.command()
@run_argument
@negatives_option
@threads_option
@cache_option
def ood(run: Path, negatives: Path | None, threads: int | None, cache: Path) -> None:
    """Fit RUN's out-of-distribution score as `export` does, and print how it does."""
    from training import backend
    from training import recipe as recipes
    from training.run import Run

    with explained():
        backend.start(threads)
        from training.ood import fit_ood

        folder = Run(run)
        dataset, split = folder.data(cache, show_progress)
        recipe = recipes.find(folder.settings().recipe)
        report = fit_ood(folder, recipe, dataset, split, negatives).report
    click.echo(json.dumps(report.plain(), indent=2))


@main.command()
@click.argument("bundle", type=FOLDER, metavar="BUNDLE")
@click.option("--data", type=FOLDER, required=True, help="Folder that holds train/.")
@click.option("--pictures", default=200, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True)
@threads_option
def saliency(bundle: Path, data: Path, pictures: int, seed: int, threads: int | None) -> None:
    """Hide what BUNDLE's saliency points at in validation pictures, and print what that does."""
    from training import backend

    with explained():
        backend.start(threads)
        from training.saliency import MASKED_SHARE, try_saliency

        found = try_saliency(bundle, data / "train", pictures, seed)
    click.echo(f"{found.pneumonias} pneumonias among {found.pictures} validation pictures")
    click.echo("                                mean probability   mean logit")
    for what, probability, logit in (
        ("as they are", found.probability, found.logit),
        (f"random {MASKED_SHARE:.0%} hidden", found.probability_random, found.logit_random),
        (f"hottest {MASKED_SHARE:.0%} hidden", found.probability_masked, found.logit_masked),
    ):
        click.echo(f"{what:<31} {probability:>17.4f} {logit:>12.2f}")
    click.echo(
        f"the hottest {MASKED_SHARE:.0%} lowers the logit more than the random ones in "
        f"{found.lowered_more:.1%} of the pneumonias"
    )
    click.echo(
        f"{found.central:.1%} of saliency lies in the central thorax, "
        f"{found.central_area:.1%} of the picture"
    )


def show_progress(done: int, total: int) -> None:
    """Redraw one line on a terminal; a line in ten otherwise."""
    terminal = sys.stderr.isatty()
    if done == total or (done % 50 == 0 if terminal else done % max(1, total // 10) == 0):
        end = "\r" if terminal and done < total else "\n"
        click.echo(f"preprocessed {done}/{total}{end}", nl=False, err=True)


@contextmanager
def explained() -> Iterator[None]:
    """Turn the errors that a user can mend into one line, exit code 1; the rest stay loud."""
    from model.errors import ModelError
    from training.errors import TrainingError

    try:
        yield
    except (TrainingError, ModelError) as error:
        raise click.ClickException(str(error)) from error
