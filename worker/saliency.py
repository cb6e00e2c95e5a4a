"""Where the model looked: the picture drawn of the small map that infer stores.

The map is kept beside the instance, so that whoever has the spool can draw it without TensorFlow.
"""

from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

from db.reports import InstanceSnapshot
from dicom_io import preprocess
from dicom_io.errors import DicomError
from dicom_io.identity import derived_uid
from dicom_io.read import read_dataset
from dicom_io.saliency_image import Caption, Rgb, draw
from dicom_io.secondary_capture import SECONDARY_CAPTURE, SaliencyImage, build_secondary_capture
from dicom_io.sr import ImageFinding, SaliencyReference, StudyReport
from dicom_io.sr_report import Outline
from model import saliency
from model.bands import Band
from worker import log
from worker.saliency_map import as_map
from worker.services import Services
from worker.version import VERSION

PICTURES_MAX = 4  # of one report: drawing takes a second each, and the report has a lease

_log = log.get("saliency")


def outline_of(image: InstanceSnapshot, rows: int | None, columns: int | None) -> Outline | None:
    """Where the model looked in an image that is positive or to be reviewed, else None."""
    if image.saliency is None or not rows or not columns or image.band in (None, Band.NEGATIVE):
        return None
    return saliency.outline(as_map(image.saliency), rows, columns)


def draw_instance(
    services: Services, image: InstanceSnapshot, warning: str | None = None
) -> Rgb | None:
    """Draw an instance with its result: uint8 (rows, columns, 3); None where there is no map.

    `dicom_io.saliency_image.as_png` makes a file of it. warning: burnt in, see `warning_of`.
    Raises DicomError or OSError when the stored file cannot be read any more.
    """
    if image.saliency is None or image.probability is None or image.band is None:
        return None
    grey = preprocess.grey_of(read_dataset(services.spool.path(image.spool_name)))
    caption = Caption(
        probability=image.probability,
        band=image.band,
        prevalence=services.settings.prevalence,
        model_name=image.model_name or services.bundle.name,
        model_version=image.model_version or services.bundle.version,
        warning=warning,
    )
    return draw(grey, as_map(image.saliency), outline_of(image, *grey.shape), caption)


def warning_of(intended_use: str | None, *, unlike_training: bool) -> str | None:
    """Say in one line why the model is not known to work for an image; None where it is."""
    why = []
    if intended_use != "inside":
        why.append("age" if intended_use == "outside" else "age unknown")
    if unlike_training:
        why.append("picture unlike the training images")
    return f"OUTSIDE THE INTENDED USE: {', '.join(why)}" if why else None


def make_secondary_capture(
    services: Services,
    image: InstanceSnapshot,
    finding: ImageFinding,
    report: StudyReport,
    *,
    made_already: Mapping[str, frozenset[str]],
    destinations: tuple[str, ...],
    number: int,
    now: datetime,
) -> tuple[SaliencyReference, bytes | None] | None:
    """Draw one image of a report and make a DICOM object of it, for these destinations.

    made_already: the study's pictures, and who has each. One that says the same and that all
    destinations have is not made again: None stands for its bytes. Returns None alone when there
    is nothing to draw, or it cannot be drawn.
    """
    if image.saliency is None:
        return None
    warning = warning_of(report.intended_use, unlike_training=finding.unlike_training)
    shown = (
        *(report.series_instance_uid, image.sop_instance_uid, image.spool_name),
        *(image.probability, image.band, report.prevalence, report.model, warning),
        *(image.saliency.columns, image.saliency.data.hex()),
    )
    uid = derived_uid(repr(shown))
    again = 0
    while uid in made_already and not made_already[uid].issuperset(destinations):
        again += 1  # what somebody lacks, or was told to reject, is not sent anew under its UID
        uid = derived_uid(repr((*shown, again)))
    reference = SaliencyReference(
        sop_class_uid=SECONDARY_CAPTURE,
        sop_instance_uid=uid,
        series_instance_uid=derived_uid(f"saliency of {report.series_instance_uid}"),
    )
    if uid in made_already:
        return reference, None
    try:
        picture = draw_instance(services, image, warning)
    except (DicomError, OSError) as error:  # the report matters more than its picture
        extra = {"sop_instance_uid": image.sop_instance_uid}
        _log.warning("no saliency picture: %s", type(error).__name__, extra=extra)
        return None
    if picture is None:
        return None
    made = SaliencyImage(
        source=finding.dataset,
        picture=picture,
        model=report.model,
        sop_instance_uid=reference.sop_instance_uid,
        series_instance_uid=reference.series_instance_uid,
        instance_number=number,
        created_at=now,
        software_version=VERSION,
        timezone=ZoneInfo(services.settings.timezone),
    )
    return reference, build_secondary_capture(made)
