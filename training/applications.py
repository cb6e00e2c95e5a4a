"""Networks of keras.applications as they are used here: grey 224x224 in, feature maps out.

Size, the three channels and the scaling that the ImageNet weights expect are layers of the graph,
so whoever loads a model passes the plain grey picture of the worker, whatever network it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_io.preprocess import SIZE
from training.errors import CheckpointError
from training.recipe import Weights
from training.targets import LOGITS

# Rescaling of 0-255: x * scale + offset, of R, G, B as each network's authors trained it.
TO_ONE = (1 / 127.5, -1.0)
_MEANS, _DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STANDARDISED = (
    [1 / (255 * deviation) for deviation in _DEVIATIONS],
    [-mean / deviation for mean, deviation in zip(_MEANS, _DEVIATIONS, strict=True)],
)
CAFFE = (1.0, [-103.939, -116.779, -123.68])  # B, G, R: the order does not matter in grey

Rescale = tuple[float | Sequence[float], float | Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """pixels: the input. features: (n, rows, columns, channels). base: holds the layers between."""

    pixels: Any
    features: Any
    base: Any


def backbone(application: str, weights: Weights, *, rescale: Rescale, size: int = SIZE) -> Backbone:
    """Build `keras.applications.<application>` without its top, at `size` pixels a side.

    weights: `imagenet` downloads Keras' own; a Path is a .weights.h5 or .h5 file of the network
    without its top; None is random.
    Raises CheckpointError when weights cannot be had or do not fit.
    """
    import keras

    pixels, x = grey_input(size)
    rgb = keras.layers.Concatenate(name="grey_to_rgb")([x, x, x])
    scale, offset = rescale
    scaled = keras.layers.Rescaling(scale, offset=offset, name="scale")(rgb)
    build = getattr(keras.applications, application)
    try:
        base = build(
            include_top=False,
            weights="imagenet" if weights == "imagenet" else None,
            input_tensor=scaled,
        )
        if isinstance(weights, Path):
            base.load_weights(weights)
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise CheckpointError(
            f"weights {weights} of {application} cannot be had: {error}; pass --weights FILE of "
            "the network without its top, or --weights none"
        ) from error
    return Backbone(pixels=pixels, features=base.output, base=base)


def grey_input(size: int) -> tuple[Any, Any]:
    """The worker's picture, (n, 224, 224, 1) in 0-255, and the same at `size` pixels a side."""
    import keras

    pixels = keras.Input((SIZE, SIZE, 1), name="pixels")
    if size == SIZE:
        return pixels, pixels
    return pixels, keras.layers.Resizing(size, size, name="resize")(pixels)


def with_head(found: Backbone, x: Any, *, name: str, outputs: int = 1) -> Any:
    """The keras.Model from the backbone's input through `x`, (n, d), to raw logits."""
    import keras

    logits = keras.layers.Dense(outputs, dtype="float32", name=LOGITS)(x)
    return keras.Model(found.pixels, logits, name=name)


def freeze(found: Backbone, weights: Weights, *, until: str | None = None) -> None:
    """Keep the backbone's layers as they are, all or those before the one named `until`.

    Random weights are never frozen: there is nothing in them to keep.
    """
    if weights is None:
        return
    for layer in found.base.layers:
        if layer.name == until:
            return
        layer.trainable = False
    if until is not None:
        raise ValueError(f"no layer {until!r} in {found.base.name}")
