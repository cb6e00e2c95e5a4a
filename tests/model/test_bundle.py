"""Manifests are read strictly, and the shipped bundle is where it is looked for."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dicom_io import preprocess
from model.bundle import MANIFEST, WEIGHTS, read_bundle, shipped_bundle_path
from model.errors import BundleError

ROOT = Path(__file__).resolve().parents[2]


def test_manifest_is_read_into_plain_values(bundle_folder: Path) -> None:
    bundle = read_bundle(bundle_folder)
    assert (bundle.name, bundle.version) == ("tiny", "1.2.3")
    assert bundle.input_shape == (32, 32, 1)
    assert bundle.operating_points.rule_in.threshold == 2.0
    assert bundle.intended_use.min_age_years == 1.0
    assert bundle.calibration.apply(3.0) == 2.0


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        (("format",), 1, "format"),
        (("name",), "", "name"),
        (("weights_sha256",), "abc", "weights_sha256"),
        (("input_shape",), [224, 224], "input_shape"),
        (("input_shape",), [224, 224, "1"], "input_shape"),
        (("preprocess", "version"), True, "version"),
        (("preprocess", "parameters"), {"size": [1]}, "parameters"),
        (("calibration", "temperature"), 0, "temperature"),
        (("calibration", "temperature"), float("nan"), "temperature"),
        (("training", "prevalence"), 1.0, "prevalence"),
        (("operating_points", "balanced"), [], "operating_points.balanced"),
        (("operating_points", "rule_in", "threshold"), "0", "threshold"),
        (("intended_use", "max_age_years"), None, "max_age_years"),
        (("ood", "sha256"), "0", "sha256"),
        (("ood", "limit"), 0, "limit"),
        (("ood", "far_limit"), 0.5, r"ood\.far_limit must be no lower"),
        (("ood", "auroc"), None, "auroc"),
        (("metrics",), {"auc": "good"}, "metrics"),
    ],
)
def test_wrong_field_is_named_with_its_file(
    bundle_folder: Path, manifest: dict[str, Any], where: tuple[str, ...], value: Any, named: str
) -> None:
    target = manifest
    for key in where[:-1]:
        target = target[key]
    target[where[-1]] = value
    (bundle_folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=named) as caught:
        read_bundle(bundle_folder)
    assert str(bundle_folder / MANIFEST) in str(caught.value)


@pytest.mark.parametrize("where", ["", "preprocess", "training", "operating_points", "ood"])
def test_unknown_field_is_refused(
    bundle_folder: Path, manifest: dict[str, Any], where: str
) -> None:
    (manifest[where] if where else manifest)["surprise"] = 1
    (bundle_folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="surprise is not a known field"):
        read_bundle(bundle_folder)


def test_every_missing_field_is_refused(bundle_folder: Path, manifest: dict[str, Any]) -> None:
    for name in manifest:
        rest = {key: value for key, value in manifest.items() if key != name}
        (bundle_folder / MANIFEST).write_text(json.dumps(rest))
        with pytest.raises(BundleError, match=f"{name} is missing"):
            read_bundle(bundle_folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"x"'])
def test_manifest_that_is_no_object_is_refused(bundle_folder: Path, text: str) -> None:
    (bundle_folder / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        read_bundle(bundle_folder)


def test_manifest_may_name_another_finding(bundle_folder: Path, manifest: dict[str, Any]) -> None:
    assert read_bundle(bundle_folder).finding == "Pneumonia"
    (bundle_folder / MANIFEST).write_text(json.dumps({**manifest, "finding": "Mass"}))
    assert read_bundle(bundle_folder).finding == "Mass"
    (bundle_folder / MANIFEST).write_text(json.dumps({**manifest, "finding": ""}))
    with pytest.raises(BundleError, match="finding must be a text"):
        read_bundle(bundle_folder)


def test_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        read_bundle(tmp_path)


def test_altered_weights_are_refused(bundle_folder: Path) -> None:
    weights = bundle_folder / "model.keras"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(BundleError, match="damaged or was altered"):
        read_bundle(bundle_folder).check_weights()


def test_missing_weights_are_refused(bundle_folder: Path) -> None:
    (bundle_folder / "model.keras").unlink()
    with pytest.raises(BundleError, match=r"model\.keras cannot be read"):
        read_bundle(bundle_folder).check_weights()


def test_shipped_bundle_is_whole_and_of_this_preprocessing() -> None:
    bundle = read_bundle(shipped_bundle_path())
    bundle.check_weights()
    assert bundle.path.name == f"{bundle.name}-{bundle.version}"
    assert bundle.preprocess_version == preprocess.VERSION
    assert bundle.preprocess_parameters == preprocess.parameters()
    assert bundle.metrics["auc"] >= 0.98
    assert bundle.operating_points.rule_out.sensitivity >= 0.99
    assert bundle.operating_points.rule_in.specificity >= 0.95
    assert bundle.ood.auroc >= 0.98
    assert bundle.ood.false_refusals <= 0.01
    size = sum(file.stat().st_size for file in bundle.path.iterdir())
    assert size <= 20_000_000


def test_no_older_keras_is_allowed_than_the_shipped_network_was_saved_with() -> None:
    """An older one refuses arguments of layers that it does not know."""
    with zipfile.ZipFile(shipped_bundle_path() / WEIGHTS) as archive:
        saved = json.loads(archive.read("metadata.json"))["keras_version"]
    required = (ROOT / "pyproject.toml").read_text()
    oldest = re.findall(r'"keras>=([\d.]+),<4"', required)
    assert len(oldest) == len(re.findall(r'"keras[^.]', required)) > 0
    for version in oldest:
        assert version.split(".")[:2] == saved.split(".")[:2]
