"""After everything is whole and quiet again: was anything lost, was anything done twice?"""

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from db.tables import (
    DeliveryState,
    InstanceState,
    ObjectKind,
    conflicts,
    erased_files,
    instances,
    objects,
    outbox,
    pixels,
    reports,
    studies,
)
from tests.chaos import pacs
from tests.chaos.sender import data_set_of
from tests.chaos.site import Site

FINAL = {InstanceState.PREDICTED, InstanceState.REJECTED, InstanceState.FAILED}


@dataclass
class Verdict:
    """lost: acknowledged and not accounted for. duplicated: one report under two UIDs. orphaned:
    files or rows that nothing speaks of. wrong: everything else that must not be."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.orphaned or self.wrong)


def judge(site: Site, ledger: Path) -> Verdict:
    found = Verdict()
    sent = [json.loads(line) for line in ledger.read_text().splitlines()]
    newest = {line["sop_instance_uid"]: line for line in sent}  # the last one acknowledged
    with site.database.read() as tx:
        rows = {
            row.sop_instance_uid: row
            for row in tx.conn.execute(
                sa.select(instances, studies.c.study_instance_uid).join(studies)
            )
        }
        found_studies = {row.study_instance_uid: row for row in tx.conn.execute(sa.select(studies))}
        made = tx.conn.execute(
            sa.select(objects.c.kind, objects.c.sop_instance_uid, outbox.c.state.label("delivery"))
            .outerjoin(outbox, outbox.c.object_id == objects.c.id)
            .order_by(objects.c.id)
        ).all()
        doubles = tx.conn.execute(
            sa.select(reports.c.study_id, reports.c.predecessor_uid)
            .group_by(reports.c.study_id, reports.c.predecessor_uid)
            .having(sa.func.count() > 1)
        ).all()
        known_files = {
            name
            for column in (instances.c.spool_name, conflicts.c.spool_name)
            for name in tx.conn.execute(sa.select(column)).scalars()
        }
        left = {
            table.name: tx.conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for table in (pixels, erased_files, conflicts)
        }
    at_pacs = _at_pacs(site, found)
    _judge_objects(site, newest, rows, found)
    _judge_studies(newest, found_studies, at_pacs, found)
    _judge_deliveries(made, at_pacs, found)
    found.duplicated += [f"two reports after {row.predecessor_uid}" for row in doubles]
    _judge_spool(site, known_files, found)
    for name, count in left.items():
        if count:
            found.orphaned.append(f"{count} rows in {name}")
    found.counts |= {
        "acknowledged": len(newest),
        "acknowledgements": len(sent),
        "studies": len(found_studies),
        "reports": sum(it.kind == ObjectKind.SR for it in made),
        "pictures": sum(it.kind == ObjectKind.SALIENCY for it in made),
        "objects at the PACS": sum(len(copies) for copies in at_pacs.values()),
        "of them sent more than once": sum(len(copies) > 1 for copies in at_pacs.values()),
    }
    return found


def _judge_objects(
    site: Site, newest: dict[str, dict[str, Any]], rows: dict[str, Any], found: Verdict
) -> None:
    for uid, line in newest.items():
        row = rows.get(uid)
        if row is None:
            found.lost.append(f"{uid}: no row")
            continue
        path = site.disk / "spool" / row.spool_name
        if not path.is_file():
            found.lost.append(f"{uid}: no file")
        elif hashlib.sha256(data_set_of(path.read_bytes())).hexdigest() != line["sha256"]:
            found.lost.append(f"{uid}: other bytes than those acknowledged last")
        if row.state not in FINAL:
            found.lost.append(f"{uid}: no outcome, but {row.state}")
        elif row.state != InstanceState.PREDICTED:
            found.wrong.append(f"{uid}: {row.state}: {row.reason}")
    found.wrong += [f"{uid}: a row that was never acknowledged" for uid in rows.keys() - newest]


def _judge_studies(
    newest: dict[str, dict[str, Any]],
    found_studies: dict[str, Any],
    at_pacs: dict[str, list[Dataset]],
    found: Verdict,
) -> None:
    images: dict[str, set[str]] = defaultdict(set)
    for uid, line in newest.items():
        images[line["study"]].add(uid)
    chains: dict[str, list[Dataset]] = defaultdict(list)
    for copies in at_pacs.values():  # in the order in which they first came
        if copies[0].Modality == "SR":
            chains[str(copies[0].StudyInstanceUID)].append(copies[0])
    for study, uids in images.items():
        row = found_studies.get(study)
        if row is None or row.state != "reported":
            found.lost.append(f"study {study}: {row and row.state}: {row and row.error}")
            continue
        chain = chains[study]
        if not chain or chain[-1].SOPInstanceUID != row.sr_sop_instance_uid:
            found.lost.append(f"study {study}: the newest report is not the last at the PACS")
            continue
        if _covered(chain[-1]) != uids:
            found.lost.append(f"study {study}: the newest report does not cover every image")
        if row.image_count != len(uids) or row.pending_count:
            found.wrong.append(f"study {study}: {row.image_count} images, {row.pending_count} wait")
        named = [_predecessors(ds) for ds in chain]
        expected = [[]] + [[str(ds.SOPInstanceUID)] for ds in chain[:-1]]
        if named != expected:
            found.duplicated.append(f"study {study}: reports that are no chain: {named}")


def _judge_deliveries(made: list[Any], at_pacs: dict[str, list[Dataset]], found: Verdict) -> None:
    for it in made:
        uid = it.sop_instance_uid
        if it.delivery != DeliveryState.SENT or uid not in at_pacs:
            found.lost.append(f"{it.kind} {uid}: {it.delivery}, {len(at_pacs.get(uid, ()))} there")
    for uid in at_pacs.keys() - {it.sop_instance_uid for it in made}:
        found.duplicated.append(f"{uid}: at the PACS, but unknown here")
    for uid, copies in at_pacs.items():
        if any(ds != copies[0] for ds in copies[1:]):
            found.duplicated.append(f"{uid}: sent twice, and not the same")


def _judge_spool(site: Site, known: set[str], found: Verdict) -> None:
    spool = site.disk / "spool"
    there = {str(path.relative_to(spool)) for path in spool.glob("*/*/*") if path.is_file()}
    found.orphaned += [f"no row for {name}" for name in sorted(there - known)]
    found.orphaned += [f"in the temp folder: {path.name}" for path in (spool / "tmp").iterdir()]


def _at_pacs(site: Site, found: Verdict) -> dict[str, list[Dataset]]:
    """SOP Instance UID to every copy that came, in the order of first arrival."""
    copies: dict[str, list[Dataset]] = {}
    for path in pacs.kept_files(site.pacs_folder):
        ds = dcmread(path, force=True)
        copies.setdefault(str(ds.SOPInstanceUID), []).append(ds)
    return copies


def _covered(report: Dataset) -> set[str]:
    """The images of its evidence (PS3.3 C.17.2), our own pictures left out."""
    return {
        str(item.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
        if item.ReferencedSOPClassUID != SecondaryCaptureImageStorage
    }


def _predecessors(report: Dataset) -> list[str]:
    return [
        str(item.ReferencedSOPInstanceUID)
        for study in report.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
