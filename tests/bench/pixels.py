"""From stored values to the model's picture on one thread, beside the order a textbook gives."""

import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from dicom_io import preprocess, voi
from tests.bench.harness import Failed, Plan, Row, compare
from tests.support import dicom

UNIT = "ms"
ROWS, COLUMNS = 2500, 2048
LEVELS_APART_MAX = 2.0  # mean over the picture, of 255: CLAHE amplifies a rounding

Stored = NDArray[np.uint16]
Picture = NDArray[np.uint8]
Make = Callable[[Stored, Dataset], Picture]


def run(plan: Plan) -> list[Row]:
    stored = cv2.resize(dicom.chest_pixels(1024), (COLUMNS, ROWS)).astype(np.uint16) * 16
    ds = dicom.chest(
        pixels=stored,
        BitsStored=16,
        HighBit=15,
        RescaleSlope="1",
        RescaleIntercept="-1000",
        WindowCenter=32000,
        WindowWidth=50000,
    )
    apart = float(np.mean(cv2.absdiff(ours(stored, ds), naive(stored, ds))))
    if apart > LEVELS_APART_MAX:
        raise Failed(f"pixels: the two pictures are {apart:.1f} levels apart")
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return compare(
            f"pixels {ROWS}x{COLUMNS}",
            UNIT,
            partial(_time_ms, ours, stored, ds, 2 if plan.quick else 20),
            {"pydicom": partial(_time_ms, naive, stored, ds, 1 if plan.quick else 3)},
            plan,
        )
    finally:
        cv2.setNumThreads(threads)


def ours(stored: Stored, ds: Dataset) -> Picture:
    return preprocess.from_grey(voi.to_grey(stored, ds))


def naive(stored: Stored, ds: Dataset) -> Picture:
    """pydicom's functions over every pixel in float64, then the same resize and CLAHE."""
    values = apply_modality_lut(stored, ds).astype(np.float64)
    shown = apply_voi_lut(values, ds).astype(np.float64)
    ends = apply_modality_lut(np.array([0, (1 << ds.BitsStored) - 1]), ds)
    shades = np.clip((shown - ends[0]) / (ends[1] - ends[0]), 0, 1)
    return preprocess.from_grey(np.floor(shades * 255 + 0.5).astype(np.uint8))


def _time_ms(make: Make, stored: Stored, ds: Dataset, times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        make(stored, ds)
    return (time.perf_counter() - started) / times * 1000
