"""Finds pictures that are nearly the same, by a perceptual hash.

The hash is the signs of the lowest 16x16 cosine coefficients of the picture at 64x64 (Zauner,
2010: pHash), 256 bits: brightness, contrast, size and compression hardly move it.
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE_PX = 64
FREQUENCIES = 16
NEAR_BITS = 20  # of 256; two children of the Kaggle set differ in 40 or more
PAIRS_MAX = 1000
BLOCK = 512  # rows compared at once: bounds the memory

Hashes = NDArray[np.uint64]


def perceptual_hash(grey: NDArray[np.uint8]) -> Hashes:
    """The hash of a picture, uint8 (rows, columns): uint64 (4,)."""
    small = cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:FREQUENCIES, :FREQUENCIES].ravel()
    return np.packbits(low > np.median(low)).view(np.uint64)


def near_pairs(hashes: Sequence[Hashes], bits: int = NEAR_BITS) -> list[tuple[int, int, int]]:
    """Pairs (first, second, differing bits) with at most `bits` of them, the nearest first.

    Every pair is compared, 5000 pictures in a second; at most PAIRS_MAX are returned.
    """
    found = sorted(_pairs(np.stack(hashes), bits), key=lambda pair: pair[2]) if len(hashes) else []
    return found[:PAIRS_MAX]


def _pairs(hashes: Hashes, bits: int) -> Iterator[tuple[int, int, int]]:
    for start in range(0, len(hashes), BLOCK):
        block, rest = hashes[start : start + BLOCK], hashes[start:]
        distance = np.zeros((len(block), len(rest)), np.uint16)
        for word in range(hashes.shape[1]):
            distance += np.bitwise_count(block[:, None, word] ^ rest[None, :, word])
        rows, columns = np.nonzero(distance <= bits)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if column > row:
                yield start + row, start + column, int(distance[row, column])
