"""One radiograph in many shapes, through the shipped bundle: it must get one result."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from dicom_io import contexts as ts
from dicom_io import preprocess
from dicom_io.pixels import stored_values
from dicom_io.read import read_dataset
from model.bands import Interpreter, Prediction
from model.bundle import read_bundle, shipped_bundle_path
from model.predict import Predictor
from tests.dicom_io.conftest import compress, make_image
from tests.support import dicom, peers

APART_MAX = 0.005
BITS = 15
Predict = Callable[[NDArray[np.uint8]], Prediction]


@pytest.fixture(scope="module")
def predict() -> Predict:
    bundle = read_bundle(shipped_bundle_path())
    predictor = Predictor(bundle, preprocess_version=preprocess.VERSION)
    interpreter = Interpreter(bundle, prevalence=0.1)
    return lambda picture: interpreter.interpret(float(predictor.logits(picture[None])[0]))


@pytest.fixture(scope="module")
def chest() -> Dataset:
    """A real adult chest, decoded: MONOCHROME1, 15 bits."""
    return dcmread(dicom.real("RG1_UNCR.dcm"))


@pytest.fixture(scope="module")
def stored(chest: Dataset) -> NDArray[Any]:
    return stored_values(chest)


@pytest.fixture(scope="module")
def expected(chest: Dataset, predict: Predict) -> Prediction:
    return predict(preprocess.from_dataset(chest))


def _window(chest: Dataset, **changes: Any) -> dict[str, Any]:
    return {
        "BitsStored": BITS,
        "PhotometricInterpretation": "MONOCHROME1",
        "WindowCenter": float(chest.WindowCenter),
        "WindowWidth": float(chest.WindowWidth),
    } | changes


def _twins(chest: Dataset, stored: NDArray[Any]) -> dict[str, Dataset]:
    top = 2**BITS - 1
    center, width = float(chest.WindowCenter), float(chest.WindowWidth)
    signed = (stored.astype(np.int32) - 2**14).astype(np.int16)
    shades = np.clip((np.arange(2**BITS) - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [2**BITS, 0, 16])
    lut.add_new("LUTData", "US", np.rint(shades * 65535).astype(int).tolist())
    identity = Dataset()
    identity.add_new("LUTDescriptor", "US", [2**BITS, 0, 16])
    identity.add_new("LUTData", "US", list(range(2**BITS)))
    made = {
        "MONOCHROME2": (
            (top - stored).astype(np.uint16),
            _window(chest, PhotometricInterpretation="MONOCHROME2", WindowCenter=top - center + 1),
        ),
        "Presentation LUT Shape INVERSE": (stored, _window(chest, PresentationLUTShape="INVERSE")),
        "signed": (signed, _window(chest, WindowCenter=center - 2**14)),
        "signed and rescaled": (
            signed,
            _window(chest, RescaleSlope="1", RescaleIntercept=str(2**14)),
        ),
        "VOI LUT": (stored, {"BitsStored": BITS, "PhotometricInterpretation": "MONOCHROME1",
                             "VOILUTSequence": [lut]}),
        "modality LUT": (stored, _window(chest, ModalityLUTSequence=[identity])),
        "LINEAR_EXACT": (
            stored,
            _window(chest, VOILUTFunction="LINEAR_EXACT", WindowCenter=center - 0.5,
                    WindowWidth=width - 1),
        ),
        "rubbish in the high bit": (stored | np.uint16(1 << BITS), _window(chest)),
    }  # fmt: skip
    return {name: make_image(pixels, **header) for name, (pixels, header) in made.items()}


def test_twins_by_header_get_one_result(
    chest: Dataset, stored: NDArray[Any], expected: Prediction, predict: Predict
) -> None:
    for name, ds in _twins(chest, stored).items():
        got = predict(preprocess.from_dataset(ds))
        print(f"{name}: {got.logit - expected.logit:+.4f} in logit")
        assert _apart(got, expected) <= APART_MAX, name


@pytest.mark.parametrize(
    "syntax",
    [
        ts.IMPLICIT_VR_LITTLE_ENDIAN,
        ts.EXPLICIT_VR_LITTLE_ENDIAN,
        ts.EXPLICIT_VR_BIG_ENDIAN,
        ts.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        ts.RLE_LOSSLESS,
        ts.JPEG_LS_LOSSLESS,
        ts.JPEG_2000_LOSSLESS,
    ],
)
def test_every_lossless_transfer_syntax_gets_one_result(
    syntax: str,
    chest: Dataset,
    stored: NDArray[Any],
    expected: Prediction,
    predict: Predict,
    tmp_path: Path,
) -> None:
    pixels = stored.astype(">u2") if syntax == ts.EXPLICIT_VR_BIG_ENDIAN else stored
    ds = make_image(pixels, **_window(chest))
    if syntax in (ts.RLE_LOSSLESS, ts.JPEG_LS_LOSSLESS, ts.JPEG_2000_LOSSLESS):
        compress(ds, syntax)
    ds.file_meta.TransferSyntaxUID = syntax
    path = tmp_path / "x.dcm"
    implicit = syntax == ts.IMPLICIT_VR_LITTLE_ENDIAN
    dcmwrite(path, ds, implicit_vr=implicit, little_endian=syntax != ts.EXPLICIT_VR_BIG_ENDIAN,
             force_encoding=True)  # fmt: skip
    assert _apart(predict(preprocess.from_dataset(read_dataset(path))), expected) <= APART_MAX


@pytest.mark.peers
@pytest.mark.parametrize("options", [["+e1"], ["+el", "+sv", "6"]])
def test_jpeg_lossless_of_dcmtk_gets_one_result(
    options: list[str],
    chest: Dataset,
    expected: Prediction,
    predict: Predict,
    tmp_path: Path,
) -> None:
    program = peers.tool("dcmcjpeg")
    path = tmp_path / "x.dcm"
    subprocess.run([program, *options, dicom.real("RG1_UNCR.dcm"), path], check=True)
    assert _apart(predict(preprocess.from_dataset(read_dataset(path))), expected) <= APART_MAX


@pytest.mark.parametrize("quality", [95, 80, 50])
def test_lossy_compression_moves_the_result_little(
    quality: int, chest: Dataset, expected: Prediction, predict: Predict
) -> None:
    """JPEG baseline of the 8-bit picture. What is measured is printed; docs/PIXELS.md has it."""
    grey = preprocess.grey_of(chest)
    _, encoded = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])
    ds = make_image(grey, WindowCenter=128, WindowWidth=256)
    ds.PixelData = encapsulate([encoded.tobytes()])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = ts.JPEG_BASELINE
    got = predict(preprocess.from_dataset(ds))
    print(f"JPEG {quality}: {got.logit - expected.logit:+.3f} logit, {_apart(got, expected):.4f}")
    assert abs(got.logit - expected.logit) <= 0.5


@pytest.mark.parametrize("ratio", [10, 30])
def test_lossy_jpeg_2000_moves_the_result_little(
    ratio: int, chest: Dataset, stored: NDArray[Any], expected: Prediction, predict: Predict
) -> None:
    from openjpeg.utils import encode_array

    ds = make_image(stored, **_window(chest))
    encoded = encode_array(stored, bits_stored=BITS, compression_ratios=[ratio])
    ds.PixelData = encapsulate([bytes(encoded)])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = ts.JPEG_2000
    got = predict(preprocess.from_dataset(ds))
    print(f"J2K 1:{ratio}: {got.logit - expected.logit:+.3f} logit, {_apart(got, expected):.4f}")
    assert abs(got.logit - expected.logit) <= 0.5


@pytest.fixture(scope="module")
def pairs(shared_data: Path) -> list[tuple[Path, Path]]:
    """Training images at their own size, and their 224 px copies."""
    large = sorted((shared_data / "fullres").rglob("*.jpeg"))
    return [(it, shared_data / "chest_xray/train" / it.parent.name / it.name) for it in large]


@pytest.fixture(scope="module")
def predicted(pairs: list[tuple[Path, Path]], predict: Predict) -> list[list[Prediction]]:
    return [[predict(preprocess.from_file(path)) for path in pair] for pair in pairs]


def test_a_full_resolution_image_and_its_small_copy_fall_into_one_band(
    predicted: list[list[Prediction]],
) -> None:
    assert [large.band for large, _ in predicted] == [small.band for _, small in predicted]


def test_the_logits_of_a_full_resolution_image_and_its_small_copy_are_near(
    predicted: list[list[Prediction]],
) -> None:
    apart = [abs(large.logit - small.logit) for large, small in predicted]
    quartiles = np.percentile(apart, [0, 25, 50, 75, 100])
    print(f"{len(apart)} pairs, logits apart: {np.round(quartiles, 2).tolist()}")
    assert quartiles[2] <= 0.5


def test_a_full_resolution_image_is_made_small_exactly_as_its_copy_was(
    pairs: list[tuple[Path, Path]],
) -> None:
    for large, small in pairs:
        made = preprocess.as_small_copy(preprocess.grey_from_file(large))
        difference = np.abs(made.astype(int) - preprocess.grey_from_file(small))
        assert difference.mean() < 0.1, large.name


def _apart(one: Prediction, other: Prediction) -> float:
    return max(
        abs(one.probability - other.probability),
        abs(one.raw_probability - other.raw_probability),
    )
