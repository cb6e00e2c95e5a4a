"""The loop learns, survives a kill and stops at NaN."""

import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training.dataset import Dataset
from training.errors import NotFinite, RunError
from training.recipe import Recipe
from training.run import Run, RunSettings, read_log

Settings = Callable[..., RunSettings]

FIT_SCRIPT = """
import importlib.util, json, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("parts", sys.argv[1])
parts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parts)
from training import backend
from training.dataset import load
from training.recipe import Recipe
from training.run import Run, RunSettings
backend.start()
from training.fit import fit
settings = RunSettings(**json.loads(sys.argv[2]))
recipe = Recipe(name="tiny", build=parts.build_tiny, epochs=1, batch_size=8, learning_rate=3e-3,
                warmup_epochs=0.5, weight_decay=1e-4, ood_layer="average_pooling2d")
dataset = load(Path(settings.data) / "train", Path(sys.argv[3]))
fit(recipe, dataset, Run(Path(sys.argv[4])), settings)
"""


def validation_logits(run: Run, dataset: Dataset) -> np.ndarray:
    import keras

    from training.fit import predict

    return predict(keras.saving.load_model(run.final), dataset.pixels[:8])


def test_fit_learns_what_tells_the_classes_apart(
    tiny_recipe: Recipe, dataset: Dataset, run_settings: Settings, tmp_path: Path
) -> None:
    from training.fit import fit

    run = Run(tmp_path / "run")
    fit(tiny_recipe, dataset, run, run_settings(epochs=15))
    rows = read_log(run.log)
    assert [row["epoch"] for row in rows] == list(range(1, 16))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert run.final.exists()


