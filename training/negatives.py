"""Pictures that are no upright frontal chest: what the out-of-distribution score is tried on.

Registries carry few radiographs. So this is what pydicom, pydicom-data, scikit-learn and
matplotlib bring along, a folder of one's own (scikit-image's pictures, for the shipped bundle),
generated pictures, and chests spoiled on purpose. Nothing is fitted on any of it.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from dicom_io import preprocess
from dicom_io.errors import DicomError
from dicom_io.read import read_dataset, text_value
from training.augment import Picture

GENERATED_EACH = 12
SPOILED_EACH = 60  # validation chests that each way of spoiling is applied to
SIDE_MIN_PX = 32  # smaller test files are no pictures
CHESTS = "RG1"  # of pydicom-data: an adult's chest

_PACKAGES = {
    "pydicom": "data/test_files",
    "data_store": "data",
    "sklearn": "datasets/images",
    "matplotlib": "mpl-data/sample_data",
}
_RADIOGRAPHS = ("CR", "DX")
_DRAWINGS = ("logo", "text", "page", "chessboard", "phantom", "clock", "horse", "colour", "color")


@dataclass(frozen=True, kw_only=True)
class Negative:
    """One preprocessed picture. source: pictures of one origin stay on one side of `held_out`."""

    kind: str
    source: str
    picture: Picture

    @property
    def held_out(self) -> bool:
        """A fixed half of the sources, by which no limit was chosen."""
        return hashlib.sha256(self.source.encode()).digest()[0] % 2 == 0


def negatives(chests: NDArray[np.uint8], extra: Path | None = None) -> list[Negative]:
    """Everything at hand, each picture once.

    chests: preprocessed pictures to spoil, uint8 (n, size, size). extra: a folder of DICOM, JPEG
    or PNG files that show no chest.
    """
    found: dict[bytes, Negative] = {}
    for one in (*_files(extra), *_generated(), *_spoiled(chests)):
        found.setdefault(hashlib.sha256(one.picture.tobytes()).digest(), one)
    return list(found.values())


def adult_chests() -> list[Picture]:
    """The forms of the one adult chest in pydicom-data: to be told from non-chests."""
    paths = [path for path in _paths(None) if path.name.startswith(CHESTS)]
    return [read for path in paths if (read := _read(path)) is not None]


def _paths(extra: Path | None) -> Iterator[Path]:
    for package, inside in _PACKAGES.items():
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            yield from sorted((Path(spec.origin).parent / inside).iterdir())
    if extra is not None:
        yield from sorted(path for path in extra.rglob("*") if path.is_file())


def _files(extra: Path | None) -> Iterator[Negative]:
    for path in _paths(extra):
        picture = None if path.name.startswith(CHESTS) else _read(path)
        if picture is not None:
            kind, source = _kind(path), path.stem.replace("-", "_").split("_")[0]
            yield Negative(kind=kind, source=source, picture=picture)


def _read(path: Path) -> Picture | None:
    suffix = path.suffix.lower()
    if suffix not in {".dcm", ".png", ".jpg", ".jpeg"}:
        return None
    try:
        grey = preprocess.grey_from_file(path)
    except (DicomError, InvalidDicomError):
        return None
    return preprocess.from_grey(grey) if min(grey.shape) >= SIDE_MIN_PX else None


def _kind(path: Path) -> str:
    if path.suffix.lower() != ".dcm":
        drawn = path.stem.lower().startswith(_DRAWINGS)
        return "drawing or page of text" if drawn else "photograph"
    modality = text_value(read_dataset(path, force=True), "Modality", 16) or "OT"
    if modality in _RADIOGRAPHS:
        return "ankle radiograph"
    return f"{modality} image" if modality in ("CT", "MR", "US", "NM") else "secondary capture"


def _generated() -> Iterator[Negative]:
    makers: Mapping[str, Callable[[np.random.Generator], Picture]] = {
        "noise": _noise,
        "gradient": _gradient,
        "screenshot": _screenshot,
        "two ellipses": _ellipses,
    }
    for kind, make in makers.items():
        for seed in range(GENERATED_EACH):
            picture = preprocess.from_grey(make(np.random.default_rng(seed)))
            yield Negative(kind=kind, source=f"{kind} {seed}", picture=picture)


def _noise(rng: np.random.Generator) -> Picture:
    """White, or smoothed to blobs of some pixels."""
    values: NDArray[np.float64] = rng.normal(128, 60, (256, 256))
    sigma_px = rng.choice([0.0, 2.0, 8.0, 24.0])
    if sigma_px:
        values = np.asarray(cv2.GaussianBlur(values, (0, 0), sigma_px), dtype=np.float64)
        values = 128 + 60 * (values - values.mean()) / values.std()
    return values.clip(0, 255).astype(np.uint8)


def _gradient(rng: np.random.Generator) -> Picture:
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    angle = rng.uniform(0, 2 * np.pi)
    straight = x * np.cos(angle) + y * np.sin(angle)
    values = straight if rng.random() < 0.5 else np.hypot(x - 0.3 * angle / np.pi, y)  # noqa: PLR2004
    scaled = np.asarray(255 * (values - values.min()) / np.ptp(values), dtype=np.uint8)
    return scaled


def _screenshot(rng: np.random.Generator) -> Picture:
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


def _ellipses(rng: np.random.Generator) -> Picture:
    """Two dark ellipses on a bright ground: what a child would draw of a chest."""
    picture = np.full((256, 256), 200, np.uint8)
    for column in (80, 176):
        axes = (int(rng.integers(25, 40)), int(rng.integers(55, 85)))
        cv2.ellipse(picture, (column, 128), axes, 0, 0, 360, int(rng.integers(30, 90)), -1)
    noisy = cv2.GaussianBlur(picture, (0, 0), 6) + rng.normal(0, 4, picture.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def _spoiled(chests: NDArray[np.uint8]) -> Iterator[Negative]:
    """Chests turned, inverted or cut to a quarter; preprocessed pictures are taken again."""
    ways: Mapping[str, Callable[[Picture], NDArray[np.uint8]]] = {
        "chest turned by 90 degrees": np.rot90,
        "chest turned by 180 degrees": lambda chest: np.rot90(chest, 2),
        "chest inverted": lambda chest: 255 - chest,
        "quarter of a chest": _quarter,
    }
    step = max(1, len(chests) // SPOILED_EACH)
    for index, chest in enumerate(chests[::step]):
        for kind, spoil in ways.items():
            picture = np.ascontiguousarray(spoil(chest))
            yield Negative(kind=kind, source=f"chest {index}", picture=picture)


def _quarter(chest: Picture) -> NDArray[np.uint8]:
    size = len(chest)
    top, left = ((0, size // 2)[int(chest[row, row]) % 2] for row in (size // 3, size // 2))
    cut = chest[top : top + size // 2, left : left + size // 2]
    return np.asarray(cv2.resize(cut, (size, size)), dtype=np.uint8)
