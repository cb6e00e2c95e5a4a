import cv2
import numpy as np
import pytest

from dicom_io.errors import DicomError, UnreadableDicom, UnsupportedPixels
from dicom_io.preprocess import SIZE, from_dataset, from_file, from_grey, grey_from_file, grey_of
from dicom_io.read import read_dataset


@pytest.fixture
def picture():
    y, x = np.mgrid[0:300, 0:260]
    return (127 + 100 * np.sin(x / 30) * np.cos(y / 40)).astype(np.uint8)


def test_the_models_picture_is_224_by_224_grey(make_image, picture):
    ready = from_dataset(make_image(picture))
    assert ready.shape == (SIZE, SIZE)
    assert ready.dtype == np.uint8
    assert ready.flags.c_contiguous


def test_dicom_png_and_jpeg_of_one_picture_are_one_picture(make_image, picture, tmp_path):
    ds = make_image(picture, WindowCenter="128", WindowWidth="256")
    ds.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    cv2.imwrite(str(tmp_path / "x.png"), picture)
    cv2.imwrite(str(tmp_path / "x.jpeg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
    expected = from_grey(picture)
    assert np.array_equal(from_file(tmp_path / "x.dcm"), expected)
    assert np.array_equal(from_file(tmp_path / "x.png"), expected)
    assert np.abs(from_file(tmp_path / "x.jpeg").astype(int) - expected).mean() < 2


def test_dicom_is_known_by_its_marker_and_not_by_its_name(make_image, picture, tmp_path):
    make_image(picture).save_as(tmp_path / "IMG0001", enforce_file_format=True)
    assert grey_from_file(tmp_path / "IMG0001").shape == picture.shape


def test_dicom_without_marker_is_taken_by_its_extension(make_image, picture, tmp_path):
    path = tmp_path / "old.dcm"
    make_image(picture).save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes()[132:])
    assert grey_from_file(path).shape == picture.shape


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.txt", b"hello"), ("x.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40), ("x.jpg", b"\xff\xd8"),
        ("x.dcm", b"hello"), ("empty", b""), ("x.tif", b"II*\0" + b"\0" * 200),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_a_clear_error(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DicomError):
        from_file(path)


def test_a_png_that_claims_gigabytes_is_refused(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60000).to_bytes(4, "big") * 2 + b"\x08\0\0\0\0"
    )
    with pytest.raises(UnsupportedPixels, match="too large"):
        from_file(path)


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_image_is_refused(make_image, value):
    with pytest.raises(UnsupportedPixels, match="constant image"):
        from_dataset(make_image(np.full((300, 300), value, np.uint16)))


def test_one_pixel_is_refused(make_image):
    with pytest.raises(UnsupportedPixels, match="constant image"):
        from_dataset(make_image(np.ones((1, 1), np.uint8)))


def test_a_missing_file_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_file(tmp_path / "absent.png")


def test_real_chests_show_dark_lungs_and_a_bright_spine(real_radiographs):
    for path in real_radiographs:
        grey = grey_of(read_dataset(path))
        if "RG1" in path.name or "chest" in path.name:
            rows, columns = grey.shape
            middle = grey[rows // 3 : rows // 2]
            spine = middle[:, int(columns * 0.47) : int(columns * 0.53)].mean()
            lungs = middle[:, int(columns * 0.2) : int(columns * 0.38)].mean()
            assert spine > lungs + 20, path.name


def test_a_dataset_cut_short_is_unreadable(make_image, picture, tmp_path):
    path = tmp_path / "x.dcm"
    make_image(picture).save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UnreadableDicom, match="truncated"):
        from_file(path)
