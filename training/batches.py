"""Feeds a data set to any Keras backend, batch by batch, augmented and repeatable."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from training.augment import Augmentation, augment

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]
PREFETCHED_BATCHES = 3  # by each worker
CORES_PER_WORKER = 4  # on a CPU the network needs the others; a GPU is fed by many


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """One epoch of shuffled, augmented batches.

    A batch depends on the seed, the epoch and its place only, so that a run which was
    killed and resumed sees what it would have seen. Pictures come as float32
    (n, size, size, 1) in 0-255, labels as float32 (n, 1). The rest that fills no batch is
    left out; it is another one in each epoch.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64],
        indices: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        augmentation: Augmentation,
    ) -> None:
        super().__init__()
        self._pixels = pixels
        self._labels = labels
        self._order = np.random.default_rng([seed, epoch]).permutation(indices)
        self._batch_size = min(batch_size, len(indices))
        self._seed = [seed, epoch]
        self._augmentation = augmentation

    def __len__(self) -> int:
        return len(self._order) // self._batch_size

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng([*self._seed, index])
        chosen = self._order[index * self._batch_size :][: self._batch_size]
        pictures = [augment(self._pixels[i], rng, self._augmentation) for i in chosen]
        labels = self._labels[chosen].astype(np.float32)
        return np.stack(pictures)[..., None].astype(np.float32), labels[:, None]


def prefetched(batches: Any) -> Iterator[Batch]:
    """Iterate, in order, with the next batches being made in the background."""
    workers = max(1, (os.cpu_count() or 1) // CORES_PER_WORKER)
    with ThreadPoolExecutor(workers) as executor:
        waiting: deque[Any] = deque()
        for index in range(len(batches)):
            waiting.append(executor.submit(batches.__getitem__, index))
            if len(waiting) > PREFETCHED_BATCHES * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
