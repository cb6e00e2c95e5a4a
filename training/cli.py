"""`cxr-train`: from the public data to a bundle. Libraries load only where a command needs them."""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
CACHE = Path("runs/cache")

run_argument = click.argument("run", type=FOLDER, metavar="RUN")
cache_option = click.option(
    "--cache", type=FOLDER, default=CACHE, show_default=True, help="Where preprocessed images lie."
)
threads_option = click.option("--threads", type=click.IntRange(min=1), help="CPU threads to use.")


negatives_option = click.option(
    "--negatives", type=FOLDER, help="More pictures that are no chests, to try the score on."
)


def csv_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of the CSV layout (NIH ChestX-ray's), instead of --data."""
    for option in (
        click.option("--positive", default="Pneumonia", show_default=True, help="With --csv."),
        click.option("--images", type=FOLDER, help="With --csv: where its pictures lie, or below."),
        click.option(
            "--csv", "csv_file", type=FILE, help="Image Index, Finding Labels, Patient ID."
        ),
    ):
        command = option(command)
    return command


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
@click.option("--data", type=FOLDER, help="Folder with train/, val/ and test/.")
@csv_options
@click.option("--sheet", type=FILE, help="Also draw a sheet of random pictures: a PNG file.")
@click.option("--list", "list_max", default=10, show_default=True, help="Names shown of each kind.")
def inspect(
    data: Path | None,
    csv_file: Path | None,
    images: Path | None,
    positive: str,
    sheet: Path | None,
    list_max: int,
) -> None:
    """Count images, patients, sizes, copies and broken files; exit code 1 if something is wrong.

    Wrong is a file that cannot be decoded to its end, or the same file in two splits.
    """
    from training.dataset import CLASSES
    from training.findings import scan_findings
    from training.inspection import draw_sheet, folder_splits
    from training.inspection import inspect as look

    with explained():
        folder = layout(data, csv_file, images)
        if csv_file is None:
            files, classes = folder_splits(folder), CLASSES
        else:
            files = {csv_file.name: scan_findings(csv_file, folder, positive)}
            classes = (f"not {positive}", positive)
        found = look(files, show_progress)
        if sheet:
            draw_sheet(sheet, files, classes)
    for it in found.summaries:
        click.echo(
            f"{it.split}: {it.images} images ({classes[0]} {it.images - it.positive}, "
            f"{classes[1]} {it.positive}: {it.positive / it.images:.1%}), {it.patients} patients "
            f"in {it.groups} groups, sides {it.sides[0]} to {it.sides[1]} px, "
            f"{it.byte_identical_sets} sets of byte-identical files"
        )
    near = [f"{one} and {other}, {bits} of 256 bits" for one, other, bits in found.near_identical]
    shared = [f"{one} and {other}" for one, other in found.shared]
    show_list("smaller than the model's 224 px", found.low_resolution, list_max)
    show_list("nearly identical", near, list_max)
    show_list("the same file in two splits", shared, list_max, err=True)
    show_list("unreadable or cut off", found.unreadable, list_max, err=True)
    if sheet:
        click.echo(f"sheet: {sheet}")
    if found.unreadable or found.shared:
        sys.exit(1)


@main.command()
@click.argument("recipe")
@click.option("--data", type=FOLDER, help="Folder that holds train/.")
@csv_options
@click.option("--run", type=FOLDER, help="The run's folder.  [default: runs/RECIPE]")
@click.option("--weights", default="imagenet", show_default=True, help="imagenet, FILE or none.")
@click.option("--fold", default=0, show_default=True, help="Validation fold, counted from 0.")
@click.option("--folds", default=5, show_default=True, type=click.IntRange(min=2))
@click.option(
    "--split",
    default="random",
    show_default=True,
    help="random, or a shift to hold out as well: training/shift.py names them.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--split-seed", type=int, help="Of the folds alone.  [default: --seed]")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "mixed_float16", "mixed_bfloat16"]),
    default="float32",
    show_default=True,
    help="Mixed ones are for GPUs.",
)
@threads_option
@cache_option
def fit(
    recipe: str,
    data: Path | None,
    csv_file: Path | None,
    images: Path | None,
    positive: str,
    run: Path | None,
    weights: str,
    fold: int,
    folds: int,
    split: str,
    seed: int,
    split_seed: int | None,
    epochs: int | None,
    precision: str,
    threads: int | None,
    cache: Path,
) -> None:
    """Fit RECIPE on a patient-grouped split; run again to resume after a kill."""
    from training import backend, dataset
    from training import recipe as recipes
    from training.run import Run, RunSettings, scan_data

    with explained():
        chosen = recipes.find(recipe)
        folder = layout(data, csv_file, images)
        table = str(csv_file) if csv_file else None
        finding = positive if csv_file else None
        backend.start(threads)
        from training.fit import fit as fit_recipe

        files = scan_data(str(folder), table, finding)
        pictures = dataset.load_files(files, cache, show_progress)
        settings = RunSettings(
            recipe=chosen.name,
            data=str(folder),
            csv=table,
            positive=finding,
            data_digest=pictures.digest,
            fold=fold,
            folds=folds,
            seed=seed,
            split_seed=split_seed,
            epochs=epochs or chosen.epochs,
            weights=None if weights == "none" else weights,
            split=split,
            precision=precision,
            both_sides=chosen.both_sides,
        )
        target = Run(run or Path("runs") / chosen.name)
        fit_recipe(chosen, pictures, target, settings)
    click.echo(f"fitted; next: cxr-train calibrate {target.folder}")


