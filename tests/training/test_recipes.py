"""Every recipe is fitted, exported and served; slow, since the networks are the real ones."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dicom_io import preprocess
from model.bands import Interpreter
from model.bundle import Bundle, read_bundle
from model.predict import Predictor, with_features
from training import backend
from training import recipe as recipes
from training.cli import main
from training.dataset import load
from training.errors import CheckpointError, RecipeError
from training.negatives import adult_chests
from training.networks import save_for_inference
from training.predictions import read_predictions
from training.run import Run, read_log

pytestmark = pytest.mark.timeout(1200)  # of busy cores; a minute or less each on idle ones

PARAMETERS = {
    "bacterial-viral-normal": 3_416_867,
    "densenet121": 7_038_529,
    "efficientnet-lite0": 3_414_305,
    "inceptionv3-mass": 23_901_985,
    "resnet50": 23_589_761,
    "scratch-cnn": 1_995_649,
    "transfer-224": 2_259_265,
    "vgg16": 27_560_769,
    "vgg16-improved": 15_113_025,
}

EXPORTED = ("bacterial-viral-normal", "scratch-cnn")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs, cache and bundles of all tests here.

    Of the hundreds of pictures that a score is tried on, two of each kind that is generated.
    """
    adult = adult_chests()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.negatives.DRAWN_EACH", 2)
        patch.setattr("training.negatives._files", lambda extra: ())
        patch.setattr("training.negatives.SPOILED_EACH", 1)
        patch.setattr("training.ood.adult_chests", lambda: adult)
        yield tmp_path_factory.mktemp("recipes")


@contextmanager
def untraced() -> Iterator[None]:
    """Two steps of a deep network take less time than tracing its graph."""
    backend.start()
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def fitted(recipe: str, data: Path, work: Path) -> Run:
    """Two epochs on random weights, by the command as a user types it."""
    folder = Run(work / recipe)
    if not folder.final.exists():
        few = ("--epochs", 2, "--folds", 3, "--weights", "none", "--split-seed", 0)
        with untraced():
            run("fit", recipe, "--data", data, "--run", folder.folder, *few, "--cache", work / "c")
    return folder


def exported(recipe: str, data: Path, work: Path) -> Bundle:
    """The bundle of such a run."""
    bundle = work / "bundles" / f"{recipe}-0.0.1"
    if not bundle.exists():
        folder, cache = fitted(recipe, data, work).folder, ("--cache", work / "c")
        run("calibrate", folder, *cache)
        run("evaluate", folder, *cache)
        run("export", folder, "--version", "0.0.1", "--out", bundle.parent, *cache)
    return read_bundle(bundle)


def served_as_evaluated(bundle: Bundle, data: Path, work: Path) -> None:
    dataset = load(data / "train", work / "c")
    predictions = read_predictions(bundle.path / "validation.csv")
    indices = [dataset.names.index(name) for name in predictions.names]
    predictor = Predictor(bundle, preprocess_version=preprocess.VERSION)
    outputs = predictor.predict(np.asarray(dataset.pixels[indices]))
    np.testing.assert_allclose(outputs.logits, predictions.logits, atol=2e-3, rtol=1e-3)
    assert np.isfinite(outputs.ood_scores).all()
    assert Interpreter(bundle, 0.1).interpret(float(outputs.logits[0])).band


@pytest.mark.long
@pytest.mark.parametrize("recipe", sorted(set(PARAMETERS) - {*EXPORTED, "efficientnet-lite0"}))
def test_recipe_is_fitted_for_two_epochs_and_its_network_is_one_that_is_served(
    recipe: str, few_pictures: Path, work: Path
) -> None:
    """The default recipe's two epochs are those of test_cli."""
    import keras

    folder = fitted(recipe, few_pictures, work)
    rows = read_log(folder.log)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert np.isfinite([list(row.values()) for row in rows]).all()
    assert ("watched_loss" in rows[0]) is recipes.find(recipe).watches
    save_for_inference(folder.final, work / "served.keras", recipes.find(recipe))
    shutil.rmtree(folder.folder)  # hundreds of MB
    network = keras.saving.load_model(work / "served.keras", compile=False, safe_mode=True)
    assert network.input_shape == (None, preprocess.SIZE, preprocess.SIZE, 1)
    assert network.count_params() == PARAMETERS[recipe]
    chosen = recipes.find(recipe)
    model = with_features(network, chosen.ood_layer, chosen.ood_grid)
    logits, features = model(np.zeros((1, 224, 224, 1), np.float32), training=False)
    assert logits.shape == (1, 1)
    assert np.isfinite(logits).all()
    assert np.isfinite(features).all()


@pytest.mark.long
@pytest.mark.parametrize("recipe", EXPORTED)
def test_recipe_is_fitted_for_two_epochs_exported_and_served(
    recipe: str, few_pictures: Path, work: Path
) -> None:
    bundle = exported(recipe, few_pictures, work)
    assert len(read_log(Run(work / recipe).log)) == 2
    served_as_evaluated(bundle, few_pictures, work)


