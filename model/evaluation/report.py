"""The report as plain values: what the JSON file holds and the page shows."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from model.bands import Band, BandLimits
from model.calibration import sigmoids
from model.evaluation import metrics
from model.evaluation.cases import CLASSES, Called, Cases, Values

PREVALENCES = (0.05, 0.1, 0.2)
PROBABILITIES = (0.01, 0.02, 0.05, *(round(0.1 * i, 1) for i in range(1, 10)), 0.95, 0.98, 0.99)
BALANCED = "balanced"
FIXED_LIMITS = BandLimits(review_from=0.3, positive_from=0.7)  # of the common recipe
MISTAKES_MAX = 12  # of each kind
SUBGROUP_MIN = 10  # cases


def evaluate(cases: Cases) -> dict[str, Any]:
    """All figures of cases that are read by rules which others chose.

    Areas have bootstrap intervals with patients resampled; rates have Wilson's.
    Raises ValueError unless both classes are there.
    """
    labels, probabilities = cases.labels, cases.probabilities
    if len(np.unique(labels)) < len(CLASSES):
        raise ValueError("a report needs cases of both classes")
    weights = metrics.resampled(cases.patients)
    intervals = metrics.area_intervals(labels, cases.logits, weights)
    points = list(cases.rules[0].thresholds)
    temperatures = [rule.temperature for rule in cases.rules]
    return {
        "units": cases.units,
        "images": len(labels),
        "patients": len(set(cases.patients)),
        "prevalence": float(labels.mean()),
        "auc": metrics.auc(labels, cases.logits),
        **_ends("auc", intervals["auc"]),
        "average_precision": metrics.average_precision(labels, cases.logits),
        **_ends("average_precision", intervals["average_precision"]),
        "temperature": temperatures[0] if len(temperatures) == 1 else temperatures,
        "ece": metrics.calibration_error(labels, probabilities),
        "brier": metrics.brier(labels, probabilities),
        "mean_probability": float(probabilities.mean()),
        "uncalibrated": _uncalibrated(cases),
        "operating_points": {name: _point(cases, name) for name in points},
        "thresholds": [_at_probability(cases, at) for at in PROBABILITIES],
        "bands": _bands(cases, cases.bands),
        "bands_fixed": _bands(cases, [FIXED_LIMITS.band(float(p)) for p in probabilities]),
        "subgroups": _subgroups(cases, weights),
        "twins": {name: _twin(cases, logits) for name, logits in cases.twins.items()},
        "mistakes": _mistakes(cases),
    }


def rows(cases: Cases) -> list[dict[str, Any]]:
    """Every case in a line: label, logit, probability, band, call, subgroups."""
    called = cases.called(BALANCED)
    return [
        {
            "name": name,
            "patient": cases.patients[i],
            "label": int(cases.labels[i]),
            "class": CLASSES[cases.labels[i]],
            "logit": round(float(cases.logits[i]), 5),
            "probability": round(float(cases.probabilities[i]), 6),
            "band": str(cases.bands[i]),
            "called": CLASSES[int(called[i])],
            **({"fold": int(cases.folds[i])} if len(cases.rules) > 1 else {}),
            **{criterion: groups[i] for criterion, groups in cases.subgroups.items()},
        }
        for i, name in enumerate(cases.names)
    ]


def _ends(name: str, interval: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}


def _uncalibrated(cases: Cases) -> dict[str, float]:
    raw = sigmoids(cases.logits + cases.prior_shifts)
    return {
        "ece": metrics.calibration_error(cases.labels, raw),
        "brier": metrics.brier(cases.labels, raw),
    }


def _rates(counts: metrics.Counts) -> dict[str, Any]:
    total = counts.positives + counts.negatives
    sizes = {
        "accuracy": (counts.accuracy, total),
        "sensitivity": (counts.sensitivity, counts.positives),
        "specificity": (counts.specificity, counts.negatives),
    }
    found: dict[str, Any] = {}
    for name, (share, size) in sizes.items():
        low, high = metrics.wilson_interval(share, size)
        found |= {name: share, **_ends(name, (float(low), float(high)))} if size else {name: None}
    return found


def _point(cases: Cases, name: str) -> dict[str, Any]:
    called = cases.called(name)
    counts = metrics.count(cases.labels, called)
    thresholds = [rule.thresholds[name] for rule in cases.rules]
    return {
        "threshold": thresholds[0] if len(thresholds) == 1 else thresholds,
        **_rates(counts),
        **asdict(counts),
        "classes": metrics.by_class(cases.labels, called),
        "predictive_values": _predictive_values(counts),
    }


def _predictive_values(counts: metrics.Counts) -> list[dict[str, Any]]:
    rates = counts.sensitivity, counts.specificity
    return [metrics.predictive_values(*rates, prevalence) for prevalence in PREVALENCES]


def _at_probability(cases: Cases, at: float) -> dict[str, Any]:
    called: Called = cases.probabilities >= at
    counts = metrics.count(cases.labels, called)
    pneumonia = metrics.by_class(cases.labels, called)["PNEUMONIA"]
    return {
        "probability": at,
        "accuracy": counts.accuracy,
        "sensitivity": counts.sensitivity,
        "specificity": counts.specificity,
        "precision": pneumonia["precision"],
        "f1": pneumonia["f1"],
        "predictive_values": _predictive_values(counts),
    }


def _bands(cases: Cases, bands: list[Band]) -> dict[str, dict[str, Any]]:
    """How many of each class fall into each band, and what that means at other prevalences."""
    sizes = np.bincount(cases.labels, minlength=2)
    found = {}
    for band in Band:
        inside = np.array([it == band for it in bands], dtype=bool)
        normal, pneumonia = (int(np.sum(inside & (cases.labels == label))) for label in (0, 1))
        shares = []
        for prevalence in PREVALENCES:
            ill = prevalence * pneumonia / sizes[1]
            well = (1 - prevalence) * normal / sizes[0]
            of_them = ill / (ill + well) if ill + well else None
            shares.append(
                {"prevalence": prevalence, "share_of_all": ill + well, "pneumonia": of_them}
            )
        found[str(band)] = {"NORMAL": normal, "PNEUMONIA": pneumonia, "at": shares}
    return found


def _subgroups(cases: Cases, weights: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for criterion, groups in cases.subgroups.items():
        of_case = np.array(groups)
        names = [name for name in dict.fromkeys(sorted(groups)) if name]
        figures = {name: _subgroup(cases, of_case == name, weights) for name in names}
        found[criterion] = {name: it for name, it in figures.items() if it}
    return found


def _subgroup(cases: Cases, inside: Called, weights: Any) -> dict[str, Any]:
    """Figures of some cases. With one class only, the area is against all of the other."""
    if inside.sum() < SUBGROUP_MIN:
        return {}
    labels = cases.labels
    counts = metrics.count(labels[inside], cases.called(BALANCED)[inside])
    one_class = len(np.unique(labels[inside])) == 1
    compared = inside | (labels != labels[inside][0]) if one_class else inside
    intervals = metrics.area_intervals(
        labels[compared], cases.logits[compared], weights[:, compared]
    )
    return {
        "images": int(inside.sum()),
        "patients": len(
            {patient for patient, it in zip(cases.patients, inside, strict=True) if it}
        ),
        "PNEUMONIA": counts.positives,
        "NORMAL": counts.negatives,
        "against_all": one_class,
        "auc": metrics.auc(labels[compared], cases.logits[compared]),
        **_ends("auc", intervals["auc"]),
        **_rates(counts),
    }


def _twin(cases: Cases, logits: Values) -> dict[str, Any]:
    """How the balanced point holds when the pictures are changed but the finding is not."""
    called = cases.called(BALANCED, logits)
    counts = metrics.count(cases.labels, called)
    return {
        "auc": metrics.auc(cases.labels, logits),
        "accuracy": counts.accuracy,
        "sensitivity": counts.sensitivity,
        "specificity": counts.specificity,
        "changed": float(np.mean(called != cases.called(BALANCED))),
    }


def _mistakes(cases: Cases) -> dict[str, list[Mapping[str, Any]]]:
    """The cases on the wrong side of the balanced point, the farthest from it first."""
    margin = cases.logits - cases.thresholds(BALANCED)
    found: dict[str, list[Mapping[str, Any]]] = {}
    for kind, label, towards in (("missed", 1, margin), ("false_alarms", 0, -margin)):
        wrong = np.flatnonzero((cases.labels == label) & (cases.called(BALANCED) != label))
        worst = wrong[np.argsort(towards[wrong], kind="stable")][:MISTAKES_MAX]
        found[kind] = [
            {
                "name": cases.names[i],
                "probability": float(cases.probabilities[i]),
                "band": str(cases.bands[i]),
            }
            for i in worst
        ]
    return found
