"""What the out-of-distribution score is tried on, and what is put aside before it is chosen."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from training import recipe as recipes
from training.drawn import FAMILIAR, PHANTOMS, Draw
from training.negatives import Negative, negatives
from training.ood import report_on

PICTURE = np.zeros((224, 224), np.uint8)


@pytest.mark.parametrize(
    "draw", [*FAMILIAR.values(), *PHANTOMS.values()], ids=lambda it: it.__name__
)
def test_a_drawing_is_a_picture_and_repeatable(draw: Draw) -> None:
    first, again, other = (draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.dtype == np.uint8
    assert np.ptp(first) > 100
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_about_half_of_the_sources_are_blind_and_none_that_was_seen() -> None:
    made = [Negative(kind="k", source=f"s{i}", picture=PICTURE) for i in range(200)]
    assert 70 < sum(it.blind for it in made) < 130
    assert not any(
        Negative(kind="k", source=it.source, picture=PICTURE, seen=True).blind for it in made
    )


def test_collections_are_tried_once_each_and_scenes_stay_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("left01", "left02", "left-3", "apple"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), rng.integers(0, 256, (300, 300), np.uint8))
    (tmp_path / "copy.png").write_bytes((tmp_path / "apple.png").read_bytes())
    chests = rng.integers(0, 256, (40, 224, 224), np.uint8)
    found = negatives(chests, tmp_path)
    kept = [it.source for it in found if it.source.startswith(tmp_path.name)]
    assert sorted(kept) == [f"{tmp_path.name}/apple", *[f"{tmp_path.name}/left"] * 3]
    assert len({it.picture.tobytes() for it in found}) == len(found)
    by_kind = {it.kind for it in found}
    assert {*FAMILIAR, *PHANTOMS, "chest inverted", "lower half of a chest"} <= by_kind
    assert not any(it.blind for it in found if it.kind in FAMILIAR)
    for source in {it.source for it in found if not it.seen}:
        assert len({it.blind for it in found if it.source == source and not it.seen}) == 1


def test_the_report_keeps_the_blind_half_apart() -> None:
    blind = next(f"s{i}" for i in range(99)
                 if Negative(kind="", source=f"s{i}", picture=PICTURE).blind)  # fmt: skip
    tried = [
        Negative(kind="near", source=blind, picture=PICTURE),
        Negative(kind="far", source="any", picture=PICTURE, seen=True),
    ]
    recipe = recipes.find("efficientnet-lite0")
    chests = np.array([0.1, 0.2, 0.3, 1.1])
    report = report_on(chests, tried, np.array([0.25, 9.0]), np.array([0.9]), recipe)
    assert (report.blind, report.others) == (1, 1)
    assert report.auroc == report.kinds["near"].auroc_blind == 0.5
    assert report.auroc_others == report.kinds["far"].auroc_others == 1.0
    assert report.kinds["far"].auroc_blind is None
    assert report.beyond_limit == 0.25
    assert report.false_refusals == report.refused == 0.0
    without = report_on(chests, tried[1:], np.array([9.0]), np.array([0.9]), recipe)
    assert without.auroc_blind is None
    with pytest.raises(ValueError, match="not scored"):
        _ = without.auroc
