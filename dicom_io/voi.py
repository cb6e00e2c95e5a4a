"""From stored values to display-ready grey: modality LUT, VOI LUT, padding, polarity.

Everything here depends on one pixel's stored value alone, so it is worked out once for each of
the 256 or 65536 values there can be, in float64, and applied as a table.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicom_io.read import integer_value, raw_value, text_value

Floats = NDArray[np.float64]

PERCENTILES = (0.5, 99.5)  # of the pixels that are not padding, where no window is given
_LUT_ENTRIES_MAX = 65536


@dataclass(frozen=True, kw_only=True)
class Window:
    """A window of PS3.3 C.11.2.1.2 and the function that it belongs to."""

    center: float
    width: float
    function: str = "LINEAR"


def to_grey(stored: NDArray[Any], ds: Dataset) -> NDArray[np.uint8]:
    """Develop stored values as their header says.

    stored: uint8, int8, uint16 or int16, (rows, columns). Returns uint8 of the same shape,
    bone bright: MONOCHROME1 is inverted after the VOI LUT (PS3.3 C.7.6.3.1.2), and Presentation
    LUT Shape INVERSE, which DX images carry along with it, inverts no second time (C.8.11.3).
    Padding becomes black.
    """
    unsigned = stored.view(np.dtype(f"u{stored.itemsize}"))
    domain = np.arange(1 << 8 * stored.itemsize, dtype=unsigned.dtype).view(stored.dtype)
    padding = _padding(domain, ds)
    with np.errstate(over="ignore", invalid="ignore"):  # a rescale slope of 1e308 is possible
        shades = np.nan_to_num(_shades(domain, padding, unsigned, ds))
    if is_inverted(ds):
        shades = 1 - shades
    shades[padding] = 0
    table = np.floor(shades * 255 + 0.5).astype(np.uint8)
    return np.asarray(cv2.LUT(unsigned, table), np.uint8)


def is_inverted(ds: Dataset) -> bool:
    """Say whether the lowest value is to be shown white."""
    photometric = text_value(ds, "PhotometricInterpretation", 16)
    return photometric == "MONOCHROME1" or text_value(ds, "PresentationLUTShape", 16) == "INVERSE"


def modality_values(values: NDArray[Any], ds: Dataset) -> Floats:
    """Apply the modality LUT: a sequence or a rescale (PS3.3 C.11.1). float64, same shape."""
    lut = _first_lut(ds, "ModalityLUTSequence", values, values)
    if lut is not None:
        return lut.apply(values.astype(np.float64))
    slope, intercept = _number(ds, "RescaleSlope"), _number(ds, "RescaleIntercept")
    slope = 1.0 if slope is None or slope == 0 else slope
    return values.astype(np.float64) * slope + (intercept or 0.0)


def window_of(ds: Dataset) -> Window | None:
    """Return the first window (several are alternatives), or None when none is usable."""
    center, width = _number(ds, "WindowCenter"), _number(ds, "WindowWidth")
    function = (text_value(ds, "VOILUTFunction", 16) or "LINEAR").upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        function = "LINEAR"
    if center is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return Window(center=center, width=width, function=function)


def windows(ds: Dataset) -> int:
    """Count the windows that a header offers."""
    centers = raw_value(ds, "WindowCenter")
    return len(centers) if isinstance(centers, MultiValue | list) else int(centers is not None)


def apply_window(values: Floats, window: Window) -> Floats:
    """Map values to [0, 1] (PS3.3 C.11.2.1.2.1 to C.11.2.1.3.2). float64, same shape."""
    center, width = window.center, window.width
    if window.function == "SIGMOID":
        exponent = np.clip(-4 * (values - center) / width, -700, 700)
        return np.asarray(1 / (1 + np.exp(exponent)), np.float64)
    if window.function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:  # LINEAR of width 1 is a threshold
        return (values > center).astype(np.float64)
    return np.asarray(np.clip((values - center) / width + 0.5, 0, 1), np.float64)


@dataclass(frozen=True, kw_only=True)
class _Lut:
    """A lookup table of PS3.3 C.11.1.1 or C.11.2.1.1."""

    entries: Floats
    first_mapped: int
    maximum: float

    def apply(self, values: Floats) -> Floats:
        indices = np.clip(np.rint(values) - self.first_mapped, 0, len(self.entries) - 1)
        return np.asarray(self.entries[indices.astype(np.intp)], np.float64)


def _shades(
    domain: NDArray[Any], padding: NDArray[np.bool_], unsigned: NDArray[Any], ds: Dataset
) -> Floats:
    """Return the shade in [0, 1] of every possible stored value, before inversion."""
    values = modality_values(domain, ds)
    lut = _first_lut(ds, "VOILUTSequence", domain, values)
    if lut is not None:
        return np.asarray(lut.apply(values) / lut.maximum, np.float64)
    window = window_of(ds)
    if window is not None:
        return apply_window(values, window)
    low, high = _robust_range(values, padding, unsigned)
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)


def _robust_range(
    values: Floats, padding: NDArray[np.bool_], unsigned: NDArray[Any]
) -> tuple[float, float]:
    """Return the modality values between which nearly all pixels lie that are not padding."""
    counts = np.bincount(unsigned.ravel(), minlength=len(values))
    counts[padding] = 0
    present = np.flatnonzero(counts)
    if present.size == 0:
        return 0.0, 0.0
    order = present[np.argsort(values[present], kind="stable")]
    cumulated = np.cumsum(counts[order])
    low, high = (
        values[order[np.searchsorted(cumulated, cumulated[-1] * percentile / 100)]]
        for percentile in PERCENTILES
    )
    if low == high:  # a few pixels on an even ground: take all there is
        low, high = values[order[0]], values[order[-1]]
    return float(low), float(high)


def _padding(domain: NDArray[Any], ds: Dataset) -> NDArray[np.bool_]:
    """Return which stored values are padding (PS3.3 C.7.5.1.1.2)."""
    value = integer_value(ds, "PixelPaddingValue")
    if value is None:
        return np.zeros(domain.shape, np.bool_)
    limit = integer_value(ds, "PixelPaddingRangeLimit")
    low, high = sorted(_wrapped(v, domain) for v in (value, value if limit is None else limit))
    return (domain.astype(np.int64) >= low) & (domain.astype(np.int64) <= high)


def _wrapped(value: int, domain: NDArray[Any]) -> int:
    """Take a value that was written in the other sign (-2000 as 63536, 65535 as -1) as meant."""
    if value > domain.max():
        return value - domain.size
    return value + domain.size if value < domain.min() else value


def _number(ds: Dataset, keyword: str) -> float | None:
    """Return a decimal element's first value when it is finite."""
    value = raw_value(ds, keyword)
    if isinstance(value, MultiValue | list):
        value = value[0] if value else None
    try:
        number = float(value) if value is not None else math.nan
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _first_lut(
    ds: Dataset, keyword: str, stored: NDArray[Any], inputs: NDArray[Any]
) -> _Lut | None:
    """Return the first table of a LUT sequence, or None when there is none that can be used.

    stored: every stored value. inputs: what the table is asked for at each of them.
    """
    items = raw_value(ds, keyword)
    if not items:
        return None
    try:
        item = items[0]
        count, first_mapped, bits = (int(value) for value in item.LUTDescriptor)
        count = count % _LUT_ENTRIES_MAX or _LUT_ENTRIES_MAX  # unsigned, and 0 is 65536
        entries = _lut_entries(item, count, bits, ds.original_encoding[1] is not False)
    except Exception:  # a table that cannot be read is none: the window, then percentiles, follow
        return None
    if entries.size == 0:
        return None
    # Some writers say 16 bits of 10- or 12-bit entries, which would come out nearly black; others
    # say too few. Where the highest entry needs fewer by two or more, it is that which counts.
    needed = int(entries.max()).bit_length()
    maximum = float((1 << (needed if needed > bits or needed <= bits - 2 else bits)) - 1)
    first_mapped = _first_mapped(
        first_mapped, entries.size, inputs[_within_bits_stored(stored, ds)]
    )
    return _Lut(entries=entries, first_mapped=first_mapped, maximum=maximum or 1.0)


