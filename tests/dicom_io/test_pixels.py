import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder

from dicom_io import contexts as ts
from dicom_io.errors import NoPixels, UnreadableDicom, UnsupportedPixels
from dicom_io.pixels import DECODERS, colour_to_grey, is_colour, stored_values
from dicom_io.preprocess import grey_of
from dicom_io.read import read_dataset

LOSSLESS = [ts.RLE_LOSSLESS, ts.JPEG_LS_LOSSLESS, ts.JPEG_2000_LOSSLESS]


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 4096, (48, 64)).astype(np.uint16)


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize(("dtype", "bits"), [("u1", 8), ("u2", 12), ("u2", 16), ("i2", 12)])
def test_every_lossless_transfer_syntax_gives_identical_values(
    make_image, compress, syntax, dtype, bits
):
    low = -(2 ** (bits - 1)) if dtype[0] == "i" else 0
    rng = np.random.default_rng(1)
    pixels = rng.integers(low, low + 2**bits - 1, (48, 64), endpoint=True).astype(dtype)
    ds = make_image(pixels, BitsStored=bits)
    compress(ds, syntax)
    assert ds.file_meta.TransferSyntaxUID == syntax
    values = stored_values(ds)
    assert values.dtype == pixels.dtype
    assert np.array_equal(values, pixels)


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_every_installed_decoder_of_a_syntax_agrees(make_image, compress, noise, syntax):
    ds = make_image(noise, BitsStored=12)
    compress(ds, syntax)
    decoder = get_decoder(syntax)
    for plugin in decoder.available_plugins:
        values, _ = decoder.as_array(ds, raw=True, decoding_plugin=plugin)
        assert np.array_equal(values, noise), plugin


@pytest.mark.parametrize(
    ("implicit", "little", "syntax"),
    [
        (True, True, ts.IMPLICIT_VR_LITTLE_ENDIAN),
        (False, True, ts.EXPLICIT_VR_LITTLE_ENDIAN),
        (False, True, ts.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN),
        (False, False, ts.EXPLICIT_VR_BIG_ENDIAN),
    ],
)
def test_native_transfer_syntaxes_read_from_a_file(
    make_image, noise, tmp_path, implicit, little, syntax
):
    pixels = noise if little else noise.astype(">u2")
    ds = make_image(pixels, BitsStored=12)
    ds.file_meta.TransferSyntaxUID = syntax
    path = tmp_path / "x.dcm"
    dcmwrite(path, ds, implicit_vr=implicit, little_endian=little, force_encoding=True)
    values = stored_values(read_dataset(path))
    assert np.array_equal(values, noise)
    assert values.dtype.isnative


def test_rubbish_in_the_high_bits_is_removed(make_image, noise):
    overlaid = noise | (np.arange(noise.size, dtype=np.uint16).reshape(noise.shape) << 12)
    assert np.array_equal(stored_values(make_image(overlaid, BitsStored=12)), noise)


def test_the_sign_is_extended_from_the_stored_bits(make_image):
    signed = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)
    bare = (signed.view(np.uint16) & 0x0FFF).view(np.int16)
    assert np.array_equal(stored_values(make_image(bare, BitsStored=12)), signed)


def test_values_that_stand_left_in_their_word_are_moved(make_image, noise):
    left = (noise << 4) | 0x000F
    ds = make_image(left.astype(np.uint16), BitsStored=12, HighBit=15)
    assert np.array_equal(stored_values(ds), noise)


@pytest.mark.parametrize(
    ("attributes", "error", "reason"),
    [
        ({"NumberOfFrames": 2}, UnsupportedPixels, "multi-frame"),
        ({"Rows": 65535, "Columns": 65535}, UnsupportedPixels, "too large"),
        ({"Rows": 5000, "Columns": 5000}, UnreadableDicom, "truncated pixel data"),
        ({"Rows": 0}, UnreadableDicom, "Rows or Columns missing"),
        ({"Rows": None}, UnreadableDicom, "Rows or Columns missing"),
        ({"BitsAllocated": 32}, UnsupportedPixels, "32 bits allocated"),
        ({"BitsAllocated": 1, "BitsStored": 1}, UnsupportedPixels, "1 bits allocated"),
        ({"BitsAllocated": None}, UnsupportedPixels, "0 bits allocated"),
        ({"BitsStored": 17}, UnreadableDicom, "17 bits stored in 16"),
        ({"PixelData": b""}, NoPixels, "empty pixel data"),
        ({"SamplesPerPixel": 2}, UnsupportedPixels, "several samples"),
    ],
)
def test_what_cannot_be_decoded_says_why(make_image, attributes, error, reason):
    with pytest.raises(error, match=reason):
        stored_values(make_image(**attributes))


