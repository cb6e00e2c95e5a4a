"""The report as plain values."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from model.bands import BandLimits
from model.evaluation.cases import Cases, Rule
from model.evaluation.report import evaluate, rows

MakeCases = Callable[..., Cases]


def test_report_agrees_with_scikit_learn_and_is_json(make_cases: MakeCases) -> None:
    cases = make_cases()
    report = evaluate(cases)
    json.dumps(report)
    assert report["auc"] == pytest.approx(roc_auc_score(cases.labels, cases.logits))
    assert report["auc_low"] < report["auc"] < report["auc_high"]
    assert report["auc_high"] - report["auc_low"] < 0.1
    expected = brier_score_loss(cases.labels, cases.probabilities)
    assert report["brier"] == pytest.approx(expected)
    assert report["patients"] == 200


def test_thresholds_are_applied_as_they_are_given(make_cases: MakeCases) -> None:
    cases = make_cases(
        4,
        labels=np.array([0, 0, 1, 1]),
        logits=np.array([-2.0, 0.5, -0.5, 2.0]),
    )
    at = evaluate(cases)["operating_points"]
    assert at["rule_out"]["sensitivity"] == 1
    assert at["rule_out"]["false_positive"] == 1
    assert (at["balanced"]["sensitivity"], at["balanced"]["specificity"]) == (0.5, 0.5)
    assert at["rule_in"]["specificity"] == 1


def test_each_fold_is_read_by_its_own_rule(make_cases: MakeCases) -> None:
    rules = [
        Rule(
            temperature=temperature,
            thresholds=dict.fromkeys(("rule_out", "balanced", "rule_in"), threshold),
            limits=BandLimits(review_from=0.5, positive_from=0.5),
        )
        for temperature, threshold in ((1.0, 0.0), (2.0, 5.0))
    ]
    cases = make_cases(
        4,
        labels=np.array([0, 1, 0, 1]),
        logits=np.array([-1.0, 4.0, -1.0, 4.0]),
        rules=rules,
        folds=np.array([0, 0, 1, 1]),
    )
    np.testing.assert_array_equal(cases.called("balanced"), [False, True, False, False])
    assert cases.probabilities[3] == pytest.approx(1 / (1 + np.exp(-2.0)))
    report = evaluate(cases)
    assert report["operating_points"]["balanced"]["threshold"] == [0.0, 5.0]
    assert report["temperature"] == [1.0, 2.0]
    assert [row["fold"] for row in rows(cases)] == [0, 0, 1, 1]


def test_bands_at_other_prevalences_are_those_done_by_hand(make_cases: MakeCases) -> None:
    cases = make_cases(
        6,
        labels=np.array([0, 0, 0, 0, 1, 1]),
        logits=np.array([-5.0, -5.0, -5.0, 0.0, 0.0, 5.0]),
    )
    report = evaluate(cases)
    bands = report["bands"]
    assert [bands[name]["NORMAL"] for name in ("negative", "review", "positive")] == [3, 1, 0]
    assert [bands[name]["PNEUMONIA"] for name in ("negative", "review", "positive")] == [0, 1, 1]
    at = bands["review"]["at"][1]
    assert at["prevalence"] == 0.1
    assert at["share_of_all"] == pytest.approx(0.1 / 2 + 0.9 / 4)
    assert at["pneumonia"] == pytest.approx(0.05 / (0.05 + 0.225))
    assert report["bands_fixed"]["review"]["NORMAL"] == 1


def test_prior_shift_moves_probabilities_and_no_call(make_cases: MakeCases) -> None:
    cases = make_cases()
    rule = cases.rules[0]
    shifted = make_cases(
        rules=[
            Rule(
                temperature=rule.temperature,
                thresholds=rule.thresholds,
                limits=rule.limits,
                prior_shift=-2.0,
            )
        ]
    )
    assert (shifted.probabilities < cases.probabilities).all()
    np.testing.assert_array_equal(shifted.called("balanced"), cases.called("balanced"))


def test_subgroup_of_one_class_is_compared_with_all_of_the_other(make_cases: MakeCases) -> None:
    plain = make_cases()
    kinds = ["normal" if label == 0 else "virus" for label in plain.labels]
    halves = ["one" if i % 2 else "" for i in range(len(kinds))]
    cases = make_cases(subgroups={"kind": kinds, "half": halves})
    found = evaluate(cases)["subgroups"]
    assert found["kind"]["virus"]["against_all"]
    assert found["kind"]["virus"]["auc"] == pytest.approx(evaluate(plain)["auc"])
    assert found["kind"]["virus"]["specificity"] is None
    assert list(found["half"]) == ["one"]
    assert found["half"]["one"]["images"] == 200
    inside = np.arange(400) % 2 == 1
    expected = roc_auc_score(cases.labels[inside], cases.logits[inside])
    assert found["half"]["one"]["auc"] == pytest.approx(expected)


def test_small_subgroups_are_left_out(make_cases: MakeCases) -> None:
    few = ["few" if i < 9 else "many" for i in range(400)]
    assert list(evaluate(make_cases(subgroups={"size": few}))["subgroups"]["size"]) == ["many"]


def test_twins_are_called_by_the_same_threshold(make_cases: MakeCases) -> None:
    cases = make_cases(twins={"softened": make_cases().logits + 0.1})
    twin = evaluate(cases)["twins"]["softened"]
    assert 0 < twin["changed"] < 0.1
    assert twin["sensitivity"] >= evaluate(cases)["operating_points"]["balanced"]["sensitivity"]


def test_the_worst_mistakes_come_first(make_cases: MakeCases) -> None:
    cases = make_cases(
        5,
        labels=np.array([1, 1, 1, 0, 0]),
        logits=np.array([-0.1, -3.0, 2.0, 4.0, -1.0]),
    )
    mistakes = evaluate(cases)["mistakes"]
    assert [it["name"] for it in mistakes["missed"]] == ["image 1", "image 0"]
    assert [it["name"] for it in mistakes["false_alarms"]] == ["image 3"]


def test_one_class_is_refused(make_cases: MakeCases) -> None:
    with pytest.raises(ValueError, match="both classes"):
        evaluate(make_cases(4, labels=np.ones(4, dtype=np.int64)))


def test_a_line_a_case(make_cases: MakeCases) -> None:
    cases = make_cases(subgroups={"half": ["a", "b"] * 200})
    lines = rows(cases)
    assert len(lines) == 400
    assert lines[1]["half"] == "b"
    for line, logit in zip(lines, cases.logits, strict=True):
        assert line["called"] == ("PNEUMONIA" if logit >= 0 else "NORMAL")
        band = "positive" if line["probability"] >= 0.75 else "review"
        assert line["band"] == (band if line["probability"] >= 0.25 else "negative")