def test_fit_resumes_after_kill_as_if_nothing_had_happened(
    tiny_recipe: Recipe, dataset: Dataset, run_settings: Settings, tmp_path: Path
) -> None:
    import json

    from training.fit import fit

    settings = run_settings(epochs=12)
    killed = Run(tmp_path / "killed")
    parts = Path(__file__).with_name("conftest.py")
    arguments = [str(parts), json.dumps(dataclasses.asdict(settings)), str(tmp_path / "cache")]
    process = subprocess.Popen(
        [sys.executable, "-c", FIT_SCRIPT, *arguments, str(killed.folder)],
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 90
    while len(read_log(killed.log)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 2 <= len(read_log(killed.log)) < 12

    fit(tiny_recipe, dataset, killed, settings)
    straight = Run(tmp_path / "straight")
    fit(tiny_recipe, dataset, straight, settings)

    assert [row["epoch"] for row in read_log(killed.log)] == list(range(1, 13))
    np.testing.assert_allclose(
        validation_logits(killed, dataset), validation_logits(straight, dataset), atol=1e-3
    )


def test_watching_run_is_resumed_and_keeps_its_best_epoch(
    tiny_recipe: Recipe,
    dataset: Dataset,
    run_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything that plateau and early stopping know is in the log."""
    from training import fit as module
    from training.watch import EarlyStopping, ReduceOnPlateau

    watching = dataclasses.replace(
        tiny_recipe,
        learning_rate=0.03,
        schedule="constant",
        warmup_epochs=0,
        class_weights=True,
        plateau=ReduceOnPlateau(patience=1, factor=0.5),
        early_stopping=EarlyStopping(patience=4),
    )
    settings = run_settings(epochs=30)
    straight, cut = Run(tmp_path / "straight"), Run(tmp_path / "cut")
    module.fit(watching, dataset, straight, settings)

    save = module.save

    def cut_off(model: object, path: Path) -> None:
        if path == cut.checkpoint and len(read_log(cut.log)) == 3:
            raise KeyboardInterrupt  # after the log, before the checkpoint: the worst moment
        save(model, path)

    with monkeypatch.context() as patch:
        patch.setattr(module, "save", cut_off)
        with pytest.raises(KeyboardInterrupt):
            module.fit(watching, dataset, cut, settings)
    module.fit(watching, dataset, cut, settings)

    rows = read_log(straight.log)
    losses = [row["watched_loss"] for row in rows]
    assert len(rows) < 30
    assert len(rows) - 1 - int(np.argmin(losses)) <= 5
    assert rows[-1]["learning_rate"] < rows[0]["learning_rate"] == pytest.approx(0.03)
    assert [row["epoch"] for row in read_log(cut.log)] == [row["epoch"] for row in rows]
    assert [row["watched_loss"] for row in read_log(cut.log)] == pytest.approx(losses, abs=1e-3)
    np.testing.assert_allclose(
        validation_logits(cut, dataset), validation_logits(straight, dataset), atol=1e-2
    )


def test_averaged_weights_are_those_of_every_step_also_over_a_kill(
    tiny_recipe: Recipe,
    dataset: Dataset,
    run_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import keras

    from training import fit as module

    whole = dataclasses.replace(tiny_recipe, averaging=0.8, batch_size=24)  # an epoch is one step
    settings = run_settings(epochs=5)
    straight, cut = Run(tmp_path / "straight"), Run(tmp_path / "cut")
    steps, save = [], module.save

    def noted(model: object, path: Path) -> None:
        save(model, path)
        if path == straight.checkpoint:
            steps.append(keras.saving.load_model(path).get_weights())
        if path == cut.checkpoint and len(read_log(cut.log)) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "save", noted)
    module.fit(whole, dataset, straight, settings)
    expected = steps[0]
    for weights in steps[1:]:
        expected = [0.8 * mean + 0.2 * new for mean, new in zip(expected, weights, strict=True)]
    ended = keras.saving.load_model(straight.final).get_weights()
    for mean, weights in zip(expected, ended, strict=True):
        np.testing.assert_allclose(weights, mean, atol=1e-6)

    with pytest.raises(KeyboardInterrupt):
        module.fit(whole, dataset, cut, settings)
    module.fit(whole, dataset, cut, settings)
    np.testing.assert_allclose(
        validation_logits(cut, dataset), validation_logits(straight, dataset), atol=1e-3
    )


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_resumes_and_is_served_in_float32(
    tiny_recipe: Recipe, dataset: Dataset, run_settings: Settings, tmp_path: Path, precision: str
) -> None:
    import keras

    from training.fit import fit, load_checkpoint
    from training.networks import save_for_inference

    run = Run(tmp_path / "run")
    fit(tiny_recipe, dataset, run, run_settings(epochs=2, precision=precision))
    model = load_checkpoint(run.checkpoint)
    assert model.get_layer(index=2).compute_dtype == precision.removeprefix("mixed_")
    assert 4 <= int(model.optimizer.iterations) <= 6  # two epochs of three; scaling may skip
    assert keras.config.dtype_policy().name == "float32"
    save_for_inference(run.final, tmp_path / "served.keras", tiny_recipe)
    served = keras.saving.load_model(tmp_path / "served.keras")
    assert {layer.compute_dtype for layer in served.layers} == {"float32"}
    pixels = dataset.pixels[:4][..., None].astype(np.float32)
    np.testing.assert_allclose(
        served.predict_on_batch(pixels), validation_logits(run, dataset)[:4, None], atol=0.05
    )


def test_finished_run_is_not_fitted_again(
    tiny_recipe: Recipe, dataset: Dataset, run_settings: Settings, tmp_path: Path
) -> None:
    from training.fit import fit

    run = Run(tmp_path / "run")
    fit(tiny_recipe, dataset, run, run_settings(epochs=1))
    log = run.log.read_text()
    fit(tiny_recipe, dataset, run, run_settings(epochs=1))
    assert run.log.read_text() == log


def test_loss_that_is_no_number_stops_the_fit_and_names_the_step(
    tiny_recipe: Recipe, dataset: Dataset, run_settings: Settings, tmp_path: Path
) -> None:
    from training.fit import fit

    wild = dataclasses.replace(tiny_recipe, learning_rate=1e38)
    with pytest.raises(NotFinite, match=r"loss is \S+ at step \d of epoch 1"):
        fit(wild, dataset, Run(tmp_path / "run"), run_settings())
    assert not (tmp_path / "run" / "checkpoint.keras").exists()


def test_run_folder_of_other_settings_is_refused(
    tiny_recipe: Recipe, dataset: Dataset, run_settings: Settings, tmp_path: Path
) -> None:
    from training.fit import fit

    run = Run(tmp_path / "run")
    run.begin(run_settings(seed=1))
    with pytest.raises(RunError, match="other settings"):
        fit(tiny_recipe, dataset, run, run_settings(seed=2))


def test_learning_rate_warms_up_and_falls_to_zero(tiny_recipe: Recipe) -> None:
    from training.fit import learning_rate

    constant = dataclasses.replace(tiny_recipe, schedule="constant", warmup_epochs=0)
    assert {learning_rate(e, recipe=constant, epochs=4) for e in (0, 1.5, 3.9)} == {3e-3}
    rates = [learning_rate(e, recipe=tiny_recipe, epochs=4) for e in (0, 0.25, 0.5, 2, 3.999)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(3e-3)
    assert rates[2] > rates[3] > rates[4]
    assert rates[4] < 1e-8


def test_batches_depend_on_seed_and_epoch_only(
    dataset: Dataset, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.batches import Batches, prefetched

    def batches(seed: int, epoch: int) -> Batches:
        return Batches(
            dataset.pixels,
            dataset.labels,
            np.arange(32),
            batch_size=5,
            seed=seed,
            epoch=epoch,
            augmentation=tiny_recipe.augmentation,
        )

    one = list(prefetched(batches(1, 0)))
    monkeypatch.setattr("os.cpu_count", lambda: 16)  # four workers
    same = list(prefetched(batches(1, 0)))
    assert len(one) == len(batches(1, 0)) == 6
    assert one[0][0].shape == (5, 224, 224, 1)
    assert one[0][1].shape == (5, 1)
    for (pixels, labels), (pixels_again, labels_again) in zip(one, same, strict=True):
        np.testing.assert_array_equal(pixels, pixels_again)
        np.testing.assert_array_equal(labels, labels_again)
    assert not np.array_equal(one[0][0], next(prefetched(batches(1, 1)))[0])
    assert not np.array_equal(one[0][0], next(prefetched(batches(2, 0)))[0])


def test_batch_norms_settle_on_pictures_as_they_are() -> None:
    import keras

    from training.fit import settle

    norm = keras.layers.BatchNormalization(epsilon=0)
    model = keras.Sequential([keras.Input((2, 2, 1)), norm])
    pixels = np.random.default_rng(0).integers(0, 256, (96, 2, 2), np.uint8)
    chosen = np.arange(64)
    settle(model, pixels, chosen, count=64, seed=0)
    assert norm.momentum == 0.99
    batches = np.random.default_rng(0).permutation(chosen).reshape(2, 32)
    variances = [pixels[batch].var() for batch in batches]
    assert float(norm.moving_mean[0]) == pytest.approx(pixels[chosen].mean(), rel=1e-4)
    assert float(norm.moving_variance[0]) == pytest.approx(float(np.mean(variances)), rel=1e-4)
