"""One object that comes, as the listener receives it, without a network."""

from pydicom.dataset import Dataset

from db.engine import Database
from tests.support import dicom
from worker.receive import Origin, Receiver
from worker.spool import Spool


def store(ds: Dataset, spool: Spool, database: Database) -> int:
    """Receive it and return the C-STORE status."""
    receiver = Receiver(
        spool=spool,
        database=database,
        notify=lambda stage, key: None,
        settle_s=0,
        max_study_age_days=100_000,
        spool_reserve_mb=0,
    )
    origin = Origin(
        sop_class_uid=ds.SOPClassUID,
        sop_instance_uid=ds.SOPInstanceUID,
        calling_ae_title="TEST",
    )
    return receiver.receive(dicom.write(ds, spool.temp), origin)
