"""Makes a bundle of a finished run: network, score, manifest, card, plots, predictions."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dicom_io import preprocess
from model.bundle import FINDING, FORMAT, MANIFEST, WEIGHTS, Bundle, OperatingPoints, read_bundle
from model.ood import OOD_FILE
from training.card import replace_ood, write_card
from training.dataset import CLASSES, Dataset
from training.errors import RunError
from training.networks import has_layer, save_for_inference
from training.ood import METHOD, FittedOod
from training.plots import draw_ood
from training.predictions import Predictions, write_predictions
from training.recipe import find
from training.run import RANDOM, Run, RunSettings
from training.split import Split

PLOT = "evaluation.png"
OOD_PLOT = "ood.png"
VALIDATION = "validation.csv"
DATA = (
    "Chest X-Ray Images (Pneumonia), official training split; Kermany, Goldbaum et al., "
    "Cell 172 (2018), doi:10.1016/j.cell.2018.02.010; CC BY 4.0"
)
LICENSE = "Apache-2.0 (weights and code); training data CC BY 4.0"
SHORTCUTS = (
    "In this set pneumonia images are softer and smaller than normal ones, and the letters in the "
    "corners differ. The training hides corners, blurs and sharpens at random."
)
LIMITS = (
    "One hospital, children of 1 to 5 years, labels by the physicians of that study; bacterial and "
    "viral pneumonia count as one class; nothing is known of other findings.",
    "The images came as JPEG, squashed to a square; the worker makes the same picture of a DICOM "
    "image.",
    "No figures for subgroups of age or sex: the set does not tell them.",
)
INTENDED_USE = {
    "min_age_years": 1.0,
    "max_age_years": 5.0,
    "text": (
        "Frontal (PA or AP) chest radiographs of children of 1 to 5 years, read together with a "
        "radiologist. For research and evaluation; not for diagnostic use."
    ),
}


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What the other commands found out about a run, on its validation fold."""

    predictions: Predictions
    points: OperatingPoints
    report: dict[str, Any]


def export(
    run: Run,
    dataset: Dataset,
    split: Split,
    evaluated: Evaluated,
    fitted_ood: FittedOod,
    *,
    version: str,
    parent: Path,
) -> Bundle:
    """Write `<parent>/<recipe>-<version>` and return it as read back.

    Raises RunError when the bundle exists already.
    """
    settings = run.settings()
    folder = new_folder(run, version=version, parent=parent)
    folder.mkdir(parents=True)
    try:
        save_for_inference(run.final, folder / WEIGHTS, run.recipe())
        manifest = _manifest(folder, settings, dataset, split, evaluated, version=version)
        manifest["ood"] = _ood(fitted_ood, fitted_ood.scorer.save(folder / OOD_FILE))
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        shutil.copy(run.plot, folder / PLOT)
        draw_ood(folder / OOD_PLOT, fitted_ood)
        write_predictions(folder / VALIDATION, evaluated.predictions)
        bundle = read_bundle(folder)
        bundle.check_weights()
        about = about_data(settings)
        write_card(
            folder,
            bundle,
            evaluated.report,
            fitted_ood.report,
            command=recipe_command(settings),
            shortcuts=about["shortcuts"],
            limits=about["limits"],
            began_as=began_as(settings),
            output=output_of(settings),
            plot=PLOT,
            ood_plot=OOD_PLOT,
        )
    except BaseException:
        shutil.rmtree(folder)
        raise
    return bundle


