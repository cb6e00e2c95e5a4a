"""Writes MODEL_CARD.md: what a radiologist or a physicist asks before a model is switched on."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from model.bundle import Bundle
from model.evaluation.figures import title_of
from training.ood import OodReport

CARD = "MODEL_CARD.md"
OOD_TITLE = "## Pictures unlike the training images"
WIDTH = 100
TWINS = (
    "The same validation images, changed while the finding is not, at the balanced threshold of "
    "the unchanged ones:"
)
TWIN_NAMES = {
    "corners_hidden": "all four corners covered (22 % of each side)",
    "softened": "blurred (Gaussian, sigma 1.5 px of 224)",
    "sharpened": "sharpened (unsharp mask, amount 1, sigma 1.5 px)",
}


def write_card(
    folder: Path,
    bundle: Bundle,
    report: dict[str, Any],
    ood: OodReport,
    *,
    command: str,
    shortcuts: str,
    limits: Sequence[str],
    began_as: str,
    output: str,
    plot: str,
    ood_plot: str,
) -> None:
    """Write the card beside the manifest that it describes.

    command: repeats the run. shortcuts, limits: what is known of the training data.
    began_as: where the weights came from before they were fitted. output: what the network says.
    """
    finding = bundle.finding.lower()
    use = bundle.intended_use
    ages = f"{use.min_age_years:g} to {use.max_age_years:g} years"
    balanced = report["operating_points"]["balanced"]
    text = f"""{_title(bundle)}

Probability of {finding} in a frontal chest radiograph. **Not for diagnostic use.**

## Intended use

{use.text}

Out of scope: other ages than {ages}, lateral views, other findings than {finding}, other body
parts. Outside of this, the worker withholds the result or marks it.

## Results on validation

{report["images"]} images of {report["patients"]} patients, {report["prevalence"]:.1%} {finding};
no patient and no copy of an image on both sides of the split. Nothing was chosen by these images
but the temperature and the thresholds below, so the figures at thresholds are slightly favourable.
They say how the model does on the source it was trained on; **another hospital is another matter**:
evaluate it on local images before use (`cxr-train evaluate`).

| | |
|---|---|
| ROC AUC (95 % interval, patients resampled) | {report["auc"]:.4f} \
({report["auc_low"]:.4f} to {report["auc_high"]:.4f}) |
| Accuracy, sensitivity, specificity, balanced | {balanced["accuracy"]:.4f}, \
{balanced["sensitivity"]:.4f}, {balanced["specificity"]:.4f} |
| Expected calibration error, Brier score | {report["ece"]:.4f}, {report["brier"]:.4f} |
| Temperature | {report["temperature"]:.3f} |

{_points_table(report)}

Rule-out: sensitivity of at least 0.99. Rule-in: specificity of at least 0.99; at 0.95, shown beside
it, it may lie below rule-out and leave no image to review. Balanced: highest sum (Youden).
Thresholds are on the raw logit and do not depend on prevalence. The band `review` lies between
rule-out and rule-in, whichever is lower; `positive` begins at the higher one.

{_predictive_table(report)}

![ROC, reliability, histogram and confusion matrix]({plot})

## Subgroups

At the balanced threshold. A group of one class only is compared with all images of the other (*).

{_subgroups_table(report)}

## Known shortcuts

{fill(f"{shortcuts} {TWINS}", WIDTH)}

{_twins_table(report)}

{_ood_section(bundle, ood, ood_plot)}
## Training

- Data: {bundle.training_data}
- Digest of the files: `{bundle.training_data_digest}`
- Split: {bundle.training_split}
- Prevalence among the fitted images: {bundle.training_prevalence:.4f}; a reported probability is
  shifted from there to the site's
- Preprocessing version {bundle.preprocess_version}: {_parameters(bundle)}
- Input: grey values 0-255, {bundle.input_shape[0]}x{bundle.input_shape[1]}. Output: {output}

```
{command}
```

## Limits

{_list(limits)}

## Licence

{bundle.license}. The weights began as {began_as}.
SHA-256 of the weights:
`{bundle.weights_sha256}`.
"""
    (folder / CARD).write_text(text)


def replace_ood(folder: Path, bundle: Bundle, ood: OodReport, ood_plot: str) -> None:
    """Bring a card's title and its section on the score up to date; the rest stays."""
    _, rest = (folder / CARD).read_text().split("\n", 1)
    before, after = rest.split(f"{OOD_TITLE}\n", 1)
    _, after = after.split("\n## ", 1)
    section = _ood_section(bundle, ood, ood_plot)
    (folder / CARD).write_text(f"{_title(bundle)}\n{before}{section}\n## {after}")


def _title(bundle: Bundle) -> str:
    return f"# {bundle.name} {bundle.version}"


