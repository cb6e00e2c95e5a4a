"""Baseline: the schema as it stands; rewritten in place until 0.1.0 is tagged, frozen then."""

from alembic import op

from db.tables import metadata
from db.views import VIEWS

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    metadata.create_all(op.get_bind())
    for statement in VIEWS.values():
        op.execute(statement)


def downgrade() -> None:
    for name in VIEWS:
        op.execute(f"DROP VIEW {name}")
    metadata.drop_all(op.get_bind())
