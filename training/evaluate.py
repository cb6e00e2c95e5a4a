"""Figures of predictions against labels: discrimination, operating points, calibration, twins.

Thresholds are chosen by `choose_points`, on validation only; `evaluate` applies what it is
given, so that a test set never chooses its own.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bundle import OperatingPoint, OperatingPoints
from model.calibration import sigmoids
from training.predictions import Predictions

RULE_OUT_SENSITIVITY = 0.99
# At 0.95 the rule-in of a good model lies below its rule-out, and no image is left to review.
RULE_IN_SPECIFICITY = 0.99
BOOTSTRAP_ROUNDS = 1000
CALIBRATION_BINS = 15
REPORTED_PREVALENCES = (0.05, 0.1, 0.2)

Labels = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """A confusion matrix of two classes; pneumonia is positive."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int

    @property
    def sensitivity(self) -> float:
        return self.true_positive / max(1, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> float:
        return self.true_negative / max(1, self.true_negative + self.false_positive)

    @property
    def accuracy(self) -> float:
        right = self.true_positive + self.true_negative
        return right / max(1, right + self.false_positive + self.false_negative)


def count(labels: Labels, logits: Values, threshold: float) -> Counts:
    """Count with everything at or above the threshold called positive."""
    called = logits >= threshold
    return Counts(
        true_positive=int(np.sum(called & (labels == 1))),
        false_positive=int(np.sum(called & (labels == 0))),
        true_negative=int(np.sum(~called & (labels == 0))),
        false_negative=int(np.sum(~called & (labels == 1))),
    )


def choose_points(labels: Labels, logits: Values) -> OperatingPoints:
    """Choose the three operating points, midway between neighbouring logits.

    rule_out: the highest threshold with sensitivity >= 0.99; rule_in: the lowest with
    specificity >= 0.99; balanced: the highest sum (Youden), the middle one of equals.
    """
    steps = np.unique(logits)
    thresholds = np.concatenate([steps[:1] - 1, (steps[1:] + steps[:-1]) / 2, steps[-1:] + 1])
    positive, negative = np.sort(logits[labels == 1]), np.sort(logits[labels == 0])
    sensitivity = 1 - np.searchsorted(positive, thresholds) / len(positive)
    specificity = np.searchsorted(negative, thresholds) / len(negative)
    youden = sensitivity + specificity
    best = np.flatnonzero(np.isclose(youden, youden.max()))

    def point(index: int) -> OperatingPoint:
        return OperatingPoint(
            threshold=float(thresholds[index]),
            sensitivity=float(sensitivity[index]),
            specificity=float(specificity[index]),
        )

    return OperatingPoints(
        rule_out=point(int(np.flatnonzero(sensitivity >= RULE_OUT_SENSITIVITY)[-1])),
        balanced=point(int(best[len(best) // 2])),
        rule_in=point(int(np.flatnonzero(specificity >= RULE_IN_SPECIFICITY)[0])),
    )


def auc(labels: Labels, logits: Values) -> float:
    """Area under the ROC curve, from ranks (Mann-Whitney); equal logits count half."""
    from scipy.stats import rankdata

    positives = int(labels.sum())
    ranks = rankdata(logits)[labels == 1].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * (len(labels) - positives)))


def auc_interval(predictions: Predictions, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the AUC; whole patients are drawn, not pictures."""
    rng = np.random.default_rng(seed)
    _, patients = np.unique(predictions.patients, return_inverse=True)
    members = np.split(np.argsort(patients, kind="stable"), np.cumsum(np.bincount(patients))[:-1])
    areas: list[float] = []
    while len(areas) < BOOTSTRAP_ROUNDS:
        drawn = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        labels = predictions.labels[drawn]
        if 0 < labels.mean() < 1:
            areas.append(auc(labels, predictions.logits[drawn]))
    low, high = np.percentile(areas, [2.5, 97.5])
    return float(low), float(high)


def calibration_error(labels: Labels, probabilities: Values) -> float:
    """Expected calibration error: |mean probability - share of pneumonia|, 15 equal bins."""
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, probabilities - labels, CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def predictive_values(point: Counts, prevalence: float) -> dict[str, float]:
    """PPV and NPV at another prevalence, from sensitivity and specificity (Bayes)."""
    hit, miss = point.sensitivity * prevalence, (1 - point.sensitivity) * prevalence
    alarm, clear = (1 - point.specificity) * (1 - prevalence), point.specificity * (1 - prevalence)
    return {
        "prevalence": prevalence,
        "ppv": hit / (hit + alarm) if hit + alarm else 0.0,
        "npv": clear / (clear + miss) if clear + miss else 0.0,
    }


def evaluate(
    predictions: Predictions, points: OperatingPoints, temperature: float
) -> dict[str, Any]:
    """Everything that the JSON report holds, as plain values.

    Calibration is at the prevalence of these very pictures.
    """
    labels, logits = predictions.labels, predictions.logits
    probabilities = sigmoids(logits / temperature)
    low, high = auc_interval(predictions)
    return {
        "images": len(labels),
        "patients": len(set(predictions.patients)),
        "prevalence": float(labels.mean()),
        "auc": auc(labels, logits),
        "auc_low": low,
        "auc_high": high,
        "temperature": temperature,
        "ece": calibration_error(labels, probabilities),
        "brier": float(np.mean((probabilities - labels) ** 2)),
        "operating_points": {
            name: _at(labels, logits, point["threshold"]) for name, point in asdict(points).items()
        },
        "twins": _twins(predictions, points.balanced.threshold),
    }


def _at(labels: Labels, logits: Values, threshold: float) -> dict[str, Any]:
    counts = count(labels, logits, threshold)
    return {
        "threshold": threshold,
        **_rates(counts),
        **asdict(counts),
        "predictive_values": [predictive_values(counts, share) for share in REPORTED_PREVALENCES],
    }


def _rates(counts: Counts) -> dict[str, float]:
    return {
        "accuracy": counts.accuracy,
        "sensitivity": counts.sensitivity,
        "specificity": counts.specificity,
    }


def _twins(predictions: Predictions, threshold: float) -> Mapping[str, dict[str, float]]:
    """How the balanced point holds when the pictures are changed but the finding is not."""
    return {
        name: {
            "auc": auc(predictions.labels, logits),
            **_rates(count(predictions.labels, logits, threshold)),
            "changed": float(np.mean((logits >= threshold) != (predictions.logits >= threshold))),
        }
        for name, logits in predictions.twins.items()
    }