def _ood_section(bundle: Bundle, ood: OodReport, ood_plot: str) -> str:
    return f"""{OOD_TITLE}

Every picture gets a score: {bundle.ood.method} (`{ood.layer}`).

Beyond {ood.limit:g} (validation chests: {ood.beyond_limit:.1%}) it is outside the intended use;
beyond {ood.far_limit:.2f} (validation chests: {ood.false_refusals:.1%}) it is rejected. AUROC of
validation chests against {ood.blind} blind pictures: **{ood.auroc:.5f}**;
{ood.refused:.1%} of those are rejected. Against the {ood.others} others,
by which it was chosen: {_figure(ood.auroc_others)}. The adult chest of pydicom-data, which is not
to be rejected, scores {min(ood.adult_scores):.2f} to {max(ood.adult_scores):.2f}. A score below the
limit does not make a result right.

![Out-of-distribution scores of chests and of other pictures]({ood_plot})

{_ood_table(ood)}

The pictures are what packages bring along (pydicom, pydicom-data, scikit-learn, matplotlib, and a
folder of one's own), drawings and phantoms, and validation chests spoiled on purpose. Nothing was
fitted on them. The blind ones were put aside by a hash of their source's name before layer, grid
and limits were chosen by the others and the adult chest. The laterals, abdomens, hands and skulls
among them are **phantoms made by arithmetic**, coarser than any radiograph: they show that the
score looks at shapes, not that a real lateral without a label is caught. **Not tried**, because
none were at hand: real laterals, abdomens, hands, skulls, spines, animal radiographs, portable
images with much equipment, newborns, and more than one adult.
"""


def _ood_table(ood: OodReport) -> str:
    lines = [
        "| pictures | number (blind) | AUROC, blind | others | beyond the limit | rejected |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {kind} | {it.pictures} ({it.blind}) | {_figure(it.auroc_blind)} "
        f"| {_figure(it.auroc_others)} | {it.beyond_limit:.0%} | {it.beyond_far_limit:.0%} |"
        for kind, it in ood.kinds.items()
    ]
    return "\n".join(lines)


def _figure(auroc: float | None) -> str:
    return "" if auroc is None else f"{auroc:.4f}"


def _points_table(report: dict[str, Any]) -> str:
    lines = [
        "| point | threshold | sensitivity | specificity | accuracy | TP | FN | FP | TN |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {title_of(name)} | {at['threshold']:.3f} | {at['sensitivity']:.4f} "
        f"| {at['specificity']:.4f} | {at['accuracy']:.4f} | {at['true_positive']} "
        f"| {at['false_negative']} | {at['false_positive']} | {at['true_negative']} |"
        for name, at in report["operating_points"].items()
    ]
    return "\n".join(lines)


def _predictive_table(report: dict[str, Any]) -> str:
    points = report["operating_points"]
    shares = [value["prevalence"] for value in points["balanced"]["predictive_values"]]
    header = " | ".join(f"at {share:.0%}" for share in shares)
    lines = [f"| PPV / NPV | {header} |", "|---" * (len(shares) + 1) + "|"]
    for name, at in points.items():
        cells = [f"{_value(v['ppv'], 3)} / {_value(v['npv'], 4)}" for v in at["predictive_values"]]
        lines.append(f"| {title_of(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _value(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _subgroups_table(report: dict[str, Any]) -> str:
    lines = [
        "| subgroup | images (normal, pneumonia) | AUC (95 %) | sensitivity | specificity |",
        "|---|---|---|---|---|",
    ]
    for criterion, groups in report["subgroups"].items():
        lines.append(f"| **{criterion}** | | | | |")
        lines += [
            f"| {name} | {it['images']} ({it['NORMAL']}, {it['PNEUMONIA']}) | {it['auc']:.4f} "
            f"({it['auc_low']:.4f} to {it['auc_high']:.4f}){'*' if it['against_all'] else ''} "
            f"| {_value(it['sensitivity'], 4)} | {_value(it['specificity'], 4)} |"
            for name, it in groups.items()
        ]
    return "\n".join(lines)


def _twins_table(report: dict[str, Any]) -> str:
    balanced = report["operating_points"]["balanced"]
    lines = [
        "| images | AUC | accuracy | sensitivity | specificity | other class than before |",
        "|---|---|---|---|---|---|",
        f"| unchanged | {report['auc']:.4f} | {balanced['accuracy']:.4f} "
        f"| {balanced['sensitivity']:.4f} | {balanced['specificity']:.4f} | |",
    ]
    lines += [
        f"| {TWIN_NAMES.get(name, name)} | {twin['auc']:.4f} | {twin['accuracy']:.4f} "
        f"| {twin['sensitivity']:.4f} | {twin['specificity']:.4f} | {twin['changed']:.1%} |"
        for name, twin in report["twins"].items()
    ]
    return "\n".join(lines)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(fill(f"- {line}", WIDTH, subsequent_indent="  ") for line in lines)


def _parameters(bundle: Bundle) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in bundle.preprocess_parameters.items()
    )
