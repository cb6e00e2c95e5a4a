"""Connects runs and bundles with the evaluation: who predicts, what is written where.

A report is STEM.html, STEM.json and STEM.csv; runs and bundles also get the four-panel PNG.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from dicom_io import preprocess
from model.bundle import WEIGHTS, Bundle, read_bundle
from model.evaluation.cases import Cases, Rule
from model.evaluation.figures import figures
from model.evaluation.files import write_report
from model.evaluation.page import Page, Table
from model.evaluation.report import evaluate
from model.predict import Predictor
from training import gallery
from training.dataset import Dataset, load
from training.errors import RunError
from training.evaluate import (
    cases_of,
    choose_points,
    choose_rule,
    cross_fitted,
    only_fold,
    shown_beside,
)
from training.export import Evaluated
from training.fit import predict
from training.networks import as_served
from training.plots import draw_evaluation
from training.predictions import (
    Predictions,
    predict_twins,
    read_predictions,
    write_predictions,
)
from training.run import Run, read_log
from training.subgroups import subgroups

STEM = "evaluation"
SHIFTED_STEM = "evaluation-shifted"
VALIDATION = "validation.csv"  # of a bundle


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """A report about to be written: what it is of, and how it was made."""

    title: str
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    log: Sequence[dict[str, float]] = ()
    saliency: gallery.Saliency | None = None
    tables: Sequence[Table] = field(default_factory=tuple)


def predict_validation(run: Run, cache: Path) -> Predictions:
    """Predict a finished run's validation fold with its twins, once, and keep the result.

    So are the pictures that a shift held out.
    """
    if not run.final.exists():
        raise RunError(f"{run.folder} is not fitted to its end: run `cxr-train fit` again")
    if run.predictions.exists():
        return read_predictions(run.predictions)
    dataset, split = run.data(cache)
    network = _served(run)

    def predict_into(path: Path, indices: NDArray[np.int64]) -> Predictions:
        made = predict_twins(lambda pixels: predict(network, pixels), dataset, indices)
        write_predictions(path, made)
        return made

    if len(split.shifted):
        predict_into(run.shifted_predictions, split.shifted)
    return predict_into(run.predictions, split.validation)


def _served(run: Run) -> Any:
    """The run's network as it is served, without what its score is made of."""
    network = as_served(keras.saving.load_model(run.final, compile=False), run.recipe())
    return keras.Model(network.input, network.outputs[0])


def evaluated(run: Run, dataset: Dataset) -> Evaluated:
    """Choose the thresholds of a calibrated run and evaluate it on its validation fold.

    Raises RunError when the run was not calibrated.
    """
    predictions, rule = _validated(run)
    points = choose_points(predictions.labels, predictions.logits)
    cases = _cases(dataset, [predictions], [rule])
    report = evaluate(cases)
    draw_evaluation(run.plot, cases, report)
    return Evaluated(predictions=predictions, points=points, report=report)


def assess_run(run: Run, cache: Path, tables: Sequence[Table] = ()) -> dict[str, Any]:
    """Write the run's report, with more tables; with a shift, a second one on what that held out.

    Returns the first, with the second as its `shifted`.
    """
    dataset, _ = run.data(cache)
    predictions, rule = _validated(run)
    settings = run.settings()
    saliency = gallery.saliency_of(_served(run))
    facts = [
        ("Run", f"{settings.recipe}, seed {settings.seed}, {settings.epochs} epochs"),
        ("Data", f"fold {settings.fold} of {settings.folds}, split {settings.split}"),
        ("Digest of the data", settings.data_digest),
    ]
    validation = Assessment(
        title=f"{settings.recipe}: evaluation on validation",
        facts=facts,
        notes=[
            "None of these images was fitted, and no patient and no copy of an image is on both "
            "sides. Temperature and thresholds were chosen on these very images, so the figures "
            "at thresholds are slightly favourable; `cxr-train pool` gives such as are not."
        ],
        log=read_log(run.log),
        tables=tables,
        saliency=saliency,
    )
    cases = _cases(dataset, [predictions], [rule])
    report = _write(run.folder, STEM, cases, dataset, validation)
    draw_evaluation(run.plot, cases, report)
    if run.shifted_predictions.exists():
        shifted = Assessment(
            title=f"{settings.recipe}: evaluation under the shift {settings.split}",
            facts=facts,
            notes=[
                f"The images that the split `{settings.split}` held out: neither fitted nor used "
                "to choose anything. Temperature and thresholds come from a fold of the others."
            ],
            saliency=saliency,
        )
        cases = _cases(dataset, [read_predictions(run.shifted_predictions)], [rule])
        report["shifted"] = _write(run.folder, SHIFTED_STEM, cases, dataset, shifted)
    return report