def rescore(bundle: Bundle, fitted_ood: FittedOod, *, version: str, parent: Path) -> Bundle:
    """Write a copy of a bundle, the same network under another score and version.

    Raises RunError when there is such a bundle already, or its network lacks the score's layer.
    """
    folder = _vacant(bundle.name, version=version, parent=parent)
    layer = fitted_ood.report.layer
    if not has_layer(bundle.path / WEIGHTS, layer):
        raise RunError(
            f"the network of {bundle.path} has no layer {layer!r}: export its run anew instead"
        )
    shutil.copytree(bundle.path, folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["version"] = version
        manifest["ood"] = _ood(fitted_ood, fitted_ood.scorer.save(folder / OOD_FILE))
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        draw_ood(folder / OOD_PLOT, fitted_ood)
        rescored = read_bundle(folder)
        replace_ood(folder, rescored, fitted_ood.report, OOD_PLOT)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return rescored


def new_folder(run: Run, *, version: str, parent: Path) -> Path:
    """Where the bundle will lie; raises RunError when there is one already."""
    return _vacant(run.settings().recipe, version=version, parent=parent)


def _vacant(name: str, *, version: str, parent: Path) -> Path:
    folder = parent / f"{name}-{version}"
    if folder.exists():
        raise RunError(f"{folder} exists: a published bundle never changes, choose a new --version")
    return folder


def recipe_command(settings: RunSettings) -> str:
    """The command that repeats the run; folders are named as the documents name them."""
    data = "--data chest_xray"
    if settings.csv:
        data = f"--csv {Path(settings.csv).name} --images images --positive '{settings.positive}'"
    weights = settings.weights or "none"
    options = {
        "run": f"runs/{settings.recipe}",
        "fold": settings.fold,
        "folds": settings.folds,
        "seed": settings.seed,
        "split-seed": settings.split_seed,
        "epochs": settings.epochs,
        "weights": weights if weights in ("imagenet", "none") else Path(weights).name,
        "split": settings.split if settings.split != RANDOM else None,
        "precision": settings.precision if settings.precision != "float32" else None,
    }
    given = (f"--{name} {value}" for name, value in options.items() if value is not None)
    return " ".join(["cxr-train fit", settings.recipe, data, *given])


def about_data(settings: RunSettings) -> dict[str, Any]:
    """What the manifest says of data, finding, use and licence, for either layout."""
    if settings.csv is None:
        return {
            "data": DATA,
            "finding": FINDING,
            "use": INTENDED_USE,
            "shortcuts": SHORTCUTS,
            "limits": LIMITS,
            "license": LICENSE,
        }
    table, finding = Path(settings.csv).name, settings.positive or FINDING
    use = (
        f"Frontal chest radiographs like those listed in {table}, of any age: ages were not looked "
        f"at. Finding: {finding}. For research and evaluation; not for diagnostic use."
    )
    return {
        "data": f"the pictures that {table} lists; positive: {finding}, every other is negative",
        "finding": finding,
        "use": {"min_age_years": 0.0, "max_age_years": 120.0, "text": use},
        "shortcuts": (
            "Sharpness and the letters in the corners tell the classes of many sets; nobody has "
            "looked whether they do in this one."
        ),
        "limits": (
            f"Labels as {table} has them; nothing is known of other findings.",
            "No figures for subgroups of age or sex: they were not looked at.",
        ),
        "license": "Apache-2.0 (code); the weights under the terms of the training data",
    }


def began_as(settings: RunSettings) -> str:
    """What the weights were before they were fitted, for the card."""
    if settings.weights is None:
        return "random numbers"
    if settings.weights != "imagenet":
        return f"those of the file {Path(settings.weights).name}"
    return f"ImageNet weights: {find(settings.recipe).imagenet}"


def output_of(settings: RunSettings) -> str:
    """What the served network says, for the card."""
    if settings.both_sides:
        return "one raw logit, the mean of those of the picture and of its mirror image"
    return "one raw logit"


def _held_out(settings: RunSettings) -> str:
    """What the split's text says of a shift."""
    if settings.split == RANDOM:
        return ""
    return f", besides what {settings.split} holds out"


def _ood(fitted: FittedOod, sha256: str) -> dict[str, Any]:
    report = fitted.report
    counts = ", ".join(f"{it.pictures} {kind}" for kind, it in report.kinds.items())
    return {
        "sha256": sha256,
        "method": METHOD.format(grid=report.grid),
        "layer": report.layer,
        "grid": report.grid,
        "limit": report.limit,
        "far_limit": report.far_limit,
        "auroc": report.auroc,
        "false_refusals": report.false_refusals,
        "negatives": f"{report.blind} blind of: {counts}",
    }


def _manifest(
    folder: Path,
    settings: RunSettings,
    dataset: Dataset,
    split: Split,
    evaluated: Evaluated,
    *,
    version: str,
) -> dict[str, Any]:
    report, about = evaluated.report, about_data(settings)
    seed = settings.seed if settings.split_seed is None else settings.split_seed
    return {
        "format": FORMAT,
        "name": settings.recipe,
        "version": version,
        "finding": about["finding"],
        "weights_sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        "input_shape": [preprocess.SIZE, preprocess.SIZE, 1],
        "preprocess": {"version": preprocess.VERSION, "parameters": preprocess.parameters()},
        "calibration": {"temperature": report["temperature"]},
        "training": {
            "data": about["data"],
            "data_digest": dataset.digest,
            "prevalence": float(dataset.labels[split.train].mean()),
            "recipe": recipe_command(settings),
            "split": (
                f"patient-grouped fold {settings.fold} of {settings.folds}, seed {seed}: "
                f"{len(split.train)} images fitted, {len(split.validation)} for validation"
                f"{_held_out(settings)} ({' / '.join(CLASSES)})"
            ),
        },
        "operating_points": asdict(evaluated.points),
        "intended_use": about["use"],
        "metrics": metrics(report),
        "license": about["license"],
    }


def metrics(report: dict[str, Any]) -> dict[str, float]:
    """The figures that a manifest holds, of an evaluation's report."""
    figures = ("auc", "auc_low", "auc_high", "ece", "brier", "images", "patients")
    balanced = report["operating_points"]["balanced"]
    return {
        **{name: report[name] for name in figures},
        **{name: balanced[name] for name in ("accuracy", "sensitivity", "specificity")},
    }
