"""Pictures that a report refers to: whoever gets the report has them, or gets them with it."""

import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset

from db import queries, restarts
from db.engine import Database
from db.outcomes import StoredSaliency
from db.tables import instances, studies
from dicom_io.rejection import KEY_OBJECT_SELECTION, Reason
from model.bundle import read_bundle, shipped_bundle_path
from tests.support import dicom, rows, stored
from tests.support.system import Pacs, lone_pacs
from worker import deliver, report
from worker.destinations import parse
from worker.receive import SUCCESS
from worker.retract import retract
from worker.services import Services, make_interpreter
from worker.settings import Settings
from worker.spool import Spool

MAP = StoredSaliency(columns=7, data=bytes(range(0, 245, 5)))


class Site:
    """One study on its way to the PACS."""

    def __init__(self, folder: Path, database: Database, *destinations: Pacs) -> None:
        self.database = database
        self.bundle = read_bundle(shipped_bundle_path())
        self.spool = Spool(folder / "spool")
        self.spool.create()
        self.configure(*destinations)
        self.first = dicom.chest()
        self.study = str(self.first.StudyInstanceUID)

    def configure(self, *destinations: Pacs) -> None:
        recipients = [parse(it.destination) for it in destinations]
        settings = Settings.model_validate({"destinations": recipients})
        self._services = Services(
            settings=settings,
            database=self.database,
            spool=self.spool,
            bundle=self.bundle,
            interpreter=make_interpreter(settings, self.bundle),
            notify=lambda stage, key: None,
        )

    def store(self, ds: Dataset) -> None:
        assert stored.store(ds, self.spool, self.database) == SUCCESS
        self.analyse(ds)

    def analyse(self, ds: Dataset) -> None:
        """To its report, and to where that goes."""
        self.predict(ds)
        assert self.report() == 1
        self.deliver()

    def predict(self, ds: Dataset, **changes: object) -> None:
        rows.prepare(self.database, ds.SOPInstanceUID)
        model = {"model_name": self.bundle.name, "model_version": self.bundle.version}
        rows.predict(self.database, ds.SOPInstanceUID, **({"saliency": MAP} | model | changes))

    def report(self) -> int:
        return report.report(self._services, self.study)

    def deliver(self) -> None:
        for recipient in self._services.settings.recipients:
            deliver.deliver(self._services, recipient.name)

    def retract(self) -> None:
        retract(self._services.settings, self.database, self.study, Reason.QUALITY)
        self.deliver()

    def release(self) -> None:
        with self.database.begin() as tx:
            restarts.reprocess(tx, self.study, max_age_days=7, deliver_anyway=True)


pacs = pytest.fixture(lone_pacs)


other_pacs = pytest.fixture(lone_pacs)


def _named(document: Dataset) -> set[str]:
    """What a report or a note has as its evidence."""
    return {
        str(item.ReferencedSOPInstanceUID)
        for study in document.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }


def _shown(pacs: Pacs, study: str, images: set[str]) -> set[str]:
    """The pictures that the newest report refers to: the PACS has them."""
    pictures = _named(pacs.reports(study)[-1]) - images
    assert pictures <= {str(ds.SOPInstanceUID) for ds in pacs.pictures(study)}
    return pictures


def test_a_report_after_a_retraction_refers_to_nothing_that_was_withdrawn(
    database: Database, tmp_path: Path, pacs: Pacs
) -> None:
    site = Site(tmp_path, database, pacs)
    images = {str(site.first.SOPInstanceUID)}
    site.store(site.first)
    (withdrawn,) = _shown(pacs, site.study, images)
    for count in (2, 3):
        site.retract()
        (*_, note) = (ds for ds in pacs.received if ds.SOPClassUID == KEY_OBJECT_SELECTION)
        assert withdrawn in _named(note)
        site.release()
        site.analyse(site.first)
        assert len(pacs.pictures(site.study)) == count
        (picture,) = _shown(pacs, site.study, images)
        assert picture != withdrawn
        withdrawn = picture


