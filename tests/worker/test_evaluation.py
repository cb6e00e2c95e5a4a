"""The worker's probabilities are the evaluation's: same picture, same network, same reading."""

import csv
from pathlib import Path

import cv2
import pytest

from model.bundle import shipped_bundle_path
from tests.support import dicom
from tests.support.system import System

APART_MAX = 0.01

pytestmark = pytest.mark.timeout(600)  # a network is loaded here as well


@pytest.fixture(scope="module")
def published(shared_data: Path) -> list[Path]:
    """Training images at the size they were published in; the data set has 224 px copies."""
    return sorted((shared_data / "fullres").rglob("*.jpeg"))[::3]


@pytest.fixture(scope="module")
def evaluated(
    published: list[Path], shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, float]:
    """What `cxr-train evaluate` says of their copies: probability by file name."""
    from training.assess import assess_bundle

    folder = tmp_path_factory.mktemp("evaluated")
    for path in published:
        copy = folder / "copies" / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(shared_data / "chest_xray/train" / path.parent.name / path.name)
    assess_bundle(shipped_bundle_path(), folder / "copies", folder / "cache", folder / "report")
    with (folder / "report" / "evaluation.csv").open() as file:
        return {
            Path(line["name"]).name: float(line["probability"]) for line in csv.DictReader(file)
        }


def test_training_images_sent_as_dicom_get_the_evaluations_probabilities(
    system: System, published: list[Path], evaluated: dict[str, float], tmp_path: Path
) -> None:
    sent = {}
    for path in published:
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        ds = dicom.chest(
            pixels=grey,
            **{"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7},
            **{"WindowCenter": 128, "WindowWidth": 256},
        )
        sent[path.name] = ds
    results = system.send([dicom.write(ds, tmp_path) for ds in sent.values()])
    assert [result.error for result in results] == [None] * len(sent)
    apart = {}
    for name, ds in sent.items():
        system.wait_until_reported(ds.StudyInstanceUID)
        row = system.instances(ds.StudyInstanceUID)[ds.SOPInstanceUID]
        assert row["state"] == "predicted", name
        apart[name] = abs(row["raw_probability"] - evaluated[name])
    print(f"{len(apart)} images, probabilities at most {max(apart.values()):.4f} apart")
    assert {name: it for name, it in apart.items() if it > APART_MAX} == {}