def _within_bits_stored(stored: NDArray[Any], ds: Dataset) -> NDArray[np.bool_]:
    """Say which values Bits Stored has room for; 0 is always one of them."""
    signed = stored.dtype.kind == "i"
    bits = integer_value(ds, "BitsStored") or 8 * stored.itemsize
    limit = 1 << max(bits - signed, 0)
    wide = stored.astype(np.int64)
    return np.asarray((wide < limit) & (wide >= (-limit if signed else 0)))


def _first_mapped(written: int, count: int, inputs: NDArray[Any]) -> int:
    """Undo a first value mapped that was written with the other sign (US for SS, or SS for US).

    Its VR follows Pixel Representation (PS3.3 C.11.1.1.1), but a rescale changes the sign of a
    VOI LUT's inputs, and writers and Implicit VR leave it to a guess. Of the two values that 16
    bits can mean, the one counts whose table meets more of the inputs; as written where equal.
    """
    low, high = float(inputs.min()), float(inputs.max())

    def met(first: int) -> float:
        return max(0.0, min(high, first + count - 1) - max(low, first) + 1)

    other = written - 65536 if written > 32767 else written + 65536 if written < 0 else written  # noqa: PLR2004
    return other if met(other) > met(written) else written


def _lut_entries(item: Dataset, count: int, bits: int, little_endian: bool) -> Floats:
    data = item.LUTData
    if isinstance(data, bytes):
        kind = "u1" if len(data) < 2 * count else "<u2" if little_endian else ">u2"
        return np.frombuffer(data, kind, min(count, len(data) // np.dtype(kind).itemsize)).astype(
            np.float64
        )
    values = np.atleast_1d(np.asarray(data, np.float64))
    if 2 * values.size == count and bits <= 8:  # noqa: PLR2004  # two 8-bit entries a word
        values = values.astype("<u2").view(np.uint8).astype(np.float64)
    return values[:count]
