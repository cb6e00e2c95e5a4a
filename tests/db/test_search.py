"""Sorting, pages and streams of studies, on both databases."""

import base64
import json
import tracemalloc
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db import search
from db.engine import Database
from db.queries import ResultFilter
from db.search import BadCursor, Sort
from tests.support import population, rows
from tests.support.statements import asked_of


@pytest.fixture
def filled(database: Database) -> Database:
    population.fill(database, 300)
    return database


@pytest.fixture(params=[0, 1000], ids=["many", "few"])
def many_or_few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same studies, taken for many, which are read in their order, and for few."""
    monkeypatch.setattr(search, "SORTED_MAX", request.param)


def _uids(database: Database, sort: Sort, size: int, **wanted: object) -> list[str]:
    """The UIDs of every page, one after the other."""
    found: list[str] = []
    cursor = None
    while True:
        with database.read() as tx:
            page = search.page(
                tx,
                ResultFilter(**wanted),  # type: ignore[arg-type]
                sort,
                size=size,
                cursor=cursor,
            )
        found += [row["study_instance_uid"] for row in page.rows]
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


@pytest.mark.usefixtures("many_or_few")
@pytest.mark.parametrize("sort", Sort)
def test_pages_of_any_size_make_the_whole_list_once(filled: Database, sort: Sort) -> None:
    whole = _uids(filled, sort, 1000)
    assert len(whole) == len(set(whole)) == 300
    assert _uids(filled, sort, 7) == whole
    reported = _uids(filled, sort, 7, states=("reported",))
    assert reported == _uids(filled, sort, 1000, states=("reported",))
    assert 0 < len(reported) < 300
    with filled.read() as tx:
        streamed = [row["study_instance_uid"] for row in search.stream(tx, ResultFilter(), sort)]
    assert streamed == whole


def test_urgency_puts_positive_first_and_negative_last(filled: Database) -> None:
    with filled.read() as tx:
        found = list(search.stream(tx, ResultFilter(), Sort.URGENCY))
    ranks = [{"positive": 3, "review": 2, None: 1, "negative": 0}[row["band"]] for row in found]
    assert ranks == sorted(ranks, reverse=True)
    positive = [row["probability"] for row in found if row["band"] == "positive"]
    assert positive == sorted(positive, reverse=True)


def test_urgency_takes_no_notice_of_what_is_withheld(filled: Database) -> None:
    with filled.read() as tx:
        found = search.page(tx, ResultFilter(), Sort.URGENCY, size=300, withhold=True).rows
    shown = [row["band"] if row["intended_use"] == "inside" else None for row in found]
    ranks = [{"positive": 3, "review": 2, None: 1, "negative": 0}[band] for band in shown]
    assert ranks == sorted(ranks, reverse=True)


def _plans(database: Database, wanted: ResultFilter, sort: Sort, *, withhold: bool) -> list[str]:
    """How the database would read two pages; PostgreSQL, if sorting and whole tables were dear,
    which its planner knows only of large ones."""
    with database.read() as tx:
        cursor = None
        with asked_of(database) as asked:
            for _ in range(2):
                page = search.page(tx, wanted, sort, size=5, cursor=cursor, withhold=withhold)
                cursor = page.next_cursor
        pages = [(statement, values) for statement, values in asked if "key_0" in statement]
        explain = "EXPLAIN QUERY PLAN"
        if not database.is_sqlite:
            tx.conn.exec_driver_sql("SET LOCAL enable_sort = off")
            tx.conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
            explain = "EXPLAIN"
        steps = [tx.conn.exec_driver_sql(f"{explain} {query}", values) for query, values in pages]
        return [" ".join(str(step[-1]) for step in plan) for plan in steps]


@pytest.mark.parametrize("sort", Sort)
@pytest.mark.parametrize("withhold", [False, True])
def test_a_page_of_many_is_read_in_their_order(
    filled: Database, sort: Sort, withhold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SORTED_MAX", 100)
    index = {
        Sort.URGENCY: "ix_studies_urgency_shown" if withhold else "ix_studies_urgency",
        Sort.RECEIVED: "ix_studies_received_at",
        Sort.OLDEST: "ix_studies_received_at",
        Sort.PROBABILITY: "ix_studies_probability",
        Sort.ACCESSION: "ix_studies_accession",
    }[sort]
    plans = _plans(filled, ResultFilter(), sort, withhold=withhold)
    if filled.is_sqlite:  # PostgreSQL knows, of a large table, that a state has many studies
        plans += _plans(filled, ResultFilter(states=("reported",)), sort, withhold=withhold)
    for plan in plans:
        assert f"{index} " in f"{plan} "
        assert "TEMP B-TREE FOR ORDER BY" not in plan
        if "Sort" in plan:  # of what came at the very same moment
            assert "Incremental Sort" in plan
            assert sort in (Sort.RECEIVED, Sort.OLDEST)


@pytest.mark.parametrize("sort", [Sort.URGENCY, Sort.PROBABILITY, Sort.ACCESSION])
def test_few_among_many_are_found_and_sorted(filled: Database, sort: Sort) -> None:
    """Not looked for in the order of all."""
    for wanted, index in (
        (ResultFilter(since=population.START + timedelta(hours=40)), "ix_studies_received_at"),
        (ResultFilter(patient_id="P0007"), "ix_studies_patient_id"),
        (ResultFilter(origin="upload"), "ix_studies_uploaded"),
    ):
        for plan in _plans(filled, wanted, sort, withhold=True):
            assert index in plan
            assert "ix_studies_urgency" not in plan
            assert "ix_studies_probability" not in plan
            assert "ix_studies_accession " not in f"{plan} "


@pytest.mark.parametrize(
    "wanted", [ResultFilter(verdict="agree"), ResultFilter(origin="upload"), ResultFilter()]
)
def test_what_is_seldom_is_not_counted_first(filled: Database, wanted: ResultFilter) -> None:
    with filled.read() as tx, asked_of(filled) as asked:
        search.page(tx, wanted, Sort.URGENCY, size=5)
    assert len(asked) == (2 if wanted == ResultFilter() else 1)


def test_a_study_that_arrives_between_pages_neither_repeats_nor_hides_others(
    filled: Database,
) -> None:
    with filled.read() as tx:
        first = search.page(tx, ResultFilter(), Sort.RECEIVED, size=100)
    rows.arrive(filled, "9.9", "9")
    with filled.read() as tx:
        second = search.page(tx, ResultFilter(), Sort.RECEIVED, size=300, cursor=first.next_cursor)
    uids = [row["study_instance_uid"] for row in (*first.rows, *second.rows)]
    assert sorted(uids) == sorted(f"1.2.3.{number}" for number in range(1, 301))


def test_filters_combine(filled: Database) -> None:
    with filled.read() as tx:
        everything = list(search.stream(tx, ResultFilter(), Sort.RECEIVED))
        wanted = ResultFilter(
            since=population.START + timedelta(hours=5),
            until=population.START + timedelta(hours=40),
            bands=("review", "positive"),
            states=("reported",),
            model_version="1.1.0",
            intended_use="inside",
            origin="pacs",
            probability_from=0.3,
            probability_to=0.9,
        )
        found = list(search.stream(tx, wanted, Sort.RECEIVED))
    expected = [
        row
        for row in everything
        if population.START + timedelta(hours=5)
        <= row["received_at"]
        < population.START + timedelta(hours=40)
        and row["band"] in ("review", "positive")
        and row["model_version"] == "1.1.0"
        and row["intended_use"] == "inside"
        and row["origin"] == "pacs"
        and 0.3 <= row["probability"] <= 0.9
    ]
    assert found == expected
    assert found


def test_feedback_and_identity_are_filters_too(filled: Database) -> None:
    with filled.read() as tx:
        disagreed = list(search.stream(tx, ResultFilter(verdict="disagree"), Sort.RECEIVED))
        by_patient = list(search.stream(tx, ResultFilter(patient_id="P0007"), Sort.RECEIVED))
        by_accession = list(
            search.stream(tx, ResultFilter(accession_number="ACC0009"), Sort.RECEIVED)
        )
    assert 0 < len(disagreed) < 60
    assert [row["study_instance_uid"] for row in by_patient] == ["1.2.3.8"]
    assert [row["study_instance_uid"] for row in by_accession] == ["1.2.3.10"]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(
    cursor=st.one_of(
        st.text(max_size=80),
        st.lists(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
            max_size=5,
        ).map(lambda values: base64.urlsafe_b64encode(repr(values).encode()).decode()),
        st.lists(
            st.one_of(st.integers(), st.text(max_size=9), st.datetimes().map(str)), max_size=5
        ).map(lambda values: base64.urlsafe_b64encode(json.dumps(values).encode()).decode()),
    ),
    sort=st.sampled_from(Sort),
)
def test_a_made_up_cursor_is_refused_or_gives_a_page(
    database: Database, cursor: str, sort: Sort
) -> None:
    with database.read() as tx:
        try:
            page = search.page(tx, ResultFilter(), sort, size=5, cursor=cursor)
        except BadCursor:
            return
    assert page.rows == []


def test_a_stream_holds_a_bounded_number_of_rows(database: Database) -> None:
    population.fill(database, 6000)
    with database.read() as tx:
        streamed = search.stream(tx, ResultFilter(), Sort.RECEIVED)
        next(streamed)
        tracemalloc.start()
        count = sum(1 for _ in streamed)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert count == 5999
    assert peak < 8e6  # all of them at once take some 15 MB
