"""Copies of a trained network: for inference only, and on an input that several share."""

from pathlib import Path
from typing import Any

from training.recipe import Recipe


def save_for_inference(source: Path, target: Path, recipe: Recipe) -> None:
    """Save a trained network in float32, without optimizer, every layer trainable."""
    import keras

    network = copied(keras.saving.load_model(source, compile=False))
    with_ood_layer(network, recipe).save(target, include_optimizer=False)


def with_ood_layer(network: Any, recipe: Recipe) -> Any:
    """The network as it is served: with the layer that the recipe's score is made of."""
    if recipe.ood_branch is None or any(it.name == recipe.ood_layer for it in network.layers):
        return network
    return recipe.ood_branch(network)


def has_layer(path: Path, name: str) -> bool:
    """Whether the network in this file has a layer of that name."""
    import keras

    network = keras.saving.load_model(path, compile=False)
    return any(layer.name == name for layer in network.layers)


def copied(network: Any, *, pixels: Any = None, prefix: str = "") -> Any:
    """The same keras.Model with layers of its own, computing in float32 whatever it was trained in.

    pixels: the input to build it on, else a new one. prefix: goes before each layer's name.
    """
    import keras

    def clone(operation: Any) -> Any:
        if not isinstance(operation, keras.Layer):
            return operation.__class__.from_config(operation.get_config())
        config = operation.get_config() | {"dtype": "float32", "trainable": True}
        return operation.__class__.from_config(config | {"name": prefix + operation.name})

    copy = keras.models.clone_model(network, input_tensors=pixels, clone_function=clone)
    for layer in network.layers:
        if layer.weights:
            copy.get_layer(prefix + layer.name).set_weights(layer.get_weights())
    return copy
