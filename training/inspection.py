"""What a data folder holds, before anything is trained on it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2

from training.dataset import CLASSES, ImageFile, scan
from training.errors import DatasetError
from training.split import groups, patient

SPLITS = ("train", "val", "test")
SMALL_SIDE_PX = 224


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """Counts of one split. sides: shortest and longest side in pixels over all pictures."""

    split: str
    images: int
    by_class: dict[str, int]
    patients: int
    groups: int
    byte_identical_sets: int
    unreadable: list[str]
    smaller_than_model: int
    sides: tuple[int, int]

    @property
    def prevalence(self) -> float:
        return self.by_class[CLASSES[1]] / self.images


def inspect(data: Path) -> list[SplitSummary]:
    """Look through every split that is there.

    Raises DatasetError when none is, or one lacks a class.
    """
    found = [split for split in SPLITS if (data / split).is_dir()]
    if not found:
        raise DatasetError(f"{data} has none of the folders {', '.join(SPLITS)}")
    return [_summary(split, scan(data / split)) for split in found]


def shared_across_splits(data: Path) -> list[tuple[str, str]]:
    """Pairs of byte-identical pictures that lie in two splits, which would leak."""
    seen: dict[str, str] = {}
    pairs = []
    for split in SPLITS:
        if not (data / split).is_dir():
            continue
        here = {file.sha256: f"{split}/{file.name}" for file in scan(data / split)}
        pairs += [(seen[sha256], name) for sha256, name in here.items() if sha256 in seen]
        seen |= here
    return pairs


def _summary(split: str, files: list[ImageFile]) -> SplitSummary:
    unreadable, sides = [], []
    for file in files:
        picture = cv2.imread(str(file.path), cv2.IMREAD_UNCHANGED)
        if picture is None:
            unreadable.append(file.name)
        else:
            sides.append((min(picture.shape[:2]), max(picture.shape[:2])))
    copies = Counter(file.sha256 for file in files)
    return SplitSummary(
        split=split,
        images=len(files),
        by_class={name: sum(CLASSES[file.label] == name for file in files) for name in CLASSES},
        patients=len({patient(file.name) for file in files}),
        groups=len(set(groups(files).tolist())),
        byte_identical_sets=sum(number > 1 for number in copies.values()),
        unreadable=unreadable,
        smaller_than_model=sum(short < SMALL_SIDE_PX for short, _ in sides),
        sides=(min((s for s, _ in sides), default=0), max((s for _, s in sides), default=0)),
    )
