"""What a report says, as plain values: the input of the SR writer."""

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from pydicom.dataset import Dataset

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"

Outline = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Which model spoke."""

    name: str
    version: str
    weights_sha256: str
    preprocess_version: int


@dataclass(frozen=True, kw_only=True)
class SaliencyReference:
    """The Secondary Capture that shows where the model looked."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, kw_only=True)
class ImageFinding:
    """One image of the study: analysed (probability and band) or not (a reason).

    dataset: the image's header; pixel data is not needed and the data set is never changed.
    probability: calibrated, at the site's prevalence, 0 to 1. band: negative, review or positive.
    outline: where the model looked, a closed line of (column, row) in pixels; None: the frame.
    unlike_training: the picture is unlike those that the model was trained on.
    """

    dataset: Dataset
    probability: float | None = None
    band: str | None = None
    reason: str | None = None
    outline: Outline | None = None
    saliency: SaliencyReference | None = None
    unlike_training: bool = False

    @property
    def is_analysed(self) -> bool:
        return self.probability is not None and self.band is not None


@dataclass(frozen=True, kw_only=True)
class Predecessor:
    """The report of the same study that this one takes the place of."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """One study's report. The first image gives the patient's and the study's attributes.

    probability, band: the study's conclusion, None when no image was analysed.
    operating_point: what the thresholds stand for, with sensitivity and specificity.
    prevalence: what the probabilities assume, 0 to 1.
    intended_use: of the patient's age, inside, outside or unknown; intended_use_text: for whom
    the model was made. unlike_training: of the image that the conclusion comes from.
    withhold: name no probability outside the intended use, be it for the age or for a picture.
    created_at: aware. It is written in the images' own time zone, else in `timezone`.
    """

    images: tuple[ImageFinding, ...]
    model: ModelIdentity
    probability: float | None
    band: str | None
    operating_point: str
    prevalence: float
    intended_use: str
    intended_use_text: str
    withhold: bool
    sop_instance_uid: str
    series_instance_uid: str
    created_at: datetime
    software_version: str
    timezone: tzinfo = UTC
    sop_class_uid: str = COMPREHENSIVE_3D_SR
    series_number: int = 9901
    instance_number: int = 1
    predecessor: Predecessor | None = None
    unlike_training: bool = False

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("a report needs at least one image of the study")
        if self.created_at.tzinfo is None:
            raise ValueError("created_at must carry a time zone")

    @property
    def is_inside(self) -> bool:
        return self.intended_use == "inside" and not self.unlike_training

    @property
    def is_withheld(self) -> bool:
        """Whether the study's own probability is withheld, and with it every image's."""
        return self.withhold and not self.is_inside

    def is_shown(self, image: ImageFinding) -> bool:
        """Whether an image's probability may be named."""
        unlike = self.withhold and image.unlike_training
        return image.is_analysed and not self.is_withheld and not unlike
