"""What is reported on, and how its logits are read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.bands import Band, BandLimits
from model.bundle import Bundle, OperatingPoints
from model.calibration import logit_of, sigmoid, sigmoids

CLASSES = ("NORMAL", "PNEUMONIA")  # the index is the label

Unit = Literal["image", "study"]
Labels = NDArray[np.int64]
Values = NDArray[np.float64]
Called = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a raw logit is read. It was chosen on other cases than those it is applied to.

    temperature: divides the logit. prior_shift: added then, the log odds by which the site's
    prevalence differs. thresholds: on the raw logit, by operating point. limits: of the
    bands, on the probability that results.
    """

    temperature: float
    thresholds: Mapping[str, float]
    limits: BandLimits
    prior_shift: float = 0.0

    @classmethod
    def of_points(
        cls, points: OperatingPoints, temperature: float, more: Mapping[str, float] | None = None
    ) -> "Rule":
        """Bands between rule-out and rule-in, whichever is lower, as the worker has them.

        more: further thresholds to report on; they move no band.
        """
        thresholds = {name: point["threshold"] for name, point in asdict(points).items()}
        lower, upper = sorted((thresholds["rule_out"], thresholds["rule_in"]))
        limits = BandLimits(
            review_from=sigmoid(lower / temperature), positive_from=sigmoid(upper / temperature)
        )
        thresholds |= more or {}
        return cls(temperature=temperature, thresholds=thresholds, limits=limits)

    @classmethod
    def of_bundle(cls, bundle: Bundle, limits: BandLimits, prevalence: float) -> "Rule":
        """As the worker reads a bundle's logits at a site of that prevalence."""
        points = asdict(bundle.operating_points).items()
        return cls(
            temperature=bundle.calibration.temperature,
            thresholds={name: point["threshold"] for name, point in points},
            limits=limits,
            prior_shift=logit_of(prevalence) - logit_of(bundle.training_prevalence),
        )


@dataclass(frozen=True, kw_only=True)
class Cases:
    """n images (or studies) with their labels, int64 (n,), and raw logits, float64 (n,).

    patients: whose they are; they are resampled together. rules, folds: case i is read by
    rules[folds[i]]. subgroups: for each criterion the group of every case, "" for none.
    twins: logits of the same images after a change that leaves the finding, float64 (n,).
    """

    names: Sequence[str]
    patients: Sequence[str]
    labels: Labels
    logits: Values
    rules: Sequence[Rule]
    folds: NDArray[np.int64]
    subgroups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    twins: Mapping[str, Values] = field(default_factory=dict)
    unit: Unit = "image"

    @property
    def units(self) -> str:
        """What the cases are, in the plural."""
        return {"image": "images", "study": "studies"}[self.unit]

    @cached_property
    def prior_shifts(self) -> Values:
        """Of each case, log odds: float64 (n,)."""
        return np.array([rule.prior_shift for rule in self.rules])[self.folds]

    @cached_property
    def probabilities(self) -> Values:
        """Calibrated, at the prevalence that the rules' prior shift stands for: float64 (n,)."""
        temperatures = np.array([rule.temperature for rule in self.rules])
        return sigmoids(self.logits / temperatures[self.folds] + self.prior_shifts)

    @cached_property
    def bands(self) -> list[Band]:
        """The band of each case, as the worker would report it."""
        return [
            self.rules[fold].limits.band(float(probability))
            for fold, probability in zip(self.folds, self.probabilities, strict=True)
        ]

    def thresholds(self, point: str) -> Values:
        """The threshold on each case's raw logit: float64 (n,)."""
        return np.array([rule.thresholds[point] for rule in self.rules])[self.folds]

    def called(self, point: str, logits: Values | None = None) -> Called:
        """Which cases an operating point calls pneumonia: bool (n,). logits: of a twin."""
        return np.asarray((self.logits if logits is None else logits) >= self.thresholds(point))
