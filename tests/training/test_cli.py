"""`cxr-train` from a folder of pictures to a bundle that the worker loads."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from dicom_io import preprocess
from model.bands import Interpreter
from model.bundle import read_bundle
from model.errors import BundleError
from model.predict import Predictor
from tests.training.conftest import write_pictures
from training.cli import main
from training.dataset import Dataset
from training.predictions import read_predictions

pytestmark = pytest.mark.timeout(600)  # one fixture fits a real network


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def exported(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder after fit, calibrate, evaluate and export of the default recipe."""
    work = tmp_path_factory.mktemp("work")
    cache = ("--cache", work / "cache")
    recipe = ("fit", "efficientnet-lite0", "--data", data_folder, "--run", work / "run")
    run(*recipe, "--epochs", 2, "--folds", 4, *cache)
    run("calibrate", work / "run", *cache)
    assert "AUC" in run("evaluate", work / "run", *cache)
    run("export", work / "run", "--version", "0.0.1", "--out", work / "bundles", *cache)
    return work


def test_bundle_gives_the_logits_of_the_run(exported: Path, dataset: Dataset) -> None:
    bundle = read_bundle(exported / "bundles" / "efficientnet-lite0-0.0.1")
    predictor = Predictor(bundle, preprocess_version=preprocess.VERSION)
    predictions = read_predictions(exported / "run" / "predictions.csv")
    indices = [dataset.names.index(name) for name in predictions.names]
    served = predictor.logits(np.asarray(dataset.pixels[indices]))
    np.testing.assert_allclose(served, predictions.logits, atol=1e-3)
    assert Interpreter(bundle, 0.1).interpret(float(served[0])).band in {
        "negative",
        "review",
        "positive",
    }


def test_saliency_of_a_bundle_can_be_tried(exported: Path, data_folder: Path) -> None:
    bundle = exported / "bundles" / "efficientnet-lite0-0.0.1"
    said = run("saliency", bundle, "--data", data_folder, "--pictures", 50)
    assert "hottest 10% hidden" in said
    assert "central thorax" in said


def test_bundle_holds_card_plot_and_manifest_without_local_paths(exported: Path) -> None:
    folder = exported / "bundles" / "efficientnet-lite0-0.0.1"
    assert {file.name for file in folder.iterdir()} == {
        "MODEL_CARD.md",
        "evaluation.png",
        "manifest.json",
        "model.keras",
        "ood.npz",
        "ood.png",
        "validation.csv",
    }
    for name in ("MODEL_CARD.md", "manifest.json", "validation.csv"):
        assert str(exported.parent) not in (folder / name).read_text()
    assert "Not for diagnostic use" in (folder / "MODEL_CARD.md").read_text()
    plot = cv2.imread(str(folder / "evaluation.png"))
    assert plot is not None
    assert min(plot.shape[:2]) > 600
    assert read_bundle(folder).training_prevalence == pytest.approx(0.5, abs=0.1)


def test_bundle_of_other_preprocessing_is_refused(exported: Path) -> None:
    bundle = read_bundle(exported / "bundles" / "efficientnet-lite0-0.0.1")
    with pytest.raises(BundleError, match="preprocessing version"):
        Predictor(bundle, preprocess_version=preprocess.VERSION + 1)


def test_published_bundle_is_never_overwritten(exported: Path) -> None:
    arguments = ["export", str(exported / "run"), "--version", "0.0.1"]
    places = ["--out", str(exported / "bundles"), "--cache", str(exported / "cache")]
    result = CliRunner().invoke(main, [*arguments, *places])
    assert result.exit_code == 1
    assert "never changes" in result.output


def test_bundle_gets_a_new_score_under_the_same_weights(
    exported: Path, data_folder: Path, tmp_path: Path
) -> None:
    old = exported / "bundles" / "efficientnet-lite0-0.0.1"
    where = ("--data", data_folder, "--out", tmp_path, "--cache", exported / "cache")
    report = json.loads(run("ood", old, *where, "--version", "0.0.2").split("\nbundle: ")[0])
    new = read_bundle(tmp_path / "efficientnet-lite0-0.0.2")
    new.check_weights()
    assert new.version == "0.0.2"
    assert new.weights_sha256 == read_bundle(old).weights_sha256
    assert new.ood.auroc == report["auroc_blind"]
    before, after = ((it / "MODEL_CARD.md").read_text().split("\n", 1) for it in (old, new.path))
    assert after[0] == "# efficientnet-lite0 0.0.2"
    assert after[1] == before[1]