@pytest.mark.long
def test_ensemble_is_served_as_the_mean_of_its_members(few_pictures: Path, work: Path) -> None:
    members = [exported(name, few_pictures, work) for name in EXPORTED]
    paths = [member.path for member in members]
    run("ensemble", *paths, "--version", "0.0.1", "--name", "pair", "--out", work / "bundles")
    bundle = read_bundle(work / "bundles" / "pair-0.0.1")
    served_as_evaluated(bundle, few_pictures, work)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 224, 224), np.uint8)
    parts = [Predictor(it, preprocess_version=preprocess.VERSION) for it in members]
    logits = [p.logits(pictures) / p.bundle.calibration.temperature for p in parts]
    outputs = Predictor(bundle, preprocess_version=preprocess.VERSION).predict(pictures)
    np.testing.assert_allclose(outputs.logits, np.mean(logits, axis=0), atol=2e-3, rtol=1e-3)
    own = parts[0].predict(pictures).ood_scores
    np.testing.assert_allclose(outputs.ood_scores, own, rtol=1e-3)
    assert "pair 0.0.1" in (bundle.path / "MODEL_CARD.md").read_text()


@pytest.mark.long
def test_three_outputs_are_reported_and_come_down_to_the_served_logit(
    few_pictures: Path, work: Path
) -> None:
    bundle = exported("bacterial-viral-normal", few_pictures, work)
    folder = Run(work / "bacterial-viral-normal")
    with folder.classes_table.open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    predictions = read_predictions(bundle.path / "validation.csv")
    assert set(rows) == set(predictions.names)
    for name, logit in zip(predictions.names, predictions.logits, strict=True):
        shares = [float(rows[name][kind]) for kind in ("NORMAL", "BACTERIAL", "VIRAL")]
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        assert shares[1] + shares[2] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-4)
        named = "NORMAL" if "IM-" in name else "VIRAL" if "virus" in name else "BACTERIAL"
        assert rows[name]["class"] == named
    report = json.loads(folder.classes.read_text())
    assert np.sum(report["confusion"]) == len(rows)


@pytest.mark.long
def test_recipe_killed_between_epochs_ends_as_if_it_had_not_been(
    few_pictures: Path, tmp_path: Path
) -> None:
    few = ["--epochs", "8", "--folds", "3", "--weights", "none", "--cache", str(tmp_path / "cache")]
    fit = ["fit", "scratch-cnn", "--data", str(few_pictures), *few]
    killed, straight = Run(tmp_path / "killed"), Run(tmp_path / "straight")
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *fit, "--run", str(killed.folder)],
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(read_log(killed.log)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 2 <= len(read_log(killed.log)) < 8

    for folder in (killed, straight):
        run(*fit, "--run", folder.folder)
    assert [row["epoch"] for row in read_log(killed.log)] == list(range(1, 9))
    for one, other in zip(read_log(killed.log), read_log(straight.log), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)


def test_every_recipe_has_the_parameters_that_its_page_tells() -> None:
    assert recipes.names() == sorted(PARAMETERS)
    page = (Path(__file__).parents[2] / "docs" / "MODELS.md").read_text()
    for name, count in PARAMETERS.items():
        assert f"| `{name}` | {count:,} |" in page


@pytest.mark.parametrize("recipe", ["scratch-cnn", "bacterial-viral-normal", "efficientnet-lite0"])
def test_small_recipes_have_exactly_their_parameters(recipe: str) -> None:
    backend.start()
    assert recipes.find(recipe).build(None).count_params() == PARAMETERS[recipe]


@pytest.mark.long
def test_frozen_layers_stay_and_the_rest_is_trained(tmp_path: Path) -> None:
    """ImageNet's weights stand in as a file: freezing follows them, not random ones."""
    backend.start()
    import keras

    path = tmp_path / "vgg16.weights.h5"
    keras.applications.VGG16(include_top=False, weights=None).save_weights(path)
    frozen = recipes.find("vgg16").build(path)
    trained = {layer.name for layer in frozen.layers if layer.trainable_weights}
    assert trained == {"dense", "logits"}
    improved = recipes.find("vgg16-improved").build(path)
    trained = {layer.name for layer in improved.layers if layer.trainable_weights}
    assert {"block5_conv1", "block5_conv3", "dense_512", "dense_256", "logits"} <= trained
    assert not trained & {"block1_conv1", "block4_conv3"}
    with pytest.raises(CheckpointError, match="--weights FILE"):
        recipes.find("transfer-224").build(path)


def test_weights_that_cannot_be_downloaded_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    backend.start()
    import keras

    def unreachable(**_: object) -> None:
        raise Exception("URL fetch failure")  # as Keras does

    monkeypatch.setattr(keras.applications, "MobileNetV2", unreachable)
    with pytest.raises(CheckpointError, match=r"URL fetch failure; pass --weights FILE"):
        recipes.find("transfer-224").build("imagenet")
    with pytest.raises(RecipeError, match="--weights none"):
        recipes.find("scratch-cnn").build("imagenet")
