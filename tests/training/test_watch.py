"""Plateau and early stopping are read off the losses alone, so a resumed run agrees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.watch import EarlyStopping, ReduceOnPlateau, best_epoch, is_over, rate_factor

PLATEAU = ReduceOnPlateau(patience=2, factor=0.5, lowest=0.1)


@pytest.mark.parametrize(
    ("losses", "best", "over", "factor"),
    [
        ([], -1, False, 1.0),
        ([1.0], 0, False, 1.0),
        ([1.0, 0.9, 0.8], 2, False, 1.0),
        ([1.0, 0.9, 0.9], 1, False, 1.0),
        ([1.0, 0.9, 0.95, 0.9], 1, False, 0.5),
        ([1.0, 0.9, 0.95, 0.9, 0.89999], 1, True, 0.5),  # too small a gain is none
        ([1.0, 0.9, 0.95, 0.9, 0.8, 0.85, 0.85], 4, False, 0.25),
        ([1.0] * 20, 0, True, 0.1),
    ],
)
def test_losses_decide(losses: list[float], best: int, over: bool, factor: float) -> None:
    assert best_epoch(losses) == best
    assert is_over(losses, EarlyStopping(patience=3)) is over
    assert rate_factor(losses, PLATEAU) == pytest.approx(factor)


@given(st.lists(st.floats(0, 5), max_size=40))
def test_rate_only_ever_falls_and_never_below_its_limit(losses: list[float]) -> None:
    factors = [rate_factor(losses[:n], PLATEAU) for n in range(len(losses) + 1)]
    assert factors == sorted(factors, reverse=True)
    assert min(factors) >= PLATEAU.lowest