def test_a_bundle_of_other_pictures_is_not_scored_anew(exported: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", 2, seed=9)
    old = exported / "bundles" / "efficientnet-lite0-0.0.1"
    arguments = ["ood", old, "--data", tmp_path, "--cache", tmp_path / "cache"]
    result = CliRunner().invoke(main, [str(it) for it in arguments])
    assert result.exit_code == 1
    assert "not those that" in result.output


def test_bundle_is_evaluated_on_a_labelled_split_at_its_own_thresholds(
    exported: Path, data_folder: Path
) -> None:
    folder = exported / "bundles" / "efficientnet-lite0-0.0.1"
    where = ("--data", data_folder, "--split", "train", "--out", exported / "report")
    run("evaluate", folder, *where, "--cache", exported / "cache")
    report = json.loads((exported / "report" / "evaluation.json").read_text())
    points = read_bundle(folder).operating_points
    assert report["images"] == 32
    assert report["operating_points"]["rule_in"]["threshold"] == points.rule_in.threshold
    assert "rule_in_95" in report["operating_points"]


def test_folds_that_share_images_are_not_pooled(exported: Path) -> None:
    runs = ["pool", str(exported / "run"), str(exported / "run")]
    places = ["--out", str(exported / "pooled"), "--cache", str(exported / "cache")]
    result = CliRunner().invoke(main, [*runs, *places])
    assert result.exit_code == 1
    assert "pool different folds" in result.output


def test_report_of_a_run_is_a_page_with_galleries_and_a_line_an_image(exported: Path) -> None:
    page = (exported / "run" / "evaluation.html").read_text()
    for title in ("Training", "Subgroups", "Pneumonia called normal", "Shortcuts"):
        assert f"<h2>{title}</h2>" in page
    lines = (exported / "run" / "evaluation.csv").read_text().splitlines()
    report = json.loads((exported / "run" / "evaluation.json").read_text())
    assert len(lines) == report["images"] + 1
    assert (
        "Subgroups"
        in (exported / "bundles" / "efficientnet-lite0-0.0.1" / "MODEL_CARD.md").read_text()
    )


def write_chest(path: Path, seed: int, side: int = 256) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (side, side))
    picture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 8), None, 0, 255, cv2.NORM_MINMAX)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture.astype(np.uint8))
    return picture.astype(np.uint8)


def test_inspect_names_copies_small_cut_off_and_shared_files(tmp_path: Path) -> None:
    normal, sick = tmp_path / "train" / "NORMAL", tmp_path / "train" / "PNEUMONIA"
    picture = write_chest(normal / "IM-1.jpeg", 1)
    write_chest(normal / "IM-2.jpeg", 2)
    write_chest(sick / "person1_virus_1.jpeg", 3, side=180)
    cv2.imwrite(str(sick / "person2_virus_2.png"), cv2.resize(picture, (300, 280)))
    (normal / "IM-1-copy.jpeg").write_bytes((normal / "IM-1.jpeg").read_bytes())
    whole = (normal / "IM-2.jpeg").read_bytes()
    (normal / "IM-3.jpeg").write_bytes(whole[: len(whole) // 2])
    (normal / "IM-4.jpeg").write_bytes(b"broken")
    for name in ("NORMAL", "PNEUMONIA"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / f"{name}.jpeg").write_bytes(whole + name.encode())
    (tmp_path / "test" / "NORMAL" / "leak.jpeg").write_bytes(whole)

    sheet = tmp_path / "sheet.png"
    arguments = ["inspect", "--data", str(tmp_path), "--sheet", str(sheet)]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert any("train: 7 images (NORMAL 5, PNEUMONIA 2: 28.6%), 6 patients" in it for it in lines)
    assert any("1 sets of byte-identical files" in it for it in lines)
    assert "smaller than the model's 224 px: 1" in lines
    assert "unreadable or cut off: 2" in lines
    assert {"  train/NORMAL/IM-3.jpeg", "  train/NORMAL/IM-4.jpeg"} <= set(lines)
    assert "the same file in two splits: 1" in lines
    near = [it for it in lines if "of 256 bits" in it]
    assert any("NORMAL/IM-1.jpeg and train/PNEUMONIA/person2_virus_2.png" in it for it in near)
    drawn = cv2.imread(str(sheet))
    assert drawn is not None
    assert drawn.std() > 20


def test_inspect_reads_a_table_of_findings(tmp_path: Path) -> None:
    rows = ["Image Index,Finding Labels,Patient ID"]
    for index, finding in enumerate(("Mass", "No Finding", "Mass|Edema")):
        write_chest(tmp_path / "images" / f"{index}.png", index)
        rows.append(f"{index}.png,{finding},{index // 2}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    table = ("--csv", tmp_path / "table.csv", "--images", tmp_path / "images")
    output = run("inspect", *table, "--positive", "mass")
    assert "table.csv: 3 images (not mass 1, mass 2: 66.7%), 2 patients in 2 groups" in output


@pytest.mark.parametrize("given", [[], ["--data", "x", "--csv", "y"], ["--images", "x"]])
def test_data_is_named_in_one_layout(given: list[str]) -> None:
    for command in (["inspect"], ["fit", "scratch-cnn"]):
        result = CliRunner().invoke(main, [*command, *given])
        assert result.exit_code == 2
        assert "--data FOLDER, or by --csv FILE and --images FOLDER" in result.output


def test_unknown_recipe_names_those_there_are(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["fit", "resnet9000", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "efficientnet-lite0" in result.output


def test_missing_data_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["inspect", "--data", str(tmp_path / "nowhere" / "train")])
    assert result.exit_code == 1
    assert "has none of the folders" in result.output


def test_unfinished_run_cannot_be_calibrated(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["calibrate", str(tmp_path)])
    assert result.exit_code == 1
    assert "cxr-train fit" in result.output
