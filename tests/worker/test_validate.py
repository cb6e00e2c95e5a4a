"""A site's labels against stored results: what is matched, what is not, and what is refused."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from db import outcomes, schema
from db.claims import INFER, PREPARE, claim
from db.engine import Database
from db.tables import InstanceState
from model.bands import Interpreter
from model.bundle import read_bundle, shipped_bundle_path
from tests.support import rows
from worker.cli import cli
from worker.validate import BadLabels, match, read_labels, report_on

BUNDLE = read_bundle(shipped_bundle_path())
PREVALENCE = 0.1
INTERPRETER = Interpreter(BUNDLE, PREVALENCE)


def predicted(database: Database, study: str, uid: str, logit: float, **changes: object) -> None:
    header = rows.StudyHeader(
        study_instance_uid=study, patient_id=f"P{study}", accession_number=f"A{study}"
    )
    rows.arrive(database, uid, header)
    rows.prepare(database, uid)
    prediction = INTERPRETER.interpret(logit)
    stored = replace(
        rows.PREDICTION,
        logit=logit,
        raw_probability=prediction.raw_probability,
        probability=prediction.probability,
        band=str(prediction.band),
        model_name=BUNDLE.name,
        model_version=BUNDLE.version,
        **changes,
    )
    with database.begin() as tx:
        (held,) = claim(tx, INFER, limit=1, lease_s=60, first=uid)
        outcomes.record_prediction(tx, held, stored)


def labels_file(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("accession_number,label\nA1,1\nA2,normal\n", "accession_number"),
        ("Label;Study_Instance_UID\npneumonia;A1\n0;A2\n\n", "study_instance_uid"),
        ("\ufeffaccession_number,sop_instance_uid,label\nx,A1,1\nx,A2,0\n", "sop_instance_uid"),
    ],
)
def test_labels_are_read_by_their_most_specific_key(tmp_path: Path, text: str, key: str) -> None:
    site = read_labels(labels_file(tmp_path, text))
    assert (site.key, dict(site.labels)) == (key, {"A1": 1, "A2": 0})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "first line must name"),
        ("patient,label\nDoe,1\n", "first line must name"),
        ("study_instance_uid,label\n", "no labels"),
        ("study_instance_uid,label\n1.2,1\n1.3,Doe\n", "line 3: the label must be"),
        ("study_instance_uid,label\n,1\n", "line 2: no identifier"),
        ("study_instance_uid,label\n1.2,1\n1.2,0\n", "line 3: labelled otherwise than in line 2"),
    ],
)
def test_bad_files_are_refused_by_line_and_never_quoted(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(BadLabels, match=complaint) as caught:
        read_labels(labels_file(tmp_path, text))
    assert "Doe" not in str(caught.value)


def test_a_picture_is_no_file_of_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"\xff\xd8\xff\xe0\x00")
    with pytest.raises(BadLabels, match="UTF-8"):
        read_labels(tmp_path / "labels.csv")


def test_a_study_is_read_by_its_most_suspicious_image_and_the_rest_is_explained(
    database: Database, tmp_path: Path
) -> None:
    predicted(database, "1.1", "1.1.1", -4.0)
    predicted(database, "1.1", "1.1.2", 3.0)
    predicted(database, "1.2", "1.2.1", -4.0)
    rows.arrive(database, "1.3.1", "1.3")
    rows.arrive(database, "1.4.1", "1.4")
    with database.begin() as tx:
        (held,) = claim(tx, PREPARE, limit=1, lease_s=60, first="1.4.1")
        outcomes.record_dismissal(tx, PREPARE, held, InstanceState.REJECTED, "lateral view")
    rows.analyse(database, "1.5.1", "1.5")
    keys = ("1.1", "1.2", "1.3", "1.4", "1.5", "1.6")
    text = "study_instance_uid,label\n" + "".join(f"{key},1\n" for key in keys)
    with database.read() as tx:
        matching = match(tx, read_labels(labels_file(tmp_path, text)), BUNDLE)
    assert {key: it.image.logit for key, it in matching.matched.items()} == {
        "1.1": 3.0,
        "1.2": -4.0,
    }
    assert matching.unmatched == {
        "1.3": "not analysed yet",
        "1.4": "rejected: lateral view",
        "1.5": "analysed by another model (test 1.0.0)",
        "1.6": "not in the database",
    }


def test_an_accession_number_of_two_studies_is_left_out(database: Database, tmp_path: Path) -> None:
    for study in ("1.1", "1.2"):
        rows.arrive(database, f"{study}.1", study)  # all of accession number A1
    text = "accession_number,label\nA1,1\n"
    with database.read() as tx:
        matching = match(tx, read_labels(labels_file(tmp_path, text)), BUNDLE)
    assert matching.unmatched == {"A1": "several studies have this accession_number"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with forty analysed studies; even ones are labelled normal."""
    database = Database(f"sqlite:///{tmp_path / 'cxr.db'}")
    schema.upgrade(database)
    for i in range(40):
        predicted(database, f"1.{i}", f"1.{i}.1", (2.5 if i % 2 else -2.5) + (i % 7) - 3)
    database.dispose()
    lines = [f"1.{i}.1,{i % 2}" for i in range(41)]
    labels_file(tmp_path, "sop_instance_uid,label\n" + "\n".join(lines))
    return tmp_path


def test_command_writes_a_report_at_the_sites_bands_and_names_no_patient(home: Path) -> None:
    env = {"CXR_HOME_DIR": str(home), "CXR_PREVALENCE": str(PREVALENCE)}
    arguments = ["validate", str(home / "labels.csv"), "--out", str(home / "out")]
    result = CliRunner().invoke(cli, arguments, env=env, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "40 of 41 labels have a result" in result.output
    assert "1 not in the database" in result.output
    report = json.loads((home / "out" / "validation.json").read_text())
    assert report["unmatched"] == {"not in the database": 1}
    threshold = BUNDLE.operating_points.balanced.threshold
    assert report["operating_points"]["balanced"]["threshold"] == threshold
    with (home / "out" / "validation.csv").open() as file:
        for line in csv.DictReader(file):
            stored = INTERPRETER.interpret(float(line["logit"]))
            assert float(line["probability"]) == pytest.approx(stored.probability, abs=1e-5)
            assert line["band"] == stored.band
            assert line["patient"].startswith("patient ")
    page = (home / "out" / "validation.html").read_text()
    assert "Labels without a result" in page
    assert "P1." not in page
    assert (home / "out" / "unmatched.csv").read_text().splitlines() == [
        "sop_instance_uid,reason",
        "1.40.1,not in the database",
    ]


def test_command_ends_with_1_and_one_line_on_a_bad_file(home: Path) -> None:
    (home / "labels.csv").write_text("study_instance_uid,label\n1.1,maybe\n")
    arguments = ["validate", str(home / "labels.csv")]
    result = CliRunner().invoke(cli, arguments, env={"CXR_HOME_DIR": str(home)})
    assert result.exit_code == 1
    assert "line 2: the label must be" in result.output


def test_one_class_is_no_report(home: Path) -> None:
    site = read_labels(labels_file(home, "sop_instance_uid,label\n1.1.1,1\n1.3.1,1\n"))
    with Database(f"sqlite:///{home / 'cxr.db'}").read() as tx:
        matching = match(tx, site, BUNDLE)
    with pytest.raises(BadLabels, match="0 normal and 2 with pneumonia"):
        report_on(site, matching, BUNDLE, INTERPRETER, PREVALENCE, home / "out")
