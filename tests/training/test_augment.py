"""Augmented pictures stay pictures, and come out the same from the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.augment import Augmentation, augment, hide_corners, sharpen, soften

PICTURE = np.random.default_rng(0).integers(0, 256, (224, 224), dtype=np.uint8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), level=st.sampled_from([None, 0, 255]))
def test_augmentation_keeps_shape_and_type_and_repeats(seed: int, level: int | None) -> None:
    picture = PICTURE if level is None else np.full((224, 224), level, np.uint8)
    before = picture.copy()
    one, other = (augment(picture, np.random.default_rng(seed), Augmentation()) for _ in range(2))
    assert one.shape == (224, 224)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(picture, before)


def test_other_seeds_give_other_pictures() -> None:
    made = [augment(PICTURE, np.random.default_rng(seed), Augmentation()) for seed in range(20)]
    assert len({picture.tobytes() for picture in made}) == 20


def test_augmentation_switched_off_changes_nothing() -> None:
    off = Augmentation(**dict.fromkeys(Augmentation.__dataclass_fields__, 0.0))
    np.testing.assert_array_equal(augment(PICTURE, np.random.default_rng(0), off), PICTURE)


def test_corners_are_hidden_and_the_middle_is_kept() -> None:
    hidden = hide_corners(PICTURE, 0.25)
    np.testing.assert_array_equal(hidden[56:168, 56:168], PICTURE[56:168, 56:168])
    for corner in (hidden[:56, :56], hidden[:56, -56:], hidden[-56:, :56], hidden[-56:, -56:]):
        assert np.all(corner == 127)


@pytest.mark.parametrize(("change", "sharper"), [(soften, False), (sharpen, True)])
def test_twins_move_sharpness_and_keep_brightness(change: object, sharper: bool) -> None:
    assert callable(change)
    smooth = soften(PICTURE, 2.0)
    changed = change(smooth)
    assert bool(changed.std() > smooth.std()) is sharper
    assert changed.mean() == pytest.approx(smooth.mean(), abs=2)
