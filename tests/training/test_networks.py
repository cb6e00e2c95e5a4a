"""Trained networks as they are served, and copies of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.predict import import_tensorflow
from model.saliency import last_spatial_outputs, with_maps
from training import efficientnet_lite
from training.errors import RecipeError
from training.networks import as_served, copied, over_both_sides, with_score_layer
from training.recipe import Recipe, find

SIDE = 64


@pytest.fixture(scope="module")
def network() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    made = efficientnet_lite.build(size=SIDE, inner_size=48, outputs=1, dropout=0.3)
    for layer in made.layers:  # as they are at first, all pictures have nearly the same logit
        layer.set_weights([3 * it if it.ndim > 1 else it for it in layer.get_weights()])
    kernel, bias = made.get_layer("logits").get_weights()
    made.get_layer("logits").set_weights([np.abs(kernel), bias])  # so that maps are not blank
    return made


@pytest.fixture
def recipe() -> Recipe:
    return replace(find("efficientnet-lite0"), both_sides=True)


def pictures(count: int) -> Any:
    return np.random.default_rng(0).uniform(0, 255, (count, SIDE, SIDE, 1)).astype(np.float32)


def test_both_sides_are_the_mean_of_a_picture_and_its_mirror_image(network: Any) -> None:
    images = pictures(3)
    mirrored = images[:, :, ::-1]
    alone = network.predict_on_batch(images), network.predict_on_batch(mirrored)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    both = over_both_sides(network)
    np.testing.assert_allclose(both.predict_on_batch(images), (alone[0] + alone[1]) / 2, atol=1e-4)
    np.testing.assert_allclose(
        both.predict_on_batch(images), both.predict_on_batch(mirrored), atol=1e-4
    )
    assert both.count_params() == network.count_params()


def test_a_served_network_is_saved_and_loaded_without_code(
    network: Any, recipe: Recipe, tmp_path: Path
) -> None:
    import keras

    served = as_served(network, recipe)
    served.save(tmp_path / "served.keras", include_optimizer=False)
    loaded = keras.saving.load_model(tmp_path / "served.keras", safe_mode=True)
    images = pictures(2)
    for one, other in zip(
        served.predict_on_batch(images), loaded.predict_on_batch(images), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert [it.shape[0] for it in loaded.predict_on_batch(images)] == [2, 2]  # logits and score
    assert as_served(loaded, recipe) is loaded


def test_the_map_of_both_sides_is_that_of_a_picture_and_of_its_mirror_image_turned_back(
    network: Any,
) -> None:
    images = pictures(2)
    of_one, of_the_other = _maps(network, images), _maps(network, images[:, :, ::-1])
    expected = (of_one + of_the_other[:, :, ::-1]) / 2
    np.testing.assert_allclose(_maps(over_both_sides(network), images), expected, atol=1e-4)
    assert expected.max() > 1e-3


def test_a_copy_of_a_served_network_says_the_same_under_other_names(
    network: Any, recipe: Recipe
) -> None:
    served = as_served(network, recipe)
    copy = copied(served, pixels=served.input, prefix="member1_")
    images = pictures(2)
    for one, other in zip(
        served.predict_on_batch(images), copy.predict_on_batch(images), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert {layer.name.split("_")[0] for layer in copy.layers if layer.weights} == {"member1"}


def test_both_sides_are_taken_once_and_of_a_logit_alone(network: Any, recipe: Recipe) -> None:
    one_side = as_served(network, replace(recipe, both_sides=False))
    assert with_score_layer(one_side, recipe) is one_side  # as a bundle of one side is scored anew
    with pytest.raises(ValueError, match="2 outputs"):
        over_both_sides(one_side)


def test_both_sides_of_a_network_with_operations_of_its_own() -> None:
    import keras

    pixels = keras.Input((4, 4, 1))
    flat = keras.ops.reshape(keras.ops.flip(pixels, axis=1), (-1, 16))
    network = keras.Model(pixels, keras.layers.Dense(1)(flat))
    keras.utils.clear_session(free_memory=False)  # Keras counts from the start, as when loaded
    assert over_both_sides(network).output_shape == (None, 1)


@pytest.mark.parametrize("other", ["scratch-cnn", "bacterial-viral-normal"])
def test_a_recipe_that_cannot_be_served_over_both_sides_is_refused(other: str) -> None:
    with pytest.raises(RecipeError, match="both_sides"):
        replace(find(other), both_sides=True)


def _maps(network: Any, images: Any) -> Any:
    import keras

    tf = import_tensorflow()
    (spatial,) = last_spatial_outputs(network)
    model = keras.Model(network.input, [network.outputs[0], spatial])
    return with_maps(tf, model, tf.constant(images), 1)[1].numpy()
