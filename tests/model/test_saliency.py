"""Grad-CAM against what it must be where the answer is known, and the outline of a map."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bundle import read_bundle
from model.predict import Predictor
from model.saliency import (
    FULL_LOG_ODDS,
    at_picture_scale,
    grad_cam,
    last_spatial_outputs,
    outline,
    scaled,
)


def pictures(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32), dtype=np.uint8)


@pytest.fixture
def network(bundle_folder: Path) -> Any:
    import keras

    return keras.saving.load_model(bundle_folder / "model.keras")


def test_maps_are_what_each_cell_adds_to_the_logit(bundle_folder: Path, network: Any) -> None:
    import keras

    images = pictures(3)
    activations = np.asarray(
        keras.Model(network.input, network.get_layer("spread").output)(images[..., None] / 1.0)
    )
    kernel = np.asarray(network.layers[-1].kernel)[:, 0]
    raw = np.maximum(activations @ kernel, 0) / (30 * 30)  # global average pooling, then one dense
    found = Predictor(read_bundle(bundle_folder), preprocess_version=1).predict(images).saliency
    assert found is not None
    assert found.shape == (3, 30, 30)
    np.testing.assert_allclose(found, scaled(raw.astype(np.float32)), atol=1e-5)


def test_maps_change_no_other_output_and_can_be_left_out(bundle_folder: Path) -> None:
    bundle = read_bundle(bundle_folder)
    images = pictures(5)
    with_maps = Predictor(bundle, preprocess_version=1).predict(images)
    without = Predictor(bundle, preprocess_version=1, saliency=False).predict(images)
    assert without.saliency is None
    np.testing.assert_allclose(with_maps.logits, without.logits, atol=1e-5)
    np.testing.assert_allclose(with_maps.ood_scores, without.ood_scores, rtol=1e-5)


def test_the_layer_is_the_last_with_rows_and_columns(network: Any) -> None:
    import keras

    (output,) = last_spatial_outputs(network)
    assert output is network.get_layer("spread").output
    flat = keras.Input((8,))
    assert last_spatial_outputs(keras.Model(flat, keras.layers.Dense(1)(flat))) == []


def test_a_side_branch_that_comes_back_is_no_end() -> None:
    """Squeeze and excitation: pooled, and multiplied back."""
    import keras

    pixels = keras.Input((16, 16, 1))
    body = keras.layers.Conv2D(4, 3, padding="same")(pixels)
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True)(body)
    excited = keras.layers.Multiply()([body, keras.layers.Conv2D(4, 1)(pooled)])
    logit = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(excited))
    (output,) = last_spatial_outputs(keras.Model(pixels, logit))
    assert output is excited


def test_the_parts_of_an_ensemble_add_up_on_the_finest_grid() -> None:
    import keras
    import tensorflow as tf

    pixels = keras.Input((16, 16, 1))
    bodies = [keras.layers.Conv2D(2, 3, strides=s, padding="same")(pixels) for s in (2, 4)]
    pooled = [keras.layers.GlobalAveragePooling2D()(body) for body in bodies]
    logits = [keras.layers.Dense(1, use_bias=False)(it) for it in pooled]
    model = keras.Model(pixels, keras.layers.Average()(logits))
    assert [tuple(it.shape[1:3]) for it in last_spatial_outputs(model)] == [(8, 8), (4, 4)]
    ones = [tf.ones((1, 8, 8, 2)), tf.ones((1, 4, 4, 2))]
    gradients = [tf.ones((1, 8, 8, 2)), 4 * tf.ones((1, 4, 4, 2))]
    cam = grad_cam(tf, tf.zeros((1, 1)), ones, gradients).numpy()
    assert cam.shape == (1, 8, 8)
    np.testing.assert_allclose(cam, 2 + 8 / 4)  # 16 cells of 8 become 64 of 2


def test_strong_maps_reach_one_and_weak_ones_stay_weak() -> None:
    cells = 16
    strong = np.zeros((1, 4, 4), np.float32)
    strong[0, 1, 2] = 3 * FULL_LOG_ODDS / cells
    weak = strong / 12
    assert scaled(strong).max() == pytest.approx(1)
    assert scaled(weak).max() == pytest.approx(0.25)
    assert scaled(np.zeros((2, 4, 4), np.float32)).max() == 0


def test_an_enlarged_map_stays_within_bounds_and_keeps_its_place() -> None:
    small = np.zeros((1, 7, 7), np.float32)
    small[0, 5, 1] = 1
    large = at_picture_scale(small, 210, 420)
    assert large.shape == (1, 210, 420)
    assert large.dtype == np.float32
    assert (large.min(), large.max()) >= (0, 0.9)
    row, column = np.unravel_index(large[0].argmax(), large[0].shape)
    assert abs(row - 5.5 / 7 * 210) < 5
    assert abs(column - 1.5 / 7 * 420) < 10


def test_the_outline_is_closed_around_the_hottest_area_in_the_pictures_pixels() -> None:
    small = np.zeros((7, 7), np.float32)
    small[1, 1], small[5, 5] = 0.8, 1
    line = outline(small, 3000, 2000)
    assert line is not None
    assert line[0] == line[-1]
    assert 5 <= len(line) <= 61
    columns, rows = np.array(line).T
    assert (columns.min() > 1000, rows.min() > 1500) == (True, True)  # the other one is left out
    assert columns.min() < 5.5 / 7 * 2000 < columns.max() <= 2000
    assert rows.min() < 5.5 / 7 * 3000 < rows.max() <= 3000


def test_a_blank_map_has_no_outline_and_a_full_one_that_of_the_picture() -> None:
    assert outline(np.zeros((7, 7), np.float32), 100, 100) is None
    line = outline(np.ones((7, 7), np.float32), 1000, 500)
    assert line is not None
    assert np.ptp(np.array(line), axis=0) == pytest.approx([500, 1000], abs=5)


def test_outlines_of_any_map_lie_in_the_picture() -> None:
    rng = np.random.default_rng(1)
    for shape in ((7, 7), (14, 9), (1, 5)):
        line = outline(rng.random(shape, dtype=np.float32), 300, 200)
        assert line is not None
        points = np.array(line)
        assert points.min() >= 0
        assert (points <= [200, 300]).all()
        assert len(set(line)) >= 3
