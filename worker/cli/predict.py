"""The command predict: images without a PACS."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from dicom_io import eligibility, preprocess
from dicom_io.errors import DicomError, NoPixels, UnsupportedPixels
from dicom_io.read import header_of, read_dataset
from model.bands import Interpreter
from model.bundle import UNLIKE_TRAINING
from model.predict import Predictor
from worker.services import make_interpreter, make_policy, open_bundle
from worker.settings import Settings

PICTURES = {".jpeg", ".jpg", ".png"}  # everything else is taken for DICOM


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def predict(paths: tuple[Path, ...], as_json: bool) -> None:
    """Predict images: DICOM, JPEG or PNG, one by one."""
    settings = Settings.from_env()
    bundle = open_bundle(settings)
    predictor = Predictor(bundle, preprocess_version=preprocess.VERSION)
    interpreter = make_interpreter(settings, bundle)
    policy = make_policy(settings)
    identity = {"model_name": bundle.name, "model_version": bundle.version}
    failed = 0
    for path in paths:
        outcome = _predict_one(path, predictor, interpreter, policy) | identity
        failed += outcome["state"] != "predicted"
        if as_json:
            click.echo(json.dumps(outcome))
        elif outcome["state"] == "predicted":
            click.echo(
                f"{path}: Pred: {outcome['prediction']} | "
                f"Confidence: {outcome['confidence']:.2f} | Band: {outcome['band']} | "
                f"OOD: {outcome['ood_score']:.2f}"
            )
            if outcome["unlike_training"]:
                click.echo(f"{path}: outside the intended use: {UNLIKE_TRAINING}", err=True)
        if outcome["state"] != "predicted":
            click.echo(f"{path}: {outcome['state']}: {outcome['reason']}", err=True)
    sys.exit(1 if failed else 0)


def _predict_one(
    path: Path, predictor: Predictor, interpreter: Interpreter, policy: eligibility.Policy
) -> dict[str, Any]:
    outcome: dict[str, Any] = {
        "path": str(path),
        "sop_instance_uid": None,
        "state": "failed",
        "reason": None,
        "probability": None,
        "raw_probability": None,
        "prediction": None,
        "band": None,
        "ood_score": None,
        "unlike_training": None,
    }
    try:
        if path.suffix.lower() not in PICTURES:
            ds = read_dataset(path)
            outcome["sop_instance_uid"] = header_of(ds).sop_instance_uid
            if reason := eligibility.reason_to_reject(ds, policy):
                return outcome | {"state": "rejected", "reason": reason}
            picture = preprocess.from_dataset(ds)
        else:
            picture = preprocess.from_file(path)
    except (NoPixels, UnsupportedPixels) as error:
        return outcome | {"state": "rejected", "reason": str(error)}
    except DicomError as error:
        return outcome | {"reason": str(error)}
    outputs = predictor.predict(picture[None])
    outcome["ood_score"] = score = float(outputs.ood_scores[0])
    if predictor.bundle.ood.is_far(score):
        return outcome | {"state": "rejected", "reason": UNLIKE_TRAINING}
    outcome["unlike_training"] = predictor.bundle.ood.is_outside(score)
    prediction = interpreter.interpret(float(outputs.logits[0]))
    p = prediction.raw_probability
    return outcome | {
        "state": "predicted",
        "probability": prediction.probability,
        "raw_probability": p,
        "prediction": prediction.balanced,
        "confidence": p if prediction.balanced == "PNEUMONIA" else 1 - p,
        "band": prediction.band,
    }
