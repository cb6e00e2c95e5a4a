"""What people see, and that it tells nothing that it should not."""

from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient

from db.engine import Database
from tests.support import population
from tests.worker.web.conftest import MakeClient
from tests.worker.web.forms import csrf_token
from worker.web.presentation import Scale, shown


@pytest.fixture
def recent(make_client: MakeClient) -> TestClient:
    """With studies of today beside the old ones."""
    client = make_client()
    database: Database = client.app.state.web.database  # type: ignore[attr-defined]
    with database.begin() as tx:
        for table in (
            "comparisons",
            "feedback",
            "outbox",
            "objects",
            "reports",
            "instances",
            "studies",
        ):
            tx.conn.exec_driver_sql(f"DELETE FROM {table}")
    population.fill(database, 120, start=datetime.now(UTC) - timedelta(hours=21))
    return client


def test_the_worklist_shows_the_urgent_first_by_shape_and_word(recent: TestClient) -> None:
    page = recent.get("/?days=1").text
    assert page.index("▲</span> positive") < page.index("◆</span> review")
    assert 'href="/studies/1.2.3.' in page
    part = recent.get("/worklist?days=1").text
    assert "<html" not in part
    assert part.count("<tr") == 51
    assert "The next 50" in part


def test_pages_of_the_worklist_follow_each_other(recent: TestClient) -> None:
    first = recent.get("/worklist?days=all&sort=received").text
    following = first.split('class="more" href="/?')[1].split('"')[0].replace("&amp;", "&")
    second = recent.get(f"/worklist?{following}").text
    uids = [set(part.split('id="study-')[1:]) for part in (first, second)]
    assert uids[0]
    assert not uids[0] & uids[1]
    assert recent.get("/?cursor=nonsense").status_code == 400


def test_filters_narrow_the_worklist(recent: TestClient) -> None:
    page = recent.get("/worklist?days=all&band=negative&state=reported").text
    assert "negative" in page
    assert "positive" not in page
    assert (
        "No study here."
        in recent.get("/worklist?days=all&origin=upload&band=positive&state=failed").text
    )


def test_a_result_outside_the_intended_use_is_withheld_unless_marking_is_set(
    make_client: MakeClient,
) -> None:
    row = {"state": "reported", "band": "positive", "intended_use": "outside", "probability": 0.9}
    withheld = shown(row, withhold=True)
    assert (withheld.kind, withheld.probability) == ("outside", None)
    assert shown(row | {"intended_use": "unknown"}, withhold=True).probability is None
    assert shown(row, withhold=False).probability == 0.9
    study = "/studies/" + _one(make_client(), intended_use="outside", band="positive")
    assert "probability of pneumonia" not in make_client().get(study).text
    page = make_client().get(study).text
    assert "no probability is shown" in page
    assert "predicted" in page
    assert "probability 0." not in page  # not in the timeline either
    marked = make_client(outside_intended_use="mark").get(study).text
    assert "probability of pneumonia" in marked
    assert "Outside the intended use." in marked


def test_finding_a_patient_leaves_no_trace_in_a_url(recent: TestClient) -> None:
    form = {"csrf_token": csrf_token(recent, "/"), "text": "P0007"}
    answer = recent.post("/find", data=form)
    assert answer.status_code == 200
    assert "/studies/1.2.3.8" in answer.text
    assert "P0007" not in str(answer.url)
    links = [it.split('"')[0] for it in answer.text.split('href="')[1:]]
    assert not [link for link in links if "P0007" in link]


def test_patients_are_shown_only_with_the_setting(make_client: MakeClient) -> None:
    for path in ("/worklist?days=all", "/studies/1.2.3.8"):
        assert "P0007" not in make_client().get(path).text
    assert (
        "P0119" in make_client(web_show_patients=True).get("/worklist?days=all&sort=received").text
    )


def test_a_reader_disagrees_and_the_page_says_so(recent: TestClient) -> None:
    study = "/studies/" + _one(recent, band="review")
    form = {"csrf_token": csrf_token(recent, study), "verdict": "disagree", "comment": "<b>rib</b>"}
    answer = recent.post(f"{study}/feedback", data=form)
    assert answer.headers["location"] == f"{study}#feedback"
    page = recent.get(study).text
    assert "<strong>disagrees</strong> with review" in page
    assert "&lt;b&gt;rib&lt;/b&gt;" in page


def test_reprocess_and_retry_are_buttons(recent: TestClient) -> None:
    study = "/studies/" + _one(recent, band="review")
    form = {"csrf_token": csrf_token(recent, study)}
    for action in ("reprocess", "retry"):
        assert recent.post(f"{study}/{action}", data=form).headers["location"] == study
    assert "being analysed again" in recent.get(study).text


def test_the_viewer_is_linked_when_it_is_set(make_client: MakeClient) -> None:
    url = "https://pacs.example/viewer?StudyInstanceUIDs={study_instance_uid}"
    page = make_client(web_viewer_url=url).get("/studies/1.2.3.1").text
    assert "https://pacs.example/viewer?StudyInstanceUIDs=1.2.3.1" in page
    assert "PACS viewer" not in make_client().get("/studies/1.2.3.1").text


def test_the_system_page_shows_queues_charts_and_reasons(recent: TestClient) -> None:
    page = recent.get("/system").text
    for text in ("needs attention", "broker: not reachable", "prepare", "lateral view", "<rect"):
        assert text in page
    assert "Population stability index" in page


def test_unknown_pages_say_so(recent: TestClient) -> None:
    assert recent.get("/studies/9.9").status_code == 404
    assert "no such study" in recent.get("/studies/9.9").text
    assert recent.get("/nowhere").status_code == 404
    assert recent.get("/static/../app.py").status_code == 404


def test_the_scale_keeps_order_and_bounds() -> None:
    scale = Scale()
    places = [scale.x(p / 1000) for p in range(1001)]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0, scale.WIDTH)


def _one(client: TestClient, **query: str) -> str:
    found = client.get("/api/v1/studies", params=query).json()["studies"]
    return str(found[0]["study_instance_uid"])


def test_the_system_page_shows_two_models_side_by_side_where_there_are_two(
    recent: TestClient,
) -> None:
    page = recent.get("/system").text
    assert "Two models side by side" in page
    assert "other 2.0.0, the challenger, against test" in page
    assert "Difference of the models" in page
    assert "took 20 ms and 30 ms" in page
    database: Database = recent.app.state.web.database  # type: ignore[attr-defined]
    with database.begin() as tx:
        tx.conn.exec_driver_sql("DELETE FROM comparisons")
    assert "Two models side by side" not in recent.get("/system").text