def test_no_pixel_data_and_floating_point_pixel_data(make_image):
    ds = make_image()
    del ds.PixelData
    with pytest.raises(NoPixels, match="no pixel data"):
        stored_values(ds)
    ds.FloatPixelData = b"\0" * 8
    with pytest.raises(UnsupportedPixels, match="floating point"):
        stored_values(ds)


def test_a_transfer_syntax_without_decoder_is_named(make_image):
    ds = make_image()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    with pytest.raises(UnsupportedPixels, match=r"1\.2\.840\.10008\.1\.2\.4\.100"):
        stored_values(ds)


def htj2k(name: str, pixels: np.ndarray, make_image, syntax: str) -> Dataset:
    """An image with a codestream of `htj2k/`: encoded once by OpenJPH, no part of this project."""
    ds = make_image(pixels, BitsStored=int(name.split("_")[1]))
    encoded = (Path(__file__).parent / "htj2k" / f"{name}.j2c").read_bytes()
    ds.PixelData = encapsulate([encoded])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


@pytest.mark.parametrize("syntax", [ts.HTJ2K_LOSSLESS, ts.HTJ2K_LOSSLESS_RPCL])
@pytest.mark.parametrize(("dtype", "bits"), [("u1", 8), ("u2", 12), ("u2", 16), ("i2", 12)])
def test_high_throughput_jpeg_2000_is_exact(make_image, syntax, dtype, bits):
    y, x = np.mgrid[0:48, 0:64]
    pixels = (y * 37 + x * x * 3 + (x * y) % 11) % 2**bits - (dtype[0] == "i") * 2 ** (bits - 1)
    pixels = pixels.astype(dtype)
    values = stored_values(htj2k(f"{dtype}_{bits}_lossless", pixels, make_image, syntax))
    assert values.dtype == pixels.dtype
    assert np.array_equal(values, pixels)


def test_lossy_high_throughput_jpeg_2000_is_near(make_image):
    y, x = np.mgrid[0:48, 0:64]
    pixels = ((x + y) * 30).astype(np.uint16)
    values = stored_values(htj2k("u2_16_lossy", pixels, make_image, ts.HTJ2K))
    assert np.abs(values.astype(int) - pixels).max() <= 9 + 1  # the encoder's own error is 9


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_a_picture_of_another_size_than_the_header_says_is_refused(
    make_image, compress, noise, syntax
):
    ds = make_image(noise, BitsStored=12)
    compress(ds, syntax)
    ds.Rows, ds.Columns = 480, 640
    with pytest.raises(UnreadableDicom):
        stored_values(ds)


def test_a_decoders_panic_is_a_reason_and_not_the_workers_end(make_image, compress):
    ds = make_image()
    compress(ds, ts.RLE_LOSSLESS)
    frame = bytearray(get_frame(ds.PixelData, 0, number_of_frames=1))
    frame[8] = 115  # where the second segment begins: pylibjpeg-rle runs past its end
    ds.PixelData = encapsulate([bytes(frame)])
    with pytest.raises(UnreadableDicom, match="cannot be decoded"):
        stored_values(ds)


def test_a_cut_jpeg_is_refused_and_not_filled_with_grey(real_radiographs):
    paths = [path for path in real_radiographs if "jpeg_baseline" in path.name]
    if not paths:
        pytest.skip("../shared/data is not at hand")
    ds = dcmread(paths[0])
    ds.PixelData = encapsulate([get_frame(ds.PixelData, 0, number_of_frames=1)[:200_000]])
    with pytest.raises(UnreadableDicom, match="truncated"):
        stored_values(ds)


@pytest.mark.parametrize("name", ["JPEG-LL.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm"])
def test_jpeg_lossless(name, peer, tmp_path):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} is not at hand")
    values = stored_values(dcmread(path))
    subprocess.run([peer("dcmdjpeg"), path, tmp_path / "x.dcm"], check=True)
    assert np.array_equal(values, dcmread(tmp_path / "x.dcm").pixel_array)


