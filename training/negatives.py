"""Pictures that are no upright frontal chest: what the out-of-distribution score is tried on.

Registries carry few radiographs. So this is what pydicom, pydicom-data, scikit-learn and
matplotlib bring along, a folder of one's own, drawings and phantoms, and chests spoiled on
purpose. Nothing is fitted on any of it.

Half of the sources are blind: layer, method and limits are chosen by the others alone, and the
blind ones are scored when that is done. A fixed hash of a source's name decides, so nobody does.
Collections whose figures were in view when the score was first made can be blind no more.
"""

import hashlib
import re
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
from training.drawn import FAMILIAR, PHANTOMS

DRAWN_EACH = 12
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
    """One preprocessed picture. source: pictures of one origin are all blind, or none is.

    seen: of a collection whose figures were in view before.
    """

    kind: str
    source: str
    picture: Picture
    seen: bool = False

    @property
    def blind(self) -> bool:
        digest = hashlib.sha256(f"blind half: {self.source}".encode()).digest()
        return not self.seen and digest[0] % 2 == 0


def negatives(chests: NDArray[np.uint8], extra: Path | None = None) -> list[Negative]:
    """Everything at hand, each picture once.

    chests: preprocessed pictures to spoil, uint8 (n, size, size). extra: a folder of DICOM, JPEG
    or PNG files that show no chest.
    """
    found: dict[bytes, Negative] = {}
    for one in (*_files(extra), *_drawn(), *_spoiled(chests)):
        found.setdefault(hashlib.sha256(one.picture.tobytes()).digest(), one)
    return list(found.values())


def adult_chests() -> list[Picture]:
    """The forms of the one adult chest in pydicom-data: to be told from non-chests."""
    paths = [path for path in _packaged() if path.name.startswith(CHESTS)]
    return [read for path in paths if (read := _read(path)) is not None]


def _packaged() -> Iterator[Path]:
    for package, inside in _PACKAGES.items():
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            yield from sorted((Path(spec.origin).parent / inside).iterdir())


def _files(extra: Path | None) -> Iterator[Negative]:
    own = sorted(path for path in extra.rglob("*") if path.is_file()) if extra else []
    for seen, paths in ((True, _packaged()), (False, own)):
        for path in paths:
            picture = None if path.name.startswith(CHESTS) else _read(path)
            if picture is not None:
                yield Negative(kind=_kind(path), source=_source(path), picture=picture, seen=seen)


def _source(path: Path) -> str:
    """`left01.jpg` and `left02.jpg` are views of one scene."""
    first = re.split(r"[-_0-9]", path.stem)[0]
    return f"{path.parent.name}/{first or path.stem}"


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


def _drawn() -> Iterator[Negative]:
    for makers, seen in ((FAMILIAR, True), (PHANTOMS, False)):
        for kind, draw in makers.items():
            for seed in range(DRAWN_EACH):
                picture = preprocess.from_grey(draw(np.random.default_rng(seed)))
                yield Negative(kind=kind, source=kind, picture=picture, seen=seen)


def _spoiled(chests: NDArray[np.uint8]) -> Iterator[Negative]:
    """Chests spoiled; preprocessed pictures are taken again.

    The familiar ways are tried anew on other chests, of which half are blind. Of the new ways,
    the hash puts whole ones aside.
    """
    step = max(1, len(chests) // SPOILED_EACH)
    for index in range(0, len(chests), step):
        for kind, spoil in _FAMILIAR_WAYS.items():
            yield _spoil(chests[index], spoil, kind, f"chest {index}", seen=True)
    for index in range(min(1, step - 1), len(chests), step):
        for kind, spoil in _FAMILIAR_WAYS.items():
            yield _spoil(chests[index], spoil, kind, f"chest {index}")
        for kind, spoil in _NEW_WAYS.items():
            yield _spoil(chests[index], spoil, kind, kind)


Spoil = Callable[[Picture], NDArray[np.uint8]]


def _spoil(chest: Picture, spoil: Spoil, kind: str, source: str, *, seen: bool = False) -> Negative:
    picture = np.ascontiguousarray(spoil(np.asarray(chest)))
    return Negative(kind=kind, source=source, picture=picture, seen=seen)


def _quarter(chest: Picture) -> NDArray[np.uint8]:
    size = len(chest)
    top, left = ((0, size // 2)[int(chest[row, row]) % 2] for row in (size // 3, size // 2))
    return _stretched(chest[top : top + size // 2, left : left + size // 2], size)


def _lower_half(chest: Picture) -> NDArray[np.uint8]:
    """What an abdomen's picture begins with."""
    return _stretched(chest[len(chest) // 2 :], len(chest))


def _shuffled(chest: Picture) -> NDArray[np.uint8]:
    """The four quarters, each where the one across was."""
    half = len(chest) // 2
    return np.roll(chest, (half, half), axis=(0, 1))


def _solarised(chest: Picture) -> NDArray[np.uint8]:
    return np.minimum(chest, 255 - chest) * 2


def _two_in_one(chest: Picture) -> NDArray[np.uint8]:
    """A page of two: the same chest twice, side by side."""
    return _stretched(np.hstack([chest, chest]), len(chest))


def _on_a_page(chest: Picture) -> NDArray[np.uint8]:
    """A report with a small picture in it."""
    size = len(chest)
    page = np.full((size, size), 250, np.uint8)
    small = _stretched(chest, size * 2 // 5)
    page[20 : 20 + len(small), 20 : 20 + len(small)] = small
    for row in range(size // 2 + 16, size - 8, 12):
        cv2.putText(page, "Findings: none to report", (16, row), cv2.FONT_HERSHEY_PLAIN, 0.8, 30, 1)
    return page


def _stretched(part: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA), dtype=np.uint8)


_FAMILIAR_WAYS: Mapping[str, Spoil] = {
    "chest turned by 90 degrees": np.rot90,
    "chest turned by 180 degrees": lambda chest: np.rot90(chest, 2),
    "chest inverted": lambda chest: 255 - chest,
    "quarter of a chest": _quarter,
}
_NEW_WAYS: Mapping[str, Spoil] = {
    "lower half of a chest": _lower_half,
    "chest with its quarters shuffled": _shuffled,
    "chest solarised": _solarised,
    "two chests side by side": _two_in_one,
    "chest on a page": _on_a_page,
}
