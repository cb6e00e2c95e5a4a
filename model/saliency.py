"""Where the network looked: Grad-CAM (Selvaraju et al., ICCV 2017) on its last spatial layer.

What a cell of that layer adds to the logit, and nothing of what it takes away. Where the network
ends in global average pooling and one dense layer, as the shipped one does, that is exact and not
a linearisation: the cells' parts and the bias are the logit. It says where, never why: a hot
area is no segmented lesion, and how hot it is, is no probability.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# A map is scaled by its own highest cell, but never raised above this: log-odds that the whole
# picture would gain if all of it looked like that cell. So a clear chest stays without colour: of
# the shipped network's validation chests, all that are called pneumonia lie above it, and 2 % of
# the others.
FULL_LOG_ODDS = 8.0
OUTLINE_FROM = 0.5  # of the map's highest value
OUTLINE_POINTS_MAX = 60

_SPATIAL_DIMENSIONS = 4  # batch, rows, columns, channels


def last_spatial_outputs(network: Any) -> list[Any]:
    """What a keras.Model's logit is made of, as far back as it has rows and columns.

    One tensor, (n, rows, columns, channels), for a network that ends in one body; one for each
    member of an ensemble; none where nothing but the picture has a layout.
    """
    latest: dict[int, dict[int, Any]] = {}
    for layer in network.operations:  # in the order in which they are computed
        outputs = _listed(layer.output)
        inputs = [] if _is_input(layer) else _listed(layer.input)
        before = {key: tensor for it in inputs for key, tensor in latest.get(id(it), {}).items()}
        for output in outputs:
            own = _is_spatial(output) and bool(inputs)
            latest[id(output)] = {id(output): output} if own else before
    return list(latest.get(id(network.outputs[0]), {}).values())


def with_maps(tf: Any, network: Any, grey: Any, bodies: int) -> list[Any]:
    """A keras.Model's outputs, with maps (`grad_cam`) in place of the last ones.

    The first output is the logit, the last `bodies` are `last_spatial_outputs`. grey: a tensor,
    (n, rows, columns, 1). In one pass: only the way back from the logit to those is added.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(grey)
        outputs = network(grey, training=False)
    logits, activations = outputs[0], outputs[-bodies:]
    gradients = tape.gradient(logits, activations)
    return [*outputs[:-bodies], grad_cam(tf, logits, activations, gradients)]


def grad_cam(tf: Any, logits: Any, activations: list[Any], gradients: list[Any]) -> Any:
    """Raw maps as a TensorFlow graph computes them, in log-odds: (n, rows, columns).

    logits: (n, 1). activations, gradients: of each last spatial output, (n, r, c, d); gradients of
    the logits. Each cell is what it adds to the logit; the maps of several bodies are added up, on
    the finest of their grids. A body that sees each picture followed by its mirror image,
    (2 n, r, c, d), has the map of the latter turned back and added.
    """
    maps = []
    for activation, gradient in zip(activations, gradients, strict=True):
        weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
        found = tf.nn.relu(tf.reduce_sum(weights * activation, axis=-1))
        sides = tf.reshape(found, (tf.shape(logits)[0], -1, *found.shape[1:]))
        mirrored = tf.reverse(sides[:, 1:], axis=[-1])
        maps.append(sides[:, 0] + tf.reduce_sum(mirrored, axis=1))
    if len(maps) == 1:
        return maps[0]
    rows, columns = max((tuple(it.shape[1:3]) for it in maps), key=lambda grid: grid[0] * grid[1])
    total = 0.0
    for it in maps:
        parts = it.shape[1] * it.shape[2] / (rows * columns)  # a cell's part, spread over smaller
        total += parts * tf.image.resize(it[..., None], (rows, columns))[..., 0]
    return total


def scaled(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring raw maps to [0, 1]: float32, (n, rows, columns)."""
    if not raw.size:
        return raw
    as_whole = raw * np.float32(raw.shape[1] * raw.shape[2])
    highest = as_whole.max(axis=(1, 2), keepdims=True)
    return np.asarray(as_whole / np.maximum(highest, np.float32(FULL_LOG_ODDS)), np.float32)


def at_picture_scale(maps: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Maps, (n, r, c), enlarged without steps to (n, rows, columns): float32 in [0, 1]."""
    large = np.empty((len(maps), rows, columns), np.float32)
    for index, small in enumerate(maps):
        cubic = cv2.resize(small, (columns, rows), interpolation=cv2.INTER_CUBIC)
        large[index] = np.clip(cubic, 0, 1)
    return large


def outline(
    saliency: NDArray[np.float32], rows: int, columns: int
) -> tuple[tuple[float, float], ...] | None:
    """The closed outline of the hottest area, for a picture of this size; None in a blank map.

    saliency: one map, (r, c), in [0, 1]. The area is where it reaches half of its highest value,
    around that place. Returns (column, row) in pixels of the picture, the first point again at
    the end, as PS3.3 C.18.6.1.2 wants a polyline; at most 61 points.
    """
    side = 512  # what a line needs; the picture may have ten times that
    large = at_picture_scale(np.asarray(saliency, np.float32)[None], side, side)[0]
    highest = float(large.max())
    if not highest > 0:
        return None
    hot = (large >= OUTLINE_FROM * highest).astype(np.uint8)
    peak = tuple(int(place) for place in np.unravel_index(large.argmax(), large.shape))
    _, areas = cv2.connectedComponents(hot)
    contours, _ = cv2.findContours(
        (areas == areas[peak]).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    line = _simplified(max(contours, key=cv2.contourArea))
    scale = np.array([columns / side, rows / side])
    points = [(float(x), float(y)) for x, y in np.round((line + 0.5) * scale, 1)]
    return (*points, points[0])


def _simplified(contour: NDArray[Any]) -> NDArray[Any]:
    tolerance_px = 1.0
    while True:
        line = cv2.approxPolyDP(contour, tolerance_px, True)[:, 0, :]
        if len(line) <= OUTLINE_POINTS_MAX:
            return np.asarray(line)
        tolerance_px *= 1.5


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_input(layer: Any) -> bool:
    return type(layer).__name__ == "InputLayer"


def _is_spatial(tensor: Any) -> bool:
    shape: tuple[int | None, ...] = tuple(getattr(tensor, "shape", ()))
    return len(shape) == _SPATIAL_DIMENSIONS and (shape[1] or 0) * (shape[2] or 0) > 1
