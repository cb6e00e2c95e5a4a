"""Files dropped on the page: marked, under UIDs of their own, never delivered, bounded."""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import sqlalchemy as sa
from fastapi.testclient import TestClient
from pydicom import dcmread

from db.tables import instances, studies
from dicom_io import eligibility, preprocess
from tests.support import dicom
from tests.worker.web.conftest import MakeClient
from tests.worker.web.forms import csrf_token
from worker.receive import Receiver

Files = dict[str, bytes]


def _upload(client: TestClient, files: Files, **form: str) -> str:
    answer = client.post(
        "/try",
        data={"csrf_token": csrf_token(client, "/try"), **form},
        files=[("files", (name, content)) for name, content in files.items()],
    )
    assert answer.status_code == 200, answer.text
    return answer.text


def _rows(client: TestClient) -> list[sa.Row[tuple[object, ...]]]:
    web = client.app.state.web  # type: ignore[attr-defined]
    with web.database.read() as tx:
        query = (
            sa.select(instances, studies.c.is_upload, studies.c.backlog.label("undelivered"))
            .join(studies, studies.c.id == instances.c.study_id)
            .where(instances.c.calling_ae_title == "WEB UPLOAD")
        )
        return list(tx.conn.execute(query))


def _stored(client: TestClient, row: sa.Row[tuple[object, ...]]) -> Path:
    web = client.app.state.web  # type: ignore[attr-defined]
    path: Path = web.services.spool.path(row.spool_name)
    return path


def _dicom(folder: Path, **changes: object) -> tuple[str, bytes]:
    ds = dicom.chest(**changes)
    return str(ds.StudyInstanceUID), dicom.write(ds, folder).read_bytes()


def test_dicom_files_get_uids_of_their_own_and_those_of_a_study_stay_together(
    local: TestClient, tmp_path: Path
) -> None:
    study, first = _dicom(tmp_path)
    _, second = _dicom(tmp_path, study=study)
    page = _upload(local, {"one.dcm": first, "two": second})
    assert page.count("accepted, see its study") == 2
    rows = _rows(local)
    assert [(row.is_upload, row.undelivered, row.state) for row in rows] == [
        (True, True, "received"),
        (True, True, "received"),
    ]
    assert rows[0].study_id == rows[1].study_id
    stored = dcmread(_stored(local, rows[0]))
    assert stored.StudyInstanceUID != study
    assert stored.PixelData == dcmread(BytesIO(first)).PixelData
    listed = local.get("/worklist?days=all&origin=upload&sort=received").text
    assert "uploaded" in listed


def test_a_picture_becomes_what_predict_sees_grey_value_by_grey_value(
    local: TestClient, tmp_path: Path
) -> None:
    picture = (dicom.chest_pixels(size=301) >> 4).astype(np.uint8)
    path = tmp_path / "child.png"
    cv2.imwrite(str(path), picture)
    _upload(local, {"child.png": path.read_bytes()}, age_years="3")
    (row,) = _rows(local)
    ds = dcmread(_stored(local, row))
    assert eligibility.reason_to_reject(ds) is None
    assert np.array_equal(preprocess.grey_of(ds), picture)
    assert np.array_equal(preprocess.from_dataset(ds), preprocess.from_file(path))
    assert ds.PatientAge == "003Y"


def test_what_is_no_image_is_refused_with_its_reason(local: TestClient, tmp_path: Path) -> None:
    _, good = _dicom(tmp_path)
    page = _upload(
        local,
        {
            "<b>.png": b"\x89PNG\r\n\x1a\n" + b"rubbish" * 50,
            "notes.txt": b"text" * 100,
            "../../etc/passwd.dcm": b"\0" * 128 + b"DICM" + b"\xff" * 300,
            "cut.dcm": good[: len(good) // 2],
        },
    )
    assert page.count("refused: ") == 4
    assert "&lt;b&gt;.png" in page
    assert "etc/passwd" not in page
    assert _rows(local) == []
    spool = local.app.state.web.services.spool  # type: ignore[attr-defined]
    assert list(spool.temp.iterdir()) == []


def test_too_many_files_and_a_wrong_age_are_refused(local: TestClient) -> None:
    form = {"csrf_token": csrf_token(local, "/try")}
    many = [("files", (f"{number}.png", b"x")) for number in range(21)]
    assert local.post("/try", data=form, files=many).status_code == 422
    old = local.post("/try", data=form | {"age_years": "999"}, files=many[:1])
    assert old.status_code == 422


def test_an_upload_that_a_crash_left_without_a_row_is_still_an_upload(
    make_client: MakeClient, tmp_path: Path
) -> None:
    client = make_client()
    web = client.app.state.web  # type: ignore[attr-defined]
    path = dicom.write(dicom.chest(), tmp_path)
    web.services.spool.store(path, "1.2", is_upload=True)  # and then the process ends
    receiver: Receiver = web.receiver()
    assert receiver.adopt_if_needed() == 1
    with web.database.read() as tx:
        newest = sa.select(studies).order_by(studies.c.id.desc()).limit(1)
        row = tx.conn.execute(newest).one()
    assert (row.is_upload, row.backlog) == (True, True)


def test_without_a_spool_the_page_says_where_to_upload(local: TestClient) -> None:
    spool = local.app.state.web.services.spool  # type: ignore[attr-defined]
    spool.temp.rename(spool.temp.with_name("away"))
    form = {"csrf_token": csrf_token(local, "/try")}
    answer = local.post("/try", data=form, files=[("files", ("a.png", b"x"))])
    assert answer.status_code == 503
    assert "upload where the listener runs" in answer.text
