"""Chooses temperature and thresholds on validation, and makes cases for the report of them.

What is chosen here is applied in `model.evaluation`, which chooses nothing, so that a test
set never chooses its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from model.bundle import OperatingPoint, OperatingPoints
from model.evaluation.cases import Cases, Labels, Rule, Values
from training.calibrate import fit_temperature
from training.predictions import Predictions

RULE_OUT_SENSITIVITY = 0.99
# At 0.95 the rule-in of a good model lies below its rule-out, and no image is left to review.
RULE_IN_SPECIFICITY = 0.99
RULE_IN_SHOWN = 0.95  # reported beside it


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Rates at every threshold that tells two cases apart, each (m,), thresholds ascending."""

    thresholds: Values
    sensitivity: Values
    specificity: Values

    @classmethod
    def of(cls, labels: Labels, logits: Values) -> "Curve":
        """Thresholds lie midway between neighbouring logits, and beyond both ends."""
        steps = np.unique(logits)
        thresholds = np.concatenate([steps[:1] - 1, (steps[1:] + steps[:-1]) / 2, steps[-1:] + 1])
        positive, negative = np.sort(logits[labels == 1]), np.sort(logits[labels == 0])
        return cls(
            thresholds=thresholds,
            sensitivity=1 - np.searchsorted(positive, thresholds) / len(positive),
            specificity=np.searchsorted(negative, thresholds) / len(negative),
        )

    def rule_out(self, sensitivity: float) -> OperatingPoint:
        """The highest threshold of at least this sensitivity."""
        return self._point(np.flatnonzero(self.sensitivity >= sensitivity)[-1])

    def rule_in(self, specificity: float) -> OperatingPoint:
        """The lowest threshold of at least this specificity."""
        return self._point(np.flatnonzero(self.specificity >= specificity)[0])

    def balanced(self) -> OperatingPoint:
        """The highest sum of both rates (Youden), the middle one of equals."""
        youden = self.sensitivity + self.specificity
        best = np.flatnonzero(np.isclose(youden, youden.max()))
        return self._point(best[len(best) // 2])

    def _point(self, index: np.intp) -> OperatingPoint:
        return OperatingPoint(
            threshold=float(self.thresholds[index]),
            sensitivity=float(self.sensitivity[index]),
            specificity=float(self.specificity[index]),
        )


def choose_points(labels: Labels, logits: Values) -> OperatingPoints:
    """Choose the three operating points of a bundle."""
    curve = Curve.of(labels, logits)
    return OperatingPoints(
        rule_out=curve.rule_out(RULE_OUT_SENSITIVITY),
        balanced=curve.balanced(),
        rule_in=curve.rule_in(RULE_IN_SPECIFICITY),
    )


def shown_beside(labels: Labels, logits: Values) -> Mapping[str, float]:
    """Thresholds that are reported but stored in no bundle, chosen on the same validation."""
    return {"rule_in_95": Curve.of(labels, logits).rule_in(RULE_IN_SHOWN).threshold}


def choose_rule(labels: Labels, logits: Values, temperature: float | None = None) -> Rule:
    """How logits are read from now on; the temperature is fitted unless it is given."""
    return Rule.of_points(
        choose_points(labels, logits),
        fit_temperature(logits, labels) if temperature is None else temperature,
        more=shown_beside(labels, logits),
    )


def cross_fitted(folds: Sequence[Predictions]) -> list[Rule]:
    """For each fold the rule that the predictions of all the others choose."""
    rules = []
    for index in range(len(folds)):
        others = [fold for other, fold in enumerate(folds) if other != index]
        labels = np.concatenate([fold.labels for fold in others])
        logits = np.concatenate([fold.logits for fold in others])
        rules.append(choose_rule(labels, logits))
    return rules


def cases_of(
    folds: Sequence[Predictions],
    rules: Sequence[Rule],
    subgroups: Mapping[str, Sequence[str]] | None = None,
) -> Cases:
    """Predictions as cases of the report: rules[i] reads folds[i].

    subgroups: of all the folds' images, one fold after the other.
    """
    return Cases(
        names=[name for fold in folds for name in fold.names],
        patients=[patient for fold in folds for patient in fold.patients],
        labels=np.concatenate([fold.labels for fold in folds]),
        logits=np.concatenate([fold.logits for fold in folds]),
        rules=rules,
        folds=np.concatenate([np.full(len(fold.names), i) for i, fold in enumerate(folds)]),
        subgroups=subgroups or {},
        twins={
            name: np.concatenate([fold.twins[name] for fold in folds]) for name in folds[0].twins
        },
    )


def only_fold(cases: Cases, index: int) -> Cases:
    """The cases of one fold, without subgroups and twins."""
    inside = np.flatnonzero(cases.folds == index).tolist()
    return replace(
        cases,
        names=[cases.names[i] for i in inside],
        patients=[cases.patients[i] for i in inside],
        labels=cases.labels[inside],
        logits=cases.logits[inside],
        rules=[cases.rules[index]],
        folds=np.zeros(len(inside), dtype=np.int64),
        subgroups={},
        twins={},
    )
