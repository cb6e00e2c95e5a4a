"""Held against pydicom's own functions in float64 over the whole picture, naively in order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from dicom_io.voi import to_grey, window_of


def reference(stored: np.ndarray, ds: Dataset) -> np.ndarray:
    """The naive order: modality LUT, VOI LUT, inversion, to 0..255 as float64."""
    values = apply_modality_lut(clipped(stored, ds.get("ModalityLUTSequence")), ds)
    values = values.astype(np.float64)
    if ds.get("VOILUTSequence"):
        rounded = np.rint(values).astype(np.int64)
        shown = apply_voi_lut(clipped(rounded, ds.VOILUTSequence), ds).astype(np.float64)
        bits = ds.VOILUTSequence[0].LUTDescriptor[2]
        low, high = 0.0, float(2**bits - 1)
    else:
        shown = apply_voi_lut(values, ds)
        low, high = output_range(ds)
    shades = (shown - low) / (high - low)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        shades = 1 - shades
    return shades * 255


def clipped(values: np.ndarray, sequence: list[Dataset] | None) -> np.ndarray:
    """Hold values within the table: pydicom's index wraps around where entries have 8 bits."""
    if not sequence:
        return values
    count, first, _ = sequence[0].LUTDescriptor
    return np.clip(values.astype(np.int64), first, first + (count or 65536) - 1)


def output_range(ds: Dataset) -> tuple[float, float]:
    """What pydicom's windowing maps to: the range of the modality LUT's output."""
    if ds.get("ModalityLUTSequence"):
        return 0.0, float(2 ** ds.ModalityLUTSequence[0].LUTDescriptor[2] - 1)
    if ds.PixelRepresentation:
        low, high = -(2 ** (ds.BitsStored - 1)), 2 ** (ds.BitsStored - 1) - 1
    else:
        low, high = 0, 2**ds.BitsStored - 1
    if "RescaleSlope" in ds:
        low, high = (v * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for v in (low, high))
    return float(low), float(high)


def lut_item(entries: np.ndarray, first_mapped: int, bits: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first_mapped < 0 else "US",
                 [len(entries) % 65536, first_mapped, bits])  # fmt: skip
    item.add_new("LUTData", "US", [int(entry) for entry in entries])
    return item


@st.composite
def cases(draw):
    """A picture and the header elements that say how it is to be shown."""
    itemsize = draw(st.sampled_from([1, 2]))
    signed = draw(st.booleans())
    bits = draw(st.integers(6, 8)) if itemsize == 1 else draw(st.integers(8, 16))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stored = rng.integers(low, high, (16, 12), endpoint=True)
    stored = stored.astype(f"{'i' if signed else 'u'}{itemsize}")
    header = {
        "BitsStored": bits,
        "PhotometricInterpretation": draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"])),
    }
    kind = draw(st.sampled_from(["none", "rescale", "lut"]))
    if kind == "rescale":
        header["RescaleSlope"] = draw(st.sampled_from(["1", "0.5", "2.25", "10"]))
        header["RescaleIntercept"] = draw(st.sampled_from(["0", "-1024", "100.5"]))
        low, high = (v * float(header["RescaleSlope"]) + float(header["RescaleIntercept"])
                     for v in (low, high))  # fmt: skip
    elif kind == "lut":
        out_bits = draw(st.sampled_from([8, 12, 16]))
        entries = np.sort(rng.integers(0, 2**out_bits, 256 if out_bits == 8 else 1000))
        entries[-1] = 2**out_bits - 1
        header["ModalityLUTSequence"] = [lut_item(entries, int(low), 16 if out_bits > 8 else 8)]
        low, high = 0, 2 ** (16 if out_bits > 8 else 8) - 1
    if draw(st.booleans()):
        header["WindowCenter"] = draw(st.floats(low, high).map(lambda v: round(v, 2)))
        header["WindowWidth"] = draw(st.floats(2, max(3, high - low)).map(lambda v: round(v, 2)))
        header["VOILUTFunction"] = draw(st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]))
    else:
        out_bits = draw(st.sampled_from([8, 12, 16]))
        entries = np.sort(rng.integers(0, 2**out_bits, 256 if out_bits == 8 else 4096))
        entries[-1] = 2**out_bits - 1
        item = lut_item(entries, max(-32768, min(int(low), 32767)), out_bits)
        header["VOILUTSequence"] = [item]
    return stored, header


@settings(max_examples=150, deadline=None)
@given(cases())
def test_within_one_grey_level_of_pydicom(make_image, case):
    stored, header = case
    ds = make_image(stored, **header)
    difference = np.abs(to_grey(stored, ds).astype(np.float64) - reference(stored, ds))
    assert difference.max() <= 1, header


@settings(max_examples=40, deadline=None)
@given(cases())
def test_monochrome_twins_are_each_others_negative(make_image, case):
    stored, header = case
    one, two = (
        to_grey(stored, make_image(stored, **header | {"PhotometricInterpretation": p}))
        for p in ("MONOCHROME1", "MONOCHROME2")
    )
    assert np.abs(255 - one.astype(int) - two).max() <= 1


