"""The network behind a bundle: what is refused before it is loaded, and what it returns."""

import csv
import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_io import preprocess
from model import bundle as bundle_module
from model.bundle import MANIFEST, read_bundle, shipped_bundle_path
from model.errors import BundleError, ModelError
from model.predict import Predictor, import_tensorflow, with_features
from tests.support.lambda_network import weights_with_code


@pytest.fixture
def predictor(bundle_folder: Path) -> Predictor:
    return Predictor(read_bundle(bundle_folder), preprocess_version=1)


def pictures(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32), dtype=np.uint8)


def test_logits_do_not_depend_on_the_batch_they_come_in(predictor: Predictor) -> None:
    images = pictures(71)
    together = predictor.logits(images)
    alone = np.concatenate([predictor.logits(images[i : i + 1]) for i in range(0, 71, 7)])
    assert together.shape == (71,)
    assert together.dtype == np.float32
    assert np.ptp(together) > 1e-4
    np.testing.assert_allclose(together[::7], alone, atol=1e-5)


def test_network_is_traced_once_whatever_the_batch(predictor: Predictor) -> None:
    predictor.warm_up()
    for count in (1, 3, 5, 7, 9, 17, 31, 33, 64, 100):
        assert predictor.logits(pictures(count)).shape == (count,)
    assert predictor._graph.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("grid", [1, 2, 3, 8])
def test_features_are_means_over_a_grid_of_regions(bundle_folder: Path, grid: int) -> None:
    import keras

    network = keras.saving.load_model(bundle_folder / "model.keras")
    images = pictures(3)[..., None].astype("float32")
    maps = np.asarray(keras.Model(network.input, network.get_layer("spread").output)(images))
    _, features = with_features(network, "spread", grid)(images)
    parts = [np.round(np.arange(grid + 1) * side / grid).astype(int) for side in maps.shape[1:3]]
    means = [
        maps[:, top:bottom, left:right].mean(axis=(1, 2))
        for top, bottom in pairwise(parts[0])
        for left, right in pairwise(parts[1])
    ]
    np.testing.assert_allclose(np.asarray(features), np.concatenate(means, axis=1), rtol=1e-4)


def test_a_networks_own_operations_may_be_called_as_keras_would_call_new_ones() -> None:
    import keras

    pixels = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(2, 3, name="spread")(pixels)
    x = keras.ops.reshape(keras.ops.einsum("nrck->nkrc", x), (-1, 72))
    network = keras.Model(pixels, keras.layers.Dense(1)(x))
    for _ in range(4):
        keras.utils.clear_session(free_memory=False)  # Keras counts from the start, as when loaded
        features = with_features(network, "spread", 2).outputs[1]
        assert features.shape == (None, 8)


def test_a_grid_finer_than_the_layer_is_refused(
    bundle_folder: Path, manifest: dict[str, Any]
) -> None:
    rewrite_manifest(bundle_folder, manifest, ood={**manifest["ood"], "grid": 1000})
    with pytest.raises(BundleError, match="1000 x 1000"):
        Predictor(read_bundle(bundle_folder), preprocess_version=1)


def test_scores_are_made_of_the_layers_spatial_means_in_the_same_pass(
    predictor: Predictor, bundle_folder: Path
) -> None:
    import keras

    images = pictures(5)
    network = keras.saving.load_model(bundle_folder / "model.keras")
    layer = keras.Model(network.input, network.get_layer("spread").output)
    means = np.asarray(layer(images[..., None].astype("float32"))).mean(axis=(1, 2))
    outputs = predictor.predict(images)
    expected = np.linalg.norm(means, axis=1) / 2  # of the scorer in conftest
    np.testing.assert_allclose(outputs.ood_scores, expected, rtol=1e-4)
    np.testing.assert_array_equal(outputs.logits, predictor.logits(images))


