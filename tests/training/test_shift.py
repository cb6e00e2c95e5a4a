"""Held-out pictures lie beyond the fitted ones on the scale that the shift names."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.acquisition import appearance, origin
from training.dataset import Dataset, ImageFile, scan
from training.errors import RunError
from training.run import RunSettings, fold_of
from training.shift import SHIFTS, shift_split
from training.split import groups


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    """Two pictures a patient, each patient of its own sharpness and brightness."""
    split = tmp_path_factory.mktemp("train")
    rng = np.random.default_rng(0)
    for index in range(80):
        person, label = index // 2, index % 4 // 2
        noise = rng.normal(0, 1, (64, 64))
        picture = 60 + 2 * person + 20 * label + noise * (5 + 7 * ((person * 7) % 40))
        series = ("IM", "NORMAL2-IM") if label == 0 else ("bacteria", "virus")
        kind = series[person // 2 % 2]
        number = f"{person:04d}-{index % 2:04d}"
        stem = f"{kind}-{number}" if label == 0 else f"person{person}_{kind}_{index}"
        folder = split / ("PNEUMONIA" if label else "NORMAL")
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{stem}.png"), picture.clip(0, 255).astype(np.uint8))
    return scan(split)


def labels_of(files: Sequence[ImageFile]) -> np.ndarray:
    return np.array([file.label for file in files])


@pytest.mark.parametrize("shift", SHIFTS)
def test_no_group_is_cut_and_both_sides_have_both_classes(
    files: list[ImageFile], shift: str
) -> None:
    split = shift_split(files, shift)
    found, labels = groups(files), labels_of(files)
    assert not set(found[split.train].tolist()) & set(found[split.validation].tolist())
    assert sorted([*split.train, *split.validation]) == list(range(len(files)))
    for side in (split.train, split.validation):
        assert set(labels[side].tolist()) == {0, 1}


@pytest.mark.parametrize("measure", ["sharpness", "brightness"])
@pytest.mark.parametrize("end", ["low", "high"])
def test_each_class_gives_its_end_of_the_scale(
    files: list[ImageFile], measure: str, end: str
) -> None:
    split, labels = shift_split(files, f"{measure}-{end}"), labels_of(files)
    values = np.array([getattr(appearance(file.path), measure) for file in files])
    for label in (0, 1):
        held = values[split.validation[labels[split.validation] == label]].mean()
        fitted = values[split.train[labels[split.train] == label]].mean()
        assert held < fitted if end == "low" else held > fitted
    assert len(split.validation) == pytest.approx(0.2 * len(files), abs=4)


def test_crossed_turns_the_shortcut_round(files: list[ImageFile]) -> None:
    split, labels = shift_split(files, "brightness-crossed"), labels_of(files)
    values = np.array([appearance(file.path).brightness for file in files])

    def gap(side: np.ndarray) -> float:
        return float(
            values[side[labels[side] == 1]].mean() - values[side[labels[side] == 0]].mean()
        )

    assert gap(split.train) > 0 > gap(split.validation)


def test_origin_low_holds_out_the_lowest_numbers_of_each_series(files: list[ImageFile]) -> None:
    split = shift_split(files, "origin-low")
    origins = [origin(file.name) for file in files]
    for series in ("IM", "NORMAL2-IM", "person bacteria", "person virus"):
        held, fitted = (
            [it.number for it in (origins[i] for i in side) if it and it.series == series]
            for side in (split.validation, split.train)
        )
        assert max(held) < min(fitted)


def test_origin_im_holds_out_every_normal_of_that_name(files: list[ImageFile]) -> None:
    split = shift_split(files, "origin-im")
    assert not [files[i].name for i in split.train if "/IM-" in files[i].name]
    assert not [files[i].name for i in split.validation if "NORMAL2" in files[i].name]


def test_unknown_shift_names_those_there_are(files: list[ImageFile]) -> None:
    with pytest.raises(RunError, match="origin-low"):
        shift_split(files, "sideways")


def test_thresholds_of_a_shift_are_chosen_on_a_fold_of_the_rest(
    files: list[ImageFile], run_settings: Callable[..., RunSettings]
) -> None:
    dataset = Dataset(files=files, pixels=np.empty((len(files), 0, 0), np.uint8), digest="x")
    split = fold_of(dataset, run_settings(split="origin-low"))
    assert split.shifted.tolist() == shift_split(files, "origin-low").validation.tolist()
    parts = [split.train, split.validation, split.shifted]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(files)))
    found = groups(files)
    assert not set(found[split.train].tolist()) & set(found[split.validation].tolist())


def test_a_run_with_an_unknown_split_is_refused_before_it_begins() -> None:
    with pytest.raises(RunError, match="random, origin-low"):
        RunSettings(
            recipe="x",
            data="x",
            data_digest="x",
            fold=0,
            folds=5,
            seed=0,
            epochs=1,
            weights=None,
            split="sideways",
        )


def test_origin_needs_names_that_tell_it() -> None:
    file = ImageFile(path=Path("x.png"), name="NORMAL/x.png", label=0, sha256="x")
    with pytest.raises(RunError, match="tells no origin"):
        shift_split([file], "origin-low")


def test_too_few_patients_are_refused(files: list[ImageFile]) -> None:
    with pytest.raises(RunError, match="both classes"):
        shift_split(files[:2], "brightness-low")


@pytest.mark.parametrize(
    ("shift", "expected"),
    [("origin-low", 1045), ("origin-im", 2540), ("sharpness-crossed", 1045)],
)
def test_real_set_is_held_out_by_about_the_share(
    shared_data: Path, shift: str, expected: int
) -> None:
    split = shift_split(scan(shared_data / "chest_xray" / "train"), shift)
    assert len(split.validation) == pytest.approx(expected, rel=0.06)
