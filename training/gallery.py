"""Pictures for the report: the worst mistakes, and what the network looked at."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.evaluation.cases import CLASSES, Cases
from model.evaluation.figures import picture_address
from model.evaluation.page import Gallery, Picture
from model.predict import import_tensorflow
from model.saliency import at_picture_scale, last_spatial_outputs, scaled, with_maps
from training.dataset import Dataset

JPEG_QUALITY = 88
LOOKED_AT_EACH = 6
HEAT_OPACITY = 0.45  # of the hottest place

Pixels = NDArray[np.uint8]
# From uint8 (n, size, size) to maps in [0, 1], float32 (n, r, c).
Saliency = Callable[[Pixels], NDArray[np.float32]]


def mistakes(dataset: Dataset, report: Mapping[str, Any]) -> list[Gallery]:
    """The report's mistakes as the network saw them, the farthest from the threshold first."""
    balanced = report["operating_points"]["balanced"]
    kinds = (
        ("missed", "Pneumonia called normal", balanced["false_negative"]),
        ("false_alarms", "Normal called pneumonia", balanced["false_positive"]),
    )
    index = {name: i for i, name in enumerate(dataset.names)}
    made = []
    for kind, title, number in kinds:
        worst = report["mistakes"][kind]
        pictures = [
            Picture(
                address=jpeg_address(dataset.pixels[index[it["name"]]]),
                caption=_caption(it["name"], it["probability"], it["band"]),
            )
            for it in worst
        ]
        text = (
            f"The {len(worst)} farthest from the balanced threshold, of {number}; preprocessed, "
            "as the network sees them."
        )
        made.append(Gallery(title=title, text=text if worst else "None.", pictures=pictures))
    return made


def looked_at(dataset: Dataset, cases: Cases, saliency: Saliency) -> Gallery:
    """Grad-CAM of images of each class, from the highest logit to the lowest.

    The place in each list is what chooses an image, not how its map looks.
    """
    index = {name: i for i, name in enumerate(dataset.names)}
    chosen = [i for label in range(len(CLASSES)) for i in _spread(cases, label)]
    pictures = np.stack([dataset.pixels[index[cases.names[i]]] for i in chosen])
    maps = at_picture_scale(saliency(pictures), *pictures.shape[1:])
    return Gallery(
        title="Where the network looked",
        text=(
            "Grad-CAM on the last spatial layer: red raised the logit, places without colour did "
            f"not. Of each class {LOOKED_AT_EACH} images at equal distances in the order of their "
            "logits. It says where, never why; it outlines no lesion."
        ),
        pictures=[
            Picture(
                address=jpeg_address(overlay(picture, heat)),
                caption=(
                    *_caption(cases.names[i], float(cases.probabilities[i]), cases.bands[i]),
                    f"label {CLASSES[cases.labels[i]]}",
                ),
            )
            for i, picture, heat in zip(chosen, pictures, maps, strict=True)
        ],
    )


def saliency_of(network: Any) -> Saliency | None:
    """Grad-CAM of a keras.Model; None without TensorFlow as the backend or a spatial layer."""
    import keras

    spatial = last_spatial_outputs(network)
    if keras.backend.backend() != "tensorflow" or not spatial:
        return None
    tf = import_tensorflow()
    model = keras.Model(network.input, [network.outputs[0], *spatial])

    def maps(pictures: Pixels) -> NDArray[np.float32]:
        grey = tf.constant(pictures[..., None].astype(np.float32))
        _, found = with_maps(tf, model, grey, len(spatial))
        return scaled(np.asarray(found, dtype=np.float32))

    return maps


def overlay(picture: Pixels, heat: NDArray[np.float32]) -> Pixels:
    """Red over grey, the more the hotter: uint8 (rows, columns, 3), in OpenCV's order BGR."""
    grey = np.repeat(picture[..., None].astype(np.float32), 3, axis=2)
    red = np.array([40, 40, 230], np.float32)
    opacity = HEAT_OPACITY * heat[..., None]
    return np.asarray(grey * (1 - opacity) + red * opacity, dtype=np.uint8)


def jpeg_address(picture: Pixels) -> str:
    """A picture, grey or BGR, as the address of an image."""
    _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return picture_address(encoded.tobytes(), "jpeg")


def _spread(cases: Cases, label: int) -> list[int]:
    """Cases of one class at equal distances in the order of their logits, both ends included."""
    of_class = np.flatnonzero(cases.labels == label)
    ordered = of_class[np.argsort(-cases.logits[of_class], kind="stable")]
    places = np.linspace(0, len(ordered) - 1, min(LOOKED_AT_EACH, len(ordered)))
    return [int(ordered[round(place)]) for place in places]


def _caption(name: str, probability: float, band: str) -> Sequence[str]:
    return PurePath(name).stem, f"probability {probability:.3f}, {band}"