@pytest.mark.parametrize("layer", ["nowhere", "dense"])
def test_layer_without_spatial_layout_is_refused(
    bundle_folder: Path, manifest: dict[str, Any], layer: str
) -> None:
    rewrite_manifest(bundle_folder, manifest, ood={**manifest["ood"], "layer": layer})
    with pytest.raises(BundleError, match="no layer"):
        Predictor(read_bundle(bundle_folder), preprocess_version=1)


def test_no_picture_gives_no_logit(predictor: Predictor) -> None:
    assert predictor.logits(pictures(0)).shape == (0,)


@pytest.mark.parametrize("shape", [(1, 224, 224), (32, 32), (1, 32, 32, 1)])
def test_pictures_of_another_size_are_refused(predictor: Predictor, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        predictor.logits(np.zeros(shape, np.uint8))


def test_other_preprocessing_version_is_refused_with_the_way_out(bundle_folder: Path) -> None:
    with pytest.raises(BundleError, match=r"version 1, this program has version 2.*cxr-train"):
        Predictor(read_bundle(bundle_folder), preprocess_version=2)


def test_altered_weights_are_refused_before_they_are_loaded(bundle_folder: Path) -> None:
    weights = bundle_folder / "model.keras"
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(BundleError, match="SHA-256"):
        Predictor(read_bundle(bundle_folder), preprocess_version=1)


def rewrite_manifest(folder: Path, manifest: dict[str, Any], **changes: Any) -> None:
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def test_network_of_another_shape_is_refused(bundle_folder: Path, manifest: dict[str, Any]) -> None:
    rewrite_manifest(bundle_folder, manifest, input_shape=[64, 64, 1])
    with pytest.raises(BundleError, match=r"expected \(None, 64, 64, 1\)"):
        Predictor(read_bundle(bundle_folder), preprocess_version=1)


def test_network_that_carries_code_is_refused_and_none_of_it_runs(
    bundle_folder: Path, manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = bundle_folder / "ran"
    weights = bundle_folder / "model.keras"
    weights.write_bytes(weights_with_code(ran))
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    rewrite_manifest(bundle_folder, manifest, weights_sha256=sha256)
    with pytest.raises(BundleError, match=r"Python code of its own \(Lambda\).*not loaded"):
        Predictor(read_bundle(bundle_folder), preprocess_version=1)
    monkeypatch.setattr(bundle_module, "_CODE", ())  # Keras itself does not load it either
    with pytest.raises(BundleError, match=r"cannot be loaded.*arbitrary code execution"):
        Predictor(read_bundle(bundle_folder), preprocess_version=1)
    assert not ran.exists()
    import keras

    keras.saving.load_model(weights, compile=False, safe_mode=False)
    assert ran.exists()  # so it would have been seen


def test_what_keras_has_not_saved_is_refused(bundle_folder: Path, manifest: dict[str, Any]) -> None:
    (bundle_folder / "model.keras").write_bytes(b"no zip")
    sha256 = hashlib.sha256(b"no zip").hexdigest()
    rewrite_manifest(bundle_folder, manifest, weights_sha256=sha256)
    with pytest.raises(BundleError, match="no network that Keras has saved"):
        Predictor(read_bundle(bundle_folder), preprocess_version=1)


def test_threads_can_no_longer_be_set_once_tensorflow_runs(predictor: Predictor) -> None:
    predictor.logits(pictures(1))
    with pytest.raises(ModelError, match="started already"):
        import_tensorflow(threads=7)


def test_shipped_bundle_gives_the_logits_of_its_evaluation(shared_data: Path) -> None:
    from training.dataset import read_picture

    bundle = read_bundle(shipped_bundle_path())
    predictor = Predictor(bundle, preprocess_version=preprocess.VERSION)
    with (bundle.path / "validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [rows[0], rows[len(rows) // 2], rows[-1]]
    train = shared_data / "chest_xray" / "train"
    images = np.stack([read_picture(train / row["name"]) for row in chosen])
    expected = [float(row["logit"]) for row in chosen]
    np.testing.assert_allclose(predictor.logits(images), expected, atol=5e-3)
