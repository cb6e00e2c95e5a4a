"""Which objects are analysed: single frontal chest radiographs, ready for presentation.

A rejection's reason is a fixed phrase with, at most, a defined term of the standard in it. Free
text from the file never becomes part of it.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from math import floor

from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_io.contexts import IMAGE_SOP_CLASSES
from dicom_io.identity import is_our_object
from dicom_io.read import integer_value, raw_value, text_value
from dicom_io.vocabulary import (
    BODY_PART_TERMS,
    CHEST_CODES,
    CHEST_WORDS,
    DECUBITUS_WORDS,
    FRONTAL_CODES,
    FRONTAL_WORDS,
    LATERAL_CODES,
    LATERAL_WORDS,
    OBLIQUE_WORDS,
    OTHER_PART_WORDS,
)

DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
_FREE_TEXT = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a site lets through.

    sides_px_min: the model's picture is 224x224; a smaller image (a thumbnail) would be enlarged,
    and the model would judge detail that was never there.
    """

    modalities: frozenset[str] = frozenset({"CR", "DX"})
    body_parts: frozenset[str] = frozenset({"CHEST", "THORAX", "LUNG", "LUNGS"})
    body_part_may_be_unknown: bool = True
    view_may_be_unknown: bool = True
    sides_px_min: int = 224


