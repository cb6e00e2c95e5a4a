"""Pictures made by arithmetic that are no chests: noise, screens, and phantoms of a radiograph.

A phantom adds up what simple bodies attenuate along parallel rays (Beer and Lambert): a lateral
thorax, an abdomen, a hand, a skull. It has a radiograph's greys and outlines, not its detail.
All functions take a generator and return uint8 (rows, columns), bone bright.
"""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Draw = Callable[[np.random.Generator], Picture]

_SIDE = 256
_SOFT, _BONE, _AIR = 1.0, 1.6, -0.85  # attenuation added, in units of soft tissue


def noise(rng: np.random.Generator) -> Picture:
    """White, or smoothed to blobs of some pixels."""
    values: NDArray[np.float64] = rng.normal(128, 60, (_SIDE, _SIDE))
    sigma_px = rng.choice([0.0, 2.0, 8.0, 24.0])
    if sigma_px:
        values = np.asarray(cv2.GaussianBlur(values, (0, 0), sigma_px), dtype=np.float64)
        values = 128 + 60 * (values - values.mean()) / values.std()
    return values.clip(0, 255).astype(np.uint8)


def gradient(rng: np.random.Generator) -> Picture:
    """Straight, or in rings."""
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    angle = rng.uniform(0, 2 * np.pi)
    straight = x * np.cos(angle) + y * np.sin(angle)
    values = straight if rng.random() < 0.5 else np.hypot(x - 0.3 * angle / np.pi, y)  # noqa: PLR2004
    scaled = np.asarray(255 * (values - values.min()) / np.ptp(values), dtype=np.uint8)
    return scaled


def screenshot(rng: np.random.Generator) -> Picture:
    """Lines of letters, boxes and a title bar, dark on light or light on dark."""
    picture = np.full((480, 640), 245, np.uint8)
    cv2.rectangle(picture, (0, 0), (640, 28), 90, -1)
    for row in range(60, 470, 24):
        letters = "".join(chr(code) for code in rng.integers(65, 91, rng.integers(5, 40)))
        cv2.putText(picture, letters, (12, row), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 20, 1)
    for _ in range(rng.integers(0, 4)):
        left, top = (int(v) for v in rng.integers(0, 400, 2))
        cv2.rectangle(picture, (left, top), (left + 120, top + 60), int(rng.integers(60, 220)), -1)
    return picture if rng.random() < 0.5 else 255 - picture  # noqa: PLR2004


