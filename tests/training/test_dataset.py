"""Training sees the picture that serving sees, once preprocessed and kept."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from dicom_io import preprocess
from training.dataset import load, scan
from training.errors import DatasetError


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((40, 30), value, np.uint8))


@pytest.fixture
def split(tmp_path: Path) -> Path:
    for index in range(3):
        picture(tmp_path / "train" / "NORMAL" / f"IM-{index}.jpeg", index * 20)
        picture(tmp_path / "train" / "PNEUMONIA" / f"person{index}_virus_1.png", index * 30)
    return tmp_path / "train"


def test_pictures_are_those_of_the_shared_preprocessing(split: Path, tmp_path: Path) -> None:
    dataset = load(split, tmp_path / "cache")
    assert dataset.pixels.shape == (6, 224, 224)
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for file, pixels in zip(dataset.files, dataset.pixels, strict=True):
        grey = cv2.imread(str(split / file.name), cv2.IMREAD_GRAYSCALE)
        assert grey is not None
        np.testing.assert_array_equal(pixels, preprocess.from_grey(np.asarray(grey, np.uint8)))


def test_cache_is_used_again_and_left_when_a_file_changes(split: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    first = load(split, tmp_path / "cache", lambda done, _: seen.append(done))
    load(split, tmp_path / "cache", lambda done, _: seen.append(done))
    assert seen == [1, 2, 3, 4, 5, 6]
    picture(split / "NORMAL" / "IM-0.jpeg", 99)
    changed = load(split, tmp_path / "cache")
    assert changed.digest != first.digest
    assert not np.array_equal(changed.pixels[0], first.pixels[0])


def test_missing_class_folder_is_refused_with_the_expected_layout(tmp_path: Path) -> None:
    picture(tmp_path / "NORMAL" / "a.png", 1)
    with pytest.raises(DatasetError, match=r"PNEUMONIA.*Kaggle layout"):
        scan(tmp_path)


def test_file_that_is_no_picture_is_named(split: Path, tmp_path: Path) -> None:
    (split / "NORMAL" / "IM-9.jpeg").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match=r"IM-9\.jpeg cannot be decoded"):
        load(split, tmp_path / "cache")