def test_jpeg_extended_of_12_bits_equals_dcmtks(peer, tmp_path):
    path = get_testdata_file("JPGExtended.dcm", download=False)
    if path is None:
        pytest.skip("JPGExtended.dcm is not at hand")
    values = stored_values(dcmread(path))
    subprocess.run([peer("dcmdjpeg"), path, tmp_path / "x.dcm"], check=True)
    assert np.array_equal(values, dcmread(tmp_path / "x.dcm").pixel_array)


def test_colour_becomes_luminance(make_image):
    rgb = np.zeros((32, 32, 3), np.uint8)
    rgb[:16] = (255, 0, 0)
    rgb[16:] = (0, 255, 0)
    ds = make_image(rgb[:, :, 0].copy(), PixelData=rgb.tobytes(), SamplesPerPixel=3,
                    PlanarConfiguration=0, PhotometricInterpretation="RGB")  # fmt: skip
    assert is_colour(ds)
    grey = colour_to_grey(ds)
    assert (grey[0, 0], grey[-1, -1]) == (76, 150)
    planar = make_image(
        rgb[:, :, 0].copy(), PixelData=np.ascontiguousarray(rgb.transpose(2, 0, 1)).tobytes(),
        SamplesPerPixel=3, PlanarConfiguration=1, PhotometricInterpretation="RGB",
    )  # fmt: skip
    assert np.array_equal(grey_of(planar), grey)


def test_a_grey_ybr_full_image_keeps_its_luminance(make_image):
    ybr = np.full((32, 32, 3), 128, np.uint8)
    ybr[:16, :, 0] = 200
    ds = make_image(ybr[:, :, 0].copy(), PixelData=ybr.tobytes(), SamplesPerPixel=3,
                    PlanarConfiguration=0, PhotometricInterpretation="YBR_FULL")  # fmt: skip
    assert np.abs(colour_to_grey(ds).astype(int) - ybr[:, :, 0]).max() <= 1


def test_a_grey_palette_is_looked_up(make_image):
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    palette = (np.arange(256, dtype="<u2")[::-1] * 257).tobytes()
    tables = {}
    for colour in ("Red", "Green", "Blue"):
        tables[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tables[f"{colour}PaletteColorLookupTableData"] = palette
    ds = make_image(index, PhotometricInterpretation="PALETTE COLOR", **tables)
    assert np.abs(colour_to_grey(ds).astype(int) - (255 - index)).max() <= 1


@pytest.mark.parametrize("photometric", ["HSV", "YBR_PARTIAL_422", "monochrome1", "MONOCHROME"])
def test_what_would_pass_for_something_else_is_refused(make_image, photometric):
    data = np.random.default_rng(0).integers(0, 256, 64 * 48 * 3).astype(np.uint8)
    header = {"SamplesPerPixel": 3, "BitsAllocated": 8, "BitsStored": 8, "PlanarConfiguration": 0}
    ds = make_image(PhotometricInterpretation=photometric, PixelData=data.tobytes(), **header)
    with pytest.raises(UnsupportedPixels, match="unknown photometric interpretation"):
        grey_of(ds)


def test_colours_of_more_than_8_bits_are_refused_where_nobody_converts_them(make_image):
    ds = make_image(PhotometricInterpretation="YBR_FULL", SamplesPerPixel=3, BitsStored=12)
    with pytest.raises(UnsupportedPixels, match="YBR colours of 12 bits"):
        grey_of(ds)


@pytest.mark.parametrize("syntax", [ts.JPEG_BASELINE, ts.JPEG_EXTENDED])
def test_lossy_jpeg_knows_no_sign(make_image, syntax):
    ds = make_image(np.zeros((8, 8), np.int16), BitsStored=12)
    ds.file_meta.TransferSyntaxUID = syntax
    with pytest.raises(UnsupportedPixels, match="signed pixels in lossy JPEG"):
        stored_values(ds)


@pytest.mark.parametrize("frames", [None, "", 0, 1])
def test_an_empty_number_of_frames_is_one(make_image, frames):
    ds = make_image()
    ds.NumberOfFrames = frames
    assert stored_values(ds).shape == (64, 48)


@pytest.mark.parametrize("photometric", ["PALETTE COLOR", "RGB", "CMYK", None])
def test_colours_without_what_they_need_are_refused(make_image, photometric):
    ds = make_image(PhotometricInterpretation=photometric)
    with pytest.raises((UnreadableDicom, UnsupportedPixels)):
        grey_of(ds)


def test_decoders_are_named_for_every_compressed_syntax_offered():
    assert all(DECODERS[syntax] for syntax in ts.IMAGE_TRANSFER_SYNTAXES)
