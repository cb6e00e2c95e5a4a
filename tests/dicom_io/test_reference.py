"""Whole files against a float64 reference that is written from the standard and decodes nothing.

The reference starts from the values that were meant, not from the file: it takes no part in
unpacking bits, in bytes' order, or in compression.
"""

from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from dicom_io import contexts as ts
from dicom_io.preprocess import grey_of
from dicom_io.read import read_dataset

SYNTAXES = [
    ts.EXPLICIT_VR_LITTLE_ENDIAN, ts.IMPLICIT_VR_LITTLE_ENDIAN, ts.EXPLICIT_VR_BIG_ENDIAN,
    ts.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, ts.RLE_LOSSLESS, ts.JPEG_LS_LOSSLESS,
    ts.JPEG_2000_LOSSLESS,
]  # fmt: skip
COMPRESSED = SYNTAXES[4:]
SHAPE = (40, 32)


@dataclass
class Case:
    """meant: int64 stored values. header: elements. rubbish: in the bits above Bits Stored."""

    meant: np.ndarray
    bits: int
    signed: bool
    syntax: str
    rubbish: bool
    header: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Case({self.bits=}, {self.signed=}, {self.syntax=}, {self.rubbish=}, {self.header})"


def table(draw: Any, rng: np.random.Generator, low: int, high: int) -> Dataset:
    """A rising table over a part of its inputs; its first value mapped written in either sign.

    As it is meant where another sign would mean inputs that there are as well.
    """
    bits = draw(st.sampled_from([8, 10, 12, 16]))
    count = min(high - low + 1, 65536, draw(st.sampled_from([256, 1000, 4096, 30000])))
    first = draw(st.integers(max(low, -32768), max(low, -32768) + 100))
    entries = np.sort(rng.integers(0, 2**bits, count))
    entries[-1] = 2**bits - 1
    item = Dataset()
    signed = first < 0 and (first + 65536 <= high or draw(st.booleans()))
    descriptor = [count, first if signed else first % 65536, bits]
    item.add_new("LUTDescriptor", "SS" if signed else "US", descriptor)
    item.add_new("LUTData", "US", entries.tolist())
    item.first, item.entries, item.bits = first, entries, bits
    return item


@st.composite
def cases(draw: Any) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits, signed = draw(st.integers(8, 16)), draw(st.booleans())
    syntax = draw(st.sampled_from(SYNTAXES))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    case = Case(
        meant=rng.integers(low, high, SHAPE, endpoint=True), bits=bits, signed=signed,
        syntax=syntax, rubbish=syntax not in COMPRESSED and draw(st.booleans()),
    )  # fmt: skip
    header, top = case.header, high
    header["PhotometricInterpretation"] = draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]))
    shape = draw(st.sampled_from([None, "IDENTITY", "INVERSE"]))
    if shape:
        header["PresentationLUTShape"] = shape
    modality = draw(st.sampled_from(["none", "rescale", "sequence"]))
    if modality == "rescale":
        slope, intercept = draw(st.sampled_from([("1", "-1024"), ("0.5", "100.5"), ("2.25", "0")]))
        header["RescaleSlope"], header["RescaleIntercept"] = slope, intercept
        low, high = (int(v * float(slope) + float(intercept)) for v in (low, high))
    elif modality == "sequence":
        item = table(draw, rng, low, high)
        header["ModalityLUTSequence"] = [item]
        low, high = 0, 2**item.bits - 1
    voi = draw(st.sampled_from(["sequence", "window", "windows", "none"]))
    if voi == "sequence":
        header["VOILUTSequence"] = [table(draw, rng, low, high)]
    elif voi != "none":
        header["WindowCenter"] = [draw(st.integers(low, high)), 5][: 1 + (voi == "windows")]
        header["WindowWidth"] = [draw(st.integers(2, high - low + 2)), 9][: 1 + (voi == "windows")]
        header["VOILUTFunction"] = draw(st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]))
    if draw(st.booleans()):
        value = int(case.meant[0, 0])
        header["PixelPaddingValue"] = value
        if draw(st.booleans()):
            header["PixelPaddingRangeLimit"] = min(value + 50, top)
    return case


def looked_up(values: np.ndarray, item: Dataset) -> np.ndarray:
    index = np.clip(np.rint(values) - item.first, 0, len(item.entries) - 1).astype(int)
    return np.asarray(item.entries, np.float64)[index]


