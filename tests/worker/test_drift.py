"""The population stability index, against populations whose answer is known."""

import random
from pathlib import Path

import pytest

from model.bundle import read_bundle, shipped_bundle_path
from worker import drift

CSV = read_bundle(shipped_bundle_path()).path / "validation.csv"


def test_what_is_expected_is_the_validation_set_at_the_sites_prevalence() -> None:
    expected = drift.expected(CSV, prevalence=0.1)
    assert expected is not None
    assert len(expected.edges) == drift.BINS - 1
    assert list(expected.edges) == sorted(expected.edges)
    assert sum(expected.shares) == pytest.approx(1)
    assert all(share == pytest.approx(0.1, abs=0.03) for share in expected.shares)
    # With more pneumonia expected, more of it is seen in the highest bins.
    sick = drift.expected(CSV, prevalence=0.7)
    assert sick is not None
    assert sick.edges[4] > expected.edges[4]


def test_the_index_is_small_for_the_same_population_and_large_for_another() -> None:
    rng = random.Random(0)
    same = [sum(rng.random() < 0.1 for _ in range(3000)) for _ in range(10)]
    index = drift.stability_index([0.1] * 10, same)
    assert index is not None
    assert 0 <= index < 0.02
    assert drift.reading(index) == "as the validation set"
    other = drift.stability_index([0.1] * 10, [0] * 9 + [1000])
    assert other is not None
    assert other > 5
    assert "another population" in drift.reading(other)


def test_too_few_images_say_nothing() -> None:
    assert drift.stability_index([0.5, 0.5], [49, 50]) is None
    assert "too few" in drift.reading(None)


@pytest.mark.parametrize(
    "text", ["", "name,label,logit\n", "name,label\na,1\n", "label,logit\n1,x\n"]
)
def test_a_bundle_without_a_validation_set_has_no_expectation(tmp_path: Path, text: str) -> None:
    path = tmp_path / "validation.csv"
    assert drift.expected(path, 0.1) is None
    path.write_text(text)
    assert drift.expected(path, 0.1) is None
