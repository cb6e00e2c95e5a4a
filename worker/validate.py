"""Holds stored results against a site's own labels: the evaluation report on local data.

The bundle's thresholds and the site's bands are applied as they are; nothing is chosen here.
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from db.engine import Transaction
from db.queries import AnalysedImage, find_analysed_images
from db.tables import InstanceState
from model.bands import Interpreter
from model.bundle import Bundle
from model.evaluation.cases import Cases, Rule, Unit
from model.evaluation.figures import figures
from model.evaluation.files import require_libraries, write_report
from model.evaluation.page import Page, Table
from model.evaluation.report import evaluate
from worker.errors import WorkerError

KEYS = ("sop_instance_uid", "study_instance_uid", "accession_number")  # the most specific first
LABELS = {"0": 0, "normal": 0, "1": 1, "pneumonia": 1}
PROBLEMS_SHOWN = 10
AGES = ((1, "under 1 year"), (6, "1 to 5 years"), (18, "6 to 17 years"), (200, "adult"))
STEM = "validation"


class BadLabels(WorkerError):
    """The file of labels cannot be used; the text names lines, never what they hold."""


@dataclass(frozen=True, kw_only=True)
class SiteLabels:
    """key: which of KEYS the labels go by. labels: 0 or 1 by its value."""

    key: str
    labels: Mapping[str, int]

    @property
    def unit(self) -> Unit:
        return "image" if self.key == "sop_instance_uid" else "study"


@dataclass(frozen=True, kw_only=True)
class Matched:
    """One labelled image or study that the current model has analysed.

    It is read by its most suspicious image, as the worker's report does.
    """

    label: int
    image: AnalysedImage


@dataclass(kw_only=True)
class Matching:
    """What became of the labels. unmatched: the reason for each key value without a result."""

    matched: dict[str, Matched] = field(default_factory=dict)
    unmatched: dict[str, str] = field(default_factory=dict)


def read_labels(path: Path) -> SiteLabels:
    """Read a CSV file with a header: one of KEYS (the most specific counts), and `label`.

    Commas or semicolons. Raises BadLabels with all that is wrong, by line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadLabels(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadLabels(f"{path} is not UTF-8 text: save it as CSV (UTF-8)") from error
    header = text.partition("\n")[0]
    delimiter = ";" if ";" in header and "," not in header else ","
    rows = list(csv.reader(text.splitlines(), delimiter=delimiter, strict=False))
    columns = [name.strip().lower() for name in rows[0]] if rows else []
    key = next((name for name in KEYS if name in columns), None)
    if key is None or "label" not in columns:
        raise BadLabels(
            f"{path}: the first line must name a column `label` and one of {', '.join(KEYS)}"
        )
    return SiteLabels(
        key=key, labels=_labels(path, rows, columns.index(key), columns.index("label"))
    )


def _labels(
    path: Path, rows: Sequence[Sequence[str]], key_at: int, label_at: int
) -> Mapping[str, int]:
    labels: dict[str, int] = {}
    lines: dict[str, int] = {}
    problems = []
    for line, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        key, label = (row[at].strip() if at < len(row) else "" for at in (key_at, label_at))
        if not key:
            problems.append(f"line {line}: no identifier")
        elif label.lower() not in LABELS:
            problems.append(f"line {line}: the label must be 0, 1, normal or pneumonia")
        elif labels.setdefault(key, LABELS[label.lower()]) != LABELS[label.lower()]:
            problems.append(f"line {line}: labelled otherwise than in line {lines[key]}")
        lines.setdefault(key, line)
    if problems:
        more = len(problems) - PROBLEMS_SHOWN
        shown = problems[:PROBLEMS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise BadLabels(f"{path}: " + "; ".join(shown))
    if not labels:
        raise BadLabels(f"{path} holds no labels below its header")
    return labels


def match(tx: Transaction, site: SiteLabels, bundle: Bundle) -> Matching:
    """Find the result of each label, or why there is none."""
    found: dict[str, list[AnalysedImage]] = {}
    for image in find_analysed_images(tx, site.key, list(site.labels)):
        found.setdefault(image.key, []).append(image)
    matching = Matching()
    for key, label in site.labels.items():
        images = found.get(key, [])
        usable = [image for image in images if image.is_of(bundle.name, bundle.version)]
        if len({image.study_instance_uid for image in images}) > 1:
            matching.unmatched[key] = f"several studies have this {site.key}"
        elif usable:
            most_suspicious = max(usable, key=lambda image: image.logit or 0.0)
            matching.matched[key] = Matched(label=label, image=most_suspicious)
        else:
            matching.unmatched[key] = _why_not(images)
    return matching


def _why_not(images: Sequence[AnalysedImage]) -> str:
    if not images:
        return "not in the database"
    others = {f"{it.model_name} {it.model_version}" for it in images if it.logit is not None}
    if others:
        return f"analysed by another model ({', '.join(sorted(others))})"
    if any(it.state in (InstanceState.RECEIVED, InstanceState.PREPARED) for it in images):
        return "not analysed yet"
    reasons = sorted({f"{it.state}: {it.reason}" for it in images if it.is_image})
    return "; ".join(reasons) or "no image"


def report_on(
    site: SiteLabels,
    matching: Matching,
    bundle: Bundle,
    interpreter: Interpreter,
    prevalence: float,
    out: Path,
) -> dict[str, Any]:
    """Write the report, and the labels without a result, into `out`.

    Raises BadLabels unless both classes are among what was matched.
    """
    require_libraries()
    cases = _cases(site, matching, bundle, interpreter, prevalence)
    counts = Counter(int(label) for label in cases.labels)
    if len(counts) < len(set(LABELS.values())):
        raise BadLabels(
            f"a report needs results of both classes: matched were {counts[0]} normal and "
            f"{counts[1]} with pneumonia, {len(matching.unmatched)} were not matched"
        )
    reasons = Counter(matching.unmatched.values()).most_common()
    report = evaluate(cases) | {"unmatched": dict(reasons)}
    page = _page(site, matching, bundle, interpreter, prevalence, reasons)
    page = replace(page, figures=figures(cases, report, ()))
    write_report(out, STEM, cases, report, page)
    with (out / "unmatched.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([(site.key, "reason"), *matching.unmatched.items()])
    return report


def _page(
    site: SiteLabels,
    matching: Matching,
    bundle: Bundle,
    interpreter: Interpreter,
    prevalence: float,
    reasons: Sequence[tuple[str, int]],
) -> Page:
    limits = interpreter.limits
    bands = f"review from {limits.review_from:.1%}, positive from {limits.positive_from:.1%}"
    notes = [
        "Stored results against the site's own labels, at the bundle's thresholds and the site's "
        "bands: nothing was chosen on these cases. Probabilities are those that are reported, at "
        "the prevalence above; where these cases were picked so that they have another share of "
        "pneumonia, calibration shows that and not the model."
    ]
    if site.unit == "study":
        notes.append("A study is read by its most suspicious image.")
    without = Table(
        title="Labels without a result",
        text="Left out of every figure above; each is named in unmatched.csv.",
        columns=("why", "labels"),
        rows=reasons,
    )
    return Page(
        title="Validation on local data",
        facts=[
            ("Model", f"{bundle.name} {bundle.version}, weights {bundle.weights_sha256[:16]}…"),
            ("Labels", f"{len(site.labels)} by {site.key}, {len(matching.unmatched)} unmatched"),
            ("Prevalence reported at", f"{prevalence:.1%}"),
            ("Bands", bands),
        ],
        notes=notes,
        figures={},
        tables=[without] if reasons else [],
    )


def _cases(
    site: SiteLabels,
    matching: Matching,
    bundle: Bundle,
    interpreter: Interpreter,
    prevalence: float,
) -> Cases:
    """Cases of the report; patients are numbered, never named."""
    found = matching.matched.values()
    numbers: dict[object, str] = {}
    for it in found:
        numbers.setdefault(it.image.patient, f"patient {len(numbers) + 1}")
    groups = {
        "intended use": [it.image.intended_use or "" for it in found],
        "age": [_age_group(it.image.age_years) for it in found],
        "view": [it.image.view_position or "unknown" for it in found],
        "picture": [
            "unlike the training images"
            if it.image.ood_score is not None and bundle.ood.is_outside(it.image.ood_score)
            else "like the training images"
            for it in found
        ],
    }
    return Cases(
        names=list(matching.matched),
        patients=[numbers[it.image.patient] for it in found],
        labels=np.array([it.label for it in found], dtype=np.int64),
        logits=np.array([it.image.logit for it in found], dtype=np.float64),
        rules=[Rule.of_bundle(bundle, interpreter.limits, prevalence)],
        folds=np.zeros(len(found), dtype=np.int64),
        subgroups={name: of for name, of in groups.items() if len(set(of)) > 1},
        unit=site.unit,
    )


def _age_group(age_years: float | None) -> str:
    if age_years is None:
        return "unknown"
    return next((name for end, name in AGES if age_years < end), "unknown")
