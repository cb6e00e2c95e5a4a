"""What may differ between two radiographs of the same finding: random, and repeatable.

All functions take and return uint8 (rows, columns) pictures. The set has known shortcuts:
pneumonia pictures are softer than normal ones, and the letters in the corners differ. So
blur, sharpening and hidden corners are part of the augmentation, and `hide_corners` and
`soften` also make the twins by which the evaluation shows what the model leans on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges and chances; the defaults stay within what positioning and processing do."""

    flip_chance: float = 0.5
    rotation_deg: float = 10.0
    shift: float = 0.06  # fraction of the picture's side
    zoom: float = 0.12
    shear: float = 0.06
    brightness: float = 0.12  # fraction of the full range
    contrast: float = 0.25
    gamma: float = 0.25
    blur_chance: float = 0.3
    blur_sigma_px: float = 1.6
    sharpen_chance: float = 0.25
    noise_chance: float = 0.25
    noise_sigma: float = 8.0  # grey values
    jpeg_chance: float = 0.25
    corner_chance: float = 0.3  # of each corner

    @classmethod
    def geometric(
        cls,
        *,
        flip_chance: float = 0.5,
        rotation_deg: float = 0.0,
        shift: float = 0.0,
        zoom: float = 0.0,
        shear: float = 0.0,
    ) -> Self:
        """Only what moves pixels, as most published recipes have it; grey values stay."""
        off = dict.fromkeys((one.name for one in fields(cls)), 0.0)
        moved = {"flip_chance": flip_chance, "rotation_deg": rotation_deg, "shift": shift}
        return cls(**{**off, **moved, "zoom": zoom, "shear": shear})


def augment(picture: Picture, rng: np.random.Generator, settings: Augmentation) -> Picture:
    """One random variant; the same generator state gives the same picture."""
    if rng.random() < settings.flip_chance:
        picture = np.ascontiguousarray(picture[:, ::-1])
    picture = _hide_some_corners(picture, rng, settings.corner_chance)
    picture = _warp(picture, rng, settings)
    picture = _regrade(picture, rng, settings)
    return _degrade(picture, rng, settings)


def hide_corners(picture: Picture, fraction: float = 0.22) -> Picture:
    """Cover all four corners, each a rectangle of this fraction of the sides, in mid-grey."""
    picture = picture.copy()
    rows, columns = (round(side * fraction) for side in picture.shape)
    for corner in _corners(rows, columns):
        picture[corner] = 127
    return picture


def soften(picture: Picture, sigma_px: float = 1.5) -> Picture:
    """Blur as if the picture had come from a smaller one."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma_px), dtype=np.uint8)


def sharpen(picture: Picture, amount: float = 1.0, sigma_px: float = 1.5) -> Picture:
    """Unsharp mask, as many detectors apply."""
    soft = cv2.GaussianBlur(picture, (0, 0), sigma_px)
    return np.asarray(cv2.addWeighted(picture, 1 + amount, soft, -amount, 0), dtype=np.uint8)


def _warp(picture: Picture, rng: np.random.Generator, settings: Augmentation) -> Picture:
    rows, columns = picture.shape
    angle = np.deg2rad(rng.uniform(-settings.rotation_deg, settings.rotation_deg))
    zoom = 1 + rng.uniform(-settings.zoom, settings.zoom)
    shear = rng.uniform(-settings.shear, settings.shear)
    shift = rng.uniform(-settings.shift, settings.shift, size=2) * (columns, rows)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = zoom * rotation @ np.array([[1, shear], [0, 1]])
    centre = np.array([columns / 2, rows / 2])
    offset = centre - linear @ centre + shift
    matrix = np.column_stack([linear, offset])
    return np.asarray(cv2.warpAffine(picture, matrix, (columns, rows)), dtype=np.uint8)


def _regrade(picture: Picture, rng: np.random.Generator, settings: Augmentation) -> Picture:
    """Brightness, contrast and gamma by one lookup table."""
    grey = np.linspace(0, 1, 256) ** np.exp(rng.uniform(-settings.gamma, settings.gamma))
    contrast = 1 + rng.uniform(-settings.contrast, settings.contrast)
    grey = (grey - 0.5) * contrast + 0.5 + rng.uniform(-settings.brightness, settings.brightness)
    table = (grey.clip(0, 1) * 255).round().astype(np.uint8)
    return np.asarray(table[picture], dtype=np.uint8)


def _degrade(picture: Picture, rng: np.random.Generator, settings: Augmentation) -> Picture:
    """Softer or sharper, noisier, more compressed."""
    chance = rng.random()
    if chance < settings.blur_chance:
        picture = soften(picture, rng.uniform(0.4, settings.blur_sigma_px))
    elif chance < settings.blur_chance + settings.sharpen_chance:
        picture = sharpen(picture, rng.uniform(0.2, 1.2))
    if rng.random() < settings.noise_chance:
        noise = rng.normal(0, rng.uniform(1, settings.noise_sigma), picture.shape)
        picture = (picture + noise).clip(0, 255).astype(np.uint8)
    if rng.random() < settings.jpeg_chance:
        quality = int(rng.integers(35, 95))
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)
    return picture


def _hide_some_corners(picture: Picture, rng: np.random.Generator, chance: float) -> Picture:
    picture = picture.copy()
    rows, columns = (rng.uniform(0.08, 0.26, size=2) * picture.shape).astype(int)
    for corner in _corners(rows, columns):
        if rng.random() < chance:
            picture[corner] = rng.integers(0, 256)
    return picture


def _corners(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    ends = (slice(rows), slice(-rows, None)), (slice(columns), slice(-columns, None))
    yield from product(*ends)
