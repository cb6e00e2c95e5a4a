"""Splits whose validation pictures were made otherwise than those that are fitted.

A random fold comes from the same machines, days and case mix as the rest, and says little of
the next hospital. These hold out an end of some scale instead, in each class (or numbered
series) apart, so that both classes are on either side:

origin-low, origin-high    the lowest or highest file numbers of each series
origin-im, origin-normal2  all normals named IM- (or NORMAL2-IM-), with the lower (or upper)
                           half of the person numbers
sharpness-low, -high       the softest or sharpest pictures of each class
sharpness-crossed          the class that is softer on the whole gives its sharpest pictures,
                           the other its softest: the shortcut of this set points the wrong way
brightness-low, -high, -crossed   the same by mean grey value

Groups (patients, byte-identical files) stay together, as in `split.grouped_fold`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from training.acquisition import Appearance, Origin, appearance, origin
from training.dataset import ImageFile
from training.errors import RunError
from training.split import Split, groups

SHARE = 0.2
ENDS = ("low", "high", "crossed")
_HALVES = {"origin-im": ("IM", "low"), "origin-normal2": ("NORMAL2-IM", "high")}
_MEASURES: dict[str, Callable[[Appearance], float]] = {
    "sharpness": lambda it: it.sharpness,
    "brightness": lambda it: it.brightness,
}
SHIFTS = (
    *("origin-low", "origin-high", *_HALVES),
    *(f"{measure}-{end}" for measure in _MEASURES for end in ENDS),
)

Values = NDArray[np.float64]


def shift_split(files: Sequence[ImageFile], shift: str, *, share: float = SHARE) -> Split:
    """The split for one of SHIFTS.

    share: of each class (or series) that is held out, nearly; groups are never cut.
    `origin-im` and `origin-normal2` hold out all that their names say.
    Raises RunError when there is no such shift, a file name tells no origin, or a side of the
    split would lack a class.
    """
    if shift not in SHIFTS:
        raise RunError(f"no shift {shift!r}; there are: {', '.join(SHIFTS)}")
    found = groups(files)
    labels = np.array([file.label for file in files])
    measure, end = shift.rsplit("-", 1)
    if measure in _MEASURES:
        values = np.array([_MEASURES[measure](appearance(file.path)) for file in files])
        held = _ends(values, labels, found, end, share)
    else:
        held = _by_origin([_origin(file) for file in files], labels, found, shift, share)
    split = Split(train=np.flatnonzero(~held), validation=np.flatnonzero(held))
    for side in (split.train, split.validation):
        if np.bincount(labels[side], minlength=2).min() == 0:
            raise RunError(f"{shift}: too few patients to have both classes on either side")
    return split


def _ends(
    values: Values, labels: NDArray[np.int64], found: NDArray[np.int64], end: str, share: float
) -> NDArray[np.bool_]:
    held = np.zeros(len(values), dtype=bool)
    means = np.bincount(labels, values, 2) / np.maximum(1, np.bincount(labels, minlength=2))
    for label in (0, 1):
        low = means[label] > means[1 - label] if end == "crossed" else end == "low"
        held |= _hold_out(values, labels == label, found, share, low=bool(low))
    return held


def _by_origin(
    origins: Sequence[Origin],
    labels: NDArray[np.int64],
    found: NDArray[np.int64],
    shift: str,
    share: float,
) -> NDArray[np.bool_]:
    numbers = np.array([it.number for it in origins], dtype=np.float64)
    series = np.array([it.series for it in origins])
    held = np.zeros(len(origins), dtype=bool)
    if shift in _HALVES:
        name, end = _HALVES[shift]
        held |= np.isin(found, found[(series == name) & (labels == 0)])
        share, series_left = 0.5, np.unique(series[labels == 1])
    else:
        end, series_left = shift.removeprefix("origin-"), np.unique(series)
    for one in series_left:
        held |= _hold_out(numbers, series == one, found, share, low=end == "low")
    return held


def _hold_out(
    values: Values,
    chosen: NDArray[np.bool_],
    found: NDArray[np.int64],
    share: float,
    *,
    low: bool,
) -> NDArray[np.bool_]:
    """Whole groups from one end, by their mean, until `share` of the chosen pictures is held."""
    members, inverse, sizes = np.unique(found[chosen], return_inverse=True, return_counts=True)
    means = np.bincount(inverse, values[chosen]) / sizes
    order = np.argsort(means if low else -means, kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order]
    taken = members[order[before < share * sizes.sum()]]
    return np.isin(found, taken)


def _origin(file: ImageFile) -> Origin:
    found = origin(file.name)
    if found is None:
        raise RunError(f"{file.name} tells no origin: splits by origin need the Kaggle names")
    return found