class IntendedUse(StrEnum):
    """Where a patient's age stands against what the model was made for."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    UNKNOWN = "unknown"


def is_image_class(sop_class_uid: str) -> bool:
    """Say whether a SOP class holds pictures; of the others only the arrival is recorded."""
    return sop_class_uid in IMAGE_SOP_CLASSES or " Image Storage" in UID(sop_class_uid).name


def reason_to_reject(ds: Dataset, policy: Policy | None = None) -> str | None:
    """Return why an object is not analysed, or None when its header gives no reason.

    ds: a header read is enough; pixels are not touched.
    """
    policy = policy or Policy()
    sop_class_uid = text_value(ds, "SOPClassUID", 64) or ""
    if is_our_object(ds):
        return "our own object" if is_image_class(sop_class_uid) else "our own report"
    if not is_image_class(sop_class_uid):
        return "not an image"
    return (
        _modality(ds, policy)
        or _frames(ds)
        or _intent(ds, sop_class_uid)
        or _page(ds, sop_class_uid)
        or _body_part(ds, policy)
        or _view(ds, policy)
        or _orientation(ds)
        or _size(ds, policy)
    )


def intended_use(
    age_years: float | None, min_age_years: float | None, max_age_years: float | None
) -> IntendedUse:
    """Hold an age against the limits of a model's training patients, both inclusive.

    The upper limit counts completed years: 5.9 is inside "1 to 5 years". A limit of None is none.
    """
    if min_age_years is None and max_age_years is None:
        return IntendedUse.INSIDE
    if age_years is None:
        return IntendedUse.UNKNOWN
    young = min_age_years is not None and age_years < min_age_years
    old = max_age_years is not None and floor(age_years) > max_age_years
    return IntendedUse.OUTSIDE if young or old else IntendedUse.INSIDE


def _modality(ds: Dataset, policy: Policy) -> str | None:
    modality = (text_value(ds, "Modality", 16) or "").upper()
    if modality in policy.modalities:
        return None
    return f"modality {modality}" if re.fullmatch(r"[A-Z]{2,8}", modality) else "modality unknown"


def _frames(ds: Dataset) -> str | None:
    return "multi-frame" if (integer_value(ds, "NumberOfFrames") or 1) > 1 else None


def _intent(ds: Dataset, sop_class_uid: str) -> str | None:
    intent = text_value(ds, "PresentationIntentType", 16) or ""
    raw = intent.upper() == "FOR PROCESSING" or sop_class_uid == DX_FOR_PROCESSING
    return "for processing, not for presentation" if raw else None


def _page(ds: Dataset, sop_class_uid: str) -> str | None:
    """Refuse what is a page and no picture: scanned, drawn, or captured with text burnt in."""
    if text_value(ds, "ConversionType", 16) in ("SD", "DRW"):  # PS3.3 C.8.6.1
        return "scanned document"
    is_capture = "Secondary Capture" in IMAGE_SOP_CLASSES.get(sop_class_uid, "")
    is_burnt_in = text_value(ds, "BurnedInAnnotation", 16) == "YES"
    return "burned-in annotation" if is_capture and is_burnt_in else None


def _body_part(ds: Dataset, policy: Policy) -> str | None:
    """Judge the defined term first, then the code, then words in descriptions."""
    term = (text_value(ds, "BodyPartExamined", 64) or "").upper()
    if term in policy.body_parts:
        return None
    if term:
        return _body_part_term(term)
    code = _coded(ds, "AnatomicRegionSequence")
    if code is not None:
        return None if code in CHEST_CODES else "body part other than the chest"
    words = _described(ds)
    other = _other_body_part(words)
    if other or words & CHEST_WORDS or policy.body_part_may_be_unknown:
        return other
    return "body part unknown"


def _body_part_term(term: str) -> str | None:
    """Judge a Body Part Examined that is not one of the accepted terms: "HAND", "CHEST PA"."""
    compact = re.sub(r"[ _-]", "", term)
    if compact in BODY_PART_TERMS:
        return f"body part {compact}"
    words = _words(term)
    chest = words & CHEST_WORDS or compact.startswith(("CHESTPA", "CHESTAP", "CHESTLAT"))
    return _other_body_part(words) or (None if chest else "body part other than the chest")


def _other_body_part(words: set[str]) -> str | None:
    """Find a body part that is not the chest. Where both are named, the other one decides."""
    terms = sorted(OTHER_PART_WORDS[word] for word in words & OTHER_PART_WORDS.keys())
    return f"body part {terms[0]}" if terms else None


def _view(ds: Dataset, policy: Policy) -> str | None:
    """Judge View Position and View Code; either one is enough to refuse. Words come last."""
    position = _words(text_value(ds, "ViewPosition", 64) or "")
    code = _coded(ds, "ViewCodeSequence")
    reason = _view_in_words(position)
    if reason:
        return reason
    if code is not None and code not in FRONTAL_CODES:
        return "lateral view" if code in LATERAL_CODES else "view other than frontal"
    if code is not None or position & FRONTAL_WORDS:
        return None
    words = _described(ds) - {"ll", "rl"}  # two letters say too little outside View Position
    reason = _view_in_words(words)
    if reason and words & FRONTAL_WORDS:
        return "frontal and lateral view named, which one is unclear"
    if reason or words & FRONTAL_WORDS or policy.view_may_be_unknown:
        return reason
    return "view unknown"


def _view_in_words(words: set[str]) -> str | None:
    if words & DECUBITUS_WORDS:
        return "decubitus view"
    if words & OBLIQUE_WORDS:
        return "oblique view"
    return "lateral view" if words & LATERAL_WORDS else None


def _orientation(ds: Dataset) -> str | None:
    """Judge where the rows and the columns run to (PS3.3 C.7.6.1.1.1): L\\F, or R\\F mirrored.

    It tells a lateral that nothing else tells. A picture that is not upright is not turned here:
    where the header is wrong, that would spoil it.
    """
    match = re.fullmatch(
        r"([LRAPHF])[LRAPHF]{0,2}\\([LRAPHF])[LRAPHF]{0,2}",
        text_value(ds, "PatientOrientation", 16) or "",
    )
    if match is None:
        return None
    row, column = match.groups()
    if column in "AP":
        return "view other than frontal"
    if row in "AP":
        return "lateral view"
    return None if row in "LR" and column == "F" else "not upright"


def _size(ds: Dataset, policy: Policy) -> str | None:
    rows, columns = integer_value(ds, "Rows"), integer_value(ds, "Columns")
    if rows is None or columns is None:
        return None  # decoding says what is wrong
    small = min(rows, columns) < policy.sides_px_min
    return f"too small ({columns}x{rows})" if small else None


def _described(ds: Dataset) -> set[str]:
    return _words(" ".join(text_value(ds, keyword, 128) or "" for keyword in _FREE_TEXT))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", text.casefold()))


def _coded(ds: Dataset, keyword: str) -> str | None:
    """Return the value of a code sequence's first item, or None."""
    try:
        items = raw_value(ds, keyword)
        return text_value(items[0], "CodeValue", 16) if items else None
    except (TypeError, IndexError, KeyError, AttributeError):
        return None
