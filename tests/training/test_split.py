"""Nothing that belongs together is ever separated."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.dataset import ImageFile, scan
from training.errors import RunError
from training.split import grouped_fold, groups, patient


def file(name: str, label: int, sha256: str | None = None) -> ImageFile:
    return ImageFile(path=Path(name), name=name, label=label, sha256=sha256 or name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("PNEUMONIA/person12_virus_30.jpeg", "person12_virus"),
        ("PNEUMONIA/person12_bacteria_3.jpeg", "person12_bacteria"),
        ("PNEUMONIA/person124_virus_238_2.jpeg", "person124_virus"),
        ("NORMAL/IM-0115-0001.jpeg", "IM-0115"),
        ("NORMAL/IM-0115-0001-0002.jpeg", "IM-0115"),
        ("NORMAL/NORMAL2-IM-0115-0001.jpeg", "NORMAL2-IM-0115"),
        ("NORMAL/00000013_005.png", "00000013_005"),
    ],
)
def test_file_name_tells_the_patient(name: str, expected: str) -> None:
    assert patient(name) == expected


def test_identical_bytes_join_the_groups_of_their_patients() -> None:
    files = [
        file("PNEUMONIA/person1_virus_1.jpeg", 1, "a"),
        file("PNEUMONIA/person1_virus_2.jpeg", 1, "same"),
        file("PNEUMONIA/person2_virus_3.jpeg", 1, "same"),
        file("PNEUMONIA/person2_virus_4.jpeg", 1, "b"),
        file("PNEUMONIA/person3_virus_5.jpeg", 1, "c"),
    ]
    found = groups(files)
    assert len(set(found[:4].tolist())) == 1
    assert found[4] != found[0]


@settings(max_examples=30, deadline=None)
@given(
    patients=st.lists(st.integers(0, 40), min_size=40, max_size=120),
    copies=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=5),
    seed=st.integers(0, 5),
)
def test_no_fold_ever_separates_a_group(
    patients: list[int], copies: list[tuple[int, int]], seed: int
) -> None:
    digests = [str(index) for index in range(len(patients))]
    for one, other in copies:
        digests[one] = digests[other]
    files = [
        file(f"person{number}_{'virus' if number % 2 else 'bacteria'}_{index}.jpeg", number % 2, d)
        for index, (number, d) in enumerate(zip(patients, digests, strict=True))
    ]
    if min(sum(f.label == label for f in files) for label in (0, 1)) < 4:
        return
    found = groups(files)
    validated: list[int] = []
    for fold in range(4):
        split = grouped_fold(files, fold=fold, folds=4, seed=seed)
        assert not set(found[split.train].tolist()) & set(found[split.validation].tolist())
        assert len(split.train) + len(split.validation) == len(files)
        validated += split.validation.tolist()
    assert sorted(validated) == list(range(len(files)))


def test_real_set_is_split_by_patient_and_stratified(shared_data: Path) -> None:
    files = scan(shared_data / "chest_xray" / "train")
    labels = np.array([file.label for file in files])
    found = groups(files)
    assert len(files) == 5216
    split = grouped_fold(files, fold=0, folds=5, seed=0)
    assert not set(found[split.train].tolist()) & set(found[split.validation].tolist())
    assert labels[split.validation].mean() == pytest.approx(labels.mean(), abs=0.01)


def test_unknown_fold_is_refused() -> None:
    with pytest.raises(RunError, match="fold 5"):
        grouped_fold([file("a", 0)], fold=5, folds=5, seed=0)


def test_too_few_pictures_are_refused() -> None:
    files = [file(f"person{i}_virus_1", 1) for i in range(9)] + [file("IM-1", 0)]
    with pytest.raises(RunError, match="too few"):
        grouped_fold(files, fold=0, folds=5, seed=0)
