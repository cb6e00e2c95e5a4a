"""Writes a report: STEM.json, STEM.html, and STEM.csv with every case."""

import csv
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.errors import ModelError
from model.evaluation.cases import Cases
from model.evaluation.page import Page, render
from model.evaluation.report import rows

LIBRARIES = {"matplotlib": "matplotlib", "sklearn": "scikit-learn"}


def require_libraries() -> None:
    """Raise ModelError, saying what to run, when what draws and counts is not installed."""
    missing = [name for module, name in LIBRARIES.items() if not importlib.util.find_spec(module)]
    if missing:
        raise ModelError(
            f"{' and '.join(missing)} not installed: run `pip install 'cxr-worker[evaluate]'`"
        )


def write_report(
    folder: Path, stem: str, cases: Cases, report: Mapping[str, Any], page: Page
) -> None:
    """Write the three files into a folder, which is made when it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(report, indent=2) + "\n")
    (folder / f"{stem}.html").write_text(render(page, report), encoding="utf-8")
    lines = rows(cases)
    with (folder / f"{stem}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