def reference(case: Case) -> np.ndarray:
    """PS3.3 C.11.1, C.11.2, C.7.6.3.1.2 and C.7.5.1.1.2, pixel by pixel: 0 to 255, float64."""
    header = case.header
    values = case.meant.astype(np.float64)
    padding = np.zeros(values.shape, bool)
    if "PixelPaddingValue" in header:
        start = header["PixelPaddingValue"]
        end = header.get("PixelPaddingRangeLimit", start)
        padding = (values >= start) & (values <= end)
    if "ModalityLUTSequence" in header:
        values = looked_up(values, header["ModalityLUTSequence"][0])
    elif "RescaleSlope" in header:
        values = values * float(header["RescaleSlope"]) + float(header["RescaleIntercept"])
    shades = shown(values, padding, header)
    inverse = header.get("PresentationLUTShape") == "INVERSE"
    if inverse or header["PhotometricInterpretation"] == "MONOCHROME1":
        shades = 1 - shades
    return np.where(padding, 0, shades * 255)


def shown(values: np.ndarray, padding: np.ndarray, header: dict[str, Any]) -> np.ndarray:
    if "VOILUTSequence" in header:
        item = header["VOILUTSequence"][0]
        return looked_up(values, item) / (2**item.bits - 1)
    if "WindowCenter" not in header:
        seen = values[~padding]
        low, high = np.percentile(seen, [0.5, 99.5], method="inverted_cdf")
        if low == high:  # a few pixels on an even ground
            low, high = seen.min(), seen.max()
        return np.clip((values - low) / ((high - low) or 1), 0, 1)
    c, w = float(header["WindowCenter"][0]), float(header["WindowWidth"][0])
    if header["VOILUTFunction"] == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - c) / w, -700, 700)))
    if header["VOILUTFunction"] == "LINEAR":
        c, w = c - 0.5, w - 1
    return np.clip((values - c) / w + 0.5, 0, 1)


@settings(max_examples=200, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(case=cases(), seed=st.integers(0, 2**16))
def test_a_file_is_developed_within_one_grey_level(make_image, compress, tmp_path, case, seed):
    size = 1 if case.bits == 8 else 2
    stored = case.meant.astype(f"{'i' if case.signed else 'u'}{size}")
    if case.rubbish and case.bits < 8 * size:
        noise = np.random.default_rng(seed).integers(0, 2**16, SHAPE) << case.bits
        word = (case.meant & (2**case.bits - 1)) | (noise & 0xFFFF)
        stored = word.astype(np.uint16).view(stored.dtype)
    big = case.syntax == ts.EXPLICIT_VR_BIG_ENDIAN
    header = {"BitsStored": case.bits, **case.header}
    ds = make_image(stored.astype(stored.dtype.newbyteorder(">")) if big else stored, **header)
    if case.syntax in COMPRESSED:
        compress(ds, case.syntax)
    ds.file_meta.TransferSyntaxUID = case.syntax
    path = tmp_path / "x.dcm"
    dcmwrite(path, ds, implicit_vr=case.syntax == ts.IMPLICIT_VR_LITTLE_ENDIAN,
             little_endian=not big, force_encoding=True)  # fmt: skip
    expected = reference(case)
    if np.ptp(expected) < 2:
        return  # refused as constant, or nearly so
    assert np.abs(grey_of(read_dataset(path)) - expected).max() <= 1


@dataclass
class Colours:
    """data: as stored. rgb: what it means, 0 to 255, float64."""

    data: np.ndarray = field(repr=False)
    rgb: np.ndarray = field(repr=False)
    header: dict[str, Any] = field(repr=False)


def rgb_colours(draw: Any, rng: np.random.Generator) -> Colours:
    bits, planar = draw(st.sampled_from([8, 10, 12, 16])), draw(st.integers(0, 1))
    data = rng.integers(0, 2**bits, (*SHAPE, 3)).astype(np.uint8 if bits == 8 else np.uint16)
    header = {"PlanarConfiguration": planar, "SamplesPerPixel": 3, "BitsStored": bits}
    rgb = data * (255 / (2**bits - 1))
    return Colours(data.transpose(2, 0, 1) if planar else data, rgb, header)


def ybr_colours(draw: Any, rng: np.random.Generator) -> Colours:
    """4:4:4, or 4:2:2 stored as Y1 Y2 Cb Cr (PS3.3 C.7.6.3.1.2)."""
    halved, planar = draw(st.booleans()), draw(st.integers(0, 1))
    ybr = rng.integers(60, 200, (*SHAPE, 3)).astype(np.uint8)
    ybr[..., 1:] = rng.integers(110, 146, (*SHAPE, 2))
    header = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL"}
    if halved:
        ybr[:, 1::2, 1:] = ybr[:, ::2, 1:]
        data = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], -1)
        header |= {"PhotometricInterpretation": "YBR_FULL_422", "PlanarConfiguration": 0}
    else:
        data = ybr.transpose(2, 0, 1) if planar else ybr
        header["PlanarConfiguration"] = planar
    y, cb, cr = (ybr[..., i].astype(np.float64) - 128 * (i > 0) for i in range(3))
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    return Colours(data, rgb, header)