def ellipses(rng: np.random.Generator) -> Picture:
    """Two dark ellipses on a bright ground: what a child would draw of a chest."""
    picture = np.full((_SIDE, _SIDE), 200, np.uint8)
    for column in (80, 176):
        axes = (int(rng.integers(25, 40)), int(rng.integers(55, 85)))
        cv2.ellipse(picture, (column, 128), axes, 0, 0, 360, int(rng.integers(30, 90)), -1)
    noisy = cv2.GaussianBlur(picture, (0, 0), 6) + rng.normal(0, 4, picture.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def lateral_thorax(rng: np.random.Generator) -> Picture:
    """Both lungs in one, the spine behind, sternum and heart in front."""
    rays = _Rays(rng)
    rays.body((128, 140), (88, 150), 1.0, _SOFT)
    rays.body((122, 112), (62, 82), 0.9, _AIR)
    rays.body((96, 150), (34, 38), 0.6, _SOFT)
    for row in range(10, 250, 19):
        rays.body((184 - abs(row - 120) // 12, row), (13, 8), 0.35, _BONE)
    rays.line([(60, 50), (52, 90), (58, 150)], 8, 0.15, _BONE)
    for row in range(30, 190, 20):
        rays.line([(182, row), (130, row + 34), (70, row + 30)], 5, 0.12, _BONE)
    rays.body((110, 232), (80, 48), 0.7, _SOFT)
    rays.body((128, -6), (26, 40), 0.5, _SOFT)
    return rays.developed()


def abdomen(rng: np.random.Generator) -> Picture:
    """Spine, iliac wings, gas and liver."""
    rays = _Rays(rng)
    rays.body((128, 128), (122, 170), 1.0, _SOFT)
    rays.body((78, 66), (58, 44), 0.3, _SOFT)
    for row in range(6, 200, 26):
        rays.body((128, row), (17, 11), 0.4, _BONE)
    for side in (-1, 1):
        rays.body((128 + side * 66, 200), (40, 34), 0.2, _BONE)
        rays.body((128 + side * 62, 250), (14, 14), 0.45, _BONE)
    for _ in range(9):
        centre = (int(rng.integers(50, 206)), int(rng.integers(60, 200)))
        rays.body(centre, (int(rng.integers(7, 20)), int(rng.integers(6, 13))), 0.3, _AIR)
    return rays.developed()


def hand(rng: np.random.Generator) -> Picture:
    """Five fingers of three bones each, on a dark ground."""
    rays = _Rays(rng)
    rays.body((128, 178), (54, 50), 0.25, _SOFT)
    rays.line([(128, 200), (128, 270)], 52, 0.2, _SOFT)
    for finger, (spread, length) in enumerate(
        [(-62, 84), (-32, 140), (0, 152), (32, 140), (58, 108)]
    ):
        base = np.array([128 + spread * 0.55, 176 + (24 if finger == 0 else 0)])
        tip = np.array([128 + spread * 1.25, 176 - length])
        rays.line([base, tip], 24, 0.16, _SOFT)
        for start, end in ((0.0, 0.4), (0.44, 0.7), (0.73, 0.87), (0.9, 1.0)):
            rays.line([base + (tip - base) * start, base + (tip - base) * end], 9, 0.2, _BONE)
    for column in range(100, 160, 18):
        rays.body((column, 212), (9, 9), 0.2, _BONE)
    return rays.developed()


def skull(rng: np.random.Generator) -> Picture:
    """A dense rim, orbits, nose and teeth."""
    rays = _Rays(rng)
    rays.body((128, 104), (84, 96), 0.6, _BONE)
    rays.body((128, 104), (76, 88), 0.45, -_BONE)
    rays.body((128, 110), (74, 86), 0.6, _SOFT)
    rays.body((128, 206), (54, 46), 0.4, _SOFT)
    for side in (-1, 1):
        rays.body((128 + side * 34, 118), (22, 18), 0.3, _AIR)
    rays.body((128, 154), (13, 24), 0.3, _AIR)
    for column in range(92, 168, 10):
        rays.body((column, 194), (4, 13), 0.3, _BONE)
    rays.line([(76, 176), (92, 226), (128, 242), (164, 226), (180, 176)], 13, 0.25, _BONE)
    return rays.developed()


class _Rays:
    """What each ray loses. Bodies come with their outlines shaken a little."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.lost: NDArray[np.float64] = np.zeros((_SIDE, _SIDE))
        self.zoom = rng.uniform(0.9, 1.5)  # a part of the body fills the picture, or the body does

    def body(
        self, centre: tuple[float, float], axes: tuple[float, float], depth: float, density: float
    ) -> None:
        """An ellipsoid: its chord is longest in the middle."""
        shaken = self.rng.uniform(0.93, 1.07, 2) * axes * self.zoom
        at = (np.array(centre) - 128) * self.zoom + 128 + self.rng.normal(0, 2, 2)
        y, x = np.mgrid[:_SIDE, :_SIDE]
        inside = 1 - ((x - at[0]) / shaken[0]) ** 2 - ((y - at[1]) / shaken[1]) ** 2
        self.lost += density * depth * np.sqrt(np.maximum(inside, 0))

    def line(self, points: list[Any], width_px: int, depth: float, density: float) -> None:
        """A rod along some points."""
        mask = np.zeros((_SIDE, _SIDE))
        path = (np.array(points, np.float64) - 128) * self.zoom + 128
        path += self.rng.normal(0, 1.5, path.shape)
        cv2.polylines(mask, [np.rint(path).astype(np.int32)], False, 1.0, width_px, cv2.LINE_AA)
        self.lost += density * depth * cv2.GaussianBlur(mask, (0, 0), width_px / 6 + 0.5)

    def developed(self) -> Picture:
        """Scatter, quantum noise, a window from the darkest to the brightest."""
        lost = np.maximum(cv2.GaussianBlur(self.lost, (0, 0), 1.2), 0)
        photons = self.rng.poisson(4000 * np.exp(-1.5 * lost)) + 1
        shades = -np.log(photons / 4000)
        low, high = np.percentile(shades, [0.5, 99.5])
        scaled = 255 * ((shades - low) / (high - low)).clip(0, 1)
        return np.asarray(scaled, dtype=np.uint8)


FAMILIAR: Mapping[str, Draw] = {
    "noise": noise,
    "gradient": gradient,
    "screenshot": screenshot,
    "two ellipses": ellipses,
}
PHANTOMS: Mapping[str, Draw] = {
    "phantom of a lateral thorax": lateral_thorax,
    "phantom of an abdomen": abdomen,
    "phantom of a hand": hand,
    "phantom of a skull": skull,
}
