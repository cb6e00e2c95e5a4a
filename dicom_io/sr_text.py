"""Show a Structured Report as text."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_io.errors import UnreadableDicom
from dicom_io.read import raw_value, text_value

_DEPTH_MAX = 32


def as_text(report: bytes | Path) -> str:
    """Show an SR's content tree as indented text, without the patient. Raises UnreadableDicom."""
    try:
        ds = dcmread(BytesIO(report) if isinstance(report, bytes) else report)
        lines = [
            f"{UID(ds.SOPClassUID).name}, {ds.CompletionFlag}, {ds.VerificationFlag}, "
            f"{ds.ContentDate} {ds.ContentTime}",
            f"Series: {text_value(ds, 'SeriesDescription', 64)}",
        ]
        _describe(ds, 0, lines)
    except Exception as error:  # pydicom's parser meets rubbish with any exception there is
        raise UnreadableDicom(f"not a Structured Report ({type(error).__name__})") from None
    return "\n".join(lines) + "\n"


def _describe(item: Dataset, depth: int, lines: list[str]) -> None:
    if depth > _DEPTH_MAX:
        return
    value = _value(item)
    lines.append(
        "  " * depth + _meaning(item, "ConceptNameCodeSequence") + (value and f": {value}")
    )
    for child in raw_value(item, "ContentSequence") or []:
        _describe(child, depth + 1, lines)


def _value(item: Dataset) -> str:
    show = _SHOWN.get(item.ValueType)
    return show(item) if show else ""


def _number(item: Dataset) -> str:
    measured = item.MeasuredValueSequence[0]
    unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
    return f"{float(measured.NumericValue):g} {unit}"


def _referenced(item: Dataset) -> str:
    return str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


def _graphic(item: Dataset) -> str:
    return f"{item.GraphicType.lower()} of {len(item.GraphicData) // 2} points"


def _meaning(item: Dataset, keyword: str) -> str:
    sequence = raw_value(item, keyword)
    return str(sequence[0].CodeMeaning) if sequence else str(item.ValueType).capitalize()


# By value type (PS3.3 C.17.3.2.1). PNAME is left out: a name is not for a terminal.
_SHOWN: dict[str, Callable[[Dataset], str]] = {
    "TEXT": lambda item: str(item.TextValue),
    "CODE": lambda item: _meaning(item, "ConceptCodeSequence"),
    "NUM": _number,
    "UIDREF": lambda item: str(item.UID),
    "IMAGE": _referenced,
    "COMPOSITE": _referenced,
    "SCOORD": _graphic,
}
