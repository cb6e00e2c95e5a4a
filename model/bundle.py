"""Reads a model bundle's manifest. It never imports TensorFlow, so that any process may.

A bundle is a folder `<name>-<version>` with model.keras, ood.npz, manifest.json, MODEL_CARD.md.
Reading is strict: a manifest with a field missing, unknown or of another type is refused.
"""

import hashlib
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.calibration import Calibration
from model.errors import BundleError

FORMAT = 3  # of the manifest
MANIFEST = "manifest.json"
WEIGHTS = "model.keras"
FINDING = "Pneumonia"  # of a manifest that names none; what the worker's reports speak of
UNLIKE_TRAINING = "unlike the training images"  # why a picture beyond the far limit is rejected
_CODE = ("Lambda", "__lambda__")  # class names of a layer, and of a function anywhere
SHIPPED = "efficientnet-lite0-0.4.0"


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold on the raw logit, and what it gave on the validation set."""

    threshold: float
    sensitivity: float
    specificity: float


@dataclass(frozen=True, kw_only=True)
class OperatingPoints:
    """Thresholds chosen on the validation set; they do not depend on prevalence.

    rule_out: sensitivity of at least 0.99. rule_in: specificity of at least 0.99.
    balanced: highest sum of both (Youden).
    """

    rule_out: OperatingPoint
    balanced: OperatingPoint
    rule_in: OperatingPoint


@dataclass(frozen=True, kw_only=True)
class IntendedUse:
    """Whom the model was made for; ages in years, both ends included."""

    min_age_years: float
    max_age_years: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Ood:
    """Out of distribution: from which score on a picture is unlike the training images.

    sha256: of ood.npz. layer, grid: the score is made of this layer's means over grid x grid
    regions. limit: at most 1 % of the validation chests lie beyond it. far_limit: beyond it
    nothing is reported. auroc: validation chests against `negatives` that nothing was fitted on
    or chosen by. false_refusals: the share of validation chests beyond far_limit.
    """

    sha256: str
    method: str
    layer: str
    grid: int
    limit: float
    far_limit: float
    auroc: float
    false_refusals: float
    negatives: str

    def is_outside(self, score: float) -> bool:
        return not score <= self.limit  # a score that is no number is outside as well

    def is_far(self, score: float) -> bool:
        return not score <= self.far_limit


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What a manifest says. `metrics` are plain numbers by name, of the validation set.

    finding: what the probability is of.
    """

    path: Path
    name: str
    version: str
    weights_sha256: str
    input_shape: tuple[int, int, int]
    preprocess_version: int
    preprocess_parameters: Mapping[str, int | float | str]
    calibration: Calibration
    training_data: str
    training_data_digest: str
    training_prevalence: float
    training_recipe: str
    training_split: str
    operating_points: OperatingPoints
    intended_use: IntendedUse
    ood: Ood
    metrics: Mapping[str, float]
    license: str
    finding: str = FINDING

    @property
    def weights_path(self) -> Path:
        return self.path / WEIGHTS

    def check_weights(self) -> None:
        """Raise BundleError unless model.keras is the file that the manifest names, and no program.

        Keras' safe mode refuses a program as well, when it comes to load it.
        """
        try:
            with self.weights_path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BundleError(f"{self.weights_path} cannot be read: {error.strerror}") from error
        if sha256 != self.weights_sha256:
            raise BundleError(
                f"{self.weights_path} has SHA-256 {sha256[:16]}…, but {MANIFEST} says "
                f"{self.weights_sha256[:16]}…: the file is damaged or was altered; "
                "restore the bundle or export it again"
            )
        if code := _code_in(self.weights_path):
            raise BundleError(
                f"{self.weights_path} brings Python code of its own ({code}), which would run as "
                "this program: it is not loaded; build the network of Keras' own layers and "
                "export it again"
            )


def _code_in(weights: Path) -> str | None:
    """What in a saved network's description is Python code, by its class; None if nothing is."""
    found = []

    def look(described: dict[str, Any]) -> None:
        if described.get("class_name") in _CODE:
            found.append(described["class_name"])

    try:
        with zipfile.ZipFile(weights) as archive:
            json.loads(archive.read("config.json"), object_hook=look)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(f"{weights} is no network that Keras has saved: {error}") from error
    return found[-1] if found else None  # the last is the outermost


def shipped_bundle_path() -> Path:
    """The bundle that the distribution carries, in a checkout and in a wheel."""
    return Path(__file__).parent / "bundles" / SHIPPED


