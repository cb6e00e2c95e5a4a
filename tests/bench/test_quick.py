"""The benches that need no peer run, against the shipped bundle; their figures are not judged."""

import json
from pathlib import Path

import pytest

from tests.bench.__main__ import main

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def test_the_benches_run_and_each_row_has_a_figure(tmp_path: Path) -> None:
    chosen = [word for name in ("pixels", "results", "inference") for word in ("--only", name)]
    assert main(["--quick", *chosen, "--json", str(tmp_path / "bench.json")]) == 0
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert all(row["value"] > 0 for row in rows)
    names = " ".join(row["name"] for row in rows)
    for part in ("pixels", "results", "model, batch 8", "inference worker"):
        assert part in names
