"""Whether a site's images look to the model as its validation set did.

The population stability index compares how logits are spread: here, and in the validation set
weighted to the site's prevalence (its own share of pneumonia is 74 %, and would drown everything
else). Bins are the deciles of what is expected.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import log
from pathlib import Path

BINS = 10
IMAGES_MIN = 100  # fewer say nothing
SHIFTED_FROM = 0.1  # usual reading: below 0.1 stable, beyond 0.25 another population
UNLIKE_FROM = 0.25
_SHARE_MIN = 1e-4  # an empty bin's, for the logarithm


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The validation set's logits in bins: ascending inner edges, and each bin's share."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]


@lru_cache(maxsize=4)  # a bundle never changes
def expected(validation_csv: Path, prevalence: float) -> Expected | None:
    """Bins of the validation set, weighted to a prevalence; None where a bundle has none."""
    try:
        with validation_csv.open(newline="") as file:
            rows = [(float(row["logit"]), row["label"] == "1") for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError):
        return None
    positives = sum(label for _, label in rows)
    if not 0 < positives < len(rows):
        return None
    weight_of = {True: prevalence / positives, False: (1 - prevalence) / (len(rows) - positives)}
    weighted = sorted((logit, weight_of[label]) for logit, label in rows)
    edges: list[float] = []
    passed = 0.0
    for logit, weight in weighted:
        passed += weight
        if len(edges) < BINS - 1 and passed >= (len(edges) + 1) / BINS:
            edges.append(logit)
    shares = [
        sum(weight for logit, weight in weighted if low <= logit < high)
        for low, high in pairwise([float("-inf"), *edges, float("inf")])
    ]
    return Expected(edges=tuple(edges), shares=tuple(shares))


def stability_index(expected_shares: Sequence[float], counts: Sequence[int]) -> float | None:
    """The population stability index; None for too few images."""
    total = sum(counts)
    if total < IMAGES_MIN:
        return None
    index = 0.0
    for share, count in zip(expected_shares, counts, strict=True):
        was, now = max(share, _SHARE_MIN), max(count / total, _SHARE_MIN)
        index += (now - was) * log(now / was)
    return index


def reading(index: float | None) -> str:
    """What an index says, in words."""
    if index is None:
        return f"too few images to tell (at least {IMAGES_MIN})"
    if index < SHIFTED_FROM:
        return "as the validation set"
    return "shifted" if index < UNLIKE_FROM else "another population: look at the images"
