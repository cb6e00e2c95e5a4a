"""Fits the out-of-distribution score of a network, and tries it on pictures that are no chests.

Fitted on augmented training chests, so that another hospital's acquisition, an adult's included,
is not far away: the chests as they are would make the score sharper, but less forgiving. The unit
comes from the validation chests, augmented alike. No negative is fitted on. Layer, grid and limits
were chosen without the blind half of the negatives (training/negatives.py), and by the adult chest.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.evaluation.metrics import auc
from model.ood import OodScorer
from model.predict import with_features
from training.augment import Augmentation, augment
from training.dataset import Dataset
from training.errors import RunError
from training.negatives import Negative, adult_chests, negatives
from training.networks import with_score_layer
from training.predictions import read_predictions
from training.recipe import Recipe
from training.split import Split

FIT_EVERY = 3  # every third training chest: plenty for the covariance of 216 features
WITHIN_LIMIT = 0.99  # share of augmented validation chests
FAR_LIMIT = 1.25  # times the limit: between the adult chests and most of what is none
ADULT_MARGIN = 1.1
BATCH_SIZE = 32
CHUNK = 512  # pictures held as floats at a time
METHOD = (
    "Mahalanobis distance (Ledoit-Wolf covariance) in the means of one layer over {grid} x {grid} "
    "regions; "
    "1 is the 99th percentile of the validation chests, augmented"
)

Features = NDArray[np.float32]
Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class KindFigures:
    """How one kind of negatives fares. AUROC of the blind ones and of the others, None for none.

    beyond_limit, beyond_far_limit: shares of all of them.
    """

    pictures: int
    blind: int
    auroc_blind: float | None
    auroc_others: float | None
    beyond_limit: float
    beyond_far_limit: float


@dataclass(frozen=True, kw_only=True)
class OodReport:
    """AUROC: validation chests against the blind negatives, and against the others.

    beyond_limit, false_refusals: shares of validation chests beyond limit and far_limit. refused:
    share of the blind negatives (of the others where there are none) beyond far_limit.
    adult_scores: of adult chests.
    """

    layer: str
    grid: int
    limit: float
    far_limit: float
    auroc_blind: float | None
    auroc_others: float | None
    blind: int
    others: int
    beyond_limit: float
    false_refusals: float
    refused: float
    adult_scores: Sequence[float]
    kinds: dict[str, KindFigures]

    @property
    def auroc(self) -> float:
        """Of the blind ones, which whoever publishes the score must have scored."""
        if self.auroc_blind is None:
            raise ValueError("the blind negatives were not scored")
        return self.auroc_blind

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
    weights: Path,
    recipe: Recipe,
    dataset: Dataset,
    split: Split,
    extra: Path | None,
    *,
    blind: bool,
) -> FittedOod:
    """Fit, calibrate and try the score of the network in a .keras file.

    extra: a folder of more pictures that are no chests. blind: score the blind half as well, which
    is for what has been chosen already.
    """
    import keras

    loaded = with_score_layer(keras.saving.load_model(weights, compile=False), recipe)
    network = with_features(loaded, recipe.ood_layer, recipe.ood_grid)
    model = keras.Model(network.input, network.outputs[1])  # an early layer needs no later ones
    chests = np.asarray(dataset.pixels[split.validation])
    fitted = np.asarray(dataset.pixels[split.train[::FIT_EVERY]])
    scorer = fit_scorer(
        features_of(model, varied(fitted, seed=0)),
        features_of(model, varied(chests, seed=1)),
    )
    tried = [it for it in negatives(chests, extra) if blind or not it.blind]
    validation_scores = scorer.scores(features_of(model, chests))
    negative_scores = scorer.scores(features_of(model, np.stack([it.picture for it in tried])))
    adults = scorer.scores(features_of(model, np.stack(adult_chests())))
    report = report_on(validation_scores, tried, negative_scores, adults, recipe)
    return FittedOod(
        scorer=scorer,
        report=report,
        validation_scores=validation_scores,
        negatives=tried,
        negative_scores=negative_scores,
    )


def split_of_bundle(bundle: Bundle, dataset: Dataset, validation: Path) -> Split:
    """The split that a bundle was made with, from its validation.csv.

    Raises RunError when the pictures are not those that it was trained on.
    """
    if dataset.digest != bundle.training_data_digest:
        raise RunError(f"these pictures are not those that {bundle.path.name} was trained on")
    held = np.isin(dataset.names, read_predictions(validation).names)
    return Split(train=np.flatnonzero(~held), validation=np.flatnonzero(held))


def fit_scorer(fitted: Features, validation: Features) -> OodScorer:
    """Mean and whitening of `fitted`, (n, d); the unit from `validation`, (m, d), not fitted on."""
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
    """What a model of features alone gives for uint8 (n, size, size): (n, d)."""
    parts = [
        model.predict(
            pixels[start : start + CHUNK].astype(np.float32)[..., None],
            batch_size=BATCH_SIZE,
            verbose=0,
        )
        for start in range(0, len(pixels), CHUNK)
    ]
    return np.concatenate(parts).astype(np.float32)


def report_on(
    chests: Scores, tried: Sequence[Negative], scores: Scores, adults: Scores, recipe: Recipe
) -> OodReport:
    """All figures, from the scores of validation chests, negatives and adults."""
    far_limit = max(FAR_LIMIT, ADULT_MARGIN * float(adults.max()))
    blind = np.array([it.blind for it in tried])
    kinds = np.array([it.kind for it in tried])
    judged = scores[blind] if blind.any() else scores
    return OodReport(
        layer=recipe.ood_layer,
        grid=recipe.ood_grid,
        limit=1.0,
        far_limit=far_limit,
        auroc_blind=_auroc(chests, scores[blind]),
        auroc_others=_auroc(chests, scores[~blind]),
        blind=int(blind.sum()),
        others=int((~blind).sum()),
        beyond_limit=float(np.mean(chests > 1)),
        false_refusals=float(np.mean(chests > far_limit)),
        refused=float(np.mean(judged > far_limit)),
        adult_scores=[float(score) for score in adults],
        kinds={
            str(kind): _figures(chests, scores[kinds == kind], blind[kinds == kind], far_limit)
            for kind in np.unique(kinds)
        },
    )


def _figures(
    chests: Scores, scores: Scores, blind: NDArray[np.bool_], far_limit: float
) -> KindFigures:
    return KindFigures(
        pictures=len(scores),
        blind=int(blind.sum()),
        auroc_blind=_auroc(chests, scores[blind]),
        auroc_others=_auroc(chests, scores[~blind]),
        beyond_limit=float(np.mean(scores > 1)),
        beyond_far_limit=float(np.mean(scores > far_limit)),
    )


def _auroc(chests: Scores, others: Scores) -> float | None:
    if not len(others):
        return None
    labels = np.repeat([0, 1], [len(chests), len(others)])
    return auc(labels, np.concatenate([chests, others]))


def varied(pictures: NDArray[np.uint8], *, seed: int) -> NDArray[np.uint8]:
    """Each picture once, augmented within what positioning and processing do."""
    rng = np.random.default_rng(seed)
    return np.stack([augment(picture, rng, Augmentation()) for picture in pictures])
