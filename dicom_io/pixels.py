"""Decode pixel data to stored values, with the fastest exact decoder first.

Whatever the header claims is held against limits and against the length of the pixel data before
anything is allocated. Each failure is a DicomError with a short reason.
"""

from copy import copy
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut

from dicom_io import codestream, isolated
from dicom_io import contexts as ts
from dicom_io.errors import NoPixels, UnreadableDicom, UnsupportedPixels
from dicom_io.read import integer_value, text_value, transfer_syntax_uid

PIXELS_MAX = 100_000_000  # a 43 x 43 cm detector at 0.1 mm has 18 million
BYTES_PER_PIXEL_MAX = 2

_NATIVE = (*ts.UNCOMPRESSED, ts.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
# pydicom's plugin names in the order tried: exact ones only, by speed. GDCM stands only where
# there is no other: it may fill in a broken stream, and ends its process on some (`isolated`).
DECODERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_NATIVE, ("",)),
    ts.JPEG_BASELINE: ("pillow",),
    ts.JPEG_EXTENDED: ("pillow", "gdcm12"),
    ts.JPEG_LOSSLESS: ("gdcm",),
    ts.JPEG_LOSSLESS_SV1: ("gdcm",),
    ts.JPEG_LS_LOSSLESS: ("pyjpegls",),
    ts.JPEG_LS_NEAR_LOSSLESS: ("pyjpegls",),
    ts.JPEG_2000_LOSSLESS: ("pillow", "pylibjpeg"),
    ts.JPEG_2000: ("pillow", "pylibjpeg"),
    ts.HTJ2K_LOSSLESS: ("pylibjpeg",),
    ts.HTJ2K_LOSSLESS_RPCL: ("pylibjpeg",),
    ts.HTJ2K: ("pylibjpeg",),
    ts.RLE_LOSSLESS: ("pylibjpeg", "pydicom"),
}
_GREYS = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PALETTE = "PALETTE COLOR"
_COLOUR_SAMPLES = 3
_LOSSY_JPEG = (ts.JPEG_BASELINE, ts.JPEG_EXTENDED)
_RUST_PANIC = "PanicException"  # pyo3's, of pylibjpeg-rle: no Exception, and has no other name
_BYTE_BITS, _WORD_BITS = 8, 16


def is_colour(ds: Dataset) -> bool:
    """Say whether the pixels are colours, which carry no modality or VOI LUT.

    Raises UnsupportedPixels for what is neither grey nor one of the colours that are understood
    (PS3.3 C.7.6.3.1.2; of the retired ones, HSV, ARGB and CMYK would pass for RGB).
    """
    photometric = text_value(ds, "PhotometricInterpretation", 16)
    if photometric in _GREYS:
        return False
    if photometric in (*_COLOURS, _PALETTE):
        return True
    raise UnsupportedPixels("unknown photometric interpretation")


def stored_values(ds: Dataset) -> NDArray[Any]:
    """Decode a single-frame grey image to its stored values.

    Returns (rows, columns) of uint8, int8, uint16 or int16: Bits Stored wide, with whatever the
    unused bits held (overlays, rubbish) removed and the sign extended (PS3.5 8.1.1).
    Raises NoPixels, UnsupportedPixels, UnreadableDicom.
    """
    rows, columns = _checked_size(ds)
    allocated, stored = _checked_bits(ds)
    if (integer_value(ds, "SamplesPerPixel") or 1) != 1:
        raise UnsupportedPixels("several samples per pixel in a grey image")
    if transfer_syntax_uid(ds) in _LOSSY_JPEG and integer_value(ds, "PixelRepresentation") == 1:
        # PS3.5 8.2.1 knows none: what decodes may be off by half the range.
        raise UnsupportedPixels("signed pixels in lossy JPEG")
    shift = _high_bit(ds, stored) + 1 - stored
    values = _decode(ds, raw=True, correct_unused_bits=shift == 0)
    if values.shape != (rows, columns):
        raise UnreadableDicom("pixel data does not match Rows and Columns")
    if shift:
        # Left until the sign stands on top, then right until the lowest stored bit is bit 0.
        values = np.left_shift(values, allocated - stored - shift)
        values = np.right_shift(values, allocated - stored)
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))


