"""The one picture that training and serving share.

A grey picture of any size becomes 224x224 and then contrast-limited adaptive
histogram equalised. The training images are at hand at 224x224 only, squashed to
a square, so CLAHE comes after the resize: it is the one order in which a
full-resolution radiograph and its small copy become the same picture.

The small copies were made by an antialiased bilinear filter and stored as JPEG of
quality 75. The network sees that compression (CLAHE raises it), so a picture of
another size is made small in the same way: its logit is then that of its copy.
"""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from dicom_io import codestream, preprocess_version
from dicom_io.errors import UnreadableDicom, UnsupportedPixels
from dicom_io.pixels import PIXELS_MAX, colour_to_grey, is_colour, stored_values
from dicom_io.read import read_dataset
from dicom_io.shutter import visible
from dicom_io.voi import to_grey

VERSION = preprocess_version.VERSION
SIZE = 224  # rows and columns
JPEG_QUALITY = 75  # of the training images
CLAHE_CLIP_LIMIT = 2.0
CLAHE_TILES = 8  # per side

_PREAMBLE_BYTES = 128
_DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic", ".ima"})


def parameters() -> dict[str, int | float | str]:
    """What a bundle's manifest records of this pipeline."""
    return {
        "size": SIZE,
        "interpolation": "bilinear, antialiased",
        "jpeg_quality": JPEG_QUALITY,
        "clahe_clip_limit": CLAHE_CLIP_LIMIT,
        "clahe_tiles": CLAHE_TILES,
        "order": "resize, jpeg, clahe",
    }


def from_grey(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn a display-ready grey picture into the model's picture.

    grey: uint8, (rows, columns), any size, 255 brightest, bone bright
    (the MONOCHROME2 sense). Returns uint8, (224, 224).
    """
    if grey.ndim != 2 or grey.dtype != np.uint8 or grey.size == 0:  # noqa: PLR2004
        raise ValueError(f"expected uint8 (rows, columns), got {grey.dtype} {grey.shape}")
    small = grey if grey.shape == (SIZE, SIZE) else as_small_copy(grey)
    clahe = cv2.createCLAHE(clipLimit=CLAHE_CLIP_LIMIT, tileGridSize=(CLAHE_TILES, CLAHE_TILES))
    equalised = clahe.apply(small)
    return np.ascontiguousarray(equalised, dtype=np.uint8)


def as_small_copy(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Make a picture small as the training images were: uint8, (224, 224)."""
    small = Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    encoded = BytesIO()
    small.save(encoded, "JPEG", quality=JPEG_QUALITY)
    decoded = cv2.imdecode(np.frombuffer(encoded.getvalue(), np.uint8), cv2.IMREAD_GRAYSCALE)
    return np.asarray(decoded, np.uint8)


def grey_of(ds: Dataset) -> NDArray[np.uint8]:
    """Develop a DICOM image as its header says: shutter, modality LUT, VOI LUT, MONOCHROME1.

    Returns uint8, (rows, columns), bone bright, as large as the Display Shutter leaves it. Pixel
    aspect ratio plays no part: the model's picture is squashed to a square whatever the sides are.
    Raises NoPixels, UnsupportedPixels ("constant image" among others), UnreadableDicom.
    """
    area = visible(ds)
    if is_colour(ds):
        grey = np.ascontiguousarray(colour_to_grey(ds)[area])
    else:
        grey = to_grey(np.ascontiguousarray(stored_values(ds)[area]), ds)
    darkest, brightest, _, _ = cv2.minMaxLoc(grey)
    if darkest == brightest:
        raise UnsupportedPixels("constant image")
    return grey


def from_dataset(ds: Dataset) -> NDArray[np.uint8]:
    """Turn a DICOM image into the model's picture: uint8, (224, 224). Raises as `grey_of`."""
    return from_grey(grey_of(ds))


def grey_from_file(path: Path) -> NDArray[np.uint8]:
    """Read a DICOM, JPEG or PNG file as uint8, (rows, columns). Raises DicomError."""
    with path.open("rb") as file:
        head = file.read(_PREAMBLE_BYTES + 4)
    if head[_PREAMBLE_BYTES:] == b"DICM":
        return grey_of(read_dataset(path))
    if path.suffix.lower() in _DICOM_SUFFIXES:
        return grey_of(read_dataset(path, force=True))
    encoded = path.read_bytes()
    size = codestream.size_of(encoded)
    if size is None:
        raise UnreadableDicom("not a DICOM, JPEG or PNG file")
    if size[0] * size[1] > PIXELS_MAX:
        raise UnsupportedPixels(f"too large ({size[1]}x{size[0]})")
    grey = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise UnreadableDicom("the picture cannot be decoded")
    return np.asarray(grey, np.uint8)


def from_file(path: Path) -> NDArray[np.uint8]:
    """Turn a DICOM, JPEG or PNG file into the model's picture: uint8, (224, 224)."""
    return from_grey(grey_from_file(path))
