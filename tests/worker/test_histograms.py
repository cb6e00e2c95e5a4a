"""Latency histograms: what one process counts from look to look, whoever did the work."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from db import arrivals, latencies, schema
from db.engine import Database
from tests.support import rows
from worker.histograms import BOUNDS_S, LAG, SPAN_MAX, Histograms

START = datetime(2026, 11, 1, 8, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Site:
    """A database whose clock a test moves."""

    def __init__(self, url: str) -> None:
        self.now = START
        self.database = Database(url, clock=lambda _conn: self.now)

    def store(self, uid: str, store_s: float) -> None:
        with self.database.begin() as tx:
            arrivals.record_arrival(
                tx, rows.arrival(uid), settle_s=0, max_age_days=7, store_s=store_s
            )

    def look(self, histograms: Histograms) -> dict[str, float]:
        """The samples of the stage store, by bucket, and their count and sum."""
        with self.database.read() as tx:
            samples = [it for metric in histograms.read(tx) for it in metric.samples]
        return {
            it.labels.get("le", it.name.rsplit("_", 1)[1]): it.value
            for it in samples
            if it.labels.get("stage") == "store"
        }


@pytest.fixture
def site(database_url: str) -> Iterator[Site]:
    made = Site(database_url)
    schema.upgrade(made.database)
    yield made
    made.database.dispose()


def test_buckets_add_up_from_look_to_look(site: Site) -> None:
    histograms = Histograms()
    assert set(site.look(histograms).values()) == {0}
    site.store("1.2.3.1", 0.02)
    site.now += LAG - SECOND
    assert site.look(histograms)["count"] == 0  # another one may still be under way
    site.now += SECOND
    assert site.look(histograms)["count"] == 1
    site.store("1.2.3.2", 7.0)
    site.now += LAG
    seen = site.look(histograms)
    assert (seen["0.01"], seen["0.025"], seen["5.0"], seen["10.0"]) == (0, 1, 1, 2)
    assert (seen["+Inf"], seen["count"], seen["sum"]) == (2, 2, pytest.approx(7.02))
    assert len(seen) == len(BOUNDS_S) + 3
    site.now += SECOND
    assert site.look(histograms) == seen


def test_a_process_that_starts_again_counts_from_zero_and_loses_none_that_ends_then(
    site: Site,
) -> None:
    site.look(Histograms())
    site.store("1.2.3.1", 0.02)
    site.now += LAG / 2
    again = Histograms()
    assert site.look(again)["count"] == 0
    site.now += LAG
    assert site.look(again)["count"] == 1


def test_who_was_not_asked_for_long_catches_up_bit_by_bit(site: Site) -> None:
    histograms = Histograms()
    site.look(histograms)
    for number in range(4):
        site.store(f"1.2.3.{number}", 0.02)
        site.now += SPAN_MAX
    counts = [site.look(histograms)["count"] for _ in range(6)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == 4


def test_a_clock_that_was_set_back_stops_no_counting(site: Site) -> None:
    histograms = Histograms()
    site.look(histograms)
    site.now -= timedelta(hours=5)
    site.look(histograms)
    site.store("1.2.3.1", 0.02)
    site.now += LAG
    assert site.look(histograms)["count"] == 1


def test_a_look_that_failed_is_made_up_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    histograms = Histograms()
    site.look(histograms)
    site.store("1.2.3.1", 0.02)
    site.now += LAG
    with monkeypatch.context() as broken:
        broken.setattr(latencies, "count_turnaround", _fail)
        with pytest.raises(TimeoutError):
            site.look(histograms)
    assert site.look(histograms)["count"] == 1


def _fail(*_: object, **__: object) -> None:
    raise TimeoutError
