"""Splits that keep every patient, and every copy of a picture, on one side.

The official validation split of 16 pictures is too small to choose anything by and is
never used; validation is a fold of the training pictures.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from training.dataset import ImageFile
from training.errors import RunError

WATCHED_PARTS = 10

_PATIENT = re.compile(r"^(person\d+_[a-z]+|(?:NORMAL\d+-)?IM-\d+)")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Indices into the data set, each int64 (n,), without a patient in common.

    shifted: held out by a shift (see shift.py), neither fitted nor chosen by.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    shifted: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))


def patient(name: str) -> str:
    """The patient that a file name of the Kaggle set tells.

    `person12_virus_30.jpeg` is `person12_virus`: numbers run separately for the two types.
    `NORMAL2-IM-0505-0001.jpeg` is `NORMAL2-IM-0505`. In the CSV layout `Mass/patient-13/x.png`
    is `patient-13`. Any other name is a patient of its own.
    """
    folder, stem = PurePath(name).parent.name, PurePath(name).stem
    if folder.startswith("patient-"):
        return folder
    match = _PATIENT.match(stem)
    return match.group(1) if match else stem


def groups(files: Sequence[ImageFile]) -> NDArray[np.int64]:
    """Number the groups that must not be separated: int64 (n,).

    Pictures of one patient belong together, and so do byte-identical pictures with all
    pictures of their patients.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for file in files:
        parent[root(f"patient {patient(file.name)}")] = root(f"bytes {file.sha256}")
    roots = [root(f"bytes {file.sha256}") for file in files]
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def grouped_fold(files: Sequence[ImageFile], *, fold: int, folds: int, seed: int) -> Split:
    """Fold number `fold` of `folds`: grouped by `groups`, stratified by label.

    Raises RunError when there is no such fold, or a class has fewer pictures than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if not 0 <= fold < folds:
        raise RunError(f"fold {fold} is not one of {folds} folds, counted from 0")
    labels = np.array([file.label for file in files])
    if np.bincount(labels, minlength=2).min() < folds:
        raise RunError(f"too few pictures of one class for {folds} folds")
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    train, validation = list(splitter.split(labels, labels, groups(files)))[fold]
    return Split(train=train.astype(np.int64), validation=validation.astype(np.int64))


def hold_out(files: Sequence[ImageFile], indices: NDArray[np.int64], *, seed: int) -> Split:
    """Split `indices` once more, a tenth for `validation`, grouped and stratified likewise.

    What stops a training or lowers its learning rate is watched on that tenth, so that the
    validation fold chooses no epoch.
    """
    chosen = [files[index] for index in indices]
    smaller_class = min(np.bincount([file.label for file in chosen], minlength=2))
    parts = max(2, min(WATCHED_PARTS, int(smaller_class)))
    inner = grouped_fold(chosen, fold=0, folds=parts, seed=seed)
    return Split(train=indices[inner.train], validation=indices[inner.validation])
