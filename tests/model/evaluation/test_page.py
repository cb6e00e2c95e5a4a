"""The page stands alone and shows what the report says."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from model.errors import ModelError
from model.evaluation.cases import Cases
from model.evaluation.figures import figures, picture_address
from model.evaluation.files import require_libraries, write_report
from model.evaluation.page import Gallery, Page, Picture, Table, render
from model.evaluation.report import evaluate

MakeCases = Callable[..., Cases]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Structure(HTMLParser):
    """Fails on tags that are closed in another order than opened; keeps what is referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def cases(make_cases: MakeCases) -> Cases:
    return make_cases(subgroups={"half": ["a", "b"] * 200}, twins={"softened": make_cases().logits})


@pytest.fixture(scope="module")
def report(cases: Cases) -> dict[str, Any]:
    return evaluate(cases)


@pytest.fixture(scope="module")
def text(cases: Cases, report: dict[str, Any]) -> str:
    log = [
        {"epoch": 1.0, "loss": 0.3, "validation_loss": 0.2, "validation_accuracy": 0.9},
        {"epoch": 2.0, "loss": 0.2, "validation_loss": 0.1, "validation_accuracy": 0.95},
    ]
    picture = Picture(address=picture_address(b"x", "jpeg"), caption=("<b>name</b>", "0.4"))
    return render(
        Page(
            title="Evaluation of <tiny>",
            facts=[("Model", "tiny")],
            notes=["A note."],
            figures=figures(cases, report, log),
            galleries=[Gallery(title="Missed", text="All.", pictures=[picture])],
            tables=[Table(title="Folds", text="Each.", columns=("a", "b"), rows=[(1, 2)])],
        ),
        report,
    )


def test_page_is_well_formed_and_refers_to_nothing_outside(text: str) -> None:
    structure = Structure()
    structure.feed(text)
    assert structure.open == []
    assert all(source.startswith("data:image/") for source in structure.sources)
    assert not structure.tags & {"script", "link", "iframe", "object"}
    assert not re.search(r"url\(|@import", text)
    for title in ("Discrimination", "Bands", "Training", "Subgroups", "Shortcuts", "Folds"):
        assert f"<h2>{title}</h2>" in text


def test_texts_are_escaped(text: str) -> None:
    assert "Evaluation of &lt;tiny&gt;" in text
    assert "<b>" not in text


def test_page_shows_the_reports_figures(text: str, report: dict[str, Any]) -> None:
    assert f"{report['auc']:.4f}" in text
    assert f"{report['operating_points']['rule_in']['specificity']:.4f}" in text
    assert "Not for diagnostic use" in text


def test_what_is_missing_is_told_with_the_command_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"scikit-learn not installed.*cxr-worker\[evaluate\]"):
        require_libraries()


def test_report_is_three_files(cases: Cases, report: dict[str, Any], tmp_path: Path) -> None:
    page = Page(title="t", facts=[], notes=[], figures=figures(cases, report, ()))
    write_report(tmp_path / "new", "evaluation", cases, report, page)
    assert sorted(it.name for it in (tmp_path / "new").iterdir()) == [
        "evaluation.csv",
        "evaluation.html",
        "evaluation.json",
    ]
    assert len((tmp_path / "new" / "evaluation.csv").read_text().splitlines()) == 401
