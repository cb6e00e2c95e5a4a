"""Makes a bundle of a finished run: network, score, manifest, card, plots, predictions."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dicom_io import preprocess
from model.bundle import FORMAT, MANIFEST, WEIGHTS, Bundle, OperatingPoints, read_bundle
from model.ood import OOD_FILE
from training.card import replace_ood, write_card
from training.dataset import CLASSES, Dataset
from training.errors import RunError
from training.ood import GRID, METHOD, FittedOod
from training.plots import draw_ood
from training.predictions import Predictions, write_predictions
from training.run import Run, RunSettings
from training.split import Split

MAX_BUNDLE_MB = 20
PLOT = "evaluation.png"
OOD_PLOT = "ood.png"
VALIDATION = "validation.csv"
DATA = (
    "Chest X-Ray Images (Pneumonia), official training split; Kermany, Goldbaum et al., "
    "Cell 172 (2018), doi:10.1016/j.cell.2018.02.010; CC BY 4.0"
)
LICENSE = "Apache-2.0 (weights and code); training data CC BY 4.0"
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

    Raises RunError when the bundle exists already or grows above 20 MB.
    """
    settings = run.settings()
    folder = new_folder(run, version=version, parent=parent)
    folder.mkdir(parents=True)
    try:
        strip(run.final, folder / WEIGHTS)
        manifest = _manifest(folder, settings, dataset, split, evaluated, version=version)
        manifest["ood"] = _ood(fitted_ood, fitted_ood.scorer.save(folder / OOD_FILE))
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        shutil.copy(run.plot, folder / PLOT)
        draw_ood(folder / OOD_PLOT, fitted_ood)
        write_predictions(folder / VALIDATION, evaluated.predictions)
        bundle = read_bundle(folder)
        bundle.check_weights()
        write_card(
            folder,
            bundle,
            evaluated.report,
            fitted_ood.report,
            recipe_command(settings),
            PLOT,
            OOD_PLOT,
        )
        size_mb = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        if size_mb > MAX_BUNDLE_MB:
            raise RunError(f"the bundle has {size_mb:.1f} MB, {MAX_BUNDLE_MB} are allowed")
    except BaseException:
        shutil.rmtree(folder)
        raise
    return bundle


def rescore(bundle: Bundle, fitted_ood: FittedOod, *, version: str, parent: Path) -> Bundle:
    """Write a copy of a bundle, the same network under another score and version.

    Raises RunError when there is such a bundle already.
    """
    folder = _vacant(bundle.name, version=version, parent=parent)
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


def strip(source: Path, target: Path) -> None:
    """Save a model for inference only: float32, without optimizer, every layer trainable."""
    import keras

    network = keras.saving.load_model(source, compile=False)
    network.trainable = True
    network.save(target, include_optimizer=False)


def recipe_command(settings: RunSettings) -> str:
    """The command that repeats the run."""
    return (
        f"cxr-train fit {settings.recipe} --data chest_xray --run runs/{settings.recipe} "
        f"--fold {settings.fold} --folds {settings.folds} --seed {settings.seed} "
        f"--epochs {settings.epochs} --weights {settings.weights or 'none'}"
    )


def _ood(fitted: FittedOod, sha256: str) -> dict[str, Any]:
    report = fitted.report
    counts = ", ".join(f"{it.pictures} {kind}" for kind, it in report.kinds.items())
    return {
        "sha256": sha256,
        "method": METHOD,
        "layer": report.layer,
        "grid": GRID,
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
    report = evaluated.report
    figures = ("auc", "auc_low", "auc_high", "ece", "brier", "images", "patients")
    balanced = report["operating_points"]["balanced"]
    return {
        "format": FORMAT,
        "name": settings.recipe,
        "version": version,
        "weights_sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        "input_shape": [preprocess.SIZE, preprocess.SIZE, 1],
        "preprocess": {"version": preprocess.VERSION, "parameters": preprocess.parameters()},
        "calibration": {"temperature": report["temperature"]},
        "training": {
            "data": DATA,
            "data_digest": dataset.digest,
            "prevalence": float(dataset.labels[split.train].mean()),
            "recipe": recipe_command(settings),
            "split": (
                f"patient-grouped fold {settings.fold} of {settings.folds}, seed {settings.seed}: "
                f"{len(split.train)} images fitted, {len(split.validation)} for validation "
                f"({' / '.join(CLASSES)})"
            ),
        },
        "operating_points": asdict(evaluated.points),
        "intended_use": INTENDED_USE,
        "metrics": {
            **{name: report[name] for name in figures},
            **{name: balanced[name] for name in ("accuracy", "sensitivity", "specificity")},
        },
        "license": LICENSE,
    }
