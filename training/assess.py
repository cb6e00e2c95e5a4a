"""Connects runs and bundles with the evaluation: who predicts, what is written where."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from dicom_io import preprocess
from model.bundle import read_bundle
from model.predict import Predictor
from training.dataset import load
from training.errors import RunError
from training.evaluate import choose_points, evaluate
from training.export import Evaluated
from training.fit import predict
from training.plots import draw_evaluation
from training.predictions import (
    Predictions,
    predict_twins,
    read_predictions,
    write_predictions,
)
from training.run import Run


def predict_validation(run: Run, cache: Path) -> Predictions:
    """Predict a finished run's validation fold with its twins, once, and keep the result."""
    if not run.final.exists():
        raise RunError(f"{run.folder} is not fitted to its end: run `cxr-train fit` again")
    if run.predictions.exists():
        return read_predictions(run.predictions)
    dataset, split = run.data(cache)
    network = keras.saving.load_model(run.final, compile=False)

    def predict_into(path: Path, indices: NDArray[np.int64]) -> Predictions:
        made = predict_twins(lambda pixels: predict(network, pixels), dataset, indices)
        write_predictions(path, made)
        return made

    if len(split.shifted):
        predict_into(run.shifted_predictions, split.shifted)
    return predict_into(run.predictions, split.validation)


def evaluated(run: Run) -> Evaluated:
    """Choose the thresholds of a calibrated run and evaluate it on its validation fold.

    Raises RunError when the run was not calibrated.
    """
    if not (run.calibration.exists() and run.predictions.exists()):
        raise RunError(f"{run.folder} is not calibrated: run `cxr-train calibrate` first")
    predictions = read_predictions(run.predictions)
    temperature = json.loads(run.calibration.read_text())["temperature"]
    points = choose_points(predictions.labels, predictions.logits)
    report = evaluate(predictions, points, temperature)
    draw_evaluation(run.plot, predictions, points, report)
    return Evaluated(predictions=predictions, points=points, report=report)


def assess_run(run: Run) -> dict[str, Any]:
    """Write the run's evaluation.json and evaluation.png; returns the report."""
    found = evaluated(run)
    report = found.report
    if run.shifted_predictions.exists():
        shifted = read_predictions(run.shifted_predictions)
        report["shifted"] = evaluate(shifted, found.points, report["temperature"])
    run.evaluation.write_text(json.dumps(report, indent=2) + "\n")
    return report


def assess_bundle(path: Path, split_folder: Path, cache: Path, out: Path) -> dict[str, Any]:
    """Evaluate a bundle, as it is served, on a labelled split; write the report into `out`."""
    bundle = read_bundle(path)
    predictor = Predictor(bundle, preprocess_version=preprocess.VERSION)
    dataset = load(split_folder, cache)
    predictions = predict_twins(predictor.logits, dataset, np.arange(len(dataset.files)))
    report = evaluate(predictions, bundle.operating_points, bundle.calibration.temperature)
    out.mkdir(parents=True, exist_ok=True)
    write_predictions(out / "predictions.csv", predictions)
    draw_evaluation(out / "evaluation.png", predictions, bundle.operating_points, report)
    (out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    return report
