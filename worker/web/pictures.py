"""Pictures for the page: an image as a reader sees it, small enough for a browser.

Decoding a radiograph takes up to a second of a core, so few run at once, and the newest pictures
are kept. A corrected header gives an image another spool file, so a kept picture is never stale.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dicom_io.preprocess import grey_of
from dicom_io.read import read_dataset

SIDE_PX_MAX = 1024
OVERLAY_SIDE_PX = 512
KEPT_MAX = 64  # of some 300 kB each
AT_ONCE = 2


class Pictures:
    """Makes PNGs, and keeps the newest. Safe to use from many threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def windowed(self, path: Path) -> bytes:
        """A DICOM image developed as its header says: PNG, grey. Raises DicomError, OSError."""
        return self._get(f"image {path}", lambda: grey_of(read_dataset(path)))

    def _get(self, key: str, make: Callable[[], NDArray[np.uint8]]) -> bytes:
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept
        with self._turns:
            made = as_png(make())
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        return made


def overlay(saliency: NDArray[np.float32]) -> bytes:
    """Where the model looked, to lie over the radiograph: PNG with transparency, square.

    saliency: float32 (r, c) in [0, 1], any grid. What is low hides nothing.
    """
    size = (OVERLAY_SIDE_PX, OVERLAY_SIDE_PX)
    heat = np.clip(cv2.resize(saliency, size, interpolation=cv2.INTER_CUBIC), 0, 1)
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    alpha = (np.minimum(heat * 2, 1) * 255).astype(np.uint8)
    return as_png(np.dstack([colours, alpha]))


def as_png(picture: NDArray[np.uint8]) -> bytes:
    """Encode a picture, made smaller if a side is longer than SIDE_PX_MAX."""
    rows, columns = picture.shape[:2]
    scale = SIDE_PX_MAX / max(rows, columns)
    if scale < 1:
        size = (max(round(columns * scale), 1), max(round(rows * scale), 1))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    encoded, data = cv2.imencode(".png", picture)
    if not encoded:
        raise ValueError("the picture cannot be encoded")
    return bytes(data.tobytes())
