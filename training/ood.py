"""Fits the out-of-distribution score of a run, and tries it on pictures that are no chests.

Fitted on augmented training chests, so that another hospital's acquisition, an adult's included,
is not far away: the chests as they are would make the score sharper, but less forgiving. The unit
comes from the validation chests. No negative is fitted on; FAR_LIMIT and the layer were chosen
with those that are not held out, and the augmentation by the adult chest.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluation.metrics import auc
from model.ood import OodScorer
from model.predict import with_features
from training.augment import augment
from training.dataset import Dataset
from training.negatives import Negative, adult_chests, negatives
from training.recipe import Recipe
from training.run import Run
from training.split import Split

FIT_EVERY = 3  # every third training chest: plenty for the covariance of 192 features
WITHIN_LIMIT = 0.99  # share of validation chests
FAR_LIMIT = 1.25  # times the limit: between the adult chests and most of what is none
ADULT_MARGIN = 1.1
BATCH_SIZE = 32
METHOD = (
    "Mahalanobis distance (Ledoit-Wolf covariance) in the spatial means of one layer; "
    "1 is the 99th percentile of the validation chests"
)

Features = NDArray[np.float32]
Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class KindFigures:
    """How one kind of negatives fares. auroc: of those held out, None where there are none."""

    pictures: int
    held_out: int
    auroc: float | None
    beyond_limit: float
    beyond_far_limit: float


@dataclass(frozen=True, kw_only=True)
class OodReport:
    """auroc: validation chests against the held-out negatives, of which there are `held_out`.

    beyond_limit, false_refusals: shares of validation chests beyond limit and far_limit.
    refused: share of the held-out negatives beyond far_limit. adult_scores: of adult chests.
    """

    layer: str
    limit: float
    far_limit: float
    auroc: float
    held_out: int
    beyond_limit: float
    false_refusals: float
    refused: float
    adult_scores: Sequence[float]
    kinds: dict[str, KindFigures]

    def plain(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class FittedOod:
    """The score, its figures, and the scores that these were made of."""

    scorer: OodScorer
    report: OodReport
    validation_scores: Scores
    negatives: Sequence[Negative]
    negative_scores: Scores


def fit_ood(
    run: Run, recipe: Recipe, dataset: Dataset, split: Split, extra: Path | None
) -> FittedOod:
    """Fit, calibrate and try the score. extra: a folder of more pictures that are no chests."""
    import keras

    network = keras.saving.load_model(run.final, compile=False)
    model = with_features(network, recipe.ood_layer)
    fitted, validation = _chest_features(run, model, recipe, dataset, split)
    scorer = fit_scorer(fitted, validation)
    chests = np.asarray(dataset.pixels[split.validation])
    tried = negatives(chests, extra)
    validation_scores = scorer.scores(validation)
    negative_scores = scorer.scores(features_of(model, np.stack([it.picture for it in tried])))
    adults = scorer.scores(features_of(model, np.stack(adult_chests())))
    report = report_on(validation_scores, tried, negative_scores, adults, layer=recipe.ood_layer)
    return FittedOod(
        scorer=scorer,
        report=report,
        validation_scores=validation_scores,
        negatives=tried,
        negative_scores=negative_scores,
    )


def fit_scorer(fitted: Features, validation: Features) -> OodScorer:
    """Mean and whitening of `fitted`, (n, d); the unit from `validation`, (m, d)."""
    from sklearn.covariance import LedoitWolf

    estimate = LedoitWolf().fit(fitted.astype(np.float64))
    values, vectors = np.linalg.eigh(estimate.covariance_)
    whitening = vectors / np.sqrt(np.maximum(values, 1e-12))
    raw = OodScorer(
        mean=estimate.location_.astype(np.float32),
        whitening=whitening.astype(np.float32),
        unit=1.0,
    )
    unit = float(np.quantile(raw.distances(validation), WITHIN_LIMIT, method="higher"))
    return OodScorer(mean=raw.mean, whitening=raw.whitening, unit=unit)


def features_of(model: Any, pixels: NDArray[np.uint8]) -> Features:
    """The second output of a model made by `with_features`, for uint8 (n, size, size): (n, d)."""
    import keras

    parts = []
    for start in range(0, len(pixels), BATCH_SIZE):
        batch = pixels[start : start + BATCH_SIZE].astype(np.float32)[..., None]
        _, features = model(batch, training=False)
        parts.append(keras.ops.convert_to_numpy(features))
    return np.concatenate(parts).astype(np.float32)


def report_on(
    chests: Scores, tried: Sequence[Negative], scores: Scores, adults: Scores, *, layer: str
) -> OodReport:
    """All figures, from the scores of validation chests, negatives and adults."""
    far_limit = max(FAR_LIMIT, ADULT_MARGIN * float(adults.max()))
    held_out = np.array([it.held_out for it in tried])
    kinds = np.array([it.kind for it in tried])
    return OodReport(
        layer=layer,
        limit=1.0,
        far_limit=far_limit,
        auroc=_auroc(chests, scores[held_out]),
        held_out=int(held_out.sum()),
        beyond_limit=float(np.mean(chests > 1)),
        false_refusals=float(np.mean(chests > far_limit)),
        refused=float(np.mean(scores[held_out] > far_limit)),
        adult_scores=[float(score) for score in adults],
        kinds={
            str(kind): _figures(chests, scores[kinds == kind], held_out[kinds == kind], far_limit)
            for kind in np.unique(kinds)
        },
    )


def _figures(
    chests: Scores, scores: Scores, held_out: NDArray[np.bool_], far_limit: float
) -> KindFigures:
    return KindFigures(
        pictures=len(scores),
        held_out=int(held_out.sum()),
        auroc=_auroc(chests, scores[held_out]) if held_out.any() else None,
        beyond_limit=float(np.mean(scores > 1)),
        beyond_far_limit=float(np.mean(scores > far_limit)),
    )


def _auroc(chests: Scores, others: Scores) -> float:
    labels = np.repeat([0, 1], [len(chests), len(others)])
    return auc(labels, np.concatenate([chests, others]))


def _chest_features(
    run: Run, model: Any, recipe: Recipe, dataset: Dataset, split: Split
) -> tuple[Features, Features]:
    """Of augmented training chests and of validation chests as they are; kept in the run."""
    if not run.ood_features.exists():
        pixels = np.asarray(dataset.pixels[split.train[::FIT_EVERY]])
        rng = np.random.default_rng(0)
        varied = np.stack([augment(picture, rng, recipe.augmentation) for picture in pixels])
        unfinished = run.ood_features.with_suffix(".tmp.npz")
        np.savez(
            unfinished,
            fitted=features_of(model, varied),
            validation=features_of(model, np.asarray(dataset.pixels[split.validation])),
        )
        unfinished.replace(run.ood_features)
    with np.load(run.ood_features) as kept:
        return kept["fitted"], kept["validation"]
