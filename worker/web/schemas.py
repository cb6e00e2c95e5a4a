"""What the API takes and gives: rows of the public views, under the same names."""

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Literal

from fastapi import Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from db.feedback import COMMENT_LENGTH_MAX
from db.queries import ResultFilter
from db.search import Sort
from db.tables import StudyState, Verdict
from dicom_io.eligibility import IntendedUse
from model.bands import Band

PAGE_SIZE_MAX = 200
Uid = Annotated[str, Path(pattern=r"^[0-9][0-9.]{0,63}$", description="A DICOM UID.")]
# A backslash separates values and a control character ends things: neither is of an identifier.
Identifier = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f\\]+$")
]
Version = Annotated[
    str, StringConstraints(min_length=1, max_length=32, pattern=r"^[0-9A-Za-z.+-]+$")
]
Probability = Annotated[float, Field(ge=0, le=1)]


class Origin(StrEnum):
    PACS = "pacs"
    UPLOAD = "upload"


class Filters(BaseModel):
    """Which studies, in which order; all conditions must hold. Nothing here names a patient."""

    model_config = ConfigDict(extra="forbid")

    since: AwareDatetime | None = Field(None, description="Received at or after.")
    until: AwareDatetime | None = Field(None, description="Received before.")
    band: list[Band] = Field(default_factory=list, max_length=3)
    state: list[StudyState] = Field(default_factory=list, max_length=5)
    model_version: Version | None = None
    intended_use: IntendedUse | None = None
    origin: Origin | None = None
    min_probability: Probability | None = None
    max_probability: Probability | None = None
    feedback: Verdict | None = Field(None, description="A reader said so.")
    sort: Sort = Sort.RECEIVED
    limit: int = Field(50, ge=1, le=PAGE_SIZE_MAX)
    cursor: str | None = Field(
        None, max_length=1000, description="`next_cursor` of the page before, same filters."
    )

    def wanted(
        self, *, accession_number: str | None = None, patient_id: str | None = None
    ) -> ResultFilter:
        return ResultFilter(
            since=self.since,
            until=self.until,
            bands=tuple(self.band),
            states=tuple(self.state),
            model_version=self.model_version,
            intended_use=self.intended_use,
            origin=self.origin,
            probability_from=self.min_probability,
            probability_to=self.max_probability,
            verdict=self.feedback,
            accession_number=accession_number,
            patient_id=patient_id,
        )


class Search(Filters):
    """The same, and what names a patient, which has no place in a URL."""

    accession_number: Identifier | None = None
    patient_id: Identifier | None = None


FiltersQuery = Annotated[Filters, Query()]


class Problem(BaseModel):
    detail: str


class Study(BaseModel):
    """A row of `study_results`."""

    study_instance_uid: str
    accession_number: str | None
    patient_id: str | None
    issuer_of_patient_id: str | None
    study_date: date | None
    age_years: float | None
    intended_use: str | None
    probability: float | None
    band: Band | None
    model_name: str | None
    model_version: str | None
    state: StudyState
    image_count: int
    analysed_count: int
    received_at: datetime
    reported_at: datetime | None
    delivered_at: datetime | None
    sr_sop_instance_uid: str | None
    revision: int
    error: str | None
    retracted_at: datetime | None = Field(description="Withdrawn since: nothing is delivered.")
    origin: Origin


class StudyPage(BaseModel):
    studies: list[Study]
    next_cursor: str | None = Field(description="Null on the last page.")


class Instance(BaseModel):
    """A row of `instance_results`."""

    sop_instance_uid: str
    study_instance_uid: str | None
    state: str
    reason: str | None
    view_position: str | None
    ood_score: float | None
    probability: float | None
    raw_probability: float | None
    band: Band | None
    model_name: str | None
    model_version: str | None
    received_at: datetime
    predicted_at: datetime | None


class TimelineEvent(BaseModel):
    at: datetime
    what: str
    sop_instance_uid: str | None
    detail: str | None


class Delivery(BaseModel):
    """A row of `deliveries`."""

    study_instance_uid: str
    sop_instance_uid: str
    kind: str
    destination: str
    state: str
    attempts: int
    next_attempt_at: datetime | None
    sent_at: datetime | None
    committed_at: datetime | None
    error: str | None


class Failure(BaseModel):
    """A row of `failures`."""

    failed_at: datetime | None
    study_instance_uid: str | None
    sop_instance_uid: str | None
    what: Literal["image", "report", "delivery"]
    destination: str | None
    reason: str | None


class Opinion(BaseModel):
    verdict: Verdict
    comment: str | None = Field(None, max_length=COMMENT_LENGTH_MAX)
    author: str | None = Field(
        None, max_length=64, description="On whose behalf a machine says so; else the user."
    )


class Feedback(BaseModel):
    """A row of `study_feedback`."""

    study_instance_uid: str
    verdict: Verdict
    comment: str | None
    author: str
    created_at: datetime
    revision: int
    probability: float | None
    band: Band | None
    model_name: str | None
    model_version: str | None


class Reprocessing(BaseModel):
    images: int = Field(description="How many will be analysed again.")


class Status(BaseModel):
    """What `cxr-worker status --json` prints."""

    model_config = ConfigDict(extra="allow")

    healthy: bool
    problems: list[str]
