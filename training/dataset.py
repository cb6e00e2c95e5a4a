"""The Kaggle folder layout `train|val|test / NORMAL|PNEUMONIA / *.jpeg`, and pictures as arrays.

`training.findings` lists the files of the other layout, a CSV of findings. Every file goes once
through the same preprocessing that the worker uses; the pictures are kept as one uint8 file under
a cache folder, named by a digest of all inputs.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dicom_io import preprocess
from training.errors import DatasetError

CLASSES = ("NORMAL", "PNEUMONIA")  # the index is the label
SUFFIXES = {".jpeg", ".jpg", ".png"}

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One picture: `name` is unique in its split and tells the patient, `label` indexes CLASSES."""

    path: Path
    name: str
    label: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Files and their preprocessed pictures, uint8 (n, size, size), in the same order."""

    files: Sequence[ImageFile]
    pixels: NDArray[np.uint8]
    digest: str

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.array([file.label for file in self.files], dtype=np.int64)

    @property
    def names(self) -> list[str]:
        return [file.name for file in self.files]


def scan(split_folder: Path) -> list[ImageFile]:
    """List a split's pictures by name, each with the SHA-256 of its bytes.

    Raises DatasetError when a class folder is missing or empty.
    """
    files = []
    for label, class_name in enumerate(CLASSES):
        folder = split_folder / class_name
        paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise DatasetError(
                f"no pictures in {folder}: expected the Kaggle layout "
                "train/NORMAL and train/PNEUMONIA (see `cxr-train download`)"
            )
        files += [
            ImageFile(
                path=path,
                name=f"{class_name}/{path.name}",
                label=label,
                sha256=sha256_of(path),
            )
            for path in paths
        ]
    return files


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(files: Sequence[ImageFile]) -> str:
    """One SHA-256 over all names and contents: what the manifest records of the data."""
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def load(split_folder: Path, cache_folder: Path, progress: Progress | None = None) -> Dataset:
    """Read a split of the folder layout, from the cache when it was preprocessed before."""
    return load_files(scan(split_folder), cache_folder, progress)


def load_files(
    files: Sequence[ImageFile], cache_folder: Path, progress: Progress | None = None
) -> Dataset:
    """Read these pictures, from the cache when the same files were preprocessed before."""
    data_digest = digest(files)
    cache = cache_folder / f"{data_digest[:16]}-preprocess{preprocess.VERSION}.npy"
    if not cache.exists():
        _fill_cache(cache, files, progress)
    pixels: NDArray[np.uint8] = np.load(cache, mmap_mode="r")
    return Dataset(files=files, pixels=pixels, digest=data_digest)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Decode one file as grey and preprocess it: uint8 (size, size).

    Raises DatasetError when the file cannot be decoded.
    """
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise DatasetError(f"{path} cannot be decoded as a picture")
    return preprocess.from_grey(np.asarray(grey, dtype=np.uint8))


def _fill_cache(cache: Path, files: Sequence[ImageFile], progress: Progress | None) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    unfinished = cache.with_suffix(".tmp.npy")
    shape = (len(files), preprocess.SIZE, preprocess.SIZE)
    # Straight to the disk: a hundred thousand pictures are 5 GB.
    pixels = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)
    for index, file in enumerate(files):
        pixels[index] = read_picture(file.path)
        if progress:
            progress(index + 1, len(files))
    pixels.flush()
    unfinished.replace(cache)