@main.command()
@run_argument
@threads_option
@cache_option
def calibrate(run: Path, threads: int | None, cache: Path) -> None:
    """Predict the validation fold and fit the temperature on it."""
    from training import backend
    from training.calibrate import fit_temperature
    from training.dataset import CLASSES
    from training.errors import RunError
    from training.run import Run

    with explained():
        backend.start(threads)
        from training.assess import predict_validation

        predictions = predict_validation(Run(run), cache)
        if len(set(predictions.labels.tolist())) < len(CLASSES):
            raise RunError(
                f"the validation fold of {run} has pictures of one class only: fit with fewer "
                "--folds, another --seed or more patients"
            )
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

    A run chooses its thresholds here; a bundle's are applied as they are. Writes
    evaluation.html, .json, .csv (every image) and .png.
    """
    from training import backend
    from training.run import Run

    classes = None
    with explained():
        backend.start(threads)
        from training.assess import assess_bundle, assess_run
        from training.classes import assess_classes, table_of

        if Run(path).settings_file.exists():
            classes = assess_classes(Run(path), Run(path).recipe(), cache)
            tables = [table_of(classes)] if classes else []
            report, target = assess_run(Run(path), cache, tables), path
        elif data is None or out is None:
            raise click.UsageError("a bundle needs --data and --out")
        else:
            report, target = assess_bundle(path, data / split, cache, out), out
    show_figures(report)
    if "shifted" in report:
        click.echo("held out by the shift, at the thresholds of validation:")
        show_figures(report["shifted"])
    for name, one in classes["per_class"].items() if classes else ():
        click.echo(f"{name}: recall {one['recall']:.4f}, precision {one['precision']:.4f}")
    click.echo(f"report: {target / 'evaluation.html'}")


@main.command()
@click.argument("runs", type=FOLDER, metavar="RUN...", nargs=-1, required=True)
@click.option("--out", type=FOLDER, required=True, help="Where the report goes.")
@threads_option
@cache_option
def pool(runs: tuple[Path, ...], out: Path, threads: int | None, cache: Path) -> None:
    """Report on the folds of several runs together: cross-validation.

    Temperature and thresholds for each fold are chosen on the other folds.
    """
    from training import backend
    from training.run import Run

    with explained():
        backend.start(threads)
        from training.assess import pool_runs

        report = pool_runs([Run(run) for run in runs], cache, out)
    show_figures(report)
    click.echo(f"report: {out / 'evaluation.html'}")


@main.command()
@run_argument
@click.option("--version", required=True, help="The bundle's version, for example 0.2.0.")
@click.option("--out", type=FOLDER, default=Path("runs/bundles"), show_default=True)
@negatives_option
@cache_option
def export(run: Path, version: str, out: Path, negatives: Path | None, cache: Path) -> None:
    """Make a bundle of an evaluated run, for MODEL_BUNDLE."""
    from training import backend
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
        found = evaluated(folder, dataset)
        score = fit_ood(folder.final, folder.recipe(), dataset, split, negatives, blind=True)
        bundle = export_run(folder, dataset, split, found, score, version=version, parent=out)
    click.echo(f"bundle: {bundle.path}")


@main.command()
@click.argument("bundles", nargs=-1, required=True, type=FOLDER, metavar="BUNDLE BUNDLE…")
@click.option("--name", default="ensemble", show_default=True)
@click.option("--version", required=True, help="The new bundle's version, for example 0.1.0.")
@click.option("--out", type=FOLDER, default=Path("runs/bundles"), show_default=True)
def ensemble(bundles: tuple[Path, ...], name: str, version: str, out: Path) -> None:
    """Make one bundle that averages several, validated on the same pictures."""
    from training import backend

    with explained():
        backend.start()
        from training.ensemble import make_ensemble

        made = make_ensemble(bundles, name=name, version=version, parent=out)
    click.echo(f"bundle: {made.path}, AUC {made.metrics['auc']:.4f}")


@main.command()
@click.argument("path", type=FOLDER, metavar="RUN|BUNDLE")
@click.option("--data", type=FOLDER, help="With a bundle: folder that holds train/.")
@click.option("--version", help="With a bundle: write a copy with this score, as this version.")
@click.option("--out", type=FOLDER, default=Path("runs/bundles"), show_default=True)
@click.option("--blind", is_flag=True, help="Score the blind half too: when all is chosen.")
@negatives_option
@threads_option
@cache_option
def ood(
    path: Path,
    data: Path | None,
    version: str | None,
    out: Path,
    blind: bool,
    negatives: Path | None,
    threads: int | None,
    cache: Path,
) -> None:
    """Fit the out-of-distribution score as `export` does, and print how it does."""
    from training import backend
    from training import recipe as recipes
    from training.run import Run

    with explained():
        backend.start(threads)
        from model.bundle import WEIGHTS, read_bundle
        from training import dataset
        from training.export import VALIDATION, rescore
        from training.ood import fit_ood, split_of_bundle

        run, bundle = Run(path), None
        if run.settings_file.exists():
            pictures, split = run.data(cache, show_progress)
            name, weights = run.settings().recipe, run.final
        elif data is None:
            raise click.UsageError("a bundle needs --data")
        else:
            bundle = read_bundle(path)
            pictures = dataset.load(data / "train", cache, show_progress)
            split = split_of_bundle(bundle, pictures, path / VALIDATION)
            name, weights = bundle.name, path / WEIGHTS
        recipe = recipes.find(name)
        blind = blind or version is not None
        fitted = fit_ood(weights, recipe, pictures, split, negatives, blind=blind)
        click.echo(json.dumps(fitted.report.plain(), indent=2))
        if bundle is not None and version is not None:
            written = rescore(bundle, fitted, version=version, parent=out)
            click.echo(f"bundle: {written.path}", err=True)


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


def show_figures(report: dict[str, Any]) -> None:
    """AUC and the rates at each operating point."""
    click.echo(f"AUC {report['auc']:.4f} ({report['auc_low']:.4f} to {report['auc_high']:.4f})")
    for name, at in report["operating_points"].items():
        rates = ("accuracy", "sensitivity", "specificity")
        click.echo(f"{name}: " + ", ".join(f"{rate} {at[rate]:.4f}" for rate in rates))


def layout(data: Path | None, csv_file: Path | None, images: Path | None) -> Path:
    """The folder of the pictures; exactly one layout must be named."""
    if csv_file is None and images is None and data is not None:
        return data
    if csv_file is not None and images is not None and data is None:
        return images
    raise click.UsageError("name the data by --data FOLDER, or by --csv FILE and --images FOLDER")


def show_list(title: str, names: Sequence[str], list_max: int, *, err: bool = False) -> None:
    """One line a name, and how many there are in all."""
    if names:
        click.echo(f"{title}: {len(names)}", err=err)
    for name in names[:list_max]:
        click.echo(f"  {name}", err=err)
    if len(names) > list_max:
        click.echo(f"  … and {len(names) - list_max} more (--list)", err=err)


def show_progress(done: int, total: int) -> None:
    """Redraw one line on a terminal; a line in ten otherwise."""
    terminal = sys.stderr.isatty()
    if done == total or (done % 50 == 0 if terminal else done % max(1, total // 10) == 0):
        end = "\r" if terminal and done < total else "\n"
        click.echo(f"read {done}/{total}{end}", nl=False, err=True)


@contextmanager
def explained() -> Iterator[None]:
    """Turn the errors that a user can mend into one line, exit code 1; the rest stay loud."""
    from model.errors import ModelError
    from training.errors import TrainingError

    try:
        yield
    except (TrainingError, ModelError) as error:
        raise click.ClickException(str(error)) from error
