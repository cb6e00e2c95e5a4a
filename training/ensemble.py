"""Several bundles as one: a single graph that averages their logits, served like any other.

Every member must have been validated on the same pictures, which then choose the ensemble's own
temperature and thresholds: their logits lie in the members' validation.csv, so no picture is read.
A member's logit is divided by its temperature before the mean, so that none outshouts the others.
The out-of-distribution score is the first member's, on its own layers, which are in the graph.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from dicom_io import preprocess
from model.bundle import FORMAT, MANIFEST, WEIGHTS, Bundle, read_bundle
from model.evaluation.report import evaluate
from model.ood import OOD_FILE
from training.calibrate import fit_temperature
from training.card import CARD
from training.errors import RunError
from training.evaluate import cases_of, choose_points, choose_rule
from training.export import OOD_PLOT, PLOT, VALIDATION, metrics
from training.networks import copied
from training.plots import draw_evaluation
from training.predictions import Predictions, read_predictions, write_predictions
from training.targets import LOGITS

MEMBERS_MIN, MEMBERS_MAX = 2, 16


def make_ensemble(paths: Sequence[Path], *, name: str, version: str, parent: Path) -> Bundle:
    """Write `<parent>/<name>-<version>` from these bundles and return it as read back.

    Raises RunError when the members do not belong together or the bundle exists already.
    """
    members = [read_bundle(path) for path in paths]
    _hold_together(members)
    folder = parent / f"{name}-{version}"
    if folder.exists():
        raise RunError(f"{folder} exists: a published bundle never changes, choose a new --version")
    predictions = averaged(members, [read_predictions(it.path / VALIDATION) for it in members])
    temperature = fit_temperature(predictions.logits, predictions.labels)
    points = choose_points(predictions.labels, predictions.logits)
    rule = choose_rule(predictions.labels, predictions.logits, temperature)
    cases = cases_of([predictions], [rule])
    report = evaluate(cases)
    folder.mkdir(parents=True)
    try:
        graph_of(members).save(folder / WEIGHTS)
        manifest = _manifest(folder, members, name=name, version=version)
        manifest["calibration"] = {"temperature": temperature}
        manifest["operating_points"] = asdict(points)
        manifest["metrics"] = metrics(report)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        for file in (OOD_FILE, OOD_PLOT):
            shutil.copy(members[0].path / file, folder / file)
        write_predictions(folder / VALIDATION, predictions)
        draw_evaluation(folder / PLOT, cases, report)
        bundle = read_bundle(folder)
        (folder / CARD).write_text(_card(bundle, members, report))
    except BaseException:
        shutil.rmtree(folder)
        raise
    return bundle


def graph_of(members: Sequence[Bundle]) -> Any:
    """One keras.Model from grey pixels to the mean of the members' calibrated logits, (n, 1).

    What the first member's score is made of stays a second output, where it was one.
    """
    import keras

    pixels = keras.Input(members[0].input_shape, name="pixels")
    logits, of_the_score = [], []
    for index, member in enumerate(members):
        member.check_weights()
        network = keras.saving.load_model(member.weights_path, compile=False, safe_mode=True)
        copy = copied(network, pixels=pixels, prefix=_prefix(index))
        calibrated = keras.layers.Rescaling(
            1 / member.calibration.temperature, name=f"{_prefix(index)}calibrated"
        )
        logits.append(calibrated(copy.outputs[0]))
        if index == 0:
            of_the_score = copy.outputs[1:]
    outputs = [keras.layers.Average(name=LOGITS)(logits), *of_the_score]
    return keras.Model(pixels, outputs, name="ensemble")


def averaged(members: Sequence[Bundle], parts: Sequence[Predictions]) -> Predictions:
    """The ensemble's predictions, from those of its members on the same pictures.

    Raises RunError when the pictures or their labels are not the same.
    """
    first = parts[0]
    orders = []
    for member, part in zip(members, parts, strict=True):
        order = np.argsort(part.names)
        same = [part.names[i] for i in order] == sorted(first.names)
        if not same or not np.array_equal(
            part.labels[order], first.labels[np.argsort(first.names)]
        ):
            raise RunError(
                f"{member.path} was validated on other pictures than {members[0].path}: fit the "
                "members with the same --data, --fold, --folds and --split-seed"
            )
        orders.append(order)
    scales = [1 / member.calibration.temperature for member in members]

    def mean(columns: Sequence[Any]) -> Any:
        return np.mean(
            [scale * it[order] for scale, it, order in zip(scales, columns, orders, strict=True)],
            axis=0,
        )

    return replace(
        first,
        names=[first.names[i] for i in orders[0]],
        labels=first.labels[orders[0]],
        logits=mean([part.logits for part in parts]),
        twins={twin: mean([part.twins[twin] for part in parts]) for twin in first.twins},
    )


def _prefix(index: int) -> str:
    return f"member{index + 1}_"


def _hold_together(members: Sequence[Bundle]) -> None:
    if not MEMBERS_MIN <= len(members) <= MEMBERS_MAX:
        raise RunError(f"an ensemble has {MEMBERS_MIN} to {MEMBERS_MAX} members")
    first = members[0]
    for it in members:
        if it.preprocess_version != preprocess.VERSION:
            raise RunError(f"{it.path} was made with preprocessing {it.preprocess_version}")
        for field in ("input_shape", "finding", "training_data_digest", "training_prevalence"):
            if getattr(it, field) != getattr(first, field):
                raise RunError(f"{it.path} and {first.path} differ in {field.replace('_', ' ')}")


def _manifest(
    folder: Path, members: Sequence[Bundle], *, name: str, version: str
) -> dict[str, Any]:
    """All but what the common validation decides; use, data and score are the first member's."""
    first = json.loads((members[0].path / MANIFEST).read_text())
    labels = ", ".join(f"{it.name}-{it.version}" for it in members)
    return {
        **first,
        "format": FORMAT,
        "name": name,
        "version": version,
        "weights_sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        "training": {**first["training"], "recipe": f"ensemble of {labels}"},
        "ood": {**first["ood"], "layer": _prefix(0) + members[0].ood.layer},
    }