def read_bundle(path: Path) -> Bundle:
    """Read a bundle's manifest; the weights are only checked when they are loaded.

    Raises BundleError, naming the file and the field, when anything is not as it must be.
    """
    manifest = Path(path) / MANIFEST
    try:
        document = json.loads(manifest.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise BundleError(f"{manifest} cannot be read: {reason}; is it a bundle?") from error
    except ValueError as error:
        raise BundleError(f"{manifest} is not JSON: {error}") from error
    return _Reader(manifest).bundle(document)


class _Reader:
    """Turns a manifest's JSON into a Bundle, or says which field is wrong."""

    def __init__(self, manifest: Path) -> None:
        self.manifest = manifest

    def bundle(self, document: object) -> Bundle:
        fields = self.fields(
            document,
            "",
            "format name version weights_sha256 input_shape preprocess calibration training "
            "operating_points intended_use ood metrics license",
            optional="finding",
        )
        if self.integer(fields, "format") != FORMAT:
            self.fail("format", f"{FORMAT}, the one this version of cxr-worker reads")
        preprocess = self.fields(fields["preprocess"], "preprocess", "version parameters")
        training = self.fields(
            fields["training"], "training", "data data_digest prevalence recipe split"
        )
        use = self.fields(
            fields["intended_use"], "intended_use", "min_age_years max_age_years text"
        )
        calibration = self.fields(fields["calibration"], "calibration", "temperature")
        points = self.fields(
            fields["operating_points"], "operating_points", "rule_out balanced rule_in"
        )
        return Bundle(
            path=self.manifest.parent,
            name=self.text(fields, "name"),
            version=self.text(fields, "version"),
            weights_sha256=self.sha256(fields, "weights_sha256"),
            input_shape=self.shape(fields["input_shape"]),
            preprocess_version=self.integer(preprocess, "version"),
            preprocess_parameters=self.mapping(preprocess, "parameters", (int, float, str)),
            calibration=Calibration(temperature=self.number(calibration, "temperature", above=0)),
            training_data=self.text(training, "data"),
            training_data_digest=self.sha256(training, "data_digest"),
            training_prevalence=self.number(training, "prevalence", above=0, below=1),
            training_recipe=self.text(training, "recipe"),
            training_split=self.text(training, "split"),
            operating_points=OperatingPoints(
                rule_out=self.point(points, "rule_out"),
                balanced=self.point(points, "balanced"),
                rule_in=self.point(points, "rule_in"),
            ),
            intended_use=IntendedUse(
                min_age_years=self.number(use, "min_age_years"),
                max_age_years=self.number(use, "max_age_years"),
                text=self.text(use, "text"),
            ),
            ood=self.ood(fields),
            metrics=self.mapping(fields, "metrics", (int, float)),
            license=self.text(fields, "license"),
            finding=self.text({"finding": FINDING, **fields}, "finding"),
        )

    def ood(self, document: Mapping[str, Any]) -> Ood:
        names = "sha256 method layer grid limit far_limit auroc false_refusals negatives"
        fields = self.fields(document["ood"], "ood", names)
        limit = self.number(fields, "limit", above=0)
        far_limit = self.number(fields, "far_limit", above=0)
        if far_limit < limit:
            self.fail("ood.far_limit", f"no lower than ood.limit ({limit})")
        return Ood(
            sha256=self.sha256(fields, "sha256"),
            method=self.text(fields, "method"),
            layer=self.text(fields, "layer"),
            grid=self.integer(fields, "grid"),
            limit=limit,
            far_limit=far_limit,
            auroc=self.number(fields, "auroc"),
            false_refusals=self.number(fields, "false_refusals"),
            negatives=self.text(fields, "negatives"),
        )

    def fail(self, field: str, expected: str) -> None:
        raise BundleError(f"{self.manifest}: {field} must be {expected}")

    def fields(
        self, value: object, where: str, expected: str, optional: str = ""
    ) -> dict[str, Any]:
        """An object with exactly these fields, and perhaps the optional ones."""
        names = expected.split()
        if not isinstance(value, dict):
            raise BundleError(f"{self.manifest}: {where or 'the manifest'} must be an object")
        prefix = f"{where}." if where else ""
        for name in names:
            if name not in value:
                raise BundleError(f"{self.manifest}: {prefix}{name} is missing")
        for name in value:
            if name not in names and name not in optional.split():
                raise BundleError(f"{self.manifest}: {prefix}{name} is not a known field")
        return value

    def text(self, fields: Mapping[str, Any], name: str) -> str:
        value = fields[name]
        if not isinstance(value, str) or not value:
            self.fail(name, "a text")
        return str(value)

    def sha256(self, fields: Mapping[str, Any], name: str) -> str:
        value = self.text(fields, name)
        if not re.fullmatch("[0-9a-f]{64}", value):
            self.fail(name, "a SHA-256 in 64 hexadecimal digits")
        return value

    def integer(self, fields: Mapping[str, Any], name: str) -> int:
        value = fields[name]
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(name, "an integer")
        return int(value)

    def number(
        self,
        fields: Mapping[str, Any],
        name: str,
        *,
        above: float = -math.inf,
        below: float = math.inf,
    ) -> float:
        value = fields[name]
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if not (plain and math.isfinite(value) and above < value < below):
            self.fail(name, f"a number between {above} and {below}")
        return float(value)

    def shape(self, value: object) -> tuple[int, int, int]:
        whole = isinstance(value, list) and all(type(side) is int and side > 0 for side in value)
        if not (whole and isinstance(value, list) and len(value) == 3):  # noqa: PLR2004
            raise BundleError(f"{self.manifest}: input_shape must be [rows, columns, channels]")
        rows, columns, channels = value
        return rows, columns, channels

    def mapping(
        self, fields: Mapping[str, Any], name: str, types: tuple[type, ...]
    ) -> dict[str, Any]:
        value = fields[name]
        if not isinstance(value, dict) or not all(type(item) in types for item in value.values()):
            self.fail(name, "an object of plain values")
        return dict(value)

    def point(self, points: Mapping[str, Any], name: str) -> OperatingPoint:
        fields = self.fields(
            points[name], f"operating_points.{name}", "threshold sensitivity specificity"
        )
        return OperatingPoint(
            threshold=self.number(fields, "threshold"),
            sensitivity=self.number(fields, "sensitivity"),
            specificity=self.number(fields, "specificity"),
        )
