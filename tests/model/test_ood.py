"""The out-of-distribution score: what it means, and what is refused before it is used."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.errors import BundleError
from model.ood import OodScorer


def scorer(size: int = 3, unit: float = 2.0) -> OodScorer:
    rng = np.random.default_rng(0)
    return OodScorer(
        mean=rng.normal(size=size).astype(np.float32),
        whitening=rng.normal(size=(size, size)).astype(np.float32),
        unit=unit,
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = scorer()
    sha256 = saved.save(tmp_path / "ood.npz")
    loaded = OodScorer.load(tmp_path / "ood.npz", sha256)
    features = np.random.default_rng(1).normal(size=(9, 3)).astype(np.float32)
    np.testing.assert_array_equal(loaded.scores(features), saved.scores(features))


def test_score_rises_along_every_way_out_and_is_1_at_the_unit() -> None:
    steps = np.linspace(0, 5, 50)[:, None]
    for direction in np.eye(3):
        features = (scorer().mean + steps * direction).astype(np.float32)
        assert (np.diff(scorer().scores(features)) > 0).all()
        distances = scorer().distances(features)
        np.testing.assert_allclose(scorer().scores(features), distances / 2.0)
    assert scorer().scores(scorer().mean[None])[0] == 0


def test_features_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(n, 3\)"):
        scorer().scores(np.zeros((2, 4), np.float32))


@pytest.mark.parametrize("unit", [0.0, -1.0, np.nan, np.inf])
def test_senseless_unit_is_refused(unit: float) -> None:
    with pytest.raises(ValueError, match="unit"):
        scorer(unit=unit)


GOOD: dict[str, NDArray[Any]] = {
    "mean": np.zeros(2, np.float32),
    "whitening": np.eye(2, dtype=np.float32),
    "unit": np.float64(1.0),  # type: ignore[dict-item]
}


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": np.zeros(3, np.float32)},
        {"mean": np.array([0, np.nan], np.float32)},
        {"mean": np.array([None, {}], dtype=object)},
        {"whitening": np.eye(2, dtype=np.int64)},
        {"unit": np.ones(2)},
        {"surprise": np.ones(2)},
    ],
    ids=str,
)
def test_file_that_holds_anything_else_is_refused(
    tmp_path: Path, changes: dict[str, NDArray[Any]]
) -> None:
    path = tmp_path / "ood.npz"
    np.savez(path, **{**GOOD, **changes})  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=r"ood\.npz"):
        OodScorer.load(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_altered_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ood.npz"
    sha256 = scorer().save(path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(BundleError, match="SHA-256"):
        OodScorer.load(path, sha256)
    path.write_bytes(b"no zip")
    with pytest.raises(BundleError, match="cannot be used"):
        OodScorer.load(path, hashlib.sha256(b"no zip").hexdigest())
    path.unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        OodScorer.load(path, sha256)
