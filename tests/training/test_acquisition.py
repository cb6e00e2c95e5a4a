"""What file names and grey values tell."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.acquisition import Origin, appearance, origin, sharpness, subtype
from training.augment import sharpen, soften
from training.errors import DatasetError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("PNEUMONIA/person12_virus_30.jpeg", Origin(series="person virus", number=12)),
        ("PNEUMONIA/person1_bacteria_1.jpeg", Origin(series="person bacteria", number=1)),
        ("NORMAL/IM-0115-0001-0002.jpeg", Origin(series="IM", number=115)),
        ("NORMAL/NORMAL2-IM-0505-0001.jpeg", Origin(series="NORMAL2-IM", number=505)),
        ("NORMAL/00000013_005.png", None),
    ],
)
def test_file_name_tells_the_origin(name: str, expected: Origin | None) -> None:
    assert origin(name) == expected


def test_only_pneumonias_have_a_subtype() -> None:
    assert subtype("PNEUMONIA/person12_virus_30.jpeg") == "virus"
    assert subtype("PNEUMONIA/person12_bacteria_30.jpeg") == "bacteria"
    assert subtype("NORMAL/IM-0115-0001.jpeg") is None
    assert subtype("chest.png") is None


def test_sharpness_orders_blurred_and_sharpened_pictures() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    picture = cv2.GaussianBlur(picture, (0, 0), 2).astype(np.uint8)
    assert sharpness(soften(picture)) < sharpness(picture) < sharpness(sharpen(picture))


def test_appearance_gives_the_files_own_size_and_measures_a_small_copy(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), np.full((300, 450), 77, np.uint8))
    seen = appearance(tmp_path / "x.png")
    assert (seen.rows, seen.columns, seen.aspect) == (300, 450, 1.5)
    assert seen.brightness == pytest.approx(77, abs=2)
    assert seen.sharpness == pytest.approx(0, abs=1)


def test_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"broken")
    with pytest.raises(DatasetError, match=r"x\.png"):
        appearance(tmp_path / "x.png")