def test_a_report_refers_to_no_picture_that_its_destination_was_never_sent(
    database: Database, tmp_path: Path, pacs: Pacs, other_pacs: Pacs
) -> None:
    site = Site(tmp_path, database)
    late = [dicom.chest(site.study, pixels=dicom.chest_pixels(seed=it)) for it in range(3)]
    site.store(site.first)  # to nobody
    site.configure(pacs)
    images = {str(it.SOPInstanceUID) for it in (site.first, *late)}
    site.store(late[0])
    assert len(_shown(pacs, site.study, images)) == 2
    site.configure(pacs, other_pacs)
    site.store(late[1])
    assert len(_shown(pacs, site.study, images)) == 3
    assert _shown(other_pacs, site.study, images) == _shown(pacs, site.study, images)
    before = len(pacs.pictures(site.study))
    site.store(late[2])
    assert len(_shown(pacs, site.study, images)) == 4
    assert len(pacs.pictures(site.study)) == before + 1  # what both have is not made again


def test_the_outline_is_in_the_part_that_a_shutter_leaves(
    database: Database, tmp_path: Path, pacs: Pacs
) -> None:
    """The model sees the cut picture; the report's outline is laid over the whole image."""
    site = Site(tmp_path, database, pacs)
    site.first = dicom.chest(
        site.study,
        pixels=dicom.chest_pixels(1000),
        ShutterShape="RECTANGULAR",
        ShutterUpperHorizontalEdge=100,
        ShutterLowerHorizontalEdge=701,
        ShutterLeftVerticalEdge=400,
        ShutterRightVerticalEdge=1001,
    )
    hottest = StoredSaliency(columns=7, data=bytes(8) + b"\xff" + bytes(40))  # second of second row
    assert stored.store(site.first, site.spool, database) == SUCCESS
    site.predict(site.first, saliency=hottest)
    assert site.report() == 1
    site.deliver()
    (document,) = pacs.reports(site.study)
    (line,) = [it.value for it in document.iterall() if it.keyword == "GraphicData"]
    columns, rows_ = line[::2], line[1::2]
    middle = ((min(columns) + max(columns)) / 2, (min(rows_) + max(rows_)) / 2)
    assert middle == pytest.approx((400 + 600 * 1.5 / 7, 100 + 600 * 1.5 / 7), abs=30)


def test_an_image_whose_file_is_lost_is_reported_with_the_patient_of_the_others(
    database: Database, tmp_path: Path, pacs: Pacs
) -> None:
    site = Site(tmp_path, database, pacs)
    late = dicom.chest(site.study, pixels=dicom.chest_pixels(seed=1))
    for ds in (site.first, late):
        assert stored.store(ds, site.spool, database) == SUCCESS
        site.predict(ds)
    query = sa.select(instances.c.spool_name).order_by(instances.c.id)
    with database.read() as tx:
        lost, _ = tx.conn.execute(query).scalars()
    site.spool.remove(lost)
    assert site.report() == 1
    site.deliver()
    (document,) = pacs.reports(site.study)
    assert (document.PatientID, document.PatientName) == (late.PatientID, late.PatientName)
    assert document.AccessionNumber == late.AccessionNumber


def test_no_report_is_made_while_the_spool_is_not_there(
    database: Database, tmp_path: Path, pacs: Pacs
) -> None:
    """A volume that is not mounted, or a database that was restored before its spool."""
    site = Site(tmp_path, database, pacs)
    away = tmp_path / "away"
    assert stored.store(site.first, Spool(tmp_path / "spool"), database) == SUCCESS
    site.predict(site.first)
    (tmp_path / "spool").rename(away)
    Spool(tmp_path / "spool").create()
    assert site.report() == 1
    site.deliver()
    assert pacs.received == []
    with database.read() as tx:
        (study,) = queries.find_study_results(tx, queries.ResultFilter())
    assert (study["reported_at"], study["error"][:17]) == (None, "FileNotFoundError")
    shutil.rmtree(tmp_path / "spool")
    away.rename(tmp_path / "spool")
    with database.begin() as tx:
        tx.conn.execute(sa.update(studies).values(due_at=tx.now))
    assert site.report() == 1
    site.deliver()
    assert pacs.reports(site.study)[0].PatientID == site.first.PatientID