def pool_runs(runs: Sequence[Run], cache: Path, out: Path) -> dict[str, Any]:
    """One report on the validation folds of several runs of one recipe and data set.

    Temperature and thresholds for a fold's images are chosen on the predictions of the other
    folds (cross-fitting), so nothing is chosen on what it is reported on.
    Raises RunError for fewer than two runs, different ones, or folds that share an image.
    """
    settings = [run.settings() for run in runs]
    if len(runs) < 2:  # noqa: PLR2004
        raise RunError("pooling needs at least two runs, one a fold")
    first = settings[0]
    for run, it in zip(runs, settings, strict=True):
        if it.fits_alike != first.fits_alike:
            raise RunError(
                f"{run.folder} is of another recipe or data set than {runs[0].folder}, or was "
                "fitted for other epochs or sides"
            )
    folds = [predict_validation(run, cache) for run in runs]
    names = [name for fold in folds for name in fold.names]
    if len(set(names)) < len(names):
        raise RunError("an image is in the validation folds of two runs: pool different folds")
    dataset, _ = runs[0].data(cache)
    cases = _cases(dataset, folds, cross_fitted(folds))
    complete = len(names) == len(dataset.files)
    assessment = Assessment(
        title=f"{first.recipe}: cross-validation, {len(runs)} folds pooled",
        facts=[
            ("Runs", ", ".join(run.folder.name for run in runs)),
            ("Data", f"{len(names)} of {len(dataset.files)} images of the training set"),
            ("Digest of the data", first.data_digest),
        ],
        notes=[
            "Each image is predicted by the network that did not fit it, nor any image of its "
            "patient. Temperature and thresholds for a fold are chosen on the predictions of the "
            "other folds, so nothing was chosen on what it is reported on. The curves are over "
            "the raw logits of all folds together."
            + ("" if complete else " Not every fold is here: figures are of those that are.")
        ],
        tables=[_folds_table(runs, cases)],
    )
    return _write(out, STEM, cases, dataset, assessment)


def assess_bundle(path: Path, split_folder: Path, cache: Path, out: Path) -> dict[str, Any]:
    """Evaluate a bundle, as it is served, on a labelled split; write the report into `out`."""
    bundle = read_bundle(path)
    predictor = Predictor(bundle, preprocess_version=preprocess.VERSION)
    dataset = load(split_folder, cache)
    predictions = predict_twins(predictor.logits, dataset, np.arange(len(dataset.files)))
    out.mkdir(parents=True, exist_ok=True)
    write_predictions(out / "predictions.csv", predictions)
    assessment = Assessment(
        title=f"{bundle.name} {bundle.version}: evaluation on {split_folder.name}",
        facts=[
            ("Bundle", f"{bundle.name} {bundle.version}, weights {bundle.weights_sha256[:16]}…"),
            ("Digest of the data", dataset.digest),
        ],
        notes=[
            "Predicted by the code that serves, at temperature and thresholds of the bundle's "
            f"manifest.{_known_note(bundle, predictions)}"
        ],
        saliency=gallery.saliency_of(keras.saving.load_model(path / WEIGHTS, compile=False)),
    )
    cases = _cases(dataset, [predictions], [_rule_of(bundle)])
    report = _write(out, STEM, cases, dataset, assessment)
    draw_evaluation(out / "evaluation.png", cases, report)
    return report


def _validated(run: Run) -> tuple[Predictions, Rule]:
    if not (run.calibration.exists() and run.predictions.exists()):
        raise RunError(f"{run.folder} is not calibrated: run `cxr-train calibrate` first")
    predictions = read_predictions(run.predictions)
    temperature = json.loads(run.calibration.read_text())["temperature"]
    return predictions, choose_rule(predictions.labels, predictions.logits, temperature)


def _rule_of(bundle: Bundle) -> Rule:
    """A bundle's, with the points that it does not store chosen on its own validation."""
    known = _known(bundle)
    more = shown_beside(known.labels, known.logits) if known else {}
    return Rule.of_points(bundle.operating_points, bundle.calibration.temperature, more)


def _known(bundle: Bundle) -> Predictions | None:
    path = bundle.path / VALIDATION
    return read_predictions(path) if path.exists() else None


def _known_note(bundle: Bundle, predictions: Predictions) -> str:
    """Whether figures at thresholds are favourable, because these images chose them."""
    known = _known(bundle)
    both = set(predictions.names) & set(known.names if known else ())
    if not both:
        return " Nothing was chosen on these images."
    return (
        f" {len(both)} of these images are the bundle's own validation images, on which those "
        "were chosen: figures at thresholds are slightly favourable."
    )


def _cases(dataset: Dataset, folds: Sequence[Predictions], rules: Sequence[Rule]) -> Cases:
    """Cases with the subgroups of their files."""
    files = {file.name: file for file in dataset.files}
    try:
        found = [files[name] for fold in folds for name in fold.names]
    except KeyError as error:
        raise RunError(f"{error.args[0]} was predicted but is not in the data") from error
    return cases_of(folds, rules, subgroups(found))


def _write(
    folder: Path, stem: str, cases: Cases, dataset: Dataset, it: Assessment
) -> dict[str, Any]:
    report = evaluate(cases)
    galleries = gallery.mistakes(dataset, report)
    if it.saliency is not None:
        galleries.append(gallery.looked_at(dataset, cases, it.saliency))
    page = Page(
        title=it.title,
        facts=it.facts,
        notes=it.notes,
        figures=figures(cases, report, it.log),
        galleries=galleries,
        tables=it.tables,
    )
    write_report(folder, stem, cases, report, page)
    return report


def _folds_table(runs: Sequence[Run], cases: Cases) -> Table:
    rows = []
    for index, run in enumerate(runs):
        figures_of_fold = evaluate(only_fold(cases, index))
        balanced = figures_of_fold["operating_points"]["balanced"]
        rows.append(
            (
                run.folder.name,
                figures_of_fold["images"],
                f"{figures_of_fold['auc']:.4f}",
                f"{balanced['accuracy']:.4f}",
                f"{balanced['sensitivity']:.4f}",
                f"{balanced['specificity']:.4f}",
                f"{figures_of_fold['ece']:.4f}",
                f"{cases.rules[index].temperature:.3f}",
                f"{balanced['threshold']:.3f}",
            )
        )
    return Table(
        title="Folds",
        text="Each at the temperature and the balanced threshold that the other folds chose.",
        columns=(
            "run",
            "images",
            "AUC",
            "accuracy",
            "sensitivity",
            "specificity",
            "ECE",
            "temperature",
            "threshold",
        ),
        rows=rows,
    )
