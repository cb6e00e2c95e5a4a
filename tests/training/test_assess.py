"""Runs pooled, and a run whose shift is held out: who chose what on whom."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from training.calibrate import fit_temperature
from training.dataset import Dataset
from training.errors import RunError
from training.evaluate import choose_points, choose_rule
from training.predictions import read_predictions
from training.recipe import Recipe
from training.run import Run, RunSettings

FitRun = Callable[..., Run]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def the_tiny_recipe(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.recipe.find", lambda _name: tiny_recipe)


@pytest.fixture
def fit_run(
    tiny_recipe: Recipe,
    dataset: Dataset,
    run_settings: Callable[..., RunSettings],
    tmp_path: Path,
    cache: Path,
) -> FitRun:
    """Fits, predicts and calibrates a run of a second."""

    def fit_and_calibrate(name: str, **changes: object) -> Run:
        from training.assess import predict_validation
        from training.fit import fit

        run = Run(tmp_path / name)
        fit(tiny_recipe, dataset, run, run_settings(epochs=2, **changes))
        predictions = predict_validation(run, cache)
        temperature = fit_temperature(predictions.logits, predictions.labels)
        run.calibration.write_text(json.dumps({"temperature": temperature}))
        return run

    return fit_and_calibrate


def test_pooled_folds_choose_for_each_other(fit_run: FitRun, tmp_path: Path, cache: Path) -> None:
    from training.assess import pool_runs

    runs = [fit_run("one", fold=0), fit_run("other", fold=1)]
    folds = [read_predictions(run.predictions) for run in runs]
    report = pool_runs(runs, cache, tmp_path / "pooled")
    assert report["images"] == len(folds[0].names) + len(folds[1].names)
    chosen = [choose_rule(fold.labels, fold.logits) for fold in reversed(folds)]
    assert report["temperature"] == [rule.temperature for rule in chosen]
    balanced = [rule.thresholds["balanced"] for rule in chosen]
    assert report["operating_points"]["balanced"]["threshold"] == balanced
    page = (tmp_path / "pooled" / "evaluation.html").read_text()
    assert "<h2>Folds</h2>" in page
    assert "Not every fold is here" in page
    with pytest.raises(RunError, match="two runs"):
        pool_runs([runs[0], runs[0]], cache, tmp_path / "pooled")
    with pytest.raises(RunError, match="at least two"):
        pool_runs(runs[:1], cache, tmp_path / "pooled")
    for changed in ({"both_sides": True}, {"epochs": 3}):
        settings = asdict(runs[1].settings()) | changed
        runs[1].settings_file.write_text(json.dumps(settings))
        with pytest.raises(RunError, match="other epochs or sides"):
            pool_runs(runs, cache, tmp_path / "pooled")


def test_a_shift_is_reported_at_the_thresholds_of_validation(fit_run: FitRun, cache: Path) -> None:
    from training.assess import assess_run

    run = fit_run("shifted", split="brightness-low", folds=3)
    report = assess_run(run, cache)
    predictions = read_predictions(run.predictions)
    shifted = read_predictions(run.shifted_predictions)
    assert not set(predictions.names) & set(shifted.names)
    points = choose_points(predictions.labels, predictions.logits)
    for figures in (report, report["shifted"]):
        assert figures["operating_points"]["balanced"]["threshold"] == points.balanced.threshold
    assert report["shifted"]["images"] == len(shifted.names)
    files = {it.name for it in run.folder.iterdir()}
    for stem in ("evaluation", "evaluation-shifted"):
        assert {f"{stem}.html", f"{stem}.json", f"{stem}.csv"} <= files
    assert "Where the network looked" in (run.folder / "evaluation.html").read_text()
