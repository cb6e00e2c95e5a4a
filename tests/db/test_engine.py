import pytest
import sqlalchemy.exc

from db.arrivals import StudyHeader
from db.engine import Database
from db.tables import studies
from tests.support import rows


def test_an_error_does_not_say_what_was_in_its_statement(database: Database) -> None:
    header = StudyHeader(study_instance_uid="1.2.3", patient_id="CANARY")
    rows.arrive(database, "1.2.3.4", header)
    again = {"study_instance_uid": "1.2.3", "patient_id": "CANARY", "state": "receiving"}
    with (
        pytest.raises(sqlalchemy.exc.IntegrityError) as raised,
        database.begin() as tx,
    ):
        times = {"received_at": tx.now, "last_arrival_at": tx.now}
        tx.conn.execute(studies.insert().values(**again, **times))
    assert "CANARY" not in str(raised.value)
