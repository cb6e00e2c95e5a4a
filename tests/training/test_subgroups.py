"""Groups that file names, sizes and grey values tell."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.dataset import ImageFile, scan
from training.subgroups import subgroups


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    """Twelve pictures, each larger, wider and brighter than the one before."""
    split = tmp_path_factory.mktemp("train")
    names = [f"NORMAL/IM-{i:04d}-0001" for i in range(3)]
    names += [f"NORMAL/NORMAL2-IM-{i:04d}-0001" for i in range(3)]
    names += [f"PNEUMONIA/person{i}_{'virus' if i % 2 else 'bacteria'}_1" for i in range(6)]
    for i, name in enumerate(names):
        path = split / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((100 + 10 * i, 200 + 40 * i), 20 * i, np.uint8))
    return scan(split)


def test_names_tell_finding_and_origin(files: list[ImageFile]) -> None:
    found = subgroups(files)
    assert Counter(found["finding"]) == {"normal": 6, "bacteria": 3, "virus": 3}
    assert Counter(found["origin by file name"]) == {
        "IM-": 3,
        "NORMAL2-IM-": 3,
        "person number, bottom third, up to 2": 2,
        "person number, middle third, up to 3": 2,
        "person number, top third, above 3": 2,
    }


@pytest.mark.parametrize(
    "criterion",
    ["brightness (mean grey value)", "size (shorter side, px)", "aspect ratio (width to height)"],
)
def test_thirds_follow_what_they_are_named_for(files: list[ImageFile], criterion: str) -> None:
    found = subgroups(files)[criterion]
    order = {file.name: group for file, group in zip(files, found, strict=True)}
    parts = [order[file.name].split(" ")[0] for file in files]
    assert parts == ["bottom"] * 4 + ["middle"] * 4 + ["top"] * 4


def test_what_all_files_share_makes_no_groups(files: list[ImageFile]) -> None:
    found = subgroups([files[0], files[0], files[0]])
    assert set(found) == set()


def test_other_names_have_no_origin(files: list[ImageFile], tmp_path: Path) -> None:
    path = tmp_path / "00000013_005.png"
    cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))
    other = ImageFile(path=path, name="patient-13/00000013_005.png", label=1, sha256="x")
    found = subgroups([*files, other])
    assert found["origin by file name"][-1] == ""
    assert found["finding"][-1] == "pneumonia"
