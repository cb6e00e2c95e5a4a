"""When to lower the learning rate and when to stop, read off the losses so far.

Plain functions of the log: nothing else has to survive a kill. The losses are those of the tenth
of the training pictures that `split.hold_out` sets aside, never those of the validation fold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MIN_GAIN = 1e-4  # a loss lower by less is no better


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stop after `patience` epochs without a better loss, and keep the best one's model."""

    patience: int


@dataclass(frozen=True, kw_only=True)
class ReduceOnPlateau:
    """Multiply the rate by `factor` after every `patience` epochs without a better loss."""

    patience: int
    factor: float
    lowest: float = 1e-3  # the rate never falls below this times the recipe's


def best_epoch(losses: Sequence[float]) -> int:
    """Index of the last loss that was better than all before it; -1 of none."""
    best = -1
    for epoch, loss in enumerate(losses):
        if best < 0 or loss < losses[best] - MIN_GAIN:
            best = epoch
    return best


def is_over(losses: Sequence[float], rule: EarlyStopping) -> bool:
    return len(losses) - 1 - best_epoch(losses) >= rule.patience and bool(losses)


def rate_factor(losses: Sequence[float], rule: ReduceOnPlateau) -> float:
    """What the next epoch's learning rate is multiplied by."""
    factor, best, waited = 1.0, float("inf"), 0
    for loss in losses:
        if loss < best - MIN_GAIN:
            best, waited = loss, 0
            continue
        waited += 1
        if waited == rule.patience:
            factor, waited = factor * rule.factor, 0
    return max(factor, rule.lowest)
