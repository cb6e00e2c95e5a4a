"""What a file tells of how and where its picture was made, besides the finding.

The Kaggle set has no acquisition data; its file names, sizes and grey values are all there
is. Subgroups of the evaluation and the shift splits are made of these.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePath

import cv2
import numpy as np
from numpy.typing import NDArray

from dicom_io import preprocess
from training.errors import DatasetError

_NAME = re.compile(r"^(?:(person)(\d+)_([a-z]+)|((?:NORMAL\d+-)?IM)-(\d+))")
SUBTYPES = ("bacteria", "virus")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A numbered series of the set: `IM`, `NORMAL2-IM`, `person bacteria` or `person virus`."""

    series: str
    number: int


def origin(name: str) -> Origin | None:
    """The series and number in a file name; None for a name of another data set.

    `person12_virus_30.jpeg` is number 12 of `person virus`, `NORMAL2-IM-0505-0001.jpeg` is
    number 505 of `NORMAL2-IM`.
    """
    match = _NAME.match(PurePath(name).name)
    if match is None:
        return None
    person, number, kind, image, image_number = match.groups()
    series = f"{person} {kind}" if person else image
    return Origin(series=series, number=int(number or image_number))


def subtype(name: str) -> str | None:
    """`bacteria` or `virus`, or None where the file name tells neither."""
    found = origin(name)
    kind = found.series.removeprefix("person ") if found else None
    return kind if kind in SUBTYPES else None


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """sharpness, brightness: of the picture at the model's size. sides: as the file has it."""

    sharpness: float
    brightness: float
    rows: int
    columns: int

    @property
    def aspect(self) -> float:
        return self.columns / self.rows


def appearance(path: Path) -> Appearance:
    """Look at one file. Raises DatasetError when it cannot be decoded.

    Pictures are made small before they are measured, or sharpness would tell their size.
    """
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise DatasetError(f"{path} cannot be decoded as a picture")
    rows, columns = grey.shape
    small = preprocess.as_small_copy(np.asarray(grey, dtype=np.uint8))
    return Appearance(
        sharpness=sharpness(small), brightness=brightness(small), rows=rows, columns=columns
    )


def sharpness(grey: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al., ICPR 2000), in squared grey values."""
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def brightness(grey: NDArray[np.uint8]) -> float:
    """Mean grey value, 0-255."""
    return float(grey.mean())
