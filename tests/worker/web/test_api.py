"""The JSON API: the same rows as the views, on both databases."""

import cv2
import numpy as np
import sqlalchemy as sa
from fastapi.testclient import TestClient

from db.engine import Database
from db.tables import instances
from tests.support import dicom, rows
from tests.worker.web.conftest import BEARER, TOKEN, MakeClient
from worker.home import spool_folder

V1 = "/api/v1"


def _all(client: TestClient, **query: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    cursor = None
    while True:
        page = client.get(
            f"{V1}/studies", params={**query, **({"cursor": cursor} if cursor else {})}
        )
        assert page.status_code == 200, page.text
        found += page.json()["studies"]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            return found


def test_studies_come_in_pages_filtered_and_sorted(database_url: str, local: TestClient) -> None:
    whole = _all(local, limit=200)
    assert len(whole) == 120
    assert _all(local, limit=7) == whole
    urgent = _all(local, sort="urgency", band=["positive", "review"], limit=200)
    assert {study["band"] for study in urgent} == {"positive", "review"}
    assert urgent[0]["band"] == "positive"
    one = local.get(f"{V1}/studies/{whole[0]['study_instance_uid']}").json()
    assert one == whole[0]


def test_identity_is_searched_by_post_and_refused_in_a_url(local: TestClient) -> None:
    found = local.post(f"{V1}/studies/search", json={"patient_id": "P0007"}).json()
    assert [it["study_instance_uid"] for it in found["studies"]] == ["1.2.3.8"]
    found = local.post(f"{V1}/studies/search", json={"accession_number": "ACC0009"}).json()
    assert [it["study_instance_uid"] for it in found["studies"]] == ["1.2.3.10"]
    refused = local.get(f"{V1}/studies", params={"patient_id": "P0007"})
    assert refused.status_code == 422
    assert "P0007" not in refused.text
    assert local.get(f"{V1}/studies", params={"cursor": "nonsense"}).status_code == 400


def test_a_study_has_instances_a_timeline_and_deliveries(local: TestClient) -> None:
    study = _all(local, state="reported", band="review")[0]["study_instance_uid"]
    (instance,) = local.get(f"{V1}/studies/{study}/instances").json()
    assert instance == local.get(f"{V1}/instances/{instance['sop_instance_uid']}").json()
    events = [event["what"] for event in local.get(f"{V1}/studies/{study}/timeline").json()]
    assert events[:3] == ["received", "prepared", "predicted"]
    (delivery,) = local.get(f"{V1}/studies/{study}/deliveries").json()
    assert delivery["kind"] == "sr"
    report = local.get(f"{V1}/studies/{study}/report")
    assert (report.content, report.headers["content-type"]) == (b"report", "application/dicom")
    for path in ("", "/instances", "/timeline", "/deliveries", "/feedback", "/report"):
        assert local.get(f"{V1}/studies/9.9{path}").status_code == 404, path
    assert local.get(f"{V1}/studies/not-a-uid").status_code == 422


def test_feedback_is_kept_with_who_when_and_what_it_was_about(
    database_url: str, make_client: MakeClient
) -> None:
    client = make_client(web_token=TOKEN)
    client.headers.update(BEARER)
    study = _all(client, band="positive")[0]
    path = f"{V1}/studies/{study['study_instance_uid']}/feedback"
    opinion = {"verdict": "disagree", "comment": "a rib\x00 \x1b[31mfracture", "author": "Dr Who"}
    said = client.post(path, json=opinion)
    assert said.status_code == 201
    assert said.json()["comment"] == "a rib [31mfracture"
    assert said.json()["author"] == "Dr Who"
    assert said.json()["band"] == "positive"
    assert client.get(path).json()[0] == said.json()
    disagreed = _all(client, feedback="disagree", limit=200)
    assert study["study_instance_uid"] in {it["study_instance_uid"] for it in disagreed}
    assert client.post(f"{V1}/studies/9.9/feedback", json=opinion).status_code == 404


def test_reprocessing_puts_a_studys_images_back_to_the_start(
    database_url: str, local: TestClient
) -> None:
    study = _all(local, band="review")[0]["study_instance_uid"]
    assert local.post(f"{V1}/studies/{study}/reprocess").json() == {"images": 1}
    assert local.post(f"{V1}/studies/{study}/reprocess").json() == {"images": 0}
    after = local.get(f"{V1}/studies/{study}").json()
    assert (after["state"], after["analysed_count"]) == ("analysing", 0)
    uid = local.get(f"{V1}/studies/{study}/instances").json()[0]["sop_instance_uid"]
    database = Database(database_url)
    rows.prepare(database, uid)
    rows.predict(database, uid)
    with database.read() as tx:
        query = sa.select(instances.c.state).where(instances.c.sop_instance_uid == uid)
        assert tx.conn.execute(query).scalar_one() == "predicted"
    again = local.get(f"{V1}/studies/{study}").json()
    assert (again["state"], again["analysed_count"]) == ("reporting", 1)
    database.dispose()
    assert local.post(f"{V1}/studies/9.9/reprocess").status_code == 404


def test_an_image_is_shown_as_its_header_says(local: TestClient, tmp_path: object) -> None:
    services = local.app.state.web.services  # type: ignore[attr-defined]
    ds = dicom.chest(pixels=dicom.chest_pixels(size=1500))
    file = dicom.write(ds, spool_folder(services.settings.home) / "files")
    with services.database.begin() as tx:
        tx.conn.execute(
            sa.update(instances)
            .where(instances.c.sop_instance_uid == "1.2.3.1.1")
            .values(spool_name=f"files/{file.name}")
        )
    answer = local.get(f"{V1}/instances/1.2.3.1.1/image")
    assert answer.headers["content-type"] == "image/png"
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (1024, 1024)
    assert picture.std() > 20
    assert local.get(f"{V1}/instances/1.2.3.1.1/image").content == answer.content
    gone = local.get(f"{V1}/instances/1.2.3.2.1/image")
    assert (gone.status_code, gone.json()["detail"]) == (
        404,
        "the image's file is not on this machine",
    )


def test_where_the_model_looked_lies_over_the_image(local: TestClient) -> None:
    path = f"{V1}/instances/1.2.3.1.1/saliency"
    assert local.get(path).status_code == 404
    found = np.zeros((7, 7), np.uint8)
    found[1, 5] = 255
    services = local.app.state.web.services  # type: ignore[attr-defined]
    with services.database.begin() as tx:
        tx.conn.execute(
            sa.update(instances)
            .where(instances.c.sop_instance_uid == "1.2.3.1.1")
            .values(saliency=found.tobytes(), saliency_columns=7)
        )
    answer = local.get(path)
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (512, 512, 4)
    alpha = picture[..., 3]
    hot = np.argwhere(alpha == 255).mean(axis=0)
    assert tuple(hot * 7 // 512) == (1, 5)
    assert alpha[400, 100] == 0  # hides nothing where the model did not look


def test_failures_and_status_answer(database_url: str, local: TestClient) -> None:
    failures = local.get(f"{V1}/failures", params={"since": "2026-11-01T00:00:00Z"}).json()
    assert {failure["what"] for failure in failures} >= {"image", "report"}
    status = local.get(f"{V1}/status").json()
    assert status["healthy"] is False  # no broker runs here
    assert any(problem.startswith("broker:") for problem in status["problems"])


def test_a_database_that_is_down_is_503(local: TestClient) -> None:
    web = local.app.state.web  # type: ignore[attr-defined]
    web.database.dispose()
    path = web.settings.home / "cxr.db"
    path.rename(path.with_suffix(".away"))
    (path.parent / "cxr.db").mkdir()
    assert local.get(f"{V1}/studies").status_code == 503
    assert local.get("/readyz").status_code == 503
    assert local.get("/health").status_code == 503
    assert local.get("/healthz").status_code == 200
    assert "the database cannot be reached" in local.get("/").text


def test_a_page_over_another_schema_lives_and_is_not_ready(local: TestClient) -> None:
    web = local.app.state.web  # type: ignore[attr-defined]
    with web.database.begin() as tx:
        tx.conn.execute(sa.text("UPDATE alembic_version SET version_num = '0999'"))
    answer = local.get("/readyz")
    assert (answer.status_code, local.get("/healthz").status_code) == (503, 200)
    assert "schema 0999" in answer.json()["status"]
