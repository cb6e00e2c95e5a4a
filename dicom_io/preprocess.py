"""The one picture that training and serving share.

A grey picture of any size becomes 224x224 and then contrast-limited adaptive
histogram equalised. The public training images exist at 224x224 only, squashed
to a square, so CLAHE comes after the resize: it is the one order in which a
full-resolution radiograph and its small copy become the same picture.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

VERSION = 1  # a bundle made with another version is refused when it is loaded
SIZE = 224  # rows and columns
CLAHE_CLIP_LIMIT = 2.0
CLAHE_TILES = 8  # per side


def parameters() -> dict[str, int | float | str]:
    """What a bundle's manifest records of this pipeline."""
    return {
        "size": SIZE,
        "interpolation": "area",
        "clahe_clip_limit": CLAHE_CLIP_LIMIT,
        "clahe_tiles": CLAHE_TILES,
        "order": "resize, clahe",
    }


def from_grey(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn a display-ready grey picture into the model's picture.

    grey: uint8, (rows, columns), any size, 255 brightest, bone bright
    (the MONOCHROME2 sense). Returns uint8, (224, 224).
    """
    if grey.ndim != 2 or grey.dtype != np.uint8 or grey.size == 0:
        raise ValueError(f"expected uint8 (rows, columns), got {grey.dtype} {grey.shape}")
    shrinks = grey.shape[0] >= SIZE and grey.shape[1] >= SIZE
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    small = cv2.resize(grey, (SIZE, SIZE), interpolation=interpolation)
    clahe = cv2.createCLAHE(clipLimit=CLAHE_CLIP_LIMIT, tileGridSize=(CLAHE_TILES, CLAHE_TILES))
    equalised = clahe.apply(small)
    return np.ascontiguousarray(equalised, dtype=np.uint8)
