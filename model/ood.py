"""How unlike the training images a picture is: a distance in the network's own features.

Mahalanobis' distance (Lee et al., NeurIPS 2018) from the training chests, in the means of one
layer's outputs over a grid of regions, so that it counts as well where something lies; divided by
the distance below which 99 % of the validation chests lie, augmented: a score of 1 is as far as
such a chest hardly ever is. Plain numpy.
"""

import hashlib
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from model.errors import BundleError

OOD_FILE = "ood.npz"
_ARRAYS = ("mean", "whitening", "unit")


@dataclass(frozen=True, kw_only=True)
class OodScorer:
    """mean: float32 (d,). whitening: float32 (d, d), makes the training chests' features
    uncorrelated with variance 1. unit: the distance that is a score of 1, above 0.

    Raises ValueError when the shapes do not fit or a value is not finite.
    """

    mean: NDArray[np.float32]
    whitening: NDArray[np.float32]
    unit: float

    def __post_init__(self) -> None:
        size = self.mean.size
        if self.mean.shape != (size,) or self.whitening.shape != (size, size) or not size:
            raise ValueError(f"mean {self.mean.shape} and whitening {self.whitening.shape}")
        finite = np.isfinite(self.mean).all() and np.isfinite(self.whitening).all()
        if not (finite and np.isfinite(self.unit) and self.unit > 0):
            raise ValueError("a value is not finite, or the unit is not above 0")

    def distances(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mahalanobis' distance of features, (n, d), from the training chests: (n,)."""
        if features.ndim != 2 or features.shape[1] != self.mean.size:  # noqa: PLR2004
            raise ValueError(f"expected features (n, {self.mean.size}), got {features.shape}")
        centred = features.astype(np.float64) - self.mean
        return np.asarray(np.linalg.norm(centred @ self.whitening, axis=1), dtype=np.float64)

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """0 at the training chests' mean, 1 where 99 % of validation chests are nearer: (n,)."""
        return self.distances(features) / self.unit

    def save(self, path: Path) -> str:
        """Write an .npz and return its SHA-256."""
        np.savez(path, mean=self.mean, whitening=self.whitening, unit=np.float64(self.unit))
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @classmethod
    def load(cls, path: Path, sha256: str) -> Self:
        """Raises BundleError when the file is missing, another, or holds anything else."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BundleError(
                f"{path} has another SHA-256 than the manifest says: the file is damaged or was "
                "altered; restore the bundle or export it again"
            )
        try:
            with np.load(BytesIO(data), allow_pickle=False) as arrays:
                if set(arrays) != set(_ARRAYS):
                    raise BundleError(f"{path} must hold exactly {', '.join(_ARRAYS)}")
                mean, whitening, unit = (np.asarray(arrays[name]) for name in _ARRAYS)
            floats = all(array.dtype.kind == "f" for array in (mean, whitening, unit))
            if not floats or unit.shape != ():
                raise BundleError(f"{path} must hold floating-point numbers, unit a single one")
            return cls(
                mean=mean.astype(np.float32),
                whitening=whitening.astype(np.float32),
                unit=float(unit),
            )
        except (ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
            raise BundleError(f"{path} cannot be used: {error}") from error
