"""Copies of a trained network: as it is served, and on an input that several share."""

from pathlib import Path
from typing import Any

from training.recipe import Recipe

BOTH_SIDES = "both_sides"  # the layer that takes the mean


def save_for_inference(source: Path, target: Path, recipe: Recipe) -> None:
    """Save a trained network in float32, without optimizer, every layer trainable."""
    import keras

    network = copied(keras.saving.load_model(source, compile=False))
    as_served(network, recipe).save(target, include_optimizer=False)


def as_served(network: Any, recipe: Recipe) -> Any:
    """A trained network as its recipe has it served; one that is so already stays as it is.

    Over both sides where the recipe says so, and with the layer that its score is made of.
    """
    if recipe.both_sides and BOTH_SIDES not in {layer.name for layer in network.layers}:
        network = over_both_sides(network)
    return with_score_layer(network, recipe)


def with_score_layer(network: Any, recipe: Recipe) -> Any:
    """A network with the layer that its recipe's score is made of, or itself if it has it."""
    if recipe.ood_branch is None or recipe.ood_layer in {it.name for it in network.layers}:
        return network
    return recipe.ood_branch(network)


def over_both_sides(network: Any) -> Any:
    """A network that judges each picture and its mirror image, and says the mean of both logits.

    What is between sees n pictures as 2 n, each followed by its mirror image. Raises ValueError
    for a network with more outputs than the logit.
    """
    import keras

    if len(network.outputs) != 1:
        raise ValueError(f"{network.name} has {len(network.outputs)} outputs: one was expected")
    shape = network.input.shape[1:]
    pixels = keras.Input(shape, name="pixels")
    mirrored = _named("mirrored", keras.ops.flip(pixels, axis=2))
    pairs = _named("pairs", keras.ops.stack([pixels, mirrored], axis=1))
    pictures = _named("pictures", keras.ops.reshape(pairs, (-1, *shape)))
    outputs: list[Any] = []

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs.append(layer(*args, **kwargs))
        return outputs[-1]

    _clone(network, pictures, call=call)
    logits = _named("logit_pairs", keras.ops.reshape(outputs[-1], (-1, 2, 1)))  # the last output
    mean = keras.layers.GlobalAveragePooling1D(name=BOTH_SIDES)(logits)
    model = keras.Model(pixels, mean, name=network.name)
    _copy_weights(network, model)
    return model


def _named(name: str, tensor: Any) -> Any:
    """The tensor, its operation called so: Keras' own numbers may be those of a loaded network."""
    tensor._keras_history.operation.name = f"{BOTH_SIDES}_{name}"
    return tensor


def has_layer(path: Path, name: str) -> bool:
    """Whether the network in this file has a layer of that name."""
    import keras

    network = keras.saving.load_model(path, compile=False)
    return any(layer.name == name for layer in network.layers)


def copied(network: Any, *, pixels: Any = None, prefix: str = "") -> Any:
    """The same keras.Model with layers of its own, computing in float32 whatever it was trained in.

    pixels: the input to build it on, else a new one. prefix: goes before each layer's name.
    """
    copy = _clone(network, pixels, prefix=prefix)
    _copy_weights(network, copy, prefix)
    return copy


def _clone(network: Any, pixels: Any, *, prefix: str = "", call: Any = None) -> Any:
    import keras

    def clone(operation: Any) -> Any:
        config = operation.get_config() | {"name": prefix + operation.name}
        if isinstance(operation, keras.Layer):
            config |= {"dtype": "float32", "trainable": True}
        return operation.__class__.from_config(config)

    return keras.models.clone_model(
        network, input_tensors=pixels, clone_function=clone, call_function=call
    )


def _copy_weights(network: Any, copy: Any, prefix: str = "") -> None:
    for layer in network.layers:
        if layer.weights:
            copy.get_layer(prefix + layer.name).set_weights(layer.get_weights())
