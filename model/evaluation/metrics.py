"""Plain figures: counts and rates, predictive values, calibration, intervals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluation.cases import CLASSES, Called, Labels, Values

CALIBRATION_BINS = 15
BOOTSTRAP_ROUNDS = 1000


@dataclass(frozen=True, kw_only=True)
class Counts:
    """A confusion matrix of two classes; pneumonia is positive."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int

    @property
    def positives(self) -> int:
        return self.true_positive + self.false_negative

    @property
    def negatives(self) -> int:
        return self.true_negative + self.false_positive

    @property
    def sensitivity(self) -> float:
        return self.true_positive / max(1, self.positives)

    @property
    def specificity(self) -> float:
        return self.true_negative / max(1, self.negatives)

    @property
    def accuracy(self) -> float:
        right = self.true_positive + self.true_negative
        return right / max(1, self.positives + self.negatives)


def count(labels: Labels, called: Called) -> Counts:
    """Count calls, bool (n,), against labels, (n,)."""
    return Counts(
        true_positive=int(np.sum(called & (labels == 1))),
        false_positive=int(np.sum(called & (labels == 0))),
        true_negative=int(np.sum(~called & (labels == 0))),
        false_negative=int(np.sum(~called & (labels == 1))),
    )


def by_class(labels: Labels, called: Called) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and number of each class."""
    from sklearn.metrics import precision_recall_fscore_support

    figures = precision_recall_fscore_support(labels, called, labels=[0, 1], zero_division=0.0)
    return {
        name: {
            "precision": float(figures[0][label]),
            "recall": float(figures[1][label]),
            "f1": float(figures[2][label]),
            "number": int(figures[3][label]),
        }
        for label, name in enumerate(CLASSES)
    }


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> dict[str, Any]:
    """PPV and NPV at another prevalence (Bayes); None where nothing is called."""
    hit, miss = sensitivity * prevalence, (1 - sensitivity) * prevalence
    alarm, clear = (1 - specificity) * (1 - prevalence), specificity * (1 - prevalence)
    return {
        "prevalence": prevalence,
        "ppv": hit / (hit + alarm) if hit + alarm else None,
        "npv": clear / (clear + miss) if clear + miss else None,
    }


def auc(labels: Labels, logits: Values) -> float:
    """Area under the ROC curve; equal logits count half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, logits))


def average_precision(labels: Labels, logits: Values) -> float:
    """Area under the precision-recall curve, as steps."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, logits))


def calibration_error(labels: Labels, probabilities: Values) -> float:
    """Expected calibration error: |mean probability - share of pneumonia|, 15 equal bins."""
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, probabilities - labels, CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def brier(labels: Labels, probabilities: Values) -> float:
    """Mean squared distance of probability and label."""
    return float(np.mean((probabilities - labels) ** 2))


def wilson_interval(shares: Any, sizes: Any) -> tuple[Any, Any]:
    """95 % interval of observed shares, any shape, that stays within [0, 1] (Wilson 1927)."""
    sizes = np.maximum(sizes, 1)
    z2 = 1.96**2
    centre = (shares + z2 / (2 * sizes)) / (1 + z2 / sizes)
    half = np.sqrt(z2 * shares * (1 - shares) / sizes + z2**2 / (4 * sizes**2)) / (1 + z2 / sizes)
    return np.maximum(0.0, centre - half), np.minimum(1.0, centre + half)


def resampled(patients: Any, seed: int = 0) -> NDArray[np.float32]:
    """How often each case is drawn when whole patients are: (BOOTSTRAP_ROUNDS, n)."""
    _, owners = np.unique(patients, return_inverse=True)
    number = int(owners.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(
        number, np.full(number, 1 / number), size=BOOTSTRAP_ROUNDS
    )
    return np.asarray(drawn[:, owners], dtype=np.float32)


def area_intervals(
    labels: Labels, logits: Values, weights: NDArray[np.float32]
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals of `auc` and `average_precision`, all rounds at once.

    weights: of the same cases, as `resampled` gives them. Rounds without both classes are
    left out.
    """
    _, starts = np.unique(np.sort(-logits), return_index=True)
    order = np.argsort(-logits, kind="stable")  # the highest first; equal ones form a step
    positive = np.add.reduceat(weights[:, order] * labels[order], starts, axis=1, dtype=float)
    negative = np.add.reduceat(weights[:, order] * (1 - labels[order]), starts, axis=1, dtype=float)
    usable = (positive.sum(axis=1) > 0) & (negative.sum(axis=1) > 0)
    positive, negative = positive[usable], negative[usable]
    hits, alarms = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
    positives, negatives = hits[:, -1], alarms[:, -1]
    above = hits - positive / 2  # equal logits count half
    aucs = (above * negative).sum(axis=1) / (positives * negatives)
    precision = hits / np.maximum(1e-9, hits + alarms)
    precisions = (precision * positive).sum(axis=1) / positives
    return {"auc": _interval(aucs), "average_precision": _interval(precisions)}


def _interval(values: Values) -> tuple[float, float]:
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
