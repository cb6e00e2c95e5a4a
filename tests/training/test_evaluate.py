"""What is chosen on validation keeps its promise, and is never chosen on what it is applied to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.calibration import sigmoids
from model.evaluation.metrics import count
from training.calibrate import fit_temperature
from training.evaluate import cases_of, choose_points, choose_rule, cross_fitted, only_fold
from training.predictions import Predictions, read_predictions, write_predictions


def predictions(count: int = 400, seed: int = 0, moved: float = 0.0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    logits = rng.normal(3 * labels - 1.5, 1.2) + moved
    names = [f"person{i // 2}_virus_{seed}{i}.jpeg" for i in range(count)]
    twins = dict.fromkeys(("corners_hidden", "softened", "sharpened"), logits + 0.1)
    return Predictions(names=names, labels=labels, logits=logits, twins=twins)


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
    assert points.rule_in.specificity >= 0.99
    for point in (points.rule_out, points.balanced, points.rule_in):
        counts = count(labels, logits >= point.threshold)
        assert counts.sensitivity == pytest.approx(point.sensitivity)
        assert counts.specificity == pytest.approx(point.specificity)
    sums = [count(labels, logits >= t) for t in logits]
    best = max(it.sensitivity + it.specificity for it in sums)
    assert points.balanced.sensitivity + points.balanced.specificity >= best - 1e-9


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20_000)
    labels = (rng.random(20_000) < sigmoids(logits)).astype(np.int64)
    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)
    assert fit_temperature(logits / 2, labels) == pytest.approx(0.5, rel=0.05)


def test_temperature_of_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="both classes"):
        fit_temperature(np.array([1.0, 2.0]), np.array([1, 1]))


def test_a_folds_own_predictions_have_no_say_in_its_rule() -> None:
    folds = [predictions(seed=seed) for seed in range(3)]
    spoiled = [predictions(seed=0, moved=50.0), *folds[1:]]
    assert cross_fitted(folds)[0] == cross_fitted(spoiled)[0]
    assert cross_fitted(folds)[1] != cross_fitted(spoiled)[1]


def test_two_folds_choose_for_each_other() -> None:
    one, other = predictions(seed=0), predictions(seed=1)
    rules = cross_fitted([one, other])
    assert rules[0] == choose_rule(other.labels, other.logits)
    assert rules[1] == choose_rule(one.labels, one.logits)


def test_cases_keep_the_order_of_the_folds() -> None:
    folds = [predictions(seed=seed, count=20) for seed in range(2)]
    cases = cases_of(folds, cross_fitted(folds))
    assert list(cases.names) == [*folds[0].names, *folds[1].names]
    assert cases.folds.tolist() == [0] * 20 + [1] * 20
    np.testing.assert_array_equal(cases.twins["softened"][20:], folds[1].twins["softened"])
    second = only_fold(cases, 1)
    assert list(second.names) == list(folds[1].names)
    np.testing.assert_array_equal(second.probabilities, cases.probabilities[20:])


def test_predictions_come_back_from_their_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("predictions") / "predictions.csv"
    made = predictions(10)
    write_predictions(path, made)
    back = read_predictions(path)
    assert list(back.names) == list(made.names)
    np.testing.assert_array_equal(back.labels, made.labels)
    np.testing.assert_allclose(back.logits, made.logits, atol=1e-5)
    assert back.twins.keys() == made.twins.keys()
