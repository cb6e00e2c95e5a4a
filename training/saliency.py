"""Is saliency faithful enough to be shown? Hide what it points at, and see what the model says.

The hottest tenth of each picture is blurred until nothing is told in it, and so is the same shape
at random places; if the model looks where the map is hot, the former costs it more. (A patch of
grey would not do: over a lung it looks like the finding.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dicom_io import preprocess
from model.bundle import read_bundle
from model.calibration import sigmoid
from model.predict import Predictor
from model.saliency import at_picture_scale
from training.dataset import read_picture
from training.errors import DatasetError
from training.export import VALIDATION
from training.predictions import read_predictions

MASKED_SHARE = 0.1
BLUR_SIGMA_PX = 15.0
RANDOM_MASKS = 3  # for each picture
# As shares of the picture's sides: lungs and mediastinum, without shoulders, abdomen and markers.
CENTRAL_ROWS, CENTRAL_COLUMNS = (0.2, 0.9), (0.15, 0.85)

Pictures = NDArray[np.uint8]
Masks = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """Means over the pneumonias among the pictures. Probabilities at the training prevalence.

    lowered_more: share of pneumonias whose logit the saliency's mask lowers more than the random
    masks do in the mean. central: share of saliency in the central thorax, whose share of the
    picture is central_area.
    """

    pictures: int
    pneumonias: int
    probability: float
    probability_masked: float
    probability_random: float
    logit: float
    logit_masked: float
    logit_random: float
    lowered_more: float
    central: float
    central_area: float


def try_saliency(path: Path, train: Path, count: int, seed: int) -> Faithfulness:
    """Try a bundle on `count` of its validation pictures. train: the folder of their files.

    Raises DatasetError when no pneumonia is among them.
    """
    bundle = read_bundle(path)
    predictor = Predictor(bundle, preprocess_version=preprocess.VERSION)
    predictions = read_predictions(path / VALIDATION)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(predictions.names))[:count]
    positive = [index for index in chosen if predictions.labels[index] == 1]
    if not positive:
        raise DatasetError(f"no pneumonia among {len(chosen)} validation pictures of {path}")
    pictures = np.stack([read_picture(train / predictions.names[index]) for index in positive])
    outputs = predictor.predict(pictures)
    if outputs.saliency is None:
        raise DatasetError(f"{path}: the network has no layer that saliency could be made of")
    saliency = at_picture_scale(outputs.saliency, *pictures.shape[1:])
    masks = hottest(saliency, MASKED_SHARE)
    masked = predictor.logits(hidden(pictures, masks))
    random = np.stack(
        [predictor.logits(hidden(pictures, moved)) for moved in moved_at_random(masks, rng)]
    )
    temperature = bundle.calibration.temperature

    def probability(logits: NDArray[np.float32]) -> float:
        return float(np.mean([sigmoid(float(it) / temperature) for it in logits.ravel()]))

    return Faithfulness(
        pictures=len(chosen),
        pneumonias=len(positive),
        probability=probability(outputs.logits),
        probability_masked=probability(masked),
        probability_random=probability(random),
        logit=float(outputs.logits.mean()),
        logit_masked=float(masked.mean()),
        logit_random=float(random.mean()),
        lowered_more=float(np.mean(masked < random.mean(axis=0))),
        central=central_share(saliency),
        central_area=central_share(np.ones_like(saliency)),
    )


def hottest(saliency: NDArray[np.float32], share: float) -> Masks:
    """Exactly this share of each map's pixels, the highest ones: (n, rows, columns)."""
    flat = saliency.reshape(len(saliency), -1)
    count = round(flat.shape[1] * share)
    highest = np.argsort(flat, axis=1, kind="stable")[:, -count:]
    masks = np.zeros(flat.shape, np.bool_)
    np.put_along_axis(masks, highest, True, axis=1)
    return masks.reshape(saliency.shape)


def moved_at_random(masks: Masks, rng: np.random.Generator) -> Iterator[Masks]:
    """The same shapes, and so the same area, each moved round the picture's edges."""
    for _ in range(RANDOM_MASKS):
        shifts = rng.integers(0, masks.shape[1:], size=(len(masks), 2))
        moved = [
            np.roll(mask, tuple(shift), (0, 1)) for mask, shift in zip(masks, shifts, strict=True)
        ]
        yield np.stack(moved)


def hidden(pictures: Pictures, masks: Masks) -> Pictures:
    """The pictures with what is under their masks blurred."""
    blurred = [cv2.GaussianBlur(picture, (0, 0), BLUR_SIGMA_PX) for picture in pictures]
    return np.where(masks, np.stack(blurred), pictures).astype(np.uint8)


def central_share(saliency: NDArray[np.float32]) -> float:
    """The mean over the maps of the share of their sum that lies in the central thorax."""
    rows, columns = saliency.shape[1:]
    top, bottom = (round(rows * edge) for edge in CENTRAL_ROWS)
    left, right = (round(columns * edge) for edge in CENTRAL_COLUMNS)
    sums = saliency.sum(axis=(1, 2))
    inner = saliency[:, top:bottom, left:right].sum(axis=(1, 2))
    return float(np.mean(inner[sums > 0] / sums[sums > 0])) if (sums > 0).any() else 0.0