def test_negated_monochrome1_is_the_same_picture_as_monochrome2(make_image):
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 4096, (20, 20)).astype(np.uint16)
    bright = make_image(stored, BitsStored=12, WindowCenter="2048", WindowWidth="4096")
    dark = make_image(
        4095 - stored, BitsStored=12, WindowCenter="2048", WindowWidth="4096",
        PhotometricInterpretation="MONOCHROME1",
    )  # fmt: skip
    difference = to_grey(stored, bright).astype(int) - to_grey(4095 - stored, dark)
    assert np.abs(difference).max() <= 1


def test_signed_and_unsigned_twins_are_the_same_picture(make_image):
    rng = np.random.default_rng(1)
    unsigned = rng.integers(0, 4096, (20, 20)).astype(np.uint16)
    signed = (unsigned.astype(np.int32) - 2048).astype(np.int16)
    one = make_image(unsigned, BitsStored=12, WindowCenter="2000", WindowWidth="1500")
    two = make_image(signed, BitsStored=12, WindowCenter="-48", WindowWidth="1500")
    three = make_image(signed, BitsStored=12, RescaleSlope="1", RescaleIntercept="2048",
                       WindowCenter="2000", WindowWidth="1500")  # fmt: skip
    expected = to_grey(unsigned, one)
    assert np.array_equal(expected, to_grey(signed, two))
    assert np.array_equal(expected, to_grey(signed, three))


def test_a_lut_that_is_a_window_gives_the_windows_picture(make_image):
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    window = make_image(stored, BitsStored=12, WindowCenter="2048", WindowWidth="4096")
    ramp = np.round(np.arange(4096) * (65535 / 4095)).astype(int)
    lut = make_image(stored, BitsStored=12, VOILUTSequence=[lut_item(ramp, 0, 16)])
    difference = to_grey(stored, window).astype(int) - to_grey(stored, lut)
    assert np.abs(difference).max() <= 1


def test_presentation_lut_shape_inverse_inverts_once_with_monochrome1(make_image):
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    window = {"WindowCenter": "128", "WindowWidth": "256"}
    alone = make_image(stored, PhotometricInterpretation="MONOCHROME1", **window)
    both = make_image(stored, PhotometricInterpretation="MONOCHROME1",
                      PresentationLUTShape="INVERSE", **window)  # fmt: skip
    assert to_grey(stored, alone)[0, 0] == 255
    assert np.array_equal(to_grey(stored, alone), to_grey(stored, both))


def test_the_first_of_several_windows_counts(make_image):
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    several = make_image(stored, WindowCenter=["100", "20"], WindowWidth=["50", "10"])
    one = make_image(stored, WindowCenter="100", WindowWidth="50")
    assert np.array_equal(to_grey(stored, several), to_grey(stored, one))


@pytest.mark.parametrize(
    "window",
    [
        {},
        {"WindowCenter": "100"},
        {"WindowCenter": "100", "WindowWidth": "0"},
        {"WindowCenter": "100", "WindowWidth": "-5"},
        {"WindowCenter": "", "WindowWidth": ""},
    ],
)
def test_without_a_usable_window_robust_percentiles_count(make_image, window):
    rng = np.random.default_rng(2)
    stored = rng.normal(2000, 200, (200, 200)).clip(0, 4095).astype(np.uint16)
    stored[0, :5] = 65535  # a burnt-in marker must not make the rest dark
    ds = make_image(stored, **window)
    assert window_of(ds) is None
    grey = to_grey(stored, ds)
    low, high = np.percentile(stored, [0.5, 99.5])
    expected = np.clip((stored - low) / (high - low), 0, 1) * 255
    assert np.abs(grey - expected).max() <= 2
    assert grey.std() > 40


def test_width_one_is_a_threshold(make_image):
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey = to_grey(stored, make_image(stored, WindowCenter="100", WindowWidth="1"))
    assert set(np.unique(grey)) == {0, 255}
    assert (grey == 255).sum() == 256 - 100


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_count(make_image, photometric):
    rng = np.random.default_rng(3)
    stored = rng.integers(1000, 3000, (50, 50)).astype(np.uint16)
    padded = stored.copy()
    padded[:, :20] = 60000
    padded[:, 20:22] = 60005
    ds = make_image(padded, PhotometricInterpretation=photometric, PixelPaddingValue=60000,
                    PixelPaddingRangeLimit=60010)  # fmt: skip
    grey = to_grey(padded, ds)
    assert not grey[:, :22].any()
    alone = to_grey(
        np.ascontiguousarray(padded[:, 22:]),
        make_image(stored, PhotometricInterpretation=photometric),
    )
    assert np.array_equal(grey[:, 22:], alone)


@pytest.mark.parametrize("value", [-2000, 63536])
def test_a_negative_padding_value_of_signed_pixels(make_image, value):
    stored = np.arange(-2000, 496, dtype=np.int16).reshape(48, 52)
    stored[0, 0] = 400
    stored[5, 5] = -2000
    grey = to_grey(stored, make_image(stored, PixelPaddingValue=value,
                                      PhotometricInterpretation="MONOCHROME1"))  # fmt: skip
    assert grey[5, 5] == 0


