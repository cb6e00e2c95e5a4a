"""From a raw logit to a probability that is honest about prevalence.

Temperature scaling (Guo et al., ICML 2017) and the prior shift on the odds (Saerens et al.,
Neural Computation 2002). Plain functions on numbers and arrays.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A logit is divided by the temperature, which is fitted on the validation set."""

    temperature: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be a positive number, got {self.temperature}")

    def apply(self, logit: float) -> float:
        """The calibrated logit, at the training set's prevalence."""
        return logit / self.temperature


def sigmoid(logit: float) -> float:
    """Probability of a logit, without overflow at either end."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1 + odds)


def sigmoids(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """`sigmoid` of each of an array's values, any shape."""
    half = np.asarray(logits, dtype=np.float64) / 2
    return np.asarray(0.5 * (1 + np.tanh(half)), dtype=np.float64)


def logit_of(probability: float) -> float:
    """Log odds of a probability; raises ValueError unless 0 < probability < 1."""
    if not 0 < probability < 1:
        raise ValueError(f"expected a probability between 0 and 1, got {probability}")
    return math.log(probability) - math.log1p(-probability)


def shift_prevalence(logit: float, *, trained_at: float, reported_at: float) -> float:
    """The logit as it would be, had the model been trained at another prevalence.

    Multiplying the prior odds by a factor multiplies the posterior odds by the same: it holds
    while the pictures of either class look alike at both places.
    """
    return logit + logit_of(reported_at) - logit_of(trained_at)
