"""A database with reports that wait for destinations, and what a worker needs to deliver them."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from db import reports, schema
from db.engine import Database
from db.reports import BuiltObject, BuiltReport
from db.tables import ObjectKind, objects, outbox, studies
from dicom_io.contexts import EXPLICIT_VR_LITTLE_ENDIAN
from dicom_io.sr import ImageFinding, Predecessor, build_report
from tests.dicom_io.test_sr import report_of
from tests.support import dicom, rows
from worker.destinations import Recipient
from worker.messages import made
from worker.services import Services
from worker.settings import Settings
from worker.spool import Spool


def part_10(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


class Outbox:
    """A database with reports that wait for destinations."""

    def __init__(self, folder: Path, *destinations: str | Recipient) -> None:
        self.database = Database(f"sqlite:///{folder / 'cxr.db'}")
        schema.upgrade(self.database)
        self.woken: list[tuple[str, str]] = []  # stage and key of each wake-up
        self.services = Services(
            settings=Settings.model_validate({"destinations": destinations}),
            database=self.database,
            spool=Spool(folder),
            bundle=cast(Any, None),  # delivering asks no model
            interpreter=cast(Any, None),
            notify=lambda stage, key: self.woken.append((stage, key)),
        )

    def add_report(self, number: int, *, report_uid: str | None = None) -> tuple[str, str]:
        """One more report of a study: a real SR and a picture; returns their UIDs."""
        study, image = f"1.2.{number}", str(generate_uid())
        rows.analyse(self.database, image, study)
        held, revision = rows.claim_report(self.database, study)
        with self.database.read() as tx:
            snapshot = reports.snapshot(tx, held.id)
        earlier, told = snapshot.newest_report, snapshot.told
        source = dicom.chest(study, SOPInstanceUID=image)
        uid = report_uid or str(generate_uid())
        document = report_of(
            ImageFinding(dataset=source, probability=0.81, band="positive"),
            sop_instance_uid=uid,
            series_instance_uid="2.25.1002",
            predecessor=None
            if earlier is None
            else Predecessor(
                sop_class_uid=earlier.sop_class_uid,
                sop_instance_uid=earlier.sop_instance_uid,
                series_instance_uid=earlier.series_instance_uid,
            ),
        )
        picture = dicom.chest(study, SOPClassUID=dicom.SECONDARY_CAPTURE)
        built = BuiltReport(
            predecessor_uid=earlier.sop_instance_uid if earlier else None,
            content_digest=uid,
            objects=(
                self._made(ObjectKind.SR, document.sop_class_uid, uid, build_report(document)),
                self._made(
                    ObjectKind.SALIENCY,
                    picture.SOPClassUID,
                    picture.SOPInstanceUID,
                    part_10(picture),
                ),
                *made.of_report(document, self.services.settings.recipients, told),
            ),
        )
        with self.database.begin() as tx:
            reports.record_report(tx, held, revision, rows.RESULT, built)
        return uid, str(picture.SOPInstanceUID)

    def _made(self, kind: ObjectKind, sop_class: str, uid: str, payload: bytes) -> BuiltObject:
        names = (it.name for it in self.services.settings.recipients if kind in it.objects)
        return BuiltObject(
            kind=kind,
            sop_class_uid=str(sop_class),
            sop_instance_uid=str(uid),
            series_instance_uid="2.25.1002",
            transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
            payload=payload,
            destinations=tuple(names),
        )

    def deliveries(self, number: int = 1) -> list[Mapping[str, Any]]:
        """The study's rows of the public view, in the order in which they were queued."""
        query = (
            sa.select(
                objects.c.sop_instance_uid,
                objects.c.sop_class_uid,
                objects.c.kind,
                outbox,
            )
            .join(objects, objects.c.id == outbox.c.object_id)
            .join(studies, studies.c.id == outbox.c.study_id)
            .where(studies.c.study_instance_uid == f"1.2.{number}")
            .order_by(outbox.c.id)
        )
        with self.database.read() as tx:
            return [dict(row) for row in tx.conn.execute(query).mappings()]

    def states(self) -> list[tuple[str, str, int, str | None]]:
        query = sa.select(outbox.c.destination, outbox.c.state, outbox.c.attempts, outbox.c.error)
        with self.database.read() as tx:
            return [tuple(row) for row in tx.conn.execute(query.order_by(outbox.c.id))]

    def make_due(self) -> None:
        with self.database.begin() as tx:
            waiting = outbox.c.due_at.is_not(None)
            values = {"due_at": tx.now, "lease_token": None}
            tx.conn.execute(sa.update(outbox).where(waiting).values(values))
