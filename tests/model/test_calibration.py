"""Identities of the sigmoid, the temperature and the prior shift."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.calibration import Calibration, logit_of, shift_prevalence, sigmoid, sigmoids

logits = st.floats(-700, 700)
shares = st.floats(1e-4, 1 - 1e-4)


@given(logits)
def test_sigmoid_is_a_probability_and_symmetric(logit: float) -> None:
    assert 0 <= sigmoid(logit) <= 1
    assert math.isclose(sigmoid(logit) + sigmoid(-logit), 1)
    assert math.isclose(float(sigmoids(np.array([logit]))[0]), sigmoid(logit), abs_tol=1e-12)


@given(shares)
def test_logit_undoes_sigmoid(share: float) -> None:
    assert math.isclose(sigmoid(logit_of(share)), share, rel_tol=1e-9)


@given(st.floats(-30, 30), shares)
def test_shift_to_the_same_prevalence_changes_nothing(logit: float, share: float) -> None:
    assert shift_prevalence(logit, trained_at=share, reported_at=share) == pytest.approx(logit)


@given(st.floats(-30, 30), shares, shares, shares)
def test_shifts_follow_each_other(logit: float, a: float, b: float, c: float) -> None:
    by_way_of_b = shift_prevalence(
        shift_prevalence(logit, trained_at=a, reported_at=b), trained_at=b, reported_at=c
    )
    direct = shift_prevalence(logit, trained_at=a, reported_at=c)
    assert by_way_of_b == pytest.approx(direct, abs=1e-9)


@given(shares, shares)
def test_uninformative_picture_gets_the_sites_prevalence(trained: float, site: float) -> None:
    shifted = shift_prevalence(logit_of(trained), trained_at=trained, reported_at=site)
    assert sigmoid(shifted) == pytest.approx(site, rel=1e-9)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), shares, shares)
def test_shift_agrees_with_bayes_theorem(
    hit: float, alarm: float, trained: float, site: float
) -> None:
    def posterior(share: float) -> float:
        return hit * share / (hit * share + alarm * (1 - share))

    shifted = shift_prevalence(logit_of(posterior(trained)), trained_at=trained, reported_at=site)
    assert sigmoid(shifted) == pytest.approx(posterior(site), rel=1e-6)


@pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        Calibration(temperature=temperature)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.1, math.nan])
def test_prevalence_must_lie_between_0_and_1(share: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        logit_of(share)
