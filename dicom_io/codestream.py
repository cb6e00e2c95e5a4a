"""Read the size out of an encoded picture's own header, before a decoder allocates for it."""

import struct

_JPEG_START = b"\xff\xd8"
_J2K_START = b"\xff\x4f\xff\x51"  # SOC, then SIZ (ISO/IEC 15444-1 A.5)
_PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_END = b"\xff\xd9"
# Start of frame markers (ISO/IEC 10918-1 B.1.1.3, 14495-1 C.1.1): all of C0..CF but DHT, JPG, DAC.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_STANDALONE = frozenset(range(0xD0, 0xD8)) | {0x01}
_SCAN = 0xDA
_FILL = 0xFF
_JPEG_PADDING_BYTES = 64  # what may follow the end marker; scans never hold it (FF is stuffed)
_J2K_SEARCH_BYTES = 4096  # a JP2 file's boxes stand before the codestream


def size_of(encoded: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) that a JPEG, JPEG-LS, JPEG 2000 or PNG picture claims, or None."""
    try:
        if encoded.startswith(_PNG_START):
            columns, rows = struct.unpack_from(">II", encoded, 16)
            return rows, columns
        if encoded.startswith(_JPEG_START):
            return _jpeg_size(encoded)
        start = encoded.find(_J2K_START, 0, _J2K_SEARCH_BYTES)
        return _j2k_size(encoded, start) if start >= 0 else None
    except (struct.error, IndexError):
        return None


def is_cut_jpeg(encoded: bytes) -> bool:
    """Say whether a JPEG or JPEG-LS picture lacks its end marker: decoders would fill in grey."""
    return encoded.startswith(_JPEG_START) and _JPEG_END not in encoded[-_JPEG_PADDING_BYTES:]


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    at = len(_JPEG_START)
    while encoded[at] == _FILL:
        marker = encoded[at + 1]
        if marker in _JPEG_FRAMES:
            rows, columns = struct.unpack_from(">HH", encoded, at + 5)
            return rows, columns
        if marker == _SCAN:
            return None
        if marker == _FILL:
            at += 1
        elif marker in _STANDALONE:
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", encoded, at + 2)[0]
    return None


def _j2k_size(encoded: bytes, start: int) -> tuple[int, int]:
    """Image size is the reference grid less its offset."""
    x, y, x_offset, y_offset = struct.unpack_from(">IIII", encoded, start + 8)
    return y - y_offset, x - x_offset
