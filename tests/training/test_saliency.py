"""The masks by which saliency is tried; the whole trial runs on the bundle that `export` made."""

import numpy as np
import pytest

from training.saliency import central_share, hidden, hottest, moved_at_random


def test_the_hottest_share_is_exact_and_holds_the_highest_values() -> None:
    saliency = np.random.default_rng(0).random((3, 20, 30), dtype=np.float32)
    masks = hottest(saliency, 0.1)
    assert masks.sum(axis=(1, 2)).tolist() == [60] * 3
    assert saliency[masks].min() > np.quantile(saliency, 0.85)
    assert hottest(np.zeros((1, 20, 30), np.float32), 0.1).sum() == 60


def test_moved_masks_keep_their_area_and_leave_their_place() -> None:
    masks = hottest(np.random.default_rng(0).random((4, 20, 30), dtype=np.float32), 0.1)
    for moved in moved_at_random(masks, np.random.default_rng(1)):
        assert (moved.sum(axis=(1, 2)) == masks.sum(axis=(1, 2))).all()
        assert not np.array_equal(moved, masks)


def test_what_is_hidden_is_blurred_and_nothing_else_changes() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64), dtype=np.uint8)
    masks = np.zeros((2, 64, 64), np.bool_)
    masks[:, 20:40] = True
    changed = hidden(pictures, masks)
    assert (changed[~masks] == pictures[~masks]).all()
    assert changed[masks].std() < pictures[masks].std() / 5


def test_the_central_share_of_an_even_map_is_its_area() -> None:
    assert central_share(np.ones((1, 100, 100), np.float32)) == pytest.approx(0.7 * 0.7)
    assert central_share(np.zeros((1, 100, 100), np.float32)) == 0
