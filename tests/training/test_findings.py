"""A table of findings beside pictures is read as strictly as it is used."""

import csv
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.errors import DatasetError
from training.findings import scan_findings
from training.run import scan_data
from training.split import grouped_fold, groups, hold_out, patient

HEADER = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID"]
ROWS = [
    ["00000001_000.png", "Cardiomegaly", "0", "1"],
    ["00000001_001.png", "Cardiomegaly|Mass", "1", "1"],
    ["00000002_000.png", "No Finding", "0", "2"],
    ["00000003_000.png", "Pneumonia|Mass", "0", "3"],
    ["00000013_005.png", "Pneumonia", "5", "13"],
]


def write_table(folder: Path, rows: list[list[str]], header: list[str] | None = None) -> Path:
    path = folder / "Data_Entry.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([header or HEADER, *rows])
    return path


def write_images(folder: Path, names: list[str]) -> Path:
    for index, name in enumerate(names):
        below = folder / f"images_{index % 2}" / "images"  # as the public set is packed
        below.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(below / name), np.full((8, 8), index, np.uint8))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", [row[0] for row in ROWS])


@pytest.mark.parametrize(
    ("positive", "expected"), [("Mass", [0, 1, 0, 1, 0]), ("pneumonia", [0, 0, 0, 1, 1])]
)
def test_any_finding_is_the_positive_class(
    tmp_path: Path, images: Path, positive: str, expected: list[int]
) -> None:
    files = scan_findings(write_table(tmp_path, ROWS), images, positive)
    assert [file.label for file in files] == expected
    assert [patient(file.name) for file in files] == [
        f"patient-{number}" for number in (1, 1, 2, 3, 13)
    ]
    assert files == scan_data(str(images), str(tmp_path / "Data_Entry.csv"), positive)


def test_patients_of_the_table_are_never_separated(tmp_path: Path) -> None:
    rows = [
        [f"{i:08}_{j:03}.png", "Mass" if i % 3 == 0 else "No Finding", str(j), str(i)]
        for i in range(80)
        for j in range(1 + i % 4)
    ]
    images = write_images(tmp_path / "images", [row[0] for row in rows])
    files = scan_findings(write_table(tmp_path, rows), images, "Mass")
    found = groups(files)
    for fold in range(4):
        split = grouped_fold(files, fold=fold, folds=4, seed=0)
        inner = hold_out(files, split.train, seed=0)
        parts = [inner.train, inner.validation, split.validation]
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(files)))
        seen = [set(found[part].tolist()) for part in parts]
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
        assert 0 < np.mean([files[i].label for i in inner.validation]) < 1


def test_pictures_that_are_not_there_are_counted(
    tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*ROWS, ["00000014_000.png", "Mass", "0", "14"]]
    with caplog.at_level(logging.WARNING):
        assert len(scan_findings(write_table(tmp_path, rows), images, "Mass")) == 5
    assert "1 of 6 pictures" in caplog.text


@pytest.mark.parametrize(
    ("rows", "header", "positive", "message"),
    [
        (ROWS, ["Image", *HEADER[1:]], "Mass", "no column 'Image Index'"),
        (ROWS, HEADER, "Hernia", "no finding 'Hernia'; there are: .*Mass"),
        ([*ROWS, ROWS[0]], HEADER, "Mass", "00000001_000.png more than once"),
        ([["a.png", "Mass", "0", ""]], HEADER, "Mass", "row 2: an empty field"),
        ([["a.png", "Mass", "0", "1"]], HEADER, "Mass", "none of the 1 pictures"),
    ],
)
def test_table_that_cannot_be_meant_is_refused(
    tmp_path: Path,
    images: Path,
    rows: list[list[str]],
    header: list[str],
    positive: str,
    message: str,
) -> None:
    with pytest.raises(DatasetError, match=message):
        scan_findings(write_table(tmp_path, rows, header), images, positive)


def test_table_that_is_missing_or_no_text_is_refused(tmp_path: Path, images: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    for name in ("nowhere.csv", "binary.csv"):
        with pytest.raises(DatasetError, match="cannot be read"):
            scan_findings(tmp_path / name, images, "Mass")
