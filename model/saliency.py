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
# picture would gain if all of it looked like that cell. So a clear chest stays without colour;
# of the shipped network's validation chests, 99 % of those called pneumonia lie above it.
FULL_LOG_ODDS = 8.0
OUTLINE_FROM = 0.5  # of the map's highest value
OUTLINE_POINTS_MAX = 60

_SPATIAL_DIMENSIONS = 4  # batch, rows, columns, channels


def last_spatial_layer(network: Any) -> str | None:
    """The name of a keras.Model's last layer with rows and columns, None where there is none."""
    for layer in reversed(network.layers[1:]):
        shape: tuple[int | None, ...] = tuple(getattr(layer.output, "shape", ()))
        if len(shape) == _SPATIAL_DIMENSIONS and (shape[1] or 0) * (shape[2] or 0) > 1:
            return str(layer.name)
    return None


def grad_cam(tf: Any, activations: Any, gradients: Any) -> Any:
    """Raw maps as a TensorFlow graph computes them, in log-odds; all (n, rows, columns[, d]).

    gradients: of the logits by the activations. Each cell is what it adds to the logit.
    """
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * activations, axis=-1))


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