@pytest.mark.parametrize("value", [-1, 65535])
def test_a_padding_value_of_unsigned_pixels_that_was_written_as_signed(make_image, value):
    stored = np.arange(2500, dtype=np.uint16).reshape(50, 50)
    stored[5, 5] = 65535
    ds = make_image(stored)
    ds.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)
    grey = to_grey(stored, ds)
    assert grey[5, 5] == 0
    assert grey[-1, -1] == 255


def test_a_padding_only_image_is_black_and_not_an_error(make_image):
    stored = np.full((10, 10), 7, np.uint16)
    assert not to_grey(stored, make_image(stored, PixelPaddingValue=7)).any()


@pytest.mark.parametrize(
    "attributes",
    [
        {"VOILUTSequence": [Dataset()]},
        {"VOILUTSequence": []},
        {"ModalityLUTSequence": [Dataset()]},
        {"RescaleSlope": "0", "RescaleIntercept": "5"},
    ],
)
def test_a_table_that_cannot_be_read_is_none(make_image, attributes):
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    plain = make_image(stored, WindowCenter="130", WindowWidth="100")
    odd = make_image(stored, WindowCenter="130", WindowWidth="100", **attributes)
    if "RescaleSlope" in attributes:
        plain = make_image(stored, WindowCenter="125", WindowWidth="100")
    assert np.array_equal(to_grey(stored, odd), to_grey(stored, plain))


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_lut_data_as_words_and_as_numbers(make_image, vr):
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    entries = np.arange(256)[::-1] * 257
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 0, 16])
    item.add_new("LUTData", vr, entries.tolist() if vr == "US" else entries.astype("<u2").tobytes())
    grey = to_grey(stored, make_image(stored, VOILUTSequence=[item]))
    assert np.array_equal(grey, 255 - stored)


def test_lut_data_of_one_byte_entries(make_image):
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 0, 8])
    item.add_new("LUTData", "OW", bytes(range(256)))
    assert np.array_equal(to_grey(stored, make_image(stored, VOILUTSequence=[item])), stored)


def test_one_byte_entries_that_were_written_as_words(make_image):
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 0, 8])
    item.add_new("LUTData", "US", np.arange(256, dtype=np.uint8).view("<u2").tolist())
    assert np.array_equal(to_grey(stored, make_image(stored, VOILUTSequence=[item])), stored)


@pytest.mark.parametrize(("bits", "highest"), [(16, 4095), (16, 1023), (12, 4095), (10, 4095)])
def test_a_table_counts_the_bits_that_its_entries_take(make_image, bits, highest):
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    item = lut_item(np.rint(np.linspace(0, highest, 256)).astype(int), 0, bits)
    grey = to_grey(stored, make_image(stored, VOILUTSequence=[item]))
    assert np.abs(grey.astype(int) - stored).max() <= 1


def test_a_table_that_stays_below_its_brightest_is_left_so(make_image):
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    item = lut_item(np.arange(256) * 70, 0, 16)  # to 17850 of 65535: 15 bits
    grey = to_grey(stored, make_image(stored, VOILUTSequence=[item]))
    assert grey.max() == round(17850 / 65535 * 255)


@pytest.mark.parametrize(
    ("vr", "written"), [("US", 64512), ("SS", -1024)], ids=["as unsigned", "as signed"]
)
def test_a_negative_first_value_mapped_is_understood_in_either_sign(make_image, vr, written):
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    item = lut_item(np.arange(4096) * 16, 0, 16)
    item.add_new("LUTDescriptor", vr, [4096, written, 16])
    grey = to_grey(stored, make_image(stored, BitsStored=12, RescaleSlope="1",
                                      RescaleIntercept="-1024", VOILUTSequence=[item]))  # fmt: skip
    assert np.abs(grey - stored / 4095 * 255).max() <= 1


def test_a_large_first_value_mapped_that_was_written_as_signed_is_understood(make_image):
    stored = np.arange(40000, 44096, dtype=np.uint16).reshape(64, 64)
    item = lut_item(np.arange(4096) * 16, 0, 16)
    item.add_new("LUTDescriptor", "SS", [4096, 40000 - 65536, 16])
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        window = {"WindowCenter": 32768, "WindowWidth": 65536}
        grey = to_grey(stored, make_image(stored, **{keyword: [item]}, **window))
        assert np.abs(grey - (stored - 40000.0) / 4095 * 255).max() <= 1


def test_a_table_of_more_than_32767_entries_may_say_so_as_signed(make_image):
    stored = np.arange(40000, dtype=np.uint16).reshape(200, 200)
    item = lut_item(np.arange(40000), 0, 16)
    item.add_new("LUTDescriptor", "SS", [40000 - 65536, 0, 16])
    grey = to_grey(stored, make_image(stored, VOILUTSequence=[item]))
    assert np.abs(grey - stored / 65535 * 255).max() <= 1
