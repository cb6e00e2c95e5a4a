"""Cases whose figures are known, or can be had from another library."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from model.bands import BandLimits
from model.evaluation.cases import Cases, Rule

RULE = Rule(
    temperature=1.0,
    thresholds={"rule_out": -1.0, "balanced": 0.0, "rule_in": 1.0},
    limits=BandLimits(review_from=0.25, positive_from=0.75),
)


@pytest.fixture(scope="session")
def make_cases() -> Callable[..., Cases]:
    """400 images of 200 patients; classes overlap."""

    def make(count: int = 400, seed: int = 0, **changes: Any) -> Cases:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, count)
        logits = rng.normal(3 * labels - 1.5, 1.2)
        values: dict[str, Any] = {
            "names": [f"image {i}" for i in range(count)],
            "patients": [f"patient {i // 2}" for i in range(count)],
            "labels": labels,
            "logits": logits,
            "rules": [RULE],
            "folds": np.zeros(count, dtype=np.int64),
        }
        return Cases(**{**values, **changes})

    return make
