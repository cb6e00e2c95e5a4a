"""Figures against cases that can be done by hand, and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.calibration import sigmoids
from training.calibrate import fit_temperature
from training.evaluate import (
    Counts,
    auc_interval,
    calibration_error,
    choose_points,
    count,
    evaluate,
    predictive_values,
)
from training.predictions import Predictions, read_predictions, write_predictions


def predictions(count: int = 400, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    logits = rng.normal(3 * labels - 1.5, 1.2)
    names = [f"person{i // 2}_virus_{i}.jpeg" for i in range(count)]
    twins = dict.fromkeys(("corners_hidden", "softened", "sharpened"), logits + 0.1)
    return Predictions(names=names, labels=labels, logits=logits, twins=twins)


def test_counts_and_rates_are_those_done_by_hand() -> None:
    counts = count(np.array([1, 1, 1, 0, 0]), np.array([2.0, 0.5, -1.0, 0.5, -2.0]), 0.5)
    assert counts == Counts(true_positive=2, false_positive=1, true_negative=1, false_negative=1)
    assert counts.sensitivity == pytest.approx(2 / 3)
    assert counts.specificity == 0.5
    assert counts.accuracy == 0.6


@settings(max_examples=60, deadline=None)
@given(
    negative=st.lists(st.floats(-20, 20), min_size=1, max_size=60),
    positive=st.lists(st.floats(-20, 20), min_size=1, max_size=60),
)
def test_operating_points_keep_their_promise(negative: list[float], positive: list[float]) -> None:
    logits = np.array(negative + positive)
    labels = np.array([0] * len(negative) + [1] * len(positive))
    points = choose_points(labels, logits)
    assert points.rule_out.sensitivity >= 0.99
    assert points.rule_in.specificity >= 0.95
    for point in (points.rule_out, points.balanced, points.rule_in):
        counts = count(labels, logits, point.threshold)
        assert counts.sensitivity == pytest.approx(point.sensitivity)
        assert counts.specificity == pytest.approx(point.specificity)
    best = max(
        count(labels, logits, t).sensitivity + count(labels, logits, t).specificity for t in logits
    )
    assert points.balanced.sensitivity + points.balanced.specificity >= best - 1e-9


def test_perfect_calibration_has_no_error_and_a_bold_one_does() -> None:
    rng = np.random.default_rng(0)
    honest = rng.random(20_000)
    labels = (rng.random(20_000) < honest).astype(np.int64)
    assert calibration_error(labels, honest) < 0.02
    assert calibration_error(labels, np.round(honest)) > 0.2


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20_000)
    labels = (rng.random(20_000) < sigmoids(logits)).astype(np.int64)
    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)
    assert fit_temperature(logits / 2, labels) == pytest.approx(0.5, rel=0.05)


def test_temperature_of_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="both classes"):
        fit_temperature(np.array([1.0, 2.0]), np.array([1, 1]))


def test_auc_interval_holds_the_auc_and_repeats() -> None:
    from sklearn.metrics import roc_auc_score

    made = predictions()
    low, high = auc_interval(made)
    assert low < roc_auc_score(made.labels, made.logits) < high
    assert high - low < 0.1
    assert auc_interval(made) == (low, high)


def test_predictive_values_follow_prevalence() -> None:
    counts = Counts(true_positive=90, false_negative=10, true_negative=80, false_positive=20)
    at_half = predictive_values(counts, 0.5)
    assert at_half["ppv"] == pytest.approx(0.9 / 1.1)
    assert at_half["npv"] == pytest.approx(0.8 / 0.9)
    assert predictive_values(counts, 0.05)["ppv"] < 0.2


def test_report_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import brier_score_loss, roc_auc_score

    made = predictions()
    report = evaluate(made, choose_points(made.labels, made.logits), temperature=1.0)
    assert report["auc"] == pytest.approx(roc_auc_score(made.labels, made.logits))
    expected = brier_score_loss(made.labels, sigmoids(made.logits))
    assert report["brier"] == pytest.approx(expected)
    assert report["patients"] == 200
    assert 0 < report["twins"]["softened"]["changed"] < 0.1


def test_predictions_come_back_from_their_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("predictions") / "predictions.csv"
    made = predictions(10)
    write_predictions(path, made)
    back = read_predictions(path)
    assert list(back.names) == list(made.names)
    np.testing.assert_array_equal(back.labels, made.labels)
    np.testing.assert_allclose(back.logits, made.logits, atol=1e-5)
    assert back.twins.keys() == made.twins.keys()
