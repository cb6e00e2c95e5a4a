"""Figures against cases that can be done by hand, and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.evaluation.metrics import (
    BOOTSTRAP_ROUNDS,
    Counts,
    area_intervals,
    auc,
    average_precision,
    by_class,
    calibration_error,
    count,
    predictive_values,
    resampled,
    wilson_interval,
)


def test_counts_and_rates_are_those_done_by_hand() -> None:
    called = np.array([2.0, 0.5, -1.0, 0.5, -2.0]) >= 0.5
    counts = count(np.array([1, 1, 1, 0, 0]), called)
    assert counts == Counts(true_positive=2, false_positive=1, true_negative=1, false_negative=1)
    assert counts.sensitivity == pytest.approx(2 / 3)
    assert counts.specificity == 0.5
    assert counts.accuracy == 0.6


def test_precision_recall_and_f1_of_each_class_are_those_done_by_hand() -> None:
    found = by_class(np.array([1, 1, 1, 0, 0]), np.array([True, True, False, True, False]))
    assert found["PNEUMONIA"] == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "number": 3}
    )
    assert found["NORMAL"] == pytest.approx(
        {"precision": 0.5, "recall": 0.5, "f1": 0.5, "number": 2}
    )


def test_predictive_values_follow_prevalence() -> None:
    at_half = predictive_values(0.9, 0.8, 0.5)
    assert at_half["ppv"] == pytest.approx(0.9 / 1.1)
    assert at_half["npv"] == pytest.approx(0.8 / 0.9)
    assert predictive_values(0.9, 0.8, 0.05)["ppv"] < 0.2
    assert predictive_values(0.0, 1.0, 0.1)["ppv"] is None


def test_perfect_calibration_has_no_error_and_a_bold_one_does() -> None:
    rng = np.random.default_rng(0)
    honest = rng.random(20_000)
    labels = (rng.random(20_000) < honest).astype(np.int64)
    assert calibration_error(labels, honest) < 0.02
    assert calibration_error(labels, np.round(honest)) > 0.2


def test_wilson_interval_is_the_textbooks_and_never_leaves_0_to_1() -> None:
    low, high = wilson_interval(0.9, 10)  # Agresti and Coull 1998
    assert (low, high) == (pytest.approx(0.596, abs=2e-3), pytest.approx(0.982, abs=2e-3))
    low, high = wilson_interval(np.array([0.0, 1.0]), np.array([5, 5]))
    assert low[0] == 0
    assert high[1] == 1


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(0, 4)),
        min_size=4,
        max_size=40,
    )
)
def test_areas_of_weighted_cases_are_those_of_scikit_learn(
    rows: list[tuple[int, int, int]],
) -> None:
    """With many equal logits, and weights as a bootstrap draws them."""
    labels = np.array([row[0] for row in rows])
    logits = np.array([float(row[1]) for row in rows])
    weights = np.array([[row[2] for row in rows]], dtype=np.float32)
    repeated = np.repeat(np.arange(len(rows)), weights[0].astype(int))
    if len(np.unique(labels[repeated])) < 2:
        return
    found = area_intervals(labels, logits, weights)
    assert found["auc"][0] == pytest.approx(auc(labels[repeated], logits[repeated]))
    expected = average_precision(labels[repeated], logits[repeated])
    assert found["average_precision"][0] == pytest.approx(expected)


def test_patients_are_drawn_whole() -> None:
    weights = resampled(["a", "b", "a", "c", "c"])
    assert weights.shape == (BOOTSTRAP_ROUNDS, 5)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 3], weights[:, 4])
    np.testing.assert_array_equal(weights[:, 0] + weights[:, 1] + weights[:, 3], 3)
    np.testing.assert_array_equal(weights, resampled(["a", "b", "a", "c", "c"]))
