"""A minute of chaos on each database, always the same one; `make chaos` runs 2,000 studies."""

import os
from pathlib import Path

import pytest

from tests.chaos.run import run

SEED = int(os.environ.get("CHAOS_SEED", "5"))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
def test_nothing_is_lost_and_nothing_doubled_whatever_breaks(database: str, tmp_path: Path) -> None:
    result = run(tmp_path / "chaos", database=database, studies=60, faults_count=20, over_s=45,
                 seed=SEED)  # fmt: skip
    print(result.text())
    assert result.clean, result.text()
