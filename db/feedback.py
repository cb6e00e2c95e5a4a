"""What readers say of results."""

import sqlalchemy as sa

from db.engine import Transaction
from db.tables import Verdict, feedback, studies

COMMENT_LENGTH_MAX = 2000


def record_feedback(
    tx: Transaction, study_instance_uid: str, verdict: Verdict, *, author: str, comment: str | None
) -> bool:
    """Keep an opinion beside the result as it stands now; False if there is no such study."""
    query = sa.select(studies).where(studies.c.study_instance_uid == study_instance_uid)
    study = tx.conn.execute(query).one_or_none()
    if study is None:
        return False
    tx.conn.execute(
        sa.insert(feedback).values(
            study_id=study.id,
            verdict=verdict,
            comment=(comment or "").strip()[:COMMENT_LENGTH_MAX] or None,
            author=author,
            created_at=tx.now,
            revision=study.revision,
            probability=study.probability,
            band=study.band,
            model_name=study.model_name,
            model_version=study.model_version,
        )
    )
    return True