def _card(bundle: Bundle, members: Sequence[Bundle], report: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {it.name} {it.version} | {it.metrics['auc']:.4f} | {it.calibration.temperature:.3f} "
        f"| `{it.weights_sha256[:16]}…` |"
        for it in members
    )
    points = "\n".join(
        f"| {point.replace('_', '-')} | {at['threshold']:.3f} | {at['sensitivity']:.4f} "
        f"| {at['specificity']:.4f} | {at['accuracy']:.4f} |"
        for point, at in report["operating_points"].items()
    )
    return f"""# {bundle.name} {bundle.version}

The mean of the calibrated logits of {len(members)} networks in one graph. Finding:
{bundle.finding}. **Not for diagnostic use.**

{bundle.intended_use.text}

| member | AUC | temperature | weights |
|---|---|---|---|
{rows}

What each was trained on, its limits and its known shortcuts: the members' own model cards.

## Results on the members' common validation images

{report["images"]} images of {report["patients"]} patients, {report["prevalence"]:.1%} positive;
fitted by no member. They choose the temperature ({report["temperature"]:.3f}) and the thresholds,
nothing else. ROC AUC {report["auc"]:.4f} ({report["auc_low"]:.4f} to {report["auc_high"]:.4f}),
expected calibration error {report["ece"]:.4f}, Brier score {report["brier"]:.4f}.

| point | threshold | sensitivity | specificity | accuracy |
|---|---|---|---|---|
{points}

![ROC, reliability, histogram and confusion matrix]({PLOT})

## Pictures unlike the training images

Scored by the layer `{bundle.ood.layer}`, as the first member alone scores them.

![Out-of-distribution scores of chests and of other pictures]({OOD_PLOT})

## Licence

{bundle.license}. SHA-256 of the weights: `{bundle.weights_sha256}`.
"""
