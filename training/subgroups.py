"""Subgroups of the Kaggle set: what file names, sizes and grey values tell."""

from collections.abc import Mapping, Sequence

import numpy as np

from training.acquisition import appearance, origin, subtype
from training.dataset import CLASSES, ImageFile

THIRDS = ("bottom third", "middle third", "top third")  # in the order of the alphabet


def subgroups(files: Sequence[ImageFile]) -> Mapping[str, Sequence[str]]:
    """For each criterion the group of every file, "" for none.

    A criterion that would put all files into one group is left out: at 224x224 all have one
    size. Opens every file.
    """
    seen = [appearance(file.path) for file in files]
    found = {
        "finding": [subtype(file.name) or CLASSES[file.label].lower() for file in files],
        "origin by file name": _origins(files),
        "sharpness (variance of the Laplacian)": _thirds([it.sharpness for it in seen]),
        "brightness (mean grey value)": _thirds([it.brightness for it in seen]),
        "size (shorter side, px)": _thirds([min(it.rows, it.columns) for it in seen]),
        "aspect ratio (width to height)": _thirds([it.aspect for it in seen], digits=2),
    }
    return {criterion: groups for criterion, groups in found.items() if len(set(groups)) > 1}


def _origins(files: Sequence[ImageFile]) -> list[str]:
    """Normals by series; pneumonias by thirds of the person numbers."""
    found = [origin(file.name) for file in files]
    persons = [it.number for it in found if it and it.series.startswith("person")]
    thirds = iter(_thirds(persons))
    groups = []
    for it in found:
        if it is None:
            groups.append("")
        else:
            is_person = it.series.startswith("person")
            groups.append(f"person number, {next(thirds)}" if is_person else f"{it.series}-")
    return groups


def _thirds(values: Sequence[float], digits: int = 0) -> list[str]:
    """Thirds, classes together, each with its range; no groups where there is but one value."""
    if len(set(values)) < len(THIRDS):
        return [""] * len(values)
    low, high = np.quantile(values, [1 / 3, 2 / 3])
    ends = [f"{end:.{digits}f}" for end in (low, high)]
    ranges = (f"up to {ends[0]}", f"up to {ends[1]}", f"above {ends[1]}")
    names = [f"{third}, {limit}" for third, limit in zip(THIRDS, ranges, strict=True)]
    return [names[int(value > low) + int(value > high)] for value in values]
