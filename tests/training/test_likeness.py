"""Copies of a picture are found whatever was done to them; other pictures are not."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.likeness import NEAR_BITS, near_pairs, perceptual_hash
from training.negatives import adult_chests


def another_form(picture: np.ndarray, form: str) -> np.ndarray:
    if form == "smaller":
        return cv2.resize(picture, (96, 128), interpolation=cv2.INTER_AREA)
    if form == "compressed":
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 30])
        return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    if form == "brighter":
        return (picture * 0.7 + 60).astype(np.uint8)
    return cv2.GaussianBlur(picture, (0, 0), 2)


def chest(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (224, 224))
    smooth = cv2.GaussianBlur(noise, (0, 0), 12)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [*(chest(seed) for seed in range(4)), *adult_chests()[:1]]


@pytest.mark.parametrize("form", ["smaller", "compressed", "brighter", "softer"])
def test_changed_copies_are_near(pictures: list[np.ndarray], form: str) -> None:
    hashes = [perceptual_hash(picture) for picture in pictures]
    copies = [perceptual_hash(another_form(picture, form)) for picture in pictures]
    found = {(one, other) for one, other, _ in near_pairs([*hashes, *copies])}
    assert found == {(i, i + len(pictures)) for i in range(len(pictures))}


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = [perceptual_hash(chest(seed % 7)) for seed in range(30)]
    expected = near_pairs(hashes)
    monkeypatch.setattr("training.likeness.BLOCK", 4)
    assert sorted(near_pairs(hashes)) == sorted(expected)
    assert len(expected) == sum(i % 7 == j % 7 for j in range(30) for i in range(j))
    monkeypatch.setattr("training.likeness.PAIRS_MAX", 3)
    assert len(near_pairs(hashes)) == 3
    assert near_pairs([]) == []


def test_no_two_children_of_the_real_set_are_taken_for_one(shared_data: Path) -> None:
    from training.dataset import scan

    files = scan(shared_data / "chest_xray" / "train")[::10]
    hashes = [perceptual_hash(cv2.imread(str(file.path), cv2.IMREAD_GRAYSCALE)) for file in files]
    for one, other, bits in near_pairs(hashes):
        assert bits <= NEAR_BITS
        assert files[one].sha256 == files[other].sha256