def colour_to_grey(ds: Dataset) -> NDArray[np.uint8]:
    """Decode a single-frame RGB, YBR or palette image to its luminance (ITU-R BT.601).

    Returns uint8, (rows, columns). Raises NoPixels, UnsupportedPixels, UnreadableDicom.
    """
    rows, columns = _checked_size(ds)
    _, bits = _checked_bits(ds)
    photometric = text_value(ds, "PhotometricInterpretation", 16) or ""
    is_palette = photometric == _PALETTE
    if (integer_value(ds, "SamplesPerPixel") or 1) != (1 if is_palette else _COLOUR_SAMPLES):
        raise UnsupportedPixels("samples per pixel do not fit the photometric interpretation")
    if bits > _BYTE_BITS and photometric.startswith("YBR"):
        raise UnsupportedPixels(f"YBR colours of {bits} bits")
    try:
        colours = _decode(ds)
        if is_palette:
            colours, bits = _through_palette(colours, ds)
    except (UnreadableDicom, UnsupportedPixels, NoPixels):
        raise
    except Exception as error:  # a palette can be wrong in as many ways as the parser has errors
        raise UnreadableDicom(f"colours cannot be decoded ({type(error).__name__})") from None
    if colours.shape != (rows, columns, _COLOUR_SAMPLES):
        raise UnreadableDicom("pixel data does not match Rows and Columns")
    grey = cv2.cvtColor(np.ascontiguousarray(colours), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.convertScaleAbs(grey, alpha=255 / ((1 << bits) - 1)), dtype=np.uint8)


def _through_palette(index: NDArray[Any], ds: Dataset) -> tuple[NDArray[Any], int]:
    """Look up the three tables of PS3.3 C.7.6.3.1.5: values (rows, columns, 3), bits.

    pydicom's function takes what lies beyond entry 255 of an 8-bit table for something else, and
    knows no big endian; segmented tables, which it expands, are left to it.
    """
    if "RedPaletteColorLookupTableData" not in ds:
        colours = apply_color_lut(index, ds)
        return colours, 8 * colours.itemsize
    order = "<" if ds.original_encoding[1] is not False else ">"
    tables, highest = [], 0
    for colour in ("Red", "Green", "Blue"):
        count, first, stated = ds[f"{colour}PaletteColorLookupTableDescriptor"].value
        data = bytes(ds[f"{colour}PaletteColorLookupTableData"].value)
        count = count % (1 << _WORD_BITS) or 1 << _WORD_BITS  # 0 is 65536
        entries = np.frombuffer(data, "u1" if len(data) < 2 * count else f"{order}u2")[:count]
        at = np.clip(index.astype(np.int32) - first, 0, len(entries) - 1)
        tables.append(entries[at].astype(np.uint16))
        highest = max(highest, int(entries.max()))
    needed = highest.bit_length()  # 16 bits are stated of 8-bit entries as well
    bits = _BYTE_BITS if needed <= _BYTE_BITS else max(needed, int(stated))
    return np.stack(tables, axis=-1), bits


def _checked_size(ds: Dataset) -> tuple[int, int]:
    if (integer_value(ds, "NumberOfFrames") or 1) > 1:
        raise UnsupportedPixels("multi-frame")
    if "PixelData" not in ds:
        if "FloatPixelData" in ds or "DoubleFloatPixelData" in ds:
            raise UnsupportedPixels("floating point pixel data")
        raise NoPixels("no pixel data")
    if not _pixel_data(ds):
        raise NoPixels("empty pixel data")
    rows, columns = integer_value(ds, "Rows") or 0, integer_value(ds, "Columns") or 0
    if rows <= 0 or columns <= 0:
        raise UnreadableDicom("Rows or Columns missing")
    if rows * columns > PIXELS_MAX:
        raise UnsupportedPixels(f"too large ({columns}x{rows})")
    return rows, columns


def _checked_bits(ds: Dataset) -> tuple[int, int]:
    allocated = integer_value(ds, "BitsAllocated") or 0
    if allocated not in (_BYTE_BITS, _WORD_BITS):
        raise UnsupportedPixels(f"{allocated} bits allocated")
    stored = integer_value(ds, "BitsStored") or allocated
    if not 1 <= stored <= allocated:
        raise UnreadableDicom(f"{stored} bits stored in {allocated}")
    return allocated, stored


