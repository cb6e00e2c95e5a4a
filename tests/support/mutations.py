"""Mutated DICOM files: what broken devices, cut connections and bad will may send.

Only the data set is touched, never the file meta information, which the network does not carry:
each file travels under the SOP class, the UID and the transfer syntax that it says.
"""

import functools
import io
import random
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag

from dicom_io import contexts as ts
from dicom_io.scu import SendObject
from tests.dicom_io.conftest import compress
from tests.support import dicom

INSTANCE_UID, STUDY_UID = (f"2.25.{digit}{'0' * 38}" for digit in (1, 2))  # to be replaced
LOSSLESS = (
    ts.EXPLICIT_VR_LITTLE_ENDIAN,
    ts.IMPLICIT_VR_LITTLE_ENDIAN,
    ts.EXPLICIT_VR_BIG_ENDIAN,
    ts.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    ts.RLE_LOSSLESS,
    ts.JPEG_LS_LOSSLESS,
    ts.JPEG_2000_LOSSLESS,
)
_LONG_VRS = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
DCMCJPEG = "/usr/bin/dcmcjpeg"
_BOMB_BYTES = 600 << 20
_SIZE_TAGS = [Tag(keyword) for keyword in ("Rows", "Columns")]
_NUMBERS = (b"1e308", b"-1e308", b"nan", b"inf", b"0", b"-1", b"99999999999999", b"1\\2\\3", b"x")


@dataclass(frozen=True, kw_only=True)
class Element:
    """Where one element's value lies in a data set, and how its length is written."""

    tag: int
    at: int
    length: int
    length_bytes: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """A good file in one transfer syntax: its meta information, its data set, inflated."""

    syntax: str
    head: bytes
    body: bytes
    elements: tuple[Element, ...]

    @property
    def pixels(self) -> Element:
        return self.elements[-1]


@functools.cache
def sources() -> tuple[Source, ...]:
    """One picture in every lossless transfer syntax that can be written here."""
    made = [_source(syntax) for syntax in LOSSLESS]
    if Path(DCMCJPEG).exists():
        made.append(_jpeg_lossless())
    return tuple(made)


@functools.cache
def lossy_source() -> Source:
    """JPEG baseline, 8 bits."""
    pixels = (dicom.chest_pixels() >> 4).astype(np.uint8)
    ds = dicom.chest(pixels=pixels, BitsAllocated=8, BitsStored=8, HighBit=7,
                     WindowCenter=128, WindowWidth=256)  # fmt: skip
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
    ds.PixelData = encapsulate([encoded.tobytes()])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = ts.JPEG_BASELINE
    return _split(ds, ts.JPEG_BASELINE)


def copy_of(source: Source) -> SendObject:
    """The file as it is, under UIDs of its own."""
    return _object(source, source.body)


def mutate(rng: random.Random) -> tuple[str, SendObject]:
    """One mutated file and the kind of its mutation."""
    source = rng.choice((*sources(), lossy_source()))
    kind = rng.choices(tuple(_KINDS), weights=[weight for _, weight in _KINDS.values()])[0]
    change, _ = _KINDS[kind]
    body = bytearray(source.body)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        change(body, source, rng)
    return kind, _object(source, bytes(body))


@functools.cache
def bomb() -> SendObject:
    """A deflated data set of half a megabyte that inflates to 600 MB."""
    source = next(it for it in sources() if it.syntax == ts.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
    element = struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, _BOMB_BYTES)
    deflater = zlib.compressobj(level=1, wbits=-zlib.MAX_WBITS)
    packed = [deflater.compress(element)]
    packed += [deflater.compress(bytes(1 << 20)) for _ in range(_BOMB_BYTES >> 20)]
    packed.append(deflater.flush())
    return SendObject(
        sop_class_uid=dicom.CR,
        sop_instance_uid=INSTANCE_UID,
        transfer_syntax_uid=source.syntax,
        payload=source.head + b"".join(packed),
    )


def _source(syntax: str) -> Source:
    ds = dicom.chest()
    if syntax == ts.EXPLICIT_VR_BIG_ENDIAN:
        ds.PixelData = dicom.chest_pixels().astype(">u2").tobytes()
    if syntax in (*ts.UNCOMPRESSED, ts.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN):
        ds["PixelData"].VR = "OW"
        ds.file_meta.TransferSyntaxUID = syntax
    else:
        compress(ds, syntax)
    return _split(ds, syntax)


def _jpeg_lossless() -> Source:
    with tempfile.TemporaryDirectory() as folder:
        native, encoded = Path(folder) / "native.dcm", Path(folder) / "encoded.dcm"
        dicom.chest().save_as(native, enforce_file_format=True)
        subprocess.run([DCMCJPEG, "+un", native, encoded], check=True)
        ds = dcmread(encoded)
    return _split(ds, ts.JPEG_LOSSLESS_SV1)


