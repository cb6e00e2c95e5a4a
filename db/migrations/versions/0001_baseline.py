"""Baseline: the schema as it stands; rewritten in place until 0.1.0 is tagged, frozen then."""

from alembic import op

from db.tables import metadata
from db.views import VIEWS, create_statements

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    metadata.create_all(op.get_bind())
    for statement in create_statements(op.get_bind().dialect.name):
        op.execute(statement)


def downgrade() -> None:
    for name in reversed(VIEWS):
        op.execute(f"DROP VIEW {name}")
    metadata.drop_all(op.get_bind())
