"""What the data holds, before anything is trained on it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from training.dataset import ImageFile, Progress, scan
from training.errors import DatasetError
from training.likeness import Hashes, near_pairs, perceptual_hash
from training.split import groups, patient

SPLITS = ("train", "val", "test")
SMALL_SIDE_PX = 224

Files = Mapping[str, Sequence[ImageFile]]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one file turned out to be. size: rows and columns; None when it is unreadable."""

    split: str
    file: ImageFile
    size: tuple[int, int] | None
    hash: Hashes | None

    @property
    def name(self) -> str:
        return f"{self.split}/{self.file.name}"


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """Counts of one split. sides: shortest and longest side in pixels over all pictures."""

    split: str
    images: int
    positive: int
    patients: int
    groups: int
    byte_identical_sets: int
    sides: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Names are `split/name`. near_identical: (one, other, differing bits of 256), other bytes.

    shared: pairs of byte-identical files in two splits, which would leak.
    """

    summaries: list[SplitSummary]
    unreadable: list[str]
    low_resolution: list[str]
    near_identical: list[tuple[str, str, int]]
    shared: list[tuple[str, str]]


def folder_splits(data: Path) -> dict[str, list[ImageFile]]:
    """The files of every split that is there; raises DatasetError when none is."""
    found = {split: scan(data / split) for split in SPLITS if (data / split).is_dir()}
    if not found:
        raise DatasetError(f"{data} has none of the folders {', '.join(SPLITS)}")
    return found


def inspect(files: Files, progress: Progress | None = None) -> Inspection:
    """Decode every file once and compare them all."""
    looks = _look_at_all(files, progress)
    return Inspection(
        summaries=[_summary(split, [it for it in looks if it.split == split]) for split in files],
        unreadable=[it.name for it in looks if it.size is None],
        low_resolution=[it.name for it in looks if it.size and min(it.size) < SMALL_SIDE_PX],
        near_identical=_near_identical([it for it in looks if it.hash is not None]),
        shared=_shared(looks),
    )


def draw_sheet(path: Path, files: Files, classes: tuple[str, ...], seed: int = 0) -> None:
    """Draw random pictures of every class, as they lie in the first split, as a PNG file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns, rows_each = 6, 2
    split, pictures = next(iter(files.items()))
    rng = np.random.default_rng(seed)
    figure, axes = plt.subplots(
        len(classes) * rows_each, columns, figsize=(12, 4.6 * len(classes)), layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for label, name in enumerate(classes):
        of_class = [file for file in pictures if file.label == label]
        chosen = rng.permutation(len(of_class))[: columns * rows_each]
        below = axes[label * rows_each :].flat
        for axis, index in zip(below, chosen, strict=False):
            size, grey = _decode(of_class[index])
            if size is not None:
                axis.imshow(grey, cmap="gray", vmin=0, vmax=255)
            shown = f"{size[1]}x{size[0]}" if size else "unreadable"
            axis.set_title(f"{name}  {shown}\n{Path(of_class[index].name).stem}", fontsize=7)
    figure.suptitle(f"{split}: {len(pictures)} images, random ones of each class")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _decode(file: ImageFile) -> tuple[tuple[int, int] | None, np.ndarray]:
    """Size and grey picture; a truncated file is unreadable, which OpenCV would let pass."""
    try:
        with Image.open(file.path) as picture:
            grey = np.asarray(picture.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None, np.empty((0, 0), np.uint8)
    return grey.shape, grey


def _look_at_all(files: Files, progress: Progress | None) -> list[Look]:
    todo = [(split, file) for split, members in files.items() for file in members]

    def look(one: tuple[str, ImageFile]) -> Look:
        split, file = one
        size, grey = _decode(file)
        found = None if size is None else perceptual_hash(grey)
        return Look(split=split, file=file, size=size, hash=found)

    looks = []
    with ThreadPoolExecutor(max_workers=2) as executor:
        for done, one in enumerate(executor.map(look, todo), start=1):
            looks.append(one)
            if progress:
                progress(done, len(todo))
    return looks


def _summary(split: str, looks: list[Look]) -> SplitSummary:
    files = [it.file for it in looks]
    sizes = [it.size for it in looks if it.size]
    copies = Counter(file.sha256 for file in files)
    return SplitSummary(
        split=split,
        images=len(files),
        positive=sum(file.label for file in files),
        patients=len({patient(file.name) for file in files}),
        groups=len(set(groups(files).tolist())),
        byte_identical_sets=sum(number > 1 for number in copies.values()),
        sides=(min(map(min, sizes), default=0), max(map(max, sizes), default=0)),
    )


def _near_identical(looks: list[Look]) -> list[tuple[str, str, int]]:
    pairs = near_pairs([it.hash for it in looks if it.hash is not None])
    return [
        (looks[one].name, looks[other].name, bits)
        for one, other, bits in pairs
        if looks[one].file.sha256 != looks[other].file.sha256
    ]


def _shared(looks: list[Look]) -> list[tuple[str, str]]:
    first: dict[str, Look] = {}
    pairs = []
    for it in looks:
        known = first.setdefault(it.file.sha256, it)
        if known.split != it.split:
            pairs.append((known.name, it.name))
    return pairs
