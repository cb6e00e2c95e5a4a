"""The small map of where the model looked, as the database keeps it."""

import numpy as np
from numpy.typing import NDArray

from db.outcomes import StoredSaliency


def as_stored(found: NDArray[np.float32]) -> StoredSaliency:
    """Turn a map, float32 (r, c) in [0, 1], into what the database keeps."""
    data = np.round(found * 255).astype(np.uint8)
    return StoredSaliency(columns=data.shape[1], data=data.tobytes())


def as_map(stored: StoredSaliency) -> NDArray[np.float32]:
    """Turn it back: float32 (r, c) in [0, 1]."""
    data = np.frombuffer(stored.data, np.uint8).reshape(-1, stored.columns)
    return np.asarray(data / 255, np.float32)