def _split(ds: Dataset, syntax: str) -> Source:
    ds.SOPInstanceUID, ds.StudyInstanceUID = INSTANCE_UID, STUDY_UID
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = INSTANCE_UID
    deflated = syntax == ts.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    whole = _written(ds)
    head = whole[: _head_length(whole)]
    if deflated:  # its elements are those of the same data set in Explicit VR
        ds.file_meta.TransferSyntaxUID = ts.EXPLICIT_VR_LITTLE_ENDIAN
        whole = _written(ds)
    start = _head_length(whole)
    return Source(
        syntax=syntax, head=head, body=whole[start:], elements=tuple(_elements(whole, start))
    )


def _written(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def _head_length(whole: bytes) -> int:
    """Preamble, marker, and the group that says its own length in its first element."""
    return 144 + int(struct.unpack_from("<I", whole, 140)[0])


def _elements(whole: bytes, start: int) -> list[Element]:
    ds = dcmread(io.BytesIO(whole))
    raw = [it for it in map(ds.get_item, sorted(ds.keys())) if isinstance(it, RawDataElement)]
    return [
        Element(
            tag=int(it.tag),
            at=it.value_tell - start,
            length=len(it.value or b""),
            length_bytes=4 if it.is_implicit_VR or it.VR in _LONG_VRS else 2,
        )
        for it in raw
    ]


def _object(source: Source, body: bytes) -> SendObject:
    uids = {old: _uid(old) for old in (INSTANCE_UID, STUDY_UID)}
    head = source.head
    for old, new in uids.items():
        head = head.replace(old.encode(), new.encode())
        body = body.replace(old.encode(), new.encode())
    if source.syntax == ts.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = deflater.compress(body) + deflater.flush()
        body += b"\0" * (len(body) % 2)
    return SendObject(
        sop_class_uid=dicom.CR,
        sop_instance_uid=uids[INSTANCE_UID],
        transfer_syntax_uid=source.syntax,
        payload=head + body,
    )


def _uid(old: str) -> str:
    return old[:6] + f"{random.SystemRandom().randrange(10**38):038d}"


def _value(body: bytearray, source: Source, rng: random.Random) -> None:
    """Any element but the pixels gets a hostile number, or random bytes, of the same length."""
    element = rng.choice([it for it in source.elements[:-1] if it.length])
    numbers = rng.choice(_NUMBERS).ljust(element.length)[: element.length]
    new = rng.choice((numbers, rng.randbytes(element.length), b"\xff" * element.length))
    body[element.at : element.at + element.length] = new


def _length(body: bytearray, source: Source, rng: random.Random) -> None:
    element = rng.choice(source.elements)
    limit = 1 << 8 * element.length_bytes
    size = rng.choice((0, 1, limit - 1, limit - 2, limit // 2, rng.randrange(limit)))
    order = "big" if source.syntax == ts.EXPLICIT_VR_BIG_ENDIAN else "little"
    at = element.at - element.length_bytes
    body[at : element.at] = size.to_bytes(element.length_bytes, order)  # type: ignore[arg-type]


def _cut(body: bytearray, _source: Source, rng: random.Random) -> None:
    del body[rng.randrange(1, len(body)) & ~1 :]


def _cut_pixels(body: bytearray, source: Source, rng: random.Random) -> None:
    del body[rng.randrange(min(source.pixels.at, len(body) - 2), len(body)) & ~1 :]


def _flip_pixels(body: bytearray, source: Source, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 8, 64))):
        at = rng.randrange(min(source.pixels.at, len(body) - 1), len(body))
        body[at] ^= 1 << rng.randrange(8)


def _flip_anywhere(body: bytearray, source: Source, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 4, 16))):
        body[rng.randrange(min(source.pixels.at, len(body)))] ^= 1 << rng.randrange(8)


def _size(body: bytearray, source: Source, rng: random.Random) -> None:
    """Rows and Columns, and those of the codestream too, claim up to 4 gigapixels."""
    size = rng.choice((0, 1, 255, 8000, 32768, 65535))
    order = ">" if source.syntax == ts.EXPLICIT_VR_BIG_ENDIAN else "<"
    for element in source.elements:
        if element.tag in _SIZE_TAGS:
            struct.pack_into(f"{order}H", body, element.at, size)
    for marker, form, skip in ((b"\xff\xc0", ">HH", 5), (b"\xff\xf7", ">HH", 5),
                               (b"\xff\x4f\xff\x51", ">II", 8)):  # fmt: skip
        at = body.find(marker, source.pixels.at)
        if at >= 0 and rng.random() < 0.7 and at + skip + 8 <= len(body):
            struct.pack_into(form, body, at + skip, size, size)


Change = Callable[[bytearray, Source, random.Random], None]
_KINDS: dict[str, tuple[Change, int]] = {
    "header value": (_value, 5),
    "length": (_length, 3),
    "cut": (_cut, 1),
    "cut pixels": (_cut_pixels, 2),
    "flipped pixels": (_flip_pixels, 3),
    "flipped header": (_flip_anywhere, 4),
    "size": (_size, 2),
}
