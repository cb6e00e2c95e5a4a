"""Fits the temperature that makes validation probabilities honest (Guo et al., ICML 2017)."""

import numpy as np
from numpy.typing import NDArray

LIMITS = (0.05, 20.0)


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The divisor of the logits, (n,), with the lowest cross-entropy, within LIMITS.

    One number cannot change the order of the pictures, so it moves no AUC and no
    operating point. Raises ValueError unless both classes are there.
    """
    from scipy.optimize import minimize_scalar

    if len(np.unique(labels)) < 2:  # noqa: PLR2004
        raise ValueError("a temperature can only be fitted to pictures of both classes")

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - scaled * labels))

    found = minimize_scalar(cross_entropy, bounds=np.log(LIMITS), method="bounded")
    return float(np.exp(found.x))