def palette_colours(draw: Any, rng: np.random.Generator) -> Colours:
    """Tables of 8 or 16 bits, which may begin at another value than 0."""
    bits, wide = draw(st.sampled_from([8, 16])), draw(st.booleans())
    first, count = (draw(st.integers(0, 500)), 2000) if wide else (0, 256)
    index = rng.integers(first, first + count, SHAPE).astype(np.uint16 if wide else np.uint8)
    tables = rng.integers(0, 2**bits, (count, 3))
    header: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for column, colour in enumerate(("Red", "Green", "Blue")):
        entries = tables[:, column].astype("u1" if bits == 8 else "<u2").tobytes()
        header[f"{colour}PaletteColorLookupTableDescriptor"] = [count, first, bits]
        header[f"{colour}PaletteColorLookupTableData"] = entries
    return Colours(index, tables[index.astype(int) - first] * (255 / (2**bits - 1)), header)


@st.composite
def colours(draw: Any) -> Colours:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from([rgb_colours, ybr_colours, palette_colours]))
    return kind(draw, rng)


@settings(max_examples=100, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(case=colours(), implicit=st.booleans())
def test_colours_become_luminance_within_one_grey_level(make_image, tmp_path, case, implicit):
    plane = np.zeros(SHAPE, case.data.dtype)
    header = {"PhotometricInterpretation": "RGB", **case.header}
    ds = make_image(plane, PixelData=np.ascontiguousarray(case.data).tobytes(), **header)
    if implicit:
        ds.file_meta.TransferSyntaxUID = ts.IMPLICIT_VR_LITTLE_ENDIAN
    dcmwrite(tmp_path / "x.dcm", ds)
    expected = case.rgb @ [0.299, 0.587, 0.114]
    # The colours were rounded once before.
    assert np.abs(grey_of(read_dataset(tmp_path / "x.dcm")) - expected).max() <= 1.5


@pytest.mark.parametrize(
    ("photometric", "options"),
    [
        ("YBR_FULL_422", {"format": "JPEG", "quality": 100, "subsampling": 2}),
        ("YBR_FULL", {"format": "JPEG", "quality": 100, "subsampling": 0}),
        ("YBR_RCT", {"format": "JPEG2000", "mct": 1, "no_jp2": True}),
        ("YBR_ICT", {"format": "JPEG2000", "mct": 1, "no_jp2": True, "irreversible": True}),
        ("RGB", {"format": "JPEG2000", "mct": 0, "no_jp2": True}),
    ],
    ids=str,
)
def test_compressed_colours_become_luminance(make_image, photometric, options):
    """Whose colour transform the codec undoes, and whose pydicom does: once in either case."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    rgb = np.stack([y * 3 + 40, x * 4 + 20, 250 - y * 2 - x * 3], -1).astype(np.uint8)
    encoded = BytesIO()
    Image.fromarray(rgb).save(encoded, **options)
    ds = make_image(rgb[..., 0].copy(), PhotometricInterpretation=photometric, SamplesPerPixel=3,
                    PlanarConfiguration=0, PixelData=encapsulate([encoded.getvalue()]))  # fmt: skip
    is_jpeg = options["format"] == "JPEG"
    ds.file_meta.TransferSyntaxUID = ts.JPEG_BASELINE if is_jpeg else ts.JPEG_2000
    assert np.abs(grey_of(ds) - rgb @ [0.299, 0.587, 0.114]).max() <= 2
