"""From a logit to what is reported: a probability at the site's prevalence, and a band."""

from dataclasses import dataclass
from enum import StrEnum

from model.bundle import Bundle
from model.calibration import logit_of, shift_prevalence, sigmoid


class Band(StrEnum):
    """What a reader should make of a probability."""

    NEGATIVE = "negative"
    REVIEW = "review"
    POSITIVE = "positive"


class Label(StrEnum):
    """The class at the balanced operating point, in the training set's words."""

    NORMAL = "NORMAL"
    PNEUMONIA = "PNEUMONIA"


@dataclass(frozen=True, kw_only=True)
class BandLimits:
    """Lower ends of two bands, as probabilities at the site's prevalence.

    Raises ValueError unless 0 <= review_from <= positive_from <= 1.
    """

    review_from: float
    positive_from: float

    def __post_init__(self) -> None:
        if not 0 <= self.review_from <= self.positive_from <= 1:
            raise ValueError(
                f"band limits must be 0 <= review_from ({self.review_from}) "
                f"<= positive_from ({self.positive_from}) <= 1"
            )

    def band(self, probability: float) -> Band:
        if probability >= self.positive_from:
            return Band.POSITIVE
        return Band.REVIEW if probability >= self.review_from else Band.NEGATIVE


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One picture's result.

    raw_probability: calibrated, at the training set's prevalence. probability: the one that
    is reported, at the site's. balanced: the class at the balanced operating point, which
    depends on no prevalence.
    """

    logit: float
    raw_probability: float
    probability: float
    band: Band
    balanced: Label


class Interpreter:
    """Makes predictions of a bundle's logits for one site.

    prevalence: the share of pneumonia among the site's studies, between 0 and 1.
    review_from, positive_from: override the limits that follow from the bundle's rule-out and
    rule-in operating points. Raises ValueError when prevalence or limits make no sense.
    """

    def __init__(
        self,
        bundle: Bundle,
        prevalence: float,
        review_from: float | None = None,
        positive_from: float | None = None,
    ) -> None:
        logit_of(prevalence)  # raises early, and not at the first picture
        self._bundle = bundle
        self._prevalence = prevalence
        points = bundle.operating_points
        # Of a good model, rule-in may lie below rule-out: what lies between is certain either way.
        lower, upper = sorted((points.rule_out.threshold, points.rule_in.threshold))
        self.limits = BandLimits(
            review_from=self.probability(lower) if review_from is None else review_from,
            positive_from=self.probability(upper) if positive_from is None else positive_from,
        )

    def probability(self, logit: float) -> float:
        """Calibrated probability of a raw logit at the site's prevalence."""
        return sigmoid(
            shift_prevalence(
                self._bundle.calibration.apply(logit),
                trained_at=self._bundle.training_prevalence,
                reported_at=self._prevalence,
            )
        )

    def interpret(self, logit: float) -> Prediction:
        """Never falls as the logit rises: neither the probability nor the band."""
        probability = self.probability(logit)
        balanced = logit >= self._bundle.operating_points.balanced.threshold
        return Prediction(
            logit=logit,
            raw_probability=sigmoid(self._bundle.calibration.apply(logit)),
            probability=probability,
            band=self.limits.band(probability),
            balanced=Label.PNEUMONIA if balanced else Label.NORMAL,
        )
