"""The command predict: images without a PACS."""

import json
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from dicom_io import eligibility, preprocess
from dicom_io.errors import DicomError, NoPixels, UnsupportedPixels
from dicom_io.read import age_years, header_of, read_dataset
from dicom_io.saliency_image import Caption, as_png, draw
from model.bands import Band, Interpreter, Prediction
from model.bundle import UNLIKE_TRAINING, Bundle
from model.predict import Predictor
from model.saliency import outline
from worker.prepare import make_policy
from worker.saliency import warning_of
from worker.services import make_interpreter, open_bundle
from worker.settings import Settings

PICTURES = {".jpeg", ".jpg", ".png"}  # everything else is taken for DICOM


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option(
    "--saliency",
    "out",
    type=click.Path(path_type=Path),
    help="Write where the model looked: a PNG file, or a folder for several images.",
)
def predict(paths: tuple[Path, ...], as_json: bool, out: Path | None) -> None:
    """Predict images: DICOM, JPEG or PNG, one by one."""
    settings = Settings.from_env()
    bundle = open_bundle(settings)
    predictor = Predictor(bundle, preprocess_version=preprocess.VERSION, saliency=out is not None)
    interpreter = make_interpreter(settings, bundle)
    policy = make_policy(settings)
    identity = {"model_name": bundle.name, "model_version": bundle.version}
    pictures = None if out is None else _Pictures(out, len(paths), settings, bundle)
    failed = 0
    for path in paths:
        outcome = _predict_one(path, predictor, interpreter, policy, pictures) | identity
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
    path: Path,
    predictor: Predictor,
    interpreter: Interpreter,
    policy: eligibility.Policy,
    pictures: "_Pictures | None",
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
            grey, age = preprocess.grey_of(ds), age_years(ds)
        else:
            grey, age = preprocess.grey_from_file(path), None
    except (NoPixels, UnsupportedPixels) as error:
        return outcome | {"state": "rejected", "reason": str(error)}
    except DicomError as error:
        return outcome | {"reason": str(error)}
    outputs = predictor.predict(preprocess.from_grey(grey)[None])
    outcome["ood_score"] = score = float(outputs.ood_scores[0])
    if predictor.bundle.ood.is_far(score):
        return outcome | {"state": "rejected", "reason": UNLIKE_TRAINING}
    outcome["unlike_training"] = predictor.bundle.ood.is_outside(score)
    prediction = interpreter.interpret(float(outputs.logits[0]))
    if pictures is not None and outputs.saliency is not None:
        pictures.write(
            path, grey, outputs.saliency[0], prediction, age, unlike=outcome["unlike_training"]
        )
    p = prediction.raw_probability
    return outcome | {
        "state": "predicted",
        "probability": prediction.probability,
        "raw_probability": p,
        "prediction": prediction.balanced,
        "confidence": p if prediction.balanced == "PNEUMONIA" else 1 - p,
        "band": prediction.band,
    }


class _Pictures:
    """Where `--saliency` writes: the very picture that goes to the PACS."""

    def __init__(self, out: Path, count: int, settings: Settings, bundle: Bundle) -> None:
        self.out, self.is_folder = out, count > 1 or out.is_dir()
        self._taken: set[str] = set()
        self._settings, self._bundle = settings, bundle
        folder = out if self.is_folder else out.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"--saliency {out}: {error.strerror}") from error

    def write(
        self,
        path: Path,
        grey: NDArray[np.uint8],
        found: NDArray[np.float32],
        prediction: Prediction,
        age: float | None,
        *,
        unlike: bool,
    ) -> None:
        use = self._bundle.intended_use
        intended = eligibility.intended_use(age, use.min_age_years, use.max_age_years)
        positive = prediction.band != Band.NEGATIVE
        caption = Caption(
            probability=prediction.probability,
            band=prediction.band,
            prevalence=self._settings.prevalence,
            model_name=self._bundle.name,
            model_version=self._bundle.version,
            warning=warning_of(intended, unlike_training=unlike),
        )
        line = outline(found, *grey.shape) if positive else None
        target = self.out / self._name(path) if self.is_folder else self.out
        target.write_bytes(as_png(draw(grey, found, line, caption)))

    def _name(self, path: Path) -> str:
        """Files of one name come from several folders: none overwrites another's picture."""
        number, name = 1, f"{path.name}.saliency.png"
        while name in self._taken:
            number += 1
            name = f"{path.name}-{number}.saliency.png"
        self._taken.add(name)
        return name
