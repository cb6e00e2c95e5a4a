"""A second model on the same pictures: never before, never instead of, never in the way."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from db import comparisons, schema
from db.comparisons import newest_comparisons
from db.engine import Database
from db.tables import instances, studies
from dicom_io import preprocess
from model.bands import Interpreter
from model.bundle import Bundle, read_bundle, shipped_bundle_path
from model.predict import Outputs
from tests.support import dicom, rows
from tests.support.system import command, running, wait_for
from worker import challenger, infer, roles
from worker.agreement import agreement
from worker.challenger import Challenger
from worker.services import Services
from worker.settings import Settings
from worker.spool import Spool

PIXELS = rows.outcomes.StoredPixels(
    preprocess_version=preprocess.VERSION, rows=2, columns=2, data=b"\0\1\2\3"
)


class Says:
    """A network that says the same of every picture, and remembers who asked."""

    def __init__(self, logit: float, ood_score: float = 0.5) -> None:
        self.logit, self.ood_score = logit, ood_score
        self.asked = 0
        self.fails: Exception | None = None

    def predict(self, images: NDArray[np.uint8]) -> Outputs:
        self.asked += len(images)
        if self.fails is not None:
            raise self.fails
        n = len(images)
        return Outputs(
            logits=np.full(n, self.logit, np.float32), ood_scores=np.full(n, self.ood_score)
        )


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle(shipped_bundle_path())


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database(f"sqlite:///{tmp_path / 'cxr.db'}")
    schema.upgrade(made)
    return made


@pytest.fixture
def services(database: Database, bundle: Bundle, tmp_path: Path) -> Services:
    return Services(
        settings=Settings(),
        database=database,
        spool=Spool(tmp_path),
        bundle=bundle,
        interpreter=Interpreter(bundle, prevalence=0.1),
        notify=lambda stage, key: None,
    )


@pytest.fixture
def other(bundle: Bundle) -> tuple[Challenger, Says]:
    theirs = replace(bundle, name="other", version="9.0.0")
    says = Says(-9.0)
    return Challenger(theirs, says, Interpreter(theirs, prevalence=0.1)), says


def _wait(database: Database, count: int) -> list[str]:
    uids = [f"1.2.3.{number}" for number in range(1, count + 1)]
    for uid in uids:
        rows.arrive(database, uid)
        with database.begin() as tx:
            (held,) = rows.claim(tx, rows.PREPARE, limit=1, lease_s=60, first=uid)
            rows.outcomes.record_prepared(tx, held, PIXELS, intended_use="inside")
    return uids


def _compared(database: Database) -> list[Mapping[str, Any]]:
    with database.read() as tx:
        return newest_comparisons(tx, tx.now.replace(year=2000), limit=1000)


def _instances(database: Database) -> list[Any]:
    with database.read() as tx:
        return list(tx.conn.execute(sa.select(instances).order_by(instances.c.id)))


def test_its_answer_stands_beside_the_champions_and_counts_for_nothing(
    services: Services, other: tuple[Challenger, Says]
) -> None:
    database = services.database
    _wait(database, 3)
    infer.infer(services, Says(9.0), None, other[0])  # type: ignore[arg-type]
    found = _compared(database)
    assert len(found) == other[1].asked == 3
    assert {row["state"] for row in found} == {"predicted"}
    assert {(row["champion_band"], row["challenger_band"]) for row in found} == {
        ("positive", "negative")
    }
    assert {row["challenger_version"] for row in found} == {"9.0.0"}
    assert {row.band for row in _instances(database)} == {"positive"}
    assert {row.model_name for row in _instances(database)} == {services.bundle.name}
    with database.read() as tx:
        study = tx.conn.execute(sa.select(studies)).one()
    assert (study.state, study.revision) == ("reporting", 6)


def test_the_champions_outcome_is_committed_before_the_challenger_is_asked(
    services: Services, other: tuple[Challenger, Says], monkeypatch: pytest.MonkeyPatch
) -> None:
    _wait(services.database, 2)
    seen: list[set[str]] = []
    predict = other[1].predict

    def look(images: NDArray[np.uint8]) -> Outputs:
        seen.append({row.state for row in _instances(services.database)})
        return predict(images)

    monkeypatch.setattr(other[1], "predict", look)
    infer.infer(services, Says(9.0), None, other[0])  # type: ignore[arg-type]
    assert seen == [{"predicted"}, {"predicted"}]


def test_one_that_fails_is_counted_and_costs_no_image_its_result(
    services: Services, other: tuple[Challenger, Says]
) -> None:
    _wait(services.database, 2)
    other[1].fails = MemoryError("Canary")
    assert infer.infer(services, Says(9.0), None, other[0]) == 2  # type: ignore[arg-type]
    found = _compared(services.database)
    assert [row["state"] for row in found] == ["failed", "failed"]
    assert all("MemoryError" in row["reason"] and "Canary" not in row["reason"] for row in found)
    assert {row.state for row in _instances(services.database)} == {"predicted"}


def test_it_stops_as_soon_as_an_image_waits(
    services: Services, other: tuple[Challenger, Says], monkeypatch: pytest.MonkeyPatch
) -> None:
    _wait(services.database, 3)
    predict = other[1].predict

    def arrive(images: NDArray[np.uint8]) -> Outputs:
        if other[1].asked == 0:
            rows.arrive(services.database, "1.2.3.99")
            with services.database.begin() as tx:
                (held,) = rows.claim(tx, rows.PREPARE, limit=1, lease_s=60)
                rows.outcomes.record_prepared(tx, held, PIXELS, intended_use="inside")
        return predict(images)

    monkeypatch.setattr(other[1], "predict", arrive)
    champion = Says(9.0)
    infer.infer(services, champion, None, other[0])  # type: ignore[arg-type]
    assert (champion.asked, other[1].asked) == (3, 1)
    infer.infer(services, champion, None, other[0])  # type: ignore[arg-type]
    assert (champion.asked, other[1].asked) == (4, 4)


def test_it_lets_go_of_the_process_after_a_while_and_is_woken_again(
    services: Services, other: tuple[Challenger, Says], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer, "DRAIN_S", -1.0)
    woken: list[str] = []
    services = replace(services, notify=lambda stage, key: woken.append(stage))
    _wait(services.database, 3)
    infer.infer(services, Says(9.0), None, other[0])  # type: ignore[arg-type]
    assert other[1].asked == 1
    assert woken[-1] == "infer"
    woken.clear()
    infer.infer(services, Says(9.0), None, other[0])  # type: ignore[arg-type]
    infer.infer(services, Says(9.0), None, other[0])  # type: ignore[arg-type]
    assert other[1].asked == 3
    assert woken == ["infer"]


def test_when_too_many_wait_the_oldest_are_skipped_and_counted(
    services: Services, other: tuple[Challenger, Says], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(challenger, "WAITING_MAX", 2)
    _wait(services.database, 5)
    infer.infer(services, Says(9.0), None, other[0])  # type: ignore[arg-type]
    states = sorted((row["sop_instance_uid"], row["state"]) for row in _compared(services.database))
    assert [state for _, state in states] == ["skipped"] * 3 + ["predicted"] * 2


def test_a_database_that_is_down_costs_the_comparison_alone(
    services: Services, other: tuple[Challenger, Says], monkeypatch: pytest.MonkeyPatch
) -> None:
    _wait(services.database, 1)

    def fail(*_: object) -> None:
        raise sa.exc.OperationalError("statement", {}, Exception("down"))

    monkeypatch.setattr(challenger, "record_comparisons", fail)
    assert infer.infer(services, Says(9.0), None, other[0]) == 1  # type: ignore[arg-type]
    assert _compared(services.database) == []


def test_a_picture_that_either_finds_strange_has_no_band(
    services: Services, other: tuple[Challenger, Says]
) -> None:
    _wait(services.database, 1)
    other[1].ood_score = 1e9
    infer.infer(services, Says(9.0, ood_score=1e9), None, other[0])  # type: ignore[arg-type]
    (row,) = _compared(services.database)
    assert row["champion_band"] is row["challenger_band"] is None
    assert row["state"] == "predicted"


def test_an_image_that_is_judged_again_has_one_comparison(
    services: Services, other: tuple[Challenger, Says]
) -> None:
    (uid,) = _wait(services.database, 1)
    made = comparisons.Comparison(
        instance_id=1,
        state=comparisons.ComparisonState.PREDICTED,
        champion_name="a",
        champion_version="1",
        champion_probability=0.1,
        champion_band="negative",
        champion_s=0.1,
        challenger_name="b",
        challenger_version="2",
    )
    for instance_id in (1, 1, 77):  # the last was erased meanwhile
        with services.database.begin() as tx:
            comparisons.record_comparisons(tx, [replace(made, instance_id=instance_id)])
    assert [row["sop_instance_uid"] for row in _compared(services.database)] == [uid]


def _row(mine: float, theirs: float, *bands: str) -> dict[str, Any]:
    return {
        "state": "predicted",
        "champion_name": "a", "champion_version": "1",
        "champion_probability": mine, "champion_band": bands[0], "champion_s": 0.02,
        "challenger_name": "b", "challenger_version": "2",
        "challenger_probability": theirs, "challenger_band": bands[1], "challenger_s": 0.04,
    }  # fmt: skip


def test_the_agreement_is_what_a_hand_computes() -> None:
    failed = _row(0.5, 0.5, "review", "review") | {"state": "failed"}
    found = agreement(
        [
            _row(0.1, 0.2, "negative", "negative"),
            _row(0.2, 0.2, "negative", "review"),
            _row(0.9, 0.7, "positive", "positive"),
            failed,
        ]
    )
    assert found is not None
    assert found.states == {"predicted": 3, "failed": 1}
    assert found.same_band == pytest.approx(2 / 3)
    assert found.table["negative", "review"] == 1
    assert found.mean_difference == pytest.approx(-0.1 / 3)
    assert found.limits == pytest.approx((-0.332728, 0.266062), abs=1e-6)
    assert (found.champion_s, found.challenger_s) == (0.02, pytest.approx(0.04))
    assert agreement([]) is None


def _copy(bundle: Bundle, folder: Path, **changes: object) -> Path:
    shutil.copytree(bundle.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_one_that_cannot_be_loaded_is_none_and_check_says_why(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = _copy(bundle, tmp_path / "broken", version="9.0.0")
    (broken / "model.keras").write_bytes(b"nothing")
    same = _copy(bundle, tmp_path / "same")
    for folder, expected in (
        (tmp_path / "absent", "absent"),
        (same, "is the model in use"),
        (broken, "SHA-256"),
    ):
        settings = Settings(challenger_bundle=folder)
        assert roles._open_challenger(settings) is None
        assert "no challenger" in caplog.messages[-1]
        assert expected in caplog.messages[-1]
    done = command("check", env={"CXR_HOME_DIR": str(tmp_path), "CXR_CHALLENGER_BUNDLE": str(same)})
    assert "FAILED  challenger" in done.stderr


@pytest.mark.long
@pytest.mark.timeout(400)
def test_two_real_models_run_side_by_side_in_a_running_system(
    bundle: Bundle, tmp_path: Path
) -> None:
    folder = _copy(bundle, tmp_path / "twin", name="twin", version="9.0.0")
    with running(tmp_path / "home", CHALLENGER_BUNDLE=folder) as (system, pacs):
        study = str(generate_uid())
        system.send([dicom.write(dicom.chest(study), tmp_path)])
        system.wait_until_delivered(study)
        wait_for("the comparison", lambda: _compared(system.database))
        (row,) = _compared(system.database)
        shown = system.command("compare").stdout
        (report,) = pacs.reports(study)
        result = system.study(study)
    assert (row["state"], row["challenger_name"]) == ("predicted", "twin")
    # The same weights say the same.
    assert row["challenger_probability"] == pytest.approx(row["champion_probability"], abs=1e-4)
    assert "same band: 100.0%" in shown
    assert "twin" not in str(report)
    assert result is not None
    assert result["model_name"] == bundle.name
