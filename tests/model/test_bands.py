"""Bands follow the operating points, whatever the prevalence."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.bands import Band, BandLimits, Interpreter, Label
from model.bundle import Bundle, read_bundle

ORDER = [Band.NEGATIVE, Band.REVIEW, Band.POSITIVE]
shares = st.floats(0.001, 0.999)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Rule-out at -1, balanced at 0, rule-in at 2; temperature 1.5, trained at 0.75."""
    return made(tmp_path_factory.mktemp("bundle"), rule_out=-1.0, rule_in=2.0)


def made(folder: Path, *, rule_out: float, rule_in: float) -> Bundle:
    def point(threshold: float) -> dict[str, float]:
        return {"threshold": threshold, "sensitivity": 0.98, "specificity": 0.97}

    document: dict[str, Any] = {
        "format": 3,
        "name": "tiny",
        "version": "1",
        "weights_sha256": "0" * 64,
        "input_shape": [32, 32, 1],
        "preprocess": {"version": 1, "parameters": {}},
        "calibration": {"temperature": 1.5},
        "training": {
            "data": "none",
            "data_digest": "0" * 64,
            "prevalence": 0.75,
            "recipe": "none",
            "split": "none",
        },
        "operating_points": {
            "rule_out": point(rule_out),
            "balanced": point(0.0),
            "rule_in": point(rule_in),
        },
        "intended_use": {"min_age_years": 1, "max_age_years": 5, "text": "tests"},
        "ood": {
            "sha256": "0" * 64,
            "method": "none",
            "layer": "none",
            "grid": 1,
            "limit": 1.0,
            "far_limit": 1.5,
            "auroc": 1.0,
            "false_refusals": 0.0,
            "negatives": "none",
        },
        "metrics": {},
        "license": "none",
    }
    (folder / "manifest.json").write_text(json.dumps(document))
    return read_bundle(folder)


@pytest.mark.parametrize("prevalence", [0.01, 0.1, 0.75, 0.99])
def test_bands_change_at_the_operating_points_at_any_prevalence(
    bundle: Bundle, prevalence: float
) -> None:
    site = Interpreter(bundle, prevalence)
    at = {logit: site.interpret(logit).band for logit in (-1.001, -1.0, 1.999, 2.0)}
    assert list(at.values()) == [Band.NEGATIVE, Band.REVIEW, Band.REVIEW, Band.POSITIVE]


def test_limits_are_ordered_when_rule_in_lies_below_rule_out(tmp_path: Path) -> None:
    site = Interpreter(made(tmp_path, rule_out=2.0, rule_in=-1.0), 0.1)
    assert site.interpret(-1.1).band is Band.NEGATIVE
    assert site.interpret(0.0).band is Band.REVIEW
    assert site.interpret(2.1).band is Band.POSITIVE


@settings(max_examples=50)
@given(data=st.data())
def test_probability_and_band_never_fall_as_the_logit_rises(
    bundle: Bundle, data: st.DataObject
) -> None:
    site = Interpreter(bundle, data.draw(shares))
    logits = sorted(data.draw(st.lists(st.floats(-50, 50), min_size=2)))
    results = [site.interpret(logit) for logit in logits]
    probabilities = [result.probability for result in results]
    bands = [ORDER.index(result.band) for result in results]
    assert probabilities == sorted(probabilities)
    assert bands == sorted(bands)


@given(prevalence=shares, logit=st.floats(-30, 30))
def test_class_at_the_balanced_point_depends_on_no_prevalence(
    bundle: Bundle, prevalence: float, logit: float
) -> None:
    result = Interpreter(bundle, prevalence).interpret(logit)
    assert result.balanced is (Label.PNEUMONIA if logit >= 0 else Label.NORMAL)


def test_raw_probability_is_the_one_at_the_training_prevalence(bundle: Bundle) -> None:
    result = Interpreter(bundle, 0.75).interpret(1.3)
    assert result.raw_probability == pytest.approx(result.probability)
    assert Interpreter(bundle, 0.1).interpret(1.3).probability < result.probability
    assert Interpreter(bundle, 0.1).interpret(1.3).raw_probability == result.raw_probability


def test_limits_can_be_overridden(bundle: Bundle) -> None:
    site = Interpreter(bundle, 0.1, review_from=0.3, positive_from=0.7)
    assert site.limits == BandLimits(review_from=0.3, positive_from=0.7)


def test_limits_out_of_order_are_refused(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="band limits"):
        Interpreter(bundle, 0.1, review_from=0.7, positive_from=0.3)


@pytest.mark.parametrize("prevalence", [0.0, 1.0])
def test_prevalence_of_none_or_all_is_refused(bundle: Bundle, prevalence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Interpreter(bundle, prevalence)
