"""A model is replaced between the analysis of a study and a report of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset

from db.engine import Database
from db.tables import instances, studies
from tests.support import dicom, stored
from tests.support.system import Pacs, lone_pacs
from tests.worker.test_saliency import Site
from worker import report
from worker.receive import SUCCESS

pacs = pytest.fixture(lone_pacs)


@pytest.fixture
def site(database: Database, tmp_path: Path, pacs: Pacs) -> Site:
    return Site(tmp_path, database, pacs)


def _replace_model(site: Site, pacs: Pacs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next version of the bundle, as a worker finds it that begins now."""
    site.bundle = replace(site.bundle, version="99.0.0")
    site.configure(pacs)
    monkeypatch.setattr(report, "_BEGAN_S", report.time.monotonic())


def _states(site: Site) -> list[str]:
    query = sa.select(instances.c.state).order_by(instances.c.id)
    with site.database.read() as tx:
        return list(tx.conn.execute(query).scalars())


def _models(document: Dataset) -> set[str]:
    """Names and versions that a report gives, at any depth."""
    found = set()
    for element in document.iterall():
        if element.keyword in ("TextValue", "SoftwareVersions") and "." in str(element.value):
            found.add(str(element.value))
    return found


def _again(site: Site, ds: Dataset) -> None:
    assert stored.store(ds, site.spool, site.database) == SUCCESS


def test_what_was_reported_stays_when_only_the_model_is_another(
    site: Site, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.store(site.first)
    _replace_model(site, pacs, monkeypatch)
    _again(site, pacs.reports(site.study)[0])  # the PACS routes our own report back
    assert site.report() == 1
    site.deliver()
    assert len(pacs.reports(site.study)) == 1
    assert _states(site) == ["predicted", "rejected"]


def test_a_late_image_has_the_new_model_look_at_all_of_its_study(
    site: Site, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.store(site.first)
    old = site.bundle.version
    _replace_model(site, pacs, monkeypatch)
    late = dicom.chest(site.study, pixels=dicom.chest_pixels(seed=1))
    _again(site, late)
    site.predict(late)
    assert site.report() == 1
    assert _states(site) == ["received", "predicted"]
    site.predict(site.first)
    assert site.report() == 1
    site.deliver()
    first, second = pacs.reports(site.study)
    assert old in _models(first)
    assert "99.0.0" in _models(second)
    assert old not in _models(second)


def test_a_late_image_of_a_study_without_pixels_is_reported_and_not_looked_at_for_ever(
    site: Site, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.store(site.first)
    with site.database.begin() as tx:
        tx.conn.execute(sa.update(instances).values(purged_at=tx.now))
    _replace_model(site, pacs, monkeypatch)
    late = dicom.chest(site.study, pixels=dicom.chest_pixels(seed=1))
    _again(site, late)
    site.predict(late, probability=0.99)
    assert site.report() == 1
    assert _states(site) == ["predicted", "predicted"]
    site.deliver()
    assert len(pacs.reports(site.study)) == 2
    assert "99.0.0" in _models(pacs.reports(site.study)[1])  # the late one is shown


@pytest.mark.parametrize("why", ["no pixels", "inference has the old model"])
def test_what_cannot_be_analysed_again_is_reported_under_its_own_model(
    site: Site, pacs: Pacs, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    old = {"model_name": site.bundle.name, "model_version": site.bundle.version}
    _again(site, site.first)
    if why == "no pixels":
        site.predict(site.first)
        with site.database.begin() as tx:
            tx.conn.execute(sa.update(instances).values(purged_at=tx.now))
    _replace_model(site, pacs, monkeypatch)
    if why != "no pixels":
        site.predict(site.first, **old)
    assert site.report() == 1
    site.deliver()
    (document,) = pacs.reports(site.study)
    assert old["model_version"] in _models(document)
    assert "99.0.0" not in _models(document)
    with site.database.read() as tx:
        assert (
            tx.conn.execute(sa.select(studies.c.model_version)).scalar_one() == old["model_version"]
        )