def _high_bit(ds: Dataset, stored: int) -> int:
    """Return High Bit where native data may really use another than Bits Stored - 1 (retired)."""
    high = integer_value(ds, "HighBit")
    allocated = integer_value(ds, "BitsAllocated") or 0
    native = transfer_syntax_uid(ds) in _NATIVE
    return high if native and high is not None and stored <= high < allocated else stored - 1


def _pixel_data(ds: Dataset) -> bytes:
    try:
        return bytes(ds.PixelData or b"")
    except Exception as error:  # pydicom converts lazily: a corrupt element raises anything
        raise UnreadableDicom(f"corrupt pixel data ({type(error).__name__})") from None


def _decode(ds: Dataset, **options: Any) -> NDArray[Any]:
    """Try this transfer syntax's decoders in order. Raises UnsupportedPixels, UnreadableDicom."""
    syntax = transfer_syntax_uid(ds)
    if syntax not in DECODERS:
        raise UnsupportedPixels(f"transfer syntax {syntax}")
    _check_length(ds, syntax)
    if "NumberOfFrames" in ds and not integer_value(ds, "NumberOfFrames"):
        ds = copy(ds)
        del ds.NumberOfFrames  # empty: pydicom takes it for a number
    decoder = get_decoder(syntax)
    error: BaseException | None = None
    for plugin in DECODERS[syntax]:
        try:
            if plugin and plugin not in (*decoder.available_plugins, "gdcm12"):
                continue
            return _decoded_by(plugin, ds, options)
        except BaseException as failure:  # decoders in C and Rust raise whatever they like
            if not isinstance(failure, Exception) and type(failure).__name__ != _RUST_PANIC:
                raise
            error = failure
    if error is None:
        raise UnsupportedPixels(f"no decoder installed for transfer syntax {syntax}")
    raise UnreadableDicom(f"pixel data cannot be decoded ({type(error).__name__})") from None


def _decoded_by(plugin: str, ds: Dataset, options: dict[str, Any]) -> NDArray[Any]:
    if plugin == "gdcm12":
        return isolated.decode(partial(_gdcm_extended, ds))

    def decode() -> NDArray[Any]:
        decoder = get_decoder(transfer_syntax_uid(ds))
        values, _ = decoder.as_array(ds, index=0, decoding_plugin=plugin, **options)
        return values

    return isolated.decode(decode) if plugin == "gdcm" else decode()


def _check_length(ds: Dataset, syntax: str) -> None:
    rows, columns = integer_value(ds, "Rows") or 0, integer_value(ds, "Columns") or 0
    data = _pixel_data(ds)
    if syntax in _NATIVE:
        samples = integer_value(ds, "SamplesPerPixel") or 1
        subsampled = text_value(ds, "PhotometricInterpretation", 16) == "YBR_FULL_422"
        bits = rows * columns * samples * (integer_value(ds, "BitsAllocated") or 0)
        if len(data) * 8 < (bits * 2 // 3 if subsampled else bits):
            raise UnreadableDicom("truncated pixel data")
        return
    frame = _encoded_frame(data)
    if codestream.is_cut_jpeg(frame):
        raise UnreadableDicom("truncated pixel data")
    claimed = codestream.size_of(frame)
    if syntax != ts.RLE_LOSSLESS and claimed != (rows, columns):
        raise UnreadableDicom("pixel data does not match Rows and Columns")


def _encoded_frame(data: bytes) -> bytes:
    try:
        return get_frame(data, 0, number_of_frames=1)
    except Exception as error:  # fragments and offsets are the file's word
        raise UnreadableDicom(f"corrupt pixel data ({type(error).__name__})") from None


def _gdcm_extended(ds: Dataset) -> NDArray[np.uint16]:
    """Decode 12-bit JPEG Extended, grey, with GDCM; pydicom's own plugin declines it.

    The tests hold it against DCMTK's dcmdjpeg.
    """
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(_encoded_frame(_pixel_data(ds)))
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((ds.Columns, ds.Rows, 1))
    image.SetDataElement(element)
    monochrome = gdcm.PhotometricInterpretation.MONOCHROME2
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(monochrome))
    syntax = gdcm.TransferSyntax.GetTSType(ts.JPEG_EXTENDED)
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    decoded = image.GetBuffer().encode("utf-8", "surrogateescape")  # GDCM gives char* as str
    return np.frombuffer(decoded, "<u2").reshape(ds.Rows, ds.Columns)
