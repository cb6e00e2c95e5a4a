"""Whatever a file holds: a picture or a DicomError, soon, and without gigabytes."""

import io
import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmwrite

from dicom_io.eligibility import reason_to_reject
from dicom_io.errors import DicomError
from dicom_io.preprocess import from_dataset, from_file
from dicom_io.read import read_dataset, read_header

SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80",
            "1.2.840.10008.1.2.4.90"]  # fmt: skip
HOSTILE = settings(
    max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Files(list[bytes]):
    """A list that hypothesis does not print in full."""

    def __repr__(self) -> str:
        return f"{len(self)} files"


@pytest.fixture(scope="module")
def files(make_image, compress):
    """One small image in each kind of encoding, as bytes."""
    pixels = np.random.default_rng(0).integers(0, 4096, (32, 40)).astype(np.uint16)
    made = Files()
    for syntax in SYNTAXES:
        ds = make_image(pixels, BitsStored=12, WindowCenter="2000", WindowWidth="4000",
                        PixelPaddingValue=0, RescaleSlope="1", RescaleIntercept="0")  # fmt: skip
        if syntax != SYNTAXES[0]:
            compress(ds, syntax)
        buffer = io.BytesIO()
        dcmwrite(buffer, ds, enforce_file_format=True)
        made.append(buffer.getvalue())
    return made


def must_survive(path):
    """Every entry point gives a value or a DicomError."""
    for entry in (read_header, from_file, lambda p: reason_to_reject(read_dataset(p))):
        try:
            entry(path)
        except DicomError as error:
            assert 0 < len(str(error)) < 120


@HOSTILE
@given(data=st.data())
def test_flipped_bytes(files, tmp_path, data):
    content = bytearray(files[data.draw(st.integers(0, len(files) - 1))])
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(128, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    must_survive(path)


@HOSTILE
@given(data=st.data())
def test_cut_files(files, tmp_path, data):
    content = files[data.draw(st.integers(0, len(files) - 1))]
    path = tmp_path / "x.dcm"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    must_survive(path)


@HOSTILE
@given(data=st.data())
def test_header_bytes_replaced_by_runs(files, tmp_path, data):
    content = bytearray(files[data.draw(st.integers(0, len(files) - 1))])
    at = data.draw(st.integers(132, 1200))
    run = data.draw(st.binary(min_size=1, max_size=16))
    content[at : at + len(run)] = run
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    must_survive(path)


@settings(max_examples=150, deadline=5000)
@given(
    attributes=st.fixed_dictionaries(
        {},
        optional={
            "Rows": st.integers(0, 65535),
            "Columns": st.integers(0, 65535),
            "BitsAllocated": st.sampled_from([0, 1, 8, 12, 16, 32, 64]),
            "BitsStored": st.integers(0, 65535),
            "HighBit": st.integers(0, 65535),
            "PixelRepresentation": st.integers(0, 3),
            "SamplesPerPixel": st.integers(0, 65535),
            "PlanarConfiguration": st.integers(0, 3),
            "NumberOfFrames": st.sampled_from(["0", "1", "2", "-1", "2147483647"]),
            "PhotometricInterpretation": st.sampled_from(
                ["", "RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR", "MONOCHROME1", "X"]
            ),
            "WindowCenter": st.sampled_from(["", "1e400", "-1e308", "nan", "0"]),
            "WindowWidth": st.sampled_from(["", "0", "-1", "1e308", "1e-308", "inf"]),
            "RescaleSlope": st.sampled_from(["0", "1e308", "-1e-308", "nan", "inf"]),
            "RescaleIntercept": st.sampled_from(["1e308", "inf", ""]),
            "VOILUTFunction": st.sampled_from(["SIGMOID", "LINEAR_EXACT", "X"]),
            "PixelPaddingValue": st.integers(0, 65535),
        },
    )
)
def test_absurd_headers(make_image, attributes):
    pixels = np.arange(16 * 16, dtype=np.uint16).reshape(16, 16)
    ds = make_image(pixels, **{"WindowCenter": "100", "WindowWidth": "100"})
    for keyword, value in attributes.items():
        try:
            setattr(ds, keyword, value)
        except (ValueError, OverflowError):
            continue
    try:
        assert from_dataset(ds).shape == (224, 224)
    except DicomError as error:
        assert 0 < len(str(error)) < 120
    reason_to_reject(ds)


def test_deeply_nested_sequences_are_unreadable_and_do_not_end_the_process(make_image, tmp_path):
    path = tmp_path / "x.dcm"
    make_image().save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    at = content.index(b"\x08\x00\x60\x00CS")
    opening = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(content[:at] + opening * 20_000 + content[at:])
    must_survive(path)


def test_no_patient_data_reaches_the_log_or_a_reason(files, tmp_path, caplog, recwarn):
    caplog.set_level(logging.DEBUG)
    content = files[0].replace(b"20210104", b"SECRETDA").replace(b"F \x10\0", b"SE\x10\0")
    path = tmp_path / "x.dcm"
    for cut in range(200, len(content), 97):
        path.write_bytes(content[:cut])
        must_survive(path)
    everything = caplog.text + "".join(str(warning.message) for warning in recwarn)
    assert "SECRET" not in everything
    assert "Doe" not in everything
