"""Pictures for the report: the worst mistakes, and what the network looked at."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.evaluation.figures import picture_address
from model.evaluation.page import Gallery, Picture
from training.dataset import Dataset

JPEG_QUALITY = 88


def mistakes(dataset: Dataset, report: Mapping[str, Any]) -> list[Gallery]:
    """The report's mistakes as the network saw them, the farthest from the threshold first."""
    kinds = {
        "missed": ("Pneumonia called normal", "None."),
        "false_alarms": ("Normal called pneumonia", "None."),
    }
    index = {name: i for i, name in enumerate(dataset.names)}
    made = []
    for kind, (title, none) in kinds.items():
        worst = report["mistakes"][kind]
        at = report["operating_points"]["balanced"]
        number = at["false_negative"] if kind == "missed" else at["false_positive"]
        text = (
            f"The {len(worst)} farthest from the balanced threshold, of {number}; preprocessed, "
            "as the network sees them."
        )
        pictures = [
            Picture(address=grey_address(dataset.pixels[index[it["name"]]]), caption=caption_of(it))
            for it in worst
        ]
        made.append(Gallery(title=title, text=text if worst else none, pictures=pictures))
    return made


def caption_of(case: Mapping[str, Any]) -> Sequence[str]:
    return (
        PurePath(case["name"]).stem,
        f"probability {case['probability']:.3f}, {case['band']}",
    )


def grey_address(picture: NDArray[np.uint8]) -> str:
    """A grey picture, uint8 (rows, columns), as the address of an image."""
    _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return picture_address(encoded.tobytes(), "jpeg")
